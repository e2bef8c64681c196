"""The cluster executor against a real Ray of two nodes on this machine.

Needs the command `ray` (requirements-cluster.txt); the workers need none.
"""

import contextlib
import importlib.util
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
import requests

from engine.runs import launch
from engine.runs.executors import ray
from engine.runs.executors.jobs import Cluster, Jobs, connect
from engine.runs.queue import Queue

RAY = shutil.which("ray") or shutil.which("ray", path=str(Path(sys.executable).parent))
TOKEN = "token-of-the-test"
PORT, DASHBOARD = 27379, 28265
SECOND = f"--address=127.0.0.1:{PORT}"

REQUIRED = os.environ.get("REQUIRE_RAY") == "1"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        RAY is None and not REQUIRED, reason="ray is not installed (pip install -r requirements-cluster.txt)"
    ),
]


@dataclass(frozen=True)
class Nodes:
    """The head's address, and how another node joins (a test may have lost the second one)."""

    address: str
    join: Callable[[], None]


@pytest.fixture(scope="module")
def nodes(tmp_path_factory):
    """A head and a second node, one core each; token required."""
    assert RAY is not None, (
        "REQUIRE_RAY=1, but there is no command ray (pip install -r requirements-cluster.txt)"
    )
    # Sockets live below it, and their paths may not exceed 107 characters.
    place = Path("/tmp") / f"ray{os.getpid()}"
    environment = {
        **os.environ,
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": TOKEN,
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_TMPDIR": str(place),
    }

    def start(*words: str) -> None:
        common = ["--num-cpus=1", "--num-gpus=0", "--object-store-memory=80000000"]
        done = subprocess.run(
            [str(RAY), "start", *words, *common], env=environment, capture_output=True, text=True, timeout=240
        )
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]

    head = (f"--port={PORT}", f"--dashboard-port={DASHBOARD}", "--dashboard-host=127.0.0.1")
    try:
        start("--head", *head, f"--temp-dir={place}", "--disable-usage-stats")
        start(SECOND)
        yield Nodes(f"http://127.0.0.1:{DASHBOARD}", lambda: start(SECOND))
    finally:
        psutil.process_iter.cache_clear()
        for process in psutil.process_iter():  # `ray stop` would stop everybody's; ours carry their folder
            with contextlib.suppress(psutil.Error):
                if process.pid != os.getpid() and process.environ().get("RAY_TMPDIR") == str(place):
                    process.kill()
        shutil.rmtree(place, ignore_errors=True)


@pytest.fixture
def cluster(machine, nodes, monkeypatch):
    monkeypatch.setenv("RAY_AUTH_TOKEN", TOKEN)
    connect(machine.runs, Cluster(nodes.address, python=sys.executable))
    two_nodes(machine.runs, nodes)
    return machine


def two_nodes(runs: Path, nodes: Nodes) -> None:
    """Wait until both nodes are there and idle; where one was lost another joins."""
    settings, joined, end = Cluster(nodes.address), False, time.monotonic() + 240
    while time.monotonic() < end:
        now, total = Jobs(settings).room(settings)
        if (now, total) == (2, 2):
            return
        if total < 2 and not joined and time.monotonic() > end - 220:
            nodes.join()
            joined = True
        time.sleep(0.5)
    raise AssertionError("the two nodes are not there")


def start(machine, name, **details):
    run = machine.run(name, **details)
    run.write_status(ray.Status(executor="ray").moved("queued"))
    launch.enqueue(run)
    return run


def node_of(address, run):
    answer = requests.get(
        f"{address}/api/jobs/{run.status().submission}",
        headers={"Authorization": f"Bearer {TOKEN}"},
        timeout=10,
    )
    return answer.json().get("driver_node_id")


