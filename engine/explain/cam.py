"""Class activation maps: which places of an image speak for a class, by the network's own last features.

The network runs once for a whole batch. Its parameters are frozen and the layer's output is cut off from
what lies before it, so that only the part behind the layer builds a graph: 16 maps cost what 16 predictions
cost, against about five times that for the usual loop over images. What the weights are is
pytorch-grad-cam's business (`get_cam_image` of its classes); this module gives it activations and gradients
and keeps the signed sum that the library would clip.

Two of the library's classes are replaced in part. ScoreCAM would hold channels x 3 x H x W numbers at once
(0.8 GB for one image of B0). AblationCAM sets channels to -1e7 instead of zero where the activation has
negative values (SiLU), runs the whole network per channel, and divides by the score, which turns the map
around where the score is negative. Both are tested against the library where it is right.
"""

from __future__ import annotations

import contextlib
import threading
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol
from weakref import WeakKeyDictionary

import numpy as np
import pytorch_grad_cam as library
import torch
from pytorch_grad_cam.base_cam import BaseCAM
from torch import nn

from engine.analysis.predictions import softmax
from engine.data.preprocessing import Preprocessing
from engine.errors import ExplainError
from engine.explain import geometry as geometries
from engine.explain import methods
from engine.explain.explanation import Explanation
from engine.runs.catalog import Architecture

CHANNELS_AT_ONCE = 64
MASKED_AT_ONCE = 16
# Pixels per pass on a CPU: four squares of 224. Larger passes fall out of its cache: 16 maps of B0 take 0.14 s
# in passes of 4, 0.24 s in one of 16, 0.22 s one by one (two cores, measured alone). A GPU wants them large.
PIXELS_AT_ONCE = 4 * 224 * 224
AT_ONCE_ON_GPU = 32


class Loaded(Protocol):
    """What is needed of a loaded model; `engine.training.models.LoadedModel` has it."""

    @property
    def model(self) -> nn.Module: ...
    @property
    def architecture(self) -> Architecture: ...
    @property
    def classes(self) -> tuple[str, ...]: ...
    @property
    def image_size(self) -> int: ...
    @property
    def geometry(self) -> str: ...
    @property
    def preprocessing(self) -> Preprocessing: ...
    @property
    def tta(self) -> bool: ...
    def normalise(self, images: torch.Tensor) -> torch.Tensor: ...


def explain(
    loaded: Loaded,
    images: list[np.ndarray],
    *,
    method: str = methods.DEFAULT_METHOD,
    target: str | int = methods.DEFAULT_TARGET,
    layer: str | None = None,
    batch_size: int | None = None,
) -> list[Explanation]:
    """A map per image.

    Args:
        loaded: the model; its parameters are frozen (`requires_grad` off) by this call.
        images: uint8, height x width x 3 each; sizes may differ.
        method: see `methods.METHODS`.
        target: a class by name or index, `margin` (last class minus first), or `predicted`.
        layer: dotted module name; the catalogue's `cam_layer` unless given.
        batch_size: inputs (images, or tiles of them) per pass; what suits the device unless given.

    Raises:
        ExplainError: unknown method, target or layer, or a layer without a spatial map.
    """
    job = _job(loaded, method, target, layer)
    seen: list[_Seen] = [_Seen() for _ in images]
    with _exclusive(loaded.model):
        for batch in _batches(images, loaded, batch_size or at_once(loaded)):
            raws, logits = _maps(job, [view.pixels for _, view in batch])
            for (position, view), raw, logit in zip(batch, raws, logits, strict=True):
                seen[position].add(view, raw, logit)
    return [_explanation(job, image, one) for image, one in zip(images, seen, strict=True)]


