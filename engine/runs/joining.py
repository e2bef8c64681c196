"""Whether trained runs can be joined into one network: a fusion of their features, or the mean of their weights.

Asked at launch, so that a person hears it at once, and again by the worker. Needs no torch.
"""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from engine.data.manifest import SPLITS, Manifest
from engine.errors import EnsembleError, shorten
from engine.runs.config import NETWORKS, RunConfig
from engine.runs.folder import RunFolder


def check_members(members: list[RunFolder], manifest: Manifest) -> None:
    """Members that can be fused on a split: with a network, of the same classes, and blind to what is scored.

    Raises:
        EnsembleError: fewer than two members; a member that is no trained run, has other classes, or was
            trained on an image of the validation or test part.
    """
    if len(members) < 2:
        raise EnsembleError(
            "Joining needs at least two members", found=str(len(members)), remedy="Choose more runs"
        )
    for member in members:
        config = member.config()
        if config.kind not in NETWORKS:
            raise EnsembleError(
                f"{member.name} has no network of its own",
                found=f"a run of kind {config.kind}",
                remedy="Choose trained runs only",
            )
        if tuple(config.classes) != tuple(manifest.classes):
            raise EnsembleError(
                f"{member.name} has other classes",
                found=", ".join(config.classes),
                remedy=f"Choose runs of {', '.join(manifest.classes)}",
            )
        _check_roles(member, manifest.table)


def _check_roles(member: RunFolder, table: pd.DataFrame) -> None:
    theirs = member.manifest().table
    seen = set(theirs.loc[theirs["split"] == "train", "image_id"])
    scored = table.loc[table["split"].isin(SPLITS[1:]), "image_id"]
    both = [name for name in scored if name in seen]
    if both:
        raise EnsembleError(
            f"{member.name} was trained on images that would be scored",
            found=f"{len(both)} images, for example {shorten(both)}",
            remedy="Choose runs of one and the same split",
        )


def check_same_start(configs: Sequence[tuple[str, RunConfig]], classes: Sequence[str]) -> list[str]:
    """Whether runs can be averaged.

    Args:
        configs: (name, configuration) per member. classes: those of the soup.

    Returns:
        What to beware of, in words: heads that began from different seeds.

    Raises:
        EnsembleError: other architectures, other first weights, or random first weights of other seeds.
    """
    facts = {
        "architecture": [config.model.name for _, config in configs],
        "first weights": [config.model.pretrained for _, config in configs],
        "classes": [", ".join(config.classes) for _, config in configs],
        "image size": [str(config.model.image_size) for _, config in configs],
        "input geometry": [config.model.geometry for _, config in configs],
        "stain normalisation": [config.model.stain for _, config in configs],
    }
    for what, values in facts.items():
        if len(set(values)) > 1:
            raise EnsembleError(
                f"Weights can only be averaged where the {what} is the same",
                found=shorten([f"{name}: {value}" for (name, _), value in zip(configs, values, strict=True)]),
                remedy="Choose runs of one architecture from the same first weights, or take the mean of their probabilities",
            )
    if set(facts["classes"]) != {", ".join(classes)}:
        raise EnsembleError(
            "The members have other classes than their split",
            found=facts["classes"][0],
            remedy=f"Choose runs of {', '.join(classes)}",
        )
    seeds = sorted({config.training.seed for _, config in configs})
    if len(seeds) > 1 and configs[0][1].model.pretrained == "none":
        raise EnsembleError(
            "Networks that began from different random weights cannot be averaged",
            found=f"seeds {', '.join(map(str, seeds))}",
            remedy="Choose runs from the same pretrained weights, or take the mean of their probabilities",
        )
    if len(seeds) > 1:
        return [
            f"The members' last layers began from different seeds ({', '.join(map(str, seeds))}): "
            "only the backbone shares its start"
        ]
    return []
