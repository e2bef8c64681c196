"""How the suite is run: on all cores, what needs the machine alone without company, and a limit on fast tests.

`pytest` on folders uses up to four workers; named files run in one process, so that `-s` and a debugger work as
usual. Files stay together (`--dist loadfile`), so module-scoped fixtures are made once.
"""

from __future__ import annotations

import fcntl
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

FAST_LIMIT_S = 2.0
ALONE = ("browser", "alone")

# Two workers on two cores: more threads per worker would only wait for each other. Before anything loads torch.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Workers for `-n auto`: one per core, at most four; none where files or single tests are named."""
    named = [Path(str(argument).partition("::")[0]) for argument in config.invocation_params.args]
    if any(path.suffix == ".py" and path.exists() for path in named):
        return 0
    workers = min(
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1, 4
    )
    return workers if workers > 1 else 0


def _doors(config: pytest.Config) -> tuple[Path, Path] | None:
    """The two lock files that all workers of this session share; None where there is one process."""
    if not hasattr(config, "workerinput"):
        return None
    folder = config._tmp_path_factory.getbasetemp().parent  # type: ignore[attr-defined]  # pytest clears it away
    return folder / "turnstile", folder / "room"


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """Tests that drive a browser or compare timings have the machine to themselves.

    A readers-writer lock over the workers: whoever wants the room alone holds the turnstile while waiting, so
    that the others, who pass it before each test, cannot keep taking the room from it.
    """
    doors = _doors(item.config)
    if doors is None:
        return (yield)
    alone = any(item.get_closest_marker(name) for name in ALONE)
    with doors[0].open("w") as turnstile, doors[1].open("w") as room:
        fcntl.flock(turnstile, fcntl.LOCK_EX)
        fcntl.flock(room, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
        fcntl.flock(turnstile, fcntl.LOCK_UN)
        try:
            return (yield)
        finally:
            # Closing is not enough: a process forked by the test (a loader's) has the same open file, and keeps it.
            fcntl.flock(room, fcntl.LOCK_UN)


def _processor_s() -> float:
    """Processor seconds of this process and of the children it has waited for."""
    spent = os.times()
    return spent.user + spent.system + spent.children_user + spent.children_system


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    """A test that is not marked slow may take two seconds of processor time, however busy the machine is.

    Who is the first to load a large library is not to blame for it.
    """
    modules, before = len(sys.modules), _processor_s()
    outcome = yield
    taken = _processor_s() - before
    marked = item.get_closest_marker("slow") or item.get_closest_marker("browser")
    if not marked and taken > FAST_LIMIT_S and len(sys.modules) - modules < 100:
        pytest.fail(
            f"{taken:.1f} s of processor time, and a fast test may take {FAST_LIMIT_S:.0f}: "
            "make it cheaper or mark it slow",
            pytrace=False,
        )
    return outcome
