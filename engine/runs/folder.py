"""THE CONTRACT: a run is a folder, and anyone with pandas can read it.

    config.json           launcher, once     the configuration, provenance, split hash, leakage audit
    manifest.csv          launcher, once     the images and their split (see engine.data.manifest)
    status.json           launcher, then the worker while it holds `.lock`   state, progress, ETA, error
    label.json            the user           name, tags, notes: what may change
    metrics.jsonl         worker, appended   one row per epoch and split; the last row per key wins
    predictions/<split>.csv  worker          see engine.analysis.predictions
    best.safetensors, last.ckpt (+ .sha256)  worker   weights; everything a resume needs
    log.txt               worker             its output
    STOP                  page or CLI        the request to stop
    .lock                 worker             held (flock) while it lives: the only sign of life

A process id is no sign of life (an unreaped child still exists), a heartbeat only warns. Lock free and
state unfinished = interrupted. Ids are generated, names are labels: renaming never breaks a link.
"""

from __future__ import annotations

import contextlib
import os
import platform
import re
import secrets
import shutil
import subprocess
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from engine import files
from engine.errors import RunError
from engine.runs.config import RunConfig

if TYPE_CHECKING:  # the supervisor reads folders in 40 MB: tables are imported where they are read
    import pandas as pd

    from engine.data.manifest import Manifest

QUEUED, STARTING, RUNNING, STOPPING = "queued", "starting", "running", "stopping"
COMPLETED, STOPPED, FAILED = "completed", "stopped", "failed"
INTERRUPTED, UNKNOWN = "interrupted", "unknown"
STATES = (QUEUED, STARTING, RUNNING, STOPPING, COMPLETED, STOPPED, FAILED, INTERRUPTED, UNKNOWN)
ACTIVE = (QUEUED, STARTING, RUNNING, STOPPING)
FINISHED = (COMPLETED, STOPPED, FAILED)
RESUMABLE = (STOPPED, FAILED, INTERRUPTED)

ID_PATTERN = re.compile(r"\d{8}-\d{6}-[a-z0-9_]{1,60}-[0-9a-f]{4,12}")
# Importing torch on a busy machine takes up to half a minute before the worker can hold its lock.
START_GRACE_S = 90.0
STALL_S = 180.0
SPLIT_NAMES = ("train", "val", "test")
TRASH = ".trash"
PACKAGES = ("torch", "torchvision", "timm", "albumentations", "numpy", "pandas", "scikit-learn", "pillow")


@dataclass(frozen=True)
class Status:
    """`status.json`. Times are seconds since 1970 (UTC); `progress` is 0 to 1; `eta_s` seconds left."""

    state: str = QUEUED
    phase: str = ""
    epoch: int = 0
    epochs: int = 0
    step: int = 0
    steps: int = 0
    progress: float = 0.0
    eta_s: float | None = None
    check_in_at: float = 0.0
    started_at: float | None = None
    ended_at: float | None = None
    best: dict[str, Any] | None = None
    error: dict[str, Any] | None = None
    numbers: dict[str, Any] = field(default_factory=dict)
    worker: dict[str, Any] = field(default_factory=dict)
    history: tuple[tuple[str, float], ...] = ()

    def moved(self, state: str, **values: Any) -> Status:
        """A copy in another state, with the change in its history."""
        now = time.time()
        history = (
            self.history if self.history and self.history[-1][0] == state else (*self.history, (state, now))
        )
        return replace(self, state=state, history=history, check_in_at=now, **values)

    @classmethod
    def from_record(cls, record: dict[str, Any]) -> Status:
        known = {name: record[name] for name in cls.__dataclass_fields__ if name in record}
        known["history"] = tuple((str(state), float(at)) for state, at in known.get("history", ()))
        return cls(**known)


@dataclass(frozen=True)
class Summary:
    """What a list of runs shows of one of them, read without torch and without its metrics."""

    id: str
    name: str
    tags: tuple[str, ...]
    notes: str
    created_at: float
    config: RunConfig
    status: Status
    state: str
    stalled: bool
    audit: dict[str, Any]
    has_predictions: tuple[str, ...]


