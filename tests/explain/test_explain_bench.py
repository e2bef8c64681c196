"""The benchmark measures what it says: equal maps, three sides, every record complete."""

from __future__ import annotations

import math

import pytest

from engine.bench import explain


@pytest.mark.slow
def test_the_benchmark_compares_equal_maps_and_reports_every_limit():
    notes: list[str] = []
    records = explain.run("tf_efficientnet_lite0", images=3, rounds=1, note=notes.append)
    assert len(records) == 4
    for record in records:
        assert set(record) == {"what", "ours_s", "theirs_s", "ratio", "limit_s", "within", "detail"}
        assert record["ours_s"] > 0
        assert isinstance(record["within"], bool)
    gap = float(records[0]["detail"].rsplit(" ", 1)[1])
    assert gap < 1e-5
    assert math.isclose(records[0]["ratio"], records[0]["theirs_s"] / records[0]["ours_s"])
    assert notes
