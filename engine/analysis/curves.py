"""Curves: what a figure draws, as tables. ROC, precision-recall, reliability, decision, risk-coverage.

Two classes, the second (malignant) positive; with more, one class against the rest is named. Bands are
pointwise, from draws of whole cases (`intervals`).

References: Vickers & Elkin, Med. Decis. Making 26:565, 2006 (decision curves); Geifman & El-Yaniv, NeurIPS
2017 (risk-coverage).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from engine.analysis import draws, metrics
from engine.analysis.metrics import Outcome
from engine.analysis.proportions import wilson
from engine.errors import PredictionsError

if TYPE_CHECKING:
    from engine.analysis.intervals import Resample

GRID = 101


def positive_of(result: Outcome, positive: int | None) -> tuple[np.ndarray, np.ndarray]:
    """Which images are positive, and their probability of being so."""
    if positive is None:
        if len(result.classes) != 2:
            raise PredictionsError(
                "With more than two classes a curve is of one class against the rest",
                found=", ".join(result.classes),
                remedy="Name the class",
            )
        positive = 1
    return result.true == positive, result.probs[:, positive]


def roc(result: Outcome, positive: int | None = None) -> pd.DataFrame:
    """`threshold, fpr, tpr`, one row per distinct probability, from (0, 0) to (1, 1).

    A threshold calls positive from that probability on. Empty where a class has no image.
    """
    up, score = positive_of(result, positive)
    hits, alarms = metrics.rank_totals(up, score)
    if not hits.sum() or not alarms.sum():
        return pd.DataFrame(columns=["threshold", "fpr", "tpr"], dtype=float)
    return pd.DataFrame(
        {
            "threshold": np.append(np.inf, np.unique(score)[::-1]),
            "fpr": np.append(0, np.cumsum(alarms) / alarms.sum()),
            "tpr": np.append(0, np.cumsum(hits) / hits.sum()),
        }
    )


def precision_recall(result: Outcome, positive: int | None = None) -> pd.DataFrame:
    """`threshold, recall, precision`, one row per distinct probability, from the highest down."""
    up, score = positive_of(result, positive)
    hits, alarms = metrics.rank_totals(up, score)
    if not hits.sum():
        return pd.DataFrame(columns=["threshold", "recall", "precision"], dtype=float)
    found = np.cumsum(hits)
    return pd.DataFrame(
        {
            "threshold": np.unique(score)[::-1],
            "recall": found / hits.sum(),
            "precision": found / (found + np.cumsum(alarms)),
        }
    )


def curve_band(
    kind: str, result: Outcome, sample: Resample, positive: int | None = None, level: float = 0.95
) -> pd.DataFrame:
    """Pointwise band over draws of cases: `x, low, high` at 101 places.

    kind: roc (x = false positive rate, band of the true positive rate) or precision_recall (x = recall,
    band of precision).
    """
    up, score = positive_of(result, positive)
    order, ends = draws.descending(score)
    groups = sample.groups
    grid = np.linspace(0 if kind == "roc" else 0.01, 1, GRID)  # precision at recall 0 is undefined
    if kind not in ("roc", "precision_recall"):
        raise PredictionsError("There is no such band", found=kind, remedy="Use roc or precision_recall")
    if not up.any() or up.all():
        return pd.DataFrame({"x": grid, "low": np.nan, "high": np.nan})
    lines = np.empty((min(len(sample.weights), 500), GRID))
    for row, weights in enumerate(sample.weights[: len(lines)]):
        drawn = weights[groups.unit[order]].astype(float)
        hits = np.cumsum(drawn * up[order])[ends]
        alarms = np.cumsum(drawn * ~up[order])[ends]
        tpr = np.append(0, hits / max(hits[-1], 1e-12))
        if kind == "roc":
            fpr = np.append(0, alarms / max(alarms[-1], 1e-12))
            lines[row] = np.interp(grid, fpr + np.arange(len(fpr)) * 1e-12, tpr)
        else:
            precision = hits / np.maximum(hits + alarms, 1e-12)
            at = np.searchsorted(tpr[1:], grid, side="left").clip(max=len(precision) - 1)
            lines[row] = precision[at]
    low, high = np.quantile(lines, [(1 - level) / 2, (1 + level) / 2], axis=0)
    return pd.DataFrame({"x": grid, "low": low, "high": high})


def reliability(
    result: Outcome, bins: int = 10, positive: int | None = None, level: float = 0.95
) -> pd.DataFrame:
    """`low, high, n, predicted, observed, observed_low, observed_high` per bin of the positive probability.

    Empty bins are left out. The bounds are Wilson's over images, which ignores that they share patients.
    """
    up, score = positive_of(result, positive)
    group = np.minimum((score * bins).astype(np.int64), bins - 1)
    rows = []
    for k in np.unique(group):
        inside = group == k
        hits, n = int(up[inside].sum()), int(inside.sum())
        low, high = wilson(hits, n, level)
        rows.append((k / bins, (k + 1) / bins, n, score[inside].mean(), hits / n, low, high))
    names = ["low", "high", "n", "predicted", "observed", "observed_low", "observed_high"]
    return pd.DataFrame(rows, columns=names)


def decision_curve(result: Outcome, positive: int | None = None) -> pd.DataFrame:
    """`threshold, net_benefit, treat_all, treat_none`: benefit per image of acting from a probability on.

    net benefit = tp/n - fp/n * threshold / (1 - threshold).
    """
    up, score = positive_of(result, positive)
    threshold = np.linspace(0.01, 0.99, 99)
    odds = threshold / (1 - threshold)
    if not len(up):
        nothing = np.full(99, np.nan)
        return pd.DataFrame(
            {"threshold": threshold, "net_benefit": nothing, "treat_all": nothing, "treat_none": 0.0}
        )
    called = score[:, None] >= threshold
    tp, fp = (called & up[:, None]).mean(axis=0), (called & ~up[:, None]).mean(axis=0)
    return pd.DataFrame(
        {
            "threshold": threshold,
            "net_benefit": tp - fp * odds,
            "treat_all": up.mean() - (1 - up.mean()) * odds,
            "treat_none": 0.0,
        }
    )


def risk_coverage(result: Outcome, confidence: np.ndarray | None = None) -> pd.DataFrame:
    """`coverage, risk, confidence, n`: error rate when only the surest share of images is judged.

    confidence: how sure, per image; the probability of the predicted class unless given (agreement of an
    ensemble's members, say). Images of equal confidence are judged together.
    """
    sure = result.probs[np.arange(len(result)), result.guess] if confidence is None else confidence
    if not len(sure):
        return pd.DataFrame(columns=["coverage", "risk", "confidence", "n"], dtype=float)
    order, ends = draws.descending(np.asarray(sure, dtype=float))
    wrong = np.cumsum(result.true[order] != result.guess[order])[ends]
    return pd.DataFrame(
        {
            "coverage": (ends + 1) / len(order),
            "risk": wrong / (ends + 1),
            "confidence": np.asarray(sure)[order][ends],
            "n": ends + 1,
        }
    )
