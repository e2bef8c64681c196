"""The trash of a runs folder: a deleted run is moved there, and one call brings it back."""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path

from engine.errors import RunError
from engine.runs.folder import ID_PATTERN, TRASH, RunFolder, writing
from engine.runs.status import WORKING, unattended_state
from engine.share import access


def delete(folder: RunFolder) -> None:
    """Move a run to the trash of its runs folder; `restore` undoes it.

    Raises:
        AccessError: whoever asks is no editor.
        RunError: it is being worked on, gone already, or the folder cannot be written.
    """
    who = access.require_editor("delete runs")
    with folder.hold(1.0):  # no worker can begin in the middle of the move
        state = unattended_state(folder.status())
        if state in WORKING:
            raise RunError(
                f"The run {folder.name} is being worked on", found=f"state {state}", remedy="Stop it first"
            )
        with writing(f"The run {folder.id} cannot be moved to the trash"):
            trash = folder.runs / TRASH
            trash.mkdir(exist_ok=True)
            folder.path.replace(trash / folder.id)
    access.log(folder.runs, "delete", folder.id, who)


def restore(runs: Path, run_id: str) -> RunFolder:
    """Bring a run back from the trash.

    Raises:
        AccessError: whoever asks is no editor.
        RunError: it is not in the trash, or the folder cannot be written.
    """
    who = access.require_editor("restore runs")
    source = Path(runs) / TRASH / run_id
    if not ID_PATTERN.fullmatch(run_id) or not source.is_dir():
        raise RunError(
            "This run is not in the trash",
            found=run_id[:80],
            remedy="The trash was emptied, or it was restored already",
        )
    with writing(f"The run {run_id} cannot be brought back"):
        source.replace(Path(runs) / run_id)
    access.log(Path(runs), "restore", run_id, who)
    return RunFolder(Path(runs) / run_id)


def trashed(runs: Path) -> list[str]:
    """Ids in the trash, newest first."""
    folder = Path(runs) / TRASH
    if not folder.is_dir():
        return []
    return sorted((path.name for path in folder.iterdir() if ID_PATTERN.fullmatch(path.name)), reverse=True)


def empty_trash(runs: Path) -> int:
    """Delete what is in the trash for good; returns how many runs.

    Raises:
        AccessError: whoever asks is no editor.
        RunError: something in it cannot be deleted; the rest is gone.
    """
    who = access.require_editor("empty the trash")
    ids = trashed(runs)
    with writing("The trash cannot be emptied"):
        for run_id in ids:
            with contextlib.suppress(FileNotFoundError):  # somebody else empties it, too
                shutil.rmtree(Path(runs) / TRASH / run_id)
    access.log(Path(runs), "empty trash", ",".join(ids), who)
    return len(ids)