def at_once(loaded: Loaded) -> int:
    """Inputs per pass that suit the device the model is on."""
    parameter = next(loaded.model.parameters(), None)
    if parameter is not None and parameter.device.type != "cpu":
        return AT_ONCE_ON_GPU
    return max(1, PIXELS_AT_ONCE // loaded.image_size**2)


class _Seen:
    """What the network made of one image: logits and maps of its tiles, mean over flips."""

    def __init__(self) -> None:
        self.views = 0
        self.logits: np.ndarray | float = 0.0
        self.tiles: dict[int, np.ndarray] = {}

    def add(self, view: geometries.View, raw: np.ndarray, logits: np.ndarray) -> None:
        self.views += 1
        self.logits = self.logits + logits.astype(np.float64)
        self.tiles[view.tile] = self.tiles.get(view.tile, 0.0) + view.unflipped(raw)

    def raw(self) -> np.ndarray:
        """(tiles, h, w). The mean logit of all views is explained, so each has its share of it."""
        return np.stack(list(self.tiles.values())) / self.views


@dataclass(frozen=True)
class _Job:
    loaded: Loaded
    method: str
    target: str
    layer: str
    module: nn.Module
    rule: BaseCAM


def _job(loaded: Loaded, method: str, target: str | int, layer: str | None) -> _Job:
    name = layer or loaded.architecture.cam_layer
    asked = methods.find_method(method).name
    return _Job(
        loaded,
        asked,
        methods.check_target(target, tuple(loaded.classes)),
        name,
        find_layer(loaded.model, name),
        # without target layers the library's class sets no hooks: it is a weighting rule and nothing else
        _RULES[asked](loaded.model, []),
    )


def find_layer(model: nn.Module, name: str) -> nn.Module:
    """The module of a dotted name.

    Raises:
        ExplainError: the network has no such module.
    """
    try:
        found = model.get_submodule(name) if name else None
    except AttributeError:
        found = None
    if found is None:
        parts = ", ".join(child for child, _ in model.named_children())
        raise ExplainError(
            "The network has no such layer", found=name or "an empty name", remedy=f"Its parts are {parts}"
        )
    return found


def _batches(
    images: list[np.ndarray], loaded: Loaded, batch_size: int
) -> Iterator[list[tuple[int, geometries.View]]]:
    """Views in batches, made as they are needed, each with the position of its image."""
    batch: list[tuple[int, geometries.View]] = []
    for position, image in enumerate(images):
        for view in geometries.views(image, loaded.preprocessing, loaded.tta):
            batch.append((position, view))
            if len(batch) == batch_size:
                yield batch
                batch = []
    if batch:
        yield batch


def _explanation(job: _Job, image: np.ndarray, seen: _Seen) -> Explanation:
    logits = np.asarray(seen.logits) / seen.views
    classes = tuple(job.loaded.classes)
    raw = seen.raw() if job.loaded.geometry == "tiles" else seen.raw()[0]
    return Explanation(
        raw=np.ascontiguousarray(raw, dtype=np.float32),
        height=image.shape[0],
        width=image.shape[1],
        probabilities=softmax(logits),
        logits=logits,
        classes=classes,
        target=classes[int(logits.argmax())] if job.target == methods.PREDICTED else job.target,
        method=job.method,
        layer=job.layer,
        size=job.loaded.image_size,
        geometry=job.loaded.geometry,
    )


# --- one batch -----------------------------------------------------------------------------------------


def _maps(job: _Job, pixels: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Signed maps (images, h, w) and logits (images, classes) of one batch."""
    tensor = job.loaded.normalise(torch.from_numpy(np.stack(pixels)))
    wanted = _needs_gradients(job.method)
    with torch.no_grad(), _Tap(job.module, job.layer, graph=wanted) as tap:
        logits = job.loaded.model(tensor)
        scores = target_weights(job.target, logits.detach(), tuple(job.loaded.classes))
        gradients = _gradients(job, tap, (logits * scores).sum()) if wanted else None
    output = tap.output
    activations = _spatial(job, output).detach()
    if activations.shape[-1] * activations.shape[-2] == 1 and job.layer != job.loaded.architecture.cam_layer:
        raise _no_map(job, f"an output of 1 x 1 positions ({tuple(output.shape)})")
    arguments = _Arguments(job, tensor, output.detach(), scores, pixels)
    with torch.no_grad():
        raw = _weigh(
            arguments,
            activations.cpu().numpy(),
            None if gradients is None else _spatial(job, gradients).cpu().numpy(),
        )
    return raw.astype(np.float32), logits.detach().float().cpu().numpy()


def target_weights(target: str, logits: torch.Tensor, classes: tuple[str, ...]) -> torch.Tensor:
    """What is explained, as weights of the logits: shape (images, classes), score = sum(weights * logits)."""
    weights = torch.zeros_like(logits)
    if target == methods.PREDICTED:
        weights.scatter_(1, logits.argmax(dim=1, keepdim=True), 1.0)
    elif target == methods.MARGIN:
        weights[:, -1], weights[:, 0] = 1.0, -1.0
    else:
        weights[:, classes.index(target)] = 1.0
    return weights


class _Tap:
    """The layer's output during one pass, as the leaf from which the graph starts.

    A copy goes on into the network, since some layers add to their input in place. Only the thread that made
    the tap is tapped: another thread may be predicting with the same model.

    With `graph` gradients are switched on at the layer; use it inside `torch.no_grad()`, which leaves the part
    before it without any and switches back at the end.
    """

    def __init__(
        self, module: nn.Module, name: str, *, graph: bool = False, instead: torch.Tensor | None = None
    ):
        self.module, self.name, self.graph, self.instead = module, name, graph, instead
        self.thread = threading.get_ident()
        self._output: torch.Tensor | None = None

    def __enter__(self) -> _Tap:
        self._handle = self.module.register_forward_hook(self._hook)
        return self

    def __exit__(self, *_: object) -> None:
        self._handle.remove()

    def _hook(self, _module: nn.Module, _inputs: Any, output: Any) -> Any:
        if threading.get_ident() != self.thread:
            return None
        if self.instead is not None:
            return self.instead
        if not isinstance(output, torch.Tensor):
            raise ExplainError(
                f"The layer {self.name} has no spatial map",
                found=f"an output of type {type(output).__name__}",
                remedy="Choose one of the layers offered for this architecture",
            )
        leaf = output.detach().requires_grad_(self.graph)
        self._output = leaf
        if self.graph:
            torch.set_grad_enabled(True)
        return leaf.clone()

    @property
    def output(self) -> torch.Tensor:
        if self._output is None:
            raise ExplainError(
                f"The layer {self.name} takes no part in a prediction",
                remedy="Choose one of the layers offered for this architecture",
            )
        return self._output


def _needs_gradients(method: str) -> bool:
    return method not in ("scorecam", "ablationcam", "randomcam")


def _gradients(job: _Job, tap: _Tap, score: torch.Tensor) -> torch.Tensor:
    leaf = tap.output
    found = torch.autograd.grad(score, leaf, allow_unused=True)[0] if score.requires_grad else None
    if found is None:
        raise _no_map(job, "an output that the score does not depend on")
    return found


def _spatial(job: _Job, values: torch.Tensor) -> torch.Tensor:
    """A layer's output as (images, channels, h, w); transformers by the catalogue's `cam_tokens`.

    Raises:
        ExplainError: the output has no two spatial axes.
    """
    tokens = job.loaded.architecture.cam_tokens
    if values.ndim == 4:
        return values.permute(0, 3, 1, 2) if tokens == "nhwc" else values
    if values.ndim == 3 and tokens == "vit":
        prefix = int(getattr(job.loaded.model, "num_prefix_tokens", 1))
        side = round((values.shape[1] - prefix) ** 0.5)
        if side * side == values.shape[1] - prefix and side > 0:
            grid = values[:, prefix:].reshape(values.shape[0], side, side, values.shape[2])
            return grid.permute(0, 3, 1, 2)
    raise _no_map(job, f"an output of shape {tuple(values.shape)}")


def _no_map(job: _Job, found: str) -> ExplainError:
    offered = ", ".join(layer.name for layer in methods.layers(job.loaded.architecture))
    return ExplainError(
        f"The layer {job.layer} has no spatial map", found=found, remedy=f"Choose one of {offered}"
    )


# --- methods -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Arguments:
    """What the methods that look beyond gradients need: per image a row of scores and its pixels."""

    job: _Job
    tensor: torch.Tensor
    output: torch.Tensor
    scores: torch.Tensor
    pixels: list[np.ndarray]


def _weigh(arguments: _Arguments, activations: np.ndarray, gradients: np.ndarray | None) -> np.ndarray:
    """The signed map (images, h, w), by the library's class for the method."""
    method, rule = arguments.job.method, arguments.job.rule
    if isinstance(rule, _Rule):
        rule.arguments = arguments
    raw = rule.get_cam_image(arguments.tensor, None, None, activations, gradients, False)  # type: ignore[arg-type]
    if method == "eigengradcam":
        raw = _oriented(raw, (activations * gradients).sum(axis=1))
    return np.asarray(raw)


def _oriented(raw: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """A principal component has no sign of its own: take the one that agrees with gradient x activation."""
    reference = reference - reference.mean(axis=(1, 2), keepdims=True)
    sign = np.where((raw * reference).sum(axis=(1, 2)) < 0, -1.0, 1.0)
    return raw * sign[:, None, None]


class _Rule:
    """A weighting rule that needs more than activations and gradients."""

    arguments: _Arguments


class _RandomCAM(_Rule, library.RandomCAM):
    """Weights from -1 to 1, drawn by the image's pixels: the same image has the same control map."""

    def get_cam_weights(self, input_tensor, target_layer, target_category, activations, grads):
        seeds = [zlib.crc32(view.tobytes()) for view in self.arguments.pixels]
        return np.stack([np.random.default_rng(seed).uniform(-1, 1, activations.shape[1]) for seed in seeds])


class _ScoreCAM(_Rule, library.ScoreCAM):
    """The library's weights, a few masked images at a time."""

    def get_cam_weights(self, input_tensor, target_layer, targets, activations, grads):
        weights = []
        for image, maps, score in zip(input_tensor, activations, self.arguments.scores, strict=True):
            found = [
                self._score(image, maps[start : start + MASKED_AT_ONCE], score)
                for start in range(0, len(maps), MASKED_AT_ONCE)
            ]
            weights.append(torch.softmax(torch.cat(found), dim=0).cpu().numpy())
        return np.stack(weights)

    def _score(self, image: torch.Tensor, maps: np.ndarray, score: torch.Tensor) -> torch.Tensor:
        masks = torch.from_numpy(maps)[None].to(image.device)
        masks = nn.functional.interpolate(masks, image.shape[-2:], mode="bilinear", align_corners=True)[0]
        low, high = masks.amin(dim=(1, 2), keepdim=True), masks.amax(dim=(1, 2), keepdim=True)
        masks = (masks - low) / (high - low + 1e-8)
        return self.model(image[None] * masks[:, None]) @ score


class _AblationCAM(_Rule, library.AblationCAM):
    """Loss of score when a channel is zero. Only what lies behind the layer runs once per channel."""

    def get_cam_weights(self, input_tensor, target_layer, targets, activations, grads):
        weights = []
        for image, output, score in zip(
            input_tensor, self.arguments.output, self.arguments.scores, strict=True
        ):
            whole = self._behind(image, output[None]) @ score
            losses = [
                whole - self._behind(image, self._without(output, start)) @ score
                for start in range(0, activations.shape[1], CHANNELS_AT_ONCE)
            ]
            weights.append(torch.cat(losses).cpu().numpy())
        return np.stack(weights)

    def _without(self, output: torch.Tensor, start: int) -> torch.Tensor:
        """Copies of the layer's output, (channels, ...), each with one channel set to zero."""
        axis = -1 if self.arguments.job.loaded.architecture.cam_tokens else 0
        stop = min(start + CHANNELS_AT_ONCE, output.shape[axis])
        copies = output[None].repeat(stop - start, *[1] * output.ndim)
        for row, channel in enumerate(range(start, stop)):
            copies[row].select(axis, channel).zero_()
        return copies

    def _behind(self, image: torch.Tensor, outputs: torch.Tensor) -> torch.Tensor:
        """Logits where the layer gives `outputs`. The part before it runs once, on the image itself: a
        connection around the layer then carries what it should, to every copy."""
        job = self.arguments.job
        with _Tap(job.module, job.layer, instead=outputs):
            return self.model(image[None])


_RULES: dict[str, Any] = {
    "gradcam": library.GradCAM,
    "hirescam": library.HiResCAM,
    "gradcam++": library.GradCAMPlusPlus,
    "layercam": library.LayerCAM,
    "eigengradcam": library.EigenGradCAM,
    "scorecam": _ScoreCAM,
    "ablationcam": _AblationCAM,
    "randomcam": _RandomCAM,
}


# --- one at a time -------------------------------------------------------------------------------------

_locks: WeakKeyDictionary[nn.Module, threading.Lock] = WeakKeyDictionary()
_locks_guard = threading.Lock()


@contextlib.contextmanager
def _exclusive(model: nn.Module) -> Iterator[None]:
    """Two viewers share a model: hooks sit on it, so maps are made one batch list at a time."""
    with _locks_guard:
        lock = _locks.setdefault(model, threading.Lock())
    with lock:
        model.eval()
        model.requires_grad_(False)
        yield
