"""Room for copies: what lies in the cache folder, and what is forgotten when it grows past its limit.

Everything here can be made again from the images: packed pixels, pooled features, thumbnails. The least recently
used goes first; a pixel file that some process reads (it holds a shared lock) stays.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import IO, Any

from filelock import FileLock, Timeout

from engine.errors import ConfigError

DEFAULT_LIMIT_GB = 40.0
"""All of BreakHis takes 1.2 GB at 224 pixels, 3.4 GB at 380 and 7.6 GB at native size."""


@dataclass(frozen=True)
class Entry:
    """One copy: its kind (`pixels`, `features`, `thumbnails`), what it holds, its files, bytes, time of last use."""

    kind: str
    what: str
    files: tuple[Path, ...]
    bytes: int
    used_at: float

    def as_record(self) -> dict[str, Any]:
        used = datetime.fromtimestamp(self.used_at).isoformat(timespec="seconds")
        return {"kind": self.kind, "what": self.what, "bytes": self.bytes, "last_used": used}


def default_cache_dir() -> Path:
    """Where caches lie unless told otherwise: `$BREAKHIS_CACHE`, or the user's cache folder."""
    chosen = os.environ.get("BREAKHIS_CACHE")
    if chosen:
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "breakhis-dashboard"


def limit_bytes() -> int:
    """The most that the folder may hold: `$BREAKHIS_CACHE_GB`, or 40 GB.

    Raises:
        ConfigError: the variable is no positive number.
    """
    given = os.environ.get("BREAKHIS_CACHE_GB", "").strip()
    if not given:
        return int(DEFAULT_LIMIT_GB * 1e9)
    try:
        value = float(given)
    except ValueError:
        value = -1.0
    if not 0 < value < float("inf"):
        raise ConfigError(
            "BREAKHIS_CACHE_GB is the most that packed pixels may take, in gigabytes",
            found=given,
            remedy=f"Give a number such as {DEFAULT_LIMIT_GB:g}, or unset it",
        )
    return int(value * 1e9)


def entries(folder: Path) -> list[Entry]:
    """What the folder holds, the least recently used first."""
    found = [*_pixels(folder), *_features(folder), *_thumbnails(folder)]
    return sorted(found, key=lambda entry: entry.used_at)


def prune(folder: Path, limit: int, say: Callable[[str], object] | None = None) -> list[Entry]:
    """Forget the least recently used copies until the rest takes at most `limit` bytes.

    Args:
        say: called with one sentence where anything was forgotten.

    Returns:
        What was forgotten.
    """
    present = entries(folder)
    held = sum(entry.bytes for entry in present)
    gone: list[Entry] = []
    for entry in present:
        if held <= max(limit, 0):
            break
        if _forget(entry):
            gone.append(entry)
            held -= entry.bytes
    if gone and say:
        freed = sum(entry.bytes for entry in gone)
        noun = "copy" if len(gone) == 1 else "copies"
        say(
            f"Forgot {len(gone)} {noun} of pixels in {folder} that were not used for longest "
            f"({_size(freed)}; they are made again when needed). The limit is BREAKHIS_CACHE_GB."
        )
    return gone


def as_text(folder: Path, found: list[Entry]) -> str:
    """The list of copies for people."""
    total = sum(entry.bytes for entry in found)
    lines = [f"{folder}: {_size(total)} of at most {_size(limit_bytes())}"]
    for entry in reversed(found):
        record = entry.as_record()
        lines.append(f"{_size(entry.bytes):>10}  {record['last_used']}  {entry.kind:<10}  {entry.what}")
    return "\n".join(lines)


def hold(file: IO[bytes]) -> None:
    """Hold a file that is being read: a shared lock that ends with its last open copy.

    Systems without such locks (Windows) refuse to delete an open file by themselves.
    """
    with contextlib.suppress(ImportError, OSError):
        import fcntl

        fcntl.flock(file.fileno(), fcntl.LOCK_SH)


def _is_held(path: Path) -> bool:
    """Whether some process reads this file."""
    try:
        import fcntl
    except ImportError:
        return False
    try:
        with path.open("rb") as file:
            fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # gone, or a file system without locks
        return False
    return False


def _forget(entry: Entry) -> bool:
    """Delete a copy, unless somebody reads it, builds it, or is about to open it."""
    try:
        with _lock_of(entry):
            if any(path.suffix == ".pixels" and _is_held(path) for path in entry.files):
                return False
            for path in entry.files:  # the listing of a pixel file first: without it there is no cache
                path.unlink(missing_ok=True)
    except (OSError, Timeout):
        return False
    return True


def _lock_of(entry: Entry) -> contextlib.AbstractContextManager:
    """The lock that `engine.data.cache.pack` holds while it opens or builds this copy; refused rather than awaited."""
    if entry.kind != "pixels":
        return contextlib.nullcontext()
    return FileLock(entry.files[0].with_suffix(".lock"), timeout=0)


def _pixels(folder: Path) -> list[Entry]:
    found = []
    for pixels in folder.glob("*.pixels"):
        listing = pixels.with_suffix(".json")
        try:
            size = pixels.stat().st_size
            used = (listing if listing.is_file() else pixels).stat().st_mtime
        except OSError:
            continue
        found.append(Entry("pixels", _described(listing), (listing, pixels), size, used))
    return found


def _described(listing: Path) -> str:
    try:
        record = json.loads(listing.read_text(encoding="utf-8"))
        return f"{len(record['paths'])} images of {record['root']}, {record['what']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "of an older version"


def _features(folder: Path) -> list[Entry]:
    return [
        Entry("features", path.stem, (path,), status.st_size, status.st_mtime)
        for path in folder.glob("features-*.npy")
        if (status := path.stat())
    ]


def _thumbnails(folder: Path) -> list[Entry]:
    """Thumbnails by their 256 folders: 40 files each for all of BreakHis."""
    found = []
    for part in (folder / "thumbnails").glob("??"):
        files = [path for path in part.glob("*.jpg") if path.is_file()]
        if files:
            sizes = [path.stat() for path in files]
            newest = max(status.st_mtime for status in sizes)
            what = f"{len(files)} thumbnails ({part.name})"
            found.append(
                Entry("thumbnails", what, tuple(files), sum(status.st_size for status in sizes), newest)
            )
    return found


def _size(count: float) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"
