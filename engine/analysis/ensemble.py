"""Ensembles of stored predictions: combining, fitting, searching, and who has seen what.

Everything here works on a cube of probabilities (members, images, classes); no model is run. What is
fitted or chosen uses validation predictions; the test images are combined once with what was fitted.

References: Caruana et al., Ensemble selection from libraries of models, ICML 2004; Guo et al., On
calibration of modern neural networks, ICML 2017; Wolpert, Stacked generalization, Neural Networks 5:241, 1992.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from engine.analysis import metrics
from engine.analysis.comparison import Aligned, align
from engine.analysis.predictions import CLIP, GROUP_COLUMNS, labels, logits, probabilities, validate
from engine.errors import EnsembleError, shorten

DIGITS = 12  # probabilities are rounded to this, so that a tie is a tie on every machine
TIE_NUDGE = 1e-6  # moved to the class a tied vote was decided for, so that argmax agrees with the decision
MAX_SEARCH = 16
CHUNK = 300_000  # numbers held at once by a search: 2.4 MB, so that they stay in the processor's cache
TIE_RULES = ("mean-probability", "lowest-label")


# --- the cube ------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Cube:
    """Members' predictions of the same images.

    probs, logits: (members, images, classes). true: class index per image, -1 unknown. frame: image_id and
    group columns. note: which images were left out because a member lacks them.
    """

    ids: tuple[str, ...]
    classes: tuple[str, ...]
    probs: np.ndarray
    logits: np.ndarray
    true: np.ndarray
    frame: pd.DataFrame
    note: str = ""

    def __len__(self) -> int:
        return len(self.ids)

    def members(self, wanted: Sequence[str]) -> Cube:
        """Only these members, in this order.

        Raises:
            EnsembleError: one of them is not in the cube.
        """
        missing = [name for name in wanted if name not in self.ids]
        if missing:
            raise EnsembleError(
                "Some members are not there",
                found=shorten(missing),
                remedy=f"Use {shorten(list(self.ids), 8)}",
            )
        rows = [self.ids.index(name) for name in wanted]
        return Cube(
            tuple(wanted), self.classes, self.probs[rows], self.logits[rows], self.true, self.frame, self.note
        )

    def take(self, rows: np.ndarray) -> Cube:
        """Only these images (a mask or positions)."""
        frame = self.frame[rows] if np.asarray(rows).dtype == bool else self.frame.iloc[rows]
        return Cube(
            self.ids,
            self.classes,
            self.probs[:, rows],
            self.logits[:, rows],
            self.true[rows],
            frame.reset_index(drop=True),
            self.note,
        )


def cube(tables: Mapping[str, pd.DataFrame]) -> Cube:
    """Align members' tables on their common images.

    Raises:
        EnsembleError: no member.
        PredictionsError: no common image, different classes, contradicting labels (see `comparison.align`).
    """
    if not tables:
        raise EnsembleError(
            "An ensemble needs members", found="none", remedy="Choose at least one checkpoint"
        )
    return cube_of(align(tables))


def cube_of(aligned: Aligned) -> Cube:
    """The cube of tables that are aligned already."""
    parts = list(aligned.tables.values())
    return Cube(
        tuple(aligned.ids),
        aligned.classes,
        np.stack([probabilities(table) for table in parts]),
        np.stack([logits(table) for table in parts]),
        labels(parts[0]),
        aligned.frame,
        aligned.note,
    )


# --- methods -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Method:
    """A way to combine members. fitted: needs validation predictions. weighted: takes weights."""

    name: str
    title: str
    weighted: bool
    fitted: bool
    reference: str
    help: str


_METHODS = (
    Method("mean", "Mean of probabilities", True, False, "", "Unweighted mean of the members' probabilities "
           "(soft vote), or weighted where weights are given."),
    Method("vote", "Majority vote", True, False, "", "Each member names a class; most votes win. Ties go to "
           "the class of greater mean probability and are counted."),
    Method("geometric", "Geometric mean", True, False, "Hinton, Neural Comput. 14:1771, 2002",
           "Mean of log-probabilities, normalised: one member's firm no weighs heavily."),
    Method("temperature", "Temperature-scaled mean", True, True, "Guo et al., ICML 2017",
           "Each member's logits are divided by a temperature fitted on validation, then averaged, so that an "
           "overconfident member does not outshout the others."),
    Method("rank", "Rank mean", True, False, "",
           "Mean of each image's rank within a member's own decisions, for members whose probabilities are on "
           "different scales; each member's own decisions stay where they were."),
    Method("greedy", "Greedy selection", False, True, "Caruana et al., ICML 2004",
           "Weighted mean; weights are how often forward selection with replacement, bagged over cases, "
           "picked a member on validation."),
    Method("stacking", "Stacking (logistic regression)", False, True, "Wolpert, Neural Netw. 5:241, 1992",
           "Logistic regression on the members' logits, fitted on validation."),
)  # fmt: skip
METHODS: dict[str, Method] = {record.name: record for record in _METHODS}


def method_of(name: str) -> Method:
    """The record of a method.

    Raises:
        EnsembleError: no such method.
    """
    if name not in METHODS:
        raise EnsembleError("There is no such method", found=name, remedy=f"Use one of {', '.join(METHODS)}")
    return METHODS[name]


@dataclass(frozen=True, eq=False)
class Fitted:
    """What was learned on validation. weights (members,); temperatures (members,); coefficients of stacking.

    stack: (classes or 1, members x features) and offset (classes or 1,), on margins of logits.
    fitted_on: how many validation images and cases.
    """

    method: str
    weights: np.ndarray
    temperatures: np.ndarray | None = None
    stack: np.ndarray | None = None
    offset: np.ndarray | None = None
    path: tuple[str, ...] = ()
    fitted_on: tuple[int, int] = (0, 0)

    def as_record(self) -> dict:
        """As a run folder's config stores it: plain lists."""
        return {
            "method": self.method,
            "weights": self.weights.tolist(),
            "temperatures": None if self.temperatures is None else self.temperatures.tolist(),
            "stack": None if self.stack is None else self.stack.tolist(),
            "offset": None if self.offset is None else self.offset.tolist(),
            "path": list(self.path),
            "fitted_on": list(self.fitted_on),
        }

    @classmethod
    def from_record(cls, record: Mapping) -> Fitted:
        """Back from `as_record`."""

        def array(key: str) -> np.ndarray | None:
            return None if record.get(key) is None else np.asarray(record[key], dtype=float)

        images, cases = record.get("fitted_on") or (0, 0)
        return cls(
            record["method"],
            np.asarray(record["weights"], dtype=float),
            array("temperatures"),
            array("stack"),
            array("offset"),
            tuple(record.get("path") or ()),
            (int(images), int(cases)),
        )


