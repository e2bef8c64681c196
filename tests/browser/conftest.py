"""A live server on its own folders."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from live_server import Server, serving  # beside the top conftest: pytest puts tests/ on the path


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
        server.process.kill()
        server.process.wait(10)

    return kill
