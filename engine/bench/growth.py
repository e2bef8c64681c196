"""How the work grows: 10, 100 and 1,000 runs listed; 1, 10 and 100 thousand predictions scored.

A growth exponent of 1 is linear: ten times the data, ten times the time. Beside the scoring stands scikit-learn
with the same scores of the same images, and `scipy.stats.bootstrap`'s way of drawing: every draw scored anew.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter, sleep
from typing import Any

import numpy as np
import pandas as pd

from engine.analysis import intervals, metrics
from engine.analysis.predictions import validate
from engine.bench.compare import best_of
from engine.bench.runs import make_runs, own_cache
from engine.runs import listing

RUNS, PREDICTIONS, DRAWS, REFERENCE_DRAWS = (10, 100, 1000), (1_000, 10_000, 100_000), 2000, 5


def run(
    runs: Sequence[int] = RUNS,
    predictions: Sequence[int] = PREDICTIONS,
    draws: int = DRAWS,
    repeats: int = 3,
) -> list[dict[str, Any]]:
    """Measure; a record per size.

    Args:
        runs: how many run folders are listed, rising.
        predictions: how many images are scored, rising; 70 cases.
        draws: bootstrap draws of the interval.

    Returns:
        Records `what, ours_s, ours_cpu_s, theirs_s, ratio, limit_s, within, detail`; `detail` gives the growth
        exponent since the size before.
    """
    records: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="bench-growth-") as place, own_cache(Path(place) / "cache"):
        roots = {count: Path(place) / f"{count}" for count in runs}
        for count, root in roots.items():
            make_runs(root, count, 5)
        sleep(listing.YOUNG_S)  # what was written a moment ago is not remembered
        for count, root in roots.items():
            listing.summaries(root)
            ours = best_of(lambda root=root: listing.summaries(root), repeats)
            records.append(_record(f"listing {count:,} runs", ours, None, _exponent(records, count, ours)))
    scored: list[dict[str, Any]] = []
    for count in predictions:
        table = made_up(count)
        ours = best_of(lambda table=table: _scored(table, draws), repeats)
        theirs = _reference(table, draws, REFERENCE_DRAWS)
        what = f"balanced accuracy of {count:,} predictions, {draws:,} draws of cases"
        scored.append(_record(what, ours, theirs, _exponent(scored, count, ours)))
    return records + scored


def made_up(count: int, seed: int = 0) -> pd.DataFrame:
    """Predictions of so many images: 70 cases, 22 of them benign."""
    rng = np.random.default_rng(seed)
    case = rng.integers(0, 70, count)
    side = np.where(case >= 22, 1.0, -1.0)
    p = 1 / (1 + np.exp(-(side + 0.8 * rng.normal(0, 1, 70)[case] + rng.normal(0, 1, count))))
    return validate(
        pd.DataFrame(
            {
                "image_id": [f"{k}.png" for k in range(count)],
                "case": [f"14-{k}" for k in case],
                "slide": "",
                "magnification": np.array(["40X", "100X", "200X", "400X"])[np.arange(count) % 4],
                "subtype": "",
                "label": np.where(side > 0, "malignant", "benign"),
                "prob_benign": 1 - p,
                "prob_malignant": p,
            }
        )
    )


def _scored(table: pd.DataFrame, draws: int) -> intervals.Estimate:
    result = metrics.outcome(table)
    return intervals.score_estimate("balanced_accuracy", result, intervals.resample(result, draws=draws))


def _reference(table: pd.DataFrame, draws: int, measured: int) -> float:
    """Seconds of the usual way: a few draws measured, scaled to all of them."""
    from sklearn.metrics import balanced_accuracy_score

    rng = np.random.default_rng(0)
    true = (table["label"] == "malignant").to_numpy()
    guess = (table["prob_malignant"] > 0.5).to_numpy()
    case = table["case"].to_numpy()
    rows = {name: np.flatnonzero(case == name) for name in np.unique(case)}
    names = list(rows)
    began = perf_counter()
    for _ in range(measured):
        drawn = np.concatenate([rows[names[k]] for k in rng.integers(0, len(names), len(names))])
        balanced_accuracy_score(true[drawn], guess[drawn])
    return (perf_counter() - began) * draws / measured


def _exponent(records: list[dict[str, Any]], count: int, ours: tuple[float, float]) -> str:
    if not records:
        return ""
    before = records[-1]
    size = int("".join(c for c in before["what"].split(" runs")[0].split(" predictions")[0] if c.isdigit()))
    power = math.log(ours[0] / before["ours_s"]) / math.log(count / size)
    return f"{count / size:.0f} times as many take {ours[0] / before['ours_s']:.1f} times as long (exponent {power:.2f})"


def _record(what: str, times: tuple[float, float], theirs: float | None, detail: str) -> dict[str, Any]:
    return {
        "what": what,
        "ours_s": times[0],
        "ours_cpu_s": times[1],
        "theirs_s": theirs,
        "ratio": None if theirs is None else theirs / times[0],
        "limit_s": None,
        "within": None,
        "detail": detail,
    }
