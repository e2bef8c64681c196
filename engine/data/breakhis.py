"""BreakHis: the grammar of its file names, any copy of its folders, and what a copy holds.

A file name says everything (`SOB_B_A-14-22549AB-40-001.png`: benign adenosis, case 14-22549, slide
14-22549AB, 40X, image 1), so the names are believed and the folders only cross-checked. The grammar
matches all 7,909 images of the release.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path, PurePosixPath

import pandas as pd

from engine.data.files import Problem, find_images, printable, require_folder
from engine.data.images import Header, read_header
from engine.data.manifest import CLASSES, COLUMNS, MAGNIFICATIONS, Manifest
from engine.errors import DataError, shorten
from engine.progress import Progress

SUBTYPES = {
    "A": "adenosis",
    "F": "fibroadenoma",
    "PT": "phyllodes tumor",
    "TA": "tubular adenoma",
    "DC": "ductal carcinoma",
    "LC": "lobular carcinoma",
    "MC": "mucinous carcinoma",
    "PC": "papillary carcinoma",
}
BENIGN_SUBTYPES = ("A", "F", "PT", "TA")
MICROMETRES_PER_PIXEL = {"40X": 0.492, "100X": 0.197, "200X": 0.0985, "400X": 0.0492}
"""Computed from the optics that the data set's page states; for scale bars."""

AMBIGUOUS_CASES = ("14-13412",)
"""Filed under two subtypes (DC and LC) with nearly the same images: no truth for a subtype task."""

_LISTED = 100
"""Problems that the text report spells out; its JSON holds all."""

EXAMPLE_NAME = "SOB_B_A-14-22549AB-40-001.png"
_TYPES = "|".join(SUBTYPES)
_NAME = re.compile(rf"(CNB|SOB)_(B|M)_({_TYPES})-(\d\d)-(\d+)([A-Z]*)-(40|100|200|400)-(\d+)\.png", re.ASCII)
_SLIDE_FOLDER = re.compile(rf"(CNB|SOB)_(B|M)_({_TYPES})[-_](\d\d)-(\d+)([A-Z]*)", re.ASCII)
_FACTS = Path(__file__).parent / "facts" / "breakhis_slides.csv"


@dataclass(frozen=True)
class ImageName:
    """A BreakHis file name, taken apart."""

    biopsy: str
    subtype: str
    year: str
    number: str
    letters: str
    magnification: str
    sequence: int

    @property
    def label(self) -> str:
        return "benign" if self.subtype in BENIGN_SUBTYPES else "malignant"

    @property
    def case(self) -> str:
        """The patient: year and number, without the letters that tell slides apart."""
        return f"{self.year}-{self.number}"

    @property
    def slide(self) -> str:
        letter = self.label[0].upper()
        return f"{self.biopsy}_{letter}_{self.subtype}-{self.case}{self.letters}"


@dataclass(frozen=True)
class OfficialComparison:
    """A copy against the release: 82 slides with their number of images per magnification.

    `differences`: one row per slide and magnification whose number differs: slide, magnification,
    expected, found. `foreign`: slides that the release does not have.
    """

    complete: bool
    expected: int
    found: int
    differences: pd.DataFrame
    foreign: tuple[str, ...]

    @property
    def summary(self) -> str:
        """One sentence."""
        if self.complete:
            return f"Complete: all {self.expected:,} images of the 82 slides of BreakHis, and no other."
        fewer = self.differences[self.differences["found"] < self.differences["expected"]]
        more = self.differences[self.differences["found"] > self.differences["expected"]]
        lacking = int((fewer["expected"] - fewer["found"]).sum())
        parts = [f"{self.found:,} of the {self.expected:,} images of BreakHis"]
        if lacking:
            parts.append(f"{lacking:,} missing from {fewer['slide'].nunique()} slides")
        if len(more):
            extra = int((more["found"] - more["expected"]).sum())
            parts.append(f"{extra:,} more than the release has, in {shorten(sorted(set(more['slide'])))}")
        if self.foreign:
            parts.append(
                f"{len(self.foreign)} slides that the release has not, {shorten(list(self.foreign))}"
            )
        return "Not the complete release: " + "; ".join(parts) + "."

    def as_record(self) -> dict:
        return {
            "complete": self.complete,
            "expected": self.expected,
            "found": self.found,
            "differences": self.differences.to_dict("records"),
            "foreign_slides": list(self.foreign),
            "summary": self.summary,
        }


