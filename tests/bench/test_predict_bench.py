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
    first, cached, memory = predict.run(data, images=64, rounds=1, model=tiny_runs.TINY.name)
    assert (first["what"], cached["what"], memory["what"]) == (
        f"judge beside {predict.FIRST}",
        f"judge beside {predict.PACKED}",
        predict.GROWTH,
    )
    for one in (first, cached):
        assert one["ratio"] == pytest.approx(one["images_per_s"] / one["peer_images_per_s"])
    assert first["peer_images_per_s"] < cached["peer_images_per_s"], "decoding takes time"
    assert first["within"] == (first["ratio"] >= predict.LIMIT)
    assert memory["within"] == (memory["value"] <= predict.LIMIT_GROWTH_MB)
