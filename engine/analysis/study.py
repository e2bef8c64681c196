"""The source study's published figures beside ours, with what differs in protocol said in words.

The sixteen rows (facts/study_results.csv: ten models and six ensembles on 1,182 test images, malignant
positive) come from the study's own tables (Scientific Reports 15:21541, 2025). Everything but the accuracy
per magnification is recomputed here from its counts tp, fn, fp, tn.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import resources

import numpy as np
import pandas as pd

from engine.analysis import intervals, metrics
from engine.analysis.comparison import EntryResult
from engine.data.manifest import MAGNIFICATIONS

CITATION = "Scientific Reports 15:21541, 2025"
# What the study did, as its notebooks ran it: aspect -> words, and the configuration key that says ours.
PROTOCOL = (
    ("split", "data.protocol", "images drawn at random, 70/15/15; every test slide is also in train"),
    ("test images", "", "1,182"),
    ("seed", "training.seed", "none, one draw"),
    ("intervals", "", "none"),
    ("members chosen on", "", "the split that also trained the fusion network; watched on test"),
)


@cache
def _facts() -> pd.DataFrame:
    with resources.files("engine.analysis.facts").joinpath("study_results.csv").open() as file:
        return pd.read_csv(file)


def published() -> pd.DataFrame:
    """The sixteen rows as printed: model, tp, fn, fp, tn, then percentages."""
    return _facts().copy()


def recomputed() -> pd.DataFrame:
    """The sixteen rows from their counts: `model, n` and fractions `accuracy, precision, recall, f1,
    specificity, balanced_accuracy, mcc`, with Wilson bounds of accuracy over images (`low`, `high`)."""
    facts = _facts()
    matrix = np.stack([facts[["tn", "fp"]].to_numpy(), facts[["fn", "tp"]].to_numpy()], axis=1)
    right = np.trace(matrix, axis1=1, axis2=2)
    total = matrix.sum(axis=(1, 2))
    bounds = np.array([intervals.wilson(int(k), int(n)) for k, n in zip(right, total, strict=True)])
    return pd.DataFrame(
        {
            "model": facts["model"],
            "n": total,
            "accuracy": metrics.accuracy(matrix),
            "low": bounds[:, 0],
            "high": bounds[:, 1],
            "precision": metrics.positive_predictive_value(matrix),
            "recall": metrics.sensitivity(matrix),
            "f1": metrics.f1(matrix),
            "specificity": metrics.specificity(matrix),
            "balanced_accuracy": metrics.balanced_accuracy(matrix),
            "mcc": metrics.matthews(matrix),
        }
    )


def discrepancies(digits: int = 2) -> pd.DataFrame:
    """Printed percentages that their own counts do not give: `model, score, printed, recomputed`."""
    printed, counted = _facts(), recomputed()
    rows = []
    for name in ("accuracy", "precision", "recall", "f1"):
        values = np.round(100 * counted[name].to_numpy(), digits)
        for k in np.flatnonzero(np.abs(values - printed[name].to_numpy()) > 0.5 * 10**-digits):
            rows.append((printed["model"][k], name, float(printed[name][k]), float(values[k])))
    return pd.DataFrame(rows, columns=["model", "score", "printed", "recomputed"])


def study_name(model: str) -> str:
    """The study's name of an architecture (`tf_efficientnetv2_b1` -> `V2-B1`), empty if it is not one of its ten."""
    base = model.split(".")[0].removeprefix("timm/")
    found = re.fullmatch(r"(?:tf_)?efficientnet_b([0-4])", base)
    if found:
        return f"V1-B{found[1]}"
    found = re.fullmatch(r"(?:tf_)?efficientnetv2_(b[0-3]|s)", base)
    return f"V2-{found[1].upper()}" if found else ""


