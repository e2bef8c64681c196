"""What can go wrong, as a tree; every error carries what was found and what to do.

EngineError
 ├─ DataError         images, folders, manifests
 ├─ SplitError        a split that cannot be made, or must not be used
 ├─ ConfigError       a configuration that cannot run
 ├─ WeightsError      pretrained weights or checkpoints that cannot be had
 ├─ RunError          a run folder that is missing, busy or unreadable
 ├─ PredictionsError  a table of predictions that cannot be scored
 ├─ EnsembleError     members that do not fit together
 ├─ TrainingError     a run that failed: kind says how (out_of_memory, nan_loss, disk_full, ...)
 ├─ ExplainError      a map that cannot be made
 ├─ ShareError        a frozen view, a report or a bundle that cannot be made, opened or trusted
 └─ AccessError       an act that whoever asks may not do
"""

from __future__ import annotations


class EngineError(Exception):
    """A failure a person can act on.

    Args:
        message: what was wrong, one sentence without its full stop.
        found: what was there instead (a value, a path, a list of names).
        remedy: what to do about it.
        kind: a short machine-readable word; the class decides unless given.
    """

    kind = "error"

    def __init__(
        self, message: str, *, found: str | None = None, remedy: str | None = None, kind: str | None = None
    ):
        self.message = message.rstrip(".")
        self.found = found
        self.remedy = remedy
        if kind:
            self.kind = kind
        super().__init__(str(self))

    def __str__(self) -> str:
        parts = [self.message + "."]
        if self.found:
            parts.append(f"Found: {self.found.rstrip('.')}.")
        if self.remedy:
            parts.append(self.remedy if self.remedy.endswith("?") else f"{self.remedy.rstrip('.')}.")
        return " ".join(parts)

    def as_record(self) -> dict[str, str | None]:
        """The error as `status.json` stores it: kind, message (with what was found), remedy."""
        found = f" Found: {self.found.rstrip('.')}." if self.found else ""
        message = f"{self.message}.{found}"
        return {"kind": self.kind, "message": message, "remedy": self.remedy}


class DataError(EngineError):
    kind = "data"


class SplitError(EngineError):
    kind = "split"


class ConfigError(EngineError):
    kind = "config"


class WeightsError(EngineError):
    kind = "weights"


class RunError(EngineError):
    kind = "run"


class PredictionsError(EngineError):
    kind = "predictions"


class EnsembleError(EngineError):
    kind = "ensemble"


class TrainingError(EngineError):
    kind = "training"


class ExplainError(EngineError):
    kind = "explain"


class ShareError(EngineError):
    kind = "share"


class AccessError(EngineError):
    kind = "access"


def shorten(names: list[str], limit: int = 3) -> str:
    """`a, b, c and 12 more`: a list of names short enough for a sentence."""
    shown = ", ".join(names[:limit])
    rest = len(names) - limit
    return f"{shown} and {rest} more" if rest > 0 else shown
