"""THE CONTRACT: a run is a folder, and anyone with pandas can read it.

    config.json           launcher, once     the configuration, provenance, split hash, leakage audit
    manifest.csv          launcher, once     the images and their split (see engine.data.manifest)
    status.json           launcher, then the worker while it holds `.lock`   state, progress, ETA, error
    label.json            the user           name, tags, notes: what may change
    estimate.json         launcher, once     minutes and memory foreseen, where they were (see engine.runs.forecast)
    metrics.jsonl         worker, appended   one row per epoch and split; the last row per key wins
    pixels.json           worker, once       how images become pixels, stain reference, images left out
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
import errno
import math
import os
import platform
import re
import secrets
import shutil
import subprocess
import time
from collections.abc import Iterable, Iterator
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
from engine.share import access

if TYPE_CHECKING:  # the supervisor reads folders in 40 MB: tables are imported where they are read
    import pandas as pd

    from engine.data.manifest import Manifest

QUEUED, STARTING, RUNNING, STOPPING = "queued", "starting", "running", "stopping"
COMPLETED, STOPPED, FAILED = "completed", "stopped", "failed"
INTERRUPTED, UNKNOWN = "interrupted", "unknown"
STATES = (QUEUED, STARTING, RUNNING, STOPPING, COMPLETED, STOPPED, FAILED, INTERRUPTED, UNKNOWN)
ACTIVE = (QUEUED, STARTING, RUNNING, STOPPING)
WORKING = (STARTING, RUNNING, STOPPING)
FINISHED = (COMPLETED, STOPPED, FAILED)
# Unknown: the status file was damaged; configuration and checkpoint still say how to go on.
RESUMABLE = (STOPPED, FAILED, INTERRUPTED, UNKNOWN)
LOCAL = "local"

ID_PATTERN = re.compile(r"\d{8}-\d{6}-[a-z0-9_]{1,60}-[0-9a-f]{4,12}")
# Importing torch on a busy machine takes up to half a minute before the worker can hold its lock.
START_GRACE_S = 90.0
STALL_S = 180.0
SPLIT_NAMES = ("train", "val", "test")
TRASH = ".trash"
NEW = ".new-"
BUSY = "busy"
NO_SPLIT = {"level": "unknown", "verdict": "Unknown: no split was recorded."}
UNREADABLE = {
    "kind": "status",
    "message": "status.json is missing or cannot be read.",
    "remedy": "Resume: it continues from its last checkpoint. Or delete the run",
}
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
    ticks: dict[str, Any] = field(default_factory=dict)
    """The check-in on a clock that nobody sets: `boot` (which one), `at` (seconds since it), `host`."""
    executor: str = LOCAL
    slot: str = ""
    submission: str = ""
    """The cluster's own id of the job, where a cluster executes the run."""
    restarts: int = 0
    """How often it was started again by itself since it last finished an epoch."""

    def moved(self, state: str, **values: Any) -> Status:
        """A copy in another state, with the change in its history."""
        now = time.time()
        history = (
            self.history if self.history and self.history[-1][0] == state else (*self.history, (state, now))
        )
        return replace(self.checked_in(), state=state, history=history, **values)

    def checked_in(self) -> Status:
        """A copy that says: alive now."""
        ticks = {"boot": boot_id(), "at": _ticks(), "host": platform.node()}
        return replace(self, check_in_at=time.time(), ticks=ticks)

    def age_s(self) -> float:
        """Seconds since the last check-in, right even when somebody set the clock meanwhile.

        Infinite when the check-in is of an earlier boot of this machine.
        """
        if self.ticks.get("boot") and self.ticks.get("host") == platform.node():
            if self.ticks["boot"] != boot_id():
                return float("inf")
            return max(0.0, _ticks() - float(self.ticks.get("at") or 0.0))
        return max(0.0, time.time() - self.check_in_at)  # another machine's: only the wall clocks compare

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
        return self.record().get("audit") or dict(NO_SPLIT)

    # -- label: what the user may change ------------------------------------------------------
    def label(self) -> dict[str, Any]:
        return self._label(self.record())

    def _label(self, record: dict[str, Any]) -> dict[str, Any]:
        stored = files.read_json(self.path / "label.json") or {}
        name = stored.get("name") or record.get("name") or self.id
        return {
            "name": str(name),
            "tags": list(stored.get("tags") or []),
            "notes": str(stored.get("notes") or ""),
        }

    def write_label(self, **changes: Any) -> None:
        """Change name, tags or notes; the id and every link stay.

        Raises:
            AccessError: whoever asks is no editor.
            RunError: the run is gone, or its folder cannot be written.
        """
        access.require_editor("rename runs")
        label = {**self.label(), **changes}
        with writing(f"The label of {self.id} cannot be written"):
            files.write_json(self.path / "label.json", label)

    @property
    def name(self) -> str:
        return self.label()["name"]

    # -- status -------------------------------------------------------------------------------
    def status(self) -> Status:
        """`status.json` as written; a missing or torn file gives state unknown."""
        record = files.read_json(self.path / "status.json")
        if record is None:
            return Status(state=UNKNOWN, error=dict(UNREADABLE))
        try:
            return Status.from_record(record)
        except (TypeError, ValueError, AttributeError):
            return Status(state=UNKNOWN, error=dict(UNREADABLE))

    def write_status(self, status: Status) -> None:
        """Replace `status.json`; only for whoever holds the lock, or has just made the folder."""
        files.write_json(self.path / "status.json", _plain(asdict(status)))

    def move(
        self,
        states: Iterable[str],
        state: str,
        *,
        wait_s: float = 1.0,
        forget_stop: bool = False,
        **values: Any,
    ) -> Status | None:
        """Move a run without a worker to another state, if it is still in one of `states`: compare and swap.

        Looked at and written under the run's lock, so that of two dashboards, a supervisor and a worker
        one wins and none overwrites what another has written meanwhile. `forget_stop` takes an earlier
        request to stop back in the same stroke.

        Returns:
            The status written; None when the run is in another state, has a worker, or is gone.

        Raises:
            RunError: the folder cannot be written.
        """
        if not self.path.is_dir():
            return None
        try:
            with self.hold(wait_s):
                status = self.status()
                if unattended_state(status) not in tuple(states):
                    return None
                moved = status.moved(state, **values)
                if forget_stop:
                    self.clear_stop()
                with writing(f"The status of {self.id} cannot be written"):
                    self.write_status(moved)
                return moved
        except RunError as error:
            if error.kind == BUSY:
                return None
            raise

    def is_alive(self) -> bool:
        """Does a worker hold the lock? Asked with a shared lock, so that ten askers do not see each other."""
        return lock_is_held(self.path / ".lock")

    def state(self) -> str:
        return live_state(self, self.status())

    @contextlib.contextmanager
    def hold(self, wait_s: float = 5.0) -> Iterator[None]:
        """Hold the run's lock: the only way to write status, metrics, predictions and checkpoints.

        Raises:
            RunError: another worker holds it (kind `busy`), or the folder cannot be written or is gone.
        """
        lock = FileLock(self.path / ".lock", timeout=wait_s, poll_interval=0.01)
        try:
            with writing(f"The lock of {self.id} cannot be taken"):
                lock.acquire()
        except Timeout as error:
            raise RunError(
                f"The run {self.id} is already being worked on",
                found="its lock is held by another process",
                remedy="Stop it first, or wait until it has ended",
                kind=BUSY,
            ) from error
        try:
            yield
        finally:
            lock.release()

    # -- stop ---------------------------------------------------------------------------------
    def request_stop(self) -> None:
        with writing(f"The run {self.id} cannot be asked to stop"):
            (self.path / "STOP").touch()

    def stop_requested(self) -> bool:
        return (self.path / "STOP").exists()

    def stop_requested_s(self) -> float | None:
        """Seconds since a stop was first asked for; None when it was not."""
        try:
            return max(0.0, time.time() - (self.path / "STOP").stat().st_mtime)
        except OSError:
            return None

    def clear_stop(self) -> None:
        with writing(f"The request to stop {self.id} cannot be taken back"):
            (self.path / "STOP").unlink(missing_ok=True)

    # -- results ------------------------------------------------------------------------------
    def append_metrics(self, row: dict[str, Any]) -> None:
        """One row per epoch and split: keys `epoch`, `split`, then numbers; NaN and infinite become null."""
        files.append_line(self.path / "metrics.jsonl", _plain(row))

    def metrics(self) -> pd.DataFrame:
        """Epoch metrics, the last row per (epoch, split); empty before the first epoch has ended."""
        import pandas as pd

        rows = {
            (row.get("epoch"), row.get("split")): row for row in files.read_lines(self.path / "metrics.jsonl")
        }
        table = pd.DataFrame(list(rows.values()))
        return table.sort_values(["split", "epoch"], ignore_index=True) if not table.empty else table

    def write_pixels(self, record: dict[str, Any]) -> None:
        files.write_json(self.path / "pixels.json", record)

    def pixels(self) -> dict[str, Any] | None:
        """`preprocessing`, `images`, `left_out` (image_id, kind, message) and `not_normalised` (image_ids); None
        before images were packed, and for runs that have none."""
        return files.read_json(self.path / "pixels.json")

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
        try:
            there = set(os.listdir(self.path / "predictions"))  # noqa: PTH208 - one call: asked for 1,000 runs
        except OSError:
            return ()
        return tuple(name for name in SPLIT_NAMES if f"{name}.csv" in there)

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
        record, status = self.record(), self.status()
        label = self._label(record)
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
            stalled=state in (RUNNING, STOPPING) and status.age_s() > STALL_S,
            audit=record.get("audit") or dict(NO_SPLIT),
            has_predictions=self.predicted_splits(),
        )


