"""Workers on this machine: one process a run, in a session of its own.

It outlives the server, Ctrl-C and the browser. Never multiprocessing: training inside a page dies at the
next click.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from engine.errors import RunError
from engine.runs.folder import RunFolder, boot_id

ROOT = Path(__file__).resolve().parents[3]
CPU_SLOT = "cpu/0"


def capacity() -> list[str]:
    """A slot per GPU, by UUID (indices change with CUDA_VISIBLE_DEVICES); one CPU slot without a GPU."""
    try:
        import pynvml  # pyright: ignore[reportMissingImports]

        pynvml.nvmlInit()
    except Exception:  # no driver, no package, no GPU: all of them mean the CPU
        return [CPU_SLOT]
    try:
        handles = [pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(pynvml.nvmlDeviceGetCount())]
        return [f"gpu/{pynvml.nvmlDeviceGetUUID(handle)}" for handle in handles] or [CPU_SLOT]
    finally:
        pynvml.nvmlShutdown()


def worker_command(folder: RunFolder) -> list[str]:
    """The argument list of a worker; ids only, never a shell."""
    return [sys.executable, "-m", "engine", "work", str(folder.path.resolve())]


def spawn(folder: RunFolder, slot: str = CPU_SLOT) -> subprocess.Popen[bytes]:
    """Start the worker of a folder and return its process, for whoever wants to reap it."""
    environment = {**os.environ, "PYTHONUNBUFFERED": "1", "NO_ALBUMENTATIONS_UPDATE": "1"}
    if slot.startswith("gpu/"):
        environment["CUDA_VISIBLE_DEVICES"] = slot.removeprefix("gpu/")
    with open(folder.path / "log.txt", "ab") as log:
        return subprocess.Popen(
            worker_command(folder),
            cwd=ROOT,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def submit(folder: RunFolder, slot: str = CPU_SLOT) -> None:
    spawn(folder, slot)


def stop(folder: RunFolder, *, kill: bool = False) -> None:
    """Ask a worker to stop; with `kill`, end its process group at once.

    Raises:
        RunError: it is to be killed, but its process cannot be told apart from another's.
    """
    folder.request_stop()
    if not kill or not folder.is_alive():
        return
    worker = folder.status().worker
    pid = int(worker.get("pid") or 0)
    if not pid or worker.get("boot_id") != boot_id() or not _is_worker(pid, folder):
        raise RunError(
            f"The worker of {folder.name} cannot be killed from here",
            found=f"process {pid or 'unknown'} on {worker.get('host') or 'an unknown machine'}",
            remedy="Stop it on the machine where it runs",
        )
    os.killpg(os.getpgid(pid), signal.SIGKILL)


def _is_worker(pid: int, folder: RunFolder) -> bool:
    """A process id may have been given to another program since: its command line tells."""
    import psutil

    try:
        words = psutil.Process(pid).cmdline()
    except psutil.Error:
        return False
    return "work" in words and words[-1].endswith(folder.id)