@dataclass(frozen=True, eq=False)
class Combined:
    """One ensemble's answer. probabilities (images, classes); decisions (images,); tied (images,) bool.

    logits: of the ensemble, (images, classes): log-probabilities, or what stacking computed.
    """

    method: str
    weights: np.ndarray
    probabilities: np.ndarray
    decisions: np.ndarray
    tied: np.ndarray
    logits: np.ndarray

    @property
    def ties(self) -> int:
        return int(self.tied.sum())


def combine(
    source: Cube | np.ndarray,
    method: str = "mean",
    weights: Sequence[float] | np.ndarray | None = None,
    *,
    tie_rule: str = "mean-probability",
    fitted: Fitted | None = None,
) -> Combined:
    """Combine members. An array of probabilities (members, images, classes) will do for what needs no logits.

    weights: one per member, any positive scale; equal unless given. tie_rule: `mean-probability`, or
    `lowest-label`, as the source study's `scipy.stats.mode` decided (benign wins ties).
    fitted: what `fit` learned on validation, for methods that need it.

    Raises:
        EnsembleError: unknown method or tie rule, weights that do not fit or sum to zero, probabilities that
            are missing, or a fitted method without its fit.
    """
    record = method_of(method)
    probs = source.probs if isinstance(source, Cube) else np.asarray(source, dtype=float)
    scores = source.logits if isinstance(source, Cube) else np.log(np.clip(probs, CLIP, 1 - CLIP))
    _check_cube(probs, source.ids if isinstance(source, Cube) else None)
    if tie_rule not in TIE_RULES:
        raise EnsembleError(
            "There is no such tie rule", found=tie_rule, remedy=f"Use {' or '.join(TIE_RULES)}"
        )
    if record.fitted and fitted is None:
        raise EnsembleError(
            f"{record.title} must be fitted first",
            found="no validation predictions",
            remedy="Fit it on the validation split: ensemble.fit",
        )
    if weights is None and fitted is not None and method in ("greedy", "temperature"):
        weights = fitted.weights
    share = _weights(weights, len(probs))
    untied = np.zeros(probs.shape[1], dtype=bool)
    if method == "vote":
        values, tied = _vote(probs, share, tie_rule)
        return _combined(method, share, values, tied)
    if method == "stacking" and fitted is not None:
        raw = _stack_scores(scores, fitted)
        return _combined(method, share, _softmax(raw), untied, raw)
    if method == "geometric":
        values = _softmax(np.tensordot(share, np.log(np.clip(probs, CLIP, 1)), axes=1))
    elif method == "temperature" and fitted is not None and fitted.temperatures is not None:
        values = np.tensordot(share, _softmax(scores / fitted.temperatures[:, None, None]), axes=1)
    elif method == "rank":
        values = np.tensordot(share, _ranks(probs), axes=1)
    else:
        values = np.tensordot(share, probs, axes=1)
    return _combined(method, share, values, untied)


