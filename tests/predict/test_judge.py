"""Judging files: what a run says of its own test images, bad files, stops, ensembles, maps, the command."""

from __future__ import annotations

import json
import os
import shutil
import signal

import numpy as np
import pytest

from engine import cli
from engine.data import stain
from engine.data.images import decode, encode_png
from engine.errors import DataError, EnsembleError, RunError
from engine.predict import maps, summary
from engine.predict.judge import BATCH, judge
from engine.predict.referral import Rule, worth
from engine.predict.told import Told
from engine.runs.ensembles import ensemble_runs, save_ensemble
from engine.runs.folder import RunFolder, locate

pytestmark = pytest.mark.slow  # torch


@pytest.fixture(scope="module")
def saved(tiny) -> RunFolder:
    first, second, _ = tiny
    return locate(first.runs, ensemble_runs([first, second], "mean", name="both").as_record()["id"])


def test_a_run_says_of_its_test_images_what_it_said_before(tiny):
    run, _, images = tiny
    before = run.predictions("test").set_index("image_id")
    seen: list[tuple[int, int]] = []
    found = judge(
        run, [images / name for name in before.index], progress=lambda *step: seen.append(step), device="cpu"
    )
    after = found.table.set_index("image_id").loc[before.index]
    assert (
        np.abs(after["logit_malignant"] - before["logit_malignant"]).max() < 1e-4
    )  # other batches, other sums
    assert seen[-1] == (len(before), len(before))
    assert found.members == ()
    assert "20 images of" in found.unfamiliar or "Too little" in found.unfamiliar


def test_bad_files_are_refused_by_name_and_the_rest_goes_on(tiny, tmp_path):
    run, _, images = tiny
    good = images / "test_0.png"
    bad = {
        "page.png": b"<html><script>alert(1)</script>",
        "cut.png": good.read_bytes()[:-40],
        "empty.png": b"",
    }
    for name, data in bad.items():
        (tmp_path / name).write_bytes(data)
    found = judge(run, [*(tmp_path / name for name in bad), good], device="cpu")
    assert found.table["image_id"].tolist() == ["test_0.png"]
    assert {one.name: one.reason.split(" (")[0] for one in found.refused} == {
        "page.png": "no readable PNG, JPEG or TIFF",
        "cut.png": "cut off",
        "empty.png": "empty",
    }
    with pytest.raises(DataError, match="None of these files"):
        judge(run, [tmp_path / name for name in bad], device="cpu")
    with pytest.raises(DataError, match=r"page\.png is not a PNG"):
        judge(run, [tmp_path / "page.png"], device="cpu")


def test_a_stop_keeps_what_was_judged_and_decodes_little_more(tiny, tmp_path):
    run, _, images = tiny
    data = (images / "test_0.png").read_bytes()
    paths = [tmp_path / f"{k}.png" for k in range(6 * BATCH)]
    for path in paths:
        path.write_bytes(data)
    seen: list[int] = []
    found = judge(
        run,
        paths,
        progress=lambda done, total: seen.append(done) if total == len(paths) else None,
        stop=lambda: len(seen) >= 2,
        device="cpu",
    )
    assert found.stopped
    assert len(found.table) == 2 * BATCH


def test_an_ensemble_counts_who_agrees(tiny, saved):
    first, second, images = tiny
    paths = sorted(images.glob("test_*.png"))
    whole = judge(saved, paths, device="cpu")
    alone = [judge(one, paths, device="cpu").table for one in (first, second)]
    mean = np.mean([one["prob_malignant"] for one in alone], axis=0)
    assert np.allclose(whole.table["prob_malignant"], mean)
    own = whole.table["prob_malignant"] > 0.5
    agreeing = sum(((one["prob_malignant"] > 0.5) == own).astype(int) for one in alone)
    assert whole.table["agreeing"].tolist() == agreeing.tolist()
    assert (whole.table["members"] == 2).all()
    reasons = Rule(0.0, 1.0).reasons(whole.table)
    assert [bool(why) for why in reasons] == (agreeing < 2).tolist()
    counted = worth(saved, Rule(0.0, 1.0), whole.calibration)
    assert counted is not None
    assert counted.n == len(saved.predictions("val"))
    assert counted.right_kept <= counted.right <= counted.n


