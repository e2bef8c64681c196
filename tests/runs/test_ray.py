"""The cluster executor against a Jobs server that fails in every way a head can fail."""

import json
import shlex
import subprocess
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pretend
import pytest
from jobs_head import TOKEN

from engine.errors import ConfigError, RunError
from engine.runs import launch, supervisor
from engine.runs.executors import CLUSTER_FILE, local, preflight, ray
from engine.runs.executors.jobs import Cluster, Jobs, connect
from engine.runs.executors.ray import Keeper
from engine.runs.queue import Queue
from engine.runs.status import START_GRACE_S


def queued(machine, name="run", **details):
    """A run that waits for the cluster."""
    run = machine.run(name, **details)
    run.write_status(ray.Status(executor="ray").moved("queued"))
    Queue(machine.runs).add(run.id, wants="ray")
    return run


def turns(machine, keeper, until):
    def turn():
        keeper.turn()
        return until()

    return machine.until(turn)


@pytest.mark.slow
def test_runs_go_to_the_cluster_as_there_is_room_and_the_folder_tells_how_they_did(machine, head):
    runs = [queued(machine, f"run {number}") for number in range(3)]
    keeper = Keeper(machine.runs)
    keeper.turn()
    assert len(head.jobs) == 2  # two nodes with one core each: the third waits here, not there
    turns(machine, keeper, lambda: all(run.state() == "completed" for run in runs))
    for run in runs:
        assert machine.steps(run) == [1, 2, 3, 4, 5]
        assert run.status().submission == f"{run.id}.1"
    turns(machine, keeper, lambda: not keeper.busy)
    assert Queue(machine.runs).entries() == []


def test_the_job_has_its_stop_time_its_path_and_its_resources(machine, head):
    head.auto = False
    run = queued(machine)
    Keeper(machine.runs).turn()
    (job,) = head.jobs.values()
    assert int(job["runtime_env"]["env_vars"]["RAY_JOB_STOP_WAIT_TIME_S"]) >= 60
    assert job["runtime_env"]["env_vars"]["PYTHONPATH"] == str(local.ROOT)
    assert (job["entrypoint_num_cpus"], job["entrypoint_num_gpus"]) == (1.0, 0.0)
    assert TOKEN not in json.dumps(job)
    assert TOKEN not in (machine.runs / CLUSTER_FILE).read_text()
    assert run.state() == "starting"


def test_the_entrypoint_is_made_from_an_id_and_quoted_settings(tmp_path):
    from engine.runs.folder import RunFolder

    cluster = Cluster("http://head:8265", runs="/shared/my runs; rm -rf /", python="/opt/py thon")
    run = RunFolder(tmp_path / "20261122-201500-x-3f2a")
    words = shlex.split(ray.entrypoint(cluster, run))
    assert words == [
        "/opt/py thon",
        "-m",
        "engine",
        "work",
        "/shared/my runs; rm -rf /20261122-201500-x-3f2a",
    ]
    with pytest.raises(RunError, match="no run id"):
        ray.entrypoint(cluster, RunFolder(tmp_path / "x; rm -rf ~"))


def test_a_submission_whose_answer_was_lost_is_not_made_twice(machine, head):
    head.auto = False
    run = queued(machine)
    head.faults["POST /api/jobs/"] = "late"
    keeper = Keeper(machine.runs)
    keeper.turn()
    head.faults.clear()
    keeper.turn()
    assert list(head.jobs) == [f"{run.id}.1"]
    assert run.state() == "starting"


def test_a_duplicate_submission_answers_500_and_counts_as_submitted(machine, head):
    head.auto = False
    run = queued(machine)
    Keeper(machine.runs).turn()
    ray.submit(run)  # HTTP 500 from the head: the job is there, so it is submitted
    assert len(head.jobs) == 1


def test_a_supervisor_killed_before_it_submitted_leaves_nothing_undone(machine, head):
    head.auto = False
    run = queued(machine)
    Queue(machine.runs).claim("ray/0", ("ray",))
    run.move(("queued",), "starting", slot="ray/0", submission=ray.submission_of(run))
    Keeper(machine.runs).turn()
    assert list(head.jobs) == [f"{run.id}.1"]


@pytest.mark.parametrize(
    "fault", ["drop", (500, "No available agent to submit job"), (502, "<html>Bad gateway")]
)
def test_a_run_the_cluster_did_not_take_waits_on(machine, head, fault):
    run = queued(machine)
    head.faults["POST /api/jobs/"] = fault
    keeper = Keeper(machine.runs)
    with pytest.raises(RunError):
        keeper.turn()
    assert run.state() == "queued"
    assert ray.contact(machine.runs).ok is False
    head.faults.clear()
    turns(machine, keeper, lambda: run.state() == "completed")
    assert ray.contact(machine.runs).ok is True


