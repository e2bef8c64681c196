"""The supervisor with real processes: one run per slot, nothing twice, nothing lost, whoever is killed."""

import contextlib
import errno
import itertools
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from engine.runs import launch, resources, supervisor, trash
from engine.runs.executors import local
from engine.runs.folder import RunFolder
from engine.runs.queue import FILE, Queue
from engine.runs.status import START_GRACE_S

pytestmark = pytest.mark.slow


def long_ago(run: RunFolder, seconds: float = START_GRACE_S + 1) -> None:
    """Date a run's last check-in back, on the clock that nobody sets."""
    record = json.loads((run.path / "status.json").read_text())
    record["ticks"]["at"] -= seconds
    (run.path / "status.json").write_text(json.dumps(record))


def test_runs_are_done_one_after_another_and_then_it_leaves(machine):
    runs = [machine.run(f"run {number}") for number in range(3)]
    for run in runs:
        launch.enqueue(run)
    for run in runs:
        assert machine.until_state(run, "completed") == "completed"
        assert machine.steps(run) == [1, 2, 3, 4, 5]
    times = [(run.status().started_at, run.status().ended_at) for run in runs]
    assert all(before[1] <= after[0] for before, after in itertools.pairwise(times))
    machine.until(lambda: not machine.processes())
    assert Queue(machine.runs).entries() == []
    assert not supervisor.is_running(machine.runs)


def test_of_two_supervisors_one_leaves(machine):
    run = machine.run(steps=20)
    Queue(machine.runs).add(run.id)
    first, second = machine.supervise(), machine.supervise()
    codes = {first.wait(90), second.wait(90)}
    assert codes == {0, 4}
    assert run.state() == "completed"
    assert machine.steps(run) == list(range(1, 21))


def test_asking_whether_it_runs_does_not_keep_it_from_running(machine):
    """Whoever asks holds the lock for a moment; a supervisor that starts just then tries again."""
    run = machine.run()
    Queue(machine.runs).add(run.id)
    process = machine.supervise()
    while process.poll() is None and run.state() != "completed":
        supervisor.is_running(machine.runs)
    assert run.state() == "completed"
    assert process.wait(90) == 0


def test_a_run_queued_while_it_leaves_is_started(machine, monkeypatch):
    """The lost wake-up: it is idle, somebody queues a run and still sees its lock held."""
    seen = []

    def late(self):
        if not seen:  # after its last look, before it has let go of the lock
            run = machine.run(steps=1)
            Queue(machine.runs).add(run.id)
            seen.append(run)
        else:
            while self.turn():
                time.sleep(0.02)

    monkeypatch.setattr(supervisor.Supervisor, "run", late)
    assert supervisor.supervise(machine.runs, 0.1) == 0
    assert seen[0].state() == "completed"


def test_a_killed_worker_leaves_an_interrupted_run_that_resumes_where_it_was(machine):
    run = machine.run(steps=12, step_s=0.1)
    launch.enqueue(run)
    machine.until(lambda: len(machine.steps(run)) >= 3)
    assert machine.kill("work") == 1
    machine.until_state(run, "interrupted")
    machine.until(lambda: run.status().error)
    assert "SIGKILL" in run.status().error["message"]
    assert "Resume" in run.status().error["remedy"]
    done = machine.steps(run)
    assert "queued again" in launch.resume(run)
    machine.until_state(run, "completed")
    assert run.status().error is None
    after = machine.steps(run)[len(done) :]
    assert after[0] in (done[-1], done[-1] + 1)  # at most the step that was being written
    assert after[-1] == 12
    assert len(machine.workers(run)) == 2


def test_a_killed_supervisor_takes_no_worker_with_it_and_the_next_one_takes_over(machine):
    first, second = machine.run("first", steps=15, step_s=0.1), machine.run("second")
    launch.enqueue(first)
    launch.enqueue(second)
    machine.until(lambda: machine.steps(first))
    assert machine.kill("supervise")
    assert first.state() == "running"
    assert supervisor.tend(machine.runs)
    machine.until_state(second, "completed")
    assert first.state() == "completed"  # the slot was taken until then: never two at once
    assert first.status().ended_at <= second.status().started_at
    assert machine.steps(first) == list(range(1, 16))
    assert len(machine.workers(first)) == 1


def test_killing_both_loses_nothing(machine):
    first, second = machine.run("first", steps=15, step_s=0.1), machine.run("second")
    launch.enqueue(first)
    launch.enqueue(second)
    machine.until(lambda: machine.steps(first))
    machine.kill("supervise")
    machine.kill("work")
    assert first.state() == "interrupted"
    assert second.state() == "queued"
    launch.resume(first)
    machine.until_state(first, "completed")
    machine.until_state(second, "completed")
    assert machine.steps(second) == [1, 2, 3, 4, 5]