def test_a_rank_mean_judges_no_new_images(tiny):
    """An image's rank depends on what else is judged: alone it would always be in the middle."""
    first, second, images = tiny
    ranked = save_ensemble([first, second], "rank", "ranks", first.runs)
    with pytest.raises(EnsembleError, match="rank mean"):
        judge(ranked, [images / "test_0.png"], device="cpu")


def test_a_run_without_a_network_is_a_sentence(tiny, tmp_path):
    from engine.runs.results import import_predictions

    run, _, images = tiny
    source = tmp_path / "theirs.csv"
    run.predictions("test").to_csv(source, index=False)
    theirs = import_predictions([source], "theirs", run.runs)
    with pytest.raises(RunError, match="has no network"):
        judge(theirs, [images / "test_0.png"])


def test_maps_of_new_images_leave_nothing_in_the_run_folder(tiny, saved):
    run, _, images = tiny
    before = sorted(run.path.rglob("*"))
    paths = [images / f"test_{k}.png" for k in range(2)]
    for folder in (run, saved):
        found = maps.maps_of(folder, paths, "malignant")
        assert [one.heat.shape for one in found] == [decode(paths[0]).shape[:2]] * 2
        shots = maps.pictures(images / "test_0.png", found[0])
        assert all(data.startswith(b"\xff\xd8\xff") for data in shots)
    assert sorted(run.path.rglob("*")) == before


def test_cases_are_diagnosed_by_mean_probability_and_labels_scored(tiny):
    run, _, images = tiny
    table = run.predictions("test")
    told = images.parent / "cases.csv"
    table.assign(image=table["image_id"])[["image", "case", "label"]].to_csv(told, index=False)
    from engine.predict.told import read_told

    found = judge(run, [images / name for name in table["image_id"]], told=read_told(told), device="cpu")
    cases = summary.case_rows(found, Rule())
    means = found.table.groupby("case")["calibrated_malignant"].mean()
    assert cases.set_index("Case")["Mean P(malignant)"].to_dict() == pytest.approx(means.to_dict())
    right = (found.table["prob_malignant"] > 0.5) == (found.table["label"] == "malignant")
    met = summary.met_before(run, found.table)
    assert (met.names, met.cases, met.known) == (frozenset(), (), True)
    assert summary.scores(found, met)["accuracy"].value == pytest.approx(right.mean())
    assert summary.left_out_sentence(found, met) == ""


def test_images_that_were_trained_on_are_judged_but_not_scored(tiny):
    run, _, images = tiny
    table = run.manifest().table
    old, new = (table.loc[table["split"] == part, "image_id"].tolist() for part in ("train", "test"))
    told = Told({}, dict(zip(table["image_id"], table["label"], strict=True)))
    both = judge(run, [images / name for name in (*old[:4], *new)], told=told, device="cpu")
    met = summary.met_before(run, both.table)
    assert met.names == set(old[:4])
    assert len(both.table) == 4 + len(new)
    alone = judge(run, [images / name for name in new], told=told, device="cpu")
    nothing = summary.met_before(run, alone.table)
    assert summary.scores(both, met)["accuracy"].n_images == len(new)
    values = [
        {name: one.value for name, one in summary.scores(*pair).items()}
        for pair in ((both, met), (alone, nothing))
    ]
    assert values[0] == pytest.approx(values[1], nan_ok=True)
    assert "leave out 4 images" in summary.left_out_sentence(both, met)
    only = judge(run, [images / name for name in old[:4]], told=told, device="cpu")
    assert summary.scores(only, summary.met_before(run, only.table)) == {}
    assert "Nothing is scored" in summary.left_out_sentence(only, met)


