"""The sample data set: synthetic tissue in the layout and grammar of BreakHis, for trying everything out.

26 cases, four of them with two slides, eight subtypes, two classes, four magnifications: 600 images of
350 x 230 pixels. The case numbers (`22-9....`) do not exist in BreakHis, so that nobody takes one for the other.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from engine.data.breakhis import BENIGN_SUBTYPES, SUBTYPES
from engine.data.files import printable
from engine.data.manifest import MAGNIFICATIONS
from engine.errors import DataError
from engine.machine import cores
from engine.progress import Progress

MARK = "README.txt"
_FIRST_LINE = "Synthetic tissue, not BreakHis."
_CASES = {"A": 3, "F": 3, "PT": 3, "TA": 3, "DC": 5, "LC": 3, "MC": 3, "PC": 3}
_SECOND_SLIDES = ("A", "F", "DC", "LC")
"""Subtypes whose first case has two slides."""

_README = f"""{_FIRST_LINE}

Every image here was computed by `python -m engine sample`; none shows a patient. Folders and file names
follow the grammar of BreakHis, the case numbers (22-9xxxx) do not exist there. Each slide has a stain and a light of
its own, so a model that has seen a slide recognises it: compare `--protocol image` with `--protocol case`.
"""


@dataclass(frozen=True)
class _Slide:
    subtype: str
    number: int
    letters: str

    @property
    def label(self) -> str:
        return "benign" if self.subtype in BENIGN_SUBTYPES else "malignant"

    def folder(self, magnification: str) -> Path:
        stem = f"SOB_{self.label[0].upper()}_{self.subtype}_22-{self.number}{self.letters}"
        subtype = SUBTYPES[self.subtype].replace(" ", "_")
        return Path("BreaKHis_v1/histology_slides/breast", self.label, "SOB", subtype) / stem / magnification

    def name(self, magnification: str, sequence: int) -> str:
        power = magnification.removesuffix("X")
        letter = self.label[0].upper()
        return f"SOB_{letter}_{self.subtype}-22-{self.number}{self.letters}-{power}-{sequence:03d}.png"


def write_sample(
    target: Path,
    seed: int = 0,
    progress: Progress | None = None,
    *,
    slides: int | None = None,
    per_magnification: int = 5,
) -> int:
    """Write the sample data set; the same seed gives the same bytes.

    Args:
        target: a folder that is new, empty, or holds a former sample (which is replaced).
        seed: another seed, another set of tissues.
        progress: called with (images written, images in all).
        slides: only the first so many slides (tests); classes take turns.
        per_magnification: images per slide and magnification.

    Returns:
        How many images were written.

    Raises:
        DataError: `not_empty`, the folder holds something else; `unwritable`.
    """
    target = Path(target).expanduser()
    _prepare(target)
    chosen = list(_slides())[:slides]
    total, done = len(chosen) * len(MAGNIFICATIONS) * per_magnification, 0
    with ThreadPoolExecutor(max_workers=min(4, cores())) as pool:
        jobs = [pool.submit(_write_slide, target, slide, seed, per_magnification) for slide in chosen]
        for job in jobs:
            done += job.result()
            if progress:
                progress(done, total)
    return done


def is_sample(folder: Path) -> bool:
    """Whether a folder holds a sample that `write_sample` wrote."""
    try:
        with (Path(folder) / MARK).open(encoding="utf-8") as file:
            return file.readline().strip() == _FIRST_LINE
    except (OSError, UnicodeDecodeError):
        return False


def _slides() -> Iterator[_Slide]:
    """The slides, so ordered that the first few already hold both classes."""
    cases: list[tuple[str, int]] = []
    for turn in range(max(_CASES.values())):
        cases += [
            (subtype, turn)
            for subtype in ("A", "DC", "F", "LC", "PT", "MC", "TA", "PC")
            if turn < _CASES[subtype]
        ]
    for number, (subtype, turn) in enumerate(cases):
        two = turn == 0 and subtype in _SECOND_SLIDES
        yield _Slide(subtype, 90001 + 37 * number, "AB" if two else "")
        if two:
            yield _Slide(subtype, 90001 + 37 * number, "CD")


def _prepare(target: Path) -> None:
    try:
        if target.is_dir() and any(target.iterdir()):
            if not is_sample(target):
                raise DataError(
                    f"{printable(str(target))} is not empty, and what it holds is no sample data set",
                    found=", ".join(sorted(printable(entry.name) for entry in target.iterdir())[:5]),
                    remedy="Give a new folder",
                    kind="not_empty",
                )
            shutil.rmtree(target / "BreaKHis_v1", ignore_errors=True)
        target.mkdir(parents=True, exist_ok=True)
        (target / MARK).write_text(_README, encoding="utf-8")
    except OSError as error:
        raise DataError(
            f"The sample cannot be written to {printable(str(target))}",
            found=error.strerror or str(error),
            remedy="Give a folder that can be written",
            kind="unwritable",
        ) from error


def _write_slide(target: Path, slide: _Slide, seed: int, per_magnification: int) -> int:
    import cv2

    from engine.data import tissue

    case = np.random.default_rng([seed, slide.number])
    rng = np.random.default_rng([seed, slide.number, len(slide.letters) and ord(slide.letters[0])])
    style = tissue.draw_style(case if slide.letters in ("", "AB") else rng, slide.label == "malignant")
    canvas = tissue.grow(slide.subtype, style, rng)
    for magnification in MAGNIFICATIONS:
        folder = target / slide.folder(magnification)
        folder.mkdir(parents=True, exist_ok=True)
        for sequence in range(1, per_magnification + 1):
            image = tissue.photograph(canvas, style, magnification, rng)
            encoded = cv2.imencode(".png", image[..., ::-1], [cv2.IMWRITE_PNG_COMPRESSION, 1])[1]
            (folder / slide.name(magnification, sequence)).write_bytes(encoded.tobytes())
    return len(MAGNIFICATIONS) * per_magnification
