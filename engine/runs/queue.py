"""The queue of one runs folder: SQLite, rebuilt from the folders whenever it is damaged.

A row per waiting or claimed run. Claiming is `BEGIN IMMEDIATE` + `UPDATE ... RETURNING`, so that two
dashboards, a command line and a supervisor never start one run twice. The folders are the truth: a row
that is lost is made again (`reconcile`), a row too many is dropped when its run turns out not to wait.
What people decided and no folder knows (order, holds, priorities) is kept beside the database in
`.queue.order.json`, written with every change, and comes back with the rows.
Imports nothing heavy: the supervisor lives on this module.
"""

from __future__ import annotations

import contextlib
import sqlite3
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from filelock import FileLock, Timeout

from engine import files
from engine.errors import RunError
from engine.runs import database
from engine.runs.folder import RunFolder, run_folders, writing
from engine.runs.status import LOCAL, QUEUED, WORKING, Status
from engine.share import access

FILE = ".queue.sqlite"
REBUILD_LOCK = ".queue.lock"
SETTINGS = ".queue.json"
ORDER_FILE = ".queue.order.json"
VERSION = 2
SCHEMA = """
CREATE TABLE IF NOT EXISTS queue (
    run_id TEXT PRIMARY KEY,
    position REAL NOT NULL,
    held INTEGER NOT NULL DEFAULT 0,
    slot TEXT,
    claimed_at REAL,
    priority INTEGER NOT NULL DEFAULT 0,
    wants TEXT NOT NULL DEFAULT 'auto'
)"""
# What version 1 did not have.
ADDED = {"priority": "INTEGER NOT NULL DEFAULT 0", "wants": "TEXT NOT NULL DEFAULT 'auto'"}
FILL = """
INSERT OR IGNORE INTO queue (run_id, position, slot, claimed_at, wants, held, priority)
VALUES (?, (SELECT COALESCE(MAX(position), 0) + 1 FROM queue), ?, ?, ?, ?, ?)"""
ORDER = "priority DESC, position"
BUSY_S = 30.0

T = TypeVar("T")


@dataclass(frozen=True)
class Entry:
    """A run in the queue: its place, whether it is held back, and the slot it was claimed for.

    `wants` is what may execute it: `auto`, `cpu`, `cuda`, `cuda:<index>` on this machine, or `ray`.
    """

    run_id: str
    position: float
    held: bool
    slot: str | None
    priority: int = 0
    wants: str = "auto"
    claimed_at: float | None = None


@dataclass(frozen=True)
class Settings:
    """How the queue of a runs folder is worked off; kept in `.queue.json` beside it."""

    auto_resume: bool = False
    """Put interrupted runs back into the queue by themselves."""
    max_restarts: int = 3
    """... at most so often without an epoch finished in between: what kills itself each time stays down."""


