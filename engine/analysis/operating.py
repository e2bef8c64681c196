"""Operating points: from which probability on an image is called malignant, chosen on validation, then locked.

Reference: Youden, Cancer 3:32, 1950.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pandas as pd

from engine.analysis import curves, metrics
from engine.errors import PredictionsError

# rule -> how it reads after "an image is called malignant"
RULES = {
    "argmax": "where it is the most probable class",
    "fixed": "from one threshold on",
    "youden": "by Youden's index on validation",
    "sensitivity": "so that sensitivity on validation is at least",
    "specificity": "so that specificity on validation is at least",
}


@dataclass(frozen=True)
class Rule:
    """How the operating point is chosen. value: the threshold (fixed) or the bound (sensitivity, specificity)."""

    name: str = "argmax"
    value: float = 0.0

    @property
    def text(self) -> str:
        """As links and the command line have it: empty, `0.42`, `youden`, `sensitivity:0.95`."""
        if self.name == "argmax":
            return ""
        if self.name == "fixed":
            return f"{self.value:g}"
        return self.name if self.name == "youden" else f"{self.name}:{self.value:g}"

    @property
    def on_validation(self) -> bool:
        """Whether it is chosen on validation, and so locked before test is looked at."""
        return self.name in ("youden", "sensitivity", "specificity")

    @property
    def words(self) -> str:
        bound = f" {self.value:g}" if self.name in ("sensitivity", "specificity") else ""
        return f"from {self.value:g} on" if self.name == "fixed" else f"{RULES[self.name]}{bound}"


def parse_rule(text: str) -> Rule:
    """The inverse of `Rule.text`.

    Raises:
        PredictionsError: none of these, or a bound or threshold out of range.
    """
    name, _, bound = text.strip().partition(":")
    if name in ("", "argmax"):
        return Rule()
    if text.strip() == "youden":
        return Rule("youden")
    try:
        value = float(bound or name)
    except ValueError:
        value = float("nan")
    if name in ("sensitivity", "specificity") and 0.5 <= value <= 1:
        return Rule(name, value)
    if not bound and 0.01 <= value <= 0.99:
        return Rule("fixed", value)
    raise PredictionsError(
        "This is no operating point",
        found=text[:60],
        remedy="Give a threshold from 0.01 to 0.99, youden, sensitivity:0.95 or specificity:0.95 (bounds from 0.5 to 1)",
    )


@dataclass(frozen=True)
class OperatingPoint:
    """A threshold chosen on one split, to be applied to another. rule: how it was chosen, in words."""

    threshold: float
    rule: str
    chosen_on: str
    sensitivity: float
    specificity: float
    n_images: int
    n_cases: int

    def as_record(self) -> dict[str, float | int | str]:
        return {
            "threshold": self.threshold,
            "rule": self.rule,
            "chosen_on": self.chosen_on,
            "sensitivity": self.sensitivity,
            "specificity": self.specificity,
            "n_images": self.n_images,
            "n_cases": self.n_cases,
        }


def operating_point(
    validation: pd.DataFrame,
    rule: str = "youden",
    at_least: float = 0.95,
    *,
    chosen_on: str = "val",
) -> OperatingPoint:
    """Choose the threshold on validation: `youden` (sensitivity + specificity greatest), `sensitivity`
    (at least so much, specificity then greatest), `specificity` likewise.

    The threshold lies half-way between neighbouring probabilities. A table with both classes is needed.

    Raises:
        PredictionsError: unknown rule, a class missing, or a bound no threshold reaches.
    """
    result = metrics.outcome(validation)
    curve = curves.roc(result)
    if curve.empty:
        raise PredictionsError(
            "An operating point needs validation images of both classes",
            found=f"{len(result)} labelled images",
            remedy="Use a validation split with both classes",
        )
    gain = {"youden": curve["tpr"] - curve["fpr"], "sensitivity": -curve["fpr"], "specificity": curve["tpr"]}
    if rule not in gain:
        raise PredictionsError("There is no such rule", found=rule, remedy=f"Use one of {', '.join(gain)}")
    value = gain[rule].to_numpy(dtype=float).copy()
    words = "greatest sensitivity + specificity (Youden)"
    if rule != "youden":
        reached = curve["tpr"] if rule == "sensitivity" else 1 - curve["fpr"]
        allowed = (reached >= at_least - 1e-12).to_numpy()
        if not 0 < at_least <= 1 or not allowed.any():
            raise PredictionsError(
                f"No threshold reaches this {rule}",
                found=f"{at_least:g}",
                remedy="Give a share above 0, up to 1",
            )
        value[~allowed] = -np.inf
        words = f"{rule} at least {at_least:g}, the other then greatest"
    best = int(value.argmax())
    edges = curve["threshold"].to_numpy(dtype=float)
    lower = edges[best + 1] if best + 1 < len(edges) else 0.0
    none = float(np.nextafter(edges[1], 2))  # calling no image positive: just above the highest probability
    threshold = float((edges[best] + lower) / 2) if best else none
    return OperatingPoint(
        threshold,
        words,
        chosen_on,
        float(curve["tpr"].iloc[best]),
        float(1 - curve["fpr"].iloc[best]),
        len(result),
        result.n_cases,
    )


def threshold_table(predictions: pd.DataFrame, thresholds: Iterable[float] | None = None) -> pd.DataFrame:
    """What a threshold slider shows: `threshold, tp, fn, fp, tn, sensitivity, specificity, ppv, npv, ...`."""
    result = metrics.outcome(predictions)
    up, score = curves.positive_of(result, None)
    points = (
        np.linspace(0, 1, curves.GRID) if thresholds is None else np.asarray(list(thresholds), dtype=float)
    )
    called = score[:, None] >= points
    tp, fp = (called & up[:, None]).sum(axis=0), (called & ~up[:, None]).sum(axis=0)
    fn, tn = up.sum() - tp, (~up).sum() - fp
    matrix = np.stack([np.stack([tn, fp], axis=-1), np.stack([fn, tp], axis=-1)], axis=-2)
    names = ("sensitivity", "specificity", "ppv", "npv", "balanced_accuracy", "accuracy", "f1", "mcc")
    scores = {name: metrics.SCORES[name].function(matrix) for name in names}
    return pd.DataFrame({"threshold": points, "tp": tp, "fn": fn, "fp": fp, "tn": tn} | scores)


def threshold_by(rule: Rule, validation: pd.DataFrame | None) -> float | None:
    """The threshold a rule gives; None for the most probable class.

    Raises:
        PredictionsError: a rule of validation without usable validation predictions.
    """
    if rule.name == "argmax":
        return None
    if rule.name == "fixed":
        return rule.value
    if validation is None:
        raise PredictionsError(
            "An operating point is chosen on validation, and this entry has no validation predictions",
            remedy="Import them with a split column (val, test), or give one threshold for all",
        )
    return operating_point(validation, rule.name, rule.value or 0.95).threshold
