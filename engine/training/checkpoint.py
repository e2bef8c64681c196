"""Checkpoints that survive a kill and never load silently wrong.

Every file is written whole or not at all and has a sha256 beside it; a flipped byte loads from torch and
safetensors files without a word otherwise. The sidecar names the new hash before the file is replaced and
drops the old one after, so a kill between the two leaves a pair that fits.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from engine import files
from engine.errors import WeightsError


def sidecar(path: Path) -> Path:
    """Where the sha256 of a file stands."""
    return path.with_name(path.name + ".sha256")


def previous(path: Path) -> Path:
    """The checkpoint before the last."""
    return path.with_name(f"{path.stem}.previous{path.suffix}")


def verify(path: Path) -> None:
    """Check a file against its sha256.

    Raises:
        WeightsError: kind `missing` or `damaged`.
    """
    if not path.is_file():
        raise WeightsError(f"{path.name} is not there", found=str(path.parent.name), kind="missing")
    try:
        known = sidecar(path).read_text(encoding="ascii", errors="replace").split()
    except OSError:
        known = []
    if files.sha256(path) not in known:
        raise WeightsError(
            f"{path.name} is damaged",
            found="its sha256 is not the one it was written with" if known else "its sha256 file is gone",
            remedy="Resume the run: it continues from the checkpoint before, or train it again",
            kind="damaged",
        )


def save_weights(path: Path, state: Mapping[str, torch.Tensor], facts: Mapping[str, Any]) -> None:
    """Weights as safetensors, with facts (JSON values) under one key of the header.

    One key, because safetensors writes several in random order, and equal weights should be equal files.
    """
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    _replace(path, safetensors.torch.save(tensors, metadata={"facts": json.dumps(dict(facts))}))


def load_weights(path: Path, *, check: bool = True) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Weights and facts of a safetensors file.

    Args:
        check: compare with the sha256 beside it (files from elsewhere have none).

    Raises:
        WeightsError: `missing`, `damaged`, or not a safetensors file.
    """
    if check:
        verify(path)
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
        state = safetensors.torch.load_file(path)
    except (OSError, safetensors.SafetensorError) as error:
        raise WeightsError(
            f"{path.name} cannot be read as safetensors", found=str(error), remedy="Give another weights file"
        ) from error
    return state, _facts(header.get("facts", ""))


def save_state(path: Path, state: dict[str, Any]) -> None:
    """Everything a resume needs; the checkpoint before is kept."""
    if path.is_file():
        for source, target in ((path, previous(path)), (sidecar(path), sidecar(previous(path)))):
            if source.is_file():
                _link(source, target)
    buffer = io.BytesIO()
    torch.save(state, buffer)
    _replace(path, buffer.getbuffer())


def load_state(path: Path) -> dict[str, Any] | None:
    """The last state that verifies: the last checkpoint, else the one before it, else None."""
    for candidate in (path, previous(path)):
        try:
            verify(candidate)
            return torch.load(candidate, map_location="cpu", weights_only=True)
        except WeightsError as error:
            if error.kind != "missing":
                print(f"{error} Looking for the checkpoint before it.", flush=True)
        except Exception as error:  # the bytes are as written, but this torch cannot read them
            print(f"{candidate.name} cannot be read: {error}", flush=True)
    return None


def load_foreign(path: Path) -> dict[str, torch.Tensor]:
    """A pretrained state dict from a package; tensors only, never code."""
    return torch.load(path, map_location="cpu", weights_only=True)


def remove(path: Path) -> None:
    """Delete a checkpoint, its sidecar and the one before."""
    for name in (path, sidecar(path), previous(path), sidecar(previous(path))):
        name.unlink(missing_ok=True)


def _replace(path: Path, data: bytes | memoryview) -> None:
    import hashlib

    new = hashlib.sha256(data).hexdigest()
    old = files.sha256(path) if path.is_file() else ""
    if old and old != new:
        files.write_bytes(sidecar(path), f"{new}\n{old}\n".encode())
    else:
        files.write_bytes(sidecar(path), f"{new}\n".encode())
    files.replace_file(path, lambda file: file.write(data))
    files.write_bytes(sidecar(path), f"{new}\n".encode())


def _link(source: Path, target: Path) -> None:
    """Another name for the same bytes, replacing `target` in one step; a copy where links do not exist."""
    import os
    import shutil

    temporary = target.with_name(f".{target.name}.tmp")
    temporary.unlink(missing_ok=True)
    try:
        os.link(source, temporary)
    except OSError:
        shutil.copyfile(source, temporary)
    temporary.replace(target)


def _facts(text: str) -> dict[str, Any]:
    """Our facts in a header; none in a file from elsewhere."""
    try:
        facts = json.loads(text)
    except ValueError:
        return {}
    return facts if isinstance(facts, dict) else {}
