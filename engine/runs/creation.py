"""How a run folder comes to be: an id that never repeats, and a folder that is seen complete or not at all."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shutil
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from engine import files
from engine.runs.config import RunConfig
from engine.runs.folder import NO_SPLIT, RunFolder, writing
from engine.runs.provenance import provenance
from engine.runs.status import QUEUED, Status

if TYPE_CHECKING:  # imported where a manifest is written: tables are heavy
    from engine.data.manifest import Manifest

NEW = ".new-"
"""How the name of a run folder begins while it is being made."""


def new_id(slug: str) -> str:
    """`20261122-201500-tf_efficientnet_b0-3f2a`: sorts by time, never repeats, safe in paths and links."""
    clean = re.sub(r"[^a-z0-9_]+", "_", slug.lower()).strip("_")[:60] or "run"
    return f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{clean}-{secrets.token_hex(2)}"


def create(
    runs: Path,
    config: RunConfig,
    slug: str,
    *,
    manifest: Manifest | None = None,
    audit: dict | None = None,
    split_hash: str = "",
    status: Status | None = None,
) -> RunFolder:
    """Make a run folder. It is written under a hidden name and renamed: what is seen is complete.

    Raises:
        RunError: the runs folder cannot be written; nothing is then left behind.
    """
    runs = Path(runs)
    with writing("The runs folder cannot be written"):
        runs.mkdir(parents=True, exist_ok=True)
        while True:
            target = runs / new_id(slug)
            hidden = runs / f"{NEW}{target.name}"
            if target.exists():
                continue
            try:
                hidden.mkdir()
                break
            except FileExistsError:
                continue
        try:
            record = {
                **config.to_record(),
                "id": target.name,
                "created_at": time.time(),
                "split_hash": split_hash,
                "audit": audit or dict(NO_SPLIT),
                "provenance": provenance(),
            }
            files.write_json(hidden / "config.json", record)
            if manifest is not None:
                from engine.data.manifest import write_manifest

                write_manifest(manifest, hidden / "manifest.csv")
                _flush(hidden / "manifest.csv")
            RunFolder(hidden).write_status(status or Status().moved(QUEUED))
            hidden.rename(target)
        except BaseException:
            shutil.rmtree(hidden, ignore_errors=True)
            raise
        files.sync_folder(runs)
    return RunFolder(target)


def _flush(path: Path) -> None:
    with open(path, "rb+") as file:
        os.fsync(file.fileno())


def sweep(runs: Path, older_s: float = 3600.0) -> int:
    """Remove run folders that a kill left half-made, and temporary files in the runs folder; returns how many."""
    gone = 0
    for path in [*Path(runs).glob(f"{NEW}*"), *Path(runs).glob(".*.tmp")]:
        with contextlib.suppress(OSError):
            if time.time() - path.lstat().st_mtime > older_s:
                shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
                gone += 1
    return gone
