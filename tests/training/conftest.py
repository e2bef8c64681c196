from __future__ import annotations

import contextlib
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


@pytest.fixture
def like_a_gpu(monkeypatch):
    """Training takes the ways that it takes beside a GPU, on the processor; what only a driver can do does nothing."""
    import torch

    from engine.training import loop

    def nothing(*_, **__):
        return contextlib.nullcontext()

    class Stream:
        def __init__(self, *_):
            self.wait_stream = nothing

    for name, stand_in in {
        "Stream": Stream,
        "stream": nothing,
        "device": nothing,
        "current_stream": Stream,
        "manual_seed": nothing,
        "synchronize": nothing,
        "max_memory_allocated": lambda *_: 2**20,
    }.items():
        monkeypatch.setattr(torch.cuda, name, stand_in)
    monkeypatch.setattr(torch.Tensor, "record_stream", nothing)
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda self: self)
    monkeypatch.setattr(loop, "choose", lambda *_: tiny_runs.LikeAGpu(torch.device("cpu")))