def _check_cube(probs: np.ndarray, ids: Sequence[str] | None) -> None:
    if probs.ndim != 3 or probs.shape[2] < 2:
        raise EnsembleError(
            "Members' probabilities need the shape (members, images, classes)", found=str(probs.shape)
        )
    if probs.shape[0] == 0:
        raise EnsembleError(
            "An ensemble needs members", found="none", remedy="Choose at least one checkpoint"
        )
    broken = np.flatnonzero(~np.isfinite(probs).all(axis=(1, 2)))
    if len(broken):
        names = [ids[int(k)] if ids else f"member {k}" for k in broken]
        raise EnsembleError(
            "Some members have missing probabilities",
            found=shorten(names),
            remedy="Leave these members out, or predict these images again",
        )


def _weights(weights: Sequence[float] | np.ndarray | None, members: int) -> np.ndarray:
    """Weights that sum to one."""
    if weights is None:
        return np.full(members, 1 / members)
    share = np.asarray(weights, dtype=float)
    if share.shape != (members,):
        raise EnsembleError(
            "There must be one weight per member",
            found=f"{share.size} weights for {members} members",
            remedy="Give one weight per member",
        )
    if not np.isfinite(share).all() or (share < 0).any() or share.sum() <= 0:
        raise EnsembleError(
            "Weights must be 0 or more and not all zero",
            found=", ".join(f"{number:g}" for number in share),
            remedy="Give at least one member a weight above zero",
        )
    return share / share.sum()


def _combined(
    method: str, share: np.ndarray, values: np.ndarray, tied: np.ndarray, raw: np.ndarray | None = None
) -> Combined:
    values = np.round(values, DIGITS)
    scores = np.log(np.clip(values, CLIP, 1 - CLIP)) if raw is None else raw
    return Combined(method, share, values, values.argmax(axis=1), tied, scores)


def _vote(probs: np.ndarray, share: np.ndarray, tie_rule: str) -> tuple[np.ndarray, np.ndarray]:
    """Share of votes per class (images, classes), the decided class of a tie nudged up; and which tied."""
    classes = probs.shape[2]
    named = np.round(probs, DIGITS).argmax(axis=2)
    votes = np.round(
        np.tensordot(share, (named[..., None] == np.arange(classes)).astype(float), axes=1), DIGITS
    )
    leading = votes == votes.max(axis=1, keepdims=True)
    tied = leading.sum(axis=1) > 1
    if tied.any():
        mean = np.round(np.tensordot(share, probs, axes=1), DIGITS)
        order = mean if tie_rule == "mean-probability" else np.zeros_like(mean)
        winner = np.where(leading, order, -1).argmax(axis=1)
        rows = np.flatnonzero(tied)
        losers = leading[rows]
        losers[np.arange(len(rows)), winner[rows]] = False
        votes[rows] -= TIE_NUDGE * losers
        votes[rows, winner[rows]] += TIE_NUDGE * losers.sum(axis=1)
    return votes, tied


def _softmax(values: np.ndarray) -> np.ndarray:
    shifted = np.exp(values - values.max(axis=-1, keepdims=True))
    return shifted / shifted.sum(axis=-1, keepdims=True)


def _ranks(probs: np.ndarray) -> np.ndarray:
    """Probabilities replaced by ranks, (members, images, classes), rows summing to one.

    Two classes: images a member calls benign share 0 to 1/2 by their rank, malignant ones 1/2 to 1, so each
    member's own decisions stay and only its scale goes. More classes: ranks per class, normalised.
    """
    members, images, classes = probs.shape
    values = np.empty_like(probs)
    for k in range(members):
        if classes == 2:
            positive = np.round(probs[k], DIGITS).argmax(axis=1) == 1
            column = np.empty(images)
            for side, start in ((~positive, 0.0), (positive, 0.5)):
                column[side] = start + 0.5 * _fractional_rank(probs[k, side, 1])
            values[k] = np.stack([1 - column, column], axis=1)
        else:
            ranks = np.stack([_fractional_rank(probs[k, :, c]) for c in range(classes)], axis=1)
            values[k] = ranks / ranks.sum(axis=1, keepdims=True)
    return values


def _fractional_rank(values: np.ndarray) -> np.ndarray:
    """Mid-ranks in the open interval 0..1, ties sharing theirs."""
    if not len(values):
        return values
    _, group, count = np.unique(values, return_inverse=True, return_counts=True)
    middle = np.cumsum(count) - count / 2
    return middle[group] / len(values)


# --- fitting on validation -----------------------------------------------------------------------------


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
    share = _weights(weights, len(validation))
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
        return float(metrics.log_losses(true, _softmax(member / np.exp(log_heat))).mean())

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


