"""What ensembles learn on validation: weights, temperatures, stacking; and the ensemble as a table of predictions.

What is fitted or chosen uses validation predictions; the test images are combined once with what was fitted.

References: Caruana et al., Ensemble selection from libraries of models, ICML 2004; Guo et al., On
calibration of modern neural networks, ICML 2017; Wolpert, Stacked generalization, Neural Networks 5:241, 1992.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from engine.analysis import metrics
from engine.analysis.ensemble import (
    DIGITS,
    METHODS,
    Combined,
    Cube,
    Fitted,
    by_case,
    combine,
    cube,
    margins,
    method_of,
    outcomes,
    predictions_table,
    shares,
)
from engine.analysis.predictions import softmax
from engine.errors import EnsembleError, shorten


def fit(
    method: str,
    validation: Cube,
    weights: Sequence[float] | None = None,
    *,
    score: str = "balanced_accuracy",
    seed: int = 0,
) -> Fitted:
    """Learn what a method needs from validation predictions.

    Raises:
        EnsembleError: validation images without labels, or of one class only where two are needed.
    """
    method_of(method)
    known = validation.true >= 0
    part = validation.take(known)
    if not known.any():
        raise EnsembleError(
            "Nothing can be fitted without labels",
            found=f"{len(validation.true)} validation images, none labelled",
            remedy="Give validation predictions a label column",
        )
    share = shares(weights, len(validation))
    size = (int(known.sum()), int(part.frame.loc[part.frame["case"] != "", "case"].nunique()))
    if method == "greedy":
        found = greedy(part, score=score, seed=seed)
        return Fitted(method, found.weights, path=found.path, fitted_on=size)
    if method == "temperature":
        heat = np.array([fit_temperature(part.logits[k], part.true) for k in range(len(part))])
        return Fitted(method, share, temperatures=heat, fitted_on=size)
    if method == "stacking":
        stack, offset = _fit_stack(part)
        pull = np.abs(stack).reshape(len(stack), len(part), -1).sum(axis=(0, 2))
        return Fitted(method, pull / max(pull.sum(), 1e-12), stack=stack, offset=offset, fitted_on=size)
    return Fitted(method, share, fitted_on=size)


def fit_temperature(member: np.ndarray, true: np.ndarray) -> float:
    """The temperature between 0.05 and 20 of least log-loss: golden section over its logarithm.

    Args: member logits (images, classes); true (images,).
    """

    def loss(log_heat: float) -> float:
        return float(metrics.log_losses(true, softmax(member / np.exp(log_heat))).mean())

    low, high, ratio = np.log(0.05), np.log(20.0), (np.sqrt(5) - 1) / 2
    left, right = high - ratio * (high - low), low + ratio * (high - low)
    at_left, at_right = loss(left), loss(right)
    while high - low > 1e-4:
        if at_left <= at_right:
            high, right, at_right = right, left, at_left
            left = high - ratio * (high - low)
            at_left = loss(left)
        else:
            low, left, at_left = left, right, at_right
            right = low + ratio * (high - low)
            at_right = loss(right)
    return float(np.exp((low + high) / 2))


def _fit_stack(part: Cube) -> tuple[np.ndarray, np.ndarray]:
    """Logistic regression (L2, C = 1, on standardised margins, classes balanced), in raw units."""
    from sklearn.linear_model import LogisticRegression

    present = np.unique(part.true)
    if len(present) < len(part.classes):
        raise EnsembleError(
            "Stacking needs validation images of every class",
            found=shorten([part.classes[k] for k in present]),
            remedy="Use another fold, or the mean, which needs no fitting",
        )
    features = margins(part.logits)
    centre, scale = features.mean(axis=0), np.maximum(features.std(axis=0), 1e-9)
    model = LogisticRegression(C=1.0, class_weight="balanced", max_iter=1000)
    model.fit((features - centre) / scale, part.true)
    stack = model.coef_ / scale
    return stack, model.intercept_ - stack @ centre


@dataclass(frozen=True, eq=False)
class Greedy:
    """Forward selection. weights (members,) sum to one; path: picks of the first bag in order; score on all."""

    weights: np.ndarray
    path: tuple[str, ...]
    score: float


def greedy(
    validation: Cube,
    *,
    score: str = "balanced_accuracy",
    rounds: int = 25,
    bags: int = 20,
    share: float = 0.5,
    seed: int = 0,
) -> Greedy:
    """Caruana's ensemble selection with replacement; each bag sees a random share of the cases.

    One bag sees every case (the plain algorithm). Each round adds the member whose addition makes the mean
    best on the bag, ties by Brier score, then by the members' order; a bag keeps its best round.
    """
    result = outcomes(validation)
    generator = np.random.default_rng(seed)
    units = np.where(result.case >= 0, result.case, result.case.max() + 1 + np.arange(len(result)))
    total, first_path = np.zeros(len(validation)), ()
    for _ in range(bags):
        rows = _bag(units, result.true, share, generator) if bags > 1 else np.ones(len(result), dtype=bool)
        picks = _forward(validation.probs[:, rows], result.take(rows), score, rounds)
        total += np.bincount(picks, minlength=len(validation)) / len(picks)
        first_path = first_path or tuple(validation.ids[k] for k in picks)
    weights = total / total.sum()
    final = combine(validation, "mean", weights)
    return Greedy(weights, first_path, metrics.value(score, _with(result, final.probabilities)))


def _bag(units: np.ndarray, true: np.ndarray, share: float, generator: np.random.Generator) -> np.ndarray:
    """Images of a random share of the cases of each class, at least one case each."""
    keep = np.zeros(len(units), dtype=bool)
    for label in np.unique(true):
        cases = np.unique(units[true == label])
        chosen = generator.choice(cases, max(1, round(share * len(cases))), replace=False)
        keep |= np.isin(units, chosen) & (true == label)
    return keep


def _forward(probs: np.ndarray, result: metrics.Outcome, score: str, rounds: int) -> list[int]:
    better = 1 if metrics.score_of(score).higher_is_better else -1
    running, picks, best, best_length = np.zeros(probs.shape[1:]), [], None, 0
    for size in range(1, rounds + 1):
        candidates = [np.round((running + own) / size, DIGITS) for own in probs]
        keys = [
            (better * metrics.value(score, _with(result, own)), -metrics.brier(result.true, own))
            for own in candidates
        ]
        pick = max(range(len(keys)), key=lambda k: (_low(keys[k][0]), keys[k][1], -k))
        running = running + probs[pick]
        picks.append(pick)
        if best is None or (_low(keys[pick][0]), keys[pick][1]) > best:
            best, best_length = (_low(keys[pick][0]), keys[pick][1]), size
    return picks[:best_length]


def _low(number: float) -> float:
    return -np.inf if np.isnan(number) else number


def _with(result: metrics.Outcome, probs: np.ndarray) -> metrics.Outcome:
    return metrics.Outcome(
        result.classes, result.true, probs, probs.argmax(axis=1), result.case, result.cases, result.threshold
    )


# --- a table of predictions ----------------------------------------------------------------------------


def ensemble_predictions(
    tables: Mapping[str, pd.DataFrame],
    method: str = "mean",
    weights: Sequence[float] | None = None,
    *,
    tie_rule: str = "mean-probability",
    validation: Mapping[str, pd.DataFrame] | None = None,
    fitted: Fitted | None = None,
    exclude: Iterable[str] = (),
    per_case: bool = False,
) -> tuple[pd.DataFrame, Combined, dict[str, Fitted]]:
    """The ensemble's predictions as a valid table, the combination, and what was fitted (per fold, or `all`).

    validation: members' validation tables, for fitted methods. Where `tables` carry several folds, each fold
    is fitted on its own validation part and applied to its own test part only.
    exclude: image_ids never to be scored (some member was trained on them, see `audit_roles`).
    per_case: every member says of an image what it says of its whole case (`ensemble.by_case`).

    Raises:
        EnsembleError: nothing left to score, a fold without validation for a fitted method, or see `combine`
            and `fit`.
    """
    source = cube(tables)
    banned = set(exclude)
    if banned:
        source = source.take(~source.frame["image_id"].isin(banned).to_numpy())
    if not len(source.true):
        raise EnsembleError(
            "No image is left to score",
            found=f"all {len(banned)} images were in some member's training set",
            remedy="Choose members trained on the same split, so that they share a test set",
        )
    if per_case:
        source = by_case(source)
    fits = _fits(source, method, weights, validation, fitted, per_case)
    if set(fits) == {"all"} or not fits:
        answer = combine(source, method, weights, tie_rule=tie_rule, fitted=fits.get("all"))
    else:
        answer = _by_fold(source, method, weights, tie_rule, fits)
    return predictions_table(source, answer), answer, fits


def _fits(source, method, weights, validation, fitted, per_case) -> dict[str, Fitted]:
    if fitted is not None:
        return {"all": fitted}
    if not method_of(method).fitted:
        return {}
    if validation is None:
        raise EnsembleError(
            f"{METHODS[method].title} must be fitted first",
            found="no validation predictions",
            remedy="Choose members that have validation predictions, or the mean",
        )
    held = cube({name: validation[name] for name in source.ids if name in validation})
    if held.ids != source.ids:
        missing = [name for name in source.ids if name not in held.ids]
        raise EnsembleError(
            "Some members have no validation predictions", found=shorten(missing), remedy="Leave them out"
        )
    held = by_case(held) if per_case else held
    folds = _folds(source)
    if len(folds) < 2:
        return {"all": fit(method, held, weights)}
    lacking = [text for text in folds if text not in _folds(held)]
    if lacking:  # one fit for all would learn from the test images of the folds that have validation
        raise EnsembleError(
            f"{METHODS[method].title} is fitted fold by fold, and some folds have no validation predictions",
            found=f"test of folds {', '.join(folds)}, validation of {', '.join(_folds(held)) or 'no fold'}",
            remedy="Import validation predictions with their fold, or choose the mean",
        )
    column = held.frame["fold"].astype(str).to_numpy()
    return {text: fit(method, held.take(column == text), weights) for text in folds}


def _folds(source: Cube) -> list[str]:
    return sorted(source.frame["fold"].astype(str).unique()) if "fold" in source.frame.columns else []


def _by_fold(source, method, weights, tie_rule, fits) -> Combined:
    column = source.frame["fold"].astype(str).to_numpy()
    images, classes = len(column), len(source.classes)
    values, scores = np.zeros((images, classes)), np.zeros((images, classes))
    tied = np.zeros(images, dtype=bool)
    for text, learned in fits.items():
        rows = column == text
        part = combine(source.take(rows), method, weights, tie_rule=tie_rule, fitted=learned)
        values[rows], scores[rows], tied[rows] = part.probabilities, part.logits, part.tied
    share = np.mean([learned.weights for learned in fits.values()], axis=0)
    return Combined(method, share, values, values.argmax(axis=1), tied, scores)
