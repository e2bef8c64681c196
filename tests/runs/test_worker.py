"""The worker: fenced by lock and state, its last word, its exit codes."""

import errno
import json
import os
import subprocess
import sys

import pretend
import psutil
import pytest

from engine.errors import TrainingError
from engine.runs import boot, reporter, worker
from engine.runs.executors import local
from engine.runs.folder import RunFolder
from engine.runs.resources import Gpu, Meter, _visible


@pytest.fixture
def counting(monkeypatch):
    """`worker.work` with the counting job, in this process."""
    monkeypatch.setattr(worker, "_job", lambda kind: pretend.job)
    monkeypatch.setattr(reporter, "LAST_WORD_WAIT_S", 0.01)
    return worker.work


def test_a_run_is_done_and_says_so(machine, counting):
    run = machine.run(steps=3, step_s=0)
    heard = []
    assert counting(run.path, heard.append) == worker.EXIT_COMPLETED
    assert (run.state(), run.status().progress) == ("completed", 1.0)
    assert [state for state, _ in run.status().history] == ["queued", "running", "completed"]
    assert heard[-1].state == "completed"
    assert run.status().worker["pid"] == os.getpid()
    assert run.status().numbers["ram_mb"] > 10


@pytest.mark.parametrize("state", ["running", "completed", "stopped", "failed", "interrupted"])
def test_only_a_run_that_waits_is_worked_on(machine, counting, state, capsys):
    """The second of two workers may get the lock after the first has let go of it: the state fences it."""
    run = machine.run()
    run.write_status(run.status().moved(state))
    before = (run.path / "status.json").read_bytes()
    assert counting(run.path) == worker.EXIT_BUSY
    assert "does not wait for a worker" in capsys.readouterr().out
    assert (run.path / "status.json").read_bytes() == before
    assert machine.steps(run) == []


def test_a_second_worker_leaves_the_first_alone(machine, counting, monkeypatch):
    monkeypatch.setattr(worker, "LOCK_WAIT_S", 0.05)
    run = machine.run()
    with run.hold():
        before = (run.path / "status.json").read_bytes()
        assert counting(run.path) == worker.EXIT_BUSY
        assert (run.path / "status.json").read_bytes() == before


@pytest.mark.slow
def test_of_eight_workers_started_at_once_one_works(machine):
    run = machine.run(steps=10)
    started = [
        subprocess.Popen(
            pretend.worker_command(run), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=local.ROOT
        )
        for _ in range(8)
    ]
    codes = sorted(process.wait(60) for process in started)
    assert codes == [worker.EXIT_COMPLETED] + [worker.EXIT_BUSY] * 7
    assert machine.steps(run) == list(range(1, 11))
    assert len(machine.workers(run)) == 1


def test_a_stop_that_was_asked_for_before_it_began_is_seen_first(machine, counting):
    run = machine.run()
    run.request_stop()
    assert counting(run.path) == worker.EXIT_STOPPED
    assert run.state() == "stopped"
    assert machine.steps(run) == []


@pytest.mark.parametrize(
    ("fail", "kind", "code"),
    [
        (f"oserror:{errno.ENOSPC}", "disk_full", 17),
        ("memory", "out_of_memory", 15),
        ("runtime", "internal", 1),
    ],
)
def test_a_failure_has_kind_remedy_and_exit_code(machine, counting, fail, kind, code):
    run = machine.run(fail=fail)
    assert counting(run.path) == code
    status = run.status()
    assert (status.state, status.error["kind"]) == ("failed", kind)
    assert status.error["remedy"]
    assert machine.steps(run) == [1, 2]


def test_an_engine_error_keeps_its_own_words(machine, monkeypatch):
    def job(folder, report):
        raise TrainingError("The loss is not a number", found="epoch 2", remedy="Halve it", kind="nan_loss")

    monkeypatch.setattr(worker, "_job", lambda kind: job)
    run = machine.run()
    assert worker.work(run.path) == worker.EXIT_CODES["nan_loss"]
    assert run.status().error == {
        "kind": "nan_loss",
        "message": "The loss is not a number. Found: epoch 2.",
        "remedy": "Halve it",
    }


