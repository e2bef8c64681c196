"""How sure a score is: bootstrap over whole cases, Wilson, and the naive interval for comparison.

Images of one patient resemble each other, so the patient (case) is the unit that is drawn: whole cases with
replacement, within class, 2,000 times. Every score is written as a function of one weight per case, so that
2,000 draws are one matrix product; the same form gives the jackknife (BCa) and the standard error inside
each draw (bootstrap-t) that few cases need. In simulation (tests/analysis/test_coverage.py prints it) the 95%
percentile interval covers the truth 95% of the time with 60 cases per class, 92% with BreakHis's 16 + 54, and
80-85% with 3-5 + 11; bootstrap-t covers 96% and 91-94% of the latter two, at almost twice the width. So
fewer than 20 cases in a class get bootstrap-t, and fewer than 10 a warning.

References: Efron & Tibshirani, An Introduction to the Bootstrap, 1993, chapters 12-14 (bootstrap-t, BCa);
Davison & Hinkley, Bootstrap Methods, 1997, section 3.2 (several samples); Wilson, JASA 22:209, 1927.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from statistics import NormalDist
from typing import Protocol

import numpy as np
import pandas as pd

from engine.analysis import metrics
from engine.analysis.metrics import DEFAULT_SCORES, Outcome, case_labels, case_totals, score_of
from engine.errors import PredictionsError

DRAWS = 2000
BREAKDOWN = (
    12.7  # standard errors: Student's t at 97.5% on one degree of freedom; beyond it bootstrap-t broke down
)
FEW_CASES = 10  # fewer cases than this in a class: a warning
STUDENTISED_BELOW = 20  # fewer than this: bootstrap-t (BCa without a formula). BreakHis has 16 benign cases
CHUNK = 500_000  # numbers held at once by the rank scores: 2 MB, so that they stay in the processor's cache
MANY_UNITS = 600  # above this the pair matrix of AUROC would be larger than the sorted form
METHODS = ("auto", "percentile", "bca", "bootstrap-t", "wilson", "naive")


@dataclass(frozen=True)
class Estimate:
    """A score with its interval and what it rests on; nan is undefined and shown as n/a."""

    value: float
    low: float
    high: float
    level: float
    n_images: int
    n_cases: int
    method: str
    warning: str = ""

    def __str__(self) -> str:
        cases = f", {self.n_cases:,} {'case' if self.n_cases == 1 else 'cases'}" if self.n_cases else ""
        size = f"n = {self.n_images:,} {'image' if self.n_images == 1 else 'images'}{cases}"
        return f"{self.short} · {size}"

    @property
    def short(self) -> str:
        """`0.859 [0.812, 0.901]`, without what it rests on."""
        if np.isnan(self.value):
            return "n/a"
        if np.isnan(self.low) or np.isnan(self.high):
            return f"{self.value:.3f} [n/a]"
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"

    def as_record(self) -> dict[str, float | int | str | None]:
        """As JSON stores it: undefined numbers become null."""
        numbers = {name: getattr(self, name) for name in ("value", "low", "high")}
        return {name: None if np.isnan(number) else float(number) for name, number in numbers.items()} | {
            "level": self.level,
            "n_images": self.n_images,
            "n_cases": self.n_cases,
            "method": self.method,
            "warning": self.warning,
        }


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
    function: object
    size: int

    def at(self, weights):
        return self._score(weights @ self.per_unit.astype(weights.dtype))

    def _score(self, totals):
        return self.function(np.asarray(totals, dtype=float).reshape(-1, self.size, self.size))  # type: ignore[operator]

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
class _Ratio:
    """Weighted sum over weighted count. top, bottom (units,)."""

    top: np.ndarray
    bottom: np.ndarray

    def at(self, weights):
        with np.errstate(divide="ignore", invalid="ignore"):
            total = weights @ self.bottom
            return np.where(total > 0, (weights @ self.top) / total, np.nan)

    def influence(self, weights):
        score = self.at(weights)[:, None]
        return (self.top - score * self.bottom) / (weights @ self.bottom)[:, None]


@dataclass(frozen=True, eq=False)
class _Bins:
    """Calibration error. gaps (units, bins), images (units,)."""

    gaps: np.ndarray
    images: np.ndarray

    def at(self, weights):
        return np.abs(weights @ self.gaps).sum(axis=1) / (weights @ self.images)

    def influence(self, weights):
        signs = np.sign(weights @ self.gaps)
        score = self.at(weights)[:, None]
        return (signs @ self.gaps.T - score * self.images) / (weights @ self.images)[:, None]


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
class _AverageRanks:
    """AUROC with many units: images sorted once, weights summed along the order."""

    positive: np.ndarray
    score: np.ndarray
    unit: np.ndarray

    def at(self, weights):
        order, ends = _descending(self.score)
        up = self.positive[order]
        parts = []
        for rows in _chunks(len(weights), len(order)):
            drawn = np.asarray(weights[rows], dtype=np.float64)[:, self.unit[order]]
            hits = np.cumsum(drawn * up, axis=1)[:, ends]
            misses = np.cumsum(drawn * ~up, axis=1)[:, ends]
            before = np.concatenate([np.zeros((len(hits), 1)), misses[:, :-1]], axis=1)
            step = np.diff(hits, axis=1, prepend=0)
            above = (step * (before + misses) / 2).sum(axis=1)
            with np.errstate(divide="ignore", invalid="ignore"):
                parts.append(1 - above / (hits[:, -1] * misses[:, -1]))
        return np.concatenate(parts)

    def influence(self, weights):
        return None


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
class _PrecisionOfMany:
    """Average precision with many units: as `_AverageRanks`."""

    positive: np.ndarray
    score: np.ndarray
    unit: np.ndarray

    def at(self, weights):
        order, ends = _descending(self.score)
        up = self.positive[order]
        parts = []
        for rows in _chunks(len(weights), len(order)):
            drawn = np.asarray(weights[rows], dtype=np.float64)[:, self.unit[order]]
            total = np.cumsum(drawn, axis=1)[:, ends]
            hits = np.cumsum(drawn * up, axis=1)[:, ends]
            with np.errstate(divide="ignore", invalid="ignore"):
                precision = np.nan_to_num(hits / total)
                parts.append((np.diff(hits, axis=1, prepend=0) * precision).sum(axis=1) / hits[:, -1])
        return np.concatenate(parts)

    def influence(self, weights):
        return None


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


def _descending(score: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
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
        kind = _AverageRanks if name == "auroc" else _PrecisionOfMany
        return kind(positive, score, groups.unit)
    order, ends = _descending(score)
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
        return _Ratio(case_totals(record.function(result.true, result.probs), groups.unit, size), images)
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
        return _Ratio(np.append(per_case, rest), np.append(np.ones(len(per_case)), rest))
    if classes == 2:
        return _rank_statistic(name, result.true == 1, result.probs[:, 1], groups)
    return _Mean(
        [_rank_statistic(name, result.true == k, result.probs[:, k], groups) for k in range(classes)]
    )


# --- intervals -----------------------------------------------------------------------------------------


def wilson(k: int, n: int, level: float = 0.95) -> tuple[float, float]:
    """Wilson's interval of a proportion k / n; nan where n is 0."""
    if n == 0:
        return float("nan"), float("nan")
    z = NormalDist().inv_cdf((1 + level) / 2)
    centre = (k + z * z / 2) / (n + z * z)
    half = z / (n + z * z) * np.sqrt(k * (n - k) / n + z * z / 4)
    return float(max(centre - half, 0)), float(min(centre + half, 1))


