"""Paired tests of two models on the same images: McNemar over images, sign-flip over whole cases, Holm over many.

References: McNemar, Psychometrika 12:153, 1947; Holm, Scand. J. Stat. 6:65, 1979; Good, Permutation,
Parametric and Bootstrap Tests of Hypotheses, 2005, chapter 3 (exchanging whole clusters).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from engine.analysis import draws, metrics
from engine.analysis.metrics import Outcome

FLIPS = 5_000


@dataclass(frozen=True)
class McNemar:
    """Exact two-sided McNemar test. first_only: images only the first has right; second_only likewise."""

    first_only: int
    second_only: int
    p: float
    label: str = "image level, ignores clustering"


def mcnemar(first_right: np.ndarray, second_right: np.ndarray) -> McNemar:
    """Exact McNemar test of two sets of right / wrong (images,) bool; p is 1 without discordant images."""
    from scipy.special import bdtr

    b, c = int((first_right & ~second_right).sum()), int((~first_right & second_right).sum())
    p = min(1.0, 2 * float(bdtr(min(b, c), b + c, 0.5))) if b + c else 1.0
    return McNemar(b, c, p)


def sign_flip(name: str, first: Outcome, second: Outcome, *, flips: int = FLIPS, seed: int = 0) -> float:
    """Two-sided permutation p of a score's difference: the two models are exchanged, whole cases at a time.

    Every score is handled alike, rank scores included: both models' images stand in one table and each
    exchange takes a case's images from one or from the other. All 2^cases exchanges where they are fewer
    than `flips`, otherwise a random sample. nan where the score is undefined.
    """
    groups = draws.clusters(first)
    size = groups.size
    both = _stack(first, second)
    doubled = draws.Clusters(
        np.concatenate([groups.unit, groups.unit + size]), np.tile(groups.stratum, 2), groups.kind
    )
    if groups.kind != "case" and metrics.score_of(name).family == "patient":
        return float("nan")
    if groups.kind == "case" and (first.case < 0).any():
        both = _own_cases(both, doubled)
    measure = draws.statistic(name, both, doubled)
    exact = 2.0**size <= flips
    if exact:
        swap = ((np.arange(2**size)[:, None] >> np.arange(size)) & 1).astype(np.float32)
    else:
        swap = np.random.default_rng(seed).integers(0, 2, size=(flips, size)).astype(np.float32)

    def gap(kept: np.ndarray) -> np.ndarray:
        return measure.at(np.hstack([kept, 1 - kept])) - measure.at(np.hstack([1 - kept, kept]))

    seen = float(gap(np.ones((1, size), dtype=np.float32))[0])
    if np.isnan(seen):
        return float("nan")
    extreme = int((np.abs(gap(1 - swap)) >= abs(seen) - 1e-9).sum())
    return extreme / len(swap) if exact else (extreme + 1) / (len(swap) + 1)


def _stack(first: Outcome, second: Outcome) -> Outcome:
    """Both models' images in one outcome, the second's cases numbered after the first's."""
    present = np.unique(first.case[first.case >= 0])
    case = np.where(first.case >= 0, np.searchsorted(present, first.case), -1)
    names = tuple(first.cases[k] for k in present)
    return Outcome(
        first.classes,
        np.tile(first.true, 2),
        np.vstack([first.probs, second.probs]),
        np.concatenate([first.guess, second.guess]),
        np.concatenate([case, np.where(case >= 0, case + len(names), -1)]),
        names + names,
        first.threshold,
    )


def _own_cases(both: Outcome, doubled: draws.Clusters) -> Outcome:
    """Images of unknown case as cases of their own, so that every unit is a case."""
    return Outcome(
        both.classes,
        both.true,
        both.probs,
        both.guess,
        doubled.unit,
        tuple(map(str, range(doubled.size))),
        both.threshold,
    )


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down adjustment; nan stays nan and is not counted as a comparison."""
    values = np.asarray(p_values, dtype=float)
    adjusted = np.full(len(values), np.nan)
    known = np.flatnonzero(np.isfinite(values))
    order = known[np.argsort(values[known], kind="stable")]
    steps = values[order] * (len(order) - np.arange(len(order)))
    adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1) if len(order) else []
    return [float(number) for number in adjusted]
