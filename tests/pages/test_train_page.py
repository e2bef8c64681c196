"""The launch form: one page, three groups, all problems together, one button."""

import json
import subprocess

import fabricate
import pytest

from engine.runs import listing


@pytest.fixture(scope="module")
def sample(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sample") / "data"
    fabricate.write_images(folder)
    return folder


def labels(at):
    return [button.label for button in at.button]


def test_without_a_data_set_the_page_leads_to_one(app, said):
    at = app("train")
    assert not at.exception
    assert "no data set has been opened" in said(at)


def test_data_set_and_split_are_judged_as_soon_as_they_are_chosen(app, said, sample):
    at = app("train", data=str(sample))
    assert not at.exception
    text = said(at)
    assert "96 images" in text
    assert "Clean: no case is on two sides" in text
    assert "Start 1 run" in labels(at)
    assert "python -m engine start" in text


def test_every_field_has_its_help_and_its_flag(app, sample):
    from dashboard import launch_form
    from engine.runs.config import TrainingConfig, help_of

    at = app("train", data=str(sample))
    helps = "\n".join(
        str(element.help)
        for kind in ("selectbox", "number_input", "text_input", "toggle", "multiselect", "pills")
        for element in at.get(kind)
    )
    assert help_of(TrainingConfig, "accumulate") in helps
    for param, _, item in launch_form.fields():
        assert item.metadata["flag"] in helps, param


def test_models_folds_and_seeds_multiply_and_the_number_is_stated(app, said, sample):
    at = app(
        "train",
        data=str(sample),
        model="tf_efficientnet_lite0,tf_efficientnet_lite1",
        fold="0,1",
        seed="0,1,2",
        pretrained="none",
    )
    assert not at.exception
    text = said(at)
    assert "<b>12 runs</b> = 2 models × 2 folds × 3 seeds" in text
    assert "Start 12 runs" in labels(at)


def test_all_problems_are_listed_together_and_block(app, said, sample):
    at = app("train", data=str(sample), model="tf_efficientnet_b0", pretrained="offline", image_size="20")
    assert not at.exception
    text = said(at)
    assert "2 problems keep this from starting" in text
    assert "No package carries weights of tf_efficientnet_b0" in text
    assert "The image size is too small" in text
    assert at.button(key="launch").disabled


def test_a_folder_that_is_not_there_is_a_problem_with_a_remedy(app, said, tmp_path):
    at = app("train", data=str(tmp_path / "nowhere"))
    assert not at.exception
    assert at.button(key="launch").disabled
    assert "nowhere" in said(at)


def test_a_leaking_split_must_be_meant(app, said, sample):
    at = app("train", data=str(sample), protocol="image")
    assert not at.exception
    assert "bh-leak" in said(at)
    assert at.button(key="launch").disabled
    at.checkbox[0].check().run()
    assert not at.exception
    assert not at.button(key="launch").disabled


def test_values_of_a_link_that_cannot_be_read_are_named(app, said, sample):
    at = app("train", data=str(sample), epochs="many")
    assert not at.exception
    assert "cannot be read, left as they were: epochs" in said(at)


def test_a_new_run_takes_over_the_configuration_of_another(app, said, sample, make_run):
    from engine.runs.launch import plan

    folder = make_run(name="before", data_root=sample, seed=7, epochs=5)
    at = app("train", **{"from": folder.id})
    assert not at.exception
    assert "Filled from the run before" in said(at)
    draft = at.session_state["_train_last"]
    assert draft.config.parent == folder.id
    assert draft.seeds == (7,)
    assert plan(draft.config)[0].training.epochs == 5


def test_an_unknown_run_to_start_from_is_said(app, said, sample):
    at = app("train", **{"from": "20200101-000000-gone-abcd", "data": str(sample)})
    assert not at.exception
    assert "The link names a run that is not here" in said(at)


def test_the_button_starts_exactly_what_was_stated(app, sample, runs_dir, monkeypatch):
    from engine.runs import launch

    started = []
    monkeypatch.setattr(launch, "enqueue", lambda folder: started.append(folder.id))
    at = app("train", data=str(sample), seed="0,1", epochs="1", recipe="quick", name="pair", batch_size="8")
    at.button(key="launch").click().run()
    assert not at.exception
    found = listing.summaries(runs_dir)
    assert len(found) == len(started) == 2
    assert {summary.config.training.seed for summary in found} == {0, 1}
    assert len({summary.config.experiment for summary in found}) == 1
    assert all(summary.state == "queued" for summary in found)


def test_what_never_ran_here_is_measured_model_by_model_and_then_stated(app, said, sample, monkeypatch):
    from engine.runs import forecast

    asked = []

    def few_steps(command, *, input, **options):
        config = json.loads(input)["config"]
        asked.append(config["model"]["name"])
        found = {"seconds": 60.0, "memory_mb": 700.0, "seconds_per_epoch": 20.0, "source": "4 steps on cpu"}
        return subprocess.CompletedProcess(command, 0, json.dumps({"estimate": found}), "")

    monkeypatch.setattr(forecast.subprocess, "run", few_steps)
    models = "tf_efficientnet_lite0,tf_efficientnet_lite1"
    at = app(
        "train",
        data=str(sample),
        model=models,
        pretrained="offline",
        seed="0,1,2",
        recipe="quick",
        batch_size="8",
    )
    assert "their time is not known" in said(at)
    assert "Measure time and memory of 2 models" in labels(at)
    at.button(key="measure").click().run()
    assert not at.exception
    assert asked == models.split(",")
    assert (
        "6 runs</b> = 2 models × 1 fold × 3 seeds · about 6 min 00 s one after another, up to 20 s an epoch, up to 700 MB"
        in said(at)
    )


def test_a_click_ticks_a_whole_family(app, said, sample):
    from engine.runs import catalog

    at = app("train", data=str(sample), pretrained="none", fold="0,1", seed="0,1")
    for label, names in (
        ("All V1", catalog.FAMILIES["EfficientNetV1"]),
        ("All V2", catalog.FAMILIES["EfficientNetV2"]),
    ):
        next(button for button in at.button if button.label == label).click().run()
        chosen = next(box for box in at.multiselect if box.label == "Models").value
        assert set(names) <= set(chosen)
    assert not at.exception
    n = len(chosen)
    assert f"<b>{n * 4} runs</b> = {n} models × 2 folds × 2 seeds" in said(at)
    line = next(block.value for block in at.code if "engine start" in block.value)
    assert all(name in line for name in chosen)
    assert "--folds 0,1" in line
