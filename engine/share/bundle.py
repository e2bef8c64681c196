"""A run or an ensemble as one zip, to be imported on another machine; nothing in it is ever executed.

    bundle.json                 what it is, and for every other file its size and sha256
    runs/<id>/config.json ...   the run as its folder has it, with best.safetensors, without last.ckpt
    runs/<id>/card.md           what the run is, for people
    runs/<id>/environment.json  what it was made with

An ensemble brings its members. Importing trusts nothing: only these names, no link, no encryption, sizes
and sha256 as listed, weights as safetensors, tables and configuration read by the same code that reads
every run; the leakage audit is made again from the manifest rather than believed.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import stat
import struct
import tempfile
import time
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import IO, Any

from engine import files
from engine.errors import EngineError, RunError, ShareError, shorten
from engine.predict import appearance
from engine.progress import Progress
from engine.runs.config import KINDS, NETWORKS
from engine.runs.folder import ID_PATTERN, RunFolder, locate
from engine.runs.provenance import provenance
from engine.runs.status import COMPLETED, FINISHED, Status
from engine.share import access
from engine.wording import escaped

SCHEMA = 1
RECORD = "bundle.json"
CARRIED = (
    "config.json",
    "label.json",
    "status.json",
    "manifest.csv",
    "metrics.jsonl",
    "pixels.json",
    appearance.FILE,
    "best.safetensors",
    "predictions/train.csv",
    "predictions/val.csv",
    "predictions/test.csv",
)
MADE = ("card.md", "environment.json")
NEEDED = ("config.json", "status.json")
_NAME = re.compile(
    rf"runs/({ID_PATTERN.pattern})/({'|'.join(re.escape(name) for name in (*CARRIED, *MADE))})"
)
MAX_FILES = 64 * (len(CARRIED) + len(MADE))
MAX_BYTES = 8_000_000_000
MAX_RECORD = 4_000_000
MAX_JSON = 20_000_000
MAX_RATIO = 200  # deflate reaches 1,000; tables of predictions reach about 10
CHUNK = 1 << 20
LEVELS = ("clean", "unknown", "leak")


# -- export ---------------------------------------------------------------------------------------


def write_bundle(folder: RunFolder, target: Path, *, progress: Progress | None = None) -> Path:
    """Write a run (an ensemble with its members) as one zip; replaced whole or not at all.

    Args:
        folder: a run that has ended.
        target: the file, by convention `<id>.zip`.
        progress: called with (bytes written, bytes).

    Raises:
        ShareError: the run has not ended, a member is gone, or the file cannot be written.
    """
    folders = _with_members(folder)
    for one in folders:
        if one.config().kind in NETWORKS and one.best.is_file():
            with contextlib.suppress(
                EngineError
            ):  # where the images are not, nothing is known elsewhere either
                appearance.of_run(one)
    sources = [(one, name) for one in folders for name in CARRIED if (one.path / name).is_file()]
    total = sum((one.path / name).stat().st_size for one, name in sources)
    done = 0

    def step(size: int) -> None:
        nonlocal done
        done += size
        if progress:
            progress(min(done, total), total)

    def write(file: IO[bytes]) -> None:
        listed: list[dict[str, Any]] = []
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=6) as archive:
            for one in folders:
                for name, data in _made_files(one).items():
                    listed.append(_store(archive, f"runs/{one.id}/{name}", data))
            for one, name in sources:
                if name == "config.json":
                    continue  # written below, without this machine's paths
                listed.append(_store_file(archive, f"runs/{one.id}/{name}", one.path / name, step))
            record = {
                "schema": SCHEMA,
                "main": folder.id,
                "runs": [one.id for one in folders],
                "created_at": time.time(),
                "files": listed,
            }
            archive.writestr(RECORD, json.dumps(record, indent=1))

    try:
        Path(target).parent.mkdir(parents=True, exist_ok=True)
        files.replace_file(Path(target), write)
    except OSError as error:
        raise ShareError(
            "The bundle cannot be written",
            found=f"{error.strerror or error}: {target}",
            remedy="Free disk space, or give a folder that you may write",
        ) from error
    access.log(folder.runs, "bundle", folder.id, count=len(folders))
    if progress:
        progress(total, total)
    return Path(target)


def _with_members(folder: RunFolder) -> list[RunFolder]:
    """The run and, recursively, its members; members first."""
    found: dict[str, RunFolder] = {}

    def visit(one: RunFolder, depth: int) -> None:
        state = one.status().state
        if state not in FINISHED:
            raise ShareError(
                f"The run {one.name} has not ended", found=f"state {state}", remedy="Wait, or stop it first"
            )
        if depth > 4 or one.id in found:
            return
        for member in one.config().details.get("members", ()):
            try:
                visit(locate(folder.runs, str(member)), depth + 1)
            except RunError as error:
                raise ShareError(
                    f"A member of {one.name} is not here any more",
                    found=str(member)[:80],
                    remedy="Restore it from the trash, or make the ensemble again without it",
                ) from error
        found[one.id] = one

    visit(folder, 0)
    return list(found.values())


def _made_files(folder: RunFolder) -> dict[str, bytes]:
    record = folder.record()
    root = str(record.get("data", {}).get("root") or "")
    # A path says who and where: only the last folder's name travels.
    record = {
        **record,
        "data": {**record.get("data", {}), "root": PurePosixPath(root.replace("\\", "/")).name},
    }
    environment = {"run": record.get("provenance") or {}, "bundle": provenance()}
    return {
        "config.json": _json(record),
        "environment.json": _json(environment),
        "card.md": card(folder).encode("utf-8"),
    }


def _json(record: Any) -> bytes:
    return (json.dumps(record, indent=1, ensure_ascii=False) + "\n").encode("utf-8")


def card(folder: RunFolder) -> str:
    """What a run is, in a page of Markdown; names and notes of people are escaped."""
    from engine.analysis.intervals import estimates

    config, label = folder.config(), folder.label()
    lines = [
        f"# {escaped(label['name'])}",
        "",
        "Research use only. Not for diagnosis.",
        "",
        f"- Run: `{folder.id}` ({config.kind})",
        f"- Model: {escaped(config.model.name)}, input {config.model.geometry}, first weights {escaped(Path(config.model.pretrained).name)}",
        f"- Split: {escaped(config.data.protocol)}, fold {config.data.fold}, hash `{folder.record().get('split_hash') or 'unknown'}`",
        f"- Leakage: {escaped(folder.audit().get('verdict', 'Unknown.'))}",
    ]
    if label["notes"]:
        lines += ["", escaped(label["notes"])]
    for split in folder.predicted_splits():
        lines += ["", f"## Scores on {split}", ""]
        with contextlib.suppress(EngineError):
            for name, one in estimates(folder.predictions(split), draws=500).items():
                lines.append(f"- {name}: {one}")
    return "\n".join(lines) + "\n"


def _store(archive: zipfile.ZipFile, name: str, data: bytes) -> dict[str, Any]:
    archive.writestr(name, data)
    return {"path": name, "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}


def _store_file(
    archive: zipfile.ZipFile, name: str, source: Path, step: Callable[[int], None]
) -> dict[str, Any]:
    """Copy a file in pieces, so that weights never stand in memory whole."""
    digest, size = hashlib.sha256(), 0
    info = zipfile.ZipInfo(name, time.localtime()[:6])
    # Weights hardly shrink; stored, they are copied at the speed of the disk.
    info.compress_type = zipfile.ZIP_STORED if name.endswith(".safetensors") else zipfile.ZIP_DEFLATED
    with open(source, "rb") as file, archive.open(info, "w", force_zip64=True) as out:
        while piece := file.read(CHUNK):
            digest.update(piece)
            size += len(piece)
            out.write(piece)
            step(len(piece))
    return {"path": name, "bytes": size, "sha256": digest.hexdigest()}


# -- import ---------------------------------------------------------------------------------------


def read_bundle(
    source: Path, runs: Path, *, data_root: str = "", progress: Progress | None = None
) -> list[RunFolder]:
    """Import a bundle: every run in it that is not here yet; the main one is last.

    Args:
        source: the zip, or a file open for reading in binary (an upload).
        runs: the runs folder.
        data_root: where the images lie on this machine, for overlays; empty = unknown.
        progress: called with (bytes read, bytes).

    Raises:
        AccessError: whoever asks is no editor.
        ShareError: it is no bundle, or not one that can be trusted; nothing is left behind.
    """
    who = access.require_editor("import bundles")
    runs = Path(runs)
    temporary: Path | None = None
    try:
        runs.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=".import-", dir=runs))
        with _opened(source) as archive:
            entries = _checked_entries(archive)
            record = _checked_record(archive, entries)
            _extract(archive, entries, record, temporary, progress)
        folders = [RunFolder(temporary / run_id) for run_id in record["runs"]]
        for folder in folders:
            _check_run(folder, data_root)
        _audit_again(folders, runs)
        imported = _move(folders, runs)
    except OSError as error:
        raise ShareError(
            "The bundle cannot be imported",
            found=error.strerror or str(error),
            remedy="Free disk space, or check that the runs folder can be written",
        ) from error
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)
    access.log(runs, "import", record["main"], who, count=len(imported))
    return imported


def _refuse(message: str, found: str = "", kind: str = "bundle") -> ShareError:
    return ShareError(
        message,
        found=found or None,
        remedy="Nothing was imported; ask for a bundle made by this program",
        kind=kind,
    )


@contextlib.contextmanager
def _opened(source: Any) -> Iterator[zipfile.ZipFile]:
    try:
        archive = zipfile.ZipFile(source)
    except FileNotFoundError as error:
        raise ShareError("There is no such file", found=str(source), remedy="Check the path") from error
    except (
        zipfile.BadZipFile,
        ValueError,
        NotImplementedError,
        EOFError,
        OverflowError,
        struct.error,
    ) as error:
        raise _refuse("This file is not a bundle", str(error)) from error
    with archive:
        try:
            yield archive
        except (
            zipfile.BadZipFile,
            NotImplementedError,
            EOFError,
            RuntimeError,
            zlib.error,
            struct.error,
        ) as error:
            raise _refuse("The bundle is damaged", str(error)) from error


def _checked_entries(archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    """Every entry, if names, kinds and sizes are those of a bundle; nothing has been unpacked yet."""
    infos = archive.infolist()
    if len(infos) > MAX_FILES:
        raise _refuse("The bundle holds too many files", f"{len(infos)}, at most {MAX_FILES}")
    names = [info.filename for info in infos]
    if len(set(names)) < len(names):
        raise _refuse("The bundle holds two files of one name")
    foreign = [name for name in names if name != RECORD and not _NAME.fullmatch(name)]
    if foreign:
        raise _refuse(
            "The bundle holds files that do not belong in one", shorten([repr(name[:80]) for name in foreign])
        )
    for info in infos:
        mode = info.external_attr >> 16
        if mode and not stat.S_ISREG(mode) and stat.S_IFMT(mode):
            raise _refuse("The bundle holds a link or a device", info.filename)
        if info.flag_bits & 0x1:
            raise _refuse("The bundle is encrypted", info.filename)
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise _refuse("The bundle is compressed in an unknown way", info.filename)
        if info.file_size > 10_000_000 and info.file_size > MAX_RATIO * max(info.compress_size, 1):
            raise _refuse(
                "The bundle unpacks to far more than it holds", f"{info.filename}: {info.file_size:,} bytes"
            )
        if info.filename.endswith((".json", ".jsonl", ".md")) and info.file_size > MAX_JSON:
            raise _refuse("A file in the bundle is too large", f"{info.filename}: {info.file_size:,} bytes")
    total = sum(info.file_size for info in infos)
    if total > MAX_BYTES:
        raise _refuse("The bundle is too large", f"{total / 1e9:.1f} GB, at most {MAX_BYTES / 1e9:.0f}")
    if RECORD not in names:
        raise _refuse("This zip is not a bundle", f"no {RECORD}")
    return dict(zip(names, infos, strict=True))


def _checked_record(archive: zipfile.ZipFile, entries: dict[str, zipfile.ZipInfo]) -> dict[str, Any]:
    """`bundle.json`, if it lists exactly the files that are there."""
    if entries[RECORD].file_size > MAX_RECORD:
        raise _refuse("The bundle's list of files is too large")
    try:
        record = json.loads(archive.read(RECORD))
        listed = {str(item["path"]): (int(item["bytes"]), str(item["sha256"])) for item in record["files"]}
        run_ids = [str(run_id) for run_id in record["runs"]]
        schema, main = int(record["schema"]), str(record["main"])
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise _refuse("The bundle's list of files cannot be read", str(error)) from error
    if schema != SCHEMA:
        raise _refuse("The bundle was written by another version", f"schema {schema}, known {SCHEMA}")
    there = set(entries) - {RECORD}
    if set(listed) != there:
        odd = sorted(set(listed) ^ there)
        raise _refuse("The bundle's files are not those it lists", shorten(odd))
    held = {match[1] for name in there if (match := _NAME.fullmatch(name))}
    if set(run_ids) != held or main not in held or len(set(run_ids)) < len(run_ids):
        raise _refuse("The bundle's runs are not those it lists")
    for run_id in run_ids:
        for name in NEEDED:
            if f"runs/{run_id}/{name}" not in there:
                raise _refuse("A run in the bundle is incomplete", f"no {name}")
    return {"runs": [*[one for one in run_ids if one != main], main], "main": main, "files": listed}


def _extract(
    archive: zipfile.ZipFile,
    entries: dict[str, zipfile.ZipInfo],
    record: dict[str, Any],
    target: Path,
    progress: Progress | None,
) -> None:
    """Unpack in pieces; a file longer than listed, or of another sha256, ends it."""
    total, done = sum(size for size, _ in record["files"].values()), 0
    for name, (size, sha) in record["files"].items():
        match = _NAME.fullmatch(name)
        assert match is not None  # `_checked_entries` let no other name pass
        path = target / match[1] / match[2]
        path.parent.mkdir(parents=True, exist_ok=True)
        digest, read = hashlib.sha256(), 0
        with archive.open(entries[name]) as source, open(path, "xb") as out:
            while piece := source.read(CHUNK):
                read += len(piece)
                if read > size:
                    raise _refuse("A file in the bundle is longer than it says", name)
                digest.update(piece)
                out.write(piece)
                done += len(piece)
                if progress:
                    progress(done, total)
            out.flush()
            os.fsync(out.fileno())
        if read != size or digest.hexdigest() != sha:
            raise _refuse("A file in the bundle is not what it was", f"{name}: its sha256 differs", "hash")


def _check_run(folder: RunFolder, data_root: str) -> None:
    """Read everything once by the code that will read it later; rewrite what a bundle must not decide."""
    try:
        record = folder.record()
        config = folder.config()
        if config.kind not in KINDS or record.get("id") != folder.id:
            raise _refuse("A run in the bundle is not what it says", f"{folder.id}: kind {config.kind}")
        json.dumps(record, allow_nan=False)
        for split in folder.predicted_splits():
            folder.predictions(split)
        if (folder.path / "manifest.csv").is_file():
            _check_manifest(folder)
        folder.metrics()
        if (folder.path / appearance.FILE).is_file():
            appearance.Appearance.from_record(files.read_json(folder.path / appearance.FILE) or {})
        label = files.read_json(folder.path / "label.json") or {}
    except ShareError:
        raise
    except (EngineError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise _refuse("A run in the bundle cannot be read", f"{folder.id}: {error}") from error
    if folder.best.is_file():
        check_safetensors(folder.best)
        # What loads weights asks for the sha256 beside them; this one was just compared with the bundle's.
        digest = files.sha256(folder.best)
        files.write_bytes(folder.best.with_name(f"{folder.best.name}.sha256"), f"{digest}\n".encode())
    data = {**record.get("data", {}), "root": data_root}
    came = {"from": "bundle", "imported_at": time.time()}
    files.write_json(folder.path / "config.json", {**record, "data": data, "imported": came})
    _write_label(folder, label)
    _write_status(folder)


def _write_label(folder: RunFolder, label: dict[str, Any]) -> None:
    tags = label.get("tags")
    clean = {
        "name": str(label.get("name") or folder.record().get("name") or folder.id)[:200],
        "tags": [str(tag)[:60] for tag in tags[:40]] if isinstance(tags, list) else [],
        "notes": str(label.get("notes") or "")[:20_000],
    }
    files.write_json(folder.path / "label.json", clean)


def _write_status(folder: RunFolder) -> None:
    """The state as it ended; nothing of another machine's process is kept."""
    status = folder.status()
    state = status.state if status.state in FINISHED else COMPLETED
    folder.write_status(
        replace(status, state=state, worker={}) if status.history else Status(progress=1.0).moved(state)
    )


