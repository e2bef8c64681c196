"""Who executes a run: this machine (`local`) or a cluster (`ray`).

An executor only moves work; the run folder remains the truth, and its lock the fence. The queue is ours in
both cases. To add one, write a module with the functions of `Executor` and a `keeper`, and name it in
`EXECUTORS`.
"""

from __future__ import annotations

import importlib
import threading
from pathlib import Path
from typing import Protocol

from engine.errors import ConfigError, EngineError, RunError
from engine.runs.executors.answers import Check, Job
from engine.runs.folder import BUSY, RunFolder
from engine.runs.status import LOCAL

CLUSTER_FILE = ".cluster.json"
CONTACT_FILE = ".cluster-contact.json"


class Executor(Protocol):
    """What an executor can do. None of it trains, and only `check_up` takes longer than a request."""

    def problems(self, runs: Path) -> list[EngineError]:
        """What keeps a run from being handed to it and can be told at once; empty = it can be."""
        ...

    def check_up(self, runs: Path) -> list[Check]:
        """Try everything a run needs, for real, before the first one is sent."""
        ...

    def capacity(self, runs: Path) -> list[str]:
        """Its slots, one run each."""
        ...

    def submit(self, folder: RunFolder, slot: str) -> None:
        """Start the worker of a run in a slot; to do it twice starts it once (the run's lock is the fence)."""
        ...

    def state(self, folder: RunFolder) -> Job:
        """What it says of a run's job; never raises: what cannot be asked is UNKNOWN_JOB."""
        ...

    def stop(self, folder: RunFolder, *, kill: bool = False) -> None:
        """Ask the worker to stop at its next step; `kill` ends it without asking."""
        ...


class Keeper(Protocol):
    """What a supervisor runs beside its own slots for a cluster: claim, submit, watch."""

    busy: bool

    def run(self, ending: threading.Event) -> None:
        """Until `ending` is set; never raises."""
        ...


EXECUTORS = (LOCAL, "ray")


def find(name: str) -> Executor:
    """The executor of a name.

    Raises:
        ConfigError: there is none.
    """
    if name not in EXECUTORS:
        raise ConfigError("There is no such executor", found=name, remedy=f"Choose {', '.join(EXECUTORS)}")
    return importlib.import_module(f"engine.runs.executors.{name}")  # type: ignore[return-value]


def keeper(runs: Path) -> Keeper | None:
    """The keeper of the cluster that a runs folder is connected to; None where it is not."""
    if not (Path(runs) / CLUSTER_FILE).is_file():
        return None
    from engine.runs.executors import ray

    return ray.Keeper(Path(runs))


def cannot_start(error: OSError) -> RunError:
    """No process, or no log file for it."""
    return RunError(
        "Nothing can be started here",
        found=f"{error.strerror or error}: {error.filename or 'a new process'}",
        remedy="See that the runs folder can be written and that memory and disk are not full; the run waits in the queue",
        kind="start",
    )


def busy(folder: RunFolder) -> RunError:
    """Somebody holds the lock of a run that waits; it is tried again."""
    return RunError(
        f"The run {folder.id} is held by another process",
        remedy="It is tried again in a moment",
        kind=BUSY,
    )
