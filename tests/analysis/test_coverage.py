"""Do 95% intervals hold the truth 95 times in 100? Generated data with a known truth and cluster correlation.

Every case has its own recognition rate, drawn from a beta distribution (mean 0.75 for benign, 0.87 for
malignant cases, intra-class correlation 0.25); its 6-40 images are right or wrong by that rate. The truth of
balanced accuracy is then 0.81. Prints the whole table: pytest -s tests/analysis/test_coverage.py
"""

from __future__ import annotations

import numpy as np
import pytest

from engine.analysis import intervals
from engine.analysis.metrics import Outcome

MEANS, CORRELATION = (0.75, 0.87), 0.25
TRUTH = sum(MEANS) / 2


def simulated(rng: np.random.Generator, cases: tuple[int, int]) -> Outcome:
    rates, sizes, labels = [], [], []
    for label, (count, mean) in enumerate(zip(cases, MEANS, strict=True)):
        spread = 1 / CORRELATION - 1
        rates.append(rng.beta(mean * spread, (1 - mean) * spread, count))
        sizes.append(rng.integers(6, 41, count))
        labels.append(np.full(count, label))
    size = np.concatenate(sizes)
    case = np.repeat(np.arange(len(size)), size)
    true = np.repeat(np.concatenate(labels), size)
    right = rng.random(len(case)) < np.repeat(np.concatenate(rates), size)
    guess = np.where(right, true, 1 - true)
    names = tuple(map(str, range(len(size))))
    return Outcome(("benign", "malignant"), true, np.eye(2)[guess], guess, case, names)


def coverage(cases: tuple[int, int], method: str, repeats: int, draws: int) -> tuple[float, float, str, str]:
    """Share of intervals that hold the truth, their median width, and one label and warning."""
    rng = np.random.default_rng(7)
    held, widths, estimate = 0, [], None
    for repeat in range(repeats):
        result = simulated(rng, cases)
        sample = intervals.resample(result, draws=draws, seed=repeat, method=method)
        estimate = intervals.score_estimate("balanced_accuracy", result, sample)
        held += estimate.low <= TRUTH <= estimate.high
        widths.append(estimate.high - estimate.low)
    assert estimate is not None
    return held / repeats, float(np.median(widths)), estimate.method.split(",")[0], estimate.warning


@pytest.mark.slow
def test_intervals_hold_the_truth_as_often_as_they_say():
    rows = {}
    for cases in ((60, 60), (16, 54), (5, 11), (4, 11), (3, 11)):
        for method in ("auto", "percentile", "bca", "naive"):
            repeats = {"auto": 600, "percentile": 400, "bca": 200, "naive": 200}[method]
            draws = 300 if method == "naive" else 800
            rows[cases, method] = coverage(cases, method, repeats, draws)
    print(f"\n{'cases':>8}  {'asked for':<11}{'used':<32}{'covers':>8}{'width':>8}  warning")
    for (cases, method), (share, width, used, warning) in rows.items():
        name = f"{cases[0]}+{cases[1]}"
        print(f"{name:>8}  {method:<11}{used:<32}{share:>8.1%}{width:>8.3f}  {warning}")
    # with 60 cases per class the default covers 93-97%, the naive interval does not come near
    assert 0.93 <= rows[(60, 60), "auto"][0] <= 0.97
    assert rows[(60, 60), "naive"][0] < 0.75
    # BreakHis's own 16 + 54 cases
    assert 0.92 <= rows[(16, 54), "auto"][0] <= 0.97
    for few in (3, 4, 5):
        share, _, used, warning = rows[(few, 11), "auto"]
        assert used.startswith("bootstrap-t")
        assert f"only {few} benign cases" in warning
        assert share >= 0.90
        assert rows[(few, 11), "percentile"][0] < 0.90
        assert share > rows[(few, 11), "percentile"][0] + 0.05
        assert rows[(few, 11), "naive"][0] < 0.75
