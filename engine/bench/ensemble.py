"""How fast every subset of members is scored, beside a loop over scikit-learn's and mlxtend's voting.

The loop asks scikit-learn's own `VotingClassifier.predict` (and mlxtend's `EnsembleVoteClassifier.predict` where
that is installed) for each subset, of estimators that only look stored predictions up; then scikit-learn's
balanced accuracy. No model runs on either side.
"""

from __future__ import annotations

import resource
from collections.abc import Callable
from time import perf_counter, process_time

import numpy as np
import pandas as pd

from engine.analysis import comparison, fitting
from engine.analysis.ensemble import Cube
from engine.analysis.predictions import validate
from engine.analysis.subsets import all_subsets, search
from engine.bench.compare import best_of, record

LIMITS = {"1023": 0.05, "65535": 5.0, "tick": 0.3}
IMAGES = 1182
Note = Callable[[str], None]


def made_up_cube(members: int, images: int = IMAGES, seed: int = 0) -> Cube:
    """Members that are right about nine times in ten, 370 of 1,182 images benign, 70 cases."""
    rng = np.random.default_rng(seed)
    case = rng.integers(0, 70, images)
    true = (case >= 22).astype(int)
    shared = rng.normal(0, 1, images)
    margin = 1.6 * (2 * true - 1) + 0.7 * shared + rng.normal(0, 0.8, (members, images))
    p = 1 / (1 + np.exp(-margin))
    probs = np.stack([1 - p, p], axis=2)
    frame = pd.DataFrame(
        {
            "image_id": [f"{k}.png" for k in range(images)],
            "case": [f"14-{c}" for c in case],
            "slide": "",
            "magnification": np.array(["40X", "100X", "200X", "400X"])[np.arange(images) % 4],
            "subtype": "",
            "label": np.array(["benign", "malignant"])[true],
        }
    )
    names = tuple(f"member {k + 1}" for k in range(members))
    return Cube(names, ("benign", "malignant"), probs, np.log(probs), true, frame)


def run(repeats: int = 5, reference_subsets: int = 200, note: Note = lambda _: None) -> list[dict]:
    """Measure. The slow side scores `reference_subsets` subsets and its time is scaled.

    Returns:
        Records `what, ours_s, ours_cpu_s, theirs_s, ratio, limit_s, within, detail`.
    """
    records = []
    for members, key in ((10, "1023"), (16, "65535")):
        source = made_up_cube(members)
        subsets = 2**members - 1
        for method in ("mean", "vote"):
            note(f"{subsets:,} subsets by {method}")
            before = _peak()
            ours = best_of(lambda s=source, m=method: search(s, (m,)), repeats if members == 10 else 1)
            grown = _peak() - before
            scale = subsets / reference_subsets
            theirs = _reference(_sklearn_vote, source, method, reference_subsets) * scale
            note_of = f"peak memory grew by {grown / 2**20:.0f} MB; {_mlxtend_words(source, method, reference_subsets, scale)}"
            what = f"{subsets:,} subsets of {members} members, {method}, {IMAGES:,} images"
            records.append(record(LIMITS, key, what, ours, theirs, note_of))
    note("a tick")
    busy = process_time()
    times = tick_times(made_up_cube(10), 40)
    busy = (process_time() - busy) / len(times)
    what = "a tick with ten members: combine, scores, interval, difference, matrices (p95)"
    records.append(record(LIMITS, "tick", what, (float(np.quantile(times, 0.95)), busy), None))
    return records


def tick_times(source: Cube, ticks: int) -> list[float]:
    """Seconds per tick: the members change, everything the headline shows is computed anew."""
    rng = np.random.default_rng(0)
    tables = {name: _member_table(source, k) for k, name in enumerate(source.ids)}
    times = []
    for _ in range(ticks):
        chosen = [name for name in source.ids if rng.random() < 0.6] or [source.ids[0]]
        start = perf_counter()
        table, _, _ = fitting.ensemble_predictions({name: tables[name] for name in chosen}, "mean")
        best = comparison.Entry(chosen[0], chosen[0], tables[chosen[0]])
        made = comparison.Entry("ensemble", "ensemble", table)
        comparison.compare([best, made], names=("balanced_accuracy", "accuracy"))
        times.append(perf_counter() - start)
    return times


def _member_table(source: Cube, k: int) -> pd.DataFrame:
    columns = {f"prob_{name}": source.probs[k, :, j] for j, name in enumerate(source.classes)}
    return validate(source.frame.assign(**columns))


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


class _Stored:
    """An estimator that looks its predictions up."""

    classes_ = np.array([0, 1])

    def __init__(self, probs: np.ndarray):
        self.probs, self.named = probs, probs.argmax(axis=1)

    def fit(self, _images, _true):
        return self

    def predict(self, _images) -> np.ndarray:
        return self.named

    def predict_proba(self, _images) -> np.ndarray:
        return self.probs


Vote = Callable[[list[_Stored], str, np.ndarray], np.ndarray]


def _sklearn_vote(members: list[_Stored], voting: str, true: np.ndarray) -> np.ndarray:
    """What scikit-learn's VotingClassifier predicts, as if it had been fitted."""
    from sklearn.ensemble import VotingClassifier
    from sklearn.preprocessing import LabelEncoder

    judge = VotingClassifier([(str(k), one) for k, one in enumerate(members)], voting=voting)
    judge.estimators_, judge.le_ = members, LabelEncoder().fit(true)
    judge.classes_ = judge.le_.classes_
    return judge.predict(np.zeros((len(true), 1)))


def _mlxtend_vote(members: list[_Stored], voting: str, true: np.ndarray) -> np.ndarray:
    from mlxtend.classifier import EnsembleVoteClassifier  # type: ignore[import-not-found]

    # use_clones=False is what fit_base_estimators=False means anyway; unsaid, it warns at every subset.
    judge = EnsembleVoteClassifier(clfs=members, voting=voting, fit_base_estimators=False, use_clones=False)
    nothing = np.zeros((len(true), 1))
    return judge.fit(nothing, true).predict(nothing)


def _mlxtend_words(source: Cube, method: str, subsets: int, scale: float) -> str:
    try:
        took = _reference(_mlxtend_vote, source, method, subsets) * scale
    except ImportError:
        return "mlxtend is not installed"
    return f"mlxtend's loop {took:.2f} s"


def _reference(vote: Vote, source: Cube, method: str, subsets: int) -> float:
    """Seconds for so many random subsets, one by one."""
    from sklearn.metrics import balanced_accuracy_score

    rng = np.random.default_rng(0)
    rows = all_subsets(len(source))
    rows = rows[rng.choice(len(rows), subsets, replace=False)].astype(bool)
    members = [_Stored(own) for own in source.probs]
    start = perf_counter()
    for row in rows:
        chosen = [member for member, used in zip(members, row, strict=True) if used]
        guess = vote(chosen, "soft" if method == "mean" else "hard", source.true)
        balanced_accuracy_score(source.true, guess)
    return perf_counter() - start
