"""Any data set as a manifest: a copy of BreakHis, a CSV, or one folder per class.

A CSV needs `path` and `label`; `case`, `slide`, `magnification`, `subtype`, `split`, `um_per_pixel` and
`image_id` are used where they are. Folders name the class and nothing else, so cases stay unknown, and a split by
case is refused rather than guessed.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from pathlib import Path, PurePosixPath

import pandas as pd

from engine.data import breakhis, examined
from engine.data.breakhis import AMBIGUOUS_CASES, SUBTYPES, Inventory, parse_name, take_inventory
from engine.data.files import Problem, find_images, printable, require_folder
from engine.data.images import read_header
from engine.data.manifest import COLUMNS, Manifest, class_order
from engine.errors import DataError, shorten
from engine.progress import Progress

TASKS = {
    "malignancy": "benign or malignant",
    "subtype": "the eight tumour types",
}
_ALIASES = {
    "path": ("file", "filename", "file_name", "image", "image_path"),
    "label": ("class", "diagnosis", "target"),
    "case": ("patient", "patient_id", "case_id"),
    "slide": ("slide_id", "wsi"),
    "magnification": ("mag", "power"),
}
_SPLIT_FOLDERS = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
}
_POWER = re.compile(r"(\d+(?:\.\d+)?)\s*[xX]?")


def inspect(
    root: Path, progress: Progress | None = None, verify: Progress | bool = False
) -> tuple[Manifest, Inventory]:
    """A data set and its inventory, whichever way it is laid out.

    Names and headers are read; a fault inside a file is named where somebody read it whole before.

    Args:
        root: a folder, or a CSV file.
        progress: called with (images examined, images in all).
        verify: also read every file whole and compare its checksums; a callback is told (files done, files in all).

    Raises:
        DataError: nothing there that can be read as a data set; the message says what was found.
    """
    manifest, inventory = _scanned(Path(root).expanduser(), progress)
    if verify:
        faults = examined.verify(manifest, progress=verify if callable(verify) else None)
    else:
        known = examined.Examined(manifest)
        faults = [known.problem(path) for path in manifest.table["path"]] if known else []
    return _without(manifest, inventory, [fault for fault in faults if fault])


def _without(manifest: Manifest, inventory: Inventory, faults: list[Problem]) -> tuple[Manifest, Inventory]:
    """The data set without the images that cannot be decoded, which its inventory names."""
    if not faults:
        return manifest, inventory
    table = manifest.table
    kept = table[~table["path"].isin([fault.file for fault in faults])]
    if kept.empty:
        raise DataError(
            f"None of the {len(table)} images can be decoded",
            found=shorten([fault.message for fault in faults]),
            remedy="Copy or download the data set again",
            kind="no_usable_images",
        )
    sizes = Counter(inventory.sizes)
    for fault in faults:
        header = read_header(manifest.absolute(fault.file))
        sizes[f"{header.width}x{header.height}"] -= 1
    left = manifest.with_table(kept)
    known = (*inventory.problems, *faults)
    gone = sorted(set(table["label"]) - set(kept["label"]))
    known += tuple(
        Problem(label, "empty_class", f"No image of class {label} can be decoded") for label in gone
    )
    return left, take_inventory(left, known, {size: count for size, count in sizes.most_common() if count})


def _scanned(root: Path, progress: Progress | None) -> tuple[Manifest, Inventory]:
    if root.is_file() and root.suffix.lower() == ".csv":
        return read_csv_dataset(root, progress=progress)
    paths, problems = find_images(require_folder(root))
    if any(parse_name(PurePosixPath(path).name) for path in paths):
        return breakhis.scan(root, progress)
    if (root / "manifest.csv").is_file():
        return read_csv_dataset(root / "manifest.csv", progress=progress)
    if len({path.split("/")[0] for path in paths if "/" in path}) >= 2:
        return _from_folders(root, paths, problems, progress)
    return breakhis.scan(root, progress)  # which says what is wrong


def read_csv_dataset(
    source: Path, root: Path | None = None, progress: Progress | None = None
) -> tuple[Manifest, Inventory]:
    """A data set described by a CSV.

    Relative paths start at `root` (the folder of the CSV unless given). Where all paths are absolute, their
    common folder is the root. Rows that cannot be used are left out and named.

    Raises:
        DataError: `csv` (unreadable), `columns` (path or label missing), `no_usable_images`.
    """
    table = _read_table(source)
    base = _root_of(table, Path(root) if root else source.parent)
    problems: list[Problem] = []
    rows, sizes, seen = [], Counter(), {}
    for number, row in enumerate(table.to_dict("records"), start=1):
        path = _place(base, row["path"])
        image_id = row.get("image_id") or (path or row["path"])
        problem, remarks = _row_problem(row, path, base, image_id, seen, sizes)
        problems += remarks
        if progress and (number % 100 == 0 or number == len(table)):
            progress(number, len(table))
        if problem:
            problems.append(Problem(printable(row["path"]) or f"row {number}", *problem))
            continue
        seen[image_id] = row["label"]
        rows.append({**_known_from_name(row), "image_id": image_id, "path": path})
    manifest = _manifest(base, rows, problems, table.columns)
    return manifest, take_inventory(manifest, tuple(problems), dict(sizes.most_common()))


def with_task(manifest: Manifest, task: str, keep_ambiguous: bool = False) -> Manifest:
    """The manifest with the labels of a task.

    `subtype` makes the subtype the label; a case that is filed under two subtypes with the same images
    (14-13412) is left out unless `keep_ambiguous`.

    Raises:
        DataError: unknown task, or a subtype task on images whose subtype is not known.
    """
    if task not in TASKS:
        raise DataError(f"Unknown task {task}", remedy=f"Choose one of {', '.join(TASKS)}", kind="task")
    if task == "malignancy":
        return manifest
    table = manifest.table
    unknown = table.loc[table["subtype"] == "", "image_id"].tolist()
    if unknown:
        raise DataError(
            f"The subtype of {len(unknown)} images is not known",
            found=shorten([str(name) for name in unknown]),
            remedy="Add a column subtype to the CSV, or choose the task malignancy",
            kind="subtype_unknown",
        )
    if not keep_ambiguous:
        table = table[~table["case"].isin(AMBIGUOUS_CASES)]
    table = table.assign(label=table["subtype"]).reset_index(drop=True)
    present = set(table["label"])
    known = tuple(name for name in SUBTYPES if name in present)
    classes = known if len(known) == len(present) else class_order(table["label"])
    return Manifest(manifest.root, classes, table)


def _read_table(source: Path) -> pd.DataFrame:
    try:
        table = pd.read_csv(source, dtype=str, keep_default_na=False, encoding="utf-8-sig")
    except (OSError, ValueError) as error:
        raise DataError(
            f"{printable(source.name)} cannot be read as CSV",
            found=str(error),
            remedy="Save it as CSV in UTF-8 with a header line",
            kind="csv",
        ) from error
    table.columns = pd.Index([str(name).strip().lower() for name in table.columns])
    for name, others in _ALIASES.items():
        other = next((alias for alias in others if alias in table.columns), None)
        if name not in table.columns and other:
            table = table.rename(columns={other: name})
    missing = [name for name in ("path", "label") if name not in table.columns]
    if missing:
        raise DataError(
            f"{printable(source.name)} lacks the column {' and '.join(missing)}",
            found=", ".join(table.columns) or "no columns",
            remedy="Give at least path and label; case (the patient) makes honest splits possible",
            kind="columns",
        )
    table = table.map(lambda value: str(value).strip())
    if "magnification" in table.columns:
        table["magnification"] = table["magnification"].map(_magnification)
    return table


def _magnification(text: str) -> str:
    match = _POWER.fullmatch(text)
    return f"{float(match[1]):g}X" if match else text


def _root_of(table: pd.DataFrame, given: Path) -> Path:
    paths = [path for path in table["path"] if path]
    if paths and all(Path(path).is_absolute() for path in paths):
        common = Path(os.path.commonpath([str(Path(path).parent) for path in paths]))
        if common != Path(common.anchor):
            return common
    return given


def _place(root: Path, text: str) -> str | None:
    """A path of the CSV relative to the data root; None where it leads outside."""
    if not text:
        return None
    full = Path(os.path.normpath(root.absolute() / text.replace("\\", "/")))
    try:
        return full.relative_to(Path(os.path.normpath(root.absolute()))).as_posix()
    except ValueError:
        return None


def _row_problem(
    row: dict, path: str | None, root: Path, image_id: str, seen: dict[str, str], sizes: Counter
) -> tuple[tuple[str, str] | None, list[Problem]]:
    """Why a row cannot be used, as (kind, message), and what is unusual about an image that can."""
    if not row["path"]:
        return ("path", "The row has no path"), []
    if path is None:
        return ("outside", f"The path leads out of the data folder {printable(str(root))}"), []
    if not row["label"]:
        return ("label", "The row has no label"), []
    if image_id in seen:
        other = seen[image_id]
        note = "" if other == row["label"] else f", once as {other}, once as {row['label']}"
        return (
            "duplicate_id",
            f"{printable(image_id)} stands in an earlier row too{note}; the first counts",
        ), []
    try:
        header = read_header(root / path)
    except DataError as error:
        return (error.kind, str(error)), []
    sizes[f"{header.width}x{header.height}"] += 1
    return None, breakhis.remarks_on(path, header)


def _known_from_name(row: dict) -> dict:
    """What a BreakHis file name says, where the CSV itself does not."""
    name = parse_name(PurePosixPath(row["path"].replace("\\", "/")).name)
    if name is None:
        return row
    said = {
        "case": name.case,
        "slide": name.slide,
        "subtype": name.subtype,
        "magnification": name.magnification,
    }
    return {**row, **{key: row.get(key) or value for key, value in said.items()}}


def _from_folders(
    root: Path, paths: list[str], problems: list[Problem], progress: Progress | None
) -> tuple[Manifest, Inventory]:
    """`<class>/.../image`, or `<train|val|test>/<class>/.../image`."""
    tops = {path.split("/")[0].lower() for path in paths if "/" in path}
    divided = tops <= set(_SPLIT_FOLDERS)
    names = Counter(PurePosixPath(path).name for path in paths)
    unique = max(names.values()) == 1
    rows, sizes = [], Counter()
    for number, path in enumerate(paths, start=1):
        parts = path.split("/")
        if progress and (number % 100 == 0 or number == len(paths)):
            progress(number, len(paths))
        if len(parts) < 2 + divided:
            problems.append(Problem(printable(path), "label", "It lies in no class folder"))
            continue
        try:
            header = read_header(root / path)
        except DataError as error:
            problems.append(Problem(printable(path), error.kind, str(error)))
            continue
        problems += breakhis.remarks_on(path, header)
        sizes[f"{header.width}x{header.height}"] += 1
        power = next((part for part in parts[:-1] if re.fullmatch(r"\d+[xX]", part)), "")
        row = {"image_id": parts[-1] if unique else path, "path": path, "label": parts[1 if divided else 0]}
        row["magnification"] = power.upper()
        if divided:
            row["split"] = _SPLIT_FOLDERS[parts[0].lower()]
        rows.append(row)
    columns = [*COLUMNS, "split"] if divided else list(COLUMNS)
    problems += _empty_classes(root, {str(row["label"]) for row in rows}, divided)
    manifest = _manifest(root, rows, problems, columns)
    return manifest, take_inventory(manifest, tuple(problems), dict(sizes.most_common()))


def _empty_classes(root: Path, found: set[str], divided: bool) -> list[Problem]:
    """Class folders without a usable image."""
    tops = [entry for entry in root.iterdir() if entry.is_dir() and not entry.name.startswith(".")]
    folders = [entry for top in tops for entry in top.iterdir() if entry.is_dir()] if divided else tops
    names = sorted({folder.name for folder in folders} - found)
    return [
        Problem(printable(name), "empty_class", "The class folder holds no usable image") for name in names
    ]


def _manifest(root: Path, rows: list[dict], problems: list[Problem], columns) -> Manifest:
    if not rows:
        raise DataError(
            "No image of this data set can be used",
            found=shorten([f"{problem.file}: {problem.message}" for problem in problems]) or "no rows",
            remedy="Check the paths, which start at the folder of the CSV",
            kind="no_usable_images",
        )
    wanted = [*COLUMNS, *[name for name in columns if name not in COLUMNS]]
    table = pd.DataFrame(rows).reindex(columns=wanted).fillna("").astype(str)
    table = table.sort_values("image_id", ignore_index=True)
    return Manifest(root, class_order(table["label"]), table)