class RunFolder:
    """One run on disk. Holds no state of its own: every method reads or writes the folder."""

    def __init__(self, path: Path):
        self.path = Path(path)

    def __repr__(self) -> str:
        return f"RunFolder({self.id})"

    @property
    def id(self) -> str:
        return self.path.name

    @property
    def runs(self) -> Path:
        """The folder of all runs."""
        return self.path.parent

    # -- what the launcher wrote --------------------------------------------------------------
    def record(self) -> dict[str, Any]:
        """`config.json` whole: configuration, provenance, split hash, audit.

        Raises:
            RunError: it is gone or unreadable.
        """
        record = files.read_json(self.path / "config.json")
        if record is None:
            raise RunError(
                f"The run {self.id} has no readable config.json",
                remedy="The run was deleted or its folder is damaged: restore it from the trash or a backup",
            )
        return record

    def config(self) -> RunConfig:
        return RunConfig.from_record(self.record())

    def manifest(self) -> Manifest:
        """The run's images with their split; paths are relative to the data root of the configuration.

        Raises:
            RunError: this run (an import, say) has none.
        """
        from engine.data.manifest import read_manifest

        source = self.path / "manifest.csv"
        if not source.is_file():
            raise RunError(f"The run {self.id} has no manifest", remedy="Only trained runs have one")
        record = self.record()
        manifest = read_manifest(source, Path(record.get("data", {}).get("root") or "."))
        return replace(manifest, classes=tuple(record.get("classes") or manifest.classes))

    def audit(self) -> dict[str, Any]:
        """The leakage audit of the run's split: `level` (`clean`, `leak`, `unknown`) and `verdict`."""
        return self.record().get("audit") or {
            "level": "unknown",
            "verdict": "Unknown: no split was recorded.",
        }

    # -- label: what the user may change ------------------------------------------------------
    def label(self) -> dict[str, Any]:
        stored = files.read_json(self.path / "label.json") or {}
        name = stored.get("name") or self.record().get("name") or self.id
        return {
            "name": str(name),
            "tags": list(stored.get("tags") or []),
            "notes": str(stored.get("notes") or ""),
        }

    def write_label(self, **changes: Any) -> None:
        """Change name, tags or notes; the id and every link stay."""
        files.write_json(self.path / "label.json", {**self.label(), **changes})

    @property
    def name(self) -> str:
        return self.label()["name"]

    # -- status -------------------------------------------------------------------------------
    def status(self) -> Status:
        """`status.json` as written; a missing or torn file gives state unknown."""
        record = files.read_json(self.path / "status.json")
        if record is None:
            return Status(state=UNKNOWN)
        try:
            return Status.from_record(record)
        except (TypeError, ValueError):
            return Status(state=UNKNOWN)

    def write_status(self, status: Status) -> None:
        files.write_json(self.path / "status.json", asdict(status))

    def is_alive(self) -> bool:
        """Does a worker hold the lock? Asked with a shared lock, so that ten askers do not see each other."""
        return lock_is_held(self.path / ".lock")

    def state(self) -> str:
        return live_state(self, self.status())

    @contextlib.contextmanager
    def hold(self, wait_s: float = 5.0) -> Iterator[None]:
        """Hold the run's lock: the only way to write status, metrics, predictions and checkpoints.

        Raises:
            RunError: another worker holds it.
        """
        lock = FileLock(self.path / ".lock", timeout=wait_s)
        try:
            lock.acquire()
        except Timeout as error:
            raise RunError(
                f"The run {self.id} is already being worked on",
                found="its lock is held by another process",
                remedy="Stop it first, or wait until it has ended",
            ) from error
        try:
            yield
        finally:
            lock.release()

    # -- stop ---------------------------------------------------------------------------------
    def request_stop(self) -> None:
        (self.path / "STOP").touch()

    def stop_requested(self) -> bool:
        return (self.path / "STOP").exists()

    def clear_stop(self) -> None:
        (self.path / "STOP").unlink(missing_ok=True)

    # -- results ------------------------------------------------------------------------------
    def append_metrics(self, row: dict[str, Any]) -> None:
        """One row per epoch and split: keys `epoch`, `split`, then numbers. NaN becomes null."""
        clean = {
            key: None if isinstance(value, float) and value != value else value for key, value in row.items()
        }
        files.append_line(self.path / "metrics.jsonl", clean)

    def metrics(self) -> pd.DataFrame:
        """Epoch metrics, the last row per (epoch, split); empty before the first epoch has ended."""
        import pandas as pd

        rows = {
            (row.get("epoch"), row.get("split")): row for row in files.read_lines(self.path / "metrics.jsonl")
        }
        table = pd.DataFrame(list(rows.values()))
        return table.sort_values(["split", "epoch"], ignore_index=True) if not table.empty else table

    def write_predictions(self, split: str, table: pd.DataFrame) -> None:
        folder = self.path / "predictions"
        folder.mkdir(exist_ok=True)
        files.write_csv(folder / f"{split}.csv", table)

    def predictions(self, split: str = "test") -> pd.DataFrame:
        """The stored predictions of a split (columns: see engine.analysis.predictions).

        Raises:
            RunError: there are none for this split (yet).
        """
        from engine.analysis.predictions import read_predictions

        source = self.predictions_file(split)
        if not source.is_file():
            have = self.predicted_splits()
            raise RunError(
                f"The run {self.name} has no predictions for {split}",
                found=f"state {self.state()}, predictions for {', '.join(have) or 'nothing'}",
                remedy="Wait until it has completed, or choose another split"
                if have
                else "Wait until it has completed, or resume it",
            )
        return read_predictions(source)

    def predictions_file(self, split: str) -> Path:
        if split not in SPLIT_NAMES:
            raise RunError("There is no such split", found=split, remedy=f"Choose {', '.join(SPLIT_NAMES)}")
        return self.path / "predictions" / f"{split}.csv"

    def predicted_splits(self) -> tuple[str, ...]:
        return tuple(name for name in SPLIT_NAMES if self.predictions_file(name).is_file())

    @property
    def best(self) -> Path:
        """Weights of the best epoch, safetensors."""
        return self.path / "best.safetensors"

    @property
    def last(self) -> Path:
        """Everything a resume needs."""
        return self.path / "last.ckpt"

    def log_tail(self, size: int = 65536) -> str:
        """The last `size` bytes of the log, from a whole line on."""
        try:
            with open(self.path / "log.txt", "rb") as file:
                start = max(0, file.seek(0, os.SEEK_END) - size)
                file.seek(start)
                data = file.read()
        except OSError:
            return ""
        if start:
            data = data.partition(b"\n")[2]
        return data.decode("utf-8", errors="replace")

    def summary(self) -> Summary:
        """What a list shows; raises RunError when the folder is no run."""
        record, label, status = self.record(), self.label(), self.status()
        state = live_state(self, status)
        return Summary(
            id=self.id,
            name=label["name"],
            tags=tuple(label["tags"]),
            notes=label["notes"],
            created_at=float(record.get("created_at") or 0.0),
            config=RunConfig.from_record(record),
            status=status,
            state=state,
            stalled=state in (RUNNING, STOPPING) and time.time() - status.check_in_at > STALL_S,
            audit=record.get("audit") or {"level": "unknown", "verdict": "Unknown: no split was recorded."},
            has_predictions=self.predicted_splits(),
        )


