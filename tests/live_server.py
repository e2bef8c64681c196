"""A live dashboard on its own folders and port: for the browser tests, hostile requests and the load."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Server:
    """A running dashboard: its address and the folders it works on."""

    url: str
    runs: Path
    sample: Path
    process: subprocess.Popen


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _wait_until_healthy(url: str, process: subprocess.Popen, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        assert process.poll() is None, "the server ended before it answered"
        try:
            with urllib.request.urlopen(f"{url}/_stcore/health", timeout=2) as answer:
                if answer.status == 200:
                    return
        except OSError:
            time.sleep(0.1)
    raise AssertionError(f"the server did not answer within {seconds} seconds")


@contextlib.contextmanager
def serving(
    runs: Path, sample: Path, log: Path, script: str = "dashboard/Home.py", **variables: str
) -> Iterator[Server]:
    """`streamlit run dashboard/Home.py` on these folders, or another script that serves it."""
    port = _free_port()
    folders = {"DASHBOARD_RUNS": str(runs), "DASHBOARD_SAMPLE": str(sample)}
    environment = {**os.environ, **folders, **variables}
    command = [sys.executable, "-m", "streamlit", "run", script]
    command += ["--server.port", str(port), "--server.headless", "true", "--server.fileWatcherType", "none"]
    with open(log, "wb") as output:
        process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=output, stderr=subprocess.STDOUT
        )
    try:
        made = Server(f"http://127.0.0.1:{port}", runs, sample, process)
        _wait_until_healthy(made.url, process)
        yield made
    finally:
        process.terminate()
        process.wait(20)
