"""How fast maps are, beside pytorch-grad-cam's usual loop over images and beside plain inference.

The sides run in turn, round after round, on the same images, network and threads, each from decoded images
(resize and normalisation included); the median round of each counts. Ours also brings each map back to the
original 700 x 460 pixels, the library's stays at the network's size. Plain inference is measured twice: in one
batch, and in passes as small as ours, which is the faster and the one that counts.
The network has random weights, as only time and equality are measured.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from time import perf_counter
from typing import Any

import numpy as np

Note = Callable[[str], None]
LIMITS = {"loop": 4.0, "inference": 1.15, "equal": 1e-5, "click_s": 1.0, "overlay_s": 0.15}


def run(
    model: str = "tf_efficientnet_b0",
    images: int = 16,
    rounds: int = 9,
    note: Note = lambda _: None,
) -> list[dict]:
    """Measure.

    Args:
        model: a name of the catalogue.
        images: maps per round.
        rounds: repetitions of each side; the median counts.

    Returns:
        Records `what, ours_s, theirs_s, ratio, limit_s, within, detail`; theirs is None where there is no
        counterpart.
    """
    from engine.explain.cam import at_once

    note(f"building {model}")
    loaded = _network(model)
    usual = _in_default_format(loaded)
    pixels = _images(images)
    sides: dict[str, Callable[[], Any]] = {
        "loop": lambda: _loop(usual, pixels),
        "ours": lambda: _ours(loaded, pixels),
        "plain": lambda: _inference(loaded, pixels, at_once(loaded)),
        "one batch": lambda: _inference(loaded, pixels, len(pixels)),
    }
    maps = {name: work() for name, work in sides.items()}  # the first round warms up
    gap = _gap(maps["ours"], maps["loop"], loaded.image_size)
    seconds = _medians(sides, rounds, note)
    return [
        *_speed_records(model, images, seconds, gap),
        _click(loaded, note),
        _overlay(pixels[0], maps["ours"][0], note),
    ]


def _speed_records(model: str, images: int, seconds: dict[str, float], gap: float) -> list[dict]:
    import torch

    ours, loop, plain = seconds["ours"], seconds["loop"], seconds["plain"]
    detail = (
        f"maps per second: ours {images / ours:.1f}, one by one {images / loop:.1f}, plain inference "
        f"{images / plain:.1f} (in one batch {images / seconds['one batch']:.1f}); {torch.get_num_threads()} threads; "
        f"greatest difference between maps {gap:.1e}"
    )
    beside = f"GradCAM of {images} images, {model}"
    fast = loop / ours >= LIMITS["loop"] and gap <= LIMITS["equal"]
    return [
        _record(
            f"{beside}, beside pytorch-grad-cam one by one", ours, loop, loop / LIMITS["loop"], fast, detail
        ),
        _record(
            f"{beside}, beside plain inference",
            ours,
            plain,
            plain * LIMITS["inference"],
            ours <= plain * LIMITS["inference"],
            f"{ours / plain:.2f} times plain inference",
        ),
    ]


def _record(
    what: str, ours: float, theirs: float | None, limit: float, within: bool, detail: str = ""
) -> dict:
    return {
        "what": what,
        "ours_s": ours,
        "theirs_s": theirs,
        "ratio": None if theirs is None else theirs / ours,
        "limit_s": limit,
        "within": within,
        "detail": detail,
    }


def _medians(sides: dict[str, Callable[[], Any]], rounds: int, note: Note) -> dict[str, float]:
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(rounds):
        note(f"round {number + 1} of {rounds}")
        for name, work in sides.items():
            start = perf_counter()
            work()
            seconds[name].append(perf_counter() - start)
    return {name: float(np.median(values)) for name, values in seconds.items()}


# --- the sides -----------------------------------------------------------------------------------------


def _loop(loaded, pixels: list[np.ndarray]) -> list[np.ndarray]:
    """As the library's README shows it: one image after another, every parameter with a gradient, timm's
    own memory format."""
    import torch
    from pytorch_grad_cam import GradCAM
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    from engine.explain.cam import find_layer

    loaded.model.requires_grad_(True)
    layer = find_layer(loaded.model, loaded.architecture.cam_layer)
    found = []
    with GradCAM(model=loaded.model, target_layers=[layer]) as made:
        for image in pixels:
            tensor = loaded.normalise(torch.from_numpy(_square(loaded, image)[None])).contiguous()
            targets: Any = [ClassifierOutputTarget(1)]
            found.append(made(input_tensor=tensor, targets=targets)[0])
    loaded.model.zero_grad(set_to_none=True)
    return found


def _ours(loaded, pixels: list[np.ndarray]) -> list:
    from engine.explain.cam import explain

    found = explain(loaded, pixels, target=1)
    for one in found:
        one.heat  # noqa: B018 (the map at 700 x 460 is made when it is asked for)
    return found


def _inference(loaded, pixels: list[np.ndarray], at_once: int) -> np.ndarray:
    import torch

    found = []
    with torch.inference_mode():
        for start in range(0, len(pixels), at_once):
            squares = np.stack([_square(loaded, image) for image in pixels[start : start + at_once]])
            found.append(loaded.model(loaded.normalise(torch.from_numpy(squares))).numpy())
    return np.concatenate(found)


def _square(loaded, image: np.ndarray) -> np.ndarray:
    return loaded.preprocessing.squares(image)[0]


def _gap(ours: list, theirs: list[np.ndarray], size: int) -> float:
    """Greatest difference after the library's own scaling of our signed maps."""
    from pytorch_grad_cam.utils.image import scale_cam_image

    scaled = [
        np.asarray(scale_cam_image(scale_cam_image(np.maximum(one.raw, 0)[None], (size, size))))[0]
        for one in ours
    ]
    return max(float(np.abs(a - b).max()) for a, b in zip(scaled, theirs, strict=True))


