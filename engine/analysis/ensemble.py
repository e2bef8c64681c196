"""Ensembles of stored predictions: members on the same images, and the ways to combine them.

Everything here works on a cube of probabilities (members, images, classes); no model is run. What some ways
learn first is in `fitting`, searching among subsets in `subsets`, who has seen what in `roles`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from engine.analysis import metrics
from engine.analysis.alignment import Aligned, align
from engine.analysis.predictions import (
    CLIP,
    GROUP_COLUMNS,
    labels,
    logits,
    probabilities,
    softmax,
    validate,
)
from engine.errors import EnsembleError, shorten

DIGITS = 12  # probabilities are rounded to this, so that a tie is a tie on every machine
TIE_NUDGE = 1e-6  # moved to the class a tied vote was decided for, so that argmax agrees with the decision
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


def by_case(source: Cube) -> Cube:
    """Each image carries what its whole case says: a member's mean over the case's magnifications.

    Per member and case (and fold), images of one magnification are averaged first, then the magnifications,
    each with the same weight however many images it has. Probabilities and logits are averaged alike. An image
    of unknown case stays as it is. The images stay, so that scores by image and by case remain comparable.
    """
    frame = source.frame
    fold = frame["fold"].astype(str) if "fold" in frame.columns else pd.Series("", index=frame.index)
    alone = pd.Series([f"image {k}" for k in range(len(frame))], index=frame.index)
    case = frame["case"].astype(str)
    unit, _ = pd.factorize(fold + "/" + case.where(case != "", alone))
    part, parts = pd.factorize(
        pd.Series(unit).astype(str) + "/" + frame["magnification"].astype(str).to_numpy()
    )
    owner = np.zeros(len(parts), dtype=np.int64)
    owner[part] = unit

    def spread(values: np.ndarray) -> np.ndarray:
        return _group_means(_group_means(values, part), owner)[:, unit]

    return Cube(
        source.ids,
        source.classes,
        spread(source.probs),
        spread(source.logits),
        source.true,
        frame,
        source.note,
    )


def _group_means(values: np.ndarray, group: np.ndarray) -> np.ndarray:
    """Means over the second axis, (members, images, classes) to (members, groups, classes)."""
    order = np.argsort(group, kind="stable")
    size = np.bincount(group)
    starts = np.cumsum(size) - size
    return np.add.reduceat(values[:, order], starts, axis=1) / size[None, :, None]


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
    check_cube(probs, source.ids if isinstance(source, Cube) else None)
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
    share = shares(weights, len(probs))
    untied = np.zeros(probs.shape[1], dtype=bool)
    if method == "vote":
        values, tied = _vote(probs, share, tie_rule)
        return _combined(method, share, values, tied)
    if method == "stacking" and fitted is not None:
        raw = _stack_scores(scores, fitted)
        return _combined(method, share, softmax(raw), untied, raw)
    if method == "geometric":
        values = softmax(np.tensordot(share, np.log(np.clip(probs, CLIP, 1)), axes=1))
    elif method == "temperature" and fitted is not None and fitted.temperatures is not None:
        values = np.tensordot(share, softmax(scores / fitted.temperatures[:, None, None]), axes=1)
    elif method == "rank":
        values = np.tensordot(share, _ranks(probs), axes=1)
    elif method in ("mean", "greedy"):
        values = np.tensordot(share, probs, axes=1)
    else:
        raise NotImplementedError(f"The method {method} has a record and no branch")
    return _combined(method, share, values, untied)


def check_cube(probs: np.ndarray, ids: Sequence[str] | None) -> None:
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


def shares(weights: Sequence[float] | np.ndarray | None, members: int) -> np.ndarray:
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


def margins(scores: np.ndarray) -> np.ndarray:
    """What stacking sees, (images, members x features): logit differences to the first class."""
    gaps = scores[..., 1:] - scores[..., :1]
    return np.moveaxis(gaps, 0, 1).reshape(scores.shape[1], -1)


def _stack_scores(scores: np.ndarray, fitted: Fitted) -> np.ndarray:
    if fitted.stack is None or fitted.offset is None:
        raise EnsembleError(
            "Stacking must be fitted first", remedy="Fit it on the validation split: ensemble.fit"
        )
    raw = margins(scores) @ fitted.stack.T + fitted.offset
    return np.hstack([np.zeros_like(raw), raw]) if raw.shape[1] == 1 else raw


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


def outcomes(source: Cube) -> metrics.Outcome:
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
