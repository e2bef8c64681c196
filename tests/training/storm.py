"""A kill storm: `python storm.py RUN SEED KILLS [server]`: kills a worker KILLS times at random steps, then lets it end.

Importing torch takes longer than the tiny run, so this process imports it once and forks a worker per life;
each life is a process of its own that holds the lock, and is ended by SIGKILL, SIGTERM or the STOP file.
Prints one line per life: the signal and the exit code. With `server` loader processes begin as beside a GPU.
"""

from __future__ import annotations

import os
import random
import select
import signal
import sys
import time
from pathlib import Path

import tiny_runs

from engine.runs import worker
from engine.runs.folder import RunFolder
from engine.runs.reporter import Reporter
from engine.runs.status import QUEUED


def live(path: Path, pipe: int) -> int:
    """One life of the worker; every question whether to stop writes a byte, so that the parent can count."""

    class Counted(Reporter):
        def stop_requested(self) -> bool:
            os.write(pipe, b".")
            return super().stop_requested()

    worker.Reporter = Counted
    return worker.work(path)


def start(path: Path) -> tuple[int, int]:
    """Queue the run again and fork a worker; returns its process id and the pipe it counts on."""
    folder = RunFolder(path)
    folder.write_status(folder.status().moved(QUEUED))
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(read)
        log = os.open(path / "log.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(log, 1)
        os.dup2(log, 2)
        code = 99
        try:
            code = live(path, write)
        finally:
            os._exit(code)
    os.close(write)
    return child, read


def strike(folder: RunFolder, kind: str, asked: int, dice: random.Random) -> int:
    """Let a worker come to its `asked`-th step, end it by `kind`; returns the exit code (-signal if killed)."""
    child, pipe = start(folder.path)
    for _ in range(asked):
        select.select([pipe], [], [], 60)
        if not os.read(pipe, 1):
            break
    time.sleep(dice.random() * 0.02)  # in the middle of a step, or of writing a checkpoint
    if kind == "STOP":
        folder.request_stop()
    else:
        os.kill(child, getattr(signal, kind))
    while os.read(pipe, 4096):
        pass
    os.close(pipe)
    folder.clear_stop()
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


if (
    __name__ == "__main__"
):  # loader processes beside a GPU read this file, too: what costs seconds stands here
    from engine.training import loop  # noqa: F401 - imported once, for all lives

    tiny_runs.register()
    if "server" in sys.argv[4:]:
        tiny_runs.start_loaders_as_beside_a_gpu()
    folder, dice = RunFolder(Path(sys.argv[1])), random.Random(int(sys.argv[2]))
    killed = 0
    for _ in range(200):
        kind = dice.choice(["SIGKILL", "SIGKILL", "SIGKILL", "SIGTERM", "STOP"])
        code = strike(folder, kind, dice.randint(1, 9), dice)
        print(kind, code, flush=True)
        killed += code in (-signal.SIGKILL, worker.EXIT_STOPPED)
        if code == 0 or killed >= int(sys.argv[3]):
            break
    child, pipe = start(folder.path)
    while os.read(pipe, 4096):
        pass
    print("LAST", os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
