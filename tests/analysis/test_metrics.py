"""Scores against scikit-learn on random tables, and PRR by hand."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from sklearn import metrics as reference

from engine.analysis import metrics
from engine.analysis.predictions import validate
from engine.errors import PredictionsError


def random_table(seed: int, classes=("benign", "malignant"), images=240, cases=24) -> pd.DataFrame:
    """Noisy probabilities with ties (two digits), every class present, cases of one class each."""
    rng = np.random.default_rng(seed)
    size = len(classes)
    case = np.arange(images) % cases
    true = case % size
    raw = rng.gamma(1.0, size=(images, size)) + 0.5 * (true[:, None] == np.arange(size))
    probs = np.floor(100 * raw / raw.sum(axis=1, keepdims=True))
    probs[:, 0] = 100 - probs[:, 1:].sum(axis=1)
    probs /= 100
    return validate(
        pd.DataFrame(
            {
                "image_id": [f"i{k}.png" for k in range(images)],
                "case": [f"14-{k}" for k in case],
                "magnification": np.array(["40X", "100X", "200X", "400X"])[np.arange(images) // 7 % 4],
                "label": np.array(classes)[true],
                **{f"prob_{name}": probs[:, k] for k, name in enumerate(classes)},
            }
        )
    )


def small(rows) -> pd.DataFrame:
    """(case, label, prob_malignant) rows as a table."""
    return validate(
        pd.DataFrame(
            [
                {"image_id": f"{k}", "case": c, "label": y, "prob_benign": 1 - p, "prob_malignant": p}
                for k, (c, y, p) in enumerate(rows)
            ]
        )
    )


@pytest.mark.parametrize("seed", range(5))
def test_binary_scores_equal_scikit_learn(seed):
    result = metrics.outcome(random_table(seed))
    y, p, g = result.true, result.probs[:, 1], result.guess
    expected = {
        "accuracy": reference.accuracy_score(y, g),
        "balanced_accuracy": reference.balanced_accuracy_score(y, g),
        "sensitivity": reference.recall_score(y, g),
        "specificity": reference.recall_score(y, g, pos_label=0),
        "ppv": reference.precision_score(y, g),
        "npv": reference.precision_score(y, g, pos_label=0),
        "f1": reference.f1_score(y, g),
        "f1_macro": reference.f1_score(y, g, average="macro"),
        "mcc": reference.matthews_corrcoef(y, g),
        "auroc": reference.roc_auc_score(y, p),
        "average_precision": reference.average_precision_score(y, p),
        "brier": reference.brier_score_loss(y, p),
        "nll": reference.log_loss(y, np.clip(p, 1e-6, 1 - 1e-6)),
    }
    for name, number in expected.items():
        assert metrics.value(name, result) == pytest.approx(number, abs=1e-9), name


@pytest.mark.parametrize("seed", range(3))
def test_multiclass_scores_equal_scikit_learn(seed):
    names = ("A", "DC", "F", "LC")
    result = metrics.outcome(random_table(seed, names))
    y, p, g = result.true, result.probs, result.guess
    per_class = [reference.average_precision_score(y == k, p[:, k]) for k in range(4)]
    expected = {
        "accuracy": reference.accuracy_score(y, g),
        "balanced_accuracy": reference.balanced_accuracy_score(y, g),
        "sensitivity": reference.recall_score(y, g, average="macro"),
        "ppv": reference.precision_score(y, g, average="macro"),
        "f1_macro": reference.f1_score(y, g, average="macro"),
        "mcc": reference.matthews_corrcoef(y, g),
        "auroc": reference.roc_auc_score(y, p, multi_class="ovr"),
        "average_precision": np.mean(per_class),
        "brier": reference.brier_score_loss(y, p),
        "nll": reference.log_loss(y, np.clip(p, 1e-6, 1)),
    }
    for name, number in expected.items():
        assert metrics.value(name, result) == pytest.approx(number, abs=1e-9), name


def test_calibration_error_by_hand():
    # two images in the bin of 0.9 (one right), two in the bin of 0.6 (both right)
    probs = np.array([[0.1, 0.9], [0.1, 0.9], [0.4, 0.6], [0.4, 0.6]])
    true = np.array([1, 0, 1, 1])
    assert metrics.calibration_error(true, probs, bins=10) == pytest.approx((2 * 0.4 + 2 * 0.4) / 4)


def test_patient_recognition_rate_by_hand():
    """Patient a: 3 of 4 right, b: 0 of 1, c: 1 of 1, so PRR = (0.75 + 0 + 1) / 3 while IRR = 4/6."""
    rows = [("a", "benign", p) for p in (0.1, 0.2, 0.3, 0.9)]
    table = small([*rows, ("b", "malignant", 0.4), ("c", "malignant", 0.8)])
    result = metrics.outcome(table)
    assert metrics.value("prr", result) == pytest.approx(1.75 / 3)
    assert metrics.value("accuracy", result) == pytest.approx(4 / 6)


def test_patient_diagnosis_follows_the_mean_probability_not_the_vote():
    """Two of three images say benign, their mean says malignant."""
    table = small(
        [("a", "malignant", 0.45), ("a", "malignant", 0.45), ("a", "malignant", 0.99), ("b", "benign", 0.6)]
    )
    result = metrics.outcome(table)
    assert metrics.patient_counts(result) == (1, 2)
    assert metrics.value("patient_diagnosis", result) == pytest.approx(0.5)
    assert metrics.case_table(table).set_index("case").loc["a", "diagnosis"] == "malignant"


def test_undefined_is_nan_and_never_zero():
    one_class = metrics.outcome(small([("a", "malignant", 0.9), ("b", "malignant", 0.8)]))
    for name in ("balanced_accuracy", "specificity", "npv", "mcc", "auroc"):
        assert np.isnan(metrics.value(name, one_class)), name
    never_positive = metrics.outcome(small([("a", "malignant", 0.1), ("b", "benign", 0.2)]))
    assert np.isnan(metrics.value("ppv", never_positive))
    no_case = metrics.outcome(small([("", "malignant", 0.9), ("", "benign", 0.2)]))
    assert np.isnan(metrics.value("prr", no_case))
    assert no_case.n_cases == 0
    assert all(np.isnan(metrics.value(name, one_class.take(np.array([], int)))) for name in metrics.SCORES)


def test_slices_add_up_and_keep_the_order_of_magnification():
    table = random_table(1)
    rows = metrics.score_table(table, ["accuracy", "auroc"], by="magnification")
    assert rows["slice"].tolist() == ["all", "40X", "100X", "200X", "400X"]
    assert rows["n_images"].iloc[1:].sum() == rows["n_images"].iloc[0] == len(table)
    assert np.average(rows["accuracy"][1:], weights=rows["n_images"][1:]) == pytest.approx(
        rows["accuracy"][0]
    )


def test_always_majority_baseline():
    table = small(
        [("a", "malignant", 0.1), ("b", "malignant", 0.2), ("c", "benign", 0.2), ("d", "malignant", 0.2)]
    )
    scores = metrics.baseline_scores(
        table, ["accuracy", "balanced_accuracy", "auroc", "average_precision", "brier"]
    )
    assert scores["accuracy"] == 0.75
    assert scores["balanced_accuracy"] == 0.5
    assert scores["auroc"] == 0.5
    assert scores["average_precision"] == 0.75
    assert scores["brier"] == pytest.approx(0.75 * 0.25)


def test_a_threshold_moves_images_and_patients_alike():
    table = small([("a", "malignant", 0.3), ("b", "benign", 0.1)])
    assert metrics.value("sensitivity", metrics.outcome(table)) == 0
    assert metrics.value("sensitivity", metrics.outcome(table, 0.25)) == 1
    assert metrics.patient_counts(metrics.outcome(table, 0.25)) == (2, 2)


def test_every_score_says_what_it_is():
    for name, record in metrics.SCORES.items():
        assert record.name == name
        assert record.help
        assert record.reference
        assert record.range[0] < record.range[1]


def test_unknown_scores_and_slices_are_named():
    with pytest.raises(PredictionsError, match="accurracy"):
        metrics.score_table(random_table(0), ["accurracy"])
    with pytest.raises(PredictionsError, match="hospital"):
        metrics.score_table(random_table(0), by="hospital")


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("name", list(metrics.SCORES))
def test_a_score_knows_its_better_end_and_its_range(name, classes):
    """Certain and right is the best there is; certain and wrong is the worst; both lie within the range."""
    record = metrics.SCORES[name]
    names = ("benign", "malignant") if classes == 2 else ("a", "b", "c")
    true = np.arange(12) % classes
    case = np.arange(12) // classes % 4 * classes + true

    def of(guess) -> float:
        result = metrics.Outcome(names, true, np.eye(classes)[guess], guess, case, tuple(map(str, range(12))))
        return metrics.value(name, result)

    best, worst = of(true), of((true + 1) % classes)
    low, high = record.range
    assert (best > worst) == record.higher_is_better
    assert best == pytest.approx(high if record.higher_is_better else low, abs=1e-5)
    assert low <= worst <= high
    if name == "brier":
        assert worst == classes - 1 if classes == 2 else 2


def test_slices_come_in_the_order_they_are_read_in():
    table = random_table(0).assign(fold=np.arange(240) % 12, subtype=["PC", "A", "F", "DC"] * 60)
    table["label"] = np.where(table["subtype"].isin(["A", "F"]), "benign", "malignant")
    assert metrics.slice_values(table, "fold") == [str(k) for k in range(12)]
    assert metrics.slice_values(table, "subtype") == ["A", "F", "DC", "PC"]
    assert metrics.slice_values(table.assign(case=["b", "a", ""] * 80), "case") == ["a", "b"]


def test_images_of_unknown_case_are_no_case():
    table = small(
        [("", "benign", 0.2), ("x", "benign", 0.7), ("a", "malignant", 0.9), ("a", "malignant", 0.4)]
    )
    result = metrics.outcome(table)
    assert result.cases == ("a", "x")
    assert result.case.tolist() == [-1, 1, 0, 0]
    assert result.n_cases == 2
    assert metrics.value("prr", result) == pytest.approx((0.5 + 0) / 2)
    assert metrics.patient_counts(result) == (1, 2)
    told = metrics.case_table(table).set_index("case")
    assert told.loc["a", ["label", "diagnosis", "right", "n_images"]].tolist() == [
        "malignant",
        "malignant",
        1,
        2,
    ]
    assert told.loc["x", ["label", "diagnosis", "right", "n_images"]].tolist() == [
        "benign",
        "malignant",
        0,
        1,
    ]


def test_classes_side_by_side_equal_scikit_learn():
    table = random_table(4, ("a", "b", "c"))
    found = metrics.per_class_table(table)
    result = metrics.outcome(table)
    precision, recall, f1, n = reference.precision_recall_fscore_support(result.true, result.guess)
    assert found["class"].tolist() == ["a", "b", "c"]
    assert found["n_images"].tolist() == n.tolist()
    for name, expected in (("precision", precision), ("recall", recall), ("f1", f1)):
        assert found[name].to_numpy() == pytest.approx(expected), name
