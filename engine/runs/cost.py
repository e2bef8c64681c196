"""What evaluating an image costs: said beside every score, since tiles and flips multiply it."""

from __future__ import annotations

from dataclasses import dataclass

from engine.errors import RunError
from engine.runs.folder import RunFolder, locate
from engine.runs.status import Status


@dataclass(frozen=True)
class Cost:
    """What evaluating one image takes: milliseconds, and the squares that the networks see of it."""

    ms: float
    squares: float

    def as_record(self) -> dict[str, float]:
        return {"ms_per_image": round(self.ms, 2), "squares_per_image": self.squares}

    def __str__(self) -> str:
        seen = "one square" if self.squares == 1 else f"{self.squares:g} squares"
        return f"{self.ms:,.0f} ms per image ({seen})"


def cost_of(folder: RunFolder) -> Cost | None:
    """What a run's predictions cost per image, of an ensemble all its members' together, of pooled folds their
    mean; None where it was not measured (an import, an older run)."""
    config = folder.config()
    members = config.details.get("members") or ()
    if config.kind not in ("ensemble", "pooled", "fusion"):
        return cost_in(folder.status())
    try:
        costs = [cost_of(locate(folder.runs, run_id)) for run_id in members]
    except RunError:
        return None
    known = [cost for cost in costs if cost]
    if not known or len(known) < len(costs):
        return None
    share = 1 / len(known) if config.kind == "pooled" else 1
    return Cost(sum(cost.ms for cost in known) * share, sum(cost.squares for cost in known) * share)


def cost_in(status: Status) -> Cost | None:
    """The cost that a worker has measured."""
    numbers = status.numbers
    if not numbers.get("squares_per_image"):
        return None
    return Cost(float(numbers["predict_ms_per_image"]), float(numbers["squares_per_image"]))
