"""What is drawn (whole cases, within class), and every score as a function of how often each case is drawn.

In that form 2,000 draws of a score are one matrix product. The same form gives the jackknife (BCa) and the
standard error inside each draw (bootstrap-t), see `intervals`; and it exchanges whole cases between two models,
see `paired`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from engine.analysis import metrics
from engine.analysis.metrics import Outcome, case_labels, case_totals, score_of
from engine.errors import PredictionsError

DRAWS = 2000
CHUNK = 500_000  # numbers held at once by the rank scores: 2 MB, so that they stay in the processor's cache
MANY_UNITS = 600  # above this the pair matrix of AUROC would be larger than the sorted form


# --- what is drawn -------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Clusters:
    """The units that are drawn. unit: index per image (images,). stratum: class per unit (units,)."""

    unit: np.ndarray
    stratum: np.ndarray
    kind: str  # case | image

    @property
    def size(self) -> int:
        return len(self.stratum)

    def strata(self) -> list[np.ndarray]:
        """Positions of the units of each class present."""
        return [np.flatnonzero(self.stratum == k) for k in np.unique(self.stratum)]


def clusters(result: Outcome, kind: str = "case") -> Clusters:
    """Cases as units, within the class most of their images carry; images where no case is known.

    Images without a case among images with one are units of their own.
    """
    known = result.case >= 0
    if kind == "image" or not known.any():
        return Clusters(np.arange(len(result)), result.true.copy(), "image")
    present = np.unique(result.case[known])
    unit = np.searchsorted(present, result.case)
    unit[~known] = len(present) + np.arange(int((~known).sum()))
    stratum = np.concatenate([case_labels(result)[present], result.true[~known]])
    return Clusters(unit, stratum, "case")


def draw_weights(groups: Clusters, draws: int = DRAWS, seed: int = 0) -> np.ndarray:
    """How often each unit is drawn, float32 (draws, units); each class keeps its number of units."""
    generator = np.random.default_rng(seed)
    weights = np.zeros((draws, groups.size), dtype=np.float32)
    rows = np.arange(draws)[:, None]
    for members in groups.strata():
        picks = generator.integers(0, len(members), size=(draws, len(members)))
        counts = np.bincount((picks + rows * len(members)).ravel(), minlength=draws * len(members))
        weights[:, members] = counts.reshape(draws, len(members))
    return weights


def jackknife_weights(groups: Clusters) -> np.ndarray:
    """Each unit left out once, its class scaled back to its size, float64 (units, units)."""
    weights = np.ones((groups.size, groups.size))
    for members in groups.strata():
        if len(members) > 1:
            weights[np.ix_(members, members)] = len(members) / (len(members) - 1)
    np.fill_diagonal(weights, 0)
    return weights


# --- a score as a function of the weights --------------------------------------------------------------


class Statistic(Protocol):
    """A score of fixed predictions, as a function of one weight per unit."""

    def at(self, weights: np.ndarray) -> np.ndarray:
        """weights (rows, units) -> score (rows,)."""
        ...

    def influence(self, weights: np.ndarray) -> np.ndarray | None:
        """Derivative of the score by each unit's weight, (rows, units); None where there is no formula."""
        ...


@dataclass(frozen=True, eq=False)
class _Counts:
    """A function of the confusion matrix. per_unit (units, classes^2)."""

    per_unit: np.ndarray
    function: Callable[[np.ndarray], np.ndarray]
    size: int

    def at(self, weights):
        return self._score(weights @ self.per_unit.astype(weights.dtype))

    def _score(self, totals):
        return self.function(np.asarray(totals, dtype=float).reshape(-1, self.size, self.size))

    def influence(self, weights):
        totals = np.asarray(weights, dtype=float) @ self.per_unit
        steps = np.eye(self.size**2) * 1e-4
        slopes = [(self._score(totals + step) - self._score(np.maximum(totals - step, 0))) for step in steps]
        widths = [
            (totals + step - np.maximum(totals - step, 0))[:, k] for k, step in enumerate(steps)
        ]  # one-sided at an empty cell
        gradient = np.stack([slope / width for slope, width in zip(slopes, widths, strict=True)], axis=1)
        return gradient @ self.per_unit.T


@dataclass(frozen=True, eq=False)
class Ratio:
    """Weighted sum over weighted count: the mean of one value per image, or per case. top, bottom (units,)."""

    top: np.ndarray
    bottom: np.ndarray

    def at(self, weights):
        total = weights @ self.bottom
        return np.divide(weights @ self.top, total, out=np.full(len(weights), np.nan), where=total > 0)

    def influence(self, weights):
        total = (weights @ self.bottom)[:, None]
        gap = self.top - self.at(weights)[:, None] * self.bottom
        return np.divide(gap, total, out=np.zeros_like(gap), where=total > 0)


