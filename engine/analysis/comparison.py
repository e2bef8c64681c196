"""Which model is better, where, for whom, and is the difference real?

Entries are compared on the images they have in common, at the same draws of cases, so that every interval
of a difference is paired. Tests: sign-flip permutation over cases (the honest one), exact McNemar over
images (labelled, because it ignores that images share patients), Holm over the comparisons made (`paired`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd

from engine.analysis import intervals, metrics
from engine.analysis.alignment import Aligned, align
from engine.analysis.draws import DRAWS, Difference, statistic
from engine.analysis.intervals import Estimate, Resample
from engine.analysis.metrics import DEFAULT_SCORES, Outcome
from engine.analysis.paired import FLIPS, McNemar, holm, mcnemar, sign_flip
from engine.analysis.predictions import (
    classes_of,
    confusion,
    labels,
    predicted,
    probabilities,
)
from engine.errors import PredictionsError, shorten

UNSURE = 0.65  # an image is unsure below this probability of its predicted class
CONFIDENT = 0.9  # and confident from this on


# --- the comparison ------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Entry:
    """What is compared: a run, a pooled cross-validation, an ensemble, an import. config may be empty.

    threshold: the operating point that calls an image malignant, None for the most probable class.
    """

    id: str
    name: str
    predictions: pd.DataFrame
    config: Mapping = field(default_factory=dict)
    threshold: float | None = None


@dataclass(frozen=True, eq=False)
class EntryResult:
    """One entry's figures on the common images. confusion: `all` and each magnification -> counts."""

    id: str
    name: str
    n: int
    n_cases: int
    accuracy: float
    confusion: dict[str, list[list[int]]]
    scores: dict[str, Estimate]
    patients: tuple[int, int]

    def as_record(self) -> dict:
        """As `compare --json` prints it: accuracy is an unrounded fraction."""
        return {
            "id": self.id,
            "name": self.name,
            "n": self.n,
            "n_cases": self.n_cases,
            "accuracy": self.accuracy,
            "confusion": self.confusion,
            "patients": {"right": self.patients[0], "n": self.patients[1]},
            "scores": {name: estimate.as_record() for name, estimate in self.scores.items()},
        }


@dataclass(frozen=True)
class PairedDifference:
    """`id` minus `reference` in one score. p: sign-flip over cases; p_holm: over all entries compared."""

    id: str
    reference: str
    score: str
    estimate: Estimate
    p: float
    p_holm: float
    comparisons: int
    mcnemar: McNemar

    def as_record(self) -> dict:
        return {
            "id": self.id,
            "reference": self.reference,
            "score": self.score,
            "difference": self.estimate.as_record(),
            "p": _none(self.p),
            "p_holm": _none(self.p_holm),
            "comparisons": self.comparisons,
            "mcnemar": {
                "first_only": self.mcnemar.first_only,
                "second_only": self.mcnemar.second_only,
                "p": self.mcnemar.p,
                "label": self.mcnemar.label,
            },
        }


@dataclass(frozen=True, eq=False)
class Comparison:
    """Entries side by side on their common images."""

    entries: list[EntryResult]
    differences: list[PairedDifference]
    reference: str
    baseline: dict[str, float]
    aligned: Aligned
    n_images: int
    n_cases: int

    @property
    def note(self) -> str:
        return self.aligned.note

    def as_records(self) -> dict:
        """The document of `compare --json`."""
        return {
            "runs": [entry.as_record() for entry in self.entries],
            "reference": self.reference,
            "differences": [row.as_record() for row in self.differences],
            "baseline": {name: _none(number) for name, number in self.baseline.items()},
            "n_images": self.n_images,
            "n_cases": self.n_cases,
            "note": self.note,
        }


def _none(number: float) -> float | None:
    return None if np.isnan(number) else float(number)


