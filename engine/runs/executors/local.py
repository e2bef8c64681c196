"""Workers on this machine: one process a run, in a session of its own.

It outlives the server, Ctrl-C and the browser. Never multiprocessing: training inside a page dies at the
next click.
"""

from __future__ import annotations

import contextlib
import os
import platform
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock

from engine.errors import EngineError, RunError
from engine.runs import boot, niceness, resources
from engine.runs.executors.answers import ABSENT, RUNNING, Check, Job
from engine.runs.folder import RunFolder, lock_is_held, writing
from engine.runs.status import STARTING, WORKING

if TYPE_CHECKING:
    import psutil

ROOT = Path(__file__).resolve().parents[3]
CPU_SLOT = "cpu/0"
# Without a GPU the one slot takes every run: what it asks for in vain, its worker will say.
ANYTHING = ("auto", "cpu", "cuda", *(f"cuda:{index}" for index in range(64)))


@dataclass(frozen=True)
class LocalDevice:
    """A device of this machine, for the picker of the launch form.

    `name` is what `--device` takes, `title` what people call it; `runs` the ids that work on it now.
    """

    name: str
    title: str
    slot: str
    memory_mb: float
    free_mb: float
    runs: tuple[str, ...] = ()


def slots() -> dict[str, tuple[str, ...]]:
    """Slots, one run each, and the wishes (`--device`) that each serves.

    A GPU's slot carries its UUID (indices change with CUDA_VISIBLE_DEVICES). Beside GPUs there is a slot for
    runs that ask for the CPU; without a GPU there is one slot for everything.
    """
    found = resources.gpus()
    if not found:
        return {CPU_SLOT: ANYTHING}
    of_gpus = {f"gpu/{gpu.uuid}": ("auto", "cuda", f"cuda:{gpu.index}") for gpu in found}
    return {**of_gpus, CPU_SLOT: ("cpu",)}


def capacity(runs: Path | None = None) -> list[str]:
    """The slots of this machine."""
    return list(slots())


def problems(runs: Path) -> list[EngineError]:
    """None that could be told without trying: a runs folder that cannot be written says so when it is."""
    return []


def check_up(runs: Path) -> list[Check]:
    """The runs folder can be written, its locks are seen by another look, there is a slot."""
    place = Path(runs) / f".check-{os.getpid()}"
    try:
        with writing("The runs folder cannot be written"):
            place.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(place, timeout=5):
                held = lock_is_held(place)
    except RunError as error:
        return [Check("runs folder", False, str(error))]
    finally:
        with contextlib.suppress(OSError):
            place.unlink(missing_ok=True)
    seen = "a lock taken here is seen" if held else "a lock taken here is not seen: use another file system"
    return [
        Check("runs folder", True, f"{runs} can be written"),
        Check("locks", held, seen),
        Check("room", True, ", ".join(capacity())),
    ]


def state(folder: RunFolder) -> Job:
    """The lock is the only sign of life: held = RUNNING."""
    return Job(RUNNING if folder.is_alive() else ABSENT)


def devices(runs: Path | None = None) -> list[LocalDevice]:
    """The devices of this machine, GPUs first, what is free on each and which of these runs work there."""
    busy: dict[str, list[str]] = {}
    if runs is not None:
        from engine.runs.queue import Queue

        for entry in Queue(runs).entries():
            if entry.slot:
                busy.setdefault(entry.slot, []).append(entry.run_id)
    found = [
        (f"cuda:{gpu.index}", gpu.name, f"gpu/{gpu.uuid}", gpu.memory_mb, gpu.free_mb)
        for gpu in resources.gpus()
    ]
    import psutil

    memory = psutil.virtual_memory()
    cores = f"{os.cpu_count()} cores, {platform.machine()}"
    found.append(("cpu", cores, CPU_SLOT, memory.total / resources.MB, memory.available / resources.MB))
    return [
        LocalDevice(name, title, slot, round(total), round(free), tuple(busy.get(slot, ())))
        for name, title, slot, total, free in found
    ]


def worker_command(folder: RunFolder) -> list[str]:
    """The argument list of a worker; ids only, never a shell."""
    return [sys.executable, "-m", "engine", "work", str(folder.path.resolve())]


def environment(folder: RunFolder, slot: str) -> dict[str, str]:
    """What a worker in this slot sees: its own GPU only, unless the run names one by index."""
    words = {**os.environ, "PYTHONUNBUFFERED": "1", "NO_ALBUMENTATIONS_UPDATE": "1"}
    words["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"  # the order in which indices are given out here
    if slot.startswith("gpu/") and ":" not in folder.config().training.device:
        words["CUDA_VISIBLE_DEVICES"] = slot.removeprefix("gpu/")
    return words


def spawn(folder: RunFolder, slot: str = CPU_SLOT) -> subprocess.Popen[bytes]:
    """Start the worker of a folder and return its process, for whoever wants to reap it; on the CPU it steps back
    (`engine.runs.niceness`).

    Raises:
        OSError: no log can be written, or the system gives no process.
    """
    with open(folder.path / "log.txt", "ab") as log:
        process = subprocess.Popen(
            worker_command(folder),
            cwd=ROOT,
            env=environment(folder, slot),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    if slot == CPU_SLOT:
        niceness.step_back(process.pid)
    return process


def submit(folder: RunFolder, slot: str = CPU_SLOT) -> None:
    spawn(folder, slot)


def stop(folder: RunFolder, *, kill: bool = False) -> None:
    """Ask a worker to stop; with `kill`, end it and everything it started, at once.

    Raises:
        RunError: it is to be killed, but its process cannot be told apart from another's.
    """
    folder.request_stop()
    if not kill or not folder.is_alive():
        return
    import psutil

    worker = folder.status().worker
    pid = int(worker.get("pid") or 0)
    if not is_worker(worker, folder):
        if not folder.is_alive() or folder.status().state not in WORKING:
            return  # it ended while we looked
        raise RunError(
            f"The worker of {folder.name} cannot be killed from here",
            found=f"process {pid or 'unknown'} on {worker.get('host') or 'an unknown machine'}",
            remedy="Wait a second and try again"
            if folder.status().state == STARTING
            else "Stop it on the machine where it runs",
        )
    with contextlib.suppress(psutil.NoSuchProcess):
        root = _launcher(psutil.Process(pid), folder)
        family = [*root.children(recursive=True), root]
        for process in reversed(family):  # parents first: none is left to start another child
            with contextlib.suppress(psutil.Error):
                process.send_signal(signal.SIGKILL)


def _launcher(process: psutil.Process, folder: RunFolder) -> psutil.Process:
    """The first process of this worker: torchrun puts one above each rank, in another session."""
    import psutil

    with contextlib.suppress(psutil.Error):
        while (parent := process.parent()) is not None and any(
            folder.id in word for word in parent.cmdline()
        ):
            process = parent
    return process


def is_worker(worker: dict, folder: RunFolder) -> bool:
    """Is the process that a status names still that process? A process id may have been given away since."""
    pid = int(worker.get("pid") or 0)
    if not pid or worker.get("boot_id") != boot.boot_id():
        return False
    started = boot.started(pid)
    if worker.get("started") and started:
        return started == worker["started"]
    import psutil

    try:
        return any(folder.id in word for word in psutil.Process(pid).cmdline())
    except psutil.Error:
        return False