def _margins(scores: np.ndarray) -> np.ndarray:
    """What stacking sees, (images, members x features): logit differences to the first class."""
    gaps = scores[..., 1:] - scores[..., :1]
    return np.moveaxis(gaps, 0, 1).reshape(scores.shape[1], -1)


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
    features = _margins(part.logits)
    centre, scale = features.mean(axis=0), np.maximum(features.std(axis=0), 1e-9)
    model = LogisticRegression(C=1.0, class_weight="balanced", max_iter=1000)
    model.fit((features - centre) / scale, part.true)
    stack = model.coef_ / scale
    return stack, model.intercept_ - stack @ centre


def _stack_scores(scores: np.ndarray, fitted: Fitted) -> np.ndarray:
    if fitted.stack is None or fitted.offset is None:
        raise EnsembleError(
            "Stacking must be fitted first", remedy="Fit it on the validation split: ensemble.fit"
        )
    raw = _margins(scores) @ fitted.stack.T + fitted.offset
    return np.hstack([np.zeros_like(raw), raw]) if raw.shape[1] == 1 else raw


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
    result = _outcomes(validation)
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


def _outcomes(source: Cube) -> metrics.Outcome:
    """The cube's labelled images as an Outcome of the mean."""
    codes, names = pd.factorize(source.frame["case"].astype(str), sort=True)
    codes, names = np.asarray(codes, dtype=np.int64), [str(name) for name in names]
    if "" in names:
        codes, names = codes - 1, names[1:]
    mean = np.round(source.probs.mean(axis=0), DIGITS)
    known = source.true >= 0
    return metrics.Outcome(
        source.classes,
        source.true[known],
        mean[known],
        mean[known].argmax(axis=1),
        codes[known],
        tuple(names),
    )


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
) -> tuple[pd.DataFrame, Combined, dict[str, Fitted]]:
    """The ensemble's predictions as a valid table, the combination, and what was fitted (per fold, or `all`).

    validation: members' validation tables, for fitted methods. Where both they and `tables` carry several
    folds, each fold is fitted on its own validation part and applied to its own test part only.
    exclude: image_ids never to be scored (some member was trained on them, see `audit_roles`).

    Raises:
        EnsembleError: nothing left to score, or see `combine` and `fit`.
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
    fits = _fits(source, method, weights, validation, fitted)
    if set(fits) == {"all"} or not fits:
        answer = combine(source, method, weights, tie_rule=tie_rule, fitted=fits.get("all"))
    else:
        answer = _by_fold(source, method, weights, tie_rule, fits)
    return predictions_table(source, answer), answer, fits


def _fits(source, method, weights, validation, fitted) -> dict[str, Fitted]:
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
    folds = _folds(source)
    if len(folds) > 1 and folds == _folds(held):
        column = held.frame["fold"].astype(str).to_numpy()
        return {text: fit(method, held.take(column == text), weights) for text in folds}
    return {"all": fit(method, held, weights)}


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


def predictions_table(source: Cube, answer: Combined) -> pd.DataFrame:
    """A combination as a valid table of predictions."""
    frame = source.frame[["image_id", *GROUP_COLUMNS]].copy()
    for k, name in enumerate(source.classes):
        frame[f"prob_{name}"] = answer.probabilities[:, k]
    for k, name in enumerate(source.classes):
        frame[f"logit_{name}"] = answer.logits[:, k]
    if "fold" in source.frame.columns:
        frame["fold"] = source.frame["fold"].to_numpy()
    return validate(frame, "ensemble")


# --- searching -----------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Search:
    """Every subset tried, best first.

    subsets bool (tried, members); method index into `methods` (tried,); score, brier, ties (tried,).
    tried: how many combinations were looked at, which is what optimism grows with.
    """

    ids: tuple[str, ...]
    methods: tuple[str, ...]
    score_name: str
    n: int
    n_cases: int
    subsets: np.ndarray
    method: np.ndarray
    score: np.ndarray
    brier: np.ndarray
    ties: np.ndarray

    @property
    def tried(self) -> int:
        return len(self.score)

    def members(self, rank: int = 0) -> tuple[str, ...]:
        """Members of the subset at this rank."""
        return tuple(name for name, used in zip(self.ids, self.subsets[rank], strict=True) if used)

    def records(self, limit: int | None = None, split: str = "val") -> list[dict]:
        """The ranked list as `--search --json` prints it: members, method, split, score, n."""
        return [
            {
                "members": list(self.members(rank)),
                "method": self.methods[self.method[rank]],
                "split": split,
                "score": round(float(self.score[rank]), DIGITS),  # ranked at this precision
                "n": self.n,
            }
            for rank in range(self.tried if limit is None else min(limit, self.tried))
        ]

    def best_of_size(self, size: int) -> int | None:
        """Rank of the best subset of so many members, None where none was tried."""
        found = np.flatnonzero(self.subsets.sum(axis=1) == size)
        return int(found[0]) if len(found) else None


def all_subsets(members: int, max_size: int | None = None) -> np.ndarray:
    """Every non-empty subset as a row of 0/1, float64 (subsets, members), up to a size.

    Raises:
        EnsembleError: more members than can be searched.
    """
    if members > MAX_SEARCH:
        raise EnsembleError(
            f"A search over all subsets takes up to {MAX_SEARCH} members",
            found=f"{members} members, {2**members - 1:,} subsets",
            remedy="Take fewer members, or use greedy selection",
        )
    numbers = np.arange(1, 2**members)
    rows = ((numbers[:, None] >> np.arange(members)) & 1).astype(float)
    return rows if max_size is None else rows[rows.sum(axis=1) <= max_size]


def search(
    validation: Cube,
    methods: Sequence[str] = ("mean", "vote"),
    max_size: int | None = None,
    *,
    tie_rule: str = "mean-probability",
    progress: Callable[[float], None] | None = None,
) -> Search:
    """Score every subset by mean and by vote, ranked by balanced accuracy, fewer members, Brier of the mean.

    One matrix product per class and chunk, so memory stays bounded: subsets x members @ members x images.

    Raises:
        EnsembleError: a method that cannot be searched, too many members, or no labelled image.
    """
    wrong = [name for name in methods if name not in ("mean", "vote")]
    if wrong or not methods:
        raise EnsembleError(
            "A search knows mean and vote", found=shorten(wrong) or "none", remedy="Use these"
        )
    part = validation.take(validation.true >= 0)
    if not len(part.true):
        raise EnsembleError("A search needs labelled images", found="none", remedy="Use the validation split")
    _check_cube(part.probs, part.ids)
    subsets = all_subsets(len(part), max_size)
    order = np.argsort(part.true, kind="stable")
    sorted_part = part.take(order)
    counts = {name: np.zeros((len(subsets), len(part.classes))) for name in methods}
    ties = {name: np.zeros(len(subsets), dtype=np.int64) for name in methods}
    for rows in _rows(len(subsets), len(order) * (1 if len(part.classes) == 2 else len(part.classes))):
        for name in methods:
            if len(part.classes) == 2:
                positive, ties[name][rows] = _positive(sorted_part, subsets[rows], name, tie_rule)
                counts[name][rows] = _right_of_two(positive, sorted_part.true)
            else:
                right, ties[name][rows] = _right_images(sorted_part, subsets[rows], name, tie_rule)
                counts[name][rows] = _sum_by_class(right, sorted_part.true, len(part.classes))
        if progress:
            progress(min(rows.stop, len(subsets)) / len(subsets))
    return _ranked(part, subsets, methods, counts, ties)


def _rows(total: int, width: int) -> list[slice]:
    step = max(1, CHUNK // max(width, 1))
    return [slice(start, start + step) for start in range(0, total, step)]


def _right_images(
    part: Cube, subsets: np.ndarray, method: str, tie_rule: str
) -> tuple[np.ndarray, np.ndarray]:
    """Which images each subset has right, bool (subsets, images), and how many votes tied (subsets,)."""
    sizes = subsets.sum(axis=1)
    tied = np.zeros(len(subsets), dtype=np.int64)
    if len(part.classes) == 2:
        positive, tied = _positive(part, subsets, method, tie_rule)
        return positive == (part.true == 1), tied
    means = np.stack([subsets @ part.probs[:, :, k] for k in range(len(part.classes))], axis=2)
    means = np.round(means / sizes[:, None, None], DIGITS)
    if method == "mean":
        return means.argmax(axis=2) == part.true, tied
    named = np.round(part.probs, DIGITS).argmax(axis=2)
    votes = np.stack([subsets @ (named == k) for k in range(len(part.classes))], axis=2)
    leading = votes == votes.max(axis=2, keepdims=True)
    tied = np.count_nonzero(leading.sum(axis=2) > 1, axis=1)
    order = means if tie_rule == "mean-probability" else np.zeros_like(means)
    return np.where(leading, order, -1).argmax(axis=2) == part.true, tied


def _positive(part: Cube, subsets: np.ndarray, method: str, tie_rule: str) -> tuple[np.ndarray, np.ndarray]:
    """Which images each subset calls positive, bool (subsets, images), and tied votes (subsets,). Two classes.

    A vote counts +1 or -1, plus a 64th of the member's margin: up to 16 margins never outweigh one vote, so
    a single product decides the vote and, where it ties, the mean.
    """
    sizes = subsets.sum(axis=1)
    margin = part.probs[:, :, 1] - part.probs[:, :, 0]
    tied = np.zeros(len(subsets), dtype=np.int64)
    least = 1e-11 * sizes[:, None]
    if method == "mean":
        return subsets @ margin > least, tied
    named = np.round(part.probs, DIGITS).argmax(axis=2)
    balance = subsets @ (2.0 * named - 1 + margin / 64)
    even = sizes % 2 == 0  # an odd number of votes cannot tie
    tied[even] = np.count_nonzero(np.abs(balance[even]) < 0.5, axis=1)
    return balance > (least / 64 if tie_rule == "mean-probability" else 0.5), tied


def _right_of_two(positive: np.ndarray, true: np.ndarray) -> np.ndarray:
    """Right images per class, (subsets, 2), for images sorted by class."""
    first = int(np.searchsorted(true, 1))
    return np.stack(
        [
            first - np.count_nonzero(positive[:, :first], axis=1),
            np.count_nonzero(positive[:, first:], axis=1),
        ],
        axis=1,
    )


def _sum_by_class(right: np.ndarray, true: np.ndarray, classes: int) -> np.ndarray:
    """Right images per class, (subsets, classes), for images sorted by class."""
    edges = np.searchsorted(true, np.arange(classes + 1))
    return np.stack(
        [np.count_nonzero(right[:, edges[k] : edges[k + 1]], axis=1) for k in range(classes)], axis=1
    )


def _mean_brier(part: Cube, subsets: np.ndarray) -> np.ndarray:
    """Brier score of every subset's mean, without forming the means: a quadratic form in the weights."""
    share = subsets / subsets.sum(axis=1, keepdims=True)
    columns = [1] if len(part.classes) == 2 else range(len(part.classes))
    total = np.zeros(len(subsets))
    for k in columns:
        gap = part.probs[:, :, k] - (part.true == k)
        total += ((share @ (gap @ gap.T)) * share).sum(axis=1)
    return total / len(part.true)


