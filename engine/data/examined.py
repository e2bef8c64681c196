"""What is known of files that were read whole: their fingerprints and their faults, remembered between calls.

A scan reads names and headers, so a bit that flipped inside an image stays unseen. Whoever reads the whole file
(`verify`, hashing, packing) writes here what it found; every later scan of the data set names the fault and
leaves the image out. An entry holds for a path, size and modification time: a file that was copied again is new.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from engine import files
from engine.data.cache_room import default_cache_dir
from engine.data.files import Problem
from engine.data.images import DECODE_VERSION, verify_file
from engine.data.manifest import Manifest
from engine.errors import DataError
from engine.machine import cores
from engine.progress import Progress

LASTING = ("empty", "format", "too_large", "truncated", "damaged", "mode")
"""Faults that are in the bytes; a file that could not be opened is asked again."""
_PORTION = 64
_FLUSH_EVERY = 32


class Examined:
    """The store of one data set, one JSON line per file; the last line of a file counts, a torn one is skipped.

    Args:
        cache_dir: where it lies; the pixel cache's folder unless given.
    """

    def __init__(self, manifest: Manifest, cache_dir: Path | None = None):
        folder = Path(cache_dir) if cache_dir else default_cache_dir()
        root = hashlib.sha256(str(Path(manifest.root).resolve()).encode()).hexdigest()[:16]
        self.manifest = manifest
        self.store = folder / f"hashes-{root}-{DECODE_VERSION}.jsonl"
        self._known = _read(self.store)

    def __bool__(self) -> bool:
        return bool(self._known)

    def known(self, path: str) -> dict[str, Any] | None:
        """What was found in this file as it is now: `problem` (kind, message) or `verified`; hashed ones also
        have `sha256` and `signs`."""
        return self._known.get(_key(self.manifest, path))

    def problem(self, path: str) -> Problem | None:
        """The fault of a file as it is now, where one is known."""
        fault = (self.known(path) or {}).get("problem")
        return Problem(path, str(fault[0]), str(fault[1])) if fault else None

    def examine(
        self,
        paths: list[str],
        work: Callable[[Path], dict[str, Any]],
        progress: Progress | None = None,
        done: int = 0,
    ) -> Iterator[tuple[str, dict[str, Any]]]:
        """Read files on all cores and remember what was found, as it comes: an interruption loses little.

        Args:
            work: what is found in a file; a DataError or OSError becomes its problem.
            progress: called with (files done, `done` + files in all).
            done: files that need no examination, for the progress.
        """
        total = done + len(paths)
        keys = [_key(self.manifest, path) for path in paths]
        with self._appending() as write:
            for path, key, record in zip(paths, keys, self._worked(paths, work), strict=True):
                if record.get("problem", [""])[0] in ("", *LASTING):
                    self._known[key] = record
                    write(key, record)
                done += 1
                if progress:
                    progress(done, total)
                yield path, record
        if progress and not paths:
            progress(total, total)

    def remember(self, problems: Iterable[Problem]) -> None:
        """Keep faults that somebody else met. Where the store cannot be written, nothing is kept."""
        lasting = [problem for problem in problems if problem.kind in LASTING]
        with contextlib.suppress(OSError), self._appending() as write:
            for problem in lasting:
                key = _key(self.manifest, problem.file)
                record = {"problem": [problem.kind, problem.message]}
                if (self._known.get(key) or {}).get("problem") is None:
                    self._known[key] = record
                    write(key, record)

    @contextlib.contextmanager
    def _appending(self) -> Iterator[Callable[[str, dict[str, Any]], None]]:
        self.store.parent.mkdir(parents=True, exist_ok=True)
        with self.store.open("a", encoding="utf-8") as file:
            if file.tell() and not files.ends_with_newline(self.store):
                file.write("\n")  # the line that an interruption tore must not swallow the next one
            count = 0

            def write(key: str, record: dict[str, Any]) -> None:
                nonlocal count
                file.write(json.dumps({"key": key, **record}) + "\n")
                count += 1
                if count % _FLUSH_EVERY == 0:
                    file.flush()

            yield write

    def _worked(self, paths: list[str], work: Callable[[Path], dict[str, Any]]) -> Iterator[dict[str, Any]]:
        def one(path: str) -> dict[str, Any]:
            try:
                return work(self.manifest.absolute(path))
            except DataError as error:
                return {"problem": [error.kind, str(error)]}
            except OSError as error:
                return {"problem": ["unreadable", f"{path} cannot be opened: {error.strerror or error}."]}

        with ThreadPoolExecutor(cores()) as pool:
            for start in range(0, len(paths), _PORTION):
                yield from pool.map(one, paths[start : start + _PORTION])


def verify(
    manifest: Manifest, cache_dir: Path | None = None, progress: Progress | None = None
) -> list[Problem]:
    """Read every file of a data set whole and compare its checksums; what was verified before is not read again.

    Returns:
        The files whose pixels cannot be trusted: cut off, damaged, or no image after all.
    """
    examined = Examined(manifest, cache_dir)
    paths = manifest.table["path"].tolist()
    todo = [path for path in paths if examined.known(path) is None]

    def work(path: Path) -> dict[str, Any]:
        verify_file(path)
        return {"verified": True}

    found = dict(examined.examine(todo, work, progress, len(paths) - len(todo)))
    problems = []
    for path in paths:
        fault = (found.get(path) or examined.known(path) or {}).get("problem")
        if fault:
            problems.append(Problem(path, *fault))
    return problems


def _read(store: Path) -> dict[str, dict[str, Any]]:
    known: dict[str, dict[str, Any]] = {}
    try:
        with store.open(encoding="utf-8", errors="replace") as file:
            for line in file:
                try:
                    record = json.loads(line)
                    key = record.pop("key")
                except (ValueError, KeyError, AttributeError, TypeError):  # a torn line
                    continue
                if (record.get("problem") or ["damaged"])[0] in LASTING:
                    known[key] = record
    except OSError:
        pass
    return known


def _key(manifest: Manifest, path: str) -> str:
    try:
        status = manifest.absolute(path).stat()
    except OSError:
        return f"{path}|gone"
    return f"{path}|{status.st_size}|{status.st_mtime_ns}"