def compare_official(table: pd.DataFrame) -> OfficialComparison | None:
    """A manifest's table against the release; None where no slide of it is from BreakHis."""
    facts = _facts()
    expected = facts.set_index("slide")[[f"images_{name}" for name in MAGNIFICATIONS]]
    expected.columns = pd.Index(MAGNIFICATIONS)
    known = table["slide"].isin(expected.index)
    if not known.any():
        return None
    found = pd.crosstab(table.loc[known, "slide"], table.loc[known, "magnification"])
    found = found.reindex(index=expected.index, columns=expected.columns, fill_value=0)
    both = pd.DataFrame({"expected": expected.stack(), "found": found.stack()})
    differing = both[both["expected"] != both["found"]].rename_axis(["slide", "magnification"])
    differences = differing.reset_index()
    foreign = tuple(sorted(set(table.loc[~known & (table["slide"] != ""), "slide"])))
    here = int(known.sum())
    complete = differences.empty and not foreign and here == len(table)
    return OfficialComparison(complete, int(expected.to_numpy().sum()), here, differences, foreign)


@dataclass(frozen=True)
class Inventory:
    """What a copy of the data set holds.

    `counts`: one row per class, one column per magnification. `sizes`: images per `700x460`.
    `usable`: whether something can be trained on it, that is, two classes are there. `remarks`: what is
    irregular without being wrong.
    """

    images: int
    slides: int
    cases: int
    counts: pd.DataFrame
    problems: tuple[Problem, ...]
    sizes: dict[str, int]
    official: OfficialComparison | None = None
    remarks: tuple[str, ...] = ()

    @property
    def usable(self) -> bool:
        return bool(len(self.counts)) and bool((self.counts.sum(axis=1) > 0).sum() >= 2)

    def as_record(self) -> dict:
        """The inventory as `check --json` prints it."""
        counts = {
            str(label): {str(name): int(value) for name, value in row.items()}
            for label, row in self.counts.iterrows()
        }
        return {
            "images": self.images,
            "slides": self.slides,
            "cases": self.cases,
            "counts": counts,
            "problems": [problem.as_record() for problem in self.problems],
            "sizes": self.sizes,
            "official": self.official.as_record() if self.official else None,
            "remarks": list(self.remarks),
            "usable": self.usable,
        }

    def as_text(self) -> str:
        """The inventory as `check` prints it."""
        lines = [f"{self.images} images, {self.slides} slides, {self.cases} cases", self.counts.to_string()]
        if self.official:
            lines.append(self.official.summary)
        lines += self.remarks
        lines += [f"{problem.file}: {problem.message}" for problem in self.problems[:_LISTED]]
        if len(self.problems) > _LISTED:
            kinds = Counter(problem.kind for problem in self.problems[_LISTED:])
            rest = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common())
            lines.append(f"... and {len(self.problems) - _LISTED} more ({rest}); --json names all of them")
        if not self.usable:
            lines.append("Not usable: two classes are needed.")
        return "\n".join(lines)


def parse_name(name: str) -> ImageName | None:
    """What a file name says; None where it is no BreakHis name (or names a benign carcinoma)."""
    match = _NAME.fullmatch(name)
    if match is None:
        return None
    biopsy, letter, subtype, year, number, letters, power, sequence = match.groups()
    if (letter == "B") != (subtype in BENIGN_SUBTYPES):
        return None
    return ImageName(biopsy, subtype, year, number, letters, f"{power}X", int(sequence))


@cache
def _facts() -> pd.DataFrame:
    table = pd.read_csv(_FACTS, dtype={"slide": str, "case": str, "class": str, "subtype": str})
    return table.rename(columns={"class": "label"})


def slide_facts() -> pd.DataFrame:
    """The 82 slides of the release: slide, case, label, subtype, images per magnification, folds."""
    return _facts().copy()


