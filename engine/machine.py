"""What of this machine may be used."""

from __future__ import annotations

import os


def cores() -> int:
    """Cores that this process may use: a container or a batch system may grant fewer than there are."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
