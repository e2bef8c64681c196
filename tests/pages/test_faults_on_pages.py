"""Faults as the pages tell them: each is a sentence, and nothing falls over.

What the engine does about them is tested in tests/runs and tests/faults; here is what a person reads.
"""

from __future__ import annotations

import os
import time
from dataclasses import replace

import fabricate
import pytest

from engine.runs import boot, launch, supervisor, trash
from engine.runs import status as run_status
from engine.runs.folder import RunFolder
from engine.runs.status import Status


@pytest.fixture(autouse=True)
def nobody_starts(monkeypatch):
    monkeypatch.setattr(supervisor, "ensure", lambda runs: None)


def buttons(at) -> dict[str, bool]:
    """Label -> can be clicked."""
    return {button.label: not button.disabled for button in at.button}


def test_a_killed_worker_is_an_interruption_that_can_be_resumed(app, said, make_run):
    run = make_run(state="running")  # its lock is free
    at = app("run", id=run.id)
    assert "The worker is gone without a word" in said(at)
    assert "Resume continues from the last checkpoint" in said(at)
    assert buttons(at)["Resume"]


def test_a_stale_lock_file_is_no_worker(app, said, make_run):
    run = make_run(state="running")
    (run.path / ".lock").write_text("4711")
    os.utime(run.path / ".lock", (0, 0))
    assert "The worker is gone without a word" in said(app("run", id=run.id))


def test_after_a_reboot_a_start_of_before_is_an_interruption(app, said, make_run):
    run = make_run(state="queued")
    status = Status().moved(run_status.STARTING)
    run.write_status(replace(status, ticks={**status.ticks, "boot": "another boot"}))
    assert "The worker is gone without a word" in said(app("run", id=run.id))


def test_a_clock_that_jumps_makes_no_run_stall(app, said, runs_dir, monkeypatch):
    with fabricate.running(runs_dir) as run:
        run.write_status(run.status().checked_in())
        now = time.time
        monkeypatch.setattr(time, "time", lambda: now() + 86_400)
        assert "No sign from the worker" not in said(app("run", id=run.id))


def test_a_worker_that_says_nothing_is_said_to_stall(app, said, runs_dir, monkeypatch):
    with fabricate.running(runs_dir) as run:
        run.write_status(run.status().checked_in())
        late = boot.ticks() + run_status.STALL_S + 60
        monkeypatch.setattr(boot, "ticks", lambda: late)
        text = said(app("run", id=run.id))
        assert "No sign from the worker for" in text


def test_a_worker_that_does_not_stop_can_be_killed_after_the_grace(app, said, runs_dir):
    with fabricate.running(runs_dir) as run:
        run.request_stop()
        at = app("run", id=run.id)
        assert "It can be killed in" in said(at)
        assert not buttons(at)["Kill"]
        long_ago = time.time() - launch.STOP_GRACE_S - 5
        os.utime(run.path / "STOP", (long_ago, long_ago))
        at = app("run", id=run.id)
        assert "hangs" in said(at)
        assert buttons(at)["Kill"]


def test_a_full_disk_says_what_to_free_and_that_the_checkpoint_is_kept(app, said, make_run):
    from engine.runs.worker import failure

    error = failure(OSError(28, "No space left on device", "last.ckpt"))
    text = said(app("run", id=make_run(state="failed", error=error).id))
    assert "The disk is full: last.ckpt." in text
    assert "the last whole checkpoint is kept" in text


def test_a_half_written_status_hides_neither_the_run_nor_the_others(app, said, make_run, finished_run):
    run = make_run(name="torn", state="running")
    (run.path / "status.json").write_text('{"state": "runn')
    at = app("run", id=run.id)
    assert "status.json is missing or cannot be read" in said(at)
    assert buttons(at)["Resume"]
    assert not app("runs").exception


def test_a_run_deleted_while_it_is_viewed_can_be_restored_there(app, said, finished_run):
    at = app("run", id=finished_run.id)
    trash.delete(finished_run)
    at.run()
    assert "It was deleted: restore it from the trash" in said(at)
    next(button for button in at.button if button.label == "Restore it").click().run()
    assert finished_run.path.is_dir()
    assert not at.exception


def test_a_waiting_run_says_where_it_stands(app, said, make_run, runs_dir):
    runs = [make_run(name=str(number), state="queued", seed=number) for number in range(3)]
    for run in runs:
        launch.enqueue(run)
    launch.hold(runs[1])
    assert "number 2 of 3, held back until it is released" in said(app("run", id=runs[1].id))
    assert "number 3 of 3." in said(app("run", id=runs[2].id))


@pytest.mark.skipif(os.name != "posix", reason="needs permissions as POSIX has them")
def test_a_read_only_folder_says_why_and_every_act_is_off(app, said, make_run, monkeypatch):
    from dashboard import places

    run = make_run(state="stopped")
    reason = "The runs folder cannot be written by this user: runs can be read, but not started."
    monkeypatch.setattr(places, "read_only_reason", lambda: reason)
    for page, params in (("runs", {}), ("run", {"id": run.id}), ("overview", {})):
        at = app(page, **params)
        assert not at.exception
        assert reason in said(at), page
    assert not buttons(app("run", id=run.id))["Resume"]


def test_a_cluster_that_is_gone_or_refuses_the_token_is_said_on_the_list(app, said, make_run, runs_dir):
    import json

    from engine.runs.executors import CLUSTER_FILE, CONTACT_FILE

    run = make_run(state="queued")
    (runs_dir / CLUSTER_FILE).write_text(json.dumps({"address": "http://head:8265"}))
    contact = {
        "ok": False,
        "since": time.time() - 600,
        "message": "The cluster refuses the token. Give the cluster's own.",
    }
    (runs_dir / CONTACT_FILE).write_text(json.dumps(contact))
    assert "No contact since" not in said(app("runs"))  # none of the runs is the cluster's
    run.write_status(Status(executor="ray").moved(run_status.QUEUED))
    text = said(app("runs"))
    assert "No contact since" in text
    assert "refuses the token" in text


def test_a_folder_that_disappears_is_an_empty_page_and_not_a_fault(app, said, runs_dir, finished_run):
    import shutil

    at = app("runs")
    shutil.rmtree(runs_dir)
    at.run()
    assert not at.exception
    assert "nothing has been trained or imported yet" in said(at)


def test_a_damaged_configuration_hides_no_other_run(app, said, finished_run, make_run):
    broken = RunFolder(make_run(name="broken").path)
    (broken.path / "config.json").write_text("{")
    at = app("runs")
    assert not at.exception
    assert "no readable config.json" in said(app("run", id=broken.id))