def is_complete(table: pd.DataFrame) -> bool:
    """Whether a manifest holds all 82 slides of the release and no other."""
    return set(table["slide"]) == set(_facts()["slide"])


def find_layout(root: Path) -> tuple[list[str], list[Problem]]:
    """Every file below `root` whose name follows the grammar, whatever the folders around it.

    Works for the official archive, for Kaggle's copy (which nests `BreaKHis_v1` twice), for a folder inside
    either, and for a plain folder of correctly named files.

    Returns:
        Paths relative to `root`, and the problems met: files with other names, names that occur twice.

    Raises:
        DataError: `folder_missing`, `not_a_folder`, `no_images`, or `layout`: images, but no BreakHis name.
    """
    root = require_folder(root)
    paths, problems = find_images(root)
    if not paths:
        raise _no_images(root, problems)
    named, first = [], {}
    for path in paths:
        name = PurePosixPath(path).name
        if parse_name(name) is None:
            problems.append(Problem(printable(path), "name", _why_not(name)))
        elif name in first:
            message = f"The same name lies at {printable(first[name])}, which is used; this copy is not"
            problems.append(Problem(printable(path), "duplicate_name", message))
        else:
            first[name] = path
            named.append(path)
    if not named:
        raise _wrong_layout(paths)
    return named, problems


def scan(root: Path, progress: Progress | None = None) -> tuple[Manifest, Inventory]:
    """A copy of BreakHis as a manifest, and the inventory of what it holds.

    Only names and file headers are read. A file that cannot be used is left out of the manifest and named
    among the problems; the rest stays usable.

    Raises:
        DataError: as `find_layout`; `no_usable_images` where every file has a problem.
    """
    root = require_folder(root)
    paths, problems = find_layout(root)
    rows, sizes = [], Counter()
    for done, path in enumerate(paths, start=1):
        row = _examine(root, path, problems, sizes)
        if row:
            rows.append(row)
        if progress and (done % 100 == 0 or done == len(paths)):
            progress(done, len(paths))
    if not rows:
        raise DataError(
            f"None of the {len(paths)} images can be used",
            found=shorten([f"{problem.file}: {problem.message}" for problem in problems]),
            remedy="Copy or download the data set again",
            kind="no_usable_images",
        )
    table = pd.DataFrame(rows, columns=list(COLUMNS), dtype=str)
    manifest = Manifest(root, CLASSES, table.sort_values("image_id", ignore_index=True))
    for label in CLASSES:
        if not (table["label"] == label).any():
            problems.append(Problem(label, "empty_class", f"There is no image of class {label}"))
    return manifest, take_inventory(manifest, tuple(problems), dict(sizes.most_common()))


def take_inventory(
    manifest: Manifest, problems: tuple[Problem, ...] = (), sizes: dict[str, int] | None = None
) -> Inventory:
    """Count a manifest: images, slides and cases, and images per class and magnification."""
    table = manifest.table
    counts = pd.crosstab(table["label"], table["magnification"])
    columns = [name for name in MAGNIFICATIONS if name in counts.columns] or list(counts.columns)
    if manifest.classes == CLASSES and set(columns) <= set(MAGNIFICATIONS):
        columns = list(MAGNIFICATIONS)
    columns += [name for name in manifest.magnifications if name not in columns]
    counts = counts.reindex(index=list(manifest.classes), columns=columns, fill_value=0)
    known = [int(table.loc[table[name] != "", name].nunique()) for name in ("slide", "case")]
    official, remarks = compare_official(table), tuple(_remarks(table, sizes or {}))
    return Inventory(len(table), known[0], known[1], counts, problems, sizes or {}, official, remarks)