def _ranked(part, subsets, methods, counts, ties) -> Search:
    images = np.bincount(part.true, minlength=len(part.classes)).astype(float)
    with np.errstate(invalid="ignore"):
        recall = np.concatenate([counts[name] for name in methods]) / np.where(images > 0, images, np.nan)
    score = recall.mean(axis=1)
    if np.isnan(score).any():  # a class is absent: rank by what can be scored
        score = np.nanmean(recall, axis=1)
    which = np.repeat(np.arange(len(methods)), len(subsets))
    every = np.tile(subsets, (len(methods), 1))
    brier = np.tile(_mean_brier(part, subsets), len(methods))
    tied = np.concatenate([ties[name] for name in methods])
    order = np.lexsort((which, np.round(brier, DIGITS), every.sum(axis=1), -np.round(score, DIGITS)))
    cases = part.frame.loc[part.frame["case"] != "", "case"].nunique()
    return Search(
        part.ids,
        tuple(methods),
        "balanced_accuracy",
        len(part.true),
        int(cases),
        every[order].astype(bool),
        which[order],
        score[order],
        brier[order],
        tied[order],
    )


@dataclass(frozen=True)
class Optimism:
    """What searching made of the score. apparent: best score on all; nested: mean score on unseen cases of
    what was chosen on the others; optimism = apparent - nested."""

    apparent: float
    nested: float
    optimism: float
    repeats: int
    folds: int
    tried: int

    def __str__(self) -> str:
        return (
            f"{self.apparent:.3f} as searched, {self.nested:.3f} on cases not searched: "
            f"optimism {self.optimism:+.3f} ({self.tried:,} combinations, {self.repeats} x {self.folds} folds by case)"
        )


