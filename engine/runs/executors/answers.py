"""What executors answer: of a job, and of everything that a run needs."""

from __future__ import annotations

from dataclasses import dataclass

# What an executor says of a job; ABSENT = it knows of none, UNKNOWN_JOB = it cannot be asked.
PENDING, RUNNING, JOB_STOPPED, SUCCEEDED, JOB_FAILED = "PENDING", "RUNNING", "STOPPED", "SUCCEEDED", "FAILED"
ABSENT, UNKNOWN_JOB = "ABSENT", "UNKNOWN"


@dataclass(frozen=True)
class Job:
    """What an executor says of a run's job, and the reason where it gives one."""

    state: str
    message: str = ""


@dataclass(frozen=True)
class Check:
    """One thing that was tried before the first run: whether it is good, and what was found."""

    name: str
    good: bool
    found: str
