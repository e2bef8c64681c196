"""Launch, stop, kill, resume through the functions that pages and command line use, with real processes."""

import errno
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import fabricate
import pytest

from engine.errors import ConfigError, RunError
from engine.runs import creation, launch, listing, supervisor, trash
from engine.runs import folder as contract
from engine.runs.config import RunConfig
from engine.runs.executors import local
from engine.runs.folder import RunFolder
from engine.runs.queue import Queue


@pytest.mark.slow
def test_start_returns_within_a_second_and_its_status_is_there(machine, tmp_path):
    manifest = fabricate.manifest(tmp_path / "data")
    (tmp_path / "data").mkdir()
    config = RunConfig(details={"steps": 3}).changed(
        data__root=str(tmp_path / "data"), model__pretrained="none"
    )
    launch.start(config, machine.runs, manifest=manifest)  # imports and git are paid once per process
    began = time.perf_counter()
    run = launch.start(config, machine.runs, manifest=manifest)
    took = time.perf_counter() - began
    assert run.state() in ("queued", "starting", "running")
    assert run.id in {summary.id for summary in listing.summaries(machine.runs)}
    print(f"start: {took:.2f} s until the status is there")
    assert took < 1.0
    machine.until_state(run, "completed")


@pytest.mark.slow
def test_a_working_run_stops_at_its_next_step_and_resumes_there(machine):
    run = machine.run(steps=30, step_s=0.05)
    launch.enqueue(run)
    machine.until(lambda: len(machine.steps(run)) >= 3)
    assert "next step" in launch.stop(run)
    machine.until_state(run, "stopped")
    done = machine.steps(run)
    assert len(done) < 30
    assert run.stop_requested_s() is not None
    launch.resume(run)
    assert not run.stop_requested()
    machine.until_state(run, "completed")
    assert machine.steps(run) == list(range(1, 31))  # not one step lost, not one made twice


@pytest.mark.slow
def test_a_waiting_run_leaves_the_queue_at_once(machine):
    first, second = machine.run("first", steps=20), machine.run("second")
    launch.enqueue(first)
    launch.enqueue(second)
    machine.until(lambda: machine.steps(first))
    assert "taken out of the queue" in launch.stop(second)
    assert second.state() == "stopped"
    machine.until_state(first, "completed")
    assert machine.steps(second) == []
    launch.resume(second)
    machine.until_state(second, "completed")


@pytest.mark.slow
def test_a_run_that_is_just_being_started_is_stopped_before_it_works(machine):
    run = machine.run()
    run.write_status(run.status().moved("starting"))
    assert "next step" in launch.stop(run)
    process = local.spawn(run)
    assert process.wait(30) == 3
    assert run.state() == "stopped"
    assert machine.steps(run) == []


@pytest.mark.slow
def test_a_worker_that_hangs_is_killed_with_all_it_started(machine, monkeypatch):
    monkeypatch.setattr(launch, "STOP_GRACE_S", 0.2)
    run = machine.run(steps=500, step_s=0.1, deaf=True, loader=True)
    launch.enqueue(run)
    machine.until(lambda: machine.steps(run))
    assert not launch.may_kill(run)
    launch.stop(run)
    time.sleep(0.3)
    assert run.state() == "stopping"
    assert launch.may_kill(run)
    assert len(machine.processes("work")) == 2  # the worker and its loader process
    assert "was killed" in launch.stop(run, kill=True)
    assert run.state() == "stopped"
    machine.until(lambda: not machine.processes("work"))
    done = len(machine.steps(run))
    launch.resume(run)
    machine.until(lambda: len(machine.steps(run)) > done)
    launch.stop(run, kill=True)


@pytest.mark.slow
def test_a_worker_killed_while_its_loader_processes_live_is_not_taken_for_alive(machine):
    run = machine.run(steps=500, step_s=0.1, loader=True)
    process = local.spawn(run)
    machine.until(lambda: machine.steps(run))
    process.kill()
    process.wait(5)
    assert len(machine.processes("work")) == 1  # the orphan still inherits the descriptors
    assert run.state() == "interrupted"


@pytest.mark.slow
def test_a_run_resumed_the_moment_its_worker_ends_is_not_forgotten(machine):
    """Its row is still claimed then: whoever settles the old claim must not drop the new wish."""
    run = machine.run(steps=4, fail="runtime")
    queue = Queue(machine.runs)
    queue.add(run.id)
    keeper = supervisor.Supervisor(machine.runs)
    keeper.turn()
    child = keeper.children[run.id].process
    child.wait(20)
    assert run.state() == "failed"
    (entry,) = queue.entries()
    assert entry.slot  # nobody has looked yet
    (run.path / "config.json").write_text((run.path / "config.json").read_text().replace("runtime", ""))
    launch.requeue(run, ("failed",))
    machine.until(lambda: keeper.turn() is False)
    assert run.state() == "completed"