def test_a_refused_token_is_said_and_the_run_waits(machine, head, monkeypatch):
    monkeypatch.setenv("RAY_AUTH_TOKEN", "another")
    run = queued(machine)
    with pytest.raises(RunError, match="refuses the token") as caught:
        Keeper(machine.runs).turn()
    assert caught.value.kind == "token"
    assert run.state() == "queued"
    assert "refuses the token" in ray.contact(machine.runs).message
    assert "another" not in str(caught.value)


def test_without_a_token_nothing_is_sent(machine, head, monkeypatch, tmp_path):
    monkeypatch.delenv("RAY_AUTH_TOKEN")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "none"))
    queued(machine)
    with pytest.raises(ConfigError, match="no token"):
        Keeper(machine.runs).turn()
    assert head.requests == []
    (tmp_path / "none").write_text(f"{TOKEN}\n")
    Keeper(machine.runs).turn()
    assert head.jobs


@pytest.mark.slow
def test_a_head_that_is_gone_while_a_job_runs_is_no_failure(machine, head):
    run = queued(machine, steps=25, step_s=0.1)
    keeper = Keeper(machine.runs)
    keeper.turn()
    machine.until_state(run, "running")
    head.faults["GET"] = "drop"
    job = ray.state(run)
    assert job.state == "UNKNOWN"
    assert "does not answer" in job.message
    keeper.turn()  # its lock is held: that is enough, the head is not asked
    assert run.state() == "running"
    other = queued(machine, "other")
    with pytest.raises(RunError, match="does not answer"):
        keeper.turn()
    told = ray.contact(machine.runs)
    assert not told.ok
    assert time.time() - told.since < 20
    machine.until_state(run, "completed")
    head.faults.clear()
    turns(machine, keeper, lambda: other.state() == "completed")


def test_a_start_without_contact_is_unknown_and_never_failed(machine, head, monkeypatch):
    from engine.runs import boot

    head.auto = False
    run = queued(machine)
    Keeper(machine.runs).turn()
    late = boot.ticks() + START_GRACE_S + 5
    monkeypatch.setattr(boot, "ticks", lambda: late)
    assert run.state() == "unknown"
    Keeper(machine.runs).turn()  # contact again: the job is known there and still pending
    assert run.state() == "starting"


@pytest.mark.slow
def test_a_pending_job_cannot_be_stopped_there_so_it_stops_when_it_begins(machine, head):
    head.auto = False
    run = queued(machine)
    keeper = Keeper(machine.runs)
    keeper.turn()
    assert "next step" in launch.stop(run)
    assert head.jobs[f"{run.id}.1"]["status"] == "PENDING"
    keeper.turn()
    head.begin(f"{run.id}.1")
    machine.until_state(run, "stopped")
    assert machine.steps(run) == []
    keeper.turn()
    assert Queue(machine.runs).entries() == []


def test_a_job_that_waited_too_long_there_waits_on_here(machine, head):
    head.auto = False
    run = queued(machine)
    keeper = Keeper(machine.runs)
    keeper.turn()
    job = head.jobs[f"{run.id}.1"]
    job["status"] = "FAILED"
    job["message"] = "Job supervisor actor failed to start within 900 seconds. This timeout can be ..."
    keeper.turn()
    assert run.status().state in ("queued", "starting")
    head.auto = True
    turns(machine, keeper, lambda: run.state() == "completed")
    assert list(head.jobs) == [f"{run.id}.1", f"{run.id}.2"]


def test_a_job_that_failed_to_begin_says_why(machine, head):
    head.auto = False
    run = queued(machine)
    keeper = Keeper(machine.runs)
    keeper.turn()
    head.jobs[f"{run.id}.1"].update(
        status="FAILED", message="Job entrypoint command failed with exit code 127: python: not found"
    )
    keeper.turn()
    assert run.state() == "failed"
    assert "python: not found" in run.status().error["message"]


@pytest.mark.slow
@pytest.mark.parametrize("automatic", [False, True])
def test_a_lost_node_interrupts_and_the_run_goes_on_elsewhere(machine, head, automatic):
    launch.auto_resume(machine.runs, automatic)
    run = queued(machine, steps=12, step_s=0.1)
    keeper = Keeper(machine.runs)
    keeper.turn()
    machine.until(lambda: len(machine.steps(run)) >= 2)
    head.processes[f"{run.id}.1"].kill()
    machine.kill("work")
    assert run.state() == "interrupted"
    if not automatic:
        turns(machine, keeper, lambda: run.status().error)
        assert run.status().error["kind"] == "node_lost"
        assert "on any node" in run.status().error["remedy"]
        assert run.state() == "interrupted"
        launch.requeue(run, ("interrupted",))
    turns(machine, keeper, lambda: run.state() == "completed")
    assert machine.steps(run)[-1] == 12
    assert run.status().submission == f"{run.id}.2"


