"""Writes that fail or are killed at every single point: what is read afterwards is the old or the new, whole."""

from __future__ import annotations

import errno
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pretend
import pytest

from engine import files
from engine.errors import EngineError, RunError
from engine.runs import folder as contract
from engine.runs import launch, listing, reporter, supervisor, trash, worker
from engine.runs import status as run_status
from engine.runs.config import RunConfig
from engine.runs.creation import create
from engine.runs.folder import RunFolder
from engine.runs.status import Status

POSIX = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")


class Shim:
    """Counts what changes the disk (open for writing, write, fsync, replace, rename, unlink) and breaks one.

    Args:
        nth: which operation breaks, from 1; 0 counts only.
        how: called with the operation's name; raises, or kills this process.
    """

    def __init__(self, patch: pytest.MonkeyPatch, nth: int, how):
        self.count, self.nth, self.how = 0, nth, how
        for owner, name in (
            (os, "fsync"),
            (os, "replace"),
            (os, "rename"),
            (os, "link"),
            (os, "mkdir"),
            (os, "unlink"),
        ):
            patch.setattr(owner, name, self._counted(name, getattr(owner, name)))
        real = os.fdopen
        patch.setattr(os, "fdopen", lambda *args, **kwargs: _File(real(*args, **kwargs), self))

    def step(self, name: str) -> None:
        self.count += 1
        if self.count == self.nth:
            self.how(name)

    def _counted(self, name, real):
        def call(*args, **kwargs):
            self.step(name)
            return real(*args, **kwargs)

        return call


