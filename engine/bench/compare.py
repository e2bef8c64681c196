"""How fast a comparison is, beside scikit-learn and `scipy.stats.bootstrap` doing the same work.

Ten entries of BreakHis's size and case structure (7,909 images, 70 cases, from the slide inventory) with
made-up probabilities. The other side draws cases within class as ours does and scores every draw with
scikit-learn.
"""

from __future__ import annotations

import io
import tempfile
from collections.abc import Callable, Mapping
from importlib import resources
from pathlib import Path
from time import perf_counter, process_time

import numpy as np
import pandas as pd
from PIL import Image

from engine.analysis import comparison, intervals, metrics
from engine.analysis.comparison import Entry
from engine.analysis.metrics import DEFAULT_SCORES, Outcome
from engine.analysis.predictions import validate
from engine.data.images import encode_png
from engine.data.manifest import MAGNIFICATIONS
from engine.data.thumbnails import thumbnail_jpeg
from engine.report import confusion

GALLERY = 15  # images on a page of the gallery
LIMITS = {
    "gallery": 0.5,
    "matrices": 0.3,
    "tables": 0.3,
    "balanced_accuracy": 0.1,
    "auroc": 0.5,
    "average_precision": 0.5,
    "table": 5.0,
}
Note = Callable[[str], None]


def breakhis_like(seed: int, skill: float = 1.0) -> pd.DataFrame:
    """Predictions for all 7,909 images of the inventory: a case effect, an image effect, and noise."""
    with resources.files("engine.data.facts").joinpath("breakhis_slides.csv").open() as file:
        slides = pd.read_csv(file).rename(columns={"class": "kind"})
    rng = np.random.default_rng(seed)
    cases = {case: rng.normal(0, 1) for case in sorted(slides["case"].unique())}
    parts = []
    for row in slides.itertuples():
        for power in MAGNIFICATIONS:
            count = int(getattr(row, f"images_{power}"))
            side = 1 if row.kind == "malignant" else -1
            margin = skill * side + 0.8 * cases[row.case] + rng.normal(0, 1, count)
            parts.append(
                pd.DataFrame(
                    {
                        "image_id": [f"{row.slide}-{power[:-1]}-{k:03d}.png" for k in range(1, count + 1)],
                        "case": row.case,
                        "slide": row.slide,
                        "magnification": power,
                        "subtype": row.subtype,
                        "label": "malignant" if side > 0 else "benign",
                        "prob_malignant": 1 / (1 + np.exp(-margin)),
                    }
                )
            )
    table = pd.concat(parts, ignore_index=True)
    return validate(table.assign(prob_benign=1 - table["prob_malignant"]))


def best_of(work: Callable[[], object], repeats: int = 3) -> tuple[float, float]:
    """(elapsed, processor) seconds of the fastest of a few runs; on a busy machine the two differ."""
    times = []
    for _ in range(repeats):
        start, busy = perf_counter(), process_time()
        work()
        times.append((perf_counter() - start, process_time() - busy))
    return min(times)


def run(
    entries: int = 10, draws: int = 2000, reference_draws: int = 200, note: Note = lambda _: None
) -> list[dict]:
    """Measure. The slow side runs `reference_draws` draws and its time is scaled to `draws`.

    Returns:
        Records `what, ours_s, ours_cpu_s, theirs_s, ratio, limit_s, within, detail`; theirs is None where there is no
        counterpart.
    """
    note(f"making {entries} entries of 7,909 predictions")
    tables = {f"entry {k + 1}": breakhis_like(k, 0.8 + 0.05 * k) for k in range(entries)}
    items = [Entry(name, name, table) for name, table in tables.items()]
    result = metrics.outcome(items[0].predictions)
    records = []
    note("tables and matrices")
    ours = best_of(lambda: comparison.compare(items, with_intervals=False))
    theirs, _ = best_of(lambda: [_reference_tables(entry.predictions) for entry in items], 1)
    records.append(record(LIMITS, "tables", f"scores and matrices of {entries} entries", ours, theirs))
    for name in ("balanced_accuracy", "auroc", "average_precision"):
        note(f"bootstrap of {name}")
        estimate: dict[str, intervals.Estimate] = {}

        def work(name: str = name, estimate: dict = estimate) -> None:
            sample = intervals.resample(result, draws=draws)
            estimate["ours"] = intervals.score_estimate(name, result, sample)

        ours = best_of(work)
        seconds, low, high = _reference_bootstrap(name, result, reference_draws)
        detail = f"ours {estimate['ours'].short} ({estimate['ours'].method}), theirs [{low:.3f}, {high:.3f}]"
        what = f"{metrics.SCORES[name].title}, {draws:,} draws"
        records.append(record(LIMITS, name, what, ours, seconds * draws / reference_draws, detail))
    note("whole table with intervals and paired tests")
    ours = best_of(lambda: comparison.compare(items, draws=draws), 1)
    what = f"{entries} entries x {len(DEFAULT_SCORES)} scores, intervals, differences, permutation tests"
    records.append(record(LIMITS, "table", what, ours, None))
    note("drawing the matrices")
    table = comparison.compare(items, with_intervals=False)
    rows = [confusion.Row(one.id, one.name, "#44AA99", one.confusion) for one in table.entries]
    parts = [*MAGNIFICATIONS, "all"]
    ours = best_of(lambda: confusion.figure(rows, parts, table.aligned.classes).to_json())
    records.append(
        record(LIMITS, "matrices", f"figure of {entries} x {len(parts)} confusion matrices", ours, None)
    )
    note("a page of the gallery")
    first, ours, theirs = _gallery()
    detail = f"the first time, from PNG: {1000 * first:.0f} ms"
    what = f"{GALLERY} stored thumbnails beside decoding 700 x 460 PNG with PIL"
    records.append(record(LIMITS, "gallery", what, ours, theirs, detail))
    return records