def _plain(value: Any) -> Any:
    """What JSON can hold: a loss that is no number is null, a number of numpy or torch is a number."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if hasattr(value, "item") and not isinstance(value, bool | int | float):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


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
    except OSError as error:
        return error.errno in (errno.EAGAIN, errno.EWOULDBLOCK, errno.EACCES)
    finally:
        os.close(handle)
    return False


def live_state(folder: RunFolder, status: Status) -> str:
    """The state as it is now: what the file says, unless the lock says that the worker is gone."""
    if status.state not in WORKING:
        return status.state
    if folder.is_alive():
        return STOPPING if status.state == RUNNING and folder.stop_requested() else status.state
    return unattended_state(folder.status())  # read again: it may have ended between the two looks


def unattended_state(status: Status) -> str:
    """What a status means when nobody holds the run's lock."""
    if status.state not in WORKING:
        return status.state
    if status.state == STARTING:
        if status.age_s() < START_GRACE_S:
            return STARTING
        # A cluster may keep a job waiting for as long as it likes; only its head can say more.
        return INTERRUPTED if status.executor == LOCAL else UNKNOWN
    return INTERRUPTED


@contextlib.contextmanager
def writing(what: str) -> Iterator[None]:
    """What a person asked for and the file system refused, as a RunError that says why and what to do.

    Raises:
        RunError: kind `disk_full`, `read_only`, `gone` or `run`.
    """
    try:
        yield
    except Timeout:
        raise
    except OSError as error:
        kind, remedy = _REFUSALS.get(error.errno or 0, ("run", "See that the runs folder can be written"))
        place = f": {error.filename}" if error.filename else ""
        raise RunError(what, found=f"{error.strerror or error}{place}", remedy=remedy, kind=kind) from error


