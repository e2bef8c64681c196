"""Scores: pure functions with their facts attached, and the tables made of them.

Five families, by what a score is computed from (the bootstrap uses the same split, see `intervals`):

- `counts`  a function of the confusion matrix, rows true, columns predicted, any leading dimensions
- `mean`    the mean of one value per image
- `patient` the mean of one value per case
- `rank`    a function of the order of the probabilities
- `bins`    calibration error over bins of confidence

With two classes the second (malignant) is positive. With more, one-against-rest values are averaged over
the classes (macro). What is undefined is nan, never 0.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import pandas as pd

from engine.analysis.predictions import CLIP, classes_of, confusion, labels, predicted, probabilities
from engine.data.manifest import order_magnifications
from engine.errors import PredictionsError

ECE_BINS = 15
SLICES = ("magnification", "subtype", "case", "slide", "fold", "label")


@dataclass(frozen=True, eq=False)
class Outcome:
    """What a table says, as arrays over its labelled images.

    true, guess: class indices (images,). probs: (images, classes). case: case index (images,), -1 where
    unknown. cases: case names, in the order of the indices. threshold: the operating point, if any.
    """

    classes: tuple[str, ...]
    true: np.ndarray
    probs: np.ndarray
    guess: np.ndarray
    case: np.ndarray
    cases: tuple[str, ...]
    threshold: float | None = None

    def __len__(self) -> int:
        return len(self.true)

    @property
    def n_cases(self) -> int:
        return len(np.unique(self.case[self.case >= 0]))

    def take(self, rows: np.ndarray) -> Outcome:
        """The same for some images (a mask or positions); case indices stay what they were."""
        return Outcome(
            self.classes,
            self.true[rows],
            self.probs[rows],
            self.guess[rows],
            self.case[rows],
            self.cases,
            self.threshold,
        )

    @property
    def matrix(self) -> np.ndarray:
        """Confusion counts (classes, classes), rows true, columns predicted."""
        return confusion(self.true, self.guess, len(self.classes))


def outcome(table: pd.DataFrame, threshold: float | None = None) -> Outcome:
    """Read a predictions table once; images without a known label are left out.

    Raises:
        PredictionsError: a threshold with more than two classes.
    """
    true = labels(table)
    known = true >= 0
    codes, names = pd.factorize(table["case"].astype(str), sort=True)
    codes = np.asarray(codes, dtype=np.int64)
    names = [str(name) for name in names]
    if "" in names:  # sorts first
        codes, names = codes - 1, names[1:]
    return Outcome(
        classes_of(table),
        true[known],
        probabilities(table)[known],
        predicted(table, threshold)[known],
        codes[known],
        tuple(names),
        threshold,
    )


# --- counts: confusion (..., classes, classes) -> (...) ------------------------------------------------


def _ratio(top: np.ndarray, bottom: np.ndarray) -> np.ndarray:
    """top / bottom, nan where bottom is 0."""
    top, bottom = np.asarray(top, dtype=float), np.asarray(bottom, dtype=float)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(bottom != 0, top / bottom, np.nan)


def _one_against_rest(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """tp, fn, fp, tn per class, each (..., classes)."""
    tp = np.diagonal(matrix, axis1=-2, axis2=-1)
    fn = matrix.sum(axis=-1) - tp
    fp = matrix.sum(axis=-2) - tp
    return tp, fn, fp, matrix.sum(axis=(-2, -1))[..., None] - tp - fn - fp


def _positive_or_macro(per_class: np.ndarray) -> np.ndarray:
    """The positive class of two; the mean of more (nan if one of them is undefined)."""
    return per_class[..., 1] if per_class.shape[-1] == 2 else per_class.mean(axis=-1)


def recall_per_class(matrix: np.ndarray) -> np.ndarray:
    """Right / true images per class, (..., classes)."""
    tp, fn, _, _ = _one_against_rest(matrix)
    return _ratio(tp, tp + fn)


def precision_per_class(matrix: np.ndarray) -> np.ndarray:
    """Right / predicted images per class, (..., classes)."""
    tp, _, fp, _ = _one_against_rest(matrix)
    return _ratio(tp, tp + fp)


def f1_per_class(matrix: np.ndarray) -> np.ndarray:
    """2 tp / (2 tp + fp + fn) per class, (..., classes)."""
    tp, fn, fp, _ = _one_against_rest(matrix)
    return _ratio(2 * tp, 2 * tp + fp + fn)


def accuracy(matrix: np.ndarray) -> np.ndarray:
    """Right images / images: the image recognition rate of BreakHis."""
    return _ratio(np.trace(matrix, axis1=-2, axis2=-1), matrix.sum(axis=(-2, -1)))


def balanced_accuracy(matrix: np.ndarray) -> np.ndarray:
    """Mean recall over the classes; nan where a class has no image."""
    return recall_per_class(matrix).mean(axis=-1)


def sensitivity(matrix: np.ndarray) -> np.ndarray:
    """tp / (tp + fn)."""
    return _positive_or_macro(recall_per_class(matrix))


def specificity(matrix: np.ndarray) -> np.ndarray:
    """tn / (tn + fp)."""
    _, _, fp, tn = _one_against_rest(matrix)
    return _positive_or_macro(_ratio(tn, tn + fp))


def positive_predictive_value(matrix: np.ndarray) -> np.ndarray:
    """tp / (tp + fp), at the class frequencies of these images."""
    return _positive_or_macro(precision_per_class(matrix))


def negative_predictive_value(matrix: np.ndarray) -> np.ndarray:
    """tn / (tn + fn), at the class frequencies of these images."""
    _, fn, _, tn = _one_against_rest(matrix)
    return _positive_or_macro(_ratio(tn, tn + fn))


def f1(matrix: np.ndarray) -> np.ndarray:
    """F1 of the positive class (macro with more than two classes)."""
    return _positive_or_macro(f1_per_class(matrix))


def f1_macro(matrix: np.ndarray) -> np.ndarray:
    """Unweighted mean of the F1 of every class."""
    return f1_per_class(matrix).mean(axis=-1)


def matthews(matrix: np.ndarray) -> np.ndarray:
    """Matthews correlation of true and predicted class; nan when either never varies (Gorodkin, 2004)."""
    total = matrix.sum(axis=(-2, -1)).astype(float)
    right = np.trace(matrix, axis1=-2, axis2=-1).astype(float)
    true, guess = matrix.sum(axis=-1).astype(float), matrix.sum(axis=-2).astype(float)
    top = right * total - (true * guess).sum(axis=-1)
    spread = (total**2 - (true**2).sum(axis=-1)) * (total**2 - (guess**2).sum(axis=-1))
    return _ratio(top, np.sqrt(spread))


# --- mean: one value per image -------------------------------------------------------------------------


def squared_errors(true: np.ndarray, probs: np.ndarray) -> np.ndarray:
    """Brier's value per image: (p - y)^2 of the positive class; summed over the classes where there are more."""
    gap = (probs - (true[:, None] == np.arange(probs.shape[1]))) ** 2
    return gap[:, 1] if probs.shape[1] == 2 else gap.sum(axis=1)


