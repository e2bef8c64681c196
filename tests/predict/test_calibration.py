"""A temperature that helps is found and measured on held-out cases; otherwise it is said why there is none."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from engine.analysis.predictions import validate
from engine.predict import calibration
from engine.predict.calibration import calibrate


def table(n: int = 400, sharpness: float = 3.0, cases: int = 20, seed: int = 0) -> pd.DataFrame:
    """Predictions whose log-odds are `sharpness` times the honest ones: the best temperature is `sharpness`."""
    drawn = np.random.default_rng(seed)
    honest = drawn.normal(0, 1.5, n)
    malignant = drawn.random(n) < 1 / (1 + np.exp(-honest))
    margin = honest * sharpness
    probs = 1 / (1 + np.exp(-margin))
    return validate(
        pd.DataFrame(
            {
                "image_id": [f"{k}.png" for k in range(n)],
                "case": [f"case {k % cases}" for k in range(n)],
                "label": np.where(malignant, "malignant", "benign"),
                "prob_benign": 1 - probs,
                "prob_malignant": probs,
                "logit_benign": -margin / 2,
                "logit_malignant": margin / 2,
            }
        )
    )


def test_overconfidence_is_found_and_its_cure_measured_on_other_cases():
    found = calibrate(table())
    assert found.applied
    assert found.temperature == pytest.approx(3.0, rel=0.25)
    assert found.after < 0.5 * found.before
    assert (found.n_images, found.n_cases) == (400, 20)
    sharp = np.array([[-3.0, 3.0]])
    assert found.probabilities(sharp)[0, 1] < 1 / (1 + np.exp(-6.0))
    assert found.probabilities(sharp).argmax() == 1
    assert "before" in str(found)
    assert f"{found.before:.3f}" in str(found)


def test_honest_probabilities_stay_as_they_are():
    found = calibrate(table(60, sharpness=1.0))
    if found.applied:
        assert found.temperature == pytest.approx(1.0, abs=0.3)
    else:
        assert "does not help" in str(found)


@pytest.mark.parametrize(
    "change",
    [
        lambda rows: rows.head(10),
        lambda rows: rows.assign(label="malignant"),
        lambda rows: rows.assign(label=""),
        lambda rows: rows.assign(case="one"),
    ],
    ids=["few", "one class", "no labels", "one case"],
)
def test_too_little_is_said(change):
    found = calibrate(change(table()))
    assert not found.applied
    assert found.temperature == 1.0
    assert "Probabilities are not calibrated: there is too little" in str(found)
    assert found.as_record()["before"] is None


def test_a_case_is_never_on_both_sides():
    case = np.array(["a", "b", "a", "", "", "c", "d", "e", "f"], dtype=object)
    part = calibration._parts(case)
    assert part[0] == part[2]
    assert part[3] != part[4], "two images of unknown case may be of two patients"


def test_a_run_without_validation_and_a_vote_are_not_calibrated(make_run):
    run = make_run()
    assert "calibrat" in str(calibration.of_run(run))
    run.predictions_file("val").unlink()
    assert "no validation predictions" in str(calibration.of_run(run))
