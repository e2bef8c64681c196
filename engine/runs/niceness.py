"""Background work steps back: whoever looks at the pages, and the browser on the same machine, come first.

A training on a CPU keeps every core busy for hours, and beside it a page that needs half a second of processor waits
for its turn. So a worker on the CPU is started ten steps nicer than whoever started it: on an idle machine it is as
fast, and where something else wants the processor that gets about nine tenths of it (Linux weighs ten steps 9.3 to
1). A worker on a GPU is left alone: a late kernel launch keeps the GPU waiting.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

VARIABLE = "BREAKHIS_NICE"
DEFAULT, NICEST = 10, 19


def steps() -> int:
    """How many steps nicer background work is: `$BREAKHIS_NICE` from 0 (not at all) to 19, or 10.

    A value that is none of these counts as unset: a queue that stood still over it would be the greater harm.
    """
    given = os.environ.get(VARIABLE, "").strip()
    return int(given) if given in map(str, range(NICEST + 1)) else DEFAULT


def step_back(pid: int) -> None:
    """Make a process that has just been started nicer than this one; what it starts inherits that.

    On Linux niceness belongs to a thread: a process that has begun to compute keeps what its threads have. A system
    that refuses, or knows no niceness, is no reason not to work.

    Args:
        pid: a child of this process that has not been waited for.
    """
    by = steps()
    if not by or not hasattr(os, "setpriority"):
        return
    with contextlib.suppress(OSError):
        nice = min(os.getpriority(os.PRIO_PROCESS, 0) + by, NICEST)
        os.setpriority(os.PRIO_PROCESS, pid, nice)
        # Where Linux schedules by session ("autogroup", usual on desktops), niceness counts only within one, and a
        # worker has a session of its own: it is the session that has to step back.
        group = Path(f"/proc/{pid}/autogroup")
        if group.exists() and os.getsid(pid) == pid:
            group.write_text(str(nice), encoding="ascii")
