"""The index of runs: what the files of many run folders said, so that a new process need not read them again.

One SQLite file in this user's cache folder (`BREAKHIS_CACHE`), whatever runs folders there are:

- it is a cache: whoever deletes it loses nothing, and it is not copied along with a runs folder;
- it works for runs folders that are read-only or on a network share, where reading again costs most;
- its write-ahead log needs a local disk: where the cache folder is none, or cannot be written, there is no index,
  and every process reads the folders once.

A row is only as good as its stamps: whoever reads compares them with the files (`engine.runs.listing`), and a
checksum tells a row that was damaged on disk. A file that is damaged, locked, full or of another version is
never an error: what it would have said is read from the folders again.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path

from engine.data.cache_room import default_cache_dir
from engine.runs import database

FILE = "runs-index.sqlite"
VERSION = 1
SCHEMA = (
    "CREATE TABLE IF NOT EXISTS runs_folder (id INTEGER PRIMARY KEY, path TEXT NOT NULL UNIQUE)",
    "CREATE TABLE IF NOT EXISTS run (folder INTEGER NOT NULL, run_id TEXT NOT NULL, stamps TEXT NOT NULL, "
    "facts TEXT NOT NULL, checksum INTEGER NOT NULL, PRIMARY KEY (folder, run_id))",
)
# A list is drawn meanwhile: whoever finds the file locked reads the folders instead.
BUSY_S = 0.5

Row = tuple[str, str]
"""`stamps`, `facts`: how the files of a run looked when they were read, and what they said (JSON)."""


class Index:
    """Rows per runs folder. Cheap to make; every call opens and closes its own connection, none raises."""

    def __init__(self, folder: Path | None = None):
        self.file = (folder or default_cache_dir()) / FILE

    def read(self, runs: Path) -> dict[str, Row]:
        """The rows of a runs folder by run id; empty where there is no index."""
        path = str(Path(runs).resolve())
        rows: dict[str, Row] = {}
        with self._errors_forgotten():
            if not self.file.is_file():
                return {}
            with contextlib.closing(self._connect()) as connection:
                found = connection.execute(
                    "SELECT run_id, stamps, facts, checksum FROM run "
                    "WHERE folder = (SELECT id FROM runs_folder WHERE path = ?)",
                    (path,),
                )
                for run_id, stamps, facts, checksum in found:
                    if checksum == _checksum(path, run_id, stamps, facts):
                        rows[run_id] = (stamps, facts)
        return rows

    def write(self, runs: Path, rows: Mapping[str, Row], present: set[str]) -> None:
        """Keep rows, and forget the runs of this folder that are no longer `present`."""
        path = str(Path(runs).resolve())
        with self._errors_forgotten():
            self.file.parent.mkdir(parents=True, exist_ok=True)
            if database.on_network(self.file.parent):
                return
            # For this user alone: the folders of the runs may be, too.
            os.close(os.open(self.file, os.O_RDWR | os.O_CREAT, 0o600))
            with contextlib.closing(self._connect()) as connection, database.transaction(connection):
                folder = _folder_id(connection, path)
                known = connection.execute("SELECT run_id FROM run WHERE folder = ?", (folder,)).fetchall()
                connection.executemany(
                    "DELETE FROM run WHERE folder = ? AND run_id = ?",
                    [(folder, run_id) for (run_id,) in known if run_id not in present],
                )
                connection.executemany(
                    "INSERT OR REPLACE INTO run VALUES (?, ?, ?, ?, ?)",
                    [
                        (folder, run_id, stamps, facts, _checksum(path, run_id, stamps, facts))
                        for run_id, (stamps, facts) in rows.items()
                    ],
                )

    def _connect(self) -> sqlite3.Connection:
        connection = database.connect(self.file, BUSY_S)
        try:
            version = connection.execute("PRAGMA user_version").fetchone()[0]
            if version not in (0, VERSION):
                raise database.Damaged(f"version {version}, not {VERSION}")
            if version == 0:
                connection.execute("PRAGMA journal_mode=WAL")
                with database.transaction(connection):
                    for table in SCHEMA:
                        connection.execute(table)
                    connection.execute(f"PRAGMA user_version = {VERSION}")
            connection.execute("PRAGMA synchronous=NORMAL")
        except BaseException:
            connection.close()
            raise
        return connection

    @contextlib.contextmanager
    def _errors_forgotten(self) -> Iterator[None]:
        """A file that is damaged or of another version is thrown away; one that cannot be used now is left alone."""
        try:
            yield
        except sqlite3.DatabaseError as error:
            if database.is_damage(error):
                for part in database.parts(self.file):
                    with contextlib.suppress(OSError):
                        part.unlink()
        except OSError:
            pass


def _folder_id(connection: sqlite3.Connection, path: str) -> int:
    """The number of a runs folder. A new one is the occasion to forget those that are gone."""
    known = dict(connection.execute("SELECT path, id FROM runs_folder").fetchall())
    if path in known:
        return known[path]
    for other, number in known.items():
        if not Path(other).is_dir():
            connection.execute("DELETE FROM run WHERE folder = ?", (number,))
            connection.execute("DELETE FROM runs_folder WHERE id = ?", (number,))
    return connection.execute("INSERT INTO runs_folder (path) VALUES (?) RETURNING id", (path,)).fetchone()[0]


def _checksum(*texts: str) -> int:
    return zlib.crc32("\0".join(texts).encode("utf-8", "surrogatepass"))