def search_optimism(
    validation: Cube,
    methods: Sequence[str] = ("mean", "vote"),
    max_size: int | None = None,
    *,
    folds: int = 5,
    repeats: int = 20,
    seed: int = 0,
    tie_rule: str = "mean-probability",
) -> Optimism:
    """How much of the best score is due to having searched: nested, by cases.

    The cases are divided at random into folds within class; the search is repeated on all folds but one and
    its choice scored on that one; the pooled balanced accuracy of a division is averaged over divisions.

    Raises:
        EnsembleError: see `search`; or fewer than two cases in a class.
    """
    ranked = search(validation, methods, max_size, tie_rule=tie_rule)
    part = validation.take(validation.true >= 0)
    result = _outcomes(part)
    unit = np.where(result.case >= 0, result.case, result.case.max() + 1 + np.arange(len(result)))
    _, unit = np.unique(unit, return_inverse=True)
    # a unit of a case that carries two labels would count in both classes: one unit per case and class
    pairs, unit = np.unique(unit * len(part.classes) + result.true, return_inverse=True)
    label = pairs % len(part.classes)
    if min(np.bincount(label, minlength=len(part.classes))) < 2:
        raise EnsembleError(
            "Optimism needs two cases per class",
            found=f"{len(pairs)} cases",
            remedy="Search on a validation split with more cases",
        )
    right = _right_by_unit(part, ranked, unit, len(pairs), tie_rule)
    images = np.bincount(unit, minlength=len(pairs)).astype(float)
    generator = np.random.default_rng(seed)
    nested = []
    for _ in range(repeats):
        group = _random_folds(label, folds, generator)
        held = np.zeros(len(pairs))
        for fold in range(folds):
            inside = group != fold
            score = _weighted_balanced(right[:, inside], images[inside], label[inside])
            pick = int(
                np.round(score, DIGITS).argmax()
            )  # rows are ranked already: ties go to the better rank
            held[~inside] = right[pick, ~inside]
        nested.append(float(_weighted_balanced(held[None], images, label)[0]))
    apparent, mean = float(ranked.score[0]), float(np.mean(nested))
    return Optimism(apparent, mean, apparent - mean, repeats, folds, ranked.tried)


