"""The leakage probe: what an image-level split is worth on this data set.

The same light classifier (logistic regression on fixed features) is cross-validated twice: with images dealt out at
random, and with whole cases kept together. The difference is what recognising a patient adds. Two controls
show what is recognised: the colours of the image, and the colours of its empty background alone, which hold
nothing about the disease.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from engine.analysis import intervals, metrics
from engine.analysis.draws import Difference
from engine.analysis.intervals import Estimate, Resample
from engine.analysis.metrics import Outcome
from engine.data.manifest import Manifest
from engine.data.preprocessing import Preprocessing
from engine.errors import DataError, shorten
from engine.machine import cores
from engine.progress import Progress

FOLDS = 5
SCORE = "balanced_accuracy"
REPRESENTATIONS = {
    "features": "Pretrained features",
    "colour": "Colour histogram only",
    "background": "Background only",
}
SPLIT_LABELS = {"image": "Images at random", "case": "Cases kept apart"}


@dataclass(frozen=True)
class Probe:
    """Scores and gaps, as tables.

    `scores`: representation, split, balanced_accuracy with low, high, method and warning, accuracy, auroc, n,
    cases. `gaps`: representation, gap (image minus case, balanced accuracy) with low, high, method and warning.
    Intervals: 95%, over whole cases (`intervals.resample`); the gap is paired. `verdict`: one sentence.
    `left_out`: images that cannot be decoded. `chance`: balanced accuracy of guessing, one over the classes.
    """

    scores: pd.DataFrame
    gaps: pd.DataFrame
    verdict: str
    left_out: tuple[str, ...] = ()
    chance: float = 0.5

    def as_record(self) -> dict:
        return {
            "scores": self.scores.to_dict("records"),
            "gaps": self.gaps.to_dict("records"),
            "verdict": self.verdict,
            "left_out": list(self.left_out),
            "chance": self.chance,
        }

    def as_text(self) -> str:
        lines = [self.verdict, ""]
        for row in self.scores.to_dict("records"):
            lines.append(
                f"{REPRESENTATIONS[row['representation']]:<24}{SPLIT_LABELS[row['split']]:<20}"
                f"{row['balanced_accuracy']:.3f} [{row['low']:.3f}, {row['high']:.3f}]"
                f"   n = {row['n']} images, {row['cases']} cases"
            )
        lines.append(f"Balanced accuracy; 95% intervals: {self.scores['method'].iloc[0]}.")
        lines += [f"{text.capitalize()}." for text in dict.fromkeys(self.scores["warning"]) if text]
        if self.left_out:
            lines.append(f"{len(self.left_out)} images cannot be decoded: {shorten(list(self.left_out))}.")
        return "\n".join(lines)


def run_probe(
    manifest: Manifest,
    features: np.ndarray,
    controls: dict[str, np.ndarray] | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> Probe:
    """Cross-validate each representation under both splits.

    Args:
        manifest: every image with its label and case.
        features: images x channels, in the manifest's order (`engine.training.features.pooled_features`).
        controls: further representations; `control_features(manifest)` makes the two of `REPRESENTATIONS`.
        seed: of the folds and of the bootstrap.
        progress: called with (fits done, fits in all).

    Raises:
        DataError: cases unknown, or a class with fewer than two cases.
    """
    table = manifest.table
    target = np.array([manifest.classes.index(label) for label in table["label"]])
    cases = pd.factorize(table["case"])[0]
    _require(table, manifest.classes)
    folds = {"image": _image_folds(target, seed), "case": _case_folds(table, seed)}
    sources = {"features": features, **(controls or {})}
    total, done = len(sources) * len(folds) * FOLDS, 0
    names = tuple(map(str, pd.unique(table["case"])))
    scores, gaps, sample = [], [], None
    for name, values in sources.items():
        found: dict[str, Outcome] = {}
        for split, fold in folds.items():
            probabilities = np.zeros((len(target), len(manifest.classes)))
            for number in range(FOLDS):
                held = fold == number
                if held.any():
                    probabilities[held] = _fit(
                        values[~held], target[~held], values[held], len(manifest.classes)
                    )
                done += 1
                if progress:
                    progress(done, total)
            found[split] = Outcome(
                manifest.classes, target, probabilities, probabilities.argmax(1), cases, names
            )
        sample = sample or intervals.resample(found["case"], seed=seed)  # the same draws for all of them
        estimates, gap = _estimates(found["image"], found["case"], sample)
        gaps.append({"representation": name, "gap": gap.value, **_record(gap)})
        for split, one in estimates.items():
            scores.append(
                {
                    "representation": name,
                    "split": split,
                    SCORE: one.value,
                    **_record(one),
                    "accuracy": metrics.value("accuracy", found[split]),
                    "auroc": metrics.value("auroc", found[split]),
                    "n": one.n_images,
                    "cases": one.n_cases,
                }
            )
    score_table, gap_table = pd.DataFrame(scores), pd.DataFrame(gaps)
    verdict = _verdict(score_table, gap_table)
    return Probe(score_table, gap_table, verdict, chance=1 / len(manifest.classes))


def probe_dataset(
    manifest: Manifest,
    model: str = "tf_efficientnet_lite0",
    pretrained: str = "offline",
    size: int = 224,
    geometry: str = "square",
    seed: int = 0,
    cache_dir: Path | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> Probe:
    """The whole probe from a manifest: features, controls, cross-validation (what `engine probe` calls).

    `progress` is called with (what is being done, done, in all).
    """
    from engine.data import cache
    from engine.training.features import pooled_features  # torch: only when the probe runs

    def step(label: str) -> Progress:
        def update(done: int, total: int) -> None:
            if progress:
                progress(label, done, total)

        return update

    _require(manifest.table, manifest.classes)
    packed = cache.pack(manifest, Preprocessing(size, geometry), cache_dir, step("Packing images"))
    unread = tuple(manifest.table["image_id"][~packed.readable])
    manifest = manifest.with_table(manifest.table[packed.readable])
    values = pooled_features(
        manifest, model, pretrained, size, geometry, "auto", cache_dir, step("Pretrained features")
    )
    controls = control_features(manifest, step("Controls"))
    return replace(run_probe(manifest, values, controls, seed, step("Cross-validation")), left_out=unread)


def control_features(manifest: Manifest, progress: Progress | None = None) -> dict[str, np.ndarray]:
    """The two controls, float32, images x numbers: `colour` (three histograms of 32 bins), and `background`
    (mean, spread and quartiles of each channel over the empty pixels; share of them left out)."""
    from concurrent.futures import ThreadPoolExecutor

    paths = [manifest.absolute(path) for path in manifest.table["path"]]
    rows: list[tuple[np.ndarray, np.ndarray]] = []
    with ThreadPoolExecutor(cores()) as pool:
        for number, row in enumerate(pool.map(_controls_of, paths), start=1):
            rows.append(row)
            if progress:
                progress(number, len(paths))
    return {
        "colour": np.stack([row[0] for row in rows]).astype(np.float32),
        "background": np.stack([row[1] for row in rows]).astype(np.float32),
    }


def _controls_of(path: Path) -> tuple[np.ndarray, np.ndarray]:
    from engine.data.images import decode, resize

    pixels = resize(decode(path), 96)
    histogram = np.concatenate(
        [np.bincount(pixels[..., channel].ravel() >> 3, minlength=32) for channel in range(3)]
    )
    return np.sqrt(histogram / pixels[..., 0].size), background_colours(pixels)


def background_colours(pixels: np.ndarray) -> np.ndarray:
    """15 numbers on the empty pixels: bright and grey, no stain. All 0 where there are fewer than 20."""
    values = pixels.reshape(-1, 3).astype(np.float32)
    low, high = values.min(1), values.max(1)
    empty = values[(low > 0.85 * np.percentile(low, 99.5)) & (high - low < 40) & (low > 140)]
    if len(empty) < 20:
        return np.zeros(15, np.float32)
    quartiles = np.percentile(empty, [25, 50, 75], axis=0)
    return np.concatenate([empty.mean(0), empty.std(0), quartiles.ravel()]).astype(np.float32)


def _require(table: pd.DataFrame, classes: tuple[str, ...]) -> None:
    if (table["case"] == "").any():
        raise DataError(
            "The probe needs to know the case (patient) of every image",
            found=f"{int((table['case'] == '').sum())} images without one",
            remedy="Add a column case to the CSV",
            kind="case_unknown",
        )
    cases = table.groupby("label")["case"].nunique()
    for label in classes:
        if int(cases.get(label, 0)) < 2:
            raise DataError(
                f"The probe needs two cases of every class, {label} has {int(cases.get(label, 0))}",
                remedy="Add cases",
                kind="class_missing",
            )


def _image_folds(target: np.ndarray, seed: int) -> np.ndarray:
    """Images dealt out at random within class."""
    rng = np.random.default_rng(seed)
    fold = np.zeros(len(target), int)
    for label in np.unique(target):
        rows = rng.permutation(np.flatnonzero(target == label))
        fold[rows] = np.arange(len(rows)) % FOLDS
    return fold


def _case_folds(table: pd.DataFrame, seed: int) -> np.ndarray:
    from engine.data.splits import case_groups

    dealt = case_groups(table, FOLDS, seed)
    return np.array([dealt[case][1] for case in table["case"]])


def _fit(train: np.ndarray, target: np.ndarray, held: np.ndarray, classes: int) -> np.ndarray:
    """Class probabilities of the held-out images: standardised logistic regression, classes weighted alike."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    model = make_pipeline(
        StandardScaler(), LogisticRegression(C=0.01, max_iter=300, class_weight="balanced", tol=1e-3)
    )
    model.fit(train, target)
    result = np.zeros((len(held), classes))
    result[:, model.classes_] = model.predict_proba(held)
    return result


def _estimates(random: Outcome, by_case: Outcome, sample: Resample) -> tuple[dict[str, Estimate], Estimate]:
    """Balanced accuracy under each split, and the first minus the second at the same draws of cases."""
    kept = {"image": sample.statistic(SCORE, random), "case": sample.statistic(SCORE, by_case)}
    gap = sample.estimate(Difference(kept["image"], kept["case"]), (-1, 1))
    return {split: sample.estimate(one, (0, 1)) for split, one in kept.items()}, gap


def _record(one: Estimate) -> dict:
    return {"low": one.low, "high": one.high, "method": one.method, "warning": one.warning}


def _verdict(scores: pd.DataFrame, gaps: pd.DataFrame) -> str:
    found = scores[scores["representation"] == "features"].set_index("split")["balanced_accuracy"]
    gap = gaps.set_index("representation").loc["features"]
    return (
        f"The same classifier scores {found['image']:.1%} with images split at random and {found['case']:.1%} "
        f"with cases kept apart: leakage is worth {100 * gap['gap']:.1f} points "
        f"[{100 * gap['low']:.1f}, {100 * gap['high']:.1f}] of balanced accuracy here."
    )
