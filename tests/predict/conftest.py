"""A trained tiny network and its images, as in the tests of training."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from engine.runs.folder import RunFolder

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "training"))


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> tuple[RunFolder, RunFolder, Path]:
    """Two trained runs of one split, and the folder of their images."""
    import tiny_runs

    tiny_runs.register()
    base = tmp_path_factory.mktemp("tiny")
    images = base / "images"
    images.mkdir()
    data = tiny_runs.write_images(images)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BREAKHIS_CACHE", str(base / "cache"))
        runs = [
            tiny_runs.make_run(base / "runs", data, training__seed=seed, training__epochs=1)
            for seed in (0, 1)
        ]
        for run in runs:
            tiny_runs.fit(run)
    return runs[0], runs[1], images