def log_losses(true: np.ndarray, probs: np.ndarray) -> np.ndarray:
    """-ln of the true class's probability per image, clipped at 1e-6 (other tools store exact zeros)."""
    return -np.log(np.clip(probs[np.arange(len(true)), true], CLIP, 1 - CLIP))


def brier(true: np.ndarray, probs: np.ndarray) -> float:
    """Mean of `squared_errors`."""
    return float(squared_errors(true, probs).mean()) if len(true) else float("nan")


def negative_log_likelihood(true: np.ndarray, probs: np.ndarray) -> float:
    """Mean of `log_losses`, in nats."""
    return float(log_losses(true, probs).mean()) if len(true) else float("nan")


# --- rank ----------------------------------------------------------------------------------------------


def rank_totals(positive: np.ndarray, score: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Positives and negatives at each distinct score, from the highest score down."""
    _, group = np.unique(-score, return_inverse=True)
    size = int(group.max()) + 1 if len(group) else 0
    return (
        np.bincount(group, weights=positive, minlength=size),
        np.bincount(group, weights=~positive, minlength=size),
    )


def binary_auroc(positive: np.ndarray, score: np.ndarray) -> float:
    """P(a positive image scores above a negative one), ties counting half; nan with one class only.

    Args: positive bool (images,), score (images,).
    """
    up, down = rank_totals(positive, score)
    if not up.sum() or not down.sum():
        return float("nan")
    below = down.sum() - np.cumsum(down)
    return float((up * (below + down / 2)).sum() / (up.sum() * down.sum()))


def binary_average_precision(positive: np.ndarray, score: np.ndarray) -> float:
    """Sum of precision times the step in recall over the distinct scores; nan without a positive image."""
    up, down = rank_totals(positive, score)
    if not up.sum():
        return float("nan")
    hits = np.cumsum(up)
    return float((up * hits / (hits + np.cumsum(down))).sum() / up.sum())


def _rank_score(function: Callable[[np.ndarray, np.ndarray], float]):
    def score(true: np.ndarray, probs: np.ndarray) -> float:
        if probs.shape[1] == 2:
            return function(true == 1, probs[:, 1])
        return float(np.mean([function(true == k, probs[:, k]) for k in range(probs.shape[1])]))

    return score


auroc = _rank_score(binary_auroc)
average_precision = _rank_score(binary_average_precision)


# --- bins ----------------------------------------------------------------------------------------------


def confidence_bins(probs: np.ndarray, bins: int = ECE_BINS) -> tuple[np.ndarray, np.ndarray]:
    """Probability of the most probable class, and its bin of equal width over 0..1 (last bin closed)."""
    confidence = probs.max(axis=1)
    return confidence, np.minimum((confidence * bins).astype(np.int64), bins - 1)


def calibration_error(true: np.ndarray, probs: np.ndarray, bins: int = ECE_BINS) -> float:
    """Expected calibration error: |share right - mean confidence| per bin, weighted by images."""
    if not len(true):
        return float("nan")
    confidence, group = confidence_bins(probs, bins)
    right = probs.argmax(axis=1) == true
    gaps = np.bincount(group, weights=right - confidence, minlength=bins)
    return float(np.abs(gaps).sum() / len(true))


# --- patient: one value per case -----------------------------------------------------------------------


def case_totals(values: np.ndarray, case: np.ndarray, size: int) -> np.ndarray:
    """Sum over the images of each case, (cases,) or (cases, k); images of unknown case (-1) are left out."""
    known = case >= 0
    if values.ndim == 1:
        return np.bincount(case[known], weights=values[known], minlength=size)
    return np.stack([case_totals(column, case, size) for column in values.T], axis=1)


def case_recognition(result: Outcome) -> np.ndarray:
    """Share of right images per case, (all cases of `result.cases`,); nan for a case without images here."""
    size = len(result.cases)
    right = case_totals((result.true == result.guess).astype(float), result.case, size)
    return _ratio(right, case_totals(np.ones(len(result)), result.case, size))


def case_labels(result: Outcome) -> np.ndarray:
    """The class most of a case's images carry, (cases,); -1 for a case without images here."""
    votes = case_totals(
        (result.true[:, None] == np.arange(len(result.classes))).astype(float),
        result.case,
        len(result.cases),
    )
    return np.where(votes.sum(axis=1) > 0, votes.argmax(axis=1), -1)


def case_probabilities(result: Outcome) -> np.ndarray:
    """Mean probability per class over the images of a case, (cases, classes); nan without images."""
    size = len(result.cases)
    images = case_totals(np.ones(len(result)), result.case, size)
    return _ratio(case_totals(result.probs, result.case, size), images[:, None])


def case_diagnoses(result: Outcome) -> np.ndarray:
    """Diagnosed class per case: greatest mean probability, or the threshold on it; -1 without images."""
    mean = case_probabilities(result)
    seen = np.isfinite(mean[:, 0])
    if result.threshold is None:
        return np.where(seen, np.nan_to_num(mean).argmax(axis=1), -1)
    return np.where(seen, (np.nan_to_num(mean[:, 1]) >= result.threshold).astype(int), -1)


def case_diagnosis_right(result: Outcome) -> np.ndarray:
    """1 where a case's diagnosis is its label, 0 where not, nan without images, (cases,)."""
    diagnosed, true = case_diagnoses(result), case_labels(result)
    return np.where(true >= 0, (diagnosed == true).astype(float), np.nan)


def patient_counts(result: Outcome) -> tuple[int, int]:
    """(k, n): patients diagnosed rightly, patients."""
    right = case_diagnosis_right(result)
    return int(np.nansum(right)), int(np.isfinite(right).sum())


# --- the records ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Score:
    """A score and its facts.

    function's signature follows the family: `counts` matrix -> value; `mean` (true, probs) -> per image;
    `rank` and `bins` (true, probs) -> value; `patient` Outcome -> per case.
    """

    name: str
    title: str
    symbol: str
    family: str
    function: Callable
    range: tuple[float, float]
    higher_is_better: bool
    unit: str
    reference: str
    help: str


_SPANHOL = "Spanhol et al., IEEE Trans. Biomed. Eng. 63:1455, 2016"
_TRIPOD = "Altman & Bland, BMJ 308:1552, 1994"
_RECORDS = (
    Score("accuracy", "Image recognition rate", "IRR", "counts", accuracy, (0, 1), True, "fraction of images",
          _SPANHOL, "Right images / images. Equals accuracy; flattered by the class that is larger."),
    Score("prr", "Patient recognition rate", "PRR", "patient", case_recognition, (0, 1), True,
          "mean fraction per patient", _SPANHOL,
          "Mean over patients of the patient's share of right images, so that a patient with many images "
          "counts no more than one with few."),
    Score("patient_diagnosis", "Patient diagnosis", "PDx", "patient", case_diagnosis_right, (0, 1), True,
          "fraction of patients", "this dashboard, metrics.case_diagnoses",
          "Share of patients whose class of greatest mean probability over their images is the true one."),
    Score("balanced_accuracy", "Balanced accuracy", "BAcc", "counts", balanced_accuracy, (0, 1), True,
          "mean fraction per class", "Brodersen et al., ICPR 2010",
          "Mean recall over the classes; 0.5 for a classifier of two classes that always says the same."),
    Score("sensitivity", "Sensitivity", "Se", "counts", sensitivity, (0, 1), True, "fraction of images",
          _TRIPOD, "Malignant images found / malignant images. Macro mean with more than two classes."),
    Score("specificity", "Specificity", "Sp", "counts", specificity, (0, 1), True, "fraction of images",
          _TRIPOD, "Benign images left alone / benign images. Macro mean with more than two classes."),
    Score("ppv", "Positive predictive value", "PPV", "counts", positive_predictive_value, (0, 1), True,
          "fraction of images", _TRIPOD,
          "Malignant among images called malignant, at the class frequencies of this data set."),
    Score("npv", "Negative predictive value", "NPV", "counts", negative_predictive_value, (0, 1), True,
          "fraction of images", _TRIPOD,
          "Benign among images called benign, at the class frequencies of this data set."),
    Score("f1", "F1", "F1", "counts", f1, (0, 1), True, "", "van Rijsbergen, Information Retrieval, 1979",
          "Harmonic mean of sensitivity and PPV of the malignant class."),
    Score("f1_macro", "F1, macro", "mF1", "counts", f1_macro, (0, 1), True, "",
          "van Rijsbergen, Information Retrieval, 1979", "Unweighted mean of the F1 of every class."),
    Score("mcc", "Matthews correlation", "MCC", "counts", matthews, (-1, 1), True, "correlation",
          "Matthews, BBA 405:442, 1975; Gorodkin, Comput. Biol. Chem. 28:367, 2004",
          "Correlation of true and predicted class; 0 is chance whatever the class frequencies."),
    Score("auroc", "Area under the ROC curve", "AUROC", "rank", auroc, (0, 1), True, "probability",
          "Hanley & McNeil, Radiology 143:29, 1982",
          "Probability that a malignant image gets a higher probability than a benign one; 0.5 is chance. "
          "Macro one-against-rest with more than two classes."),
    Score("average_precision", "Average precision", "AP", "rank", average_precision, (0, 1), True, "",
          "scikit-learn, average_precision_score",
          "Area under the precision-recall curve as a step function; chance is the share of malignant images."),
    Score("brier", "Brier score", "Brier", "mean", squared_errors, (0, 2), False, "squared probability",
          "Brier, Mon. Weather Rev. 78:1, 1950",
          "Mean squared error of the probability of malignancy (0 to 1); with more than two classes summed "
          "over them (0 to 2)."),
    Score("nll", "Negative log-likelihood", "NLL", "mean", log_losses, (0, float("inf")), False, "nats",
          "Good, J. R. Stat. Soc. B 14:107, 1952",
          "Mean of -ln of the probability given to the true class, clipped at 1e-6."),
    Score("ece", "Expected calibration error", "ECE", "bins", calibration_error, (0, 1), False,
          f"probability, {ECE_BINS} bins", "Guo et al., ICML 2017",
          f"Mean gap between confidence and share right over {ECE_BINS} bins of equal width of the "
          "confidence in the most probable class."),
)  # fmt: skip
SCORES: dict[str, Score] = {record.name: record for record in _RECORDS}
DEFAULT_SCORES = (
    "balanced_accuracy",
    "accuracy",
    "prr",
    "patient_diagnosis",
    "sensitivity",
    "specificity",
    "auroc",
)


def score_of(name: str) -> Score:
    """The record of a score.

    Raises:
        PredictionsError: no such score.
    """
    if name not in SCORES:
        raise PredictionsError("There is no such score", found=name, remedy=f"Use one of {', '.join(SCORES)}")
    return SCORES[name]


def value(name: str, result: Outcome) -> float:
    """A score of an outcome; nan where it is undefined."""
    record = score_of(name)
    if not len(result):
        return float("nan")
    if record.family == "counts":
        return float(record.function(result.matrix))
    if record.family == "patient":
        per_case = record.function(result)
        per_case = per_case[np.isfinite(per_case)]
        return float(per_case.mean()) if len(per_case) else float("nan")
    if record.family == "mean":
        return float(record.function(result.true, result.probs).mean())
    return float(record.function(result.true, result.probs))


def majority_baseline(result: Outcome) -> Outcome:
    """The same images judged by a model that knows only the class frequencies of these images.

    Every image gets the most frequent class, and as probabilities the frequencies themselves.
    """
    counts = np.bincount(result.true, minlength=len(result.classes))
    share = counts / max(counts.sum(), 1)
    return Outcome(
        result.classes,
        result.true,
        np.tile(share, (len(result), 1)),
        np.full(len(result), int(counts.argmax())),
        result.case,
        result.cases,
    )


def slice_values(table: pd.DataFrame, by: str) -> list[str]:
    """The values of a slice column that are present, in the order they are shown in; empty ones left out.

    Raises:
        PredictionsError: the table cannot be sliced this way.
    """
    if by not in SLICES or by not in table.columns:
        there = ", ".join(name for name in SLICES if name in table.columns)
        raise PredictionsError("The predictions cannot be sliced this way", found=by, remedy=f"Use {there}")
    if by == "magnification":
        return list(order_magnifications(table[by].unique()))
    present = [text for text in table[by].dropna().unique() if str(text) != ""]
    if by == "subtype":  # benign before malignant
        order = {name: k for k, name in enumerate(classes_of(table))}
        label = dict(zip(table[by], table["label"], strict=True))
        return sorted(map(str, present), key=lambda name: (order.get(label[name], -1), name))
    return [
        str(text)
        for text in sorted(
            present, key=lambda item: (len(str(item)), str(item)) if by == "fold" else str(item)
        )
    ]


def score_table(
    predictions: pd.DataFrame,
    names: Iterable[str] | None = None,
    by: str | None = None,
    threshold: float | None = None,
) -> pd.DataFrame:
    """Scores of a table, a row per slice: `slice, n_images, n_cases`, then a column per score.

    The first row is `all`; with `by` (magnification, subtype, case, slide, fold, label) one row per value
    follows. Undefined is nan. `threshold` (two classes) calls malignant from that probability on.

    Raises:
        PredictionsError: an unknown score or slice.
    """
    wanted = list(DEFAULT_SCORES if names is None else names)
    result = outcome(predictions, threshold)
    rows = [_score_row("all", result, wanted)]
    if by:
        column = (
            predictions.loc[labels(predictions) >= 0, by].astype(str).to_numpy()
            if by in predictions
            else None
        )
        for text in slice_values(predictions, by):
            rows.append(_score_row(text, result.take(column == text), wanted))
    return pd.DataFrame(rows)


def _score_row(title: str, result: Outcome, names: list[str]) -> dict:
    row: dict = {"slice": title, "n_images": len(result), "n_cases": result.n_cases}
    return row | {name: value(name, result) for name in names}


def baseline_scores(predictions: pd.DataFrame, names: Iterable[str] | None = None) -> dict[str, float]:
    """Score name -> what always saying the most frequent class would reach (`majority_baseline`)."""
    result = majority_baseline(outcome(predictions))
    return {name: value(name, result) for name in (DEFAULT_SCORES if names is None else names)}


def per_class_table(predictions: pd.DataFrame, threshold: float | None = None) -> pd.DataFrame:
    """A row per class: `class, n_images, recall, precision, f1`."""
    result = outcome(predictions, threshold)
    matrix = result.matrix
    return pd.DataFrame(
        {
            "class": list(result.classes),
            "n_images": matrix.sum(axis=1),
            "recall": recall_per_class(matrix),
            "precision": precision_per_class(matrix),
            "f1": f1_per_class(matrix),
        }
    )


def case_table(predictions: pd.DataFrame, threshold: float | None = None) -> pd.DataFrame:
    """A row per case: `case, label, diagnosis, right, n_images, recognition` and `prob_<class>` (means)."""
    result = outcome(predictions, threshold)
    size = len(result.cases)
    true, diagnosed = case_labels(result), case_diagnoses(result)
    mean = case_probabilities(result)
    table = pd.DataFrame(
        {
            "case": list(result.cases),
            "label": [result.classes[k] if k >= 0 else "" for k in true],
            "diagnosis": [result.classes[k] if k >= 0 else "" for k in diagnosed],
            "right": case_totals((result.true == result.guess).astype(float), result.case, size).astype(int),
            "n_images": case_totals(np.ones(len(result)), result.case, size).astype(int),
            "recognition": case_recognition(result),
            **{f"prob_{name}": mean[:, k] for k, name in enumerate(result.classes)},
        }
    )
    return table[table["n_images"] > 0].reset_index(drop=True)