_READ_ONLY = ("read_only", "Results can still be read; to change them, give this user write access")
_REFUSALS = {
    errno.ENOSPC: ("disk_full", "Free disk space, then try again; nothing was lost"),
    errno.EDQUOT: ("disk_full", "Free disk space or raise the quota, then try again; nothing was lost"),
    errno.EROFS: _READ_ONLY,
    errno.EACCES: _READ_ONLY,
    errno.EPERM: _READ_ONLY,
    errno.ENOENT: ("gone", "It was deleted: restore it from the trash"),
}


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
    """Make a run folder. It is written under a hidden name and renamed: what is seen is complete.

    Raises:
        RunError: the runs folder cannot be written; nothing is then left behind.
    """
    runs = Path(runs)
    with writing("The runs folder cannot be written"):
        runs.mkdir(parents=True, exist_ok=True)
        while True:
            target = runs / new_id(slug)
            hidden = runs / f"{NEW}{target.name}"
            if target.exists():
                continue
            try:
                hidden.mkdir()
                break
            except FileExistsError:
                continue
        try:
            record = {
                **config.to_record(),
                "id": target.name,
                "created_at": time.time(),
                "split_hash": split_hash,
                "audit": audit or dict(NO_SPLIT),
                "provenance": provenance(),
            }
            files.write_json(hidden / "config.json", record)
            if manifest is not None:
                from engine.data.manifest import write_manifest

                write_manifest(manifest, hidden / "manifest.csv")
                _flush(hidden / "manifest.csv")
            RunFolder(hidden).write_status(status or Status().moved(QUEUED))
            hidden.rename(target)
        except BaseException:
            shutil.rmtree(hidden, ignore_errors=True)
            raise
        files.sync_folder(runs)
    return RunFolder(target)


def _flush(path: Path) -> None:
    with open(path, "rb+") as file:
        os.fsync(file.fileno())


def sweep(runs: Path, older_s: float = 3600.0) -> int:
    """Remove run folders that a kill left half-made, and temporary files in the runs folder; returns how many."""
    gone = 0
    for path in [*Path(runs).glob(f"{NEW}*"), *Path(runs).glob(".*.tmp")]:
        with contextlib.suppress(OSError):
            if time.time() - path.lstat().st_mtime > older_s:
                shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
                gone += 1
    return gone


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
    root = Path(runs)
    return [RunFolder(root / name) for name in _run_names(root) if (root / name / "config.json").exists()]


def _run_names(runs: Path) -> list[str]:
    try:
        with os.scandir(runs) as entries:
            names = [
                entry.name
                for entry in entries
                if ID_PATTERN.fullmatch(entry.name) and entry.is_dir(follow_symlinks=False)
            ]
    except OSError:
        return []
    return sorted(names, reverse=True)


