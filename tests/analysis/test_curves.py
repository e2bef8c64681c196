"""Curves against scikit-learn, decision curves by hand."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from sklearn import metrics as reference

from engine.analysis import curves, intervals, metrics
from engine.analysis.predictions import validate


def scored(seed: int = 0, images: int = 200) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    true = np.arange(images) // 10 % 2
    p = np.round(1 / (1 + np.exp(-(rng.normal(0, 1, images) + 2 * true - 1))), 2)
    return validate(
        pd.DataFrame(
            {
                "image_id": [str(k) for k in range(images)],
                "case": [f"c{k // 10}" for k in range(images)],
                "label": np.array(["benign", "malignant"])[true],
                "prob_benign": 1 - p,
                "prob_malignant": p,
            }
        )
    )


def test_roc_and_precision_recall_equal_scikit_learn():
    result = metrics.outcome(scored())
    y, p = result.true, result.probs[:, 1]
    fpr, tpr, thresholds = reference.roc_curve(y, p, drop_intermediate=False)
    ours = curves.roc(result)
    assert ours["fpr"].to_numpy() == pytest.approx(fpr)
    assert ours["tpr"].to_numpy() == pytest.approx(tpr)
    assert ours["threshold"].to_numpy() == pytest.approx(thresholds)
    precision, recall, _ = reference.precision_recall_curve(y, p)
    theirs = pd.DataFrame({"r": recall[:-1][::-1], "p": precision[:-1][::-1]})
    ours = curves.precision_recall(result)
    assert ours["recall"].to_numpy() == pytest.approx(theirs["r"].to_numpy())
    assert ours["precision"].to_numpy() == pytest.approx(theirs["p"].to_numpy())


def test_bands_hold_the_curve():
    result = metrics.outcome(scored())
    sample = intervals.resample(result, draws=300)
    band = curves.curve_band("roc", result, sample)
    line = np.interp(band["x"], curves.roc(result)["fpr"], curves.roc(result)["tpr"])
    assert ((band["low"] <= line + 1e-9) & (line <= band["high"] + 1e-9)).mean() > 0.95
    assert (curves.curve_band("precision_recall", result, sample)["low"] <= 1).all()


def test_reliability_counts_every_image_once():
    result = metrics.outcome(scored())
    table = curves.reliability(result)
    assert table["n"].sum() == len(result)
    inside = (result.probs[:, 1] >= 0.5) & (result.probs[:, 1] < 0.6)
    row = table[table["low"] == 0.5].iloc[0]
    assert row["observed"] == pytest.approx(result.true[inside].mean())


def test_decision_curve_by_hand():
    table = validate(
        pd.DataFrame(
            {
                "image_id": list("abcd"),
                "label": ["malignant", "malignant", "benign", "benign"],
                "prob_malignant": [0.9, 0.4, 0.6, 0.1],
                "prob_benign": [0.1, 0.6, 0.4, 0.9],
            }
        )
    )
    rows = (
        curves.decision_curve(metrics.outcome(table))
        .assign(threshold=lambda t: t["threshold"].round(2))
        .set_index("threshold")
    )
    assert rows.loc[0.5, "net_benefit"] == pytest.approx(1 / 4 - 1 / 4)
    assert rows.loc[0.2, "net_benefit"] == pytest.approx(2 / 4 - 1 / 4 * 0.25)
    assert rows.loc[0.2, "treat_all"] == pytest.approx(0.5 - 0.5 * 0.25)


def test_risk_at_full_coverage_is_the_error_rate():
    result = metrics.outcome(scored())
    table = curves.risk_coverage(result)
    assert table["coverage"].iloc[-1] == 1
    assert table["risk"].iloc[-1] == pytest.approx(1 - metrics.value("accuracy", result))
    assert table["risk"].iloc[0] <= table["risk"].iloc[-1]


def test_one_class_only_gives_empty_curves_not_an_error():
    one = metrics.outcome(scored()[lambda t: t["label"] == "malignant"])
    assert curves.roc(one).empty
    assert len(curves.precision_recall(one))
    assert np.isnan(curves.curve_band("roc", one, intervals.resample(one, draws=50))["low"]).all()
