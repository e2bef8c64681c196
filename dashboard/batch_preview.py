"""What a training batch looks like after augmentation, drawn by a process of its own.

albumentations imports torch (six seconds, half a gigabyte), which the server does not carry for a picture:
`python -m dashboard.batch_preview` reads what is wanted (JSON) from stdin and writes a line of JSON and a contact
sheet (PNG) to stdout.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from engine.data.preprocessing import Preprocessing
from engine.errors import DataError

ROOT = Path(__file__).resolve().parent.parent
GAP = 4
CELL = 224
"""Widest cell of a sheet, pixels: larger squares are made at their own size and shrunk to be shown."""
TIMEOUT_S = 120


def sheet(
    paths: Sequence[str | Path], recipe: str, preprocessing: dict[str, Any], n: int
) -> tuple[bytes, list[int]]:
    """A row per image: as it is; recoloured, where the stain is normalised; and `n` augmented versions.

    Args:
        recipe: one of `engine.data.augment.RECIPES`.
        preprocessing: `engine.data.preprocessing.Preprocessing.as_record`.

    Returns:
        The contact sheet as PNG, and the rows (from 0) whose stain could not be normalised.

    Raises:
        DataError: an image cannot be decoded, or the preview took too long.
    """
    wanted = {"paths": list(map(str, paths)), "recipe": recipe, "preprocessing": preprocessing, "n": n}
    command = [sys.executable, "-m", "dashboard.batch_preview"]
    environment = {**os.environ, "NO_ALBUMENTATIONS_UPDATE": "1"}
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            cwd=ROOT,
            env=environment,
            timeout=TIMEOUT_S,
            input=json.dumps(wanted).encode(),
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise DataError(
            "The preview took too long",
            found=f"more than {TIMEOUT_S} s",
            remedy="Try again when the machine is less busy",
        ) from error
    if done.returncode != 0:
        lines = done.stderr.decode("utf-8", errors="replace").strip().splitlines()
        raise DataError(
            "The preview cannot be drawn",
            found=lines[-1][:200] if lines else None,
            remedy="Choose another recipe or image size",
        )
    said, _, picture = done.stdout.partition(b"\n")
    return picture, json.loads(said)


def tile(rows: Sequence[np.ndarray]) -> np.ndarray:
    """Rows of images (n, h, w, 3) uint8 on one white sheet."""
    height, width = rows[0].shape[1:3]
    count = max(len(row) for row in rows)
    canvas = np.full((len(rows) * (height + GAP) - GAP, count * (width + GAP) - GAP, 3), 255, dtype=np.uint8)
    for r, row in enumerate(rows):
        for c, image in enumerate(row):
            y, x = r * (height + GAP), c * (width + GAP)
            canvas[y : y + height, x : x + width] = image[:height, :width]
    return canvas


def draw(wanted: dict[str, Any]) -> tuple[np.ndarray, list[int]]:
    """The sheet that `sheet` asks for as an image (h, w, 3), and the rows whose stain could not be normalised.

    Raises:
        DataError, ConfigError: an image cannot be decoded; unknown recipe.
    """
    from engine.data import augment, images

    preprocessing = Preprocessing.from_record(wanted["preprocessing"])
    # A whole photograph beside windows of it: squeezed into the same square.
    whole = (
        replace(preprocessing, geometry="letterbox") if preprocessing.geometry == "tiles" else preprocessing
    )
    rows, own_colours = [], []
    for number, path in enumerate(wanted["paths"]):
        image = images.decode(Path(path))
        cells = [replace(whole, stain=None).squares(image)[0]]
        cells += [whole.squares(image)[0]] if whole.stain else []
        made, normalised = augment.preview(image, wanted["recipe"], preprocessing, wanted["n"])
        rows.append(
            np.stack([images.shrink(cell, min(CELL, preprocessing.size)) for cell in [*cells, *made]])
        )
        own_colours += [] if normalised else [number]
    return tile(rows), own_colours


def _main() -> int:
    from engine.data.images import encode_png

    picture, own_colours = draw(json.load(sys.stdin))
    sys.stdout.buffer.write(json.dumps(own_colours).encode() + b"\n" + encode_png(picture))
    return 0


if __name__ == "__main__":
    sys.exit(_main())
