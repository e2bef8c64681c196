"""Every subset of members, scored at once and ranked on validation; and what having searched is worth.

A search is a few matrix products on stored probabilities, so 65,535 subsets take seconds. The best of so many
looks better than it is: `search_optimism` estimates by how much, on cases that were not searched.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from engine.analysis.ensemble import DIGITS, Cube, check_cube, outcomes
from engine.errors import EnsembleError, shorten
from engine.wording import signed

MAX_SEARCH = 16
CHUNK = 300_000  # numbers held at once by a search: 2.4 MB, so that they stay in the processor's cache


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
    progress: Callable[[float], object] | None = None,
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
    check_cube(part.probs, part.ids)
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
            f"optimism {signed(self.optimism)} ({self.tried:,} combinations, {self.repeats} x {self.folds} folds by case)"
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
    result = outcomes(part)
    unit = np.where(result.case >= 0, result.case, result.case.max() + 1 + np.arange(len(result)))
    _, unit = np.unique(unit, return_inverse=True)
    # a case of two labels counts in both classes, so what is scored is the case's part in a class
    pairs, unit = np.unique(unit * len(part.classes) + result.true, return_inverse=True)
    case, label = np.divmod(pairs, len(part.classes))
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
        group = _random_folds(case, label, images, folds, generator)
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


def _random_folds(
    case: np.ndarray, label: np.ndarray, images: np.ndarray, folds: int, generator: np.random.Generator
) -> np.ndarray:
    """A fold per unit: whole cases, each class spread evenly. case, label, images: of each unit (units,).

    A case of several labels is dealt with the class most of its images carry.
    """
    label_of = np.zeros(case.max() + 1, dtype=np.int64)
    order = np.argsort(images, kind="stable")
    label_of[case[order]] = label[order]
    fold_of = np.zeros(len(label_of), dtype=np.int64)
    for value in np.unique(label_of):
        members = generator.permutation(np.flatnonzero(label_of == value))
        fold_of[members] = (np.arange(len(members)) + generator.integers(folds)) % folds
    return fold_of[case]


def _weighted_balanced(right: np.ndarray, images: np.ndarray, label: np.ndarray) -> np.ndarray:
    recall = [right[:, label == k].sum(axis=1) / images[label == k].sum() for k in np.unique(label)]
    return np.mean(recall, axis=0)
