"""`status.json`: the states of a run, what its worker said last, and how long ago that was."""

from __future__ import annotations

import platform
import time
from dataclasses import dataclass, field, replace
from typing import Any

from engine.runs import boot

QUEUED, STARTING, RUNNING, STOPPING = "queued", "starting", "running", "stopping"
COMPLETED, STOPPED, FAILED = "completed", "stopped", "failed"
INTERRUPTED, UNKNOWN = "interrupted", "unknown"
STATES = (QUEUED, STARTING, RUNNING, STOPPING, COMPLETED, STOPPED, FAILED, INTERRUPTED, UNKNOWN)
ACTIVE = (QUEUED, STARTING, RUNNING, STOPPING)
WORKING = (STARTING, RUNNING, STOPPING)
FINISHED = (COMPLETED, STOPPED, FAILED)
# Unknown: the status file was damaged; configuration and checkpoint still say how to go on.
RESUMABLE = (STOPPED, FAILED, INTERRUPTED, UNKNOWN)
LOCAL = "local"

# Importing torch on a busy machine takes up to half a minute before the worker can hold its lock.
START_GRACE_S = 90.0
STALL_S = 180.0
UNREADABLE = {
    "kind": "status",
    "message": "status.json is missing or cannot be read.",
    "remedy": "Resume: it continues from its last checkpoint. Or delete the run",
}


@dataclass(frozen=True)
class Status:
    """`status.json`. Times are seconds since 1970 (UTC); `progress` is 0 to 1; `eta_s` seconds left."""

    state: str = QUEUED
    phase: str = ""
    epoch: int = 0
    epochs: int = 0
    step: int = 0
    steps: int = 0
    progress: float = 0.0
    eta_s: float | None = None
    check_in_at: float = 0.0
    started_at: float | None = None
    ended_at: float | None = None
    best: dict[str, Any] | None = None
    error: dict[str, Any] | None = None
    numbers: dict[str, Any] = field(default_factory=dict)
    worker: dict[str, Any] = field(default_factory=dict)
    history: tuple[tuple[str, float], ...] = ()
    ticks: dict[str, Any] = field(default_factory=dict)
    """The check-in on a clock that nobody sets: `boot` (which one), `at` (seconds since it), `host`."""
    executor: str = LOCAL
    slot: str = ""
    submission: str = ""
    """The cluster's own id of the job, where a cluster executes the run."""
    restarts: int = 0
    """How often it was started again by itself since it last finished an epoch."""

    def moved(self, state: str, **values: Any) -> Status:
        """A copy in another state, with the change in its history."""
        now = time.time()
        history = (
            self.history if self.history and self.history[-1][0] == state else (*self.history, (state, now))
        )
        return replace(self.checked_in(), state=state, history=history, **values)

    def checked_in(self) -> Status:
        """A copy that says: alive now."""
        ticks = {"boot": boot.boot_id(), "at": boot.ticks(), "host": platform.node()}
        return replace(self, check_in_at=time.time(), ticks=ticks)

    def age_s(self) -> float:
        """Seconds since the last check-in, right even when somebody set the clock meanwhile.

        Infinite when the check-in is of an earlier boot of this machine.
        """
        if self.ticks.get("boot") and self.ticks.get("host") == platform.node():
            if self.ticks["boot"] != boot.boot_id():
                return float("inf")
            return max(0.0, boot.ticks() - float(self.ticks.get("at") or 0.0))
        return max(0.0, time.time() - self.check_in_at)  # another machine's: only the wall clocks compare

    def stalls(self, state: str) -> bool:
        """Whether a worker in this state has said nothing for so long that it may hang."""
        return state in (RUNNING, STOPPING) and self.age_s() > STALL_S

    @classmethod
    def from_record(cls, record: dict[str, Any]) -> Status:
        known = {name: record[name] for name in cls.__dataclass_fields__ if name in record}
        known["history"] = tuple((str(state), float(at)) for state, at in known.get("history", ()))
        return cls(**known)


def unattended_state(status: Status) -> str:
    """What a status means when nobody holds the run's lock."""
    if status.state not in WORKING:
        return status.state
    if status.state == STARTING:
        if status.age_s() < START_GRACE_S:
            return STARTING
        # A cluster may keep a job waiting for as long as it likes; only its head can say more.
        return INTERRUPTED if status.executor == LOCAL else UNKNOWN
    return INTERRUPTED