def confusion_maps(
    table: pd.DataFrame, by: str = "magnification", threshold: float | None = None
) -> dict[str, list[list[int]]]:
    """`all` and each value of a slice -> counts [true][predicted], as plain lists."""
    true, guess, size = labels(table), predicted(table, threshold), len(classes_of(table))
    maps = {"all": confusion(true, guess, size).tolist()}
    if by in table.columns:
        codes, names = pd.factorize(table[by].astype(str))
        position = {str(name): code for code, name in enumerate(names)}
        for text in metrics.slice_values(table, by):
            rows = codes == position[text]
            maps[text] = confusion(true[rows], guess[rows], size).tolist()
    return maps


def compare(
    entries: Sequence[Entry],
    *,
    names: Iterable[str] | None = None,
    reference: str | None = None,
    by: str = "magnification",
    with_intervals: bool = True,
    draws: int = DRAWS,
    seed: int = 0,
    level: float = 0.95,
    method: str = "auto",
) -> Comparison:
    """Scores with intervals, matrices per slice, and differences to a reference (the first entry unless named).

    `with_intervals=False` leaves out everything drawn at random (intervals, differences): milliseconds, for
    a page that shows the table at once and the intervals when they are there.

    Raises:
        PredictionsError: the entries cannot be compared (`align`), or an unknown score or reference.
    """
    wanted = list(DEFAULT_SCORES if names is None else names)
    aligned = align({entry.id: entry.predictions for entry in entries})
    _check_reference(entries, reference)
    results = _outcomes(aligned, {entry.id: entry.threshold for entry in entries})
    first = results[entries[0].id]
    sample = None
    if with_intervals:
        sample = intervals.resample(first, draws=draws, seed=seed, level=level, method=method)
        sample = replace(sample, remembered={})  # differences use the draws of the scores again
    slices = _slices(aligned, by)
    rows = [_entry_result(entry, results[entry.id], wanted, slices, sample) for entry in entries]
    chosen = reference or entries[0].id
    differences = paired_differences(results, chosen, wanted, sample, seed=seed) if sample else []
    baseline = metrics.majority_baseline(first)
    return Comparison(
        rows,
        differences,
        chosen,
        {name: metrics.value(name, baseline) for name in wanted},
        aligned,
        len(first),
        first.n_cases,
    )


def _check_reference(entries: Sequence[Entry], reference: str | None) -> None:
    ids = [entry.id for entry in entries]
    if reference is not None and reference not in ids:
        raise PredictionsError(
            "The reference is not among the entries",
            found=reference,
            remedy=f"Choose one of {shorten(ids, 5)}",
        )


def _outcomes(aligned: Aligned, thresholds: Mapping[str, float | None]) -> dict[str, Outcome]:
    """Each entry's outcome; labels and cases are shared, so they are read once."""
    results: dict[str, Outcome] = {}
    known = labels(next(iter(aligned.tables.values()))) >= 0
    for name, table in aligned.tables.items():
        if not results:
            results[name] = metrics.outcome(table, thresholds[name])
            continue
        first = next(iter(results.values()))
        results[name] = replace(
            first,
            probs=probabilities(table)[known],
            guess=predicted(table, thresholds[name])[known],
            threshold=thresholds[name],
        )
    return results


def _slices(aligned: Aligned, by: str) -> dict[str, np.ndarray]:
    """`all` and each value of a slice -> bool over the labelled images."""
    table = next(iter(aligned.tables.values()))
    known = labels(table) >= 0
    rows = {"all": np.ones(int(known.sum()), dtype=bool)}
    if by in table.columns:
        column = table[by].astype(str)
        rows |= {
            text: (column == text).to_numpy(dtype=bool)[known] for text in metrics.slice_values(table, by)
        }
    return rows


def _entry_result(
    entry: Entry, result: Outcome, names: list[str], slices: Mapping[str, np.ndarray], sample: Resample | None
) -> EntryResult:
    if sample:
        scores = {name: intervals.score_estimate(name, result, sample) for name in names}
    else:
        scores = {name: _plain(metrics.value(name, result), result) for name in names}
    size = len(result.classes)
    maps = {
        text: confusion(result.true[rows], result.guess[rows], size).tolist() for text, rows in slices.items()
    }
    return EntryResult(
        entry.id,
        entry.name,
        len(result),
        result.n_cases,
        metrics.value("accuracy", result),
        maps,
        scores,
        metrics.patient_counts(result),
    )


