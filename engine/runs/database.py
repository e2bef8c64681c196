"""SQLite files that are made again from the run folders when they are lost: what the queue and the index share.

Write-ahead logging lets many look while one writes, but shares memory between processes, which a network
file system cannot: there the queue keeps a rollback journal, and the index is not written at all.
"""

from __future__ import annotations

import contextlib
import re
import sqlite3
from collections.abc import Iterator
from pathlib import Path

NETWORK = {"nfs", "nfs4", "cifs", "smb3", "smbfs", "fuse.sshfs", "lustre", "gpfs", "beegfs", "ceph", "9p"}
# The last: the tables are not those that we made.
DAMAGED = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR}


class Damaged(sqlite3.DatabaseError):
    """The file opens, but does not hold together, or is not what we write."""


def is_damage(error: sqlite3.DatabaseError) -> bool:
    """Whether the file itself is broken; a lock, missing permission or a full disk is no damage."""
    return isinstance(error, Damaged) or getattr(error, "sqlite_errorcode", 0) & 0xFF in DAMAGED


def connect(file: Path, busy_s: float) -> sqlite3.Connection:
    """A connection without transactions of its own that waits so long for other writers."""
    return sqlite3.connect(file, timeout=busy_s, isolation_level=None)


@contextlib.contextmanager
def transaction(connection: sqlite3.Connection, begin: str = "BEGIN IMMEDIATE") -> Iterator[None]:
    """All of it or nothing."""
    connection.execute(begin)
    try:
        yield
    except BaseException:
        with contextlib.suppress(sqlite3.Error):
            connection.execute("ROLLBACK")
        raise
    connection.execute("COMMIT")


def parts(file: Path) -> list[Path]:
    """The files of a database in the order in which to take them away.

    The database itself last: once it is gone others make a new one, and its log must not be carried away
    with the old.
    """
    return [Path(f"{file}{suffix}") for suffix in ("-wal", "-shm", "")]


def on_network(folder: Path) -> bool:
    """Is a folder on a network file system?"""
    try:
        lines = Path("/proc/self/mounts").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return False
    place = str(Path(folder).resolve())
    best, kind = "", ""
    for line in lines:
        words = line.split(" ")
        if len(words) < 3:
            continue
        mount = re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), words[1])  # a space is \040
        inside = place == mount or place.startswith(mount.rstrip("/") + "/")
        if inside and len(mount) >= len(best):
            best, kind = mount, words[2]
    return kind in NETWORK