def _gallery() -> tuple[float, tuple[float, float], float]:
    """(seconds to make a page of thumbnails, seconds to read it again, seconds of PIL from the files)."""
    drawn = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as scratch:
        files = [Path(scratch) / f"{k}.png" for k in range(GALLERY)]
        for file in files:  # noise on a coarse grid: about as large as a real image of BreakHis
            coarse = drawn.integers(120, 230, (46, 70, 3), dtype=np.uint8)
            fine = np.kron(coarse, np.ones((10, 10, 1), dtype=np.uint8))
            file.write_bytes(encode_png(fine + drawn.integers(0, 25, fine.shape, dtype=np.uint8)))

        def page() -> list[bytes]:
            return [thumbnail_jpeg(file, 320, Path(scratch) / "store") for file in files]

        def slow() -> None:
            for file in files:
                with Image.open(file) as image:
                    image.convert("RGB").resize((320, 210)).save(io.BytesIO(), "JPEG")

        first, _ = best_of(page, 1)
        return first, best_of(page), best_of(slow, 1)[0]


def record(
    limits: Mapping[str, float],
    key: str,
    what: str,
    times: tuple[float, float],
    theirs: float | None,
    detail: str = "",
) -> dict:
    """One measurement beside its limit. times: seconds on the clock and of the processor; theirs: seconds."""
    ours, busy = times
    return {
        "what": what,
        "ours_s": ours,
        "ours_cpu_s": busy,
        "theirs_s": theirs,
        "ratio": None if theirs is None else theirs / ours,
        "limit_s": limits[key],
        "within": ours <= limits[key],
        "detail": detail,
    }


def _reference_tables(table: pd.DataFrame) -> None:
    """The same scores and matrices the way a notebook would: scikit-learn and groupby."""
    from sklearn import metrics as reference

    true = (table["label"] == "malignant").to_numpy(dtype=int)
    score = table["prob_malignant"].to_numpy()
    guess = (score > 0.5).astype(int)
    reference.accuracy_score(true, guess)
    reference.balanced_accuracy_score(true, guess)
    reference.recall_score(true, guess)
    reference.recall_score(true, guess, pos_label=0)
    reference.roc_auc_score(true, score)
    by_case = table.assign(right=true == guess).groupby("case")
    by_case["right"].mean().mean()
    by_case["prob_malignant"].mean()
    reference.confusion_matrix(true, guess)
    for power in MAGNIFICATIONS:
        rows = (table["magnification"] == power).to_numpy()
        reference.confusion_matrix(true[rows], guess[rows], labels=[0, 1])


def _reference_bootstrap(name: str, result: Outcome, draws: int) -> tuple[float, float, float]:
    """Seconds and interval of `scipy.stats.bootstrap` over cases within class, scored by scikit-learn."""
    from scipy import stats
    from sklearn import metrics as reference

    labels = metrics.case_labels(result)
    images = [np.flatnonzero(result.case == k) for k in range(len(labels))]
    score, guess = result.probs[:, 1], result.guess

    def statistic(benign: np.ndarray, malignant: np.ndarray) -> float:
        rows = np.concatenate([images[int(k)] for k in np.concatenate([benign, malignant])])
        if name == "balanced_accuracy":
            return float(reference.balanced_accuracy_score(result.true[rows], guess[rows]))
        function = reference.roc_auc_score if name == "auroc" else reference.average_precision_score
        return float(function(result.true[rows], score[rows]))

    samples = (np.flatnonzero(labels == 0), np.flatnonzero(labels == 1))
    start = perf_counter()
    found = stats.bootstrap(
        samples, statistic, n_resamples=draws, vectorized=False, method="percentile", rng=0
    ).confidence_interval
    return perf_counter() - start, float(found.low), float(found.high)
