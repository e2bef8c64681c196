"""Frozen views: what a person saw, kept as data, under a link that nobody can guess.

    <runs>/.views/<id>/view.json      title, author, note, times, the parts in order, sha256 of every file
    <runs>/.views/<id>/v1/...         tables as CSV, figures as plotly JSON, images as PNG or JPEG

A view is made of copies: runs may be renamed, retrained or deleted, it shows what it showed. It holds no
code and names no file outside its folder. `view.json` is written last, so that its presence means
complete; every file is checked against its sha256 when it is read.
"""

from __future__ import annotations

import contextlib
import io
import json
import math
import re
import secrets
import shutil
import time
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine import files
from engine.errors import ShareError
from engine.share import access

if TYPE_CHECKING:
    import pandas as pd

FOLDER = ".views"
RECORD = "view.json"
ID_BYTES = 24  # 192 bits: 32 letters of base64url
ID_LENGTH = 32
ID_PATTERN = re.compile(rf"[A-Za-z0-9_-]{{{ID_LENGTH}}}")
FILE_PATTERN = re.compile(r"v\d{1,4}/\d{2,4}\.(csv|json|png|jpg)")
TITLE_LENGTH, AUTHOR_LENGTH, NOTE_LENGTH = 200, 120, 8000
MAX_FILE = 40_000_000
DAY_S = 86_400.0
KINDS = ("text", "facts", "leakage", "table", "figure", "image")
SCHEMA = 1


# -- what a view is made of -----------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Part:
    """One thing a view shows; the value's type goes with the kind.

    text: str · facts: list of (label, value) · leakage: an audit record (`level`, `verdict`) ·
    table: DataFrame · figure: the figure as a plain dict (`fig.to_plotly_json()` or JSON text) ·
    image: bytes of a PNG or JPEG. `caption` says how it was computed, `alt` what it shows.
    """

    kind: str
    value: Any
    title: str = ""
    caption: str = ""
    alt: str = ""


@dataclass(frozen=True)
class View:
    """What a list of views shows. Times are seconds since 1970; `expires_at` None = never."""

    id: str
    title: str
    author: str = ""
    note: str = ""
    created_at: float = 0.0
    frozen_at: float = 0.0
    version: int = 1
    expires_at: float | None = None
    revoked_at: float | None = None
    source: dict[str, Any] = field(default_factory=dict)
    parts: tuple[dict[str, Any], ...] = ()

    @property
    def state(self) -> str:
        """`open`, `expired` or `revoked`."""
        if self.revoked_at is not None:
            return "revoked"
        return "expired" if self.expires_at is not None and time.time() >= self.expires_at else "open"


def clean_text(text: Any, limit: int, *, lines: bool = False) -> str:
    """Text a person entered, without control and direction signs (which can hide what it says), cut to size."""
    kept = "".join(
        sign for sign in str(text or "") if (lines and sign == "\n") or unicodedata.category(sign)[0] != "C"
    )
    return kept.strip()[:limit]


# -- make -----------------------------------------------------------------------------------------


def create(
    runs: Path,
    parts: Sequence[Part],
    *,
    title: str,
    author: str = "",
    note: str = "",
    expires_in_days: float | None = None,
    source: Mapping[str, Any] | None = None,
) -> View:
    """Freeze what is given; returns the view, whose `id` is the link.

    Args:
        runs: the runs folder.
        parts: in the order they are shown.
        expires_in_days: None = never.
        source: what it was made from, as plain JSON (`{"page": "compare", "runs": [ids], ...}`), for
            `refreeze` and for the list; what a visitor sees does not depend on it.

    Raises:
        AccessError: whoever asks is no editor.
        ShareError: no title, nothing to show, or the disk is full.
    """
    who = access.require_editor("share views")
    view = View(
        secrets.token_urlsafe(ID_BYTES),
        clean_text(title, TITLE_LENGTH),
        clean_text(author, AUTHOR_LENGTH),
        clean_text(note, NOTE_LENGTH, lines=True),
        created_at=time.time(),
        expires_at=_expiry(expires_in_days),
        source=dict(source or {}),
    )
    if not view.title:
        raise ShareError("A shared view needs a title", remedy="Say in a few words what it shows")
    folder = Path(runs) / FOLDER / view.id
    try:
        folder.mkdir(parents=True)
        made = _write(folder, view, parts)
    except BaseException as error:
        shutil.rmtree(folder, ignore_errors=True)
        if isinstance(error, OSError):
            raise _not_written(error) from error
        raise
    access.log(runs, "share", view.id, who, title=view.title)
    return made


