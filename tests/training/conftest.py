from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import tiny_runs


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory):
    """The manifest of the tiny data set, its images written once."""
    return tiny_runs.write_images(tmp_path_factory.mktemp("images"))


@pytest.fixture(autouse=True)
def _tiny_world(tmp_path_factory, monkeypatch):
    """The tiny network in the catalogue, and a cache folder of the test session's own."""
    tiny_runs.register()
    monkeypatch.setenv("BREAKHIS_CACHE", str(tmp_path_factory.getbasetemp() / "pixel_cache"))


@pytest.fixture
def make_run(tiny_data, tmp_path):
    """`make_run(**changes)`: a run folder on the tiny data."""
    return lambda **changes: tiny_runs.make_run(tmp_path / "runs", tiny_data, **changes)


@pytest.fixture
def from_a_server(monkeypatch):
    """Loader processes begin as beside a GPU."""
    from engine.training import loading

    monkeypatch.setattr(loading, "start_method", loading.start_method)  # put back afterwards
    tiny_runs.start_loaders_as_beside_a_gpu()
