"""Maps of a CNN-MLP fusion: per member, which places speak for the fusion's class, through the MLP.

The score that is explained is the fusion's own logit. For each member the other members' features are held at
what they are for this image, so that a map says what that member's places add to the common score; maps of
members are therefore on one scale, and the fused map is their sum.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from engine.explain import cam
from engine.explain.ensemble_map import EnsembleMap, fuse
from engine.explain.explanation import Explanation
from engine.training.evaluate import logits
from engine.training.frozen import Backbone

if TYPE_CHECKING:
    from engine.training.fusion import LoadedFusion


@dataclass(frozen=True)
class _Block:
    """Where a member's features stand among all of them."""

    start: int
    end: int


class _Through(nn.Module):
    """One member and the MLP behind it, with the other members' features fixed: pixels to the fusion's logits."""

    def __init__(self, network: nn.Module, mlp: nn.Module, features: torch.Tensor, block: _Block):
        super().__init__()
        self.network, self.mlp, self.block = network, mlp, block
        self.eye = Backbone(network)
        self.features = features

    def get_submodule(self, target: str) -> nn.Module:
        """Layers are named as in the member's own network."""
        return self.network.get_submodule(target)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        own = self.eye(pixels)
        rest = self.features.to(own.device).expand(len(own), -1)
        return self.mlp(torch.cat([rest[:, : self.block.start], own, rest[:, self.block.end :]], dim=1))


def explain_fusion(
    loaded: LoadedFusion,
    image: np.ndarray,
    *,
    method: str,
    target: str | int,
    layer: str = "",
) -> EnsembleMap:
    """The members' maps of one image for the fusion's score, and their sum.

    Args:
        image: uint8, height x width x 3.
        method, target, layer: as `cam.explain`; an empty layer is each member's own default.

    Raises:
        ExplainError: as `cam.explain`.
    """
    blocks, features = _features(loaded, image)
    maps: list[Explanation] = []
    for member, block in zip(loaded.members, blocks, strict=True):
        mlp = loaded.mlp.to(member.device.torch)
        whole = replace(
            member,
            model=_Through(member.model, mlp, features, block).eval(),
            classes=loaded.classes,
        )
        maps += cam.explain(whole, [image], method=method, target=target, layer=layer or None)
    heat = np.array([float(one.heat.max()) for one in maps])
    # `fuse` divides each map by its maximum; this weight puts it back on the common scale
    return fuse(maps, list(loaded.ids), heat if heat.sum() > 0 else None)


def _features(loaded: LoadedFusion, image: np.ndarray) -> tuple[list[_Block], torch.Tensor]:
    blocks: list[_Block] = []
    parts: list[np.ndarray] = []
    for member in loaded.members:
        eye = replace(member, model=Backbone(member.model).eval())
        pixels = member.preprocessing.prepare(image)[0]
        parts.append(logits(eye, lambda _, pixels=pixels: pixels, [0]))
        start = blocks[-1].end if blocks else 0
        blocks.append(_Block(start, start + parts[-1].shape[1]))
    return blocks, torch.from_numpy(np.concatenate(parts, axis=1)).float()
