"""This boot of this machine: its id, the clock that nobody sets, and what tells a process from any other.

Nothing here imports anything of the project: the smallest piece that workers, supervisors and pages share.
"""

from __future__ import annotations

import os
import platform
import time
from functools import cache
from pathlib import Path


@cache
def boot_id() -> str:
    """Changes with every boot of the machine; empty where the system does not tell."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def ticks() -> float:
    """Seconds since the machine started, the time asleep included; nobody sets this clock."""
    try:
        return time.clock_gettime(time.CLOCK_BOOTTIME)
    except (AttributeError, OSError):
        return time.monotonic()


def identity() -> dict[str, object]:
    """This process, so that another one can tell later whether it is still the same."""
    return {
        "pid": os.getpid(),
        "host": platform.node(),
        "boot_id": boot_id(),
        "started": started(os.getpid()),
    }


def started(pid: int) -> int:
    """When a process began, in ticks since boot: together with its id unique; 0 where it is not told."""
    try:
        words = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return 0
    return int(words.rpartition(")")[2].split()[19])
