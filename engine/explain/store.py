"""Maps kept in the run folder, under everything that decides what they show. Reading needs no torch.

    runs/<id>/maps/<key>.npz    raw (signed, on the layer's grid), logits, and a JSON record

The map at image size follows from the grid (`geometry.place`, a millisecond), so a stored map is about
2 KB instead of 1.3 MB.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import zipfile
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path

import numpy as np

from engine import files
from engine.data.images import DECODE_VERSION
from engine.errors import ExplainError
from engine.explain.explanation import Explanation
from engine.runs.folder import RunFolder

# Raised whenever the same question gets another map than before.
MAP_VERSION = 1
_ARRAYS = ("raw", "probabilities", "logits")


@dataclass(frozen=True)
class Key:
    """Everything that decides what a map shows. sha256 as hex digests.

    The checkpoint's header holds architecture, classes, geometry, input size and normalisation, so its digest
    stands for those too.
    """

    checkpoint: str
    image: str
    method: str
    layer: str
    target: str
    versions: str

    @property
    def digest(self) -> str:
        text = json.dumps(asdict(self), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:32]


def key_of(folder: RunFolder, image: bytes, *, method: str, layer: str, target: str) -> Key:
    """The key of a map.

    Args:
        image: the bytes of the image file.

    Raises:
        ExplainError: the run has no checkpoint.
    """
    digest = hashlib.sha256(image).hexdigest()
    return Key(checkpoint_sha(folder), digest, method, layer, target, _versions())


def checkpoint_sha(folder: RunFolder) -> str:
    """sha256 of the run's best weights.

    Raises:
        ExplainError: they are not there.
    """
    try:
        found = folder.best.stat()
    except OSError as error:
        raise ExplainError(
            f"The weights of the run {folder.name} are not there",
            found=f"no {folder.best.name} in {folder.id}",
            remedy="Wait until its first epoch has ended, resume it, or restore the file",
        ) from error
    stamp = (str(folder.best), found.st_mtime_ns, found.st_size)
    if stamp not in _SHAS:
        _SHAS[stamp] = files.sha256(folder.best)
    return _SHAS[stamp]


_SHAS: dict[tuple[str, int, int], str] = {}


def save(folder: RunFolder, key: Key, explanation: Explanation) -> None:
    """Keep a map. A folder that cannot be written (a colleague's run) is left alone."""
    record = {
        name: getattr(explanation, name)
        for name in ("height", "width", "classes", "target", "method", "layer", "size", "geometry")
    }
    text = json.dumps({**record, "key": asdict(key)})
    arrays = {name: getattr(explanation, name) for name in _ARRAYS}
    buffer = io.BytesIO()
    np.savez_compressed(buffer, record=np.frombuffer(text.encode(), np.uint8), **arrays)
    with contextlib.suppress(OSError):
        (folder.path / "maps").mkdir(exist_ok=True)
        files.write_bytes(_path(folder, key), buffer.getvalue())


def find(folder: RunFolder, key: Key) -> Explanation | None:
    """A stored map, or None where there is none (or its file is damaged: it is then made again)."""
    try:
        with np.load(_path(folder, key), allow_pickle=False) as stored:
            record = json.loads(bytes(stored["record"]))
            arrays = {name: stored[name] for name in _ARRAYS}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None
    if record.pop("key") != asdict(key):
        return None
    record["classes"] = tuple(record["classes"])
    return Explanation(**arrays, **record)


def clear(folder: RunFolder) -> int:
    """Forget all maps of a run; returns how many there were."""
    count = 0
    with contextlib.suppress(OSError):
        for entry in os.scandir(folder.path / "maps"):
            if entry.name.endswith(".npz"):
                Path(entry.path).unlink()
                count += 1
    return count


def _path(folder: RunFolder, key: Key) -> Path:
    return folder.path / "maps" / f"{key.digest}.npz"


def _versions() -> str:
    packages = {name: metadata.version(name) for name in ("torch", "timm", "grad-cam")}
    return json.dumps({"maps": MAP_VERSION, "decode": DECODE_VERSION, **packages}, sort_keys=True)
