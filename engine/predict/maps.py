"""What a model looked at in images that belong to no run: maps that are made, shown and not kept."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.data.images import decode, encode_jpeg
from engine.errors import EngineError
from engine.runs.folder import RunFolder

if TYPE_CHECKING:
    from engine.explain.runs import Map

WIDTH = 700


def maps_of(
    folder: RunFolder, paths: Sequence[Path], target: str, load: Callable[[RunFolder], Any] | None = None
) -> list[Map]:
    """The map of each image file for a class, by whatever judges images.

    Args:
        target: a class, `margin` or `predicted`.
        load: how to get a run's model; from its folder unless given.

    Raises:
        ExplainError, WeightsError, RunError, DataError: no network, no such target, a member or an image is gone.
    """
    from engine.explain.runs import explain_files

    found = []
    for _, one in explain_files(folder, list(paths), target=target, load=load, keep=False):
        if isinstance(one, EngineError):
            raise one
        found.append(one)
    return found


def pictures(path: Path, found: Map, magnification: str = "") -> tuple[bytes, bytes]:
    """An image and the map over it, as JPEGs of at most 700 pixels width, with a scale bar where it is known."""
    from engine.explain.overlay import overlay, scale_bar

    pixels = decode(path)
    return tuple(  # type: ignore[return-value]
        encode_jpeg(scale_bar(one, magnification), WIDTH) for one in (pixels, overlay(pixels, found.heat))
    )