def _right_by_unit(part: Cube, ranked: Search, unit: np.ndarray, size: int, tie_rule: str) -> np.ndarray:
    """Right images per unit for every combination in ranked order, float32 (tried, units)."""
    order = np.argsort(unit, kind="stable")
    starts = np.searchsorted(unit[order], np.arange(size))
    sorted_part = part.take(order)
    right = np.zeros((ranked.tried, size), dtype=np.float32)
    for position, name in enumerate(ranked.methods):
        chosen = np.flatnonzero(ranked.method == position)
        for rows in _rows(len(chosen), len(order) * (1 if len(part.classes) == 2 else len(part.classes))):
            hits, _ = _right_images(sorted_part, ranked.subsets[chosen[rows]].astype(float), name, tie_rule)
            right[chosen[rows]] = np.add.reduceat(hits, starts, axis=1, dtype=np.float32)
    return right


def _random_folds(label: np.ndarray, folds: int, generator: np.random.Generator) -> np.ndarray:
    """A fold per unit, each class spread evenly."""
    group = np.zeros(len(label), dtype=np.int64)
    for value in np.unique(label):
        members = generator.permutation(np.flatnonzero(label == value))
        group[members] = (np.arange(len(members)) + generator.integers(folds)) % folds
    return group


def _weighted_balanced(right: np.ndarray, images: np.ndarray, label: np.ndarray) -> np.ndarray:
    recall = [right[:, label == k].sum(axis=1) / images[label == k].sum() for k in np.unique(label)]
    return np.mean(recall, axis=0)


# --- who has seen what ---------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class RoleAudit:
    """Which scored images and cases the members met before.

    trained: image_id -> members trained on it (never scored). seen_cases: case -> members trained on it
    (leakage badge). unknown: members whose training images are not known. table: a row per case, a column
    per member with the roles its images had (`train`, `val`, `test`, joined by +; "" none; "?" unknown).
    """

    trained: dict[str, tuple[str, ...]]
    seen_cases: dict[str, tuple[str, ...]]
    unknown: tuple[str, ...]
    table: pd.DataFrame
    scored: int

    @property
    def excluded(self) -> list[str]:
        """Images that must not be scored."""
        return sorted(self.trained)

    @property
    def leaking(self) -> bool:
        """Whether a scored case was seen in training: the red badge."""
        return bool(self.seen_cases)

    @property
    def sentences(self) -> list[str]:
        """The audit in words, worst first."""
        lines = []
        if self.trained:
            lines.append(
                f"{len(self.trained):,} of {self.scored:,} images were in a member's training set and are not scored"
            )
        if self.seen_cases:
            lines.append(
                f"Leakage: {len(self.seen_cases):,} cases that are scored were seen in training by a member, "
                f"for example {shorten(sorted(self.seen_cases))}"
            )
        if self.unknown:
            lines.append(f"Unknown what was trained on: {shorten(list(self.unknown))}")
        return lines or ["No member has seen a scored case in training"]


def audit_roles(
    manifests: Mapping[str, pd.DataFrame | None], scored: pd.DataFrame | Iterable[str]
) -> RoleAudit:
    """Audit members' manifests against the images to be scored.

    Args:
        manifests: member -> its manifest table (image_id, case, split; optional fold), None where unknown.
        scored: the images to be scored: a table with image_id (and case; fold where tests are pooled), or ids.
            With a fold in both, an image counts as trained on only in its own fold.
    """
    wanted = scored if isinstance(scored, pd.DataFrame) else pd.DataFrame({"image_id": list(scored)})
    case_of = _case_lookup(manifests, wanted)
    trained: dict[str, list[str]] = {}
    seen: dict[str, list[str]] = {}
    cases = sorted({case for case in map(case_of.get, wanted["image_id"].astype(str)) if case})
    columns: dict[str, list[str]] = {"case": cases}
    for member, manifest in manifests.items():
        if manifest is None or "split" not in manifest.columns:
            columns[member] = ["?"] * len(cases)
            continue
        for image in sorted(_trained_images(manifest, wanted)):
            trained.setdefault(image, []).append(member)
        known = _trained_cases(manifest, wanted, case_of)
        for case in sorted(known):
            seen.setdefault(case, []).append(member)
        columns[member] = _case_roles(manifest, cases, case_of)
    unknown = tuple(name for name, own in manifests.items() if own is None or "split" not in own.columns)
    return RoleAudit(
        {image: tuple(names) for image, names in trained.items()},
        {case: tuple(names) for case, names in seen.items()},
        unknown,
        pd.DataFrame(columns),
        len(wanted),
    )


