"""The study's sixteen rows, recomputed; ours beside them."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from engine.analysis import comparison, study
from engine.analysis.predictions import validate


def test_the_sixteen_rows_follow_from_their_counts():
    printed, counted = study.published(), study.recomputed()
    assert len(printed) == 16
    assert (counted["n"] == 1182).all()
    assert (printed["tp"] + printed["fn"] == 812).all()
    for name in ("accuracy", "precision", "recall", "f1"):
        assert 100 * counted[name].to_numpy() == pytest.approx(printed[name].to_numpy(), abs=0.0051), name
    assert study.discrepancies().empty


def test_accuracy_per_magnification_is_possible_for_the_printed_counts():
    """Weighted by the study's test images (15% of each class and magnification) they give the total."""
    counts = {"40X": (625, 1370), "100X": (644, 1437), "200X": (623, 1390), "400X": (588, 1232)}
    size = {power: sum(int(0.15 * n) for n in pair) for power, pair in counts.items()}
    assert sum(size.values()) == 1182
    printed = study.published()
    total = sum(printed[f"acc_{power}"] * size[power] for power in size) / 1182
    assert np.abs(total - printed["accuracy"]).max() < 0.02


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ("tf_efficientnet_b0.aa_in1k", "V1-B0"),
        ("tf_efficientnet_b4", "V1-B4"),
        ("tf_efficientnetv2_b1.in1k", "V2-B1"),
        ("tf_efficientnetv2_s", "V2-S"),
        ("tf_efficientnet_lite0", ""),
        ("resnet50", ""),
    ],
)
def test_our_architectures_find_their_row(model, expected):
    assert study.study_name(model) == expected


def test_ours_stand_beside_the_studys_with_intervals_and_protocol():
    rng = np.random.default_rng(0)
    table = validate(
        pd.DataFrame(
            {
                "image_id": [str(k) for k in range(80)],
                "case": [f"c{k // 4}" for k in range(80)],
                "magnification": ["40X", "400X"] * 40,
                "label": np.where(np.arange(80) // 4 % 2, "malignant", "benign"),
                "prob_malignant": rng.random(80),
            }
        ).assign(prob_benign=lambda t: 1 - t["prob_malignant"])
    )
    config = {"model": {"name": "tf_efficientnet_b0"}, "data": {"protocol": "case"}, "training": {"seed": 3}}
    result = comparison.compare([comparison.Entry("r", "mine", table, config)], names=["accuracy"], draws=200)
    rows = study.beside(result.entries, {"r": config})
    assert len(rows) == 17
    assert rows["source"].tolist()[:2] == ["ours", "study"]
    assert rows["study_model"].tolist()[:2] == ["V1-B0", "V1-B0"]
    ours, theirs = rows.iloc[0], rows.iloc[1]
    assert ours["low"] < ours["accuracy"] < ours["high"]
    assert np.isnan(ours["100X"])
    assert theirs["accuracy"] == pytest.approx(0.98816, abs=1e-5)
    said = study.differences(config, n_images=80, n_cases=20).set_index("aspect")
    assert "no patient on two sides" in said.loc["split", "ours"]
    assert said.loc["test images", "ours"] == "80 of 20 cases"
    assert said.loc["seed", "ours"] == "3"