def _plain(value: float, result: Outcome) -> Estimate:
    nan = float("nan")
    return Estimate(value, nan, nan, 0.95, len(result), result.n_cases, "not computed yet")


def paired_differences(
    results: Mapping[str, Outcome],
    reference: str,
    names: Iterable[str],
    sample: Resample,
    *,
    flips: int = FLIPS,
    seed: int = 0,
) -> list[PairedDifference]:
    """Every other entry minus the reference, per score, at the draws of `sample`; Holm per score."""
    rows: list[PairedDifference] = []
    base = results[reference]
    others = [name for name in results if name != reference]
    tests = {other: mcnemar(results[other].guess == base.true, base.guess == base.true) for other in others}
    for score in names:
        if metrics.score_of(score).family == "patient" and sample.groups.kind != "case":
            continue
        p_values = [sign_flip(score, results[other], base, flips=flips, seed=seed) for other in others]
        anchor = sample.statistic(score, base)
        for other, p, adjusted in zip(others, p_values, holm(p_values), strict=True):
            gap = Difference(sample.statistic(score, results[other]), anchor)
            estimate = sample.estimate(gap)
            rows.append(
                PairedDifference(other, reference, score, estimate, p, adjusted, len(others), tests[other])
            )
    return rows


@dataclass(frozen=True)
class Spread:
    """How much a score moves with the training seed, and how much with the patients at hand.

    seed_sd: SD over runs that differ in the seed only. case_se: standard error of their mean score over
    draws of cases, the runs kept. They answer different questions and are not added up silently.
    """

    score: str
    runs: int
    mean: float
    seed_sd: float
    case_se: float

    def __str__(self) -> str:
        mean, seeds, cases = (
            "n/a" if np.isnan(number) else f"{number:.3f}"
            for number in (self.mean, self.seed_sd, self.case_se)
        )
        return f"{mean} · seed SD {seeds} ({self.runs} runs) · case SE {cases}"


def seed_spread(
    tables: Mapping[str, pd.DataFrame], name: str, *, draws: int = DRAWS, seed: int = 0
) -> Spread:
    """Seed spread apart from case spread, for runs of one configuration trained with different seeds.

    Raises:
        PredictionsError: fewer than two runs, or tables that cannot be aligned.
    """
    if len(tables) < 2:
        raise PredictionsError(
            "Seed spread needs two runs", found=f"{len(tables)}", remedy="Choose more seeds"
        )
    results = [metrics.outcome(table) for table in align(tables).tables.values()]
    sample = intervals.resample(results[0], draws=draws, seed=seed)
    values = np.array([metrics.value(name, result) for result in results])
    replicates = np.mean(
        [statistic(name, result, sample.groups).at(sample.weights) for result in results], axis=0
    )
    return Spread(
        name, len(results), float(values.mean()), float(values.std(ddof=1)), float(np.nanstd(replicates))
    )


# --- images --------------------------------------------------------------------------------------------


def opinions(aligned: Aligned, thresholds: Mapping[str, float | None] | None = None) -> pd.DataFrame:
    """A row per image: the shared columns, `predicted_<id>`, `confidence_<id>`, `right_<id>`, and `n_right`.

    confidence is the probability of the predicted class.
    """
    table = aligned.frame.copy()
    names = np.array(aligned.classes)
    right = []
    for entry, own in aligned.tables.items():
        guess = predicted(own, (thresholds or {}).get(entry))
        probs = own[[f"prob_{name}" for name in aligned.classes]].to_numpy(dtype=float)
        table[f"predicted_{entry}"] = names[guess]
        table[f"confidence_{entry}"] = probs[np.arange(len(own)), guess]
        table[f"right_{entry}"] = guess == labels(own)
        right.append(table[f"right_{entry}"].to_numpy())
    table["n_right"] = np.sum(right, axis=0)
    return table