def test_the_command_writes_table_report_and_one_document(tiny, tmp_path, capsys):
    run, _, images = tiny
    out, report = tmp_path / "p.csv", tmp_path / "p.html"
    (images / "=cmd.png").write_bytes((images / "test_0.png").read_bytes())
    paths = [str(images / "test_0.png"), str(images / "=cmd.png")]
    common = ["predict", run.id, *paths, "--runs", str(run.runs), "--device", "cpu"]
    assert cli.main([*common, "--out", str(out), "--report", str(report), "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    (images / "=cmd.png").unlink()
    assert record["n"] == 2
    assert {"calibration", "refused", "referred", "scores", "per_case"} <= set(record)
    assert "'=cmd.png" in out.read_text()
    html = report.read_text()
    assert html.startswith("<!doctype html>")
    assert "data:image/jpeg;base64," in html
    assert "http" not in html.partition("</style>")[2].replace("http-equiv", "")
    assert cli.main(["predict", run.id, str(tmp_path / "none.png"), "--runs", str(run.runs)]) == 2
    assert "no such image" in capsys.readouterr().err


def test_images_whose_stain_could_not_be_normalised_are_counted_and_named(tiny, tmp_path, capsys):
    """A run with Macenko's normalisation meets tissue and a blank image; a run without says nothing of stain."""
    from engine.training import checkpoint

    first, _, _ = tiny
    strengths = np.random.default_rng(0).random((40, 48, 2)) * (1.6, 0.8)
    tissue = 240 * np.exp(-strengths @ np.array([[0.58, 0.74, 0.35], [0.22, 0.83, 0.44]]))
    tissue = tissue.clip(0, 255).astype(np.uint8)
    run = RunFolder(shutil.copytree(first.path, tmp_path / "runs" / first.id))
    reference = stain.fit("macenko", "train_0.png", tissue)
    state, facts = checkpoint.load_weights(run.best)  # as a run with this stain would have written them
    checkpoint.save_weights(run.best, state, {**facts, "stain": reference.as_record()})
    new = tmp_path / "new"
    new.mkdir()
    (new / "tissue.png").write_bytes(encode_png(tissue))
    (new / "blank.png").write_bytes(encode_png(np.full((40, 48, 3), 250, np.uint8)))
    options = ["--runs", str(run.runs), "--device", "cpu"]
    assert cli.main(["predict", run.id, str(new), *options, "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["not_normalised"] == ["blank.png"]
    said = "1 of 2 images could not be stain-normalised and were judged in their own colours: blank.png."
    assert said in record["said"]
    report = tmp_path / "p.html"
    out = tmp_path / "p.csv"
    assert cli.main(["predict", run.id, str(new), *options, "--out", str(out), "--report", str(report)]) == 0
    assert said in capsys.readouterr().out
    assert said in report.read_text()
    found = judge(run, [new / "blank.png", new / "tissue.png"], device="cpu")
    shown = summary.image_rows(found, Rule())
    assert dict(zip(shown["Image"], shown["Stain"], strict=True)) == {
        "blank.png": "own colours", "tissue.png": "normalised",
    }  # fmt: skip
    plain = judge(first, [new / "blank.png"], device="cpu")
    assert plain.own_colours is None
    assert summary.stain_sentence(plain) == ""


def test_ctrl_c_keeps_what_was_judged(tiny, tmp_path, capsys):
    run, _, images = tiny
    data = (images / "test_0.png").read_bytes()
    for k in range(4 * BATCH):
        (tmp_path / f"{k}.png").write_bytes(data)
    from engine.predict import command

    def interrupt(done: int, total: int) -> None:
        if done == BATCH:
            os.kill(os.getpid(), signal.SIGINT)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job ignores it
    judged, record = command.predict(
        run, [tmp_path], out=tmp_path / "p.csv", progress=interrupt, device="cpu"
    )
    assert judged.stopped
    assert record["stopped"]
    assert BATCH <= record["n"] <= 2 * BATCH
    assert len((tmp_path / "p.csv").read_text().splitlines()) == record["n"] + 1
    assert signal.signal(signal.SIGINT, before) is signal.default_int_handler
