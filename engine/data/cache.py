"""The packed cache: every image decoded once, stored as raw pixels in one file, read through a memory map.

Decoding a PNG takes 10-16 ms, cutting it from this file microseconds, and the pages of the map belong to the
file, so memory does not grow with the data set. Images may differ in size (`tiles` keeps 700x460 and 700x456),
so the file is a flat buffer with offsets. Two files per cache: `<key>.pixels`, and `<key>.json`, which is
written last: its existence means that the cache is complete.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import os
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from pathlib import Path

import numpy as np

from engine.data.files import Progress
from engine.data.images import DECODE_VERSION, decode, read_header, resize
from engine.data.manifest import Manifest
from engine.errors import DataError

_SPARE_BYTES = 256 * 1024 * 1024
_AHEAD = 32
"""Images decoded ahead of the writer: at most this many wait in memory."""


class PackedImages:
    """The pixels of a manifest, in its order: `packed[i]` is row i, uint8, height x width x 3, read-only.

    Cheap to pickle: another process opens the file again, and all of them share its pages.
    """

    def __init__(self, source: Path, shapes: list[tuple[int, int]], offsets: list[int]):
        self.source, self.shapes, self.offsets = Path(source), shapes, offsets
        self._open()

    def _open(self) -> None:
        with self.source.open("rb") as file:
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)

    def __getstate__(self) -> dict:
        return {"source": self.source, "shapes": self.shapes, "offsets": self.offsets}

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


def default_cache_dir() -> Path:
    """Where caches lie unless told otherwise: `$BREAKHIS_CACHE`, or the user's cache folder."""
    chosen = os.environ.get("BREAKHIS_CACHE")
    if chosen:
        return Path(chosen)
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "breakhis-dashboard"


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
    size: int | None,
    geometry: str = "square",
    cache_dir: Path | None = None,
    progress: Progress | None = None,
    normalise: Callable[[np.ndarray], np.ndarray] | None = None,
    normalise_key: str = "",
) -> PackedImages:
    """The packed pixels of a manifest: opened where they exist, built once under a lock where not.

    Args:
        manifest: which images; the cache is the same for every split and order of them.
        size: side of the square, pixels; None (or geometry `tiles`) keeps native pixels.
        geometry: as `engine.data.images.resize`.
        cache_dir: where to keep it; `default_cache_dir()` unless given.
        progress: called with (images done, images in all) while building.
        normalise: applied to every decoded image before it is resized (stain normalisation).
        normalise_key: names `normalise` in the key of the cache.

    Raises:
        DataError: an image cannot be decoded (it is named), `disk_full`, or `cache` if the folder cannot be
            written.
    """
    from filelock import FileLock

    folder = Path(cache_dir) if cache_dir else default_cache_dir()
    geometry, size = ("tiles", None) if not size or geometry == "tiles" else (geometry, size)
    key = _key(manifest, size, geometry, normalise_key)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / f"{key}.lock"):
            index = _read_index(folder, key)
            if index is None:
                prepare = _preparation(size, geometry, normalise)
                index = _build(manifest, size, folder, key, prepare, progress)
    except OSError as error:
        full = error.errno == 28
        raise DataError(
            f"The pixel cache in {folder} cannot be written",
            found=error.strerror or str(error),
            remedy="Free some space" if full else "Set BREAKHIS_CACHE to a folder that can be written",
            kind="disk_full" if full else "cache",
        ) from error
    return _opened(manifest, folder / f"{key}.pixels", index)


def is_packed(
    manifest: Manifest,
    size: int | None,
    geometry: str = "square",
    cache_dir: Path | None = None,
    normalise_key: str = "",
) -> bool:
    """Whether `pack` would find the cache ready."""
    geometry, size = ("tiles", None) if not size or geometry == "tiles" else (geometry, size)
    folder = Path(cache_dir) if cache_dir else default_cache_dir()
    return _read_index(folder, _key(manifest, size, geometry, normalise_key)) is not None


