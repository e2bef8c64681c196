"""How fast pixels reach the model: the usual folder pipeline against the packed cache, on the same work.

Same images, same size, same augmentation (flips, rotation up to 36 degrees, translation up to 30%), each on one
core. The folder pipeline decodes with PIL, works in torchvision v2 and normalises to float32; ours reads the
cache, works in albumentations and hands over uint8, which the device normalises.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from engine import machine
from engine.data import augment, cache
from engine.data.images import decode
from engine.data.manifest import Manifest
from engine.data.preprocessing import Preprocessing
from engine.progress import Progress

_ONE_THREAD = ("folder", "decode", "augmentation in memory", "cache")
"""Measured in seconds of the core, not of the clock: what else runs on the machine does not count."""
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def run(
    manifest: Manifest,
    size: int = 224,
    seconds: float = 4.0,
    recipe: str = "study",
    rounds: int = 3,
    progress: Progress | None = None,
) -> list[dict]:
    """Measure every pipeline and return records: `name`, `images_per_second`, `cores`, `help`, and, where it
    has one, `ratio` to the folder pipeline on as many cores.

    Pipelines take turns for `rounds` rounds of `seconds` each and the median counts, so that another job on
    the machine slows them all alike. Rates are those of the first 512 images, memory is measured over all. Uses
    temporary caches and removes them.
    """
    import cv2
    import torch

    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    images = manifest.with_table(manifest.table.head(512))
    with tempfile.TemporaryDirectory() as folder:
        packed, packing, share = _packing(images, size, Path(folder), rounds)
        jobs = _jobs(images, packed, size, recipe)
        rates: dict[str, list[tuple[float, float]]] = {name: [] for name in jobs}
        for turn in range(rounds):
            for number, (name, (_, _, work)) in enumerate(jobs.items()):
                rates[name].append(_rate(work, seconds))
                if progress:
                    progress(turn * len(jobs) + number + 1, rounds * len(jobs))
        if len(manifest) > len(images):  # memory must not depend on how many there are
            packed = cache.pack(manifest, Preprocessing(size), Path(folder) / "whole")
        growth = _memory_growth(packed, size, recipe)
        read = len(packed)
    records = [
        {
            "name": name,
            "images_per_second": float(np.median([rate[name not in _ONE_THREAD] for rate in rates[name]])),
            "images_per_second_by_the_clock": float(np.median([rate[1] for rate in rates[name]])),
            "cores": cores,
            "help": text,
        }
        for name, (cores, text, _) in jobs.items()
    ]
    cores = machine.cores()
    text = "building the cache; ratio = its time to decoding alone, back to back"
    record = {"name": "pack", "images_per_second": packing, "cores": cores, "ratio": share, "help": text}
    records.append(record)
    return [*_with_ratios(records), _memory_record(growth, read)]


def as_text(records: list[dict]) -> str:
    """The records as a table for people."""
    lines = [f"{'pipeline':<26}{'cores':>6}{'images/s':>11}{'ratio':>8}  what"]
    for record in records:
        rate = record.get("images_per_second")
        ratio = f"{record['ratio']:.2f}" if "ratio" in record else ""
        value = f"{rate:.0f}" if rate is not None else f"{record['megabytes']:.0f} MB"
        lines.append(f"{record['name']:<26}{record['cores']:>6}{value:>11}{ratio:>8}  {record['help']}")
    return "\n".join(lines)


def _jobs(
    images: Manifest, packed: cache.PackedImages, size: int, recipe: str
) -> dict[str, tuple[int, str, Callable[[int], int]]]:
    """name -> (cores, what it is, work): `work(turn)` does some images and says how many."""
    cores = machine.cores()
    paths = [images.absolute(path) for path in images.table["path"]]
    ours = augment.recipe(recipe, size)
    held = [packed[row].copy() for row in range(len(packed))]
    pipeline = augment.recipe(recipe, size).pipeline
    folder = _folder_pipeline(size)
    pool = ThreadPoolExecutor(cores)

    def augmented(turn: int) -> int:
        rows = range(turn * 32, turn * 32 + 32)
        images = [ours(packed[row % len(paths)], augment.sample_seed(0, 0, row)) for row in rows]
        return len(np.stack(images))

    def bare(turn: int) -> int:
        """The pipeline itself, never seeded: the most that albumentations can give."""
        rows = range(turn * 32, turn * 32 + 32)
        return len(np.stack([pipeline(image=held[row % len(held)])["image"] for row in rows]))

    def decode_all(turn: int) -> int:
        part = [paths[(turn * 16 + number) % len(paths)] for number in range(16)]
        return len(list(pool.map(lambda path: decode(path).shape, part)))

    def from_folder(turn: int) -> int:
        return len([folder(paths[(turn * 8 + number) % len(paths)]) for number in range(8)])

    return {
        "folder": (1, "PIL decode, torchvision v2, float32", from_folder),
        "decode": (1, "decoding alone", lambda turn: decode(paths[turn % len(paths)]).shape[0] and 1),
        "decode, all cores": (cores, "decoding alone", decode_all),
        "augmentation in memory": (1, "pixels in memory, same recipe, never seeded", bare),
        "cache": (1, "packed cache, same recipe, uint8", augmented),
        "cache, DataLoader": (
            1,
            "the same through a DataLoader process",
            _through_loader(packed, size, recipe),
        ),
    }


def _packing(
    images: Manifest, size: int, folder: Path, rounds: int
) -> tuple[cache.PackedImages, float, float]:
    """The cache, images packed per second, and the time of packing over the time of decoding alone: medians
    of rounds in which one follows the other."""
    paths = [images.absolute(path) for path in images.table["path"]]
    decoding, packing = [], []
    packed = None
    for turn in range(rounds):
        began = time.perf_counter()
        with ThreadPoolExecutor(machine.cores()) as pool:
            list(pool.map(lambda path: decode(path).shape, paths))
        between = time.perf_counter()
        packed = cache.pack(images, Preprocessing(size), folder / str(turn))
        decoding.append(between - began)
        packing.append(time.perf_counter() - between)
    assert packed is not None
    share = float(np.median(np.array(packing) / np.array(decoding)))
    return packed, len(images) / float(np.median(packing)), share


def _folder_pipeline(size: int) -> Callable[[Path], object]:
    """What `ImageFolder` users do: decode, resize, flip, affine, to float, normalise."""
    import torch
    from PIL import Image
    from torchvision.transforms import v2

    steps = v2.Compose(
        [
            v2.Resize((size, size), antialias=True),
            v2.RandomHorizontalFlip(),
            v2.RandomVerticalFlip(),
            v2.RandomAffine([-36, 36], translate=(0.3, 0.3), interpolation=v2.InterpolationMode.BILINEAR),
            v2.PILToTensor(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(_MEAN, _STD),
        ]
    )

    def load(path: Path) -> object:
        with path.open("rb") as file:
            return steps(Image.open(file).convert("RGB"))

    return load


def _through_loader(packed: cache.PackedImages, size: int, recipe: str) -> Callable[[int], int]:
    """The trainer's own loader with one process, which keeps the other core free for the network."""
    from engine.training.device import choose
    from engine.training.loading import Loader, TrainingImages, batches

    rows = np.arange(len(packed))
    source = TrainingImages(packed, rows, np.zeros(len(rows), np.int64), recipe, size, "square", 0)
    loader = Loader(source, choose("cpu"), workers=1)
    stream: Iterator = iter(())
    epoch = 0

    def work(turn: int) -> int:
        nonlocal stream, epoch
        for pixels, _ in stream:
            return len(pixels)
        epoch += 1
        many = np.tile(rows, max(1, 4096 // len(rows)))
        stream = iter(loader.serve(batches(many, epoch, 32)))
        return len(next(stream)[0])

    return work


def _rate(work: Callable[[int], int], seconds: float) -> tuple[float, float]:
    """Images per second of this process's core, and per second of the clock."""
    for turn in range(3):  # starts processes, fills caches
        work(turn)
    began, busy, done, turn = time.perf_counter(), time.process_time(), 0, 3
    while time.perf_counter() - began < seconds:
        done += work(turn)
        turn += 1
    spent = max(time.process_time() - busy, 1e-9)
    return done / spent, done / (time.perf_counter() - began)


def _with_ratios(records: list[dict]) -> list[dict]:
    """`ratio` to the folder pipeline, and of the cache to augmentation in memory."""
    rate = {record["name"]: record["images_per_second"] for record in records}
    for record in records:
        if record["name"] in ("cache", "augmentation in memory"):
            record["ratio"] = record["images_per_second"] / rate["folder"]
        if record["name"] == "cache, DataLoader":  # another process: only the clock sees both alike
            record["ratio"] = record["images_per_second"] / records[0]["images_per_second_by_the_clock"]
    records.append(
        {
            "name": "cache / memory",
            "images_per_second": rate["cache"],
            "cores": 1,
            "ratio": rate["cache"] / rate["augmentation in memory"],
            "help": "share of what augmentation alone reaches",
        }
    )
    return records


def _memory_growth(packed: cache.PackedImages, size: int, recipe: str) -> float:
    """Anonymous memory (bytes) that grows while every image is read and augmented once."""
    ours = augment.recipe(recipe, size)
    before = _anonymous()
    for row in range(len(packed)):
        ours(packed[row], row)
    return max(0.0, _anonymous() - before)


def _anonymous() -> float:
    """Anonymous resident bytes of this process; pages of the cache file do not count. Linux only, else 0."""
    try:
        text = Path("/proc/self/status").read_text(encoding="ascii")
    except OSError:
        return 0.0
    line = next((line for line in text.splitlines() if line.startswith("RssAnon")), "RssAnon: 0 kB")
    return float(line.split()[1]) * 1024


def _memory_record(growth: float, images: int) -> dict:
    text = f"anonymous memory added by reading and augmenting {images:,} images once"
    return {"name": "memory growth", "cores": 1, "megabytes": growth / 1e6, "help": text}
