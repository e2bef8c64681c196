"""Can a map be believed? What happens to the probability when the pixels it points at are taken away.

ROAD: the most (or least) relevant share of the pixels is replaced by the weighted mean of their neighbours,
so that the network cannot tell where pixels are missing (imputation by pytorch-grad-cam). A faithful map loses
probability when the most relevant pixels go and keeps it when the least relevant go.
Insertion and deletion: pixels put onto a blurred image, or taken from the image (grey), in the order of
the map; the area under the probability.

Both change what the network sees into something it never saw, so a number means little alone: it is
compared with RandomCAM, a map that knows nothing (`trust.summarise`).

Rong et al., ICML 2022 (ROAD); Petsiuk et al., BMVC 2018 (insertion, deletion).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import cv2
import numpy as np
import pandas as pd
import torch
from pytorch_grad_cam.metrics.road import NoisyLinearImputer

from engine.errors import ExplainError
from engine.explain import cam, geometry, methods
from engine.explain.explanation import Explanation
from engine.explain.glass import on_glass

FRACTIONS = (0.1, 0.3, 0.5, 0.7, 0.9)
STEPS = 10
NOISE = 0.01  # of what is filled in, in units of the normalised input, as in the paper
BLUR = 0.05  # standard deviation of the blurred image, as a share of the input's side


@dataclass(frozen=True, eq=False)
class Faithfulness:
    """What happened to the probability of the explained class.

    Attributes:
        probability: of the untouched image.
        fractions: shares of the pixels removed by ROAD, (k,).
        most_first, least_first: probability after the most / least relevant share was removed, (k,).
        deletion, insertion: probability after 0, 1/steps, ... 1 of the pixels, (steps + 1,).
    """

    probability: float
    fractions: np.ndarray
    most_first: np.ndarray
    least_first: np.ndarray
    deletion: np.ndarray
    insertion: np.ndarray

    @property
    def road(self) -> float:
        """Half the mean gap between least and most relevant first, -0.5 to 0.5; greater is better, 0 is chance."""
        return float((self.least_first - self.most_first).mean() / 2)

    @property
    def deletion_area(self) -> float:
        """Area under the deletion curve, 0 to 1; smaller is better."""
        return float(np.trapezoid(self.deletion, dx=1 / (len(self.deletion) - 1)))

    @property
    def insertion_area(self) -> float:
        """Area under the insertion curve, 0 to 1; greater is better."""
        return float(np.trapezoid(self.insertion, dx=1 / (len(self.insertion) - 1)))


def faithfulness(
    loaded: cam.Loaded,
    image: np.ndarray,
    explanation: Explanation,
    *,
    fractions: tuple[float, ...] = FRACTIONS,
    steps: int = STEPS,
    batch_size: int | None = None,
    seed: int = 0,
) -> Faithfulness:
    """ROAD, insertion and deletion of one map.

    Pixels are ranked by the signed map (where it is equal, in random order) and removed from the squares the
    network sees; over tiles there is one ranking.

    Args:
        image: uint8, height x width x 3: the explained image.
        fractions: shares of the pixels that ROAD removes.
        steps: of insertion and deletion.

    Raises:
        ExplainError: the image is not the explained one's size.
    """
    if image.shape[:2] != (explanation.height, explanation.width):
        raise ExplainError(
            "The map does not belong to this image",
            found=f"{image.shape[1]} x {image.shape[0]} and {explanation.width} x {explanation.height} pixels",
            remedy="Explain this image first",
        )
    squares = geometry.views(image, loaded.preprocessing)
    pixels = loaded.normalise(torch.from_numpy(np.stack([square.pixels for square in squares])))
    order = _order(explanation, len(squares), seed)
    ask = _Probability(loaded, explanation, batch_size or cam.at_once(loaded))
    road = [_removed(pixels, order, share, most, seed) for most in (True, False) for share in fractions]
    blurred = _blurred(pixels)
    shares = np.linspace(0, 1, steps + 1)
    deletion = [_mixed(pixels, torch.zeros_like(pixels), order, share) for share in shares]
    insertion = [_mixed(blurred, pixels, order, share) for share in shares]
    values = ask(road), ask(deletion), ask(insertion)
    return Faithfulness(
        float(values[1][0]),
        np.asarray(fractions),
        values[0][: len(fractions)],
        values[0][len(fractions) :],
        values[1],
        values[2],
    )


class _Probability:
    """Probability of the explained class for variants of one image."""

    def __init__(self, loaded: cam.Loaded, explanation: Explanation, batch_size: int):
        self.loaded, self.batch_size = loaded, batch_size
        name = explanation.target
        self.index = -1 if name == methods.MARGIN else explanation.classes.index(name)

    @torch.inference_mode()
    def __call__(self, variants: list[torch.Tensor]) -> np.ndarray:
        """variants: each (tiles, 3, size, size) -> probabilities (variants,)."""
        tiles = len(variants[0])
        flat = torch.cat(variants)
        flips = geometry.FLIPS if self.loaded.tta else geometry.FLIPS[:1]
        logits = torch.stack([self._logits(flat, flip) for flip in flips]).mean(dim=0)
        probabilities = logits.view(len(variants), tiles, -1).mean(dim=1).softmax(dim=1)
        return probabilities[:, self.index].double().cpu().numpy()

    def _logits(self, flat: torch.Tensor, flip: tuple[int, ...]) -> torch.Tensor:
        axes = [axis + 2 for axis in flip]
        parts = flat.split(self.batch_size)
        return torch.cat([self.loaded.model(part.flip(axes) if axes else part).float() for part in parts])


def _order(explanation: Explanation, tiles: int, seed: int) -> np.ndarray:
    """Rank of each pixel of the squares, 0 = most relevant: int (tiles, size, size)."""
    raw = explanation.raw if explanation.raw.ndim == 3 else explanation.raw[None]
    size = explanation.size
    relevance = np.stack(
        [cv2.resize(raw[k], (size, size), interpolation=cv2.INTER_LINEAR) for k in range(tiles)]
    )
    shuffled = np.random.default_rng(seed).permutation(relevance.size)  # ties in random order
    ranked = shuffled[np.argsort(-relevance.ravel()[shuffled], kind="stable")]
    ranks = np.empty(relevance.size, dtype=np.int64)
    ranks[ranked] = np.arange(relevance.size)
    return ranks.reshape(relevance.shape)


def _removed(pixels: torch.Tensor, order: np.ndarray, share: float, most: bool, seed: int) -> torch.Tensor:
    """The squares without a share of their pixels, filled in from the neighbours."""
    count = round(share * order.size)
    gone = order < count if most else order >= order.size - count
    return torch.stack(
        [_impute(square, torch.from_numpy(~mask), seed) for square, mask in zip(pixels, gone, strict=True)]
    )


def _impute(square: torch.Tensor, known: torch.Tensor, seed: int) -> torch.Tensor:
    if known.all():
        return square
    if not known.any():
        return torch.zeros_like(square)
    filled = NoisyLinearImputer(noise=0.0)(square.cpu().contiguous(), known.float()).to(square.device)
    draw = np.random.default_rng(seed).normal(0, NOISE, tuple(square.shape)).astype(np.float32)
    noise = torch.from_numpy(draw).to(square.device)
    return torch.where(known.to(square.device), square, filled + noise)


def _blurred(pixels: torch.Tensor) -> torch.Tensor:
    spread = BLUR * pixels.shape[-1]
    arrays = pixels.permute(0, 2, 3, 1).contiguous().cpu().numpy()
    smooth = np.stack([cv2.GaussianBlur(square, (0, 0), spread) for square in arrays])
    return torch.from_numpy(smooth).permute(0, 3, 1, 2).to(pixels.device)


def _mixed(first: torch.Tensor, second: torch.Tensor, order: np.ndarray, share: float) -> torch.Tensor:
    """`first` with its most relevant share taken from `second`."""
    taken = torch.from_numpy(order < round(share * order.size)).to(first.device)
    return torch.where(taken[:, None], second, first)


# --- over a sample -------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class SampleImage:
    """One image of a sample: its pixels (uint8, height x width x 3) and what groups it."""

    image_id: str
    pixels: np.ndarray
    case: str = ""
    label: str = ""


def measure_sample(
    loaded: cam.Loaded,
    sample: Iterable[SampleImage],
    methods_asked: tuple[str, ...] = (methods.DEFAULT_METHOD, "randomcam"),
    *,
    target: str | int = methods.PREDICTED,
    layer: str | None = None,
    progress: Callable[[int], None] | None = None,
    **options,
) -> pd.DataFrame:
    """Faithfulness and glass share of each image by each method; images are taken one at a time.

    Args:
        target: the predicted class unless given, so that the probability has room to fall.
        progress: called with the number of images done.
        options: of `faithfulness`.

    Returns:
        One row per image and method: `image_id, case, label, method, target, probability, road, insertion,
        deletion, glass_share, glass_area`.
    """
    rows = []
    for done, one in enumerate(sample, start=1):
        for method in methods_asked:
            found = cam.explain(loaded, [one.pixels], method=method, target=target, layer=layer)[0]
            result = faithfulness(loaded, one.pixels, found, **options)
            glass = on_glass(found.heat, one.pixels)
            rows.append(
                {
                    "image_id": one.image_id,
                    "case": one.case,
                    "label": one.label,
                    "method": found.method,
                    "target": found.target,
                    "probability": result.probability,
                    "road": result.road,
                    "insertion": result.insertion_area,
                    "deletion": result.deletion_area,
                    "glass_share": glass.share,
                    "glass_area": glass.area,
                }
            )
        if progress:
            progress(done)
    return pd.DataFrame(rows)
