"""Fetch the official BreakHis archive: resumable, checked for room beforehand and against the inventory afterwards."""

from __future__ import annotations

import json
import shutil
import tarfile
import time
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlparse

from engine.data.breakhis import Inventory, scan
from engine.data.files import printable
from engine.errors import DataError
from engine.progress import Progress

OFFICIAL_URL = "http://www.inf.ufpr.br/vri/databases/BreaKHis_v1.tar.gz"
LICENCE = "CC BY 4.0; Spanhol et al. (2016), IEEE Transactions on Biomedical Engineering 63(7)"
_CHUNK = 1 << 20
_TRIES = 6
_SPARE_BYTES = 512 * 1024 * 1024


@dataclass(frozen=True)
class Download:
    """What was fetched: where it lies, how many bytes came over the network now, and what it holds."""

    folder: Path
    fetched: int
    inventory: Inventory

    @property
    def complete(self) -> bool:
        official = self.inventory.official
        return official is not None and official.complete

    def as_record(self) -> dict:
        return {
            "folder": str(self.folder),
            "fetched_bytes": self.fetched,
            "complete": self.complete,
            "inventory": self.inventory.as_record(),
        }


def download(
    target: Path,
    url: str = OFFICIAL_URL,
    progress: Progress | None = None,
    keep_archive: bool = False,
    tries: int = _TRIES,
    pause_s: float = 2.0,
) -> Download:
    """Fetch, unpack and check the data set; run again, it goes on where it was interrupted.

    Args:
        target: folder to write to.
        url: of the archive (.tar.gz).
        progress: called with (bytes here, bytes in all).
        keep_archive: leave the archive beside the images.
        tries: attempts in a row that bring nothing before giving up.
        pause_s: seconds before the second attempt; doubled for each further one.

    Raises:
        DataError: `network` (what came so far is kept), `disk_full`, `archive` (not a usable archive),
            `unwritable`.
    """
    target = Path(target).expanduser()
    try:
        target.mkdir(parents=True, exist_ok=True)
        archive = target / Path(urlparse(url).path).name
        fetched = 0 if archive.is_file() else _fetch(url, archive, progress, tries, pause_s)
        _unpack(archive, target)
        if not keep_archive:
            archive.unlink()
    except OSError as error:
        full = error.errno == 28
        raise DataError(
            f"{printable(str(target))} cannot be written",
            found=error.strerror or str(error),
            remedy="Free some space" if full else "Give a folder that can be written",
            kind="disk_full" if full else "unwritable",
        ) from error
    return Download(target, fetched, scan(target)[1])


def _fetch(url: str, archive: Path, progress: Progress | None, tries: int, pause_s: float) -> int:
    """The archive, through `<name>.part`; returns the bytes that came over the network."""
    part, notes = archive.with_name(archive.name + ".part"), archive.with_name(archive.name + ".part.json")
    fetched, failures, reason = 0, 0, ""
    while failures < tries:
        came, total, reason = _attempt(url, part, notes, progress)
        fetched += came
        if total is not None and part.stat().st_size == total:
            part.replace(archive)
            notes.unlink(missing_ok=True)
            return fetched
        failures = 0 if came else failures + 1
        if failures:
            time.sleep(pause_s * 2 ** (failures - 1))
    here = part.stat().st_size if part.is_file() else 0
    raise DataError(
        f"The download from {urlparse(url).netloc} broke off",
        found=f"{reason or 'the connection closed'}; {here / 1e6:.1f} MB are kept",
        remedy="Run the same command again: it goes on from there",
        kind="network",
    )


def _attempt(url: str, part: Path, notes: Path, progress: Progress | None) -> tuple[int, int | None, str]:
    """One request: (bytes that came, size of the archive or None, why it ended)."""
    import requests
    import urllib3

    here = part.stat().st_size if part.is_file() else 0
    version = _read_notes(notes)
    headers = {"Accept-Encoding": "identity"}
    if here and version:
        headers |= {"Range": f"bytes={here}-", "If-Range": version}
    came, total = 0, None
    try:
        with requests.get(url, headers=headers, stream=True, timeout=(15, 60)) as answer:
            if answer.status_code == 416:  # what is here is all there is, or more than there should be
                stated = answer.headers.get("Content-Range", "").rpartition("/")[2]
                if stated == str(here):
                    return 0, here, ""
                part.unlink(missing_ok=True)
                return 0, None, "the archive on the server has changed"
            if answer.status_code not in (200, 206):
                return 0, None, f"the server answered {answer.status_code}"
            resumed = answer.status_code == 206
            here = here if resumed else 0
            length = int(answer.headers.get("Content-Length", 0))
            total = here + length if length else None
            _require_space(part.parent, length, total)
            stated = answer.headers.get("ETag") or answer.headers.get("Last-Modified") or ""
            notes.write_text(json.dumps({"version": stated}), encoding="utf-8")
            with part.open("ab" if resumed else "wb") as file:
                # Not iter_content: it gathers whole chunks and loses the last one when the line goes dead.
                while chunk := answer.raw.read1(_CHUNK):
                    file.write(chunk)
                    came += len(chunk)
                    if progress:
                        progress(here + came, total or 0)
    except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
        return came, total, type(error).__name__
    if total is None:  # a server that does not say how long: the end is the end
        total = here + came
    return came, total, ""


def _read_notes(notes: Path) -> str:
    """What the server called the version of the first part; a changed file must not be glued on."""
    try:
        return str(json.loads(notes.read_text(encoding="utf-8"))["version"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def _require_space(folder: Path, coming: int, total: int | None) -> None:
    """Room for the rest of the archive, and for the images, which are PNG and do not shrink in it."""
    needed = coming + (total or coming) + _SPARE_BYTES
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise DataError(
            f"There is no room for the data set in {printable(str(folder))}",
            found=f"{free / 1e9:.1f} GB free, {needed / 1e9:.1f} GB needed",
            remedy="Free some space or give a folder on a larger disk",
            kind="disk_full",
        )


def _unpack(archive: Path, target: Path) -> None:
    try:
        with tarfile.open(archive) as tar:
            tar.extractall(target, filter="data")  # nothing outside the folder, no links out, no devices
    except (tarfile.TarError, EOFError, ValueError) as error:
        damaged = archive.with_name(archive.name + ".damaged")
        archive.replace(damaged)
        raise DataError(
            f"{archive.name} is not a usable archive",
            found=str(error) or type(error).__name__,
            remedy=f"It was renamed to {damaged.name}; download it again",
            kind="archive",
        ) from error
