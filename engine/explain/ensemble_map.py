"""Several models on one image: one fused map, where they disagree, and how much their hottest parts share.

Needs no torch: it works on maps that are there.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from engine.errors import ExplainError
from engine.explain.explanation import Explanation
from engine.explain.overlay import TOP_SHARE, top_mask


@dataclass(frozen=True, eq=False)
class EnsembleMap:
    """Maps of several members, fused.

    Attributes:
        members: ids or names, in order.
        weights: float64 (members,), sum 1.
        explanations: one per member.
        heat: float32, height x width, 0 to 1: weighted mean of the members' maps, each divided by its maximum.
        spread: float32, height x width: weighted standard deviation of the same, 0 where all agree.
        overlap: float64 (members, members): share of the hottest part that two members have in common
            (Dice); nan where a member has no heat at all. Two unrelated maps share about `top` of it.
        top: share of the image that counts as hottest.
        probabilities, target: of the ensemble (weighted mean), and what was explained.
        classes: class names in label order.
    """

    members: tuple[str, ...]
    weights: np.ndarray
    explanations: tuple[Explanation, ...]
    heat: np.ndarray
    spread: np.ndarray
    overlap: np.ndarray
    top: float
    probabilities: np.ndarray
    target: str
    classes: tuple[str, ...]

    @property
    def predicted(self) -> str:
        """Class of greatest weighted mean probability."""
        return self.classes[int(np.argmax(self.probabilities))]

    @property
    def is_empty(self) -> bool:
        return not bool((self.heat > 0).any())

    @cached_property
    def signed(self) -> np.ndarray:
        """The same with evidence against the target: float32, height x width, -1 to 1. Weighted mean of the
        members' signed maps, each divided by its own greatest magnitude."""
        parts = [one.signed / (np.abs(one.signed).max() or 1.0) for one in self.explanations]
        return np.tensordot(self.weights.astype(np.float32), np.stack(parts), axes=1)

    @property
    def agreement(self) -> float:
        """Mean overlap of all pairs of members; nan with fewer than two maps that have heat."""
        pairs = self.overlap[np.triu_indices(len(self.members), 1)]
        return float(np.nanmean(pairs)) if np.isfinite(pairs).any() else float("nan")


def fuse(
    explanations: list[Explanation],
    members: list[str],
    weights: list[float] | np.ndarray | None = None,
    top: float = TOP_SHARE,
) -> EnsembleMap:
    """The members' maps of one image as one.

    Args:
        explanations: one per member, of the same image and target.
        members: names or ids, in the same order.
        weights: of the members; equal unless given.
        top: share of the image that counts as hottest.

    Raises:
        ExplainError: no member, other image sizes, other targets or classes, or weights that do not fit.
    """
    _check(explanations, members)
    share = _weights(weights, len(members))
    scaled = np.stack([unit(one.heat) for one in explanations])
    column = share[:, None, None].astype(np.float32)
    mean = (column * scaled).sum(axis=0)
    spread = np.sqrt((column * (scaled - mean) ** 2).sum(axis=0))
    probabilities = share @ np.stack([one.probabilities for one in explanations])
    return EnsembleMap(
        tuple(members),
        share,
        tuple(explanations),
        mean.astype(np.float32),
        spread.astype(np.float32),
        overlap_matrix([one.heat for one in explanations], top),
        top,
        probabilities,
        explanations[0].target,
        explanations[0].classes,
    )


def unit(heat: np.ndarray) -> np.ndarray:
    """A map divided by its maximum; a map of zeros stays one."""
    greatest = float(heat.max())
    return heat / greatest if greatest > 0 else heat


def overlap_matrix(heats: list[np.ndarray], top: float = TOP_SHARE) -> np.ndarray:
    """Dice overlap of the hottest parts of each pair, (maps, maps); nan where a map has no heat."""
    masks = np.stack([top_mask(heat, top).ravel() for heat in heats]).astype(np.float32)
    sizes = masks.sum(axis=1)
    total = sizes[:, None] + sizes[None]
    matrix = np.divide(2 * (masks @ masks.T), total, out=np.full(total.shape, np.nan), where=total > 0)
    matrix[sizes == 0, :] = np.nan
    matrix[:, sizes == 0] = np.nan
    return matrix


def _weights(weights: list[float] | np.ndarray | None, count: int) -> np.ndarray:
    share = np.ones(count) if weights is None else np.asarray(weights, dtype=float)
    if share.shape != (count,) or not np.isfinite(share).all() or (share < 0).any() or share.sum() <= 0:
        raise ExplainError(
            "The weights do not fit the members",
            found=f"{share.tolist()} for {count} members",
            remedy="Give one weight of 0 or more per member, not all zero",
        )
    return share / share.sum()


def _check(explanations: list[Explanation], members: list[str]) -> None:
    if not explanations or len(explanations) != len(members):
        raise ExplainError(
            "There is nothing to fuse",
            found=f"{len(explanations)} maps of {len(members)} members",
            remedy="Choose at least one member that has weights",
        )
    first = explanations[0]
    for one, name in zip(explanations, members, strict=True):
        for what in ("height", "width", "target", "classes"):
            if getattr(one, what) != getattr(first, what):
                raise ExplainError(
                    f"The maps of {members[0]} and {name} do not fit together",
                    found=f"{what} {getattr(first, what)} and {getattr(one, what)}",
                    remedy="Explain the same image and the same class with every member",
                )
