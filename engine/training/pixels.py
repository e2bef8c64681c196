"""The pixels of one run: how they are made, which images have none, and the record of both in the run's folder.

`pixels.json` is written once, after packing. A resumed run reads its stain reference from there, and leaves out
the images that were left out before even if they could be read by now: it ends as it would have without the break.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from engine.data import cache, stain
from engine.data.cache import PackedImages
from engine.data.manifest import Manifest
from engine.data.preprocessing import Preprocessing
from engine.errors import DataError, shorten
from engine.progress import Progress
from engine.runs.folder import RunFolder


def preprocessing_of(
    folder: RunFolder, manifest: Manifest, size: int, geometry: str, interpolation: str, method: str
) -> Preprocessing:
    """What this run does to an image.

    Args:
        manifest: with its split: the stain reference is taken from its training part, whatever the seed.
        method: stain normalisation, one of `engine.data.stain.METHODS` or `none`.

    Raises:
        DataError: no training image can serve as stain reference.
    """
    recorded = (folder.pixels() or {}).get("preprocessing")
    if recorded:
        return Preprocessing.from_record(recorded)
    normaliser = None
    if method != "none":
        normaliser = stain.StainNormaliser(stain.choose_reference(manifest, method))
    return Preprocessing(size, geometry, interpolation, normaliser)


def packed_of(
    folder: RunFolder,
    manifest: Manifest,
    preprocessing: Preprocessing,
    progress: Progress,
    *,
    writes: bool = True,
    say: Callable[[str], object] = print,
) -> tuple[PackedImages, np.ndarray]:
    """The packed pixels of a run's images, and which rows of the manifest are used.

    Images that cannot be decoded are left out, named in the log and in `pixels.json`.

    Args:
        writes: whether this process is the one that writes the run's folder.

    Returns:
        The pixels in the manifest's order, and bool per row.

    Raises:
        DataError: as `engine.data.cache.pack`; an image that was read when the run began cannot be any more.
    """
    packed = cache.pack(manifest, preprocessing, progress=progress, say=say)
    ids = dict(zip(manifest.table["path"], manifest.table["image_id"], strict=True))
    record = folder.pixels()
    if record is None:
        record = {
            "preprocessing": preprocessing.as_record(),
            "images": len(manifest),
            "left_out": [
                {"image_id": ids[problem.file], "kind": problem.kind, "message": problem.message}
                for problem in packed.problems
                if problem.file in ids
            ],
            "not_normalised": [ids[path] for path in packed.fallbacks if path in ids],
        }
        if writes:
            folder.write_pixels(record)
        for left in record["left_out"]:
            say(f"Left out: {left['message']}")
        if preprocessing.stain:
            reference = preprocessing.stain.reference
            say(
                f"Stain: {reference.method}, after {reference.image_id}; {len(record['not_normalised'])} of "
                f"{len(manifest)} images could not be normalised and keep their own colours."
            )
    unused = {left["image_id"] for left in record.get("left_out", ())}
    lost = [problem for problem in packed.problems if ids.get(problem.file, "") not in {"", *unused}]
    if lost:
        raise DataError(
            "Images that this run was trained on cannot be read any more",
            found=shorten([problem.message for problem in lost]),
            remedy="Put the files back as they were, then resume; or start a new run without them",
            kind="changed",
        )
    used = packed.readable & ~manifest.table["image_id"].isin(unused).to_numpy()
    return packed, used
