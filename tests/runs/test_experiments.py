"""What the last run of an experiment completes: pooled folds, and the study's ensembles."""

from __future__ import annotations

import json

import pytest

from engine.runs import experiments, results
from engine.runs.folder import RunFolder
from engine.runs.listing import summaries


@pytest.fixture
def fold(make_run):
    """`fold(number)`: a finished run whose test images are its own fifth of the fabricated ones."""

    def make(number: int, folds: int = 3, state: str = "completed", **changes) -> RunFolder:
        folder = make_run(name=f"lite0 · fold {number}", experiment="cv", state=state)
        record = json.loads((folder.path / "config.json").read_text())
        record["data"]["fold"] = number
        for key, value in changes.items():
            group, _, name = key.partition("__")
            if name:
                record[group][name] = value
            else:
                record[group] = value
        (folder.path / "config.json").write_text(json.dumps(record))
        for split in folder.predicted_splits():
            table = folder.predictions(split)
            folder.write_predictions(split, table.iloc[number::folds].reset_index(drop=True))
        return folder

    return make


def pooled(runs) -> list[RunFolder]:
    return [RunFolder(runs / one.id) for one in summaries(runs) if one.config.kind == "pooled"]


def test_the_last_fold_makes_the_pooled_entry_once(fold, runs_dir):
    members = [fold(number) for number in range(3)]
    (made,) = experiments.finish(members[-1])
    assert experiments.finish(members[0]) == []
    assert [one.id for one in pooled(runs_dir)] == [made.id]
    assert made.config().details["members"] == [member.id for member in members]
    assert made.name == "lite0 · 3 folds pooled"
    assert made.config().experiment == "cv"
    assert len(made.predictions("test")) == sum(len(one.predictions("test")) for one in members)
    assert results.trained_on(made).known


def test_while_a_fold_is_missing_nothing_is_pooled(fold, runs_dir):
    first = fold(0)
    fold(1, state="running")
    assert experiments.finish(first) == []
    assert pooled(runs_dir) == []


def test_seeds_and_rates_are_pooled_apart(fold, runs_dir):
    for seed in (0, 1):
        for number in range(3):
            last = fold(number, training__seed=seed)
    assert len(experiments.finish(last)) == 2
    assert {one.config().training.mode for one in pooled(runs_dir)} == {"exact"}


def test_a_run_started_in_place_of_a_failed_one_is_its_fold(fold, runs_dir):
    fold(0)
    broken = fold(1, state="failed")
    fold(2)
    again = fold(1, parent=broken.id, training__batch_size=4)
    (made,) = experiments.finish(again)
    assert again.id in made.config().details["members"]
    assert broken.id not in made.config().details["members"]


def test_folds_that_tested_an_image_twice_are_not_pooled(fold, runs_dir, capsys):
    fold(0, folds=1)
    assert experiments.finish(fold(1)) == []
    assert "Not pooled" in capsys.readouterr().out


def test_a_run_of_no_experiment_completes_nothing(make_run):
    assert experiments.finish(make_run()) == []


def test_a_pooled_entry_of_fast_folds_is_fast(fold):
    fold(0, training__mode="fast")
    (made,) = experiments.finish(fold(1, training__mode="fast"))
    compared = results.compare_runs([made]).as_record()["runs"][0]
    assert compared["reproducibility"] == "fast"
    assert made.config().training.mode == "fast"
