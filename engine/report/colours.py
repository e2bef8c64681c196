"""A run's colour: the same on every page, in every report and frozen view of a runs folder.

Colours are dealt in turn to runs as they are first seen and written down beside the runs (`.colours.json`), so
that neither a new run nor a deleted one changes the colour of another under a reader. The palette is bounded:
runs dealt a whole round apart share a colour, which is why a name always stands beside it.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from filelock import FileLock, Timeout

from engine import files
from engine.report.theme import RUN_COLOURS

FILE = ".colours.json"
LOCK = ".colours.lock"


def run_colours(runs: Path, ids: Iterable[str]) -> dict[str, str]:
    """Run id -> colour, `#RRGGBB`; ids seen for the first time are dealt the next ones, oldest first.

    A runs folder that cannot be written deals anew each time, in the same order.
    """
    ids = list(ids)
    file = Path(runs) / FILE
    dealt = _dealt(file)
    if not set(ids) <= set(dealt):
        if file.parent.is_dir():
            lock = FileLock(file.parent / LOCK, timeout=2.0, poll_interval=0.01)
            # Two processes that deal at once would overwrite each other.
            with suppress(OSError, Timeout), lock:
                dealt = _with_new(_dealt(file), ids)
                files.write_json(file, dealt)
        dealt = _with_new(dealt, ids)
    return {run_id: RUN_COLOURS[dealt[run_id] % len(RUN_COLOURS)] for run_id in ids}


def _dealt(file: Path) -> dict[str, int]:
    return {
        run_id: place for run_id, place in (files.read_json(file) or {}).items() if isinstance(place, int)
    }


def _with_new(dealt: dict[str, int], ids: Iterable[str]) -> dict[str, int]:
    first = max(dealt.values(), default=-1) + 1
    new = sorted(set(ids) - set(dealt))
    return dealt | {run_id: first + step for step, run_id in enumerate(new)}