class Queue:
    """The queue of a runs folder. Cheap to make; every call opens and closes its own connection.

    Every method raises RunError (kinds `read_only`, `disk_full`, `queue`) when the file cannot be used.
    """

    def __init__(self, runs: Path):
        self.runs = Path(runs)
        self.file = self.runs / FILE

    # -- what is done with it -----------------------------------------------------------------
    def add(self, run_id: str, *, wants: str = "auto", priority: int = 0) -> None:
        """Put a run at the end; a run that waits already keeps its place.

        A row that is still claimed belongs to the worker before (it has just ended, nobody has looked yet):
        it becomes a waiting one, or the run would be forgotten with it.
        """

        def work(connection: sqlite3.Connection) -> None:
            connection.execute(
                "INSERT INTO queue (run_id, position, wants, priority) "
                "VALUES (?, (SELECT COALESCE(MAX(position), 0) + 1 FROM queue), ?, ?) "
                "ON CONFLICT (run_id) DO UPDATE SET slot = NULL, claimed_at = NULL, held = 0, "
                "position = excluded.position, wants = excluded.wants WHERE slot IS NOT NULL",
                (run_id, wants, priority),
            )

        self._do(work)

    def remove(self, run_id: str) -> bool:
        """Take a run out; False when it was not there."""
        return self._do(
            lambda connection: (
                connection.execute("DELETE FROM queue WHERE run_id = ?", (run_id,)).rowcount > 0
            )
        )

    def settle(self, entry: Entry) -> bool:
        """Take a claimed run out, if the claim is still this one (it may have been queued again since)."""
        return self._do(
            lambda connection: (
                connection.execute(
                    "DELETE FROM queue WHERE run_id = ? AND claimed_at = ?", (entry.run_id, entry.claimed_at)
                ).rowcount
                > 0
            )
        )

    def withdraw(self, run_id: str) -> bool:
        """Take a run out that nobody has claimed yet; False when it is too late or it was not there."""
        return self._do(
            lambda connection: (
                connection.execute("DELETE FROM queue WHERE run_id = ? AND slot IS NULL", (run_id,)).rowcount
                > 0
            )
        )

    def release(self, run_id: str) -> None:
        """Give a claim back: the run waits again, at its old place."""
        self._do(
            lambda connection: connection.execute(
                "UPDATE queue SET slot = NULL, claimed_at = NULL WHERE run_id = ?", (run_id,)
            )
        )

    def hold(self, run_id: str, held: bool = True) -> None:
        """Hold a waiting run back, or let it go (`launch.release` also sees that somebody starts it)."""
        access.require_editor("change the queue")
        self._do(
            lambda connection: connection.execute(
                "UPDATE queue SET held = ? WHERE run_id = ?", (int(held), run_id)
            )
        )

    def prioritize(self, run_id: str, priority: int) -> None:
        """Runs of higher priority start first, whatever their place; 0 unless given."""
        access.require_editor("change the queue")
        self._do(
            lambda connection: connection.execute(
                "UPDATE queue SET priority = ? WHERE run_id = ?", (int(priority), run_id)
            )
        )

    def move(self, run_id: str, place: int) -> None:
        """Put a waiting run at a place: 0 is next. It takes the priority of whoever is there."""
        access.require_editor("change the queue")

        def work(connection: sqlite3.Connection) -> None:
            rows = connection.execute(
                f"SELECT run_id, priority FROM queue WHERE slot IS NULL ORDER BY {ORDER}"  # nosec B608 - a constant
            ).fetchall()
            order = [row[0] for row in rows if row[0] != run_id]
            if len(order) == len(rows):
                return
            at = max(0, min(place, len(order)))
            order.insert(at, run_id)
            connection.executemany(
                "UPDATE queue SET position = ? WHERE run_id = ?",
                [(float(index), name) for index, name in enumerate(order)],
            )
            connection.execute("UPDATE queue SET priority = ? WHERE run_id = ?", (rows[at][1], run_id))

        self._do(work)

    def claim(self, slot: str, wants: Iterable[str] | None = None) -> str | None:
        """Take the next run for a slot; None when nothing waits. No two callers get the same run.

        Args:
            slot: `cpu/0`, `gpu/<uuid>`, `ray/<n>`.
            wants: the wishes that this slot serves; all of them unless given.
        """

        def work(connection: sqlite3.Connection) -> str | None:
            served = list(wants) if wants is not None else []
            which = f"AND wants IN ({','.join('?' * len(served))})" if wants is not None else ""
            row = connection.execute(
                "UPDATE queue SET slot = ?, claimed_at = ? WHERE run_id = "  # nosec B608 - constants
                f"(SELECT run_id FROM queue WHERE slot IS NULL AND held = 0 {which} ORDER BY {ORDER} LIMIT 1) "
                "RETURNING run_id",
                (slot, time.time(), *served),
            ).fetchone()
            return row[0] if row else None

        return self._do(work)

    def entries(self) -> list[Entry]:
        """Everything in the queue, claimed first, then in the order in which it will start.

        A runs folder that cannot be written can still be looked at: then as it was last written.
        """
        with writing("The queue cannot be looked at"):
            if not self.file.exists() and not (self.runs / ORDER_FILE).exists():
                return []
        try:
            return self._do(_entries, begin="BEGIN")
        except RunError as error:
            if error.kind != "read_only":
                raise
            return self._entries_untouched()

    def _entries_untouched(self) -> list[Entry]:
        with contextlib.suppress(sqlite3.Error):
            source = f"{self.file.resolve().as_uri()}?mode=ro&immutable=1"
            with contextlib.closing(sqlite3.connect(source, uri=True)) as connection:
                return _entries(connection)
        return []

    def reconcile(self) -> list[str]:
        """Put back what the folders know and no row does: a launcher was killed in between, a file removed.

        Returns:
            The ids that were missing.
        """
        known = {entry.run_id for entry in self.entries()}
        missing = [row for row in self._rows() if row[0] not in known]
        if missing:
            self._do(lambda connection: self._fill(connection, missing))
        return [row[0] for row in missing]

    def _rows(self) -> list[tuple]:
        """What the folders say: queued runs wait, oldest first (ids sort by time); what works has its slot."""
        rows: list[tuple] = []
        for folder in reversed(run_folders(self.runs)):
            status = folder.status()
            if status.state == QUEUED:
                rows.append((folder.id, None, None, wanted(folder, status)))
            elif status.state in WORKING and status.slot and folder.is_alive():
                rows.append((folder.id, status.slot, time.time(), wanted(folder, status)))
        return rows

    # -- what people decided ------------------------------------------------------------------
    def _keep_order(self, connection: sqlite3.Connection) -> None:
        """Write down order, holds and priorities; inside the transaction, so that the last writer is right."""
        rows = connection.execute("SELECT run_id, held, priority FROM queue ORDER BY position").fetchall()
        record = [
            {"run_id": run_id, "held": bool(held), "priority": priority} for run_id, held, priority in rows
        ]
        with contextlib.suppress(OSError):  # a full disk: the queue itself goes on, the next change writes it
            files.write_json(self.runs / ORDER_FILE, {"runs": record})

    def _kept_order(self) -> dict[str, tuple[bool, int]]:
        """Hold and priority per run, in the order kept; what is torn or was edited into nonsense is left out."""
        record = (files.read_json(self.runs / ORDER_FILE) or {}).get("runs")
        kept: dict[str, tuple[bool, int]] = {}
        for row in record if isinstance(record, list) else ():
            if isinstance(row, dict) and isinstance(row.get("run_id"), str):
                priority = row.get("priority")
                kept[row["run_id"]] = (row.get("held") is True, priority if isinstance(priority, int) else 0)
        return kept

    def _fill(self, connection: sqlite3.Connection, rows: list[tuple]) -> None:
        """Insert rows that were lost: at their place, held and with the priority they had; new ones at the end."""
        kept = self._kept_order()
        connection.executemany(FILL, [(*row, *kept.get(row[0], (False, 0))) for row in rows])
        if not any(row[0] in kept for row in rows):
            return
        place = {run_id: index for index, run_id in enumerate(kept)}
        order = [row[0] for row in connection.execute("SELECT run_id FROM queue ORDER BY position")]
        order.sort(key=lambda run_id: place.get(run_id, len(place)))  # stable: new ones keep theirs
        connection.executemany(
            "UPDATE queue SET position = ? WHERE run_id = ?",
            [(float(index), run_id) for index, run_id in enumerate(order)],
        )

    # -- settings -----------------------------------------------------------------------------
    def settings(self) -> Settings:
        record = files.read_json(self.runs / SETTINGS) or {}
        restarts = record.get("max_restarts", Settings.max_restarts)
        return Settings(
            auto_resume=record.get("auto_resume") is True,
            max_restarts=restarts if isinstance(restarts, int) else Settings.max_restarts,
        )

    def write_settings(self, settings: Settings) -> None:
        access.require_editor("change the queue")
        record = {name: getattr(settings, name) for name in Settings.__dataclass_fields__}
        with writing("The settings of the queue cannot be written"):
            files.write_json(self.runs / SETTINGS, record)

    # -- the file -----------------------------------------------------------------------------
    def _do(self, work: Callable[[sqlite3.Connection], T], begin: str = "BEGIN IMMEDIATE") -> T:
        """One transaction; a damaged file is rebuilt and the work done once more."""
        try:
            return self._transact(work, begin)
        except sqlite3.DatabaseError as error:
            if not database.is_damage(error):
                raise self._refusal(error) from error
        self._rebuild()
        try:
            return self._transact(work, begin)
        except sqlite3.DatabaseError as error:
            raise self._refusal(error) from error

    def _transact(self, work: Callable[[sqlite3.Connection], T], begin: str = "BEGIN IMMEDIATE") -> T:
        with contextlib.closing(self._connect()) as connection:
            with database.transaction(connection, begin):
                answer = work(connection)
                if connection.total_changes:
                    self._keep_order(connection)
            return answer

    def _connect(self) -> sqlite3.Connection:
        connection = database.connect(self.file, BUSY_S)
        try:
            if connection.execute("PRAGMA quick_check").fetchone()[0] != "ok":
                raise database.Damaged("quick_check failed")
            if connection.execute("PRAGMA user_version").fetchone()[0] < VERSION:
                self._make_tables(connection)
        except sqlite3.DatabaseError:
            connection.close()
            raise
        return connection

    def _make_tables(self, connection: sqlite3.Connection) -> None:
        connection.execute(f"PRAGMA journal_mode={'DELETE' if database.on_network(self.runs) else 'WAL'}")
        with database.transaction(connection):
            is_new = not connection.execute("PRAGMA table_info(queue)").fetchall()
            connection.execute(SCHEMA)
            there = {row[1] for row in connection.execute("PRAGMA table_info(queue)")}
            for name, kind in ADDED.items():
                if name not in there:
                    connection.execute(f"ALTER TABLE queue ADD COLUMN {name} {kind}")
            if is_new and (kept := self._kept_order()):  # somebody's file is gone: before anything is added
                self._fill(connection, [row for row in self._rows() if row[0] in kept])
            connection.execute(f"PRAGMA user_version = {VERSION}")

    def _refusal(self, error: sqlite3.DatabaseError) -> RunError:
        """Why SQLite would not, in the words of the error tree. A lock or a full disk is no damage."""
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        kind, remedy = {
            sqlite3.SQLITE_READONLY: ("read_only", "Give this user write access to the runs folder"),
            sqlite3.SQLITE_CANTOPEN: ("read_only", "Give this user write access to the runs folder"),
            sqlite3.SQLITE_PERM: ("read_only", "Give this user write access to the runs folder"),
            sqlite3.SQLITE_FULL: ("disk_full", "Free disk space, then try again; nothing was lost"),
            sqlite3.SQLITE_BUSY: ("queue", "Another process keeps the queue busy: try again"),
        }.get(
            code, ("queue", "Try again; if it stays, move the file away: it is rebuilt from the run folders")
        )
        return RunError("The queue cannot be used", found=f"{error}: {self.file}", remedy=remedy, kind=kind)

    def _rebuild(self) -> None:
        """Set the damaged file aside and fill a new one from the folders; one process does it, once."""
        try:
            with FileLock(self.runs / REBUILD_LOCK, timeout=BUSY_S):
                try:
                    self._transact(_entries, "BEGIN")
                    return  # whoever held the lock before us has done it
                except sqlite3.DatabaseError as error:
                    if not database.is_damage(error):
                        raise self._refusal(error) from error
                for part in database.parts(self.file):  # kept for whoever wants to look
                    with contextlib.suppress(OSError):
                        part.replace(f"{self.file}.damaged{part.name.removeprefix(self.file.name)}")
                rows = self._rows()
                self._transact(lambda connection: self._fill(connection, rows))
        except (OSError, Timeout) as error:
            raise RunError(
                "The queue is damaged and cannot be rebuilt",
                found=str(error),
                remedy="See that the runs folder can be written",
                kind="queue",
            ) from error