class _File:
    """A file whose writes count; a broken write has written half of its bytes."""

    def __init__(self, file, shim: Shim):
        self._file, self._shim = file, shim

    def write(self, data):
        self._shim.count += 1
        if self._shim.count == self._shim.nth:
            self._file.write(data[: len(data) // 2])
            self._file.flush()
            self._shim.how("write")
            return len(data)
        return self._file.write(data)

    def __enter__(self):
        return self

    def __exit__(self, *args):
        return self._file.__exit__(*args)

    def __getattr__(self, name):
        return getattr(self._file, name)


def full(name: str) -> None:
    raise OSError(errno.ENOSPC, "No space left on device", name)


def kill(name: str) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


ACTS = {
    "create": lambda runs, run: create(runs, RunConfig(name="new"), "new"),
    "status": lambda runs, run: run.move(("failed",), "queued"),
    "label": lambda runs, run: run.write_label(name="renamed"),
    "resume": lambda runs, run: launch.resume(run),
    "delete": lambda runs, run: trash.delete(run),
}


def in_child(act) -> int:
    """Do it in a fork of this process; returns the signal that ended it, or 0."""
    child = os.fork()
    if child == 0:
        try:
            act()
        except BaseException:
            os._exit(1)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    return os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0


def prepared(place: Path) -> RunFolder:
    run = create(place, RunConfig(name="first"), "first")
    run.write_status(run.status().moved("failed"))
    return run


@pytest.mark.parametrize("act", ACTS)
def test_every_write_of_an_action_fails_once(act, tmp_path, monkeypatch, ledger):
    """A full disk at each point: a RunError with a remedy, and everything as it was or as it should be."""
    monkeypatch.setattr(supervisor, "ensure", lambda runs: None)
    nth = 1
    while True:
        runs = tmp_path / f"runs{nth}"
        run = prepared(runs)
        with pytest.MonkeyPatch.context() as patch:
            shim = Shim(patch, nth, full)
            said = None
            try:
                ACTS[act](runs, run)
            except EngineError as error:
                said = error
        assert said is None or (said.kind == "disk_full" and "Free disk space" in str(said)), said
        alive = run if run.path.exists() else RunFolder(runs / contract.TRASH / run.id)
        assert alive.status().state in ("failed", "queued")
        assert alive.name in ("first", "renamed")
        ledger.look(runs, [] if alive is not run else [run.id], may_fail=True)
        assert not list(runs.rglob("*.tmp")) or shim.count >= nth
        if shim.count < nth:  # there is no nth write: all of them have been tried
            break
        nth += 1
    assert nth > 1


@POSIX
@pytest.mark.slow
@pytest.mark.parametrize("act", ACTS)
def test_every_write_of_an_action_is_killed_once(act, tmp_path, monkeypatch, ledger):
    monkeypatch.setattr(supervisor, "ensure", lambda runs: None)
    for nth in range(1, 200):
        runs = tmp_path / f"runs{nth}"
        run = prepared(runs)

        def child(nth=nth, runs=runs, run=run):
            Shim(pytest.MonkeyPatch(), nth, kill)
            ACTS[act](runs, run)

        killed = in_child(child)
        alive = run if run.path.exists() else RunFolder(runs / contract.TRASH / run.id)
        assert alive.status().state in ("failed", "queued")
        ledger.look(runs, [] if alive is not run else [run.id], may_fail=True)
        if alive is run:  # whatever was left half done does not keep it from going on
            run.clear_stop()
            if run.state() == "failed":
                launch.resume(run)
            assert run.state() == "queued"
        if not killed:
            return
    raise AssertionError("an action with 200 writes?")


@POSIX
@pytest.mark.slow
def test_a_run_killed_at_any_write_ends_as_if_never_killed(tmp_path, monkeypatch, ledger):
    """A run killed at its first write, one at its second ...: each resumed, every step made, every row there."""
    monkeypatch.setattr(worker, "_job", lambda kind: pretend.job)
    for nth in range(1, 400):
        run = create(tmp_path / f"{nth}", RunConfig(name="run", details={"steps": 3, "step_s": 0}), "run")
        sys.stdout.flush()

        def child(nth=nth, run=run):
            Shim(pytest.MonkeyPatch(), nth, kill)
            worker.work(run.path)

        killed = in_child(child)
        ledger.look(tmp_path / f"{nth}", [run.id])
        assert run.state() in ("queued", "interrupted", "completed"), run.state()
        if run.state() == "interrupted":
            assert run.move(("interrupted",), "queued")
        if run.state() == "queued":
            assert worker.work(run.path) == worker.EXIT_COMPLETED
        steps = [row["step"] for row in files.read_lines(run.path / "steps.jsonl")]
        assert sorted(set(steps)) == [1, 2, 3]
        assert run.metrics()["epoch"].tolist() == [1, 2, 3]
        assert (run.state(), run.status().progress) == ("completed", 1.0)
        ledger.look(tmp_path / f"{nth}", [run.id])
        if not killed:
            return
    raise AssertionError("a run of 400 writes?")


@POSIX
@pytest.mark.slow
def test_a_run_whose_every_write_fails_once_fails_with_a_reason_or_goes_on(tmp_path, monkeypatch, ledger):
    monkeypatch.setattr(worker, "_job", lambda kind: pretend.job)
    monkeypatch.setattr(reporter, "LAST_WORD_WAIT_S", 0.0)
    for nth in range(1, 400):
        run = create(tmp_path, RunConfig(name="run", details={"steps": 3, "step_s": 0}), "run")
        with pytest.MonkeyPatch.context() as patch:
            shim = Shim(patch, nth, full)
            code = worker.work(run.path)
        status = run.status()
        if code == worker.EXIT_COMPLETED:
            assert status.state == "completed"
        else:  # results could not be written: that is a failure, with its remedy, and it resumes
            assert status.state == "failed"
            assert status.error["kind"] == "disk_full"
            assert run.move(("failed",), "queued")
            assert worker.work(run.path) == worker.EXIT_COMPLETED
        ledger.look(tmp_path, [run.id])
        if shim.count < nth:
            return
    raise AssertionError("a run of 400 writes?")


@pytest.mark.slow
def test_kill_at_random_moments(machine, ledger):
    """`kill -9` at random moments of a run that writes all the time."""
    draw = random.Random(0)
    run = machine.run(steps=4000, step_s=0)
    for _ in range(12):
        process = pretend_worker(run)
        machine.until(lambda process=process: run.state() != "queued" or process.poll() is not None)
        time.sleep(draw.uniform(0.0, 0.15))
        process.kill()
        process.wait(10)
        ledger.look(machine.runs, [run.id])
        if run.state() == "completed":
            break
        if run.state() != "queued":  # not killed before it began
            assert run.move(("interrupted",), "queued")
    steps = machine.steps(run)
    assert all(after <= before + 1 for before, after in zip([0, *steps], steps, strict=False))
    assert run.metrics()["epoch"].is_monotonic_increasing


def pretend_worker(run: RunFolder):
    return subprocess.Popen(pretend.worker_command(run), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def test_a_line_torn_anywhere_loses_only_itself(tmp_path, ledger):
    run = create(tmp_path, RunConfig(), "run")
    for epoch in (1, 2):
        run.append_metrics({"epoch": epoch, "split": "val", "loss": 0.5})
    source = run.path / "metrics.jsonl"
    whole = source.read_bytes()
    first = whole.index(b"\n") + 1
    for cut in range(first, len(whole)):
        source.write_bytes(whole[:cut])
        assert run.metrics()["epoch"].tolist()[0] == 1
        ledger.look(tmp_path, [run.id])
        run.append_metrics({"epoch": 2, "split": "val", "loss": 0.25})
        assert run.metrics()["loss"].tolist() == [0.5, 0.25]


def test_a_status_cut_or_flipped_anywhere_is_unknown_or_right_and_resumes(tmp_path, monkeypatch, ledger):
    monkeypatch.setattr(supervisor, "ensure", lambda runs: None)
    run = create(tmp_path, RunConfig(), "run")
    run.write_status(run.status().moved("running", started_at=1.0))
    source = run.path / "status.json"
    whole = source.read_bytes()
    draw = random.Random(1)
    damaged = [whole[:cut] for cut in range(0, len(whole), 7)]
    for _ in range(60):
        at = draw.randrange(len(whole))
        damaged.append(whole[:at] + bytes([whole[at] ^ (1 << draw.randrange(8))]) + whole[at + 1 :])
    for data in damaged:
        source.write_bytes(data)
        summary = listing.summaries(tmp_path)[0]  # never raises
        assert summary.state in (*run_status.STATES, summary.status.state)
        if summary.state in run_status.RESUMABLE:
            launch.resume(run)
            assert run.state() == "queued"
        source.write_bytes(whole)
    ledger.look(tmp_path, [run.id])


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_number_that_is_none_is_null_in_every_file(tmp_path, ledger, value):
    run = create(tmp_path, RunConfig(), "run")
    with run.hold():
        report = reporter.Reporter(run)
        report.begin(1)
        report.progress("Training", 0.5, epoch=1, loss=value)
        report.metrics({"epoch": 1, "split": "train", "loss": value})
        report.best("loss", value, 1)
    assert run.status().numbers["loss"] is None
    assert run.metrics()["loss"].isna().all()
    assert "NaN" not in (run.path / "status.json").read_text()
    ledger.look(tmp_path, [run.id])


def test_a_deleted_run_that_is_still_being_viewed_says_where_it_is(tmp_path, ledger):
    run = create(tmp_path, RunConfig(name="first"), "run")
    run.append_metrics({"epoch": 1, "split": "val", "loss": 1.0})
    viewed = RunFolder(run.path)
    trash.delete(run)
    with pytest.raises(RunError, match="restore it from the trash"):
        contract.locate(tmp_path, viewed.id)
    for look in (
        viewed.summary,
        viewed.config,
        viewed.label,
        viewed.manifest,
        lambda: viewed.predictions("test"),
    ):
        with pytest.raises(RunError) as caught:
            look()
        assert caught.value.remedy
    for change in (viewed.request_stop, lambda: viewed.write_label(name="x"), lambda: launch.resume(viewed)):
        with pytest.raises(RunError):
            change()
    assert viewed.metrics().empty
    assert viewed.log_tail() == ""
    assert viewed.move(("queued",), "stopped") is None
    assert not (tmp_path / viewed.id).exists()  # nothing brought a part of it back
    trash.restore(tmp_path, viewed.id)
    assert viewed.metrics()["loss"].tolist() == [1.0]
    ledger.look(tmp_path, [viewed.id])


def fill(target: Path) -> None:
    """Write until there is no room."""
    with open(target, "wb", buffering=0) as file:
        while True:
            file.write(b"x" * 512)


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs a tmpfs")
def test_a_disk_that_is_really_full(tmp_path, machine, ledger):
    """A file system of 256 KB: the run fails with its reason, or waits; with room again it completes."""
    small = tmp_path / "small"
    small.mkdir()
    words = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(small)]
    if subprocess.run(words, capture_output=True).returncode:
        pytest.skip("this user may not mount a tmpfs")
    try:
        run = create(small / "runs", RunConfig(name="run", details={"steps": 40, "step_s": 0.02}), "run")
        ballast = small / "ballast"
        process = pretend_worker(run)
        machine.until(lambda: files.read_lines(run.path / "steps.jsonl"))
        with pytest.raises(OSError, match="No space left"):
            fill(ballast)
        code = process.wait(30)
        assert code == worker.EXIT_CODES["disk_full"]
        ledger.look(small / "runs", [run.id], may_fail=True)
        state = run.state()
        assert state in ("failed", "interrupted")
        with pytest.raises(RunError, match="No space left"):
            create(small / "runs", RunConfig(), "another")
        ballast.unlink()
        ledger.look(small / "runs", [run.id], may_fail=True)
        assert run.move((state,), "queued")
        assert pretend_worker(run).wait(30) == worker.EXIT_COMPLETED
        steps = [row["step"] for row in files.read_lines(run.path / "steps.jsonl")]
        assert steps[-1] == 40
    finally:
        subprocess.run(["umount", "-l", str(small)], check=False)


def test_statuses_and_settings_that_make_no_sense_are_not_believed(tmp_path, ledger):
    run = create(tmp_path, RunConfig(), "run")
    for text in (
        "[]",
        "null",
        '{"state": 5}',
        '{"history": [1]}',
        '{"history": {"a": 1}}',
        '"queued"',
        "\x00",
    ):
        (run.path / "status.json").write_text(text)
        assert listing.summaries(tmp_path)[0].id == run.id
    run.write_status(Status().moved("queued"))
    from engine.runs.queue import Queue

    for text in ("[]", '{"auto_resume": "yes", "max_restarts": "many"}', "{"):
        (tmp_path / ".queue.json").write_text(text)
        assert Queue(tmp_path).settings().auto_resume is False
        assert Queue(tmp_path).settings().max_restarts == 3
    ledger.look(tmp_path, [run.id])
    assert json.loads((run.path / "status.json").read_text())["state"] == "queued"