@pytest.mark.slow
def test_a_run_is_killed_through_the_cluster(machine, head):
    run = queued(machine, steps=500, step_s=0.1, deaf=True)
    keeper = Keeper(machine.runs)
    keeper.turn()
    machine.until(lambda: machine.steps(run))

    def stop_children(*_):
        machine.kill("work")

    threading.Timer(0.3, stop_children).start()  # the head kills the process tree; ours kills the shell only
    assert "was killed" in launch.stop(run, kill=True)
    assert ("POST", f"/api/jobs/{run.id}.1/stop") in head.requests
    assert run.state() == "stopped"


@pytest.mark.slow
def test_a_cluster_out_of_reach_keeps_no_local_run_waiting(machine, head):
    head.server.shutdown()
    head.server.server_close()
    far, near = queued(machine, "far"), machine.run("near")
    launch.enqueue(near)
    machine.until_state(near, "completed")
    assert far.state() == "queued"
    machine.until(
        lambda: (last := ray.contact(machine.runs)) is not None and "runs here wait" in last.message
    )
    assert supervisor.is_running(machine.runs)  # it keeps asking
    head.server = ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler)  # for close()
    threading.Thread(target=head.server.serve_forever, daemon=True).start()


@pytest.mark.parametrize("nodes", [{}, {"a": {"CPU": [1.0, 1.0]}}, {"a": {}}])
def test_no_room_means_nothing_is_submitted(machine, head, nodes):
    head.nodes = nodes
    run = queued(machine)
    keeper = Keeper(machine.runs)
    keeper.turn()
    assert head.jobs == {}
    assert run.state() == "queued"
    assert keeper.busy


def test_room_is_counted_in_whole_runs_per_node(machine, head):
    head.nodes = {"a": {"CPU": [0.5, 8.0], "GPU": [1.0, 4.0]}, "b": {"CPU": [0, 3.0]}}
    jobs = Jobs(Cluster(head.address))
    assert jobs.room(Cluster(head.address, cpus=2, gpus=1)) == (3, 4)
    assert jobs.room(Cluster(head.address, cpus=2)) == (4, 5)


@pytest.mark.parametrize("body", ["", "[]", "<html>", '{"status": "NEW"}', '{"no": "status"}'])
def test_a_strange_answer_is_not_believed(machine, head, body):
    head.faults["GET"] = (200, body)
    with pytest.raises(RunError, match="something unexpected"):
        Jobs(Cluster(head.address)).job("x")


@pytest.mark.parametrize("address", ["", "head:8265", "ftp://head", "http://user:pass@head", "file:///etc"])
def test_an_address_that_is_none_is_refused(machine, address, monkeypatch):
    monkeypatch.setenv("RAY_AUTH_TOKEN", TOKEN)
    with pytest.raises(ConfigError, match="no address"):
        connect(machine.runs, Cluster(address))


def test_a_redirect_does_not_carry_the_token_away(machine, head):
    head.faults["GET"] = (302, "moved")
    with pytest.raises(RunError, match="HTTP 302"):
        Jobs(Cluster(head.address)).version()


@pytest.mark.slow
def test_check_up_asks_a_node_through_the_shared_folder(machine, head):
    connect(machine.runs, Cluster(head.address, python=pretend.sys.executable))
    checks = ray.check_up(machine.runs)
    assert [check.name for check in checks] == ["reachable", "room", "shared folder", "locks", "same program"]
    assert all(check.good for check in checks[:-1]), checks  # the last one: the commit may have moved on
    assert not list(machine.runs.glob(".preflight-*"))


def test_a_node_that_does_not_see_the_folder_is_found_out(machine, head, tmp_path):
    connect(machine.runs, Cluster(head.address, python=pretend.sys.executable, runs=str(tmp_path / "x")))
    checks = ray.check_up(machine.runs, timeout_s=20)
    assert (checks[-1].name, checks[-1].good) == ("shared folder", False)
    assert "exit code 1" in checks[-1].found


def test_a_file_system_that_keeps_its_locks_to_itself_is_found_out(machine, head, monkeypatch):
    monkeypatch.setattr(ray, "lock_is_held", lambda path: False)
    connect(machine.runs, Cluster(head.address, python=pretend.sys.executable))
    found = {check.name: check for check in ray.check_up(machine.runs)}
    assert not found["locks"].good
    assert "NFS 4" in found["locks"].found


def test_a_wrong_answer_is_not_taken(tmp_path):
    assert preflight.answer_to("a") != preflight.answer_to("b")
    assert preflight.main(tmp_path) == 1


def test_check_up_without_a_cluster_says_what_to_write(machine):
    (check,) = ray.check_up(machine.runs)
    assert not check.good
    assert "connected to no cluster" in check.found


def test_the_dashboard_needs_no_ray():
    code = "import sys, engine.runs.executors.ray, engine.runs.supervisor; print('ray' in sys.modules)"
    done = subprocess.run(
        [pretend.sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=local.ROOT
    )
    assert done.stdout.strip() == "False"