def lock_is_held(path: Path) -> bool:
    """Whether a live process holds a lock file."""
    try:
        import fcntl
    except ImportError:  # no flock: ask by taking the lock for a moment
        try:
            with FileLock(path, timeout=0):
                return False
        except Timeout:
            return True
    try:
        handle = os.open(path, os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(handle)
    return False


def live_state(folder: RunFolder, status: Status) -> str:
    """The state as it is now: what the file says, unless the lock says that the worker is gone."""
    if status.state not in (STARTING, RUNNING, STOPPING):
        return status.state
    if folder.is_alive():
        return STOPPING if folder.stop_requested() and status.state == RUNNING else status.state
    again = folder.status()  # it may have ended between the two looks
    if again.state not in (STARTING, RUNNING, STOPPING):
        return again.state
    if again.state == STARTING and 0 <= time.time() - again.check_in_at < START_GRACE_S:
        return STARTING
    return INTERRUPTED


def new_id(slug: str) -> str:
    """`20261122-201500-tf_efficientnet_b0-3f2a`: sorts by time, never repeats, safe in paths and links."""
    clean = re.sub(r"[^a-z0-9_]+", "_", slug.lower()).strip("_")[:60] or "run"
    return f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{clean}-{secrets.token_hex(2)}"


def create(
    runs: Path,
    config: RunConfig,
    slug: str,
    *,
    manifest: Manifest | None = None,
    audit: dict | None = None,
    split_hash: str = "",
    status: Status | None = None,
) -> RunFolder:
    """Make a run folder; its `status.json` is written last, so that its presence means complete.

    Raises:
        RunError: the runs folder cannot be written.
    """
    runs = Path(runs)
    try:
        runs.mkdir(parents=True, exist_ok=True)
        while True:
            path = runs / new_id(slug)
            try:
                path.mkdir()
                break
            except FileExistsError:
                continue
        folder = RunFolder(path)
        record = {
            **config.to_record(),
            "id": folder.id,
            "created_at": time.time(),
            "split_hash": split_hash,
            "audit": audit or {"level": "unknown", "verdict": "Unknown: no split was recorded."},
            "provenance": provenance(),
        }
        files.write_json(path / "config.json", record)
        if manifest is not None:
            from engine.data.manifest import write_manifest

            write_manifest(manifest, path / "manifest.csv")
        folder.write_status(status or Status().moved(QUEUED))
    except OSError as error:
        raise RunError(
            "The runs folder cannot be written",
            found=f"{error.strerror or error}: {error.filename or runs}",
            remedy="Free disk space, or give a folder that you may write with --runs",
        ) from error
    return folder


def locate(runs: Path, run_id: str) -> RunFolder:
    """The one way from an id to a folder: pattern, parent and link checked.

    Raises:
        RunError: no such run; ids that begin alike are offered.
    """
    runs = Path(runs)
    text = str(run_id).strip()
    path = runs / text
    if (
        ID_PATTERN.fullmatch(text)
        and path.is_dir()
        and not path.is_symlink()
        and path.resolve().parent == runs.resolve()
    ):
        return RunFolder(path)
    names = {folder.id: folder.name for folder in run_folders(runs)} if runs.is_dir() else {}
    by_name = [known for known, name in names.items() if name == text]
    if len(by_name) == 1:
        return RunFolder(runs / by_name[0])
    if len(by_name) > 1:
        raise RunError(
            f"{len(by_name)} runs are named {text[:80]}",
            found=", ".join(by_name[:4]),
            remedy="Give the id instead",
        )
    trashed = ID_PATTERN.fullmatch(text) and (runs / TRASH / text).is_dir()
    near = [known for known in names if text and known.startswith(text[:20])]
    remedy = (
        "It was deleted: restore it from the trash"
        if trashed
        else "Give an id that `python -m engine runs` lists"
    )
    found = f"{text[:80]!r}" + (
        f"; nearest: {', '.join(near[:3])}" if near else f"; {len(names)} runs in {runs}"
    )
    raise RunError("There is no run with this id", found=found, remedy=remedy)


def run_folders(runs: Path) -> list[RunFolder]:
    """Every run in a folder, newest first; anything else in it is passed over."""
    try:
        with os.scandir(runs) as entries:
            names = [
                entry.name
                for entry in entries
                if ID_PATTERN.fullmatch(entry.name) and entry.is_dir(follow_symlinks=False)
            ]
    except OSError:
        return []
    return [
        RunFolder(Path(runs) / name)
        for name in sorted(names, reverse=True)
        if (Path(runs) / name / "config.json").exists()
    ]


def summaries(runs: Path) -> list[Summary]:
    """A summary per run, newest first; a damaged run is shown as unknown rather than hiding the others."""
    found = []
    for folder in run_folders(runs):
        try:
            found.append(_cached_summary(folder))
        except Exception:  # a damaged folder must not hide the others
            found.append(_damaged(folder))
    return found


_SUMMARIES: dict[str, tuple[tuple, Summary]] = {}


def _cached_summary(folder: RunFolder) -> Summary:
    """The summary, read again only when one of its files changed (1,000 runs: one stat each per file)."""
    stamp = tuple(
        _stamp(folder.path / name)
        for name in ("config.json", "status.json", "label.json", "predictions", "STOP")
    )
    key = str(folder.path)
    known = _SUMMARIES.get(key)
    if known is None or known[0] != stamp:
        known = (stamp, folder.summary())
        _SUMMARIES[key] = known
        return known[1]
    summary = known[1]
    if summary.status.state in (STARTING, RUNNING, STOPPING):  # only the lock knows
        state = live_state(folder, summary.status)
        stalled = state in (RUNNING, STOPPING) and time.time() - summary.status.check_in_at > STALL_S
        return replace(summary, state=state, stalled=stalled)
    return summary


def _stamp(path: Path) -> tuple[int, int]:
    try:
        found = path.stat()
    except OSError:
        return (0, 0)
    return (found.st_mtime_ns, found.st_size)


def _damaged(folder: RunFolder) -> Summary:
    status = Status(
        state=UNKNOWN,
        error={
            "kind": "run",
            "message": "config.json cannot be read.",
            "remedy": "Restore it, or delete the run",
        },
    )
    return Summary(
        folder.id,
        folder.id,
        (),
        "",
        0.0,
        RunConfig(),
        status,
        UNKNOWN,
        False,
        {"level": "unknown", "verdict": "Unknown: no split was recorded."},
        (),
    )


def delete(folder: RunFolder) -> None:
    """Move a run to the trash of its runs folder; `restore` undoes it.

    Raises:
        RunError: it is being worked on.
    """
    if folder.state() in (STARTING, RUNNING, STOPPING):
        raise RunError(
            f"The run {folder.name} is being worked on",
            found=f"state {folder.state()}",
            remedy="Stop it first",
        )
    trash = folder.runs / TRASH
    trash.mkdir(exist_ok=True)
    folder.path.replace(trash / folder.id)


def restore(runs: Path, run_id: str) -> RunFolder:
    """Bring a run back from the trash.

    Raises:
        RunError: it is not in the trash.
    """
    source = Path(runs) / TRASH / run_id
    if not ID_PATTERN.fullmatch(run_id) or not source.is_dir():
        raise RunError(
            "This run is not in the trash",
            found=run_id[:80],
            remedy="The trash was emptied, or it was restored already",
        )
    source.replace(Path(runs) / run_id)
    return RunFolder(Path(runs) / run_id)


def trashed(runs: Path) -> list[str]:
    """Ids in the trash, newest first."""
    folder = Path(runs) / TRASH
    return sorted((path.name for path in folder.iterdir()), reverse=True) if folder.is_dir() else []


def empty_trash(runs: Path) -> int:
    """Delete what is in the trash for good; returns how many runs."""
    ids = trashed(runs)
    shutil.rmtree(Path(runs) / TRASH, ignore_errors=True)
    return len(ids)


def boot_id() -> str:
    """Changes with every boot of the machine; empty where the system does not tell."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


@cache
def provenance() -> dict[str, Any]:
    """Python, packages, git commit, machine: enough to know later what made a result."""
    versions = {}
    for package in PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[package] = metadata.version(package)
    return {
        "python": platform.python_version(),
        "packages": versions,
        "git_commit": _git_commit(),
        "machine": platform.platform(),
        "cores": os.cpu_count(),
    }


def _git_commit() -> str:
    try:
        command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
        return subprocess.run(command, capture_output=True, text=True, timeout=5, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""
