"""The run page: live, its results, its failure; links that name no run."""

import json
import shutil
from dataclasses import replace

from engine.errors import TrainingError
from engine.runs import forecast, trash


def test_an_unknown_id_is_a_sentence(app, said):
    at = app("run", id="20200101-000000-gone-abcd")
    assert not at.exception
    assert "There is no run with this id" in said(at)


def test_an_id_that_is_a_path_reaches_nothing(app, said):
    at = app("run", id="../../etc")
    assert not at.exception
    assert "There is no run with this id" in said(at)


def test_without_an_id_the_page_says_what_it_is_for(app, said):
    at = app("run")
    assert not at.exception
    assert "the link names no run" in said(at)


def test_a_finished_run_shows_scores_matrices_and_downloads(app, said, finished_run):
    at = app("run", id=finished_run.id)
    assert not at.exception
    text = said(at)
    for words in (
        "Completed",
        "Clean: no case is on two sides",
        "Results",
        "Predictions",
        "python -m engine start",
    ):
        assert words in text
    scores = at.dataframe[0].value
    assert scores.columns.tolist() == ["Score", "all", "40X", "100X", "200X", "400X"]
    counts = scores.set_index("Score").loc["Images"]
    assert counts.tolist() == ["48", "12", "12", "12", "12"]
    assert scores["all"].str.contains(r"\[").sum() == 7
    labels = [element.proto.label for element in at.get("download_button")]
    assert {"Predictions, test (CSV)", "Predictions, val (CSV)", "Configuration (JSON)"} <= set(labels)


def test_the_split_of_the_link_is_shown(app, finished_run):
    at = app("run", id=finished_run.id, split="val")
    assert not at.exception
    assert at.session_state["split_shown"] == "val"


def test_a_running_run_shows_progress_and_can_be_stopped(app, said, running_run):
    at = app("run", id=running_run.id)
    assert not at.exception
    bar = at.get("progress")[0].proto
    assert bar.value == 50
    assert "epoch 3 of 6" in bar.text
    assert "1 min 35 s left" in bar.text
    next(button for button in at.button if button.label == "Stop").click().run()
    assert running_run.stop_requested()
    assert "Results" not in [header.value for header in at.subheader]


def test_a_failure_shows_its_remedy_and_can_be_resumed(app, said, make_run):
    folder = make_run(name="broken", state="failed")
    at = app("run", id=folder.id)
    assert not at.exception
    text = said(at)
    assert "ran out of memory" in text
    assert "Halve the batch size" in text
    assert "Resume" in [button.label for button in at.button]


def test_only_the_headline_of_a_failure_is_bold_and_what_was_found_ends_with_one_dot(app, make_run):
    error = TrainingError("There is not enough memory", found="CUDA out of memory.", remedy="Halve the batch")
    at = app("run", id=make_run(state="failed", error=error.as_record()).id)
    (box,) = at.error
    assert box.value.replace("\\.", ".").split("  \n") == [
        "**There is not enough memory.**",
        "Found: CUDA out of memory.",
        "Halve the batch.",
    ]


def test_memory_exhausted_is_cured_by_one_click(app, make_run, monkeypatch):
    from engine.runs import launch

    folder = make_run(name="broken", state="failed")
    started = []
    monkeypatch.setattr(launch, "start_remedy", lambda run: started.append(run.id) or folder)
    at = app("run", id=folder.id)
    (cure,) = [button for button in at.button if button.label == "Start with batch 16, accumulation 2"]
    cure.click().run()
    assert started == [folder.id]


def test_fast_mode_the_forecast_and_the_cost_stand_beside_the_scores(app, said, make_run):
    folder = make_run(name="quick and dirty")
    config = json.loads((folder.path / "config.json").read_text())
    config["training"]["mode"] = "fast"
    (folder.path / "config.json").write_text(json.dumps(config))
    forecast.keep(folder, forecast.Forecast(100.0, 700.0, "scaled from another"))
    numbers = {"predict_ms_per_image": 142.0, "squares_per_image": 24, "peak_memory_mb": 770.0}
    folder.write_status(replace(folder.status(), numbers=numbers))
    text = said(app("run", id=folder.id))
    assert "Fast mode: not exactly resumable" in text
    assert "142 ms per image (24 squares)" in text
    assert "Foreseen: 1 min 40 s and 700 MB (scaled from another)" in text
    assert "(+10%)" in text