def _case_lookup(manifests: Mapping[str, pd.DataFrame | None], wanted: pd.DataFrame) -> dict[str, str]:
    lookup: dict[str, str] = {}
    for table in [wanted, *[own for own in manifests.values() if own is not None]]:
        if "case" in table.columns:
            pairs = zip(table["image_id"].astype(str), table["case"].astype(str), strict=True)
            lookup = {image: case for image, case in pairs if case} | lookup
    return lookup


def _paired_by_fold(manifest: pd.DataFrame, wanted: pd.DataFrame) -> list[tuple[pd.DataFrame, pd.DataFrame]]:
    """The manifest and the scored images, fold by fold where both have folds."""
    if "fold" not in manifest.columns or "fold" not in wanted.columns:
        return [(manifest, wanted)]
    own, other = manifest["fold"].astype(str), wanted["fold"].astype(str)
    return [(manifest[own == text], wanted[other == text]) for text in other.unique()]


def _trained_images(manifest: pd.DataFrame, wanted: pd.DataFrame) -> set[str]:
    found: set[str] = set()
    for own, images in _paired_by_fold(manifest, wanted):
        found |= set(own.loc[own["split"] == "train", "image_id"].astype(str)) & set(
            images["image_id"].astype(str)
        )
    return found


def _trained_cases(manifest: pd.DataFrame, wanted: pd.DataFrame, case_of: Mapping[str, str]) -> set[str]:
    found: set[str] = set()
    for own, images in _paired_by_fold(manifest, wanted):
        train = {case_of.get(image, "") for image in own.loc[own["split"] == "train", "image_id"].astype(str)}
        found |= train & {case_of.get(image, "") for image in images["image_id"].astype(str)}
    return found - {""}


def _case_roles(manifest: pd.DataFrame, cases: list[str], case_of: Mapping[str, str]) -> list[str]:
    case = [case_of.get(image, "") for image in manifest["image_id"].astype(str)]
    roles: dict[str, set[str]] = {}
    for name, split in zip(case, manifest["split"].astype(str), strict=True):
        roles.setdefault(name, set()).add(split)
    order = ("train", "val", "test")
    return ["+".join(split for split in order if split in roles.get(name, ())) for name in cases]


# --- warnings ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Caution:
    """One warning about an ensemble. kind is machine-readable; serious ones get the badge."""

    kind: str
    message: str
    serious: bool = field(default=False)


def cautions(
    source: Cube,
    answer: Combined,
    *,
    audit: RoleAudit | None = None,
    gain: tuple[float, float, float] | None = None,
    chosen_on: str = "",
    fitted_on: str = "",
    fitted_weights: bool = False,
) -> list[Caution]:
    """The warnings of honest ensembling that apply.

    gain: (difference to the best member, low, high). chosen_on / fitted_on: the split that members were
    chosen on and the method was fitted on ("" = neither happened).
    """
    found: list[Caution] = []
    if audit and audit.trained:
        found.append(Caution("trained-on-scored", audit.sentences[0], True))
    if audit and audit.seen_cases:
        line = next(text for text in audit.sentences if text.startswith("Leakage"))
        found.append(Caution("leakage", line, True))
    if audit and audit.unknown:
        found.append(
            Caution("training-unknown", f"Unknown what was trained on: {shorten(list(audit.unknown))}")
        )
    if "test" in (chosen_on, fitted_on):
        found.append(
            Caution("selected-on-test", "Chosen or fitted on test: the test score is no longer a test", True)
        )
    if METHODS[answer.method].fitted and fitted_on and fitted_on == chosen_on:
        text = f"The members were chosen on {chosen_on} and the method was fitted on it as well"
        found.append(Caution("fitted-where-chosen", text))
    if gain is not None and not np.isnan(gain[1]) and gain[1] <= 0 <= gain[2]:
        text = (
            f"The gain over the best member ({gain[0]:+.3f} [{gain[1]:+.3f}, {gain[2]:+.3f}]) may be chance"
        )
        found.append(Caution("gain-within-interval", text))
    if len(source) == 1:
        found.append(Caution("one-member", "One member is not an ensemble: the result is that member"))
    elif np.ptp(source.probs, axis=0).max() < 1e-9:
        found.append(Caution("identical", "All members predict the same: combining them changes nothing"))
    elif answer.weights.max() > 0.8:
        name = source.ids[int(answer.weights.argmax())]
        found.append(Caution("one-weight", f"{name} carries {answer.weights.max():.0%} of the weight"))
    cases = source.frame.loc[source.frame["case"] != "", "case"].nunique()
    if 0 < cases < 30:
        found.append(
            Caution(
                "few-cases", f"Only {cases} cases are scored: differences this small set can show are large"
            )
        )
    if answer.ties:
        text = f"{answer.ties:,} of {len(answer.tied):,} votes tied"
        found.append(Caution("ties", text))
    return found
