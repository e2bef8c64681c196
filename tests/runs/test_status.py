"""States that only the lock knows, and ages on a clock that nobody sets."""

import time

import pytest

from engine.runs import boot
from engine.runs import status as run_status
from engine.runs.status import Status


def test_only_the_lock_says_whether_a_worker_lives(run, holder):
    run.write_status(Status().moved("running"))
    assert run.state() == "running"
    assert all(run.is_alive() for _ in range(50))
    run.request_stop()
    assert run.state() == "stopping"
    holder.kill()
    holder.wait()
    assert run.state() == "interrupted"


def test_starting_is_believed_only_for_a_while(run, monkeypatch):
    run.write_status(Status().moved("starting"))
    assert run.state() == "starting"
    late = boot.ticks() + run_status.START_GRACE_S + 1
    monkeypatch.setattr(boot, "ticks", lambda: late)
    assert run.state() == "interrupted"


@pytest.mark.parametrize("jump", [-86400.0, 86400.0])
def test_a_clock_that_jumps_changes_no_state(run, monkeypatch, jump):
    """Ages are measured on the clock that nobody sets."""
    run.write_status(Status().moved("starting"))
    now = time.time
    monkeypatch.setattr(time, "time", lambda: now() + jump)
    assert run.state() == "starting"
    with run.hold():
        run.write_status(run.status().moved("running"))
        monkeypatch.setattr(time, "time", now)
        assert run.state() == "running"
        assert not run.summary().stalled


def test_what_began_before_the_machine_restarted_is_interrupted_at_once(run, monkeypatch):
    run.write_status(Status().moved("starting"))
    monkeypatch.setattr(boot, "boot_id", lambda: "another boot")
    assert run.state() == "interrupted"


def test_a_stale_lock_file_is_no_sign_of_life(run):
    (run.path / ".lock").write_text("12345")
    run.write_status(Status().moved("running"))
    assert run.state() == "interrupted"