def _remarks(table: pd.DataFrame, sizes: dict[str, int]) -> Iterator[str]:
    """Irregularities that a reader should know, the release's own among them."""
    for case in AMBIGUOUS_CASES:
        subtypes = sorted(set(table.loc[table["case"] == case, "subtype"]))
        if len(subtypes) > 1:
            yield (
                f"Case {case} is filed under {' and '.join(subtypes)} with nearly the same images: "
                "the subtype task leaves it out."
            )
    if len(sizes) > 1:
        usual, *others = sizes
        rare = ", ".join(f"{sizes[size]} of {size}" for size in others[:3])
        yield f"Most images have {usual} pixels, {rare}{' and other sizes' if len(others) > 3 else ''}."
    known = table[(table["slide"] != "") & (table["magnification"] != "")]
    counts = known.groupby(["slide", "magnification"])["image_id"].agg(list).reset_index()
    alone = counts[counts["image_id"].map(len) == 1]
    single = [
        f"{slide} at {power}" for slide, power in zip(alone["slide"], alone["magnification"], strict=True)
    ]
    if single:
        yield f"A single image: {shorten(single)}."
    gaps = sum(_gaps(names) for names in counts["image_id"])
    if gaps:
        yield f"The numbering of images has {gaps:,} gaps; nothing need be missing."


def _gaps(names: list[str]) -> int:
    parsed = [parse_name(name) for name in names]
    numbers = {name.sequence for name in parsed if name}
    return max(numbers) - len(numbers) if numbers else 0


def _examine(root: Path, path: str, problems: list[Problem], sizes: Counter) -> tuple[str, ...] | None:
    """One row of the manifest, or None and a problem."""
    posix = PurePosixPath(path)
    name = parse_name(posix.name)
    if name is None:
        return None
    contradiction = _misfiled(name, posix.parts[:-1])
    if contradiction:
        problems.append(Problem(path, "misfiled", contradiction))
        return None
    try:
        header = read_header(root / path)
    except DataError as error:
        problems.append(Problem(path, error.kind, str(error)))
        return None
    problems += remarks_on(path, header)
    sizes[f"{header.width}x{header.height}"] += 1
    return (posix.name, path, name.label, name.subtype, name.case, name.slide, name.magnification)


def remarks_on(path: str, header: Header) -> list[Problem]:
    """What is unusual about an image that is used all the same."""
    return [Problem(printable(path), kind, text, excluded=False) for kind, text in header.remarks]


def _misfiled(name: ImageName, folders: tuple[str, ...]) -> str:
    """Why a file lies in the wrong folder, or nothing: name and folder then disagree about the truth."""
    for folder in folders:
        if folder in CLASSES and folder != name.label:
            return f"The name says {name.label}, the folder {folder}; one of them is wrong"
        if folder in MAGNIFICATIONS and folder != name.magnification:
            return f"The name says {name.magnification}, the folder {folder}; one of them is wrong"
        match = _SLIDE_FOLDER.fullmatch(folder)
        if match and folder.replace(f"_{match[4]}-", f"-{match[4]}-") != name.slide:
            return f"The name belongs to slide {name.slide}, the folder is {folder}; one of them is wrong"
    return ""


def _why_not(name: str) -> str:
    match = _NAME.fullmatch(name)
    if match:
        return f"{match[2]} (class) and {match[3]} (subtype) contradict each other in the name"
    return f"The name is not like {EXAMPLE_NAME}"


def _no_images(root: Path, problems: list[Problem]) -> DataError:
    unread = [problem for problem in problems if problem.kind in ("folder", "encoding")]
    if unread:
        found = shorten([f"{problem.file}: {problem.message}" for problem in unread])
    else:
        inside = sorted(printable(entry.name) for entry in root.iterdir())
        found = shorten(inside) if inside else "an empty folder"
    return DataError(
        f"There is no image in {printable(str(root))}",
        found=found,
        remedy="Give the folder that holds BreaKHis_v1, or one inside it",
        kind="no_images",
    )


def _wrong_layout(paths: list[str]) -> DataError:
    return DataError(
        f"No file here is named as BreakHis names its images, like {EXAMPLE_NAME}",
        found=f"{len(paths)} other images, {shorten([printable(path) for path in paths])}",
        remedy="Give an unchanged copy of BreaKHis_v1, one folder per class, or a CSV with path, label, case",
        kind="layout",
    )


def load_dataset(root: Path) -> Manifest:
    """Any data set as a manifest: the one way in for pages, training and commands.

    Raises:
        DataError: as `engine.data.datasets.inspect`.
    """
    from engine.data.datasets import inspect

    return inspect(Path(root))[0]