def test_of_many_that_resume_at_once_one_does(machine, monkeypatch):
    """Two dashboards and a command line: one queues it, the others are told."""
    monkeypatch.setattr(supervisor, "ensure", lambda runs: None)
    run = machine.run()
    run.write_status(run.status().moved("failed"))
    said: list[str] = []

    def press():
        try:
            said.append(launch.resume(run))
        except RunError as error:
            said.append(str(error))

    threads = [threading.Thread(target=press) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum("is queued again" in text for text in said) == 1
    assert len([entry for entry in Queue(machine.runs).entries() if entry.run_id == run.id]) == 1
    assert [state for state, _ in run.status().history][-2:] == ["failed", "queued"]


@pytest.mark.parametrize(("state", "words"), [("queued", "cannot be resumed"), ("completed", "")])
def test_what_cannot_be_resumed_says_why(machine, state, words):
    run = machine.run()
    run.write_status(run.status().moved(state))
    if state == "completed":
        assert "nothing to resume" in launch.resume(run)
    else:
        with pytest.raises(RunError, match=words):
            launch.resume(run)


def test_a_run_with_a_torn_status_can_be_resumed(machine, monkeypatch):
    monkeypatch.setattr(supervisor, "ensure", lambda runs: None)
    run = machine.run()
    (run.path / "status.json").write_text('{"state": "runn')
    assert run.state() == "unknown"
    assert "cannot be read" in run.summary().status.error["message"]
    assert "Resume" in run.summary().status.error["remedy"]
    launch.resume(run)
    assert run.state() == "queued"


def test_a_finished_run_cannot_be_stopped(machine):
    run = machine.run()
    run.write_status(run.status().moved("completed"))
    with pytest.raises(RunError, match="is not active"):
        launch.stop(run)
    assert not run.stop_requested()


def test_a_deleted_waiting_run_leaves_the_queue_and_comes_back_stopped(machine, monkeypatch):
    monkeypatch.setattr(supervisor, "ensure", lambda runs: None)
    run = machine.run()
    launch.enqueue(run)
    launch.delete(run)
    assert Queue(machine.runs).entries() == []
    with pytest.raises(RunError, match="restore it from the trash"):
        contract.locate(machine.runs, run.id)
    assert trash.restore(machine.runs, run.id).state() == "stopped"


def test_a_run_being_worked_on_cannot_be_deleted(machine):
    run = machine.run()
    with run.hold(), pytest.raises(RunError, match="already being worked on"):
        trash.delete(run)
    run.write_status(run.status().moved("starting"))
    with pytest.raises(RunError, match="is being worked on"):
        trash.delete(run)


def test_a_held_run_waits_until_it_is_released(machine, monkeypatch):
    asked = []
    monkeypatch.setattr(supervisor, "ensure", asked.append)
    run = machine.run()
    Queue(machine.runs).add(run.id)
    launch.hold(run)
    assert Queue(machine.runs).claim("cpu/0") is None
    assert not supervisor.tend(machine.runs)
    launch.release(run)
    assert asked == [machine.runs]
    assert Queue(machine.runs).claim("cpu/0") == run.id


READ_ONLY_ACTS = {
    "start": lambda runs, run: creation.create(runs, RunConfig(), "x"),
    "stop": lambda runs, run: launch.stop(run),
    "rename": lambda runs, run: run.write_label(name="other"),
    "delete": lambda runs, run: trash.delete(run),
    "queue": lambda runs, run: launch.enqueue(run),
    "auto": lambda runs, run: launch.auto_resume(runs, True),
}
AS_NOBODY = """
import os, sys
sys.path[:0] = sys.argv[1:3]
import test_launch as tests
from pathlib import Path
from engine.errors import ConfigError, RunError
from engine.runs import folder, listing, queue
runs = Path(sys.argv[3])
if os.getuid() == 0:  # root may write anywhere
    os.setgid(65534), os.setuid(65534)
for name, act in tests.READ_ONLY_ACTS.items():
    try:
        act(runs, folder.run_folders(runs)[0])
        print(name, "was done")
    except RunError as error:
        print(name, error.kind, error)
print(len(listing.summaries(runs)), queue.Queue(runs).entries())
"""


@pytest.mark.skipif(os.name != "posix", reason="needs permissions as POSIX has them")
def test_a_read_only_runs_folder_is_said_in_a_sentence_and_can_be_looked_at():
    here = Path(__file__).parent
    with tempfile.TemporaryDirectory() as place:
        runs = Path(place) / "runs"
        creation.create(runs, RunConfig(), "x")
        Path(place).chmod(0o755)
        for path in [*runs.rglob("*"), runs]:
            path.chmod(0o555 if path.is_dir() else 0o444)
        words = [sys.executable, "-c", AS_NOBODY, str(here), str(here.parent), str(runs)]
        environment = {**os.environ, "PYTHONPATH": str(local.ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
        done = subprocess.run(words, capture_output=True, text=True, env=environment, cwd=local.ROOT)
        for path in [runs, *runs.rglob("*")]:
            path.chmod(0o755)
    assert done.returncode == 0, done.stderr[-2000:]
    *said, seen = done.stdout.splitlines()
    assert len(said) == len(READ_ONLY_ACTS)
    for line in said:
        assert line.split()[1] == "read_only", line
        assert "write access" in line, line
    assert seen == "1 []"


def test_a_full_disk_leaves_no_half_made_run(machine, monkeypatch):
    def full(target, write):
        raise OSError(errno.ENOSPC, "No space left on device", str(target))

    monkeypatch.setattr(contract.files, "replace_file", full)
    with pytest.raises(RunError, match="No space left") as caught:
        creation.create(machine.runs, RunConfig(), "x")
    assert caught.value.kind == "disk_full"
    assert "Free disk space" in str(caught.value)
    assert list(machine.runs.iterdir()) == []


def test_priorities_come_first_and_moving_takes_the_place_of_another(machine):
    queue = Queue(machine.runs)
    for name in "abcd":
        queue.add(name, priority=1 if name == "c" else 0)
    assert [entry.run_id for entry in queue.entries()] == ["c", "a", "b", "d"]
    queue.move("d", 0)
    assert [entry.run_id for entry in queue.entries()] == ["d", "c", "a", "b"]
    queue.prioritize("b", 5)
    assert queue.claim("cpu/0") == "b"


def test_the_status_of_a_run_names_its_executor(machine):
    run = machine.run()
    assert run.status().executor == "local"
    record = json.loads((run.path / "status.json").read_text())
    assert record["executor"] == "local"
    assert isinstance(run, RunFolder)


def test_one_launch_is_models_by_folds_by_seeds_by_rates_of_one_experiment():
    planned = launch.plan(
        RunConfig(), models=["V1-B0", "tf_efficientnet_lite0"], folds=[0, 1], seeds=[3], rates=[1e-4, 1e-3]
    )
    made = {(one.model.name, one.data.fold, one.training.seed, one.training.lr) for one in planned}
    assert len(planned) == len(made) == 8
    assert {one.experiment for one in planned} == {planned[0].experiment} != {""}
    assert len({one.name for one in planned}) == 8
    assert "lr 0.001" in planned[-1].name


def test_the_command_line_says_the_geometry_of_the_recipe():
    (modern,) = launch.plan(RunConfig().changed(training__recipe="modern"))
    assert "--geometry tiles" in launch.command_line(modern)
    (squeezed,) = launch.plan(modern.changed(model__geometry="square"))
    assert "--geometry square" in launch.command_line(squeezed)


@pytest.mark.parametrize("text", ["much", "2", "0", "1e-4, -1"])
def test_a_rate_that_is_none_is_named(text):
    with pytest.raises(ConfigError, match="Learning rates"):
        launch.parse_rates(text)


def test_rates_are_read_and_nothing_is_the_recipes():
    assert launch.parse_rates("1e-4, 0.001; 1e-4") == (1e-4, 1e-3)
    assert launch.parse_rates(" ") == (0.0,)


@pytest.mark.parametrize(
    ("kind", "details", "command"),
    [
        ("fusion", {"as_study": True}, "fuse A B --as-study --name 'two of them'"),
        ("soup", {"recipe": "greedy"}, "soup A B --greedy --name 'two of them'"),
        ("pooled", {}, "pool A B --name 'two of them'"),
        (
            "ensemble",
            {"method": "mean", "weights": [0.25, 0.75], "tie_rule": "lowest-label", "per_case": True},
            "ensemble A B --method mean --weights 0.25,0.75 --ties lowest-label --per-case --name 'two of them'",
        ),
        (
            "ensemble",
            {"method": "mean", "weights": [0.5, 0.5]},
            "ensemble A B --method mean --name 'two of them'",
        ),
    ],
)
def test_the_command_line_of_what_is_made_of_runs_names_them(kind, details, command):
    config = RunConfig(name="two of them", kind=kind, details={"members": ["A", "B"], **details})
    assert launch.command_line(config) == f"python -m engine {command}"
