"""Small copies of images, stored on disk: a gallery page opens files of 10 kB instead of decoding 500 kB each.

Keyed by path, size, modification time and width, so a replaced image gets a new thumbnail.
"""

from __future__ import annotations

import hashlib
import io
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from PIL import Image

from engine.data.cache_room import default_cache_dir
from engine.data.images import DECODE_VERSION, thumbnail
from engine.data.manifest import Manifest
from engine.errors import DataError
from engine.machine import cores

WIDTH = 220


def thumbnail_jpeg(path: Path, width: int = WIDTH, cache_dir: Path | None = None) -> bytes:
    """A JPEG of this width, from the store or made now. Where the store cannot be written it is only made.

    Raises:
        DataError: as `engine.data.images.decode`.
    """
    try:
        status = path.stat()
    except OSError:
        status = None  # decode says it in a sentence
    stamp = (str(path.absolute()), status and (status.st_size, status.st_mtime_ns), width, DECODE_VERSION)
    name = hashlib.sha256(repr(stamp).encode("utf-8", "surrogateescape")).hexdigest()[:32]
    folder = (cache_dir or default_cache_dir()) / "thumbnails" / name[:2]
    stored = folder / f"{name}.jpg"
    try:
        return stored.read_bytes()
    except OSError:
        data = _made(path, width)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        temporary = stored.with_suffix(f".{os.getpid()}.part")
        temporary.write_bytes(data)
        temporary.replace(stored)
    except OSError:
        pass
    return data


def thumbnail_page(
    manifest: Manifest, rows: list[int], width: int = WIDTH, cache_dir: Path | None = None
) -> list[bytes | DataError]:
    """Thumbnails of some rows of a manifest, made on all cores; an image that cannot be read gives its error."""

    def one(row: int) -> bytes | DataError:
        try:
            return thumbnail_jpeg(manifest.absolute(manifest.table["path"].iloc[row]), width, cache_dir)
        except DataError as error:
            return error

    with ThreadPoolExecutor(cores()) as pool:
        return list(pool.map(one, rows))


def _made(path: Path, width: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(thumbnail(path, width)).save(buffer, "JPEG", quality=88)
    return buffer.getvalue()
