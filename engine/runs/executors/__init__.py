"""Who executes a run: this machine (`local`) or a cluster (`ray`).

An executor only moves work; the run folder remains the truth. To add one, write a module with the
functions of `Executor` and name it in `EXECUTORS`.
"""

from __future__ import annotations

import importlib
from typing import Protocol

from engine.errors import ConfigError
from engine.runs.folder import RunFolder


class Executor(Protocol):
    """What an executor can do; all of it answers fast and none of it trains."""

    def capacity(self) -> list[str]:
        """Slots, one run each: `cpu/0`, `gpu/<uuid>` ..."""
        ...

    def submit(self, folder: RunFolder, slot: str) -> None:
        """Start a worker for this folder in this slot; it outlives the caller."""
        ...

    def stop(self, folder: RunFolder, *, kill: bool = False) -> None:
        """Ask the worker to stop at its next step; `kill` ends it without asking."""
        ...


EXECUTORS = ("local",)


def find(name: str) -> Executor:
    """The executor of a name.

    Raises:
        ConfigError: there is none.
    """
    if name not in EXECUTORS:
        raise ConfigError("There is no such executor", found=name, remedy=f"Choose {', '.join(EXECUTORS)}")
    return importlib.import_module(f"engine.runs.executors.{name}")  # type: ignore[return-value]
