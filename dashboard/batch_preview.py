"""What a training batch looks like after augmentation, drawn by a process of its own.

albumentations imports torch (six seconds, half a gigabyte), which the server does not carry for a picture:
`python -m dashboard.batch_preview RECIPE SIZE GEOMETRY N IMAGE...` writes a contact sheet (PNG) to stdout.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from engine.errors import DataError

ROOT = Path(__file__).resolve().parent.parent
GAP = 4
TIMEOUT_S = 120


def sheet(paths: Sequence[Path], recipe: str, size: int, geometry: str, n: int) -> bytes:
    """The contact sheet as PNG: a row per image, the image as it is and `n` augmented versions.

    Raises:
        DataError: an image cannot be decoded, or the preview took too long.
    """
    command = [
        sys.executable,
        "-m",
        "dashboard.batch_preview",
        recipe,
        str(size),
        geometry,
        str(n),
        *map(str, paths),
    ]
    environment = {**os.environ, "NO_ALBUMENTATIONS_UPDATE": "1"}
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            cwd=ROOT,
            env=environment,
            timeout=TIMEOUT_S,
            stdin=subprocess.DEVNULL,
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
    return done.stdout


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


def _main(arguments: Sequence[str]) -> int:
    from engine.data import augment, images

    recipe, size, geometry, n, *paths = arguments
    rows = []
    for path in paths:
        image = images.decode(Path(path))
        shown = images.resize(image, int(size), "square" if geometry == "tiles" else geometry)
        made = augment.preview(image, recipe, int(size), geometry, int(n))
        rows.append(np.concatenate([shown[None, : made.shape[1], : made.shape[2]], made]))
    sys.stdout.buffer.write(images.encode_png(tile(rows)))
    return 0


if __name__ == "__main__":
    sys.exit(_main(sys.argv[1:]))
