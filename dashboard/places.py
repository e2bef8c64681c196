"""Where things lie: the runs folder, the sample data, the data sets a person has opened, the pages."""

from __future__ import annotations

import os
from pathlib import Path

from engine import files
from engine.errors import AccessError
from engine.share import access

ROOT = Path(__file__).resolve().parent.parent
MEMORY = "datasets.json"
REMEMBERED = 8


def runs_folder() -> Path:
    """The folder of all runs: `DASHBOARD_RUNS`, or `runs` beside the code (what `--runs` is on the command line)."""
    return Path(os.environ.get("DASHBOARD_RUNS") or ROOT / "runs").expanduser().absolute()


def sample_folder() -> Path:
    """Where the sample data set is written: `DASHBOARD_SAMPLE`, or `sample_data` beside the code."""
    return Path(os.environ.get("DASHBOARD_SAMPLE") or ROOT / "sample_data").expanduser().absolute()


def page(name: str) -> str:
    """The path that `st.switch_page` and `st.page_link` want for `pages/<name>.py`."""
    return str(ROOT / "pages" / f"{name}.py")


def has_page(name: str) -> bool:
    return (ROOT / "pages" / f"{name}.py").is_file()


def datasets() -> list[str]:
    """Data sets that were opened here, the last one first; those that are gone are left out."""
    stored = files.read_json(runs_folder() / MEMORY) or {}
    known = [path for path in stored.get("datasets", []) if isinstance(path, str) and Path(path).exists()]
    sample = str(sample_folder())
    if sample not in known and sample_folder().is_dir():
        known.append(sample)
    return known


def remember(path: str | Path) -> None:
    """Put a data set first in the list; a runs folder that cannot be written is no reason to fail."""
    chosen = str(Path(path).expanduser().absolute())
    known = datasets()
    if known and known[0] == chosen:
        return
    listed = [chosen, *(other for other in known if other != chosen)][:REMEMBERED]
    try:
        runs_folder().mkdir(parents=True, exist_ok=True)
        files.write_json(runs_folder() / MEMORY, {"datasets": listed})
    except OSError:
        return


def require_open(path: str | Path) -> None:
    """Let editors open any folder of this machine, readers only the data sets that were opened before.

    Raises:
        AccessError: a reader asks for another folder.
    """
    if access.actor().may_edit or str(Path(path).expanduser().absolute()) in datasets():
        return
    raise AccessError(
        "Only an editor may open another folder of this machine",
        remedy="Choose one of the data sets that are open already, or ask an editor to open this one",
    )


def read_only_reason() -> str:
    """Why nothing can be changed here, in a sentence: the reader's role or the folder; empty where it can."""
    who = access.actor()
    if not who.may_edit:
        return f"Read only. {who.reason.rstrip('.')}."
    folder = runs_folder()
    there = folder
    while not there.exists() and there != there.parent:
        there = there.parent
    if os.access(there, os.W_OK | os.X_OK):
        return ""
    return f"The runs folder {folder} cannot be written by this user: runs can be read, but not started, stopped or renamed."