def _check_manifest(folder: RunFolder) -> None:
    """Paths stay below the data root, wherever that will be."""
    for path in folder.manifest().table["path"]:
        parts = PurePosixPath(str(path).replace("\\", "/"))
        if parts.is_absolute() or ".." in parts.parts or re.match(r"[A-Za-z]:", str(path)):
            raise _refuse("A manifest in the bundle points outside its data set", repr(str(path)[:80]))


def check_safetensors(source: Path) -> None:
    """Read the header of a weights file and check every offset; no weight is loaded, nothing is run.

    Raises:
        ShareError: it is no safetensors file (a pickle, say).
    """
    from safetensors import SafetensorError, safe_open

    with open(source, "rb") as file:
        head = file.read(2)
    if head[:1] == b"\x80" or head == b"PK":
        raise _refuse(
            "The weights in the bundle are a pickle", "a torch file renamed to .safetensors", "pickle"
        )
    try:
        with safe_open(source, framework="numpy") as weights:
            names = list(weights.keys())
    except (SafetensorError, OSError, ValueError) as error:
        raise _refuse("The weights in the bundle are no safetensors file", str(error)) from error
    if not names:
        raise _refuse("The weights in the bundle are empty")


def _audit_again(folders: Sequence[RunFolder], runs: Path) -> None:
    """Write what leaks as this machine finds it: from the manifest; else the worst of members and claim."""
    from engine.data.audit import audit
    from engine.errors import SplitError

    done: dict[str, dict[str, Any]] = {}
    for folder in folders:  # members stand before what is made of them
        record = folder.record()
        claim = record.get("audit") if isinstance(record.get("audit"), dict) else {}
        found: dict[str, Any] | None = None
        if (folder.path / "manifest.csv").is_file():
            with contextlib.suppress(SplitError):
                found = audit(folder.manifest().table).as_record()
        if found is None:
            members = [str(member) for member in folder.config().details.get("members", ())]
            found = _worst([claim or {}, *[_known(member, done, runs) for member in members]], bool(members))
        done[folder.id] = found
        files.write_json(folder.path / "config.json", {**record, "audit": found})


