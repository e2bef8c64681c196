"""Image files under a folder: found without following a link in a circle, named so that any screen shows them.

Nothing here opens an image; `engine.data.images` does.
"""

from __future__ import annotations

import errno
import os
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from engine.errors import DataError

IMAGE_ENDINGS = (".png", ".jpg", ".jpeg", ".tif", ".tiff")


@dataclass(frozen=True)
class Problem:
    """Something wrong with one file: its path below the data root, one word, one sentence.

    `excluded` says whether the image was left out of the manifest or kept with a remark.
    """

    file: str
    kind: str
    message: str
    excluded: bool = True

    def as_record(self) -> dict[str, str | bool]:
        return {"file": self.file, "kind": self.kind, "message": self.message, "excluded": self.excluded}


def printable(name: str) -> str:
    """A file name that can be printed and stored: undecodable bytes, control and direction marks escaped."""
    return "".join(
        character if unicodedata.category(character)[0] != "C" else ascii(character)[1:-1]
        for character in name
    )


def is_storable(name: str) -> bool:
    """Whether the name survives a UTF-8 file: the operating system hands undecodable bytes as surrogates."""
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def require_folder(root: Path) -> Path:
    """The folder itself.

    Raises:
        DataError: `folder_missing`, nothing is there; `not_a_folder`, a file is.
    """
    root = Path(root).expanduser()
    if not root.exists():
        raise DataError(
            f"There is no folder {printable(str(root))}",
            found="nothing at this path",
            remedy="Check the path; `python -m engine sample DIR` writes a sample data set",
            kind="folder_missing",
        )
    if not root.is_dir():
        raise DataError(
            f"{printable(str(root))} is not a folder",
            found="a file",
            remedy="Give the folder that holds the images",
            kind="not_a_folder",
        )
    return root


def find_images(root: Path) -> tuple[list[str], list[Problem]]:
    """Every image file below `root`, by its ending, as sorted paths relative to it (forward slashes).

    Links are followed, but no folder is entered twice, so a loop ends. Hidden files and folders are
    skipped. Links in a circle, folders that cannot be read, and names that are not valid UTF-8 become problems.
    """
    problems: list[Problem] = []
    found = [path for path in _walk(Path(root), "", set(), problems) if _keep(path, problems)]
    return sorted(found), problems


def _keep(path: str, problems: list[Problem]) -> bool:
    if is_storable(path):
        return True
    message = "The name is not valid UTF-8, so no manifest can hold it; rename it"
    problems.append(Problem(printable(path), "encoding", message))
    return False


def _walk(folder: Path, prefix: str, entered: set[tuple[int, int]], problems: list[Problem]) -> Iterator[str]:
    try:
        status = folder.stat()
        if (status.st_dev, status.st_ino) in entered:
            message = "The link leads to a folder that is read already; it is not entered again"
            problems.append(Problem(printable(prefix), "link", message))
            return
        entered.add((status.st_dev, status.st_ino))
        with os.scandir(folder) as listing:
            entries = sorted(listing, key=lambda entry: entry.name)
    except OSError as error:
        if error.errno == errno.ELOOP:
            problems.append(Problem(printable(prefix), "link", "The link leads in a circle"))
            return
        problems.append(
            Problem(printable(prefix) or ".", "folder", f"The folder cannot be read ({error.strerror})")
        )
        return
    for entry in entries:
        if entry.name.startswith("."):
            continue
        path = f"{prefix}{entry.name}"
        try:
            is_folder = entry.is_dir()
        except OSError:  # a link that points at itself
            problems.append(Problem(printable(path), "link", "The link leads in a circle"))
            continue
        if is_folder:
            yield from _walk(Path(entry.path), f"{path}/", entered, problems)
        elif entry.name.lower().endswith(IMAGE_ENDINGS):
            yield path