def test_two_nodes_work_stop_resume_and_survive_the_loss_of_one(cluster, nodes, monkeypatch):
    machine = cluster
    began = time.monotonic()
    checks = ray.check_up(machine.runs)
    assert all(check.good for check in checks[:4]), checks
    assert [check.name for check in checks[:4]] == ["reachable", "room", "shared folder", "locks"]
    print(f"checked up in {time.monotonic() - began:.1f} s: {[check.found for check in checks]}")

    monkeypatch.setenv("RAY_AUTH_TOKEN", "wrong")
    (refused,) = ray.check_up(machine.runs)
    assert refused.name == "token"
    monkeypatch.setenv("RAY_AUTH_TOKEN", TOKEN)

    # Three runs on two nodes: two at once, on different nodes, the third when there is room.
    # None ends before the gate opens, however long a busy machine takes to begin another.
    gate = machine.runs / "gate"
    runs = [start(machine, f"run {number}", steps=40, step_s=0.1, gate=str(gate)) for number in range(3)]
    machine.until(lambda: sum(run.state() == "running" for run in runs) == 2, 300)
    running = [run for run in runs if run.state() == "running"]
    assert len({node_of(nodes.address, run) for run in running}) == 2
    ray.submit(running[0])  # a second time: the head answers 500, and it counts as submitted
    (waiting,) = [run for run in runs if run not in running]
    assert waiting.state() == "queued"

    launch.stop(running[0])
    machine.until_state(running[0], "stopped", timeout_s=120)
    gate.touch()
    for run in (running[1], waiting):
        machine.until_state(run, "completed", timeout_s=180)
        assert machine.steps(run) == list(range(1, 41))
    launch.resume(running[0])
    machine.until_state(running[0], "completed", timeout_s=240)
    assert machine.steps(running[0]) == list(range(1, 41))
    assert running[0].status().submission.endswith(".2")

    # A node is lost: the run is interrupted, says so, and goes on elsewhere by itself if that is wanted.
    launch.auto_resume(machine.runs, True)
    second_gate = machine.runs / "second gate"
    pair = [
        start(machine, f"pair {number}", steps=60, step_s=0.1, gate=str(second_gate)) for number in range(2)
    ]
    machine.until(lambda: all(run.state() == "running" for run in pair), 300)
    lose_the_second_node(machine)
    second_gate.touch()
    for run in pair:
        machine.until_state(run, "completed", timeout_s=240)
        assert machine.steps(run)[-1] == 60
    moved = [run for run in pair if run.status().submission.endswith(".2")]
    assert len(moved) == 1
    states = [state for state, _ in moved[0].status().history]
    assert "failed" not in states
    machine.until(lambda: not Queue(machine.runs).entries(), 60)


@pytest.mark.skipif(
    importlib.util.find_spec("ray") is None and not REQUIRED,
    reason="Ray Train needs ray in this very environment",
)
def test_one_run_is_trained_by_two_nodes_together(nodes, tmp_path, monkeypatch):
    """A real network, a real training loop, gradients averaged over two processes; one run folder."""
    sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "training"))
    import tiny_runs

    monkeypatch.setenv("RAY_AUTH_TOKEN", TOKEN)
    runs, images = tmp_path / "runs", tmp_path / "images"
    images.mkdir()
    run = tiny_runs.make_run(
        runs,
        tiny_runs.write_images(images),
        model__name="tf_efficientnet_lite0",
        training__epochs=1,
        training__batch_size=4,
    )
    run.write_status(ray.Status(executor="ray").moved("queued"))
    connect(runs, Cluster(nodes.address, python=sys.executable, processes=2))
    two_nodes(runs, nodes)
    Queue(runs).add(run.id, wants="ray")
    keeper = ray.Keeper(runs)
    end = time.monotonic() + 420
    while run.state() not in ("completed", "failed") and time.monotonic() < end:
        keeper.turn()
        time.sleep(1)
    log = requests.get(
        f"{nodes.address}/api/jobs/{run.status().submission}/logs",
        headers={"Authorization": f"Bearer {TOKEN}"},
        timeout=20,
    ).json()
    assert run.state() == "completed", (run.status().error, log.get("logs", "")[-4000:])
    assert run.predicted_splits()
    assert set(run.metrics()["split"]) == {"train", "val"}


def lose_the_second_node(machine) -> None:
    """`kill -9` everything of the node that is not the head, as a power cut would."""
    raylets = [process for process in psutil.process_iter() if process.name() == "raylet"]
    second = max(
        (process for process in raylets if f"{os.getpid()}" in " ".join(process.cmdline())),
        key=lambda process: process.create_time(),
    )
    family = [second, *second.children(recursive=True)]
    jobs = {process.pid for process in machine.processes("work")}
    for process in family:
        with contextlib.suppress(psutil.Error):
            process.kill()
    assert jobs & {process.pid for process in family}  # a worker was lost with it
