"""The run machinery at 1,000 runs, beside MLflow's search over the same 1,000 runs where MLflow is installed.

    listing, first      every folder read once: a server that has just been started
    listing, warm       the same again: what each redraw of the runs page costs in the engine
    metrics of 20 runs  the curves of a comparison
    supervisor          resident memory of an idle one
    start               from the call to a status on disk

MLflow on SQLite, as a user would have it; `search_runs` returns what our listing returns (parameters,
last metrics, tags), and its metric histories are read run by run, as there is no other way.
"""

from __future__ import annotations

import importlib.util
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from engine.runs import creation, listing
from engine.runs import folder as contract
from engine.runs.config import RunConfig
from engine.runs.folder import RunFolder
from engine.runs.provenance import provenance
from engine.runs.status import COMPLETED, RUNNING, Status

RUNS, EPOCHS, HISTORIES = 1000, 50, 20
LIMIT_LISTING_MS, LIMIT_SUPERVISOR_MB, LIMIT_START_S = 150.0, 40.0, 1.0
METRICS = ("loss", "accuracy", "balanced_accuracy", "auroc", "lr")


def run(*, runs: int = RUNS, epochs: int = EPOCHS, repeats: int = 5) -> list[dict[str, Any]]:
    """Measure; a record per line of the table.

    Returns:
        Records with `bench`, `what`, `value`, `unit`, `limit` (None where there is none), `peer` (name or
        empty), `peer_value` (None where the peer is not installed), `ratio` (peer / ours), `n`, `machine`.
    """
    with tempfile.TemporaryDirectory(prefix="bench-runs-") as place:
        root = Path(place) / "runs"
        make_runs(root, runs, epochs)
        peer = _mlflow(Path(place) / "mlflow", runs, epochs, repeats)
        first = _first_listing_ms(root)
        listing.summaries(root)
        warm = _median_ms(lambda: listing.summaries(root), repeats)
        folders = contract.run_folders(root)[:HISTORIES]
        histories = _median_ms(lambda: [folder.metrics() for folder in folders], repeats)
        started = _start_s(Path(place) / "started")
        supervisor = supervisor_mb(root)
    many, few = f"{runs:,} runs of {epochs} epochs", f"{len(folders)} runs of {epochs} epochs"
    return [
        _record("listing, first", first, "ms", many, peer.get("search_first")),
        _record("listing, warm", warm, "ms", many, peer.get("search"), LIMIT_LISTING_MS),
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
        _plain(folder.path / "status.json", contract.asdict(status))
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


def _first_listing_ms(root: Path) -> float:
    listing._SUMMARIES.clear()
    return _median_ms(lambda: listing.summaries(root), 1)


def _start_s(root: Path) -> float:
    """As `launch.start` does it, without the data set: folder, queue, status on disk."""
    from engine.runs.queue import Queue

    provenance()  # git and package versions, once per process

    def start() -> None:
        made = creation.create(root, RunConfig(name="bench"), "bench")
        Queue(root).add(made.id)
        assert listing.summaries(root)

    return _median_ms(start, 5) / 1000


def supervisor_mb(root: Path) -> float:
    """Resident memory of a supervisor that looks after this folder, in a process of its own."""
    import psutil

    command = [sys.executable, "-m", "engine", "supervise", str(root)]
    process = subprocess.Popen(
        command, cwd=Path(__file__).resolve().parents[2], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
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