def test_a_kind_without_a_worker_fails_instead_of_hanging(machine):
    from engine.runs.config import RunConfig
    from engine.runs.creation import create

    run = create(machine.runs, RunConfig(kind="ensemble", name="e"), "ensemble")
    assert worker.work(run.path) == worker.EXIT_INTERNAL
    assert run.state() == "failed"
    assert "is not executed" in run.status().error["message"]


def test_progress_that_cannot_be_written_does_not_end_a_run(machine, counting, monkeypatch, capsys):
    run = machine.run(steps=6, step_s=0)
    real, calls = RunFolder.write_status, []

    def sometimes(self, status):
        calls.append(status.state)
        if 2 <= len(calls) <= 4:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(self, status)

    monkeypatch.setattr(RunFolder, "write_status", sometimes)
    assert counting(run.path) == worker.EXIT_COMPLETED
    assert run.state() == "completed"
    assert "cannot be written" in capsys.readouterr().out


def test_the_last_word_waits_for_room(machine, counting, monkeypatch):
    run = machine.run(steps=2, step_s=0)
    real, tries = RunFolder.write_status, []

    def full(self, status):
        if status.state == "completed":
            tries.append(1)
            if len(tries) < 4:
                raise OSError(errno.ENOSPC, "No space left on device")
        real(self, status)

    monkeypatch.setattr(RunFolder, "write_status", full)
    assert counting(run.path) == worker.EXIT_COMPLETED
    assert run.state() == "completed"
    assert len(tries) == 4


def test_a_clock_set_back_does_not_stop_the_status(machine, monkeypatch):
    run = machine.run()
    with run.hold():
        report = reporter.Reporter(run)
        report.begin(1)
        report.progress("Training", 0.1, step=1, steps=10)
        now = reporter.time.time
        monkeypatch.setattr(reporter.time, "time", lambda: now() - 3600)
        monkeypatch.setattr(reporter, "WRITE_EVERY_S", 0.0)
        report.progress("Training", 0.5, step=5, steps=10)
        assert run.status().step == 5
        assert run.status().eta_s is None or run.status().eta_s >= 0


def test_a_folder_removed_while_it_is_worked_on_ends_the_worker_with_a_sentence(machine, monkeypatch, capsys):
    import shutil

    run = machine.run()

    def job(folder, report):
        shutil.rmtree(folder.path)
        report.progress("Training", 0.5)
        return "completed"

    monkeypatch.setattr(worker, "_job", lambda kind: job)
    assert worker.work(run.path) == worker.EXIT_CODES["gone"]
    assert "was removed while it was worked on" in capsys.readouterr().out


def test_temporary_files_of_a_killed_worker_are_swept(machine, counting):
    run = machine.run(steps=1, step_s=0)
    (run.path / ".last.ckpt.abc.tmp").write_bytes(b"x" * 100)
    counting(run.path)
    assert not list(run.path.glob(".*.tmp"))


def test_signals_only_ask_and_the_handlers_before_come_back(machine, monkeypatch):
    import signal

    before = {name: signal.getsignal(name) for name in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)}

    def job(folder, report):
        for number in before:
            os.kill(os.getpid(), number)
        assert report.stop_requested()
        return "stopped"

    monkeypatch.setattr(worker, "_job", lambda kind: job)
    run = machine.run()
    assert worker.work(run.path) == worker.EXIT_STOPPED
    assert {name: signal.getsignal(name) for name in before} == before


def test_a_process_id_given_away_is_not_taken_for_the_worker(machine):
    run = machine.run()
    mine = boot.identity()
    assert local.is_worker(mine, run)
    assert not local.is_worker({**mine, "started": mine["started"] + 1}, run)
    assert not local.is_worker({**mine, "boot_id": "another"}, run)
    assert not local.is_worker({}, run)


