"""The comparison bench measures what is promised, beside scikit-learn and scipy doing the same work."""

from __future__ import annotations

import pytest

from engine.bench import compare, together


@pytest.mark.slow
def test_every_promise_is_measured_beside_its_counterpart():
    records = compare.run(entries=2, draws=200, reference_draws=20)
    assert len(records) == len(compare.LIMITS)
    assert all(row["ours_s"] > 0 for row in records)
    beside = [row for row in records if row["theirs_s"] is not None]
    assert len(beside) == 5
    assert all(row["ratio"] == pytest.approx(row["theirs_s"] / row["ours_s"]) for row in beside)
    printed = together.text(together.table({"compare": records}, {}), together.machine())
    # What stands after "beside" has a column of its own.
    assert all(part in printed for row in records for part in row["what"].split(" beside "))