@dataclass(frozen=True, eq=False)
class _Bins:
    """Calibration error. gaps (units, bins), images (units,)."""

    gaps: np.ndarray
    images: np.ndarray

    def at(self, weights):
        total = weights @ self.images
        gap = np.abs(weights @ self.gaps).sum(axis=1)
        return np.divide(gap, total, out=np.full(len(weights), np.nan), where=total > 0)

    def influence(self, weights):
        signs = np.sign(weights @ self.gaps)
        total = (weights @ self.images)[:, None]
        slope = signs @ self.gaps.T - self.at(weights)[:, None] * self.images
        return np.divide(slope, total, out=np.zeros_like(slope), where=total > 0)


@dataclass(frozen=True, eq=False)
class _PairWins:
    """AUROC as a bilinear form: wins (units, units) of positives of one unit over negatives of another."""

    wins: np.ndarray
    up: np.ndarray
    down: np.ndarray

    def at(self, weights):
        with np.errstate(divide="ignore", invalid="ignore"):
            pairs = (weights @ self.up) * (weights @ self.down)
            return np.where(pairs > 0, ((weights @ self.wins) * weights).sum(axis=1) / pairs, np.nan)

    def influence(self, weights):
        up, down = (weights @ self.up)[:, None], (weights @ self.down)[:, None]
        slope = (weights @ self.wins + weights @ self.wins.T) / (up * down)
        return slope - self.at(weights)[:, None] * (self.up / up + self.down / down)


@dataclass(frozen=True, eq=False)
class _Precision:
    """Average precision, by counts at each distinct score that holds a positive image.

    hits, misses float32 (units, thresholds): positive and negative images of the unit at or above it.
    """

    hits: np.ndarray
    misses: np.ndarray

    def at(self, weights):
        parts = []
        for rows in _chunks(len(weights), self.hits.shape[1]):
            drawn = weights[rows].astype(self.hits.dtype)
            found = drawn @ self.hits
            share = drawn @ self.misses
            share += found
            np.maximum(share, 0.5, out=share)  # where no image is drawn, found is 0 and so is the quotient
            np.divide(found, share, out=share)
            total = found[:, -1].copy()
            found[:, 1:] -= found[:, :-1].copy()
            with np.errstate(divide="ignore", invalid="ignore"):
                parts.append(np.einsum("ij,ij->i", found, share) / total)
        return np.concatenate(parts).astype(float)

    def influence(self, weights):
        return None


@dataclass(frozen=True, eq=False)
class _Sorted:
    """A rank score with many units: images sorted once, weights summed along the order.

    positive bool, score, unit (images,). score_of: drawn positives and negatives at or above each distinct score,
    (rows, distinct scores) each -> (rows,).
    """

    positive: np.ndarray
    score: np.ndarray
    unit: np.ndarray
    score_of: Callable[[np.ndarray, np.ndarray], np.ndarray]

    def at(self, weights):
        order, ends = descending(self.score)
        up = self.positive[order]
        parts = []
        for rows in _chunks(len(weights), len(order)):
            drawn = np.asarray(weights[rows], dtype=np.float64)[:, self.unit[order]]
            hits = np.cumsum(drawn * up, axis=1)[:, ends]
            misses = np.cumsum(drawn * ~up, axis=1)[:, ends]
            with np.errstate(divide="ignore", invalid="ignore"):
                parts.append(self.score_of(hits, misses))
        return np.concatenate(parts)

    def influence(self, weights):
        return None


def _area_under_roc(hits: np.ndarray, misses: np.ndarray) -> np.ndarray:
    before = np.concatenate([np.zeros((len(hits), 1)), misses[:, :-1]], axis=1)
    above = (np.diff(hits, axis=1, prepend=0) * (before + misses) / 2).sum(axis=1)
    return 1 - above / (hits[:, -1] * misses[:, -1])


def _area_under_precision(hits: np.ndarray, misses: np.ndarray) -> np.ndarray:
    precision = np.nan_to_num(hits / (hits + misses))  # nothing drawn so far: no step in recall either
    return (np.diff(hits, axis=1, prepend=0) * precision).sum(axis=1) / hits[:, -1]


@dataclass(frozen=True, eq=False)
class _Mean:
    """The mean of several statistics (one-against-rest scores)."""

    parts: Sequence[Statistic]

    def at(self, weights):
        return np.mean([part.at(weights) for part in self.parts], axis=0)

    def influence(self, weights):
        slopes = [part.influence(weights) for part in self.parts]
        return None if any(slope is None for slope in slopes) else np.mean(slopes, axis=0)  # type: ignore[arg-type]


class Remembered:
    """A statistic that keeps what it computed for the draws of one Resample (the same array objects)."""

    def __init__(self, measure: Statistic, weights: Sequence[np.ndarray]):
        self.measure, self.known = measure, {id(array) for array in weights}
        self.values: dict[int, np.ndarray] = {}
        self.slopes: dict[int, np.ndarray | None] = {}

    def at(self, weights: np.ndarray) -> np.ndarray:
        if id(weights) not in self.known:
            return self.measure.at(weights)
        if id(weights) not in self.values:
            self.values[id(weights)] = self.measure.at(weights)
        return self.values[id(weights)]

    def influence(self, weights: np.ndarray) -> np.ndarray | None:
        if id(weights) not in self.known:
            return self.measure.influence(weights)
        if id(weights) not in self.slopes:
            self.slopes[id(weights)] = self.measure.influence(weights)
        return self.slopes[id(weights)]


