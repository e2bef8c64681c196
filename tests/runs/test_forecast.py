"""Minutes and memory before a launch, and how right they were afterwards."""

import json
import math
import subprocess
from dataclasses import replace

import pytest

from engine.errors import TrainingError
from engine.runs import forecast, launch
from engine.runs.config import RunConfig
from engine.runs.status import Status


def test_an_answer_is_read_from_the_last_line():
    record = {
        "estimate": {
            "seconds": 61.5,
            "memory_mb": 900.0,
            "seconds_per_epoch": 1,
            "images_per_s": 3,
            "source": "4 steps on cpu",
        }
    }
    found = forecast.read_answer(0, f"a warning\n{json.dumps(record)}\n", "")
    assert math.isclose(found.seconds, 61.5)
    assert found.source == "measured: 4 steps on cpu"


@pytest.mark.parametrize(("code", "out", "err"), [(1, "", "Killed"), (0, "", ""), (0, "not json", "x")])
def test_without_an_answer_it_is_said_what_came_instead(code, out, err):
    with pytest.raises(TrainingError, match="The measurement failed"):
        forecast.read_answer(code, out, err)


def test_an_error_of_training_is_handed_on():
    record = {"error": {"message": "The device ran out of memory.", "remedy": "Halve the batch"}}
    with pytest.raises(TrainingError, match=r"out of memory.*Halve the batch"):
        forecast.read_answer(0, json.dumps(record), "")


# --- minutes and memory --------------------------------------------------------------------------------
def past(**values):
    config = RunConfig().changed(training__recipe="modern", training__epochs=2, model__image_size=100)
    return forecast.Past(
        **{
            "name": "before",
            "config": config,
            "train_images": 100,
            "val_images": 50,
            "train_s": 10.0,
            "val_s": 2.0,
            "rest_s": 0.0,
            "memory_mb": 500.0,
        }
        | values
    )


def test_time_grows_with_images_epochs_and_pixels():
    config = past().config
    assert forecast.scaled(config, 100, 50, [past()]).seconds == pytest.approx(24.0)
    assert forecast.scaled(config.changed(training__epochs=4), 100, 50, [past()]).seconds == pytest.approx(
        48.0
    )
    assert forecast.scaled(config, 200, 100, [past()]).seconds == pytest.approx(48.0)
    assert forecast.scaled(config.changed(model__image_size=200), 100, 50, [past()]).seconds == pytest.approx(
        96.0
    )


def test_what_was_never_run_here_is_not_known_rather_than_guessed():
    other = past().config.changed(model__name="tf_efficientnet_b0")
    assert forecast.scaled(other, 100, 50, [past()]) == forecast.UNKNOWN
    assert forecast.scaled(past().config, 100, 50, []) == forecast.UNKNOWN


def test_an_explicit_geometry_is_compared_with_what_a_recipe_is_made_for():
    before = past()
    assert forecast.scaled(before.config.changed(model__geometry="tiles"), 100, 50, [before]).known
    assert not forecast.scaled(before.config.changed(model__geometry="square"), 100, 50, [before]).known


def test_a_finished_run_says_what_an_epoch_took(finished_run):
    (record,) = forecast.known_runs(finished_run.runs)
    sides = finished_run.manifest().table["split"]
    assert record.train_s == pytest.approx(21.5)
    assert record.train_images == int((sides == "train").sum())


def test_waiting_and_interruptions_are_no_work():
    history = (
        ("queued", 0.0),
        ("running", 10.0),
        ("stopped", 30.0),
        ("queued", 31.0),
        ("running", 100.0),
        ("completed", 150.0),
    )
    assert forecast.working_seconds(Status(history=history, ended_at=150.0)) == pytest.approx(70.0)
    assert math.isnan(forecast.working_seconds(Status()))


def test_a_launch_keeps_what_was_foreseen_and_its_end_says_how_wrong_that_was(finished_run):
    config = finished_run.config()
    manifest = finished_run.manifest()
    foreseen = forecast.expected(config, launch.part_sizes(manifest), finished_run.runs)
    assert foreseen.known
    assert foreseen.epoch_s > 0
    forecast.keep(finished_run, foreseen)
    status = finished_run.status()
    begun = Status(history=(("running", 0.0), ("completed", 0.0)), state="completed", ended_at=0.0)
    took = foreseen.seconds * 1.25
    done = replace(
        begun,
        history=(("running", 0.0), ("completed", took)),
        ended_at=took,
        numbers={"peak_memory_mb": 100.0},
    )
    found = forecast.outcome(finished_run, done)
    assert found is not None
    assert found.time_error == pytest.approx(0.25)
    assert found.as_record()["actual_seconds"] == pytest.approx(took, rel=1e-3)
    assert "(+25%)" in found.as_text()
    running = forecast.outcome(finished_run, replace(status, state="running"))
    assert running is not None
    assert running.as_record()["actual_seconds"] is None
    assert "not known yet" in running.as_text()


def test_what_a_probe_measured_is_kept_for_the_launch(tmp_path, monkeypatch):
    answer = {"estimate": {"seconds": 61.5, "memory_mb": 900.0, "seconds_per_epoch": 20.0, "source": "x"}}
    done = subprocess.CompletedProcess([], 0, json.dumps(answer), "")
    monkeypatch.setattr(forecast.subprocess, "run", lambda *_, **__: done)
    config, counts = RunConfig(), (100, 20, 20)
    assert not forecast.expected(config, counts, tmp_path).known
    measured = forecast.measure(config, counts, tmp_path)
    assert forecast.expected(config.changed(training__seed=7, data__fold=2), counts, tmp_path) == measured
    assert not forecast.expected(config.changed(training__epochs=7), counts, tmp_path).known


@pytest.mark.parametrize("record", [None, {}, {"seconds": "x", "source": ""}, {"later": 1, "source": ""}])
def test_a_damaged_estimate_is_none(record):
    assert not forecast.Forecast.from_record(record).known