def select_images(
    table: pd.DataFrame,
    *,
    entry: str | None = None,
    true: str | None = None,
    guess: str | None = None,
    slices: Mapping[str, str] | None = None,
    bucket: str | None = None,
    n_entries: int | None = None,
) -> pd.DataFrame:
    """The rows of `opinions` behind a cell or a bucket; a pure function, so that a click can be tested.

    entry: whose prediction `guess` and `bucket` speak of. true, guess: class names. slices: column ->
    value, "all" meaning no restriction. bucket: wrong, right, confident-wrong, unsure-right, all-wrong,
    only-wrong (this entry wrong, all others right), only-right, disagree.
    """
    keep = np.ones(len(table), dtype=bool)
    for column, text in (slices or {}).items():
        if text != "all":
            keep &= (table[column].astype(str) == str(text)).to_numpy()
    if true is not None:
        keep &= (table["label"] == true).to_numpy()
    if guess is not None and entry is not None:
        keep &= (table[f"predicted_{entry}"] == guess).to_numpy()
    if bucket is not None:
        keep &= _bucket(table, bucket, entry)
    return table[keep]


def _bucket(table: pd.DataFrame, bucket: str, entry: str | None) -> np.ndarray:
    columns = [name for name in table.columns if name.startswith("right_")]
    total, count = len(columns), table["n_right"].to_numpy()
    if bucket == "all-wrong":
        return count == 0
    if bucket == "disagree":
        return (count > 0) & (count < total)
    if entry is None or f"right_{entry}" not in columns:
        raise PredictionsError(
            "This bucket is about one entry", found=f"{bucket} of {entry}", remedy="Name one of the entries"
        )
    right = table[f"right_{entry}"].to_numpy(dtype=bool)
    sure = table[f"confidence_{entry}"].to_numpy()
    buckets = {
        "right": right,
        "wrong": ~right,
        "confident-wrong": ~right & (sure >= CONFIDENT),
        "unsure-right": right & (sure < UNSURE),
        "only-wrong": ~right & (count == total - 1),
        "only-right": right & (count == 1),
    }
    if bucket not in buckets:
        known = ", ".join([*buckets, "all-wrong", "disagree"])
        raise PredictionsError(
            "There is no such bucket of images", found=bucket, remedy=f"Use one of {known}"
        )
    return buckets[bucket]


def discordant(aligned: Aligned, first: str, second: str) -> pd.DataFrame:
    """The images exactly one of two entries has right: `opinions` of the two, with `right` naming which."""
    pair = Aligned({first: aligned.tables[first], second: aligned.tables[second]}, aligned.classes, {}, "")
    table = opinions(pair)
    table = table[table["n_right"] == 1].copy()
    table["right"] = np.where(table[f"right_{first}"], first, second)
    return table.reset_index(drop=True)


# --- configurations ------------------------------------------------------------------------------------


def flatten(config: Mapping, prefix: str = "") -> dict[str, object]:
    """Nested keys joined by dots; lists stay values."""
    flat: dict[str, object] = {}
    for key, value in config.items():
        name = f"{prefix}{key}"
        flat |= flatten(value, f"{name}.") if isinstance(value, Mapping) else {name: value}
    return flat


def config_differences(configs: Mapping[str, Mapping]) -> pd.DataFrame:
    """Only the rows in which configurations differ: `setting`, then a text column per entry ("" = not set)."""
    flat = {name: flatten(config) for name, config in configs.items()}
    keys = list(dict.fromkeys(key for config in flat.values() for key in config))
    rows = []
    for key in keys:
        shown = {name: _shown(config.get(key)) for name, config in flat.items()}
        if len(set(shown.values())) > 1:
            rows.append({"setting": key} | shown)
    return pd.DataFrame(rows, columns=["setting", *flat])


def _shown(value: object) -> str:
    if value is None:
        return ""
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