def _entries(connection: sqlite3.Connection) -> list[Entry]:
    rows = connection.execute(
        "SELECT run_id, position, held, slot, priority, wants, claimed_at FROM queue "  # nosec B608 - a constant
        f"ORDER BY slot IS NULL, {ORDER}"
    ).fetchall()
    return [
        Entry(run_id, position, bool(held), slot, priority, wants, claimed_at)
        for run_id, position, held, slot, priority, wants, claimed_at in rows
    ]


def wanted(folder: RunFolder, status: Status | None = None) -> str:
    """What may execute a run: its device on this machine, or the name of another executor."""
    executor = (status or folder.status()).executor
    if executor != LOCAL:
        return executor
    try:
        return folder.config().training.device
    except Exception:  # a damaged configuration: whoever starts it will say so
        return "auto"


def requeue(folder: RunFolder, states: Iterable[str], *, forget_stop: bool = False, **values: Any) -> bool:
    """Let a run without a worker wait again, if it is in one of these states; `values` go into its status.

    Returns:
        False when somebody else was faster, or it has a worker.

    Raises:
        RunError: the folder or the queue cannot be written.
    """
    fresh = {"error": None, "ended_at": None, "slot": "", "submission": "", "eta_s": None}
    moved = folder.move(states, QUEUED, forget_stop=forget_stop, **{**fresh, **values})
    if moved is None:
        return False
    Queue(folder.runs).add(folder.id, wants=wanted(folder, moved))
    return True