def test_what_a_run_uses_is_measured(machine):
    meter = Meter()
    meter.EVERY_S = 0.0
    first = meter.read()
    sum(number * number for number in range(300_000))
    second = meter.read()
    assert 0 <= second["cpu_share"] <= 1
    assert second["ram_mb"] == pytest.approx(psutil.Process().memory_info().rss / 2**20, rel=0.3)
    assert 0 < first["ram_share"] < 1


@pytest.mark.parametrize(
    ("wanted", "uuids"),
    [
        (None, ["GPU-aa", "GPU-bb", "GPU-cc"]),
        ("", []),
        ("2,0", ["GPU-cc", "GPU-aa"]),
        ("GPU-b", ["GPU-bb"]),
        ("1,7,0", ["GPU-bb"]),
        ("-1", []),
    ],
)
def test_gpus_hidden_from_cuda_are_no_slots(wanted, uuids):
    """CUDA's own rule: in that order, up to the first that is not there."""
    three = [Gpu(index, f"GPU-{word}", "Card", 1.0, 1.0) for index, word in enumerate(("aa", "bb", "cc"))]
    found = _visible(three, wanted)
    assert [gpu.uuid for gpu in found] == uuids
    assert [gpu.index for gpu in found] == list(range(len(uuids)))


def test_gpus_come_from_the_driver(monkeypatch):
    """Against a stand-in for the driver's library, since a test machine may have no GPU."""
    import types

    from engine.runs import resources

    class NVMLError(Exception):
        pass

    def handle(index):
        if index == 1:
            raise NVMLError("GPU is lost")
        return index

    fake = types.SimpleNamespace(
        NVMLError=NVMLError,
        nvmlInit=lambda: None,
        nvmlShutdown=lambda: None,
        nvmlDeviceGetCount=lambda: 3,
        nvmlDeviceGetHandleByIndex=handle,
        nvmlDeviceGetHandleByUUID=lambda uuid: 2,
        nvmlDeviceGetMemoryInfo=lambda h: types.SimpleNamespace(total=8 * 2**30, free=6 * 2**30, used=2**31),
        nvmlDeviceGetUUID=lambda h: f"GPU-{h}",
        nvmlDeviceGetName=lambda h: b"Card",
        nvmlDeviceGetUtilizationRates=lambda h: types.SimpleNamespace(gpu=37),
    )
    monkeypatch.setitem(sys.modules, "pynvml", fake)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert [(gpu.uuid, gpu.name, gpu.free_mb) for gpu in resources.gpus()] == [
        ("GPU-0", "Card", 6144.0),
        ("GPU-2", "Card", 6144.0),
    ]
    found = Meter("gpu/GPU-2").read()
    assert (found["gpu_share"], found["gpu_memory_mb"]) == (0.37, 2048.0)


def test_an_old_status_without_the_newer_fields_is_read(machine):
    run = machine.run()
    record = json.loads((run.path / "status.json").read_text())
    for name in ("ticks", "executor", "slot", "submission", "restarts"):
        del record[name]
    (run.path / "status.json").write_text(json.dumps(record))
    assert run.state() == "queued"
    assert run.status().executor == "local"


def test_an_exit_code_follows_the_error_tree():
    from engine.errors import DataError, WeightsError
    from engine.runs.exit_codes import EXIT_CODES, EXIT_INTERNAL
    from engine.runs.worker import exit_code

    assert exit_code(WeightsError("x", kind="hub")) == EXIT_CODES["weights"]
    assert exit_code(DataError("x", kind="unreadable")) == EXIT_CODES["data"]
    assert exit_code(MemoryError()) == EXIT_CODES["out_of_memory"]
    assert exit_code(KeyError("x")) == EXIT_INTERNAL
