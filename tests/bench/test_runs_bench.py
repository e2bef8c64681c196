"""The bench of the run machinery: each promise with its limit, on a small folder."""

import pytest

from engine.bench import runs as bench


@pytest.mark.slow
def test_every_promise_is_measured_and_kept():
    records = {record["what"]: record for record in bench.run(runs=30, epochs=2, repeats=1)}
    for record in records.values():
        assert record["value"] > 0
        assert record["limit"] is None or record["value"] < record["limit"], record
    assert {what for what, record in records.items() if record["limit"]} == {
        "listing, warm",
        "start until its status is there",
        "supervisor, resident memory",
    }


def test_the_folders_are_what_workers_leave(tmp_path):
    from engine.runs import folder as contract
    from engine.runs import listing

    bench.make_runs(tmp_path, 20, 3)
    found = listing.summaries(tmp_path)
    assert len(found) == 20
    assert {summary.state for summary in found} == {"completed", "interrupted"}
    assert len(contract.run_folders(tmp_path)[0].metrics()) == 6