def _known(member: str, done: dict[str, dict[str, Any]], runs: Path) -> dict[str, Any]:
    if member in done:
        return done[member]
    with contextlib.suppress(RunError):
        return locate(runs, member).audit()
    return {}


def _worst(audits: Sequence[dict[str, Any]], has_members: bool) -> dict[str, Any]:
    known = [one if one.get("level") in LEVELS else {"level": "unknown"} for one in audits]
    worst = max(known, key=lambda one: LEVELS.index(str(one["level"])))
    if worst["level"] == "clean" and has_members:
        return worst
    if worst["level"] == "leak":
        return {**worst, "verdict": str(worst.get("verdict") or "Leaks.")[:2000]}
    return {"level": "unknown", "verdict": "Unknown: the bundle does not show what this was trained on."}


def _move(folders: Sequence[RunFolder], runs: Path) -> list[RunFolder]:
    """Into the runs folder. A run that is here already must be the same one."""
    known = {}
    for folder in folders:
        if (runs / folder.id).exists():
            if _fingerprint(folder) != _fingerprint(RunFolder(runs / folder.id)):
                raise ShareError(
                    "Another run with the same id is here already",
                    found=folder.id,
                    remedy="Delete the one that is here first, if it is not needed",
                )
            known[folder.id] = RunFolder(runs / folder.id)
    moved = []
    for folder in folders:
        if folder.id not in known:
            folder.path.replace(runs / folder.id)
        moved.append(RunFolder(runs / folder.id))
    files.sync_folder(runs)
    return moved


def _fingerprint(folder: RunFolder) -> tuple:
    """What cannot change after a run has ended: weights, predictions, manifest."""
    fixed = [name for name in CARRIED if name.endswith((".safetensors", ".csv"))]
    return tuple(files.sha256(folder.path / name) if (folder.path / name).is_file() else "" for name in fixed)
