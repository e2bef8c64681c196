"""Rows of pictures that zoom and pan as one: a component of our own (`synced_view.js`, `synced_view.css`).

The browser lays the map over the image itself (an opacity is a style there), draws outlines as lines and the
scale bar for the part that is seen; so a zoom asks nothing of the server and keeps the file's own pixels.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import streamlit as st
from streamlit.components import v2

_HERE = Path(__file__).resolve().parent
# round lengths of a scale bar, micrometres
_BARS = tuple(step * 10.0**power for power in range(-1, 4) for step in (1, 2, 5))
WHOLE = (1.0, 0.5, 0.5)

_component = v2.component(
    "synced_view",
    html='<div class="root" tabindex="0" role="group" aria-label="Image, map and overlay: + and - zoom"></div>',
    css=(_HERE / "synced_view.css").read_text(encoding="utf-8"),
    js=(_HERE / "synced_view.js").read_text(encoding="utf-8"),
)


@dataclass(frozen=True)
class Panel:
    """One picture of a row.

    Attributes:
        title: what is seen, under the first row's panels. alt: the same for those who cannot see it.
        layers: (name of a picture, opacity 0..1), lowest first; the name `image` is drawn as pixels.
        outlines: rings of (x, y) in pixels of the image.
        bar: whether it carries the scale bar.
    """

    title: str
    alt: str
    layers: tuple[tuple[str, float], ...]
    outlines: tuple[tuple[tuple[float, float], ...], ...] = ()
    bar: bool = False


@dataclass(frozen=True)
class Row:
    """One model's pictures, with what it said above them.

    Attributes:
        verdict: predicted and true class in words. right: None where the truth is unknown.
        probability, threshold: of the positive class, 0..1, drawn as a bar with a mark; None = not drawn.
        leaks, leaks_why: words of the leakage badge, empty without one.
        note: a line of small print.
    """

    label: str
    colour: str
    verdict: str
    panels: tuple[Panel, ...]
    right: bool | None = None
    probability: float | None = None
    probability_words: str = ""
    threshold: float | None = None
    leaks: str = ""
    leaks_why: str = ""
    note: str = ""


@dataclass(frozen=True)
class Legend:
    """The colours of the maps from low to high, and the words at both ends."""

    colours: np.ndarray = field(repr=False)
    low: str = "0"
    high: str = "maximum"


def draw(
    rows: Sequence[Row],
    pictures: Mapping[str, bytes],
    *,
    image_id: str,
    size: tuple[int, int],
    microns_per_pixel: float | None,
    legend: Legend,
    view: tuple[float, float, float],
    on_view: Callable[[], None],
    key: str,
) -> None:
    """Draw the rows; every one shows the same part of the image.

    Args:
        pictures: JPEG or WebP files by name, all of the whole image.
        size: height, width of the image file, pixels.
        view: what is shown at first: zoom (1 = whole image) and the centre, 0..1 of width and height.
        on_view: called when the view has changed (`seen` then gives it).
    """
    height, width = size
    data = {
        "image_id": image_id,
        "height": height,
        "width": width,
        "columns": max((len(row.panels) for row in rows), default=1),
        "bars": bars(microns_per_pixel),
        "pictures": {name: _data_url(picture) for name, picture in pictures.items()},
        "rows": [asdict(row) for row in rows],
        "legend": {
            "colours": [
                f"rgb({red},{green},{blue})" for red, green, blue in legend.colours[:: 255 // 15].tolist()
            ],
            "low": legend.low,
            "high": legend.high,
        },
        "view": list(view),
    }
    _component(key=key, data=data, on_view_change=on_view)


def seen(key: str, image_id: str) -> tuple[float, float, float] | None:
    """The view that a reader chose of an image; None where they chose none, or of another image."""
    state: Any = st.session_state.get(key) or {}
    chosen = state.get("view") or {}
    if chosen.get("image") != image_id:
        return None
    return bounded(chosen.get("at") or ())


def bars(microns_per_pixel: float | None) -> list[tuple[float, str]]:
    """Scale bars to choose from: (length in pixels of the image, label), rising; none where the scale is unknown."""
    if not microns_per_pixel:
        return []
    return [(length / microns_per_pixel, f"{length:g} µm") for length in _BARS]


def parse_view(text: str) -> tuple[float, float, float]:
    """`2.5,0.3,0.6` of a link -> zoom and centre; the whole image where it makes no sense."""
    try:
        return bounded([float(part) for part in text.split(",")]) or WHOLE
    except ValueError:
        return WHOLE


def view_text(view: tuple[float, float, float]) -> str:
    """The inverse of `parse_view`; empty for the whole image."""
    zoom, x, y = view
    return "" if zoom <= 1 else f"{zoom:.2f},{x:.3f},{y:.3f}"


def bounded(values: Sequence[float]) -> tuple[float, float, float] | None:
    """Three finite numbers brought into range, or None."""
    parts = [*values, 0.5, 0.5][:3] if len(values) == 1 else list(values)
    if len(parts) != 3 or not all(isinstance(one, int | float) and np.isfinite(one) for one in parts):
        return None
    zoom = float(np.clip(parts[0], 1, 16))
    x, y = (float(np.clip(one, 0, 1)) for one in parts[1:])
    return zoom, x, y


def _data_url(picture: bytes) -> str:
    kind = "webp" if picture[:4] == b"RIFF" else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(picture).decode('ascii')}"