def summaries(runs: Path) -> list[Summary]:
    """A summary per run, newest first; a damaged run is shown as unknown rather than hiding the others.

    1,000 runs: 30 ms of one core when nothing has changed (three stats a run), 0.5 s the first time in a
    process. Files are replaced, never rewritten, so a change of any of them shows in its folder.
    """
    root = str(Path(runs))
    known = _SUMMARIES.setdefault(root, {})
    fresh: dict[str, tuple[tuple, Summary]] = {}
    found = []
    for name in _run_names(Path(runs)):
        path = f"{root}/{name}"
        stamp = _stamps(path)
        entry = known.get(name)
        if entry is not None and entry[0] == stamp:
            found.append(_as_of_now(entry[1], path))
        elif os.path.exists(f"{path}/config.json"):  # noqa: PTH110 - as below; otherwise it is no run
            entry = (stamp, _summary(RunFolder(Path(path))))
            found.append(entry[1])
        else:
            continue
        fresh[name] = entry
    _SUMMARIES[root] = fresh  # replaced whole: deleted runs are forgotten, other threads see old or new
    return found


_SUMMARIES: dict[str, dict[str, tuple[tuple, Summary]]] = {}
# The folder itself, the file that changes most (another inode even within one tick of the clock), and the
# folder in it.
_STAMPED = ("", "/status.json", "/predictions")


def _stamps(path: str) -> tuple:
    """What tells whether a summary is still right."""
    found = []
    for name in _STAMPED:
        try:
            stat = os.stat(path + name)  # noqa: PTH116 - three for each of 1,000 runs: paths cost 20 ms
            found.append((stat.st_mtime_ns, stat.st_size, stat.st_ino))
        except OSError:
            found.append(None)
    return tuple(found)


def _summary(folder: RunFolder) -> Summary:
    try:
        return folder.summary()
    except Exception:  # a damaged folder must not hide the others
        return _damaged(folder)


def _as_of_now(summary: Summary, path: str) -> Summary:
    """A remembered summary; whether a worker is alive only the lock knows."""
    if summary.status.state not in WORKING:
        return summary
    state = live_state(RunFolder(Path(path)), summary.status)
    stalled = state in (RUNNING, STOPPING) and summary.status.age_s() > STALL_S
    return replace(summary, state=state, stalled=stalled)


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
        dict(NO_SPLIT),
        (),
    )


def delete(folder: RunFolder) -> None:
    """Move a run to the trash of its runs folder; `restore` undoes it.

    Raises:
        AccessError: whoever asks is no editor.
        RunError: it is being worked on, gone already, or the folder cannot be written.
    """
    who = access.require_editor("delete runs")
    with folder.hold(1.0):  # no worker can begin in the middle of the move
        state = unattended_state(folder.status())
        if state in WORKING:
            raise RunError(
                f"The run {folder.name} is being worked on", found=f"state {state}", remedy="Stop it first"
            )
        with writing(f"The run {folder.id} cannot be moved to the trash"):
            trash = folder.runs / TRASH
            trash.mkdir(exist_ok=True)
            folder.path.replace(trash / folder.id)
    access.log(folder.runs, "delete", folder.id, who)


def restore(runs: Path, run_id: str) -> RunFolder:
    """Bring a run back from the trash.

    Raises:
        AccessError: whoever asks is no editor.
        RunError: it is not in the trash, or the folder cannot be written.
    """
    who = access.require_editor("restore runs")
    source = Path(runs) / TRASH / run_id
    if not ID_PATTERN.fullmatch(run_id) or not source.is_dir():
        raise RunError(
            "This run is not in the trash",
            found=run_id[:80],
            remedy="The trash was emptied, or it was restored already",
        )
    with writing(f"The run {run_id} cannot be brought back"):
        source.replace(Path(runs) / run_id)
    access.log(Path(runs), "restore", run_id, who)
    return RunFolder(Path(runs) / run_id)


def trashed(runs: Path) -> list[str]:
    """Ids in the trash, newest first."""
    folder = Path(runs) / TRASH
    return sorted((path.name for path in folder.iterdir()), reverse=True) if folder.is_dir() else []


def empty_trash(runs: Path) -> int:
    """Delete what is in the trash for good; returns how many runs."""
    who = access.require_editor("empty the trash")
    ids = trashed(runs)
    shutil.rmtree(Path(runs) / TRASH, ignore_errors=True)
    access.log(Path(runs), "empty trash", ",".join(ids), who)
    return len(ids)


def boot_id() -> str:
    """Changes with every boot of the machine; empty where the system does not tell."""
    return _boot_id()


@cache
def _boot_id() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def _ticks() -> float:
    """Seconds since the machine started, the time asleep included; nobody sets this clock."""
    try:
        return time.clock_gettime(time.CLOCK_BOOTTIME)
    except (AttributeError, OSError):
        return time.monotonic()


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
