"""Imports and pooled folds as runs."""

import numpy as np
import pandas as pd
import pytest

from engine.errors import PredictionsError
from engine.runs import results

NAMES = [
    f"SOB_{kind}-14-{case}-{power}-001.png"
    for kind, case in (("B_A", 100), ("B_F", 101), ("M_DC", 200), ("M_LC", 201))
    for power in (40, 100)
]


def write_csv(path, **columns):
    pd.DataFrame(columns).to_csv(path, index=False)
    return path


def test_two_columns_are_enough_for_an_import(tmp_path):
    source = write_csv(tmp_path / "p.csv", image_id=NAMES, prob_malignant=np.linspace(0, 1, 8))
    folder = results.import_predictions([source], "theirs", tmp_path / "runs")
    table = folder.predictions("test")
    assert folder.state() == "completed"
    assert table["label"].tolist() == ["benign"] * 4 + ["malignant"] * 4
    assert table["case"].iloc[0] == "14-100"
    assert set(table["magnification"]) == {"40X", "100X"}
    assert np.allclose(table["prob_benign"] + table["prob_malignant"], 1)
    middle = table.iloc[3]
    assert middle["logit_malignant"] == pytest.approx(
        np.log(middle["prob_malignant"] / middle["prob_benign"])
    )
    assert table["logit_malignant"].iloc[0] == pytest.approx(np.log(1e-6 / (1 - 1e-6)))
    assert folder.audit()["level"] == "unknown"


def test_splits_and_folds_of_an_import_are_kept(tmp_path):
    source = write_csv(
        tmp_path / "p.csv",
        image_id=NAMES * 2,
        prob_malignant=[0.5] * 16,
        split=["validation"] * 8 + ["test"] * 8,
        fold=[1, 2] * 8,
    )
    folder = results.import_predictions([source], "theirs", tmp_path / "runs")
    assert folder.predicted_splits() == ("val", "test")
    assert folder.predictions("val")["fold"].tolist() == [1, 2] * 4


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"image_id": NAMES}, "prob_malignant"),
        ({"name": NAMES, "prob_malignant": [0.5] * 8}, "image_id"),
        ({"image_id": NAMES, "prob_malignant": [1.5] * 8}, "outside 0 to 1"),
        ({"image_id": NAMES, "prob_malignant": ["x"] * 8}, "missing"),
        ({"image_id": NAMES[:1] * 8, "prob_malignant": [0.5] * 8}, "more than once"),
        (
            {"image_id": [f"{n}.png" for n in range(8)], "prob_malignant": [0.5] * 8},
            "true class is not known",
        ),
        (
            {"image_id": NAMES, "prob_malignant": [0.5] * 8, "split": ["later"] * 8},
            "splits that are not known",
        ),
        ({"image_id": NAMES, "prob_benign": [0.5] * 8, "prob_malignant": [0.9] * 8}, "sum to one"),
    ],
)
def test_an_import_that_cannot_be_used_says_why_and_leaves_nothing(tmp_path, columns, words):
    source = write_csv(tmp_path / "p.csv", **columns)
    with pytest.raises(PredictionsError, match=words):
        results.import_predictions([source], "theirs", tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


def test_a_run_named_twice_is_refused(finished_run):
    with pytest.raises(PredictionsError, match="named twice"):
        results.compare_runs([finished_run, finished_run])


def test_folds_of_one_model_pool_into_one_entry(make_run, runs_dir):
    runs = [make_run(name=str(seed), seed=seed) for seed in range(2)]
    with pytest.raises(PredictionsError, match="tested the same image"):
        results.pool_folds(runs, "pooled", runs_dir)
    pooled = results.pool_folds(runs[:1], "pooled", runs_dir)
    assert pooled.config().kind == "pooled"
    assert "fold" in pooled.predictions("test").columns