def _key(manifest: Manifest, size: int | None, geometry: str, normalise_key: str) -> str:
    words = (dataset_hash(manifest), size or "native", geometry, DECODE_VERSION, normalise_key)
    return hashlib.sha256("/".join(map(str, words)).encode()).hexdigest()[:24]


def _preparation(
    size: int | None, geometry: str, normalise: Callable[[np.ndarray], np.ndarray] | None
) -> Callable[[Path], np.ndarray]:
    def prepare(path: Path) -> np.ndarray:
        image = decode(path)
        if normalise:
            image = normalise(image)
        return resize(image, size, geometry) if size else image

    return prepare


def _read_index(folder: Path, key: str) -> dict | None:
    """The index of a complete cache: present, readable, and as long as it says."""
    try:
        index = json.loads((folder / f"{key}.json").read_text(encoding="utf-8"))
        whole = (folder / f"{key}.pixels").stat().st_size == index["bytes"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return index if whole else None


def _build(
    manifest: Manifest,
    size: int | None,
    folder: Path,
    key: str,
    prepare: Callable[[Path], np.ndarray],
    progress: Progress | None,
) -> dict:
    paths = sorted(manifest.table["path"])
    _require_space(manifest, paths, size, folder)
    shapes: list[list[int]] = []
    temporary = folder / f"{key}.pixels.part"
    try:
        with temporary.open("wb", buffering=1 << 20) as file:
            for image in _decoded(manifest, paths, prepare):
                file.write(image.data if image.flags.c_contiguous else image.tobytes())
                shapes.append([image.shape[0], image.shape[1]])
                if progress:
                    progress(len(shapes), len(paths))
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(folder / f"{key}.pixels")
    finally:
        temporary.unlink(missing_ok=True)
    index = {"bytes": sum(height * width * 3 for height, width in shapes), "paths": paths, "shapes": shapes}
    listing = folder / f"{key}.json.part"
    listing.write_text(json.dumps(index), encoding="utf-8")
    listing.replace(folder / f"{key}.json")
    return index


def _decoded(
    manifest: Manifest, paths: list[str], prepare: Callable[[Path], np.ndarray]
) -> Iterator[np.ndarray]:
    """Images in order, decoded on all cores: PIL and OpenCV let go of the interpreter while they work."""
    workers = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with ThreadPoolExecutor(workers) as pool:
        rest = iter(paths)
        waiting: list[Future] = [pool.submit(prepare, manifest.absolute(p)) for p in islice(rest, _AHEAD)]
        try:
            while waiting:
                image = waiting.pop(0).result()
                for path in islice(rest, 1):
                    waiting.append(pool.submit(prepare, manifest.absolute(path)))
                yield image
        finally:
            for future in waiting:
                future.cancel()


def _require_space(manifest: Manifest, paths: list[str], size: int | None, folder: Path) -> None:
    if size:
        needed = len(paths) * size * size * 3
    else:
        headers = [read_header(manifest.absolute(path)) for path in paths]
        needed = sum(header.width * header.height * 3 for header in headers)
    free = shutil.disk_usage(folder).free
    if free < needed + _SPARE_BYTES:
        raise DataError(
            f"There is no room for the pixel cache in {folder}",
            found=f"{free / 1e9:.1f} GB free, {(needed + _SPARE_BYTES) / 1e9:.1f} GB needed",
            remedy="Free some space, or set BREAKHIS_CACHE to a folder on a larger disk",
            kind="disk_full",
        )


def _opened(manifest: Manifest, source: Path, index: dict) -> PackedImages:
    starts = np.concatenate([[0], np.cumsum([h * w * 3 for h, w in index["shapes"]])])
    position = {path: number for number, path in enumerate(index["paths"])}
    rows = [position[path] for path in manifest.table["path"]]
    shapes = [(index["shapes"][row][0], index["shapes"][row][1]) for row in rows]
    return PackedImages(source, shapes, [int(starts[row]) for row in rows])
