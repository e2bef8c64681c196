"""The worker: `python -m engine work DIR` does what a run folder asks for.

It holds the folder's lock while it lives, writes status, metrics, predictions and checkpoints, and ends
with one of the exit codes below. Signals only set a flag: the loop stops at its next step and saves.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

from engine.allocator import kept_memory
from engine.errors import EngineError, RunError
from engine.runs.config import EXECUTED
from engine.runs.exit_codes import EXIT_BUSY, EXIT_CODES, EXIT_COMPLETED, EXIT_INTERNAL, EXIT_STOPPED
from engine.runs.folder import BUSY, RunFolder
from engine.runs.reporter import Reporter
from engine.runs.status import (
    COMPLETED,
    FAILED,
    FINISHED,
    QUEUED,
    RUNNING,
    STARTING,
    STOPPED,
    Status,
    unattended_state,
)

Job = Callable[[RunFolder, Reporter], str]

LOCK_WAIT_S = 5.0
FIRST_WAIT_S = 120.0


def work(path: Path, listener: Callable[[Status], None] | None = None) -> int:
    """Execute the run in a folder; returns the exit code. `listener` hears every status written.

    The lock and the state under it are the fence: of two workers started for one run (a queue that was
    rebuilt, a job that a cluster submitted twice) the second finds the lock held, or the run begun, and
    leaves with EXIT_BUSY without having written anything.

    Of the processes of one run (torch.distributed.run and Ray Train say in RANK which this is), the first
    holds the lock and writes; the others wait until it does, and only compute.
    """
    folder = RunFolder(Path(path).resolve())
    if int(os.environ.get("RANK", "0")) > 0:
        return _assist(folder)
    try:
        with folder.hold(LOCK_WAIT_S):
            state = unattended_state(folder.status())
            if folder.status().state not in (QUEUED, STARTING):
                raise RunError(
                    f"The run {folder.id} does not wait for a worker",
                    found=f"state {state}",
                    remedy="Queue it again with `python -m engine resume`",
                    kind=BUSY,
                )
            _sweep(folder)
            return _execute(folder, Reporter(folder, listener=listener))
    except RunError as error:
        print(error, flush=True)
        return EXIT_BUSY if error.kind == BUSY else EXIT_CODES.get(error.kind, EXIT_INTERNAL)


def _assist(folder: RunFolder) -> int:
    """A process of the run that is not the first; returns the exit code."""
    end = time.monotonic() + FIRST_WAIT_S
    while not (folder.is_alive() and folder.status().state == RUNNING):
        if folder.status().state in FINISHED or time.monotonic() > end:
            print("The first process of this run has not begun.", flush=True)
            return EXIT_BUSY
        time.sleep(0.1)
    return _execute(folder, Reporter(folder, writes=False))


def _sweep(folder: RunFolder) -> None:
    """Temporary files that a killed worker left; nobody else writes while the lock is held."""
    for path in [*folder.path.glob(".*.tmp"), *folder.path.glob("predictions/.*.tmp")]:
        with contextlib.suppress(OSError):
            path.unlink()


def _job(kind: str) -> Job:
    if kind == "train":
        from engine.training.loop import train

        return train
    if kind == "fusion":
        from engine.training.fusion import train_fusion

        return train_fusion
    if kind == "soup":
        from engine.training.soup import make_soup

        return make_soup
    if kind == "tta":
        from engine.training.soup import predict_flipped

        return predict_flipped
    raise RunError(
        f"A run of kind {kind} is not executed",
        remedy=f"Only runs of these kinds have a worker: {', '.join(EXECUTED)}",
    )


@contextlib.contextmanager
def _signals(report: Reporter) -> Iterator[None]:
    """SIGTERM, Ctrl-C and a closed terminal ask for a stop; the handlers before are put back."""
    before = {}
    for name in ("SIGTERM", "SIGINT", "SIGHUP"):
        with contextlib.suppress(ValueError, AttributeError):  # not the main thread; not on this system
            number = getattr(signal, name)
            before[number] = signal.signal(number, lambda *_: report.stop())
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _execute(folder: RunFolder, report: Reporter) -> int:
    with _signals(report):
        try:
            config = folder.config()
            if (
                report.writes and report.stop_requested()
            ):  # asked for before it began: nothing is loaded for that
                outcome = STOPPED
            else:
                report.begin(config.training.epochs)
                with kept_memory():
                    outcome = _job(config.kind)(folder, report)
        except Exception as error:
            traceback.print_exc()
            record = failure(error)
            print(f"Failed ({record['kind']}): {record['message']} {record['remedy'] or ''}", flush=True)
            report.end(FAILED, record)
            return exit_code(error)
        report.end(outcome)  # if even that cannot be written, the exit code says it to the supervisor
        if outcome == COMPLETED and report.writes:
            _complete_experiment(folder)
    print(f"Run {folder.id}: {outcome}", flush=True)
    return EXIT_COMPLETED if outcome == COMPLETED else EXIT_STOPPED


def _complete_experiment(folder: RunFolder) -> None:
    """Pool the folds or combine the models of which this run was the last; the run itself is done either way."""
    try:
        from engine.runs.experiments import finish

        for made in finish(folder):
            print(f"Made {made.id}.", flush=True)
    except Exception as error:
        traceback.print_exc()
        print(f"What this run completes could not be made ({error}); make it from the pages.", flush=True)


def exit_code(error: BaseException) -> int:
    """The code of a failure: by its kind, else by the branch of the error tree it is on (a hub that cannot be
    reached is still a failure of weights)."""
    kinds = [str(failure(error)["kind"])]
    kinds += [kind for one in type(error).__mro__ if isinstance(kind := one.__dict__.get("kind"), str)]
    return next((EXIT_CODES[kind] for kind in kinds if kind in EXIT_CODES), EXIT_INTERNAL)


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
