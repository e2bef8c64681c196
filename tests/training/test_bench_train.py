"""The benchmark of training runs all its sides on equal work."""

from __future__ import annotations

import pytest
import tiny_runs

from engine.bench import train


@pytest.mark.slow
def test_bench_train_measures_every_side(tiny_data):
    records = train.run(
        tiny_data, model=tiny_runs.TINY.name, image_size=32, batch_size=4, rounds=1, batches=3
    )
    values = {row["name"]: row["value"] for row in records}
    assert set(values) == {"plain", "ours", "bare", *train.LIMITS}
    assert all(value >= 0 for value in values.values())
    assert values["wait share"] < 1
    assert {row["ok"] for row in records} <= {True, False, None}
