"""The run machinery at 1,000 runs, beside MLflow's search over the same 1,000 runs where MLflow is installed.

    listing, no index   a new process that reads every folder, and writes the index: once per machine
    listing, new process    the next one: a server that has just been started, a command line
    listing, warm       the same again: what each redraw of the runs page costs in the engine
    listing, damaged index  a new process finds bytes of the index's file overwritten: every run is listed all the same
    queue, damaged      ten waiting runs are asked for after the same: the queue is rebuilt from the folders
    metrics of 20 runs  the curves of a comparison
    supervisor          resident memory of an idle one
    start               from the call to a status on disk

MLflow on SQLite, as a user would have it; `search_runs` returns what our listing returns (parameters,
last metrics, tags), and its metric histories are read run by run, as there is no other way.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from engine.runs import folder as contract
from engine.runs import listing
from engine.runs.config import RunConfig
from engine.runs.creation import create
from engine.runs.folder import RunFolder
from engine.runs.index import Index
from engine.runs.provenance import provenance
from engine.runs.queue import Queue
from engine.runs.status import COMPLETED, RUNNING, Status

ROOT = Path(__file__).resolve().parents[2]
RUNS, EPOCHS, HISTORIES, QUEUED_RUNS = 1000, 50, 20, 10
LIMIT_LISTING_MS, LIMIT_SUPERVISOR_MB, LIMIT_START_S = 150.0, 40.0, 1.0
METRICS = ("loss", "accuracy", "balanced_accuracy", "auroc", "lr")


def run(*, runs: int = RUNS, epochs: int = EPOCHS, repeats: int = 5) -> list[dict[str, Any]]:
    """Measure; a record per line of the table.

    Returns:
        Records with `bench`, `what`, `value`, `unit`, `limit` (None where there is none), `peer` (name or
        empty), `peer_value` (None where the peer is not installed), `ratio` (peer / ours), `n`, `machine`.
    """
    with tempfile.TemporaryDirectory(prefix="bench-runs-") as place, own_cache(Path(place) / "cache"):
        root = Path(place) / "runs"
        make_runs(root, runs, epochs)
        peer = _mlflow(Path(place) / "mlflow", runs, epochs, repeats)
        time.sleep(listing.YOUNG_S)  # what was written a moment ago is not remembered
        unindexed = _new_process_ms(root, runs)
        first = statistics.median(_new_process_ms(root, runs) for _ in range(repeats))
        listing.summaries(root)
        warm = _median_ms(lambda: listing.summaries(root), repeats)
        damage(Index().file)
        damaged = _new_process_ms(root, runs)
        folders = contract.run_folders(root)[:HISTORIES]
        histories = _median_ms(lambda: [folder.metrics() for folder in folders], repeats)
        started = _start_s(Path(place) / "started")
        rebuilt = _queue_rebuilt_ms(Path(place) / "queued")
        supervisor = supervisor_mb(root)
    many, few = f"{runs:,} runs of {epochs} epochs", f"{len(folders)} runs of {epochs} epochs"
    return [
        _record("listing, no index", unindexed, "ms", many),
        _record("listing, new process", first, "ms", many, peer.get("search_first")),
        _record("listing, warm", warm, "ms", many, peer.get("search"), LIMIT_LISTING_MS),
        _record("listing, damaged index", damaged, "ms", f"{many}, none lost"),
        _record("queue, damaged", rebuilt, "ms", f"{QUEUED_RUNS} waiting runs, none lost"),
        _record("metric histories", histories, "ms", few, peer.get("histories")),
        _record("start until its status is there", started, "s", "1 run", None, LIMIT_START_S),
        _record("supervisor, resident memory", supervisor, "MB", many, None, LIMIT_SUPERVISOR_MB),
    ]


def _record(
    what: str, value: float, unit: str, n: str, peer: float | None = None, limit: float | None = None
) -> dict[str, Any]:
    return {
        "bench": "runs",
        "what": what,
        "value": round(value, 3),
        "unit": unit,
        "limit": limit,
        "peer": f"mlflow {_version('mlflow')} search_runs" if peer is not None else "",
        "peer_value": round(peer, 3) if peer is not None else None,
        "ratio": round(peer / value, 1) if peer is not None else None,
        "n": n,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}",
    }


def _version(package: str) -> str:
    from importlib import metadata

    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""


def make_runs(root: Path, runs: int, epochs: int) -> None:
    """Finished runs (and one in ten running, without a worker) as workers leave them, quickly: no fsync."""
    root.mkdir(parents=True, exist_ok=True)
    now = time.time()
    for number in range(runs):
        at = time.gmtime(now - 60 * (runs - number))
        folder = RunFolder(root / f"{time.strftime('%Y%m%d-%H%M%S', at)}-bench_{number}-{number % 65536:04x}")
        folder.path.mkdir()
        config = RunConfig(name=f"bench {number}").changed(
            data__fold=number % 5, training__seed=number, training__epochs=epochs
        )
        record = {
            **config.to_record(),
            "id": folder.id,
            "created_at": now - 60 * (runs - number),
            "provenance": {},
        }
        _plain(folder.path / "config.json", record)
        state = RUNNING if number % 10 == 0 else COMPLETED
        best = {"metric": "balanced_accuracy", "value": 0.8, "epoch": epochs // 2}
        status = Status(epoch=epochs, epochs=epochs, progress=1.0, best=best).moved(state)
        _plain(folder.path / "status.json", asdict(status))
        (folder.path / ".lock").touch()
        (folder.path / "predictions").mkdir()
        lines = [
            json.dumps({"epoch": epoch, "split": split, **dict.fromkeys(METRICS, 1.0 / epoch)})
            for epoch in range(1, epochs + 1)
            for split in ("train", "val")
        ]
        (folder.path / "metrics.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _plain(path: Path, record: dict[str, Any]) -> None:
    path.write_text(json.dumps(record), encoding="utf-8")


def _median_ms(work: Callable[[], object], repeats: int) -> float:
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
    return 1000 * statistics.median(times)


@contextlib.contextmanager
def own_cache(place: Path) -> Iterator[None]:
    """A cache folder of its own for this process and its children, so that a bench leaves nothing in the user's."""
    before = os.environ.get("BREAKHIS_CACHE")
    os.environ["BREAKHIS_CACHE"] = str(place)
    try:
        yield
    finally:
        if before is None:
            del os.environ["BREAKHIS_CACHE"]
        else:
            os.environ["BREAKHIS_CACHE"] = before


