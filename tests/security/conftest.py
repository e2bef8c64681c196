"""A file that must not appear."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture
def marker(tmp_path: Path):
    """A file that would be there if something had been executed; asserted to be absent at the end."""
    path = tmp_path / "executed"
    yield path
    assert not path.exists(), "code from a file was executed"