# --- what a person waits for ---------------------------------------------------------------------------


def _click(loaded, note: Note) -> dict:
    """From a click to the overlay, with the network loaded: decode, explain, draw, encode."""
    from engine.data.images import decode, encode_png
    from engine.explain.cam import explain
    from engine.explain.overlay import overlay, scale_bar

    note("from click to overlay")
    file = encode_png(_images(1)[0])

    def click() -> bytes:
        image = decode(file)
        found = explain(loaded, [image])[0]
        return encode_png(scale_bar(overlay(image, found.heat, contour_top=0.15), "100X"))

    seconds = _median(click, 5)
    limit = LIMITS["click_s"]
    return _record("from click to overlay, one image", seconds, None, limit, seconds <= limit)


def _overlay(image: np.ndarray, found, note: Note) -> dict:
    from engine.explain.overlay import overlay

    note("opacity and colours")
    seconds = _median(lambda: overlay(image, found.heat, 0.3, "viridis", contour_top=0.15), 20)
    limit = LIMITS["overlay_s"]
    return _record("another opacity or colour map, 700 x 460", seconds, None, limit, seconds <= limit)


def _median(work: Callable[[], Any], rounds: int) -> float:
    work()
    return _medians({"work": work}, rounds, lambda _: None)["work"]


# --- what is measured on -------------------------------------------------------------------------------


def _images(count: int) -> list[np.ndarray]:
    generator = np.random.default_rng(0)
    return [generator.integers(60, 220, (460, 700, 3), dtype=np.uint8) for _ in range(count)]


def _in_default_format(loaded):
    import torch

    model = copy.deepcopy(loaded.model).to(memory_format=torch.contiguous_format)
    return replace(loaded, model=model)


def _network(name: str):
    """The network with BatchNorm statistics fitted once: in a deep random network maps vanish otherwise."""
    import torch
    from torch import nn

    from engine.data.preprocessing import Preprocessing
    from engine.runs import catalog
    from engine.training.device import choose
    from engine.training.models import LoadedModel, build, statistics

    torch.manual_seed(0)
    architecture = catalog.find(name)
    model = build(architecture, 2).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    size = architecture.image_size
    with torch.no_grad():
        model.train()(torch.randn(4, 3, size, size))
    mean, std = statistics(model, "none")
    return LoadedModel(
        model.eval(),
        architecture,
        ("benign", "malignant"),
        mean,
        std,
        Preprocessing(size),
        choose("cpu", "fp32"),
    )
