"""A live server on its own folders."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

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


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """`streamlit run dashboard/Home.py` on empty folders."""
    port = _free_port()
    made = Server(f"http://127.0.0.1:{port}", tmp_path / "runs", tmp_path / "sample_data")
    environment = {**os.environ, "DASHBOARD_RUNS": str(made.runs), "DASHBOARD_SAMPLE": str(made.sample)}
    command = [sys.executable, "-m", "streamlit", "run", "dashboard/Home.py"]
    command += ["--server.port", str(port), "--server.headless", "true", "--server.fileWatcherType", "none"]
    with open(tmp_path / "server.log", "wb") as log:
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=subprocess.STDOUT)
    try:
        _wait_until_healthy(made.url, process)
        yield made
    finally:
        process.terminate()
        process.wait(20)
