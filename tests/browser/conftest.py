"""A live server on its own folders."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Server:
    """A running dashboard: its address and the folders it works on."""

    url: str
    runs: Path
    sample: Path


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
def serving(runs: Path, sample: Path, log: Path) -> Iterator[Server]:
    """`streamlit run dashboard/Home.py` on these folders."""
    port = _free_port()
    made = Server(f"http://127.0.0.1:{port}", runs, sample)
    environment = {**os.environ, "DASHBOARD_RUNS": str(made.runs), "DASHBOARD_SAMPLE": str(made.sample)}
    command = [sys.executable, "-m", "streamlit", "run", "dashboard/Home.py"]
    command += ["--server.port", str(port), "--server.headless", "true", "--server.fileWatcherType", "none"]
    with open(log, "wb") as output:
        process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=output, stderr=subprocess.STDOUT
        )
    try:
        _wait_until_healthy(made.url, process)
        yield made
    finally:
        process.terminate()
        process.wait(20)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """A live server on empty folders."""
    with serving(tmp_path / "runs", tmp_path / "sample_data", tmp_path / "server.log") as made:
        yield made


@pytest.fixture
def another_server(server: Server, tmp_path: Path) -> Callable[[], contextlib.AbstractContextManager[Server]]:
    """`with another_server() as second:` a server on the folders of the first, after that one was killed."""
    return lambda: serving(server.runs, server.sample, tmp_path / "second.log")


@pytest.fixture
def kill_server() -> Callable[[Server], None]:
    """`kill -9` a server, as a crash would."""

    def kill(server: Server) -> None:
        port = server.url.rsplit(":", 1)[1]
        for child in psutil.Process().children():
            if port in child.cmdline():
                child.kill()
                child.wait(10)

    return kill
