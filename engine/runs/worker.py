"""The worker: `python -m engine work DIR` does what a run folder asks for.

It holds the folder's lock while it lives, writes status, metrics, predictions and checkpoints, and ends
with one of the exit codes below. Signals only set a flag: the loop stops at its next step and saves.
"""

from __future__ import annotations

import errno
import signal
import traceback
from collections.abc import Callable
from pathlib import Path

from engine.errors import EngineError, RunError
from engine.runs.folder import COMPLETED, FAILED, STOPPED, RunFolder, Status
from engine.runs.reporter import Reporter

EXIT_COMPLETED = 0
EXIT_INTERNAL = 1
EXIT_STOPPED = 3
EXIT_BUSY = 4
# A failure that a person can act on ends with its own code, so that a script can tell them apart.
EXIT_CODES = {
    "config": 10,
    "data": 11,
    "split": 12,
    "weights": 13,
    "training": 14,
    "out_of_memory": 15,
    "nan_loss": 16,
    "disk_full": 17,
    "hung": 18,
}


def work(path: Path, listener: Callable[[Status], None] | None = None) -> int:
    """Execute the run in a folder; returns the exit code. `listener` hears every status written."""
    folder = RunFolder(Path(path).resolve())
    config = folder.config()
    try:
        with folder.hold():
            report = Reporter(folder, listener=listener)
            _catch_signals(report)
            report.begin(config.training.epochs)
            return _execute(folder, report, _job(config.kind))
    except RunError as error:
        print(error, flush=True)
        return EXIT_BUSY


def _job(kind: str) -> Callable[[RunFolder, Reporter], str]:
    if kind == "train":
        from engine.training.loop import train

        return train
    if kind == "fusion":
        from engine.training.fusion import train_fusion

        return train_fusion
    raise RunError(f"A run of kind {kind} is not executed", remedy="Only train and fusion runs have a worker")


def _catch_signals(report: Reporter) -> None:
    for name in ("SIGTERM", "SIGINT"):
        try:
            signal.signal(getattr(signal, name), lambda *_: report.stop())
        except ValueError:  # not the main thread: a test, or an embedding program that has its own handlers
            return


def _execute(folder: RunFolder, report: Reporter, job: Callable[[RunFolder, Reporter], str]) -> int:
    try:
        outcome = STOPPED if report.stop_requested() else job(folder, report)
    except Exception as error:
        traceback.print_exc()
        record = failure(error)
        report.end(FAILED, record)
        print(f"Failed ({record['kind']}): {record['message']} {record['remedy'] or ''}", flush=True)
        return EXIT_CODES.get(str(record["kind"]), EXIT_INTERNAL)
    report.end(outcome)
    print(f"Run {folder.id}: {outcome}", flush=True)
    return EXIT_COMPLETED if outcome == COMPLETED else EXIT_STOPPED


def failure(error: BaseException) -> dict[str, str | None]:
    """Any exception as `status.json` stores it: kind, message, remedy."""
    if isinstance(error, EngineError):
        return error.as_record()
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return {
            "kind": "disk_full",
            "message": f"The disk is full: {error.filename or error}.",
            "remedy": "Free space, then resume: the last whole checkpoint is kept.",
        }
    if isinstance(error, MemoryError):
        return {
            "kind": "out_of_memory",
            "message": "The machine's memory is exhausted.",
            "remedy": "Halve the batch size and double the gradient accumulation, then resume.",
        }
    return {
        "kind": "internal",
        "message": f"{type(error).__name__}: {error}",
        "remedy": "This is a fault of the program: the log has the traceback. Resume continues from the last checkpoint.",
    }
