"""Workers and supervisors for the tests: real processes, the real machinery, a job that only counts.

`python pretend.py work DIR` is `python -m engine work DIR` with the job below instead of the training loop;
`python pretend.py supervise RUNS` is a supervisor that starts such workers. The run's `details` say how the
job behaves:

    steps, step_s      how many steps (default 5), how long each takes (default 0.05 s)
    deaf               ignore every request to stop
    fail               raise this: `oserror:<errno>`, `runtime`, `memory`, `exit`
    hang               sleep for ever in this step
    gate               go no further than the first step until this file is there (or it is asked to stop)
    loader             keep a child process, as loader processes are

Each step appends its number and process id to `steps.jsonl`: what ran, where, and whether twice.
"""

from __future__ import annotations

import json
import os
import shlex
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve()
sys.path.insert(0, str(HERE.parents[2]))

from engine import files  # noqa: E402 - run as a script, the root is not on the path
from engine.runs import supervisor, worker  # noqa: E402
from engine.runs.executors import CLUSTER_FILE, local  # noqa: E402


def job(folder, report) -> str:
    """Count to `steps`, remembering where it is in last.ckpt."""
    details = folder.config().details
    total, pause = int(details.get("steps", 5)), float(details.get("step_s", 0.05))
    state = files.read_json(folder.last) or {"step": 0}
    if details.get("loader") and os.fork() == 0:
        time.sleep(60)
        os._exit(0)
    while state["step"] < total:
        if report.stop_requested() and not details.get("deaf"):
            return "stopped"
        if state["step"] and "gate" in details and not Path(details["gate"]).exists():
            time.sleep(0.05)
            continue
        time.sleep(pause)
        state["step"] += 1
        with open(folder.path / "steps.jsonl", "a") as log:
            log.write(json.dumps({"step": state["step"], "pid": os.getpid()}) + "\n")
        if details.get("hang") == state["step"]:
            time.sleep(600)
        if details.get("fail") and state["step"] == 2:
            fail(str(details["fail"]))
        # Metrics before the checkpoint, as the training loop has it: a kill in between repeats a row, and the last one wins.
        report.metrics({"epoch": state["step"], "split": "train", "loss": 1.0 / state["step"]})
        files.write_json(folder.last, state)
        report.progress("Counting", state["step"] / total, epoch=state["step"], step=1, steps=1)
    return "completed"


def fail(how: str) -> None:
    kind, _, value = how.partition(":")
    if kind == "oserror":
        raise OSError(int(value), os.strerror(int(value)), "pretend.bin")
    if kind == "memory":
        raise MemoryError
    if kind == "exit":
        os._exit(int(value or 1))
    raise RuntimeError("pretended")


def worker_command(folder) -> list[str]:
    return [sys.executable, str(HERE), "work", str(folder.path.resolve())]


def supervisor_command(runs) -> list[str]:
    return [sys.executable, str(HERE), "supervise", str(Path(runs).resolve())]


def main(command: str, path: str, idle_s: str = "1.0") -> int:
    worker._job = lambda kind: job
    local.worker_command = worker_command
    supervisor.LOOK_EVERY_S = 0.05
    supervisor.TROUBLE_WAIT_S = 0.2
    if (Path(path) / CLUSTER_FILE).exists():
        from engine.runs.executors import ray

        ray.LOOK_EVERY_S = 0.5
        ray.entrypoint = lambda cluster, folder: shlex.join(worker_command(folder))
    if command == "work":
        return worker.work(Path(path))
    return supervisor.supervise(Path(path), float(idle_s))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
