"""Commands about images: sample, check, split, audit, probe, download, pack, cache."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

from engine.commands import flags, output
from engine.commands.flags import Adder
from engine.errors import DataError
from engine.runs.config import DataConfig, RunConfig


def register(add: Adder) -> None:
    """Declare these commands."""
    command = add(
        "sample",
        _sample,
        "Write a synthetic data set in the official layout, to try everything without a download.",
    )
    command.add_argument(
        "target", type=Path, metavar="DIR", help="folder to write; new, empty or an earlier sample"
    )
    command.add_argument("--seed", type=int, default=0, help="another seed draws other tissue")

    command = add(
        "check",
        _check,
        "Count what a data set holds and name what is wrong with it; exit 1 when it cannot be used.",
        as_json=True,
    )
    command.add_argument("data", type=Path, metavar="DATA", help="a copy of BreakHis, or another data set")
    command.add_argument(
        "--images", action="store_true", help="also hash every image and name those that show the same"
    )
    command.add_argument(
        "--headers",
        action="store_true",
        help="read names and headers only: seconds on a slow disk, but a flipped bit inside a file stays unseen",
    )

    command = add(
        "split", _split, "Divide a data set into train, val and test, and audit the result.", as_json=True
    )
    command.add_argument("data", type=Path, metavar="DATA", help="a copy of BreakHis, or another data set")
    for name in ("protocol", "magnifications", "task", "keep_ambiguous"):
        flags.add_option(command, DataConfig, name)
    command.add_argument("--fold", type=int, help="which fold is the test part; the first unless given")
    command.add_argument("--seed", type=int, default=0, help="seed of the split")
    command.add_argument("--out", type=Path, required=True, metavar="CSV", help="manifest to write")

    command = add(
        "audit",
        _audit,
        "Say what leaks between the splits of a manifest; exit 1 when something does.",
        as_json=True,
    )
    command.add_argument("manifest", type=Path, metavar="CSV", help="a manifest with a split column")
    command.add_argument(
        "--images", action="store_true", help="also compare the images: near duplicates on two sides"
    )

    command = add(
        "probe",
        _probe,
        "Measure what leakage is worth: one light classifier under an image split and under a case split.",
        as_json=True,
    )
    command.add_argument("data", type=Path, metavar="DATA", help="a copy of BreakHis, or another data set")
    command.add_argument("--model", default="tf_efficientnet_lite0", help="whose frozen features are used")
    command.add_argument("--pretrained", default="offline", help="hub, offline or none")
    command.add_argument("--magnification", type=flags.listed, default=(), help="these magnifications only")
    command.add_argument("--seed", type=int, default=0, help="seed of both splits")

    command = add(
        "download",
        _download,
        "Fetch the official BreakHis archive; interrupted, it goes on where it was.",
        as_json=True,
    )
    command.add_argument("--to", type=Path, required=True, metavar="DIR", help="folder to write to")
    command.add_argument("--url", help="another address of the archive (.tar.gz)")

    command = add(
        "pack",
        _pack,
        "Decode a data set once into a packed cache that training reads at memory speed.",
        as_json=True,
    )
    command.add_argument("data", type=Path, metavar="DATA")
    command.add_argument(
        "--image-size", "--image_size", type=int, default=0, help="side in pixels; 0 = native"
    )
    command.add_argument("--geometry", choices=("square", "letterbox", "tiles"), default="square")
    command.add_argument(
        "--interpolation", choices=("area", "bilinear"), default="area", help="bilinear: as the study resized"
    )

    command = add(
        "cache",
        _cache,
        "List the packed pixels, features and thumbnails that are kept, and forget what is not used.",
        as_json=True,
    )
    command.add_argument(
        "--limit",
        type=float,
        metavar="GB",
        help="forget the least recently used until the rest takes at most so much; 0 forgets all that nobody reads",
    )


def _sample(given: argparse.Namespace) -> int:
    from engine.data.sample import write_sample

    write_sample(given.target, seed=given.seed, progress=output.progress("Drawing tissue"))
    print(given.target)
    return 0


def _check(given: argparse.Namespace) -> int:
    from engine.data.datasets import inspect

    try:
        verify = output.progress("Verifying checksums") if not given.headers else False
        manifest, inventory = inspect(given.data, progress=output.progress("Reading headers"), verify=verify)
    except DataError as error:
        output.say(f"Error: {error}")
        if given.json:
            record = {"images": 0, "slides": 0, "cases": 0, "counts": {}, "problems": [error.as_record()]}
            output.answer(given, {**record, "usable": False}, "")
        return 1
    record, text = inventory.as_record(), inventory.as_text()
    if given.images:
        from engine.data.hashing import find_duplicates

        found = find_duplicates(manifest, progress=output.progress("Hashing"))
        record["duplicates"] = found.as_record()
        text = f"{text}\n{found.as_text()}"
    output.answer(given, record, text)
    return 0 if inventory.usable else 1


def _split(given: argparse.Namespace) -> int:
    from engine.data.manifest import write_manifest
    from engine.data.splits import composition
    from engine.runs.launch import default_fold, prepare_data

    fold = default_fold(given.protocol) if given.fold is None else given.fold
    config = RunConfig().changed(
        data__root=str(given.data),
        data__protocol=given.protocol,
        data__fold=fold,
        data__split_seed=given.seed,
        data__magnifications=given.magnification,
        data__task=given.task,
        data__keep_ambiguous=given.keep_ambiguous,
    )
    ready = prepare_data(config)
    write_manifest(ready.manifest, given.out, absolute=True)
    record = {
        "manifest": str(given.out),
        "split_hash": ready.split_hash,
        "images": ready.manifest.table["split"].value_counts().to_dict(),
        "composition": composition(ready.manifest.table, ("label", "subtype", "magnification")).to_dict(
            "records"
        ),
        "audit": ready.audit.as_record(),
        "warnings": list(ready.warnings),
    }
    text = "\n".join(
        [
            composition(ready.manifest.table, ("label", "subtype")).to_string(index=False),
            f"split {ready.split_hash}",
            ready.audit.verdict,
            *ready.warnings,
            f"Written: {given.out}",
        ]
    )
    output.answer(given, record, text)
    return 0


def _audit(given: argparse.Namespace) -> int:
    from engine.data.audit import audit, audit_images
    from engine.data.manifest import read_manifest

    manifest = read_manifest(given.manifest)
    bar = output.progress("Comparing")
    found = audit_images(manifest, progress=bar) if given.images else audit(manifest.table)
    output.answer(given, found.as_record(), found.as_text())
    return 1 if found.level == "leak" else 0


def _probe(given: argparse.Namespace) -> int:
    from engine.analysis.probe import probe_dataset
    from engine.data.breakhis import load_dataset

    bars: dict[str, Callable[[int, int], None]] = {}

    def step(label: str, done: int, total: int) -> None:
        if label not in bars:
            bars[label] = output.progress(label)
        bars[label](done, total)

    manifest = load_dataset(given.data).only(given.magnification)
    found = probe_dataset(manifest, given.model, given.pretrained, seed=given.seed, progress=step)
    output.answer(given, found.as_record(), found.as_text())
    return 0


def _download(given: argparse.Namespace) -> int:
    from engine.data.download import OFFICIAL_URL, download

    found = download(given.to, given.url or OFFICIAL_URL, progress=output.progress("Fetching", "byte"))
    text = f"{found.inventory.images} images in {found.folder}"
    output.answer(given, found.as_record(), text if found.complete else f"{text}: not the complete data set")
    return 0 if found.complete else 1


def _pack(given: argparse.Namespace) -> int:
    from engine.data.breakhis import load_dataset
    from engine.data.cache import pack
    from engine.data.preprocessing import NATIVE, Preprocessing

    native = given.geometry == "tiles" or not given.image_size
    preprocessing = NATIVE if native else Preprocessing(given.image_size, given.geometry, given.interpolation)
    packed = pack(
        load_dataset(given.data), preprocessing, progress=output.progress("Packing"), say=output.say
    )
    count = int(packed.readable.sum())
    record = {
        "images": count,
        "file": str(packed.source),
        "bytes": packed.bytes,
        "problems": [problem.as_record() for problem in packed.problems],
    }
    lines = [f"{count} images, {packed.bytes / 1e6:,.0f} MB, in {packed.source}"]
    lines += [f"Left out: {problem.message}" for problem in packed.problems]
    output.answer(given, record, "\n".join(lines))
    return 0


def _cache(given: argparse.Namespace) -> int:
    from engine.data import cache_room

    folder = cache_room.default_cache_dir()
    gone = [] if given.limit is None else cache_room.prune(folder, int(given.limit * 1e9), output.say)
    left = cache_room.entries(folder)
    record = {
        "folder": str(folder),
        "limit_bytes": cache_room.limit_bytes(),
        "bytes": sum(entry.bytes for entry in left),
        "entries": [entry.as_record() for entry in left],
        "forgotten": [entry.as_record() for entry in gone],
    }
    output.answer(given, record, cache_room.as_text(folder, left))
    return 0