def refreeze(runs: Path, view_id: str, parts: Sequence[Part], *, note: str | None = None) -> View:
    """Put new content under the same link; what was frozen before is gone.

    Raises:
        AccessError, ShareError: as `create`; there is no such view, or it was revoked.
    """
    who = access.require_editor("share views")
    view = _record(runs, view_id)
    if view.state == "revoked":
        raise ShareError("This view was revoked", remedy="Reinstate it first, or make a new one")
    folder = Path(runs) / FOLDER / view.id
    changed = replace(view, version=view.version + 1)
    if note is not None:
        changed = replace(changed, note=clean_text(note, NOTE_LENGTH, lines=True))
    try:
        made = _write(folder, changed, parts)
    except OSError as error:
        raise _not_written(error) from error
    shutil.rmtree(folder / f"v{view.version}", ignore_errors=True)
    access.log(runs, "refreeze", view.id, who, version=made.version)
    return made


def _expiry(days: float | None) -> float | None:
    if days is None:
        return None
    if not (math.isfinite(days) and days > 0):
        raise ShareError("The expiry is not a time to come", found=f"{days} days", remedy="Give days above 0")
    return time.time() + days * DAY_S


def _write(folder: Path, view: View, parts: Sequence[Part]) -> View:
    if not parts:
        raise ShareError("There is nothing to freeze", remedy="Choose what the view shall show")
    here = folder / f"v{view.version}"
    here.mkdir(exist_ok=True)
    stored = [_write_part(here, number, part) for number, part in enumerate(parts)]
    made = replace(view, frozen_at=time.time(), parts=tuple(stored))
    _write_record(folder, made)
    return made


def _write_part(folder: Path, number: int, part: Part) -> dict[str, Any]:
    record: dict[str, Any] = {
        "kind": part.kind,
        "title": clean_text(part.title, TITLE_LENGTH),
        "caption": clean_text(part.caption, NOTE_LENGTH, lines=True),
        "alt": clean_text(part.alt, NOTE_LENGTH),
    }
    if part.kind == "text":
        return {**record, "text": clean_text(part.value, NOTE_LENGTH, lines=True)}
    if part.kind == "facts":
        pairs = [[clean_text(label, 200), clean_text(value, 2000)] for label, value in part.value]
        return {**record, "facts": pairs}
    if part.kind == "leakage":
        level, verdict = str(part.value.get("level", "unknown")), str(part.value.get("verdict", ""))
        return {**record, "audit": {"level": level[:20], "verdict": clean_text(verdict, 2000)}}
    ending, data = _encode(part)
    name = f"{folder.name}/{number:02d}.{ending}"
    if len(data) > MAX_FILE:
        raise ShareError(
            "One part of the view is too large",
            found=f"{part.title or part.kind}: {len(data) / 1e6:.0f} MB",
            remedy=f"At most {MAX_FILE // 1_000_000} MB each: filter it first",
        )
    target = folder.parent / name
    files.write_bytes(target, data)
    return {**record, "file": name, "sha256": files.sha256(target), "bytes": len(data)}


def _encode(part: Part) -> tuple[str, bytes]:
    if part.kind == "table":
        return "csv", part.value.to_csv(index=False).encode("utf-8")
    if part.kind == "figure":
        return "json", figure_json(part.value).encode("utf-8")
    if part.kind == "image":
        return _image_ending(part.value), bytes(part.value)
    raise ShareError(
        "A view cannot show this kind of thing", found=part.kind, remedy=f"Use {', '.join(KINDS)}"
    )