@dataclass(frozen=True, eq=False)
class Difference:
    """One statistic minus another, at the same draws: what makes an interval paired."""

    first: Statistic
    second: Statistic

    def at(self, weights):
        return self.first.at(weights) - self.second.at(weights)

    def influence(self, weights):
        first, second = self.first.influence(weights), self.second.influence(weights)
        return None if first is None or second is None else first - second


def descending(score: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Order from the highest score down, and the last position of each distinct score in it."""
    order = np.argsort(-score, kind="stable")
    sorted_score = score[order]
    return order, np.append(np.flatnonzero(np.diff(sorted_score)), len(order) - 1)


def _chunks(rows: int, width: int) -> list[slice]:
    step = max(1, CHUNK // max(width, 1))
    return [slice(start, start + step) for start in range(0, rows, step)]


def _cumulative(
    flags: np.ndarray, unit: np.ndarray, size: int, order: np.ndarray, ends: np.ndarray
) -> np.ndarray:
    """Flagged images of each unit at or above each distinct score, float32 (units, distinct scores)."""
    group = np.searchsorted(ends, np.arange(len(order)))
    table = np.zeros((size, len(ends)), dtype=np.float32)
    chosen = flags[order]
    np.add.at(table, (unit[order][chosen], group[chosen]), 1)
    return np.cumsum(table, axis=1, out=table)


def _rank_statistic(name: str, positive: np.ndarray, score: np.ndarray, groups: Clusters) -> Statistic:
    if groups.size > MANY_UNITS:
        area = _area_under_roc if name == "auroc" else _area_under_precision
        return _Sorted(positive, score, groups.unit, area)
    order, ends = descending(score)
    misses = _cumulative(~positive, groups.unit, groups.size, order, ends)
    if name == "average_precision":
        hits = _cumulative(positive, groups.unit, groups.size, order, ends)
        steps = np.diff(hits.sum(axis=0), prepend=0) > 0
        return _Precision(np.ascontiguousarray(hits[:, steps]), np.ascontiguousarray(misses[:, steps]))
    # a positive image beats the negatives below it: all of the unit's, less those at or above (ties half)
    group = np.empty(len(order), dtype=np.int64)
    group[order] = np.searchsorted(ends, np.arange(len(order)))
    above = np.concatenate([np.zeros((groups.size, 1)), misses], axis=1)
    beaten = above[:, -1:] - (above[:, 1:] + above[:, :-1]) / 2
    up = np.zeros((groups.size, len(ends)))
    np.add.at(up, (groups.unit[positive], group[positive]), 1)
    return _PairWins(
        up @ beaten.T,
        np.bincount(groups.unit, weights=positive, minlength=groups.size),
        np.bincount(groups.unit, weights=~positive, minlength=groups.size),
    )


def statistic(name: str, result: Outcome, groups: Clusters) -> Statistic:
    """A score as a function of the weights of the units.

    Raises:
        PredictionsError: no such score, or a patient score over units that are not cases.
    """
    record = score_of(name)
    size, classes = groups.size, len(result.classes)
    if record.family == "counts":
        cells = np.bincount(
            (groups.unit * classes + result.true) * classes + result.guess, minlength=size * classes**2
        )
        return _Counts(cells.reshape(size, classes**2).astype(float), record.function, classes)
    images = np.bincount(groups.unit, minlength=size).astype(float)
    if record.family == "mean":
        return Ratio(case_totals(record.function(result.true, result.probs), groups.unit, size), images)
    if record.family == "bins":
        confidence, bins = metrics.confidence_bins(result.probs)
        gaps = (result.probs.argmax(axis=1) == result.true) - confidence
        table = np.bincount(
            groups.unit * metrics.ECE_BINS + bins, weights=gaps, minlength=size * metrics.ECE_BINS
        )
        return _Bins(table.reshape(size, metrics.ECE_BINS), images)
    if record.family == "patient":
        if groups.kind != "case":
            raise PredictionsError(
                f"{record.title} needs to know the cases",
                found="images without a case",
                remedy="Give the predictions a column case",
            )
        per_case = record.function(result)
        per_case = per_case[np.isfinite(per_case)]
        rest = np.zeros(size - len(per_case))  # images without a case come last and do not count
        return Ratio(np.append(per_case, rest), np.append(np.ones(len(per_case)), rest))
    if classes == 2:
        return _rank_statistic(name, result.true == 1, result.probs[:, 1], groups)
    return _Mean(
        [_rank_statistic(name, result.true == k, result.probs[:, k], groups) for k in range(classes)]
    )
