"""The predict bench measures both sides on the same files; its numbers depend on the machine."""

from __future__ import annotations

import sys
from pathlib import Path

import fabricate
import pytest

from engine.bench import predict

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "training"))
import tiny_runs


@pytest.mark.slow
def test_judging_is_measured_beside_the_evaluation_of_training(tmp_path, monkeypatch):
    monkeypatch.setenv("BREAKHIS_CACHE", str(tmp_path / "cache"))
    tiny_runs.register()
    data = fabricate.write_images(tmp_path / "data", cases=3, images=1)
    records = {row["what"]: row for row in predict.run(data, images=64, rounds=1, model=tiny_runs.TINY.name)}
    assert set(records) == {"judge", "evaluation", "pack and evaluation", "memory growth, MB"}
    judged, evaluated = records["judge"], records["evaluation"]
    assert judged["ratio"] == pytest.approx(judged["images_per_s"] / evaluated["images_per_s"])
    assert judged["within"] == (judged["ratio"] >= predict.LIMIT)
