"""The packed cache: every image decoded once, stored as raw pixels in one file, read through a memory map.

Decoding a PNG takes 10-16 ms, cutting it from this file microseconds, and the pages of the map belong to the
file, so memory does not grow with the data set. Images may differ in size (`tiles` keeps 700x460 and 700x456),
so the file is a flat buffer with offsets. Two files per cache: `<key>.pixels`, and `<key>.json`, which is
written last: its existence means that the cache is complete.

Caches are only copies: `engine.data.cache_room` keeps their folder below a limit by forgetting the least recently
used. Whoever reads one holds a shared lock on its file, and a file that is being read is never forgotten.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import os
import shutil
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np

from engine.data import cache_room
from engine.data.cache_room import default_cache_dir
from engine.data.examined import Examined
from engine.data.files import Problem, printable
from engine.data.images import DECODE_VERSION, decode, read_header
from engine.data.manifest import Manifest
from engine.data.preprocessing import Preprocessing
from engine.errors import DataError
from engine.machine import cores
from engine.progress import Progress

_SPARE_BYTES = 256 * 1024 * 1024
_AHEAD = 32
"""Images decoded ahead of the writer: at most this many wait in memory."""


@dataclass(frozen=True)
class _Done:
    """One image on its way into the cache: its pixels, or why there are none."""

    pixels: np.ndarray | None
    normalised: bool = True
    problem: tuple[str, str] = ("", "")


class PackedImages:
    """The pixels of a manifest, in its order: `packed[i]` is row i, uint8, height x width x 3, read-only.

    Cheap to pickle: another process opens the file again, and all of them share its pages.

    `problems`: images that cannot be decoded; they have no pixels (`readable` is False at their row).
    `fallbacks`: paths of images whose stain could not be normalised, so that they are here in their own colours.
    """

    def __init__(
        self,
        source: Path,
        shapes: list[tuple[int, int]],
        offsets: list[int],
        problems: tuple[Problem, ...] = (),
        fallbacks: tuple[str, ...] = (),
    ):
        self.source, self.shapes, self.offsets = Path(source), shapes, offsets
        self.problems, self.fallbacks = problems, fallbacks
        self._open()

    def _open(self) -> None:
        with self.source.open("rb") as file:
            cache_room.hold(file)  # the map keeps the file open, and with it the lock
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)

    def __getstate__(self) -> dict:
        return {key: value for key, value in self.__dict__.items() if key != "_map"}

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(state)
        self._open()

    def __len__(self) -> int:
        return len(self.shapes)

    def __getitem__(self, row: int) -> np.ndarray:
        height, width = self.shapes[row]
        flat = np.frombuffer(self._map, np.uint8, height * width * 3, self.offsets[row])
        return flat.reshape(height, width, 3)

    @property
    def bytes(self) -> int:
        """Size of the pixel file."""
        return self.source.stat().st_size

    @property
    def readable(self) -> np.ndarray:
        """Which rows have pixels: bool, one per row."""
        return np.array([height > 0 for height, _ in self.shapes], dtype=bool)


def dataset_hash(manifest: Manifest) -> str:
    """A hash over path, size and modification time of every image: cheap, and new when a file is replaced.

    Raises:
        DataError: a file of the manifest is gone.
    """
    lines = []
    for path in sorted(manifest.table["path"]):
        try:
            status = manifest.absolute(path).stat()
        except OSError as error:
            raise DataError(
                f"{path} cannot be opened",
                found=error.strerror or str(error),
                remedy="Check that the data folder is still where it was",
                kind="missing",
            ) from error
        lines.append(f"{path}\0{status.st_size}\0{status.st_mtime_ns}\n")
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def pack(
    manifest: Manifest,
    preprocessing: Preprocessing,
    cache_dir: Path | None = None,
    progress: Progress | None = None,
    say: Callable[[str], object] | None = None,
) -> PackedImages:
    """The packed pixels of a manifest: opened where they exist, built once under a lock where not.

    An image that cannot be decoded is left out and named in `problems`; the rest is packed.

    Args:
        manifest: which images; the cache is the same for every split and order of them.
        preprocessing: what is done to a decoded image (`engine.data.preprocessing.NATIVE`: nothing).
        cache_dir: where to keep it; `default_cache_dir()` unless given.
        progress: called with (images done, images in all) while building.
        say: called with a sentence where older caches made room for this one.

    Raises:
        DataError: no image can be decoded, one is gone (`missing`), `disk_full`, or `cache` if the folder cannot
            be written.
    """
    from filelock import FileLock

    folder = Path(cache_dir) if cache_dir else default_cache_dir()
    key = _key(manifest, preprocessing)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / f"{key}.lock"):
            index = _read_index(folder, key)
            if index is None or not _undamaged(folder / f"{key}.pixels", index):
                index = _build(manifest, folder, key, preprocessing, progress, say)
            os.utime(folder / f"{key}.json")  # when it was last used
            return _opened(manifest, folder / f"{key}.pixels", index)
    except OSError as error:
        full = error.errno == 28
        raise DataError(
            f"The pixel cache in {folder} cannot be written",
            found=error.strerror or str(error),
            remedy="Free some space" if full else "Set BREAKHIS_CACHE to a folder that can be written",
            kind="disk_full" if full else "cache",
        ) from error


def is_packed(manifest: Manifest, preprocessing: Preprocessing, cache_dir: Path | None = None) -> bool:
    """Whether `pack` would find the cache ready."""
    folder = Path(cache_dir) if cache_dir else default_cache_dir()
    return _read_index(folder, _key(manifest, preprocessing)) is not None


def _key(manifest: Manifest, preprocessing: Preprocessing) -> str:
    words = f"{dataset_hash(manifest)}/{preprocessing.key}/{DECODE_VERSION}"
    return hashlib.sha256(words.encode()).hexdigest()[:24]


def _preparation(preprocessing: Preprocessing) -> Callable[[Path], _Done]:
    def prepare(path: Path) -> _Done:
        try:
            image = decode(path)
        except DataError as error:
            return _Done(None, problem=(error.kind, str(error)))
        return _Done(*preprocessing.prepare(image))

    return prepare


def _read_index(folder: Path, key: str) -> dict | None:
    """The index of a complete cache: present, readable, and as long as it says."""
    try:
        index = json.loads((folder / f"{key}.json").read_text(encoding="utf-8"))
        whole = (folder / f"{key}.pixels").stat().st_size == index["bytes"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return index if whole else None


_VERIFIED: dict[tuple[str, int, int], int] = {}  # (path, size, mtime) -> checksum: once per process and file


def _undamaged(pixels: Path, index: dict) -> bool:
    """Whether the pixels are those that were written: a flipped bit would train in silence.

    Reads the file once per process (about 1 GB/s), which also brings it into memory for what follows. Caches of
    earlier versions carry no checksum and are taken as they are.
    """
    expected = index.get("crc32")
    if expected is None:
        return True
    facts = pixels.stat()
    known = (str(pixels), facts.st_size, facts.st_mtime_ns)
    if known not in _VERIFIED:
        found = 0
        with pixels.open("rb") as file:
            while block := file.read(1 << 22):
                found = zlib.crc32(block, found)
        _VERIFIED[known] = found
    return _VERIFIED[known] == expected


def _build(
    manifest: Manifest,
    folder: Path,
    key: str,
    preprocessing: Preprocessing,
    progress: Progress | None,
    say: Callable[[str], object] | None,
) -> dict:
    paths = sorted(manifest.table["path"])
    _make_room(_bytes_needed(manifest, paths, preprocessing), folder, say)
    shapes: list[list[int]] = []
    problems: list[tuple[str, str, str]] = []
    fallbacks: list[str] = []
    checksum = 0
    temporary = folder / f"{key}.pixels.part"
    try:
        with temporary.open("wb", buffering=1 << 20) as file:
            for path, done in zip(paths, _decoded(manifest, paths, _preparation(preprocessing)), strict=True):
                image = done.pixels
                if image is None:
                    problems.append((path, *done.problem))
                    shapes.append([0, 0])
                else:
                    data = image.data if image.flags.c_contiguous else image.tobytes()
                    file.write(data)
                    checksum = zlib.crc32(data, checksum)
                    shapes.append([image.shape[0], image.shape[1]])
                if not done.normalised:
                    fallbacks.append(path)
                if progress:
                    progress(len(shapes), len(paths))
            file.flush()
            os.fsync(file.fileno())
        if len(problems) == len(paths):
            raise _nothing_readable(problems)
        temporary.replace(folder / f"{key}.pixels")
    finally:
        temporary.unlink(missing_ok=True)
    Examined(manifest, folder).remember(Problem(*problem) for problem in problems)
    index = {
        "bytes": sum(height * width * 3 for height, width in shapes),
        "crc32": checksum,
        "root": str(manifest.root),
        "what": preprocessing.key,
        "paths": paths,
        "shapes": shapes,
        "problems": problems,
        "fallbacks": fallbacks,
    }
    listing = folder / f"{key}.json.part"
    listing.write_text(json.dumps(index), encoding="utf-8")
    listing.replace(folder / f"{key}.json")
    return index


def _decoded(manifest: Manifest, paths: list[str], prepare: Callable[[Path], _Done]) -> Iterator[_Done]:
    """Images in order, decoded on all cores: PIL and OpenCV let go of the interpreter while they work."""
    with ThreadPoolExecutor(cores()) as pool:
        rest = iter(paths)
        waiting: list[Future] = [pool.submit(prepare, manifest.absolute(p)) for p in islice(rest, _AHEAD)]
        try:
            while waiting:
                done = waiting.pop(0).result()
                for path in islice(rest, 1):
                    waiting.append(pool.submit(prepare, manifest.absolute(path)))
                yield done
        finally:
            for future in waiting:
                future.cancel()


def _bytes_needed(manifest: Manifest, paths: list[str], preprocessing: Preprocessing) -> int:
    if preprocessing.geometry != "tiles":
        return len(paths) * preprocessing.size * preprocessing.size * 3
    needed = 0
    for path in paths:
        try:
            header = read_header(manifest.absolute(path))
        except DataError:
            continue  # it will be named when it cannot be decoded
        needed += header.width * header.height * 3
    return needed


def _make_room(needed: int, folder: Path, say: Callable[[str], object] | None) -> None:
    """Older caches go where the folder's limit or the disk asks for it.

    Raises:
        DataError: `disk_full`, the disk is too small even so.
    """
    cache_room.prune(folder, cache_room.limit_bytes() - needed, say)
    free = shutil.disk_usage(folder).free
    lacking = needed + _SPARE_BYTES - free
    if lacking > 0:
        held = sum(entry.bytes for entry in cache_room.entries(folder))
        cache_room.prune(folder, max(0, held - lacking), say)
        free = shutil.disk_usage(folder).free
    if free < needed + _SPARE_BYTES:
        raise DataError(
            f"There is no room for the pixel cache in {folder}",
            found=f"{free / 1e9:.1f} GB free, {(needed + _SPARE_BYTES) / 1e9:.1f} GB needed",
            remedy="Free some space, or set BREAKHIS_CACHE to a folder on a larger disk",
            kind="disk_full",
        )


def _nothing_readable(problems: Sequence[tuple[str, str, str]]) -> DataError:
    path, kind, message = problems[0]
    return DataError(
        f"None of the {len(problems)} images can be decoded" if len(problems) > 1 else message,
        found=f"{printable(path)}: {message}" if len(problems) > 1 else None,
        remedy="Copy or download the data set again",
        kind=kind,
    )


def _opened(manifest: Manifest, source: Path, index: dict) -> PackedImages:
    starts = np.concatenate([[0], np.cumsum([h * w * 3 for h, w in index["shapes"]])])
    position = {path: number for number, path in enumerate(index["paths"])}
    rows = [position[path] for path in manifest.table["path"]]
    shapes = [(index["shapes"][row][0], index["shapes"][row][1]) for row in rows]
    return PackedImages(
        source,
        shapes,
        [int(starts[row]) for row in rows],
        tuple(Problem(*problem) for problem in index["problems"]),
        tuple(index["fallbacks"]),
    )