SERVER = """
import sys, time
sys.path[:0] = sys.argv[1:3]
import pretend
from pathlib import Path
from engine.runs import launch, supervisor
from engine.runs.executors import local
from engine.runs.folder import RunFolder
supervisor.command, local.worker_command = pretend.supervisor_command, pretend.worker_command
launch.enqueue(RunFolder(Path(sys.argv[3])))
time.sleep(600)
"""


def serve(run):
    """A process that launches a run, as a server does, and stays."""
    command = [sys.executable, "-c", SERVER, str(Path(__file__).parent), str(local.ROOT), str(run.path)]
    return subprocess.Popen(command, start_new_session=True)


def test_a_killed_server_takes_neither_supervisor_nor_worker_with_it(machine):
    run = machine.run(steps=15, step_s=0.1)
    server = serve(run)
    machine.until(lambda: machine.steps(run))
    server.kill()
    server.wait(10)
    machine.until_state(run, "completed")
    assert machine.steps(run) == list(range(1, 16))
    assert len(machine.workers(run)) == 1


@pytest.mark.parametrize("automatic", [False, True])
def test_killing_server_supervisor_and_worker_loses_nothing(machine, automatic):
    launch.auto_resume(machine.runs, automatic)
    run, waits = machine.run(steps=12, step_s=0.1), machine.run("waits")
    server = serve(run)
    machine.until(lambda: len(machine.steps(run)) >= 2)
    Queue(machine.runs).add(waits.id)
    server.kill()
    server.wait(10)
    machine.kill("supervise")
    machine.kill("work")
    assert run.state() == "interrupted"
    assert waits.state() == "queued"
    supervisor.tend(machine.runs)  # what a page does when it is drawn
    machine.until_state(waits, "completed")
    if not automatic:
        assert run.state() == "interrupted"
        launch.resume(run)
    machine.until_state(run, "completed")
    assert machine.steps(run)[-1] == 12


def test_an_interrupted_run_goes_on_by_itself_if_that_is_wanted(machine):
    launch.auto_resume(machine.runs, True)
    run = machine.run(steps=12, step_s=0.1)
    launch.enqueue(run)
    machine.until(lambda: len(machine.steps(run)) >= 2)
    machine.kill("work")
    machine.until_state(run, "completed")
    assert len(machine.workers(run)) == 2


def test_after_a_restart_of_the_machine_tending_starts_interrupted_runs(machine):
    launch.auto_resume(machine.runs, True)
    run = machine.run(steps=10, step_s=0.1)
    launch.enqueue(run)
    machine.until(lambda: len(machine.steps(run)) >= 2)
    machine.kill("supervise")
    machine.kill("work")
    record = json.loads((run.path / "status.json").read_text())
    record["ticks"]["boot"] = "another boot"
    (run.path / "status.json").write_text(json.dumps(record))
    assert run.state() == "interrupted"
    assert supervisor.tend(machine.runs)
    machine.until_state(run, "completed")


def test_what_dies_each_time_is_not_started_for_ever(machine):
    launch.auto_resume(machine.runs, True)
    run = machine.run(steps=500, step_s=5.0)
    launch.enqueue(run)
    for _ in range(4):
        machine.until(lambda: machine.processes("work"))
        machine.until_state(run, "running")
        machine.kill("work")
    machine.until_state(run, "interrupted")
    machine.until(lambda: not machine.processes())
    assert run.state() == "interrupted"
    assert run.status().restarts == 3


def test_a_run_stopped_by_somebody_is_not_resumed_by_itself(machine):
    launch.auto_resume(machine.runs, True)
    run = machine.run(steps=200, step_s=0.1, deaf=True)
    launch.enqueue(run)
    machine.until(lambda: machine.steps(run))
    launch.stop(run)
    machine.kill("work")
    machine.until_state(run, "stopped")
    machine.until(lambda: not machine.processes())
    assert run.state() == "stopped"


def test_a_worker_that_dies_before_it_begins_says_why(machine, monkeypatch):
    monkeypatch.setattr(
        local, "worker_command", lambda folder: [os.sys.executable, "-c", "raise ImportError('no torch')"]
    )
    run = machine.run()
    queue = Queue(machine.runs)
    queue.add(run.id)
    keeper = supervisor.Supervisor(machine.runs)
    machine.until(lambda: not keeper.turn())
    status = run.status()
    assert status.state == "failed"
    assert status.error["kind"] == "start"
    assert "no torch" in status.error["message"]


