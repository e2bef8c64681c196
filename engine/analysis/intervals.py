"""How sure a score is: bootstrap over whole cases, Wilson, and the naive interval for comparison.

Images of one patient resemble each other, so the patient (case) is the unit that is drawn: whole cases with
replacement, within class, 2,000 times. Every score is written as a function of one weight per case, so that
2,000 draws are one matrix product; the same form gives the jackknife (BCa) and the standard error inside
each draw (bootstrap-t) that few cases need. In simulation (tests/analysis/test_coverage.py prints it) the 95%
percentile interval covers the truth 95% of the time with 60 cases per class, 92% with BreakHis's 16 + 54, and
80-85% with 3-5 + 11; bootstrap-t covers 96% and 91-94% of the latter two, at almost twice the width. So
fewer than 20 cases in a class get bootstrap-t, and fewer than 10 a warning.

References: Efron & Tibshirani, An Introduction to the Bootstrap, 1993, chapters 12-14 (bootstrap-t, BCa);
Davison & Hinkley, Bootstrap Methods, 1997, section 3.2 (several samples).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from statistics import NormalDist

import numpy as np
import pandas as pd

from engine.analysis import metrics
from engine.analysis.draws import (
    DRAWS,
    Clusters,
    Remembered,
    Statistic,
    clusters,
    draw_weights,
    jackknife_weights,
    statistic,
)
from engine.analysis.metrics import DEFAULT_SCORES, Outcome, score_of
from engine.analysis.proportions import wilson
from engine.errors import PredictionsError

BREAKDOWN = (
    12.7  # standard errors: Student's t at 97.5% on one degree of freedom; beyond it bootstrap-t broke down
)
FEW_CASES = 10  # fewer cases than this in a class: a warning
STUDENTISED_BELOW = 20  # fewer than this: bootstrap-t (BCa without a formula). BreakHis has 16 benign cases
METHODS = ("auto", "percentile", "bca", "bootstrap-t", "naive")


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


# --- intervals -----------------------------------------------------------------------------------------


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
    if name == "patient_diagnosis" and sample.method in ("auto", "naive"):
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
