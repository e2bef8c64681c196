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
import re
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from engine import files
from engine.errors import RunError
from engine.runs.config import RunConfig
from engine.runs.status import (
    RUNNING,
    STOPPING,
    UNKNOWN,
    UNREADABLE,
    WORKING,
    Status,
    unattended_state,
)
from engine.share import access

if TYPE_CHECKING:  # the supervisor reads folders in 40 MB: tables are imported where they are read
    import pandas as pd

    from engine.data.manifest import Manifest


ID_PATTERN = re.compile(r"\d{8}-\d{6}-[a-z0-9_]{1,60}-[0-9a-f]{4,12}")
SPLIT_NAMES = ("train", "val", "test")
TRASH = ".trash"
BUSY = "busy"
NO_SPLIT = {"level": "unknown", "verdict": "Unknown: no split was recorded."}


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
        return self._label(self.record(), files.read_json(self.path / "label.json"))

    def _label(self, record: dict[str, Any], stored: dict[str, Any] | None) -> dict[str, Any]:
        stored = stored or {}
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
        return _status(files.read_json(self.path / "status.json"))

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

    def facts(self) -> dict[str, Any]:
        """What its files say, as far as a list shows it: `record`, `label`, `status` (None where it cannot be read),
        and the splits it has `predictions` for.

        Raises:
            RunError: config.json cannot be read.
        """
        record = self.record()
        record.pop("provenance", None)
        return {
            "record": record,
            "label": files.read_json(self.path / "label.json"),
            "status": files.read_json(self.path / "status.json"),
            "predictions": self.predicted_splits(),
        }

    def summary(self, facts: dict[str, Any] | None = None) -> Summary:
        """What a list shows, from its files or from what they said when they were last read.

        Raises:
            RunError: the folder is no run.
            ConfigError: its configuration is not one that this version reads.
        """
        told = facts or self.facts()
        record, status = told["record"], _status(told["status"])
        label = self._label(record, told["label"])
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
            stalled=status.stalls(state),
            audit=record.get("audit") or dict(NO_SPLIT),
            has_predictions=tuple(told["predictions"]),
        )


def _status(record: dict[str, Any] | None) -> Status:
    """A status as it was written; unknown where the file is missing, torn or edited into nonsense."""
    with contextlib.suppress(TypeError, ValueError, AttributeError):
        if record is not None:
            return Status.from_record(record)
    return Status(state=UNKNOWN, error=dict(UNREADABLE))


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
    errno.ENOTEMPTY: (
        "exists",
        "A run of this id is there already: empty the trash, or delete that run, first",
    ),
}


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
    names = {folder.id: _name_or_id(folder) for folder in run_folders(runs)} if runs.is_dir() else {}
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


def _name_or_id(folder: RunFolder) -> str:
    try:
        return folder.name
    except RunError:  # a damaged folder has no name, and must not hide the others
        return folder.id


def run_folders(runs: Path) -> list[RunFolder]:
    """Every run in a folder, newest first; anything else in it is passed over."""
    root = Path(runs)
    return [RunFolder(root / name) for name in run_names(root) if (root / name / "config.json").exists()]


def run_names(runs: Path) -> list[str]:
    """The folders that are named like runs, newest first."""
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
