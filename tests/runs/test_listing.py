"""The list of runs: never a stale row, and no damaged run hides another."""

import os
from dataclasses import replace

from engine.runs.config import RunConfig
from engine.runs.creation import create
from engine.runs.listing import summaries
from engine.runs.status import Status


def test_a_status_replaced_within_one_tick_of_the_clock_is_read_again(run):
    assert summaries(run.runs)[0].status.epoch == 0
    stat = (run.path / "status.json").stat()
    run.write_status(replace(run.status(), epoch=1))
    os.utime(run.path / "status.json", ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert summaries(run.runs)[0].status.epoch == 1


def test_a_torn_status_is_unknown_and_hides_no_other_run(run):
    other = create(run.runs, RunConfig(name="other"), "x")
    (run.path / "status.json").write_text('{"state": "run')
    states = {summary.id: summary.state for summary in summaries(run.runs)}
    assert states == {run.id: "unknown", other.id: "queued"}


def test_a_damaged_configuration_hides_no_other_run(run):
    other = create(run.runs, RunConfig(name="other"), "x")
    (run.path / "config.json").write_text("{")
    assert {summary.id: summary.state for summary in summaries(run.runs)} == {
        run.id: "unknown",
        other.id: "queued",
    }


def test_summaries_notice_every_change(run):
    assert summaries(run.runs)[0].state == "queued"
    run.write_status(Status().moved("completed"))
    assert summaries(run.runs)[0].state == "completed"
    run.write_label(name="renamed")
    assert summaries(run.runs)[0].name == "renamed"