def beside(entries: Sequence[EntryResult], configs: Mapping[str, Mapping] | None = None) -> pd.DataFrame:
    """Our entries and the study's rows in one table, ours first, each followed by the study's row of its model.

    Columns: `source` (ours, study), `id`, `name`, `study_model`, `n`, `n_cases`, `accuracy`, `low`, `high`,
    `interval` (over cases or over images), a fraction per magnification, `protocol`. Study rows no entry
    matches come last. Fractions, not percentages; unknown is nan.
    """
    facts, counted = _facts(), recomputed().set_index("model")
    used: list[str] = []
    rows = []
    for entry in entries:
        config = (configs or {}).get(entry.id, {})
        match = _row_of(config)
        rows.append(_our_row(entry, config, match))
        if match and match not in used:
            used.append(match)
            rows.append(_study_row(facts[facts["model"] == match].iloc[0], counted.loc[match]))
    for _, fact in facts.iterrows():
        if fact["model"] not in used:
            rows.append(_study_row(fact, counted.loc[fact["model"]]))
    return pd.DataFrame(rows)


def _row_of(config: Mapping) -> str:
    """The published row a run stands beside: what a reproduction says of it, else its architecture's."""
    said = str(_setting(config, "details.study") or "")
    if said in set(_facts()["model"]):
        return said
    return (
        study_name(str(_setting(config, "model.name") or ""))
        if config.get("kind", "train") == "train"
        else ""
    )


def _our_row(entry: EntryResult, config: Mapping, match: str) -> dict:
    shown = entry.scores.get("accuracy")
    per_power = {}
    for power in MAGNIFICATIONS:
        matrix = entry.confusion.get(power)
        per_power[power] = float(metrics.accuracy(np.asarray(matrix))) if matrix is not None else float("nan")
    return {
        "source": "ours", "id": entry.id, "name": entry.name, "study_model": match, "n": entry.n,
        "n_cases": entry.n_cases, "accuracy": entry.accuracy,
        "low": shown.low if shown else float("nan"), "high": shown.high if shown else float("nan"),
        "interval": "over cases" if entry.n_cases else "over images",
        **per_power, "protocol": str(_setting(config, "data.protocol") or "unknown"),
    }  # fmt: skip


def _study_row(fact, counted) -> dict:
    return {
        "source": "study", "id": "", "name": f"study: {fact['model']}", "study_model": fact["model"],
        "n": int(counted["n"]), "n_cases": 0, "accuracy": float(counted["accuracy"]),
        "low": float(counted["low"]), "high": float(counted["high"]), "interval": "over images",
        **{power: float(fact[f"acc_{power}"]) / 100 for power in MAGNIFICATIONS},
        "protocol": "image, patients on both sides",
    }  # fmt: skip


def differences(config: Mapping, *, n_images: int, n_cases: int) -> pd.DataFrame:
    """What differs in protocol between a run of ours and the study: `aspect, study, ours`."""
    ours = {
        "split": _split_words(str(_setting(config, "data.protocol") or "")),
        "test images": f"{n_images:,}" + (f" of {n_cases} cases" if n_cases else ""),
        "seed": str(
            _setting(config, "training.seed") if _setting(config, "training.seed") is not None else "unknown"
        ),
        "intervals": "bootstrap over whole cases" if n_cases else "over images: cases unknown",
        "members chosen on": "validation; test is scored once",
    }
    rows = [(aspect, study, ours[aspect]) for aspect, _, study in PROTOCOL]
    return pd.DataFrame(rows, columns=["aspect", "study", "ours"])


def _split_words(protocol: str) -> str:
    words = {
        "case": "folds by case: no patient on two sides",
        "holdout": "hold-out by case: no patient on two sides",
        "official": "the five official folds as published: slides apart, 6-8 cases on both sides",
        "official-cleaned": "the official folds without the cases on both sides",
        "image": "images drawn at random, as the study did: patients on both sides",
        "image-80-10-10": "images drawn at random, as the study did: patients on both sides",
        "csv": "a split of one's own",
    }
    return words.get(protocol, "unknown")


def _setting(config: Mapping, dotted: str):
    value: object = config
    for key in dotted.split("."):
        if not isinstance(value, Mapping):
            return None
        value = value.get(key)
    return value
