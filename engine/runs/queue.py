"""The queue of one runs folder: SQLite (WAL), rebuilt from the folders whenever it is damaged.

A row per waiting or claimed run. Claiming is `BEGIN IMMEDIATE` + `UPDATE ... RETURNING`, so that two
dashboards, a command line and a supervisor never start one run twice. Imports nothing heavy: the
supervisor lives on this module.
"""

from __future__ import annotations

import contextlib
import sqlite3
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from engine.runs.folder import QUEUED, RunFolder, run_folders

FILE = ".queue.sqlite"
SCHEMA = """
CREATE TABLE IF NOT EXISTS queue (
    run_id TEXT PRIMARY KEY,
    position REAL NOT NULL,
    held INTEGER NOT NULL DEFAULT 0,
    slot TEXT,
    claimed_at REAL
)"""


@dataclass(frozen=True)
class Entry:
    """A run in the queue: its place, whether it is held back, and the slot it was claimed for."""

    run_id: str
    position: float
    held: bool
    slot: str | None


class Queue:
    """The queue of a runs folder. Cheap to make; every call opens and closes its own connection."""

    def __init__(self, runs: Path):
        self.runs = Path(runs)
        self.file = self.runs / FILE

    @contextlib.contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        try:
            connection = self._connect()
        except sqlite3.DatabaseError:
            self._set_aside()
            connection = self._connect()
            self._rebuild(connection)
        try:
            yield connection
        finally:
            connection.close()

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self.file, timeout=30, isolation_level=None)
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute(SCHEMA)
            if connection.execute("PRAGMA quick_check").fetchone()[0] != "ok":
                raise sqlite3.DatabaseError("quick_check failed")
        except sqlite3.DatabaseError:
            connection.close()
            raise
        return connection

    def _set_aside(self) -> None:
        """A damaged file is kept for whoever wants to look, under another name."""
        for suffix in ("", "-wal", "-shm"):
            source = Path(f"{self.file}{suffix}")
            with contextlib.suppress(OSError):
                source.replace(f"{self.file}.damaged{suffix}")

    def _rebuild(self, connection: sqlite3.Connection) -> None:
        """Everything a folder calls queued waits again, oldest first: ids sort by time."""
        waiting = sorted(folder.id for folder in run_folders(self.runs) if folder.status().state == QUEUED)
        rows = [(run_id, float(place)) for place, run_id in enumerate(waiting)]
        connection.executemany("INSERT OR IGNORE INTO queue (run_id, position) VALUES (?, ?)", rows)

    def add(self, run_id: str) -> None:
        """Put a run at the end; a run that is already there keeps its place."""
        with self._open() as connection:
            connection.execute(
                "INSERT OR IGNORE INTO queue (run_id, position) VALUES (?, (SELECT COALESCE(MAX(position), 0) + 1 FROM queue))",
                (run_id,),
            )

    def remove(self, run_id: str) -> bool:
        """Take a run out; False when it was not there."""
        with self._open() as connection:
            return connection.execute("DELETE FROM queue WHERE run_id = ?", (run_id,)).rowcount > 0

    def withdraw(self, run_id: str) -> bool:
        """Take a run out that nobody has claimed yet; False when it is too late or it was not there."""
        with self._open() as connection:
            return (
                connection.execute("DELETE FROM queue WHERE run_id = ? AND slot IS NULL", (run_id,)).rowcount
                > 0
            )

    def hold(self, run_id: str, held: bool = True) -> None:
        """Hold a waiting run back, or let it go."""
        with self._open() as connection:
            connection.execute("UPDATE queue SET held = ? WHERE run_id = ?", (int(held), run_id))

    def move(self, run_id: str, place: int) -> None:
        """Put a waiting run at a place: 0 is next."""
        with self._open() as connection:
            connection.execute("BEGIN IMMEDIATE")
            rows = connection.execute(
                "SELECT run_id FROM queue WHERE slot IS NULL ORDER BY position"
            ).fetchall()
            order = [row[0] for row in rows if row[0] != run_id]
            if len(order) < len(rows):
                order.insert(max(0, min(place, len(order))), run_id)
                connection.executemany(
                    "UPDATE queue SET position = ? WHERE run_id = ?",
                    [(float(index), name) for index, name in enumerate(order)],
                )
            connection.execute("COMMIT")

    def entries(self) -> list[Entry]:
        """Everything in the queue, claimed first, then in the order in which it will start."""
        with self._open() as connection:
            rows = connection.execute(
                "SELECT run_id, position, held, slot FROM queue ORDER BY slot IS NULL, position"
            ).fetchall()
        return [Entry(run_id, position, bool(held), slot) for run_id, position, held, slot in rows]

    def claim(self, slot: str) -> str | None:
        """Take the next run for a slot; None when nothing waits. No two callers get the same run."""
        with self._open() as connection:
            connection.execute("BEGIN IMMEDIATE")
            row = connection.execute(
                "UPDATE queue SET slot = ?, claimed_at = ? WHERE run_id = "
                "(SELECT run_id FROM queue WHERE slot IS NULL AND held = 0 ORDER BY position LIMIT 1) RETURNING run_id",
                (slot, time.time()),
            ).fetchone()
            connection.execute("COMMIT")
        return row[0] if row else None


def folder_of(runs: Path, run_id: str) -> RunFolder:
    """The folder of a queue entry; entries come from `launch`, which checked the id."""
    return RunFolder(Path(runs) / run_id)
