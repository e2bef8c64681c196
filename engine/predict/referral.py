"""Whom to send to a person: the unsure, those on whom the members disagree, those unlike the training images.

What a rule is worth is counted on the run's own validation predictions: how many it would send on, and how
right the run is on the rest (El-Yaniv & Wiener, On the foundations of noise-free selective classification,
JMLR 11, 2010, call these coverage and selective risk).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from engine.analysis.predictions import classes_of, labels, logits, predicted
from engine.errors import EngineError
from engine.predict.calibration import Calibration
from engine.runs.folder import RunFolder, locate


@dataclass(frozen=True)
class Rule:
    """Refer an image whose class has less than `probability`, on which fewer than the share `agreement` of
    the members agree, or which is `unlike` the training images."""

    probability: float = 0.65
    agreement: float = 1.0
    unlike: bool = True

    def reasons(self, table: pd.DataFrame) -> list[str]:
        """Why each image of a judged table is referred, in words; empty = it is not."""
        sure = confidence(table)
        share = (table["agreeing"] / table["members"]).to_numpy(dtype=float)
        found = []
        for p, agreed, unlike in zip(sure, share, table["unlike"], strict=True):
            why = ["unsure"] if p < self.probability else []
            why += ["members disagree"] if agreed < self.agreement - 1e-9 else []
            why += [f"unlike training: {unlike}"] if self.unlike and unlike else []
            found.append(", ".join(why))
        return found


def confidence(table: pd.DataFrame) -> np.ndarray:
    """Calibrated probability of the predicted class, (images,)."""
    names = classes_of(table)
    probs = np.column_stack([table[f"calibrated_{name}"].to_numpy(dtype=float) for name in names])
    return probs[np.arange(len(table)), predicted(table)]


@dataclass(frozen=True)
class Worth:
    """A rule on validation images: `n` in all, `referred` of them, and how many are right, all and kept."""

    n: int
    referred: int
    right: int
    right_kept: int

    def __str__(self) -> str:
        kept = self.n - self.referred
        share = f"{self.right_kept / kept:.3f}" if kept else "n/a"
        return (
            f"On this model's {self.n:,} validation images the rule refers {self.referred:,} "
            f"({self.referred / self.n:.0%}); of the {kept:,} others it is right on {share}, of all on {self.right / self.n:.3f}."
        )


def worth(folder: RunFolder, rule: Rule, calibration: Calibration) -> Worth | None:
    """What a rule does on the validation images; None where the run has no labelled ones.

    Looks are not counted: validation images come from the same slides' laboratory as the training images.
    """
    if "val" not in folder.predicted_splits():
        return None
    try:
        table = folder.predictions("val")
        members = _member_tables(folder, table)
    except EngineError:
        return None
    known = labels(table) >= 0
    if not known.any():
        return None
    guess = predicted(table)
    probs = calibration.probabilities(logits(table)) if calibration.applied else None
    for k, name in enumerate(classes_of(table)):
        table[f"calibrated_{name}"] = table[f"prob_{name}"] if probs is None else probs[:, k]
    agreeing = np.sum([predicted(one) == guess for one in members], axis=0) if members else 1
    table = table.assign(agreeing=agreeing, members=max(1, len(members)), unlike="")
    referred = np.array([bool(why) for why in rule.reasons(table)])
    right = guess == labels(table)
    return Worth(
        int(known.sum()),
        int((referred & known).sum()),
        int((right & known).sum()),
        int((right & known & ~referred).sum()),
    )


def _member_tables(folder: RunFolder, table: pd.DataFrame) -> list[pd.DataFrame]:
    """The members' validation predictions in the order of the ensemble's; none for a trained run."""
    details = folder.config().details
    if folder.config().kind != "ensemble":
        return []
    weights = details.get("weights") or [1.0] * len(details["members"])
    return [
        locate(folder.runs, run_id)
        .predictions("val")
        .set_index("image_id")
        .loc[table["image_id"]]
        .reset_index()
        for run_id, weight in zip(details["members"], weights, strict=True)
        if weight > 0
    ]