def test_an_interrupted_run_says_that_its_worker_is_gone(app, said, make_run):
    folder = make_run(state="interrupted")
    at = app("run", id=folder.id)
    assert not at.exception
    assert "The worker is gone" in said(at)


def test_the_badge_of_a_leaking_split_is_red(app, said, leaking_run):
    at = app("run", id=leaking_run.id)
    assert not at.exception
    assert "bh-leak" in said(at)


def test_a_name_with_markup_stays_text(app, said, finished_run):
    finished_run.write_label(name="<img src=x onerror=alert(1)> **bold**")
    at = app("run", id=finished_run.id)
    assert not at.exception
    assert at.title[0].value.count("\\") >= 6
    assert not [element for element in at.get("html") if "<img" in element.proto.body]


def test_a_run_deleted_while_it_is_looked_at_is_a_sentence(app, said, finished_run):
    at = app("run", id=finished_run.id)
    trash.delete(finished_run)
    at.run()
    assert not at.exception
    assert "restore it from the trash" in said(at)


def test_a_torn_status_is_shown_as_unknown(app, said, finished_run):
    (finished_run.path / "status.json").write_text('{"state": "comp', encoding="utf-8")
    at = app("run", id=finished_run.id)
    assert not at.exception
    assert "Unknown" in said(at)


def test_predictions_that_cannot_be_read_leave_the_rest_standing(app, said, finished_run):
    (finished_run.path / "predictions" / "test.csv").write_text(
        "image_id,prob_benign\nx,oops\n", encoding="utf-8"
    )
    at = app("run", id=finished_run.id)
    assert not at.exception
    assert "Configuration" in [tab.label for tab in at.tabs]


def test_a_run_without_its_images_still_shows_its_predictions(app, said, finished_run):
    shutil.rmtree(finished_run.config().data.root, ignore_errors=True)
    at = app("run", id=finished_run.id)
    at.session_state["bucket"] = "Unsure"
    at.run()
    assert not at.exception
    assert "The image file is not here." in said(at)


def test_an_ensemble_shows_its_members_images_and_the_command_that_makes_it(
    app, said, runs_dir, make_run, tmp_path
):
    from fabricate import write_images

    from dashboard import run_parts
    from engine.runs import ensembles

    write_images(tmp_path / "data", cases=10, images=3)
    members = [make_run(name=name, seed=seed, data_root=tmp_path / "data") for seed, name in enumerate("ab")]
    folder = ensembles.save_ensemble(members, "vote", "a jury", runs_dir)
    at = app("run", id=folder.id)
    assert not at.exception
    assert "The image file is not here." not in said(at)
    assert f"python -m engine ensemble {members[0].id} {members[1].id} --method vote --name 'a jury'" in [
        code.value for code in at.code
    ]
    assert "Majority vote" in said(at)
    assert not [button for button in at.button if button.label == "Explain"]  # no weights are there
    for member in members:
        member.best.write_bytes(b"weights")
    assert run_parts._has_network(folder, folder.summary(), fused=False)


def test_one_magnification_is_one_column(make_run):
    from dashboard import run_parts
    from engine.analysis import intervals

    table = make_run().predictions("test")
    both = run_parts.score_table(intervals.estimate_table(table, run_parts.SCORES, by="magnification"))
    assert list(both.columns[1:]) == ["all", "40X", "100X", "200X", "400X"]
    alone = table[table["magnification"] == "40X"]
    one = run_parts.score_table(intervals.estimate_table(alone, run_parts.SCORES, by="magnification"))
    assert list(one.columns[1:]) == ["all (40X)"]