def _new_process_ms(root: Path, runs: int) -> float:
    """The first list of a process that has just begun, its imports left out."""
    code = (
        "import sys, time; from pathlib import Path; from engine.runs.listing import summaries; "
        "began = time.perf_counter(); found = summaries(Path(sys.argv[1])); "
        "print(1000 * (time.perf_counter() - began), len(found))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(root)], capture_output=True, text=True, check=True, cwd=ROOT
    )
    took, listed = done.stdout.split()
    if int(listed) != runs:
        raise RuntimeError(f"{listed} of {runs} runs were listed")
    return float(took)


def damage(file: Path) -> None:
    """Overwrite the middle of a file, as a failing disk would."""
    size = file.stat().st_size
    with open(file, "rb+") as stream:
        stream.seek(size // 3)
        stream.write(b"\xff" * (size // 3))


def _queue_rebuilt_ms(root: Path) -> float:
    """From asking for the queue whose file is damaged to having all that wait in it."""
    made = [create(root, RunConfig(name=f"bench {number}"), "bench") for number in range(QUEUED_RUNS)]
    queue = Queue(root)
    for run in made:
        queue.add(run.id)
    damage(queue.file)
    began = time.perf_counter()
    waiting = {entry.run_id for entry in queue.entries()}
    took = 1000 * (time.perf_counter() - began)
    if waiting != {run.id for run in made}:
        raise RuntimeError(f"{len(waiting)} of {len(made)} runs wait after the queue was damaged")
    return took


def _start_s(root: Path) -> float:
    """As `launch.start` does it, without the data set: folder, queue, status on disk."""
    provenance()  # git and package versions, once per process

    def start() -> None:
        made = create(root, RunConfig(name="bench"), "bench")
        Queue(root).add(made.id)
        assert listing.summaries(root)

    return _median_ms(start, 5) / 1000


def supervisor_mb(root: Path) -> float:
    """Resident memory of a supervisor that looks after this folder, in a process of its own."""
    import psutil

    command = [sys.executable, "-m", "engine", "supervise", str(root)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        time.sleep(4.0)
        return psutil.Process(process.pid).memory_info().rss / 2**20
    finally:
        process.kill()
        process.wait()


def _mlflow(place: Path, runs: int, epochs: int, repeats: int) -> dict[str, float]:
    """The same runs in MLflow, and how long it takes to list them; empty where it is not installed."""
    if importlib.util.find_spec("mlflow") is None:
        return {}
    import mlflow  # pyright: ignore[reportMissingImports]
    from mlflow.entities import Metric, Param, RunTag  # pyright: ignore[reportMissingImports]

    place.mkdir(parents=True)
    mlflow.set_tracking_uri(f"sqlite:///{place}/mlflow.db")
    client = mlflow.MlflowClient()
    experiment = client.create_experiment("bench", artifact_location=str(place / "artifacts"))
    now = int(time.time() * 1000)
    ids = []
    for number in range(runs):
        run_id = client.create_run(experiment, run_name=f"bench {number}").info.run_id
        # Only the runs whose histories are read get one: a search reads the last values, and takes an hour to fill.
        first = 1 if number < HISTORIES else epochs
        metrics = [
            Metric(f"{split}_{name}", 1.0 / epoch, now + epoch, epoch)
            for epoch in range(first, epochs + 1)
            for split in ("train", "val")
            for name in METRICS
        ]
        flat = [Param(f"p{index}", str(index)) for index in range(30)]
        client.log_batch(run_id, metrics, flat, [RunTag("state", "completed")])
        client.set_terminated(run_id)
        ids.append(run_id)

    def search() -> None:
        assert len(mlflow.search_runs([experiment], max_results=runs)) == runs

    def histories() -> None:
        for run_id in ids[:HISTORIES]:
            for split in ("train", "val"):
                for name in METRICS:
                    client.get_metric_history(run_id, f"{split}_{name}")

    return {
        "search_first": _median_ms(search, 1),
        "search": _median_ms(search, repeats),
        "histories": _median_ms(histories, max(1, repeats // 2)),
    }