def test_a_worker_that_could_not_write_its_last_word_is_spoken_for(machine):
    run = machine.run(fail="exit:17")  # the exit code of a full disk, its status still says running
    launch.enqueue(run)
    machine.until_state(run, "failed")
    assert run.status().error["kind"] == "disk_full"
    assert "Free disk space" in run.status().error["remedy"]


def test_the_out_of_memory_killer_is_named(machine, monkeypatch):
    run = machine.run(steps=100, step_s=0.1)
    Queue(machine.runs).add(run.id)
    keeper = supervisor.Supervisor(machine.runs)
    keeper.turn()
    machine.until(lambda: machine.steps(run))
    before = supervisor._out_of_memory_kills()
    monkeypatch.setattr(supervisor, "_out_of_memory_kills", lambda: before + 1)
    machine.kill("work")
    machine.until(lambda: keeper.turn() is False)
    assert run.state() == "interrupted"
    assert run.status().error["kind"] == "out_of_memory"
    assert "memory was exhausted" in run.status().error["message"]


def test_a_run_deleted_while_it_waits_is_passed_over(machine):
    gone, left = machine.run("gone"), machine.run("left")
    queue = Queue(machine.runs)
    queue.add(gone.id)
    queue.add(left.id)
    trash.delete(gone)
    supervisor.ensure(machine.runs)
    machine.until_state(left, "completed")
    machine.until(lambda: not queue.entries())
    back = trash.restore(machine.runs, gone.id)
    assert back.state() == "queued"
    assert Queue(machine.runs).reconcile() == [gone.id]
    supervisor.ensure(machine.runs)
    machine.until_state(back, "completed")


def test_a_run_whose_launcher_was_killed_before_it_queued_it_is_found(machine):
    forgotten = machine.run("forgotten")
    assert machine.supervise(0.3).wait(20) == 0
    assert forgotten.state() == "completed"


def test_a_claim_whose_supervisor_was_killed_before_it_started_anything_waits_again(machine):
    run = machine.run()
    queue = Queue(machine.runs)
    queue.add(run.id)
    assert queue.claim("cpu/0") == run.id
    assert machine.supervise(0.3).wait(20) == 0
    assert run.state() == "completed"


def test_a_start_that_no_worker_took_up_is_made_again(machine):
    """Killed between writing `starting` and making the process: believed for a while, then started."""
    run = machine.run()
    queue = Queue(machine.runs)
    queue.add(run.id)
    queue.claim("cpu/0")
    run.write_status(run.status().moved("starting", slot="cpu/0"))
    keeper = supervisor.Supervisor(machine.runs)
    assert keeper.turn()
    assert run.state() == "starting"
    assert not machine.processes("work")
    long_ago(run)
    machine.until(lambda: keeper.turn() is False)
    assert run.state() == "completed"
    assert len(machine.workers(run)) == 1


def test_a_queue_rebuilt_at_the_worst_moment_starts_nothing_twice(machine):
    """Claimed and still called queued, when the file is damaged and rebuilt by a dashboard: it waits in the
    new queue once more. The state under the run's lock fences it, and the slot stays taken."""
    runs = [machine.run(f"run {number}", steps=8) for number in range(3)]
    queue = Queue(machine.runs)
    for run in runs:
        queue.add(run.id)
    keeper = supervisor.Supervisor(machine.runs)
    claim = keeper.queue.claim
    damaged = []

    def claim_then_damage(slot, wants=None):
        run_id = claim(slot, wants)
        if run_id and not damaged:
            for suffix in ("-wal", "-shm"):
                (machine.runs / f"{FILE}{suffix}").unlink(missing_ok=True)
            (machine.runs / FILE).write_bytes(b"\x00damage" * 900)
            damaged.append(run_id)
            waiting = [entry.run_id for entry in Queue(machine.runs).entries() if entry.slot is None]
            assert run_id in waiting  # the danger is real
        return run_id

    keeper.queue.claim = claim_then_damage
    busiest = 0

    def turn():
        nonlocal busiest
        busy = keeper.turn()
        busiest = max(busiest, len(machine.processes("work")))
        return not busy

    machine.until(turn)
    assert damaged
    assert busiest == 1
    for run in runs:
        assert run.state() == "completed"
        assert machine.steps(run) == list(range(1, 9))
        assert len(machine.workers(run)) == 1