def figure_json(figure: Any) -> str:
    """A figure as JSON text: plain data, no NaN (browsers cannot read it), nothing that runs.

    Args:
        figure: JSON text, a dict, or anything with `to_json()` (a plotly figure).
    """
    text = figure.to_json() if hasattr(figure, "to_json") else figure
    record = json.loads(text) if isinstance(text, str) else text
    kept = {name: record[name] for name in ("data", "layout") if name in record}
    return json.dumps(_finite(kept), ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if hasattr(value, "tolist"):  # numpy arrays and scalars
        return _finite(value.tolist())
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _image_ending(data: bytes) -> str:
    if data[:8] == b"\x89PNG\r\n\x1a\n":
        return "png"
    if data[:3] == b"\xff\xd8\xff":
        return "jpg"
    raise ShareError("This image is neither a PNG nor a JPEG", remedy="Encode it as PNG first")


def _write_record(folder: Path, view: View) -> None:
    names = [name for name in View.__dataclass_fields__ if name != "parts"]
    record = {"schema": SCHEMA, **{name: getattr(view, name) for name in names}, "parts": list(view.parts)}
    files.write_json(folder / RECORD, record)


def _not_written(error: OSError) -> ShareError:
    return ShareError(
        "The view cannot be stored",
        found=error.strerror or str(error),
        remedy="Free disk space, or check that the runs folder can be written",
    )


# -- read -----------------------------------------------------------------------------------------


def locate(runs: Path, view_id: str) -> Path:
    """The one way from the id in a link to a folder: pattern, parent and link checked.

    Raises:
        ShareError: the link is incomplete, malformed, or leads to nothing.
    """
    text = str(view_id or "").strip()
    if not ID_PATTERN.fullmatch(text):
        if re.fullmatch(r"[A-Za-z0-9_-]*", text) and len(text) < ID_LENGTH:
            raise ShareError(
                "The link is incomplete",
                found=f"{len(text)} of {ID_LENGTH} letters",
                remedy="Copy the whole link",
                kind="truncated",
            )
        raise ShareError(
            "This is not the address of a shared view",
            remedy="Copy the whole link, exactly as it was sent",
            kind="forged",
        )
    parent = Path(runs) / FOLDER
    path = parent / text
    if path.is_dir() and not path.is_symlink() and path.resolve().parent == parent.resolve():
        return path
    raise ShareError(
        "There is no shared view at this address",
        remedy="Ask whoever sent the link for a new one",
        kind="unknown",
    )


def _record(runs: Path, view_id: str) -> View:
    folder = locate(runs, view_id)
    record = files.read_json(folder / RECORD)
    if record is None or int(record.get("schema", 0)) != SCHEMA or record.get("id") != folder.name:
        raise ShareError(
            "This shared view is damaged",
            remedy="Ask whoever sent the link to freeze it again",
            kind="damaged",
        )
    known = {name: record[name] for name in View.__dataclass_fields__ if name in record}
    known["parts"] = tuple(part for part in record.get("parts", ()) if isinstance(part, dict))
    return View(**known)


def read(runs: Path, view_id: str) -> View:
    """The view behind a link, for anyone who has the link.

    Raises:
        ShareError: kind `truncated`, `forged`, `unknown`, `damaged`, `expired` or `revoked`.
    """
    view = _record(runs, view_id)
    if view.state == "open":
        return view
    day = time.strftime("%Y-%m-%d", time.localtime(view.revoked_at or view.expires_at))
    raise ShareError(
        f"This shared view {'was revoked' if view.state == 'revoked' else 'expired'} on {day}",
        remedy="Ask whoever sent the link for a new one",
        kind=view.state,
    )


def read_file(runs: Path, view: View, part: Mapping[str, Any]) -> bytes:
    """The bytes of a part that is kept in a file, checked.

    Raises:
        ShareError: it is gone, or not what was frozen.
    """
    name = str(part.get("file") or "")
    folder = locate(runs, view.id)
    path = folder / name
    good = (
        FILE_PATTERN.fullmatch(name) and path.is_file() and path.resolve().parent.parent == folder.resolve()
    )
    if not good or files.sha256(path) != part.get("sha256"):
        raise ShareError(
            "A part of this shared view is damaged",
            found=str(part.get("title") or part.get("kind")),
            remedy="Ask whoever sent the link to freeze it again",
            kind="damaged",
        )
    return path.read_bytes()


def table(runs: Path, view: View, part: Mapping[str, Any]) -> pd.DataFrame:
    """A table part; numbers as numbers, text as text.

    Raises:
        ShareError: see `read_file`.
    """
    import pandas as pd

    data = io.BytesIO(read_file(runs, view, part))
    return pd.read_csv(data, keep_default_na=False, na_values={})


def listed(runs: Path) -> list[View]:
    """Every view, newest first; damaged ones are passed over."""
    folder = Path(runs) / FOLDER
    found = []
    for path in folder.iterdir() if folder.is_dir() else ():
        with contextlib.suppress(ShareError, ValueError, TypeError):
            found.append(_record(runs, path.name))
    return sorted(found, key=lambda view: view.created_at, reverse=True)


# -- change ---------------------------------------------------------------------------------------


def revoke(runs: Path, view_id: str) -> View:
    """Close a link at once; `reinstate` opens it again.

    Raises:
        AccessError: whoever asks is no editor. ShareError: there is no such view.
    """
    return _change(runs, view_id, "revoke", revoked_at=time.time())


def reinstate(runs: Path, view_id: str) -> View:
    """Open a revoked link again.

    Raises:
        AccessError, ShareError: as `revoke`.
    """
    return _change(runs, view_id, "reinstate", revoked_at=None)


def set_expiry(runs: Path, view_id: str, days: float | None) -> View:
    """Let a link expire in so many days from now; None = never.

    Raises:
        AccessError, ShareError: as `revoke`.
    """
    return _change(runs, view_id, "expiry", expires_at=_expiry(days))


def _change(runs: Path, view_id: str, action: str, **values: Any) -> View:
    who = access.require_editor("change shared views")
    changed = replace(_record(runs, view_id), **values)
    _write_record(locate(runs, view_id), changed)
    access.log(runs, action, changed.id, who)
    return changed


def remove(runs: Path, view_id: str) -> None:
    """Delete a view for good.

    Raises:
        AccessError, ShareError: as `revoke`.
    """
    who = access.require_editor("delete shared views")
    shutil.rmtree(locate(runs, view_id))
    access.log(runs, "remove view", view_id, who)
