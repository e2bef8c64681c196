"""The sanity check of Adebayo et al. (NeurIPS 2018): does the map depend on what the network learnt?

Parts of the network are given random parameters, one after another from the last layer to the first. A map
that explains the network changes at once; a map that stays is an edge detector.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from scipy import stats
from torch import nn

from engine.explain import cam, methods

TRAINED = "trained"
# Parts that are taken apart further: a whole list of stages at once would hide where the map changes.
_CONTAINERS = ("blocks", "layers", "stages", "features")


@dataclass(frozen=True, eq=False)
class RandomisationCheck:
    """Likeness of the maps to the trained network's, as randomisation proceeds.

    Attributes:
        method: of the maps.
        parts: `trained`, then the last part randomised in each step, last layer first.
        correlation: Spearman rank correlation of the signed maps with the trained network's,
            (parts, images); nan where a map is constant.
    """

    method: str
    parts: tuple[str, ...]
    correlation: np.ndarray

    @property
    def mean(self) -> np.ndarray:
        """Mean over images, (parts,)."""
        known = np.isfinite(self.correlation)
        total = np.where(known, self.correlation, 0).sum(axis=1)
        count = known.sum(axis=1)
        return np.divide(total, count, out=np.full(len(total), np.nan), where=count > 0)

    @property
    def left(self) -> float:
        """Mean absolute correlation with everything randomised: near 0 for a map that depends on the weights."""
        last = self.correlation[-1]
        return float(np.abs(last[np.isfinite(last)]).mean()) if np.isfinite(last).any() else float("nan")


def randomisation_check(
    loaded: Any,
    images: list[np.ndarray],
    *,
    method: str = methods.DEFAULT_METHOD,
    target: str | int = methods.DEFAULT_TARGET,
    layer: str | None = None,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> RandomisationCheck:
    """Maps of the same images while a copy of the network is randomised part by part.

    Args:
        loaded: the model (a dataclass, see `cam.Loaded`); it is left as it is.
        images: uint8, height x width x 3 each; a dozen is enough.
        progress: called with (steps done, steps in all).

    Raises:
        ExplainError: as `cam.explain`.
    """
    work = replace(loaded, model=copy.deepcopy(loaded.model))
    options: dict[str, Any] = {"method": method, "target": target, "layer": layer}
    trained = [one.raw for one in cam.explain(work, images, **options)]
    steps = parts(work.model)
    generator = torch.Generator().manual_seed(seed)
    rows = [[likeness(one, one) for one in trained]]
    for done, (_, module) in enumerate(steps, start=1):
        randomise(module, generator)
        now = cam.explain(work, images, **options)
        rows.append([likeness(before, one.raw) for before, one in zip(trained, now, strict=True)])
        if progress:
            progress(done, len(steps))
    names = (TRAINED, *(name for name, _ in steps))
    return RandomisationCheck(methods.find_method(method).name, names, np.array(rows))


def parts(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """The network's parts that have parameters, last first: stages one by one."""
    found: list[tuple[str, nn.Module]] = []
    for name, child in model.named_children():
        if name in _CONTAINERS and len(list(child.children())) > 1:
            found.extend((f"{name}.{key}", part) for key, part in child.named_children())
        else:
            found.append((name, child))
    return [(name, part) for name, part in reversed(found) if next(part.parameters(), None) is not None]


@torch.no_grad()
def randomise(module: nn.Module, generator: torch.Generator) -> None:
    """Weights become normal numbers of their own mean and spread; scales and shifts are shuffled."""
    for parameter in module.parameters():
        if parameter.ndim > 1:
            draw = torch.randn(parameter.shape, generator=generator).to(parameter)
            parameter.copy_(draw * parameter.std() + parameter.mean())
        else:
            order = torch.randperm(parameter.numel(), generator=generator).to(parameter.device)
            parameter.copy_(parameter[order])


def likeness(first: np.ndarray, second: np.ndarray) -> float:
    """Spearman's rank correlation of two maps of one shape; nan where one is constant.

    Equal values share their rank: zeros that two maps have in the same places are no agreement of their order.
    """
    if np.ptp(first) == 0 or np.ptp(second) == 0:
        return float("nan")
    ranks = np.stack([stats.rankdata(one) for one in (first, second)])
    return float(np.corrcoef(ranks)[0, 1])
