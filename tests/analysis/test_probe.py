"""The leakage probe finds leakage where it is, and none where there is none."""

import numpy as np
import pandas as pd
import pytest

from engine.analysis.probe import FOLDS, background_colours, control_features, run_probe
from engine.data.images import encode_png
from engine.data.manifest import CLASSES, COLUMNS, Manifest
from engine.errors import DataError


def manifest_of(tmp_path, cases: int = 20, images: int = 8) -> Manifest:
    rows = [
        (f"{case}-{image}.png", f"{case}-{image}.png", CLASSES[case % 2], "", f"c{case}", f"s{case}", "40X")
        for case in range(cases)
        for image in range(images)
    ]
    return Manifest(tmp_path, CLASSES, pd.DataFrame(rows, columns=list(COLUMNS), dtype=str))


def features_of(manifest: Manifest, case_effect: float, class_effect: float) -> np.ndarray:
    rng = np.random.default_rng(0)
    table = manifest.table
    codes = pd.factorize(table["case"])[0]
    target = (table["label"] == "malignant").to_numpy()
    own = rng.normal(0, case_effect, (codes.max() + 1, 60))[codes]
    return own + class_effect * target[:, None] + rng.normal(0, 1, (len(table), 60))


def test_features_of_the_patient_alone_score_at_random_but_not_by_case(tmp_path):
    manifest = manifest_of(tmp_path)
    steps = []
    probe = run_probe(manifest, features_of(manifest, 3, 0), progress=lambda *step: steps.append(step))
    scores = probe.scores.set_index("split")["balanced_accuracy"]
    assert scores["image"] > 0.95
    assert scores["case"] < 0.75
    gap = probe.gaps.iloc[0]
    assert gap["low"] > 0.1
    assert gap["low"] <= gap["gap"] <= gap["high"]
    assert steps[-1] == (2 * FOLDS, 2 * FOLDS)
    assert "leakage is worth" in probe.verdict


def test_features_of_the_disease_alone_leave_no_gap(tmp_path):
    manifest = manifest_of(tmp_path)
    probe = run_probe(manifest, features_of(manifest, 0, 0.6))
    assert (probe.scores["balanced_accuracy"] > 0.9).all()
    assert abs(probe.gaps["gap"].iloc[0]) < 0.05


def test_intervals_are_wider_than_images_suggest(tmp_path):
    """A case is right or wrong as a whole: 160 images say no more than 20 cases."""
    manifest = manifest_of(tmp_path)
    row = run_probe(manifest, features_of(manifest, 3, 0)).scores.set_index("split").loc["case"]
    assert row["high"] - row["low"] > 2 * 1.96 * np.sqrt(0.25 / 160)


def test_the_probe_is_deterministic(tmp_path):
    manifest = manifest_of(tmp_path, 10, 4)
    values = features_of(manifest, 1, 0.3)
    assert run_probe(manifest, values).as_record() == run_probe(manifest, values).as_record()


def test_controls_see_colour_and_background_only(tmp_path):
    rng = np.random.default_rng(0)
    picture = rng.integers(60, 160, (96, 96, 3), dtype=np.uint8)
    picture[:, :30] = (230, 225, 220)
    shuffled = picture.reshape(-1, 3)[rng.permutation(96 * 96)].reshape(96, 96, 3)
    for name, pixels in (("a.png", picture), ("b.png", shuffled)):
        (tmp_path / name).write_bytes(encode_png(pixels))
    rows = [(name, name, "benign", "", "c", "s", "") for name in ("a.png", "b.png")]
    manifest = Manifest(tmp_path, CLASSES, pd.DataFrame(rows, columns=list(COLUMNS), dtype=str))
    controls = control_features(manifest)
    assert np.array_equal(controls["colour"][0], controls["colour"][1])  # order of pixels is no colour
    assert np.allclose(controls["background"][0][:3], (230, 225, 220))
    assert background_colours(rng.integers(0, 90, (50, 50, 3), dtype=np.uint8)).sum() == 0


def test_unknown_cases_are_refused(tmp_path):
    manifest = manifest_of(tmp_path, 4, 2)
    manifest = manifest.with_table(manifest.table.assign(case=""))
    with pytest.raises(DataError) as error:
        run_probe(manifest, np.zeros((8, 3)))
    assert error.value.kind == "case_unknown"