def percentile_interval(replicates: np.ndarray, level: float = 0.95) -> tuple[float, float]:
    """The middle `level` of the draws; undefined draws (nan) are left out."""
    finite = replicates[np.isfinite(replicates)]
    if not len(finite):
        return float("nan"), float("nan")
    low, high = np.quantile(finite, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def bca_interval(
    value: float, replicates: np.ndarray, jackknife: np.ndarray, groups: Clusters, level: float = 0.95
) -> tuple[float, float]:
    """Bias-corrected and accelerated, for several samples: jackknife (units,) scores with one unit left out."""
    finite = np.sort(replicates[np.isfinite(replicates)])
    if not len(finite) or not np.isfinite(jackknife).all():
        return percentile_interval(replicates, level)
    normal = NormalDist()
    below = ((finite < value).sum() + (finite == value).sum() / 2) / len(finite)
    bias = normal.inv_cdf(float(np.clip(below, 1 / (2 * len(finite)), 1 - 1 / (2 * len(finite)))))
    cubes = squares = 0.0
    for members in groups.strata():
        if len(members) > 1:
            pull = (len(members) - 1) * (jackknife[members].mean() - jackknife[members]) / len(members)
            cubes, squares = cubes + (pull**3).sum(), squares + (pull**2).sum()
    speed = cubes / (6 * squares**1.5) if squares > 0 else 0.0

    def position(tail: float) -> float:
        z = bias + normal.inv_cdf(tail)
        return normal.cdf(bias + z / max(1 - speed * z, 1e-6))

    low, high = np.quantile(finite, [position((1 - level) / 2), position((1 + level) / 2)])
    return float(low), float(high)


def standard_errors(slopes: np.ndarray, weights: np.ndarray, groups: Clusters) -> np.ndarray:
    """Standard error of a score at each row of weights, from its influence values (rows, units) -> (rows,)."""
    variance = np.zeros(len(weights))
    for members in groups.strata():
        n = len(members)
        if n < 2:
            continue
        drawn, slope = weights[:, members], slopes[:, members]
        centre = (drawn * slope).sum(axis=1, keepdims=True) / n
        variance += n / (n - 1) * (drawn * (slope - centre) ** 2).sum(axis=1)
    return np.sqrt(variance)


def bootstrap_t_interval(
    value: float,
    replicates: np.ndarray,
    errors: np.ndarray,
    error: float,
    level: float = 0.95,
) -> tuple[float, float]:
    """Studentised: each draw's distance from the value in units of that draw's own standard error."""
    usable = np.isfinite(replicates) & np.isfinite(errors)
    gaps = replicates[usable] - value
    scale = errors[usable]
    # a draw of one case over and over has no spread of its own: its distance counts as far out
    flat = scale <= 1e-12
    far = np.where(gaps == 0, 0.0, np.copysign(np.inf, gaps))
    pivots = np.where(flat, far, gaps / np.where(flat, 1, scale))
    if not len(pivots) or not error > 0:
        return float("nan"), float("nan")
    tails = np.quantile(pivots, [(1 + level) / 2, (1 - level) / 2], method="inverted_cdf")
    return float(value - tails[0] * error), float(value - tails[1] * error)


@dataclass(frozen=True, eq=False)
class Resample:
    """The draws shared by everything that is compared: units, weights (draws, units), level, method."""

    groups: Clusters
    weights: np.ndarray
    level: float = 0.95
    method: str = "auto"
    n_images: int = 0
    n_cases: int = 0
    class_names: tuple[str, ...] = ()
    extra_warning: str = ""
    remembered: dict | None = field(default=None, repr=False)
    _cache: dict = field(default_factory=dict, repr=False)

    @property
    def drawn(self) -> np.ndarray:
        """The weights as float64, made once."""
        if "drawn" not in self._cache:
            self._cache["drawn"] = self.weights.astype(float)
        return self._cache["drawn"]

    def statistic(self, name: str, result: Outcome) -> Statistic:
        """A score of an outcome; with `remembered` (a dict) kept with what it computed for these draws."""
        if self.remembered is None:
            return statistic(name, result, self.groups)
        key = (name, id(result))
        if key not in self.remembered:
            kept = Remembered(statistic(name, result, self.groups), (self.weights, self.drawn))
            self.remembered[key] = (result, kept)  # the outcome is kept too: its id must not be used again
        return self.remembered[key][1]

    def estimate(self, measure: Statistic, limits: tuple[float, float] = (-np.inf, np.inf)) -> Estimate:
        """Value, interval, method and warning of one statistic."""
        ones = np.ones((1, self.groups.size))
        value = float(measure.at(ones)[0])
        if np.isnan(value):
            return self._as_estimate(value, np.nan, np.nan, "undefined", "")
        slopes = measure.influence(ones)
        counts = self._cases_that_matter(slopes)
        lonely = self._lonely_cases_that_matter(measure, value)
        if min(counts.values(), default=0) < 2 or lonely:
            return self._as_estimate(value, np.nan, np.nan, "none", self._few({**counts, **lonely}))
        replicates = measure.at(self.weights)
        method = self._method(counts, slopes)
        low, high = self._interval(method, measure, value, replicates, slopes)
        warning = self._few(counts) if min(counts.values()) < FEW_CASES else ""
        lost = float(np.mean(~np.isfinite(replicates)))
        if lost:
            warning = _join(warning, f"undefined in {lost:.1%} of the draws, which are left out")
        if np.nanmax(replicates) - np.nanmin(replicates) < 1e-12:
            warning = _join(warning, "no difference between cases was seen, so the interval has no width")
        low, high = max(low, limits[0]), min(high, limits[1])
        return self._as_estimate(value, low, high, self._label(method), warning)

    def _interval(self, method, measure, value, replicates, slopes) -> tuple[float, float]:
        if method == "bootstrap-t":
            slopes_drawn = measure.influence(self.drawn)
            spread = standard_errors(slopes_drawn, self.drawn, self.groups)  # type: ignore[arg-type]
            own = standard_errors(slopes, np.ones((1, self.groups.size)), self.groups)[0]
            if not own > 0:
                return percentile_interval(replicates, self.level)
            ends = bootstrap_t_interval(value, replicates, spread, own, self.level)
            if max(abs(end - value) for end in ends) <= BREAKDOWN * own:
                return ends
            # Draws with hardly any spread of their own threw an end out of reach: BCa keeps to the range.
            safe = bca_interval(value, replicates, measure.at(self._jackknife()), self.groups, self.level)
            low, high = (
                own_end if abs(own_end - value) <= BREAKDOWN * own else safe_end
                for own_end, safe_end in zip(ends, safe, strict=True)
            )
            return low, high
        if method == "bca":
            return bca_interval(value, replicates, measure.at(self._jackknife()), self.groups, self.level)
        return percentile_interval(replicates, self.level)

    def _jackknife(self) -> np.ndarray:
        if "jackknife" not in self._cache:
            self._cache["jackknife"] = jackknife_weights(self.groups)
        return self._cache["jackknife"]

    def _lonely_cases_that_matter(self, measure: Statistic, value: float) -> dict[int, int]:
        """Classes of one case without which the score would be another: their spread cannot be known."""
        found = {}
        for members in self.groups.strata():
            if len(members) == 1 and self.groups.kind == "case":
                without = np.ones((1, self.groups.size))
                without[0, members] = 0
                if not np.isclose(measure.at(without)[0], value):
                    found[int(self.groups.stratum[members[0]])] = 1
        return found

    def _cases_that_matter(self, slopes: np.ndarray | None) -> dict[int, int]:
        """Units per class whose images the score depends on."""
        counts = {}
        for members in self.groups.strata():
            if slopes is None or np.abs(slopes[0, members]).max() > 1e-12 or len(members) > 1:
                counts[int(self.groups.stratum[members[0]])] = len(members)
        if slopes is not None:
            used = {
                k: n for k, n in counts.items() if np.abs(slopes[0, self.groups.stratum == k]).max() > 1e-12
            }
            return used or counts
        return counts

    def _method(self, counts: dict[int, int], slopes: np.ndarray | None) -> str:
        if self.method == "naive":
            return "percentile"
        if self.method != "auto":
            return "bca" if self.method == "bootstrap-t" and slopes is None else self.method
        if self.groups.kind == "image" or min(counts.values()) >= STUDENTISED_BELOW:
            return "percentile"
        return "bca" if slopes is None else "bootstrap-t"

    def _label(self, method: str) -> str:
        unit = "cases" if self.groups.kind == "case" else "images"
        names = {"percentile": "percentile bootstrap", "bca": "BCa bootstrap", "bootstrap-t": "bootstrap-t"}
        label = f"{names[method]} over {unit}, {len(self.weights):,} draws"
        return f"{label}; image level, ignores clustering" if unit == "images" else label

    def _few(self, counts: dict[int, int]) -> str:
        if self.groups.kind == "image":
            return ""
        few = [(k, n) for k, n in sorted(counts.items()) if n < FEW_CASES]
        parts = [f"{n} {self.class_names[k]} {'case' if n == 1 else 'cases'}" for k, n in few]
        ending = "no interval can be made" if any(n < 2 for _, n in few) else "the interval is rough"
        return f"only {' and '.join(parts)}: {ending}" if parts else ""

    def _as_estimate(self, value, low, high, method, warning) -> Estimate:
        return Estimate(
            value,
            float(low),
            float(high),
            self.level,
            self.n_images,
            self.n_cases,
            method,
            _join(warning, self.extra_warning),
        )


def _join(*sentences: str) -> str:
    return "; ".join(sentence for sentence in sentences if sentence)


def resample(
    result: Outcome, *, draws: int = DRAWS, seed: int = 0, level: float = 0.95, method: str = "auto"
) -> Resample:
    """Draw cases once; every statistic of these images can then be estimated at the same draws.

    method: auto (percentile, or bootstrap-t / BCa when a class has fewer than 20 cases), percentile, bca,
    bootstrap-t, or naive (images instead of cases: too narrow, and labelled so).

    Raises:
        PredictionsError: no such method.
    """
    if method not in METHODS:
        raise PredictionsError(
            "There is no such interval", found=method, remedy=f"Use one of {', '.join(METHODS)}"
        )
    groups = clusters(result, "image" if method == "naive" else "case")
    warning = ""
    if method == "naive":
        warning = "image level: too narrow where images share a patient"
    elif groups.kind == "image":
        warning = "cases unknown: images were resampled, which is too narrow where images share a patient"
    elif (result.case < 0).any():
        warning = f"{int((result.case < 0).sum())} images without a case were resampled one by one"
    return Resample(
        groups,
        draw_weights(groups, draws, seed),
        level,
        method,
        len(result),
        result.n_cases,
        result.classes,
        warning,
    )


def score_estimate(name: str, result: Outcome, sample: Resample) -> Estimate:
    """One score with its interval; a patient proportion (patient diagnosis) gets Wilson's and says k/n."""
    record = score_of(name)
    if not len(result):
        return sample._as_estimate(np.nan, np.nan, np.nan, "undefined", "no images")
    if record.family == "patient" and sample.groups.kind != "case":
        value = metrics.value(name, result)
        if np.isnan(value) or name != "patient_diagnosis":
            return sample._as_estimate(value, np.nan, np.nan, "none", "needs the cases")
    if name == "patient_diagnosis" and sample.method in ("auto", "wilson", "naive"):
        k, n = metrics.patient_counts(result)
        low, high = wilson(k, n, sample.level)
        estimate = sample._as_estimate(k / n if n else np.nan, low, high, f"Wilson, {k}/{n} patients", "")
        return replace(estimate, warning="" if sample.method == "naive" else estimate.warning)
    return sample.estimate(sample.statistic(name, result), record.range)


def estimates(
    predictions: pd.DataFrame,
    names: Iterable[str] | None = None,
    *,
    draws: int = DRAWS,
    seed: int = 0,
    level: float = 0.95,
    method: str = "auto",
    threshold: float | None = None,
) -> dict[str, Estimate]:
    """Score name -> Estimate, all at the same draws (see `resample` for `method`).

    Raises:
        PredictionsError: an unknown score or method.
    """
    result = metrics.outcome(predictions, threshold)
    sample = resample(result, draws=draws, seed=seed, level=level, method=method)
    return {
        name: score_estimate(name, result, sample) for name in (DEFAULT_SCORES if names is None else names)
    }


def estimate(predictions: pd.DataFrame, name: str, **options) -> Estimate:
    """One score with its interval; options as in `estimates`."""
    return estimates(predictions, [name], **options)[name]


def estimate_table(
    predictions: pd.DataFrame, names: Iterable[str] | None = None, by: str | None = None, **options
) -> pd.DataFrame:
    """A row per slice (first `all`), `slice`, then one column of Estimates per score (see `metrics.score_table`)."""
    wanted = list(DEFAULT_SCORES if names is None else names)
    rows: list[dict] = [{"slice": "all"} | estimates(predictions, wanted, **options)]
    if by:
        for text in metrics.slice_values(predictions, by):
            part = predictions[predictions[by].astype(str) == text]
            rows.append({"slice": text} | estimates(part, wanted, **options))
    return pd.DataFrame(rows)