def test_after_a_rebuild_and_a_new_supervisor_a_working_run_keeps_its_slot(machine):
    first, second = machine.run("first", steps=20, step_s=0.1), machine.run("second")
    launch.enqueue(first)
    launch.enqueue(second)
    machine.until(lambda: machine.steps(first))
    machine.kill("supervise")
    for suffix in ("", "-wal", "-shm"):
        (machine.runs / f"{FILE}{suffix}").unlink(missing_ok=True)
    supervisor.ensure(machine.runs)
    machine.until_state(second, "completed")
    assert first.status().ended_at <= second.status().started_at
    assert machine.steps(first) == list(range(1, 21))


def test_a_full_disk_keeps_runs_waiting_and_loses_none(machine, monkeypatch):
    run = machine.run()
    Queue(machine.runs).add(run.id)
    keeper = supervisor.Supervisor(machine.runs)
    real = RunFolder.write_status

    def full(self, status):
        raise OSError(errno.ENOSPC, "No space left on device", "status.json")

    monkeypatch.setattr(RunFolder, "write_status", full)
    for _ in range(5):
        with pytest.raises(Exception, match="No space left"):
            keeper.turn()
    assert run.state() == "queued"
    monkeypatch.setattr(RunFolder, "write_status", real)
    machine.until(lambda: keeper.turn() is False)
    assert run.state() == "completed"
    assert machine.steps(run) == [1, 2, 3, 4, 5]


def test_a_run_that_cannot_be_started_does_not_block_the_others(machine, monkeypatch):
    broken, fine = machine.run("broken"), machine.run("fine")
    queue = Queue(machine.runs)
    queue.add(broken.id)
    queue.add(fine.id)
    keeper = supervisor.Supervisor(machine.runs)
    real = local.spawn

    def spawn(folder, slot):
        if folder.id == broken.id:
            raise PermissionError(13, "Permission denied", "log.txt")
        return real(folder, slot)

    monkeypatch.setattr(local, "spawn", spawn)

    def turn():
        with contextlib.suppress(OSError):
            keeper.turn()
        return fine.state() == "completed"

    machine.until(turn)
    assert broken.state() == "queued"


def test_the_supervisor_stays_under_40_mb(machine):
    for number in range(20):
        Queue(machine.runs).add(machine.run(f"run {number}", steps=1).id)
    running = machine.run("long", steps=60, step_s=0.05)
    Queue(machine.runs).add(running.id)
    Queue(machine.runs).move(running.id, 0)
    process = machine.supervise()
    machine.until(lambda: machine.steps(running))
    memory = psutil.Process(process.pid).memory_info().rss / 2**20
    print(f"supervisor: {memory:.1f} MB resident")
    assert memory < 40
    process.send_signal(signal.SIGKILL)
    process.wait(5)


def test_slots_follow_the_gpus_and_a_cpu_run_takes_none_of_them(monkeypatch, machine):
    two = [resources.Gpu(index, f"GPU-{index}", "Card", 1000.0, 900.0) for index in range(2)]
    monkeypatch.setattr(resources, "gpus", lambda: two)
    assert local.capacity() == ["gpu/GPU-0", "gpu/GPU-1", "cpu/0"]
    runs = {
        name: machine.run(name, device=device, steps=200)
        for name, device in (("a", "cuda:1"), ("b", "cpu"), ("c", "auto"), ("d", "auto"))
    }
    for run in runs.values():
        Queue(machine.runs).add(run.id, wants=run.config().training.device)
    keeper = supervisor.Supervisor(machine.runs)
    keeper.turn()
    slots = {entry.run_id: entry.slot for entry in Queue(machine.runs).entries()}
    assert slots[runs["a"].id] == "gpu/GPU-1"
    assert slots[runs["b"].id] == "cpu/0"
    assert slots[runs["c"].id] == "gpu/GPU-0"
    assert slots[runs["d"].id] is None
    busy = {device.name: device.runs for device in local.devices(machine.runs)}
    assert busy["cuda:1"] == (runs["a"].id,)
    assert busy["cpu"] == (runs["b"].id,)
    seen = local.environment(runs["c"], "gpu/GPU-0")
    assert seen["CUDA_VISIBLE_DEVICES"] == "GPU-0"
    assert local.environment(runs["a"], "gpu/GPU-1").get("CUDA_VISIBLE_DEVICES") != "GPU-1"


def test_a_worker_that_somebody_else_has_reaped_is_not_taken_for_completed(machine):
    """Python gives exit code 0 to a child whose status is gone."""
    run = machine.run(steps=200, step_s=0.1)
    Queue(machine.runs).add(run.id)
    keeper = supervisor.Supervisor(machine.runs)
    keeper.turn()
    machine.until(lambda: machine.steps(run))
    pid = keeper.children[run.id].process.pid
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    machine.until(lambda: keeper.turn() is False)
    assert run.state() == "interrupted"
