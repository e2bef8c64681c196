"""Probabilities that mean what they say: one temperature per run, fitted on its validation predictions.

Every logit is divided by the temperature before the softmax (Guo et al., On calibration of modern neural
networks, ICML 2017), so no predicted class changes. What it is worth is measured on patients it was not
fitted on: the cases are cut in five parts, each scaled by the temperature of the other four. Where that does
not lower the log-loss, the probabilities stay as they are, and it is said.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from engine.analysis import metrics
from engine.analysis.predictions import labels, logits, softmax
from engine.errors import EngineError
from engine.runs.folder import RunFolder

LEAST_IMAGES = 20
PARTS = 5


@dataclass(frozen=True)
class Calibration:
    """What is done to a run's probabilities, or why nothing is.

    temperature: 1 = nothing. before, after: expected calibration error (15 bins) of the validation images,
    `after` over held-out cases; nan where nothing was measured. reason: why they are not calibrated.
    """

    temperature: float = 1.0
    before: float = float("nan")
    after: float = float("nan")
    n_images: int = 0
    n_cases: int = 0
    reason: str = ""

    @property
    def applied(self) -> bool:
        return not self.reason

    def probabilities(self, values: np.ndarray) -> np.ndarray:
        """Softmax of logits (images, classes) at this temperature."""
        return softmax(values / self.temperature)

    def __str__(self) -> str:
        if not self.applied:
            return f"Probabilities are not calibrated: {self.reason}."
        size = f"{self.n_images:,} validation images of {self.n_cases} cases"
        return (
            f"Probabilities are calibrated (temperature {self.temperature:.2f}, fitted on {size}): expected "
            f"calibration error {self.before:.3f} before, {self.after:.3f} after, on cases it was not fitted on."
        )

    def as_record(self) -> dict[str, float | int | str | None]:
        """As JSON: undefined numbers become null."""
        numbers = {name: getattr(self, name) for name in ("temperature", "before", "after")}
        return {name: value if np.isfinite(value) else None for name, value in numbers.items()} | {
            "n_images": self.n_images,
            "n_cases": self.n_cases,
            "reason": self.reason,
        }


def of_run(folder: RunFolder) -> Calibration:
    """The calibration of a run or an ensemble, from its stored validation predictions."""
    if folder.config().details.get("method") == "vote":
        return Calibration(reason="a vote counts members, its shares are no probabilities")
    if "val" not in folder.predicted_splits():
        return Calibration(reason="the run has no validation predictions")
    try:
        return calibrate(folder.predictions("val"))
    except EngineError as error:
        return Calibration(reason=f"its validation predictions cannot be read ({error.message})")


def calibrate(table: pd.DataFrame) -> Calibration:
    """Fit and measure on a table of validation predictions."""
    from engine.analysis.fitting import fit_temperature  # what reads a calibration need not load it

    true = labels(table)
    known = true >= 0
    values, true = logits(table)[known], true[known]
    case = table.loc[known, "case"].astype(str).to_numpy()
    n_cases = len(set(case) - {""})
    if len(true) < LEAST_IMAGES or len(np.unique(true)) < 2 or n_cases < 2:
        found = f"{len(true)} labelled validation images of {n_cases} cases, {len(np.unique(true))} classes"
        return Calibration(
            reason=f"there is too little to fit it on ({found})", n_images=len(true), n_cases=n_cases
        )
    raw = Calibration().probabilities(values)
    held = np.empty_like(raw)
    part = _parts(case)
    for number in np.unique(part):
        inside = part == number
        learned = Calibration(fit_temperature(values[~inside], true[~inside]))
        held[inside] = learned.probabilities(values[inside])
    before, after = metrics.calibration_error(true, raw), metrics.calibration_error(true, held)
    losses = [float(metrics.log_losses(true, probs).mean()) for probs in (raw, held)]
    if losses[1] >= losses[0]:
        reason = (
            f"a temperature does not help on held-out cases (log-loss {losses[0]:.3f} without, "
            f"{losses[1]:.3f} with; {len(true):,} validation images of {n_cases} cases)"
        )
        return Calibration(1.0, before, after, len(true), n_cases, reason)
    return Calibration(fit_temperature(values, true), before, after, len(true), n_cases)


def _parts(case: np.ndarray) -> np.ndarray:
    """Each case in one of five parts, the largest dealt first; images of unknown case are a case each."""
    named = np.asarray([name or f"\t{position}" for position, name in enumerate(case)])
    names, counts = np.unique(named, return_counts=True)
    filled = np.zeros(min(PARTS, len(names)), dtype=np.int64)
    part: dict[str, int] = {}
    for position in np.argsort(-counts, kind="stable"):
        part[str(names[position])] = number = int(filled.argmin())
        filled[number] += counts[position]
    return np.asarray([part[name] for name in named])
