"""Maps as pictures: colours over the image at its native pixels. Needs no torch: a slider calls this.

A frame of 700 x 460 takes a few milliseconds, so opacity, colour map, scale and contour act on the stored
map at once.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from engine.errors import ExplainError

# micrometres per pixel of BreakHis images, from the official optics
MICRONS_PER_PIXEL = {"40X": 0.492, "100X": 0.197, "200X": 0.0985, "400X": 0.0492}
TOP_SHARE = 0.15
# of the colours over an image, where the heat is greatest
OPACITY = 0.7


@dataclass(frozen=True)
class ColourMap:
    """A colour map: OpenCV's table, and whether equal steps of heat look like equal steps."""

    name: str
    label: str
    table: int
    uniform: bool = True


COLOUR_MAPS: tuple[ColourMap, ...] = (
    ColourMap("inferno", "Inferno", cv2.COLORMAP_INFERNO),
    ColourMap("viridis", "Viridis", cv2.COLORMAP_VIRIDIS),
    ColourMap("magma", "Magma", cv2.COLORMAP_MAGMA),
    ColourMap("cividis", "Cividis (colour-blind safe)", cv2.COLORMAP_CIVIDIS),
    ColourMap("jet", "Jet (as in papers; misleading)", cv2.COLORMAP_JET, uniform=False),
)
# Benign blue, white at zero, malignant orange: the dashboard's two class colours.
SIGNED_COLOURS = ((0, 114, 178), (255, 255, 255), (213, 94, 0))


def colours(name: str = "inferno") -> np.ndarray:
    """A colour map as a table, uint8 (256, 3), RGB; `signed` is the diverging one.

    Raises:
        ExplainError: there is no such colour map.
    """
    if name == "signed":
        return _signed_table()
    record = next((record for record in COLOUR_MAPS if record.name == name), None)
    if record is None:
        names = ", ".join(record.name for record in COLOUR_MAPS)
        raise ExplainError("There is no such colour map", found=str(name), remedy=f"Choose one of {names}")
    return _table(record.table)


def heat_range(heats: list[np.ndarray]) -> tuple[float, float]:
    """One scale for several maps: 0 to the greatest heat among them."""
    return 0.0, max((float(heat.max()) for heat in heats), default=0.0)


def colourise(heat: np.ndarray, colour_map: str = "inferno", scale: tuple[float, float] | None = None):
    """Heat as colours: uint8, height x width x 3.

    Args:
        heat: float, height x width.
        colour_map: one of `COLOUR_MAPS`, or `signed`.
        scale: heat of the first and the last colour; the map's own 0 to maximum unless given (`signed`:
            symmetric around 0). A map of zeros has the first colour everywhere.
    """
    low, high = scale or _own_scale(heat, colour_map)
    span = high - low
    steps = (heat - low) * (255.0 / span) if span > 0 else np.zeros_like(heat)
    index = np.clip(np.rint(np.nan_to_num(steps)), 0, 255).astype(np.uint8)
    if span <= 0 and colour_map == "signed":
        index = np.full_like(index, 128)
    return cv2.applyColorMap(index, colours(colour_map)[:, None])  # five times faster than indexing


def strength(
    heat: np.ndarray, colour_map: str = "inferno", scale: tuple[float, float] | None = None
) -> np.ndarray:
    """How much evidence a place holds, for or against: float32 of 0 to 1, height x width.

    Args:
        heat, colour_map, scale: see `colourise`. 1 is the greatest heat of the scale; a map of zeros has 0 everywhere.
    """
    low, high = scale or _own_scale(heat, colour_map)
    if colour_map == "signed":
        low, high = 0.0, max(abs(low), abs(high))
        heat = np.abs(heat)
    if high <= low:
        return np.zeros(heat.shape, np.float32)
    steps = (heat.astype(np.float32) - np.float32(low)) * np.float32(1 / (high - low))
    return np.clip(np.nan_to_num(steps), 0, 1)


def veil(
    heat: np.ndarray, colour_map: str = "inferno", scale: tuple[float, float] | None = None
) -> np.ndarray:
    """The colours with their `strength` as alpha, to be laid over an image: uint8, height x width x 4."""
    alpha = np.rint(strength(heat, colour_map, scale) * 255).astype(np.uint8)
    return np.dstack([colourise(heat, colour_map, scale), alpha])


def overlay(
    image: np.ndarray,
    heat: np.ndarray,
    opacity: float = OPACITY,
    colour_map: str = "inferno",
    scale: tuple[float, float] | None = None,
    contour_top: float | None = None,
    even: bool = False,
) -> np.ndarray:
    """A map over its image, at native pixels; where nothing speaks for the target the image stays as it is.

    Args:
        image: uint8, height x width x 3.
        heat: float, height x width (the same).
        opacity: of the colours at the greatest heat: 0 = image only, 1 = colours only there.
        colour_map, scale: see `colourise`.
        contour_top: draw a line around the hottest share of the image (0.15 = top 15%).
        even: the same opacity everywhere, as in most papers: it darkens (inferno) or tints (viridis) tissue
            that holds no evidence.

    Returns:
        uint8, height x width x 3.

    Raises:
        ExplainError: image and map differ in size, or there is no such colour map.
    """
    if image.shape[:2] != heat.shape:
        raise ExplainError(
            "The map does not belong to this image",
            found=f"an image of {image.shape[1]} x {image.shape[0]}, a map of {heat.shape[1]} x {heat.shape[0]} pixels",
            remedy="Explain the image again: it was replaced since",
        )
    share = float(np.clip(opacity, 0, 1))
    pixels, coloured = np.ascontiguousarray(image), colourise(heat, colour_map, scale)
    if even:
        mixed = cv2.addWeighted(pixels, 1 - share, coloured, share, 0)
    else:
        weights = np.float32(share) * strength(heat, colour_map, scale)
        mixed = cv2.blendLinear(pixels, coloured, 1 - weights, weights)
    return draw_contour(mixed, heat, contour_top) if contour_top else mixed


def top_mask(heat: np.ndarray, share: float = TOP_SHARE) -> np.ndarray:
    """The hottest share of the pixels: bool, height x width. Pixels without heat never belong to it."""
    positive = heat > 0
    if not positive.any():
        return positive
    keep = max(1, round(share * heat.size))
    if keep >= heat.size:
        return positive
    threshold = np.partition(heat, heat.size - keep, axis=None)[heat.size - keep]
    return positive & (heat >= threshold)


def contours(heat: np.ndarray, share: float = TOP_SHARE) -> list[np.ndarray]:
    """Outlines of the hottest share: per region an int array (points, 2) of x, y in pixels."""
    mask = top_mask(heat, share).astype(np.uint8)
    found, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    return [outline.reshape(-1, 2) for outline in found if len(outline) >= 3]


def draw_contour(image: np.ndarray, heat: np.ndarray, share: float = TOP_SHARE) -> np.ndarray:
    """The outline of the hottest share, white on black so that it shows on any tissue."""
    lines = [outline.reshape(-1, 1, 2) for outline in contours(heat, share)]
    drawn = np.ascontiguousarray(image).copy()
    cv2.polylines(drawn, lines, True, (0, 0, 0), 4, cv2.LINE_AA)
    return cv2.polylines(drawn, lines, True, (255, 255, 255), 2, cv2.LINE_AA)


# --- scale bar -----------------------------------------------------------------------------------------


def bar_length(width: int, microns_per_pixel: float) -> tuple[int, str]:
    """A round length near a fifth of the width: (pixels, its label, as `50 µm`)."""
    goal = width * microns_per_pixel / 5
    power = 10.0 ** np.floor(np.log10(goal))
    microns = max(step * power for step in (1, 2, 5) if step * power <= goal * 1.0001)
    return max(1, round(microns / microns_per_pixel)), f"{microns:g} µm"


def scale_bar(image: np.ndarray, magnification: str) -> np.ndarray:
    """The image with a scale bar in its lower right corner; unchanged where the scale is not known.

    Args:
        image: uint8, height x width x 3, at the file's own pixels.
        magnification: `40X` ... `400X` of BreakHis.
    """
    scale = MICRONS_PER_PIXEL.get(magnification)
    height, width = image.shape[:2]
    if scale is None or min(height, width) < 60:
        return image
    length, label = bar_length(width, scale)
    picture = Image.fromarray(image)
    draw = ImageDraw.Draw(picture)
    font = _font(max(10, height // 30))
    pad = max(4, height // 60)
    text_width, text_height = draw.textbbox((0, 0), label, font=font)[2:]
    box_width = max(length, int(text_width)) + 2 * pad
    left, top = width - box_width - pad, height - int(text_height) - 4 * pad - 3
    draw.rectangle((left, top, width - pad, height - pad), fill=(255, 255, 255))
    centre = left + box_width / 2
    draw.text((centre - text_width / 2, top + pad / 2), label, fill=(0, 0, 0), font=font)
    bar_top = height - 2 * pad - 3
    draw.rectangle((centre - length / 2, bar_top, centre + length / 2 - 1, bar_top + 3), fill=(0, 0, 0))
    return np.asarray(picture)


@cache
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """DejaVu Sans, which matplotlib carries (a dependency of grad-cam): Pillow's own font has no µ."""
    spec = importlib.util.find_spec("matplotlib")
    if spec is None or spec.origin is None:
        return ImageFont.load_default(size)
    return ImageFont.truetype(Path(spec.origin).parent / "mpl-data/fonts/ttf/DejaVuSans.ttf", size)


def legend_bar(colour_map: str = "inferno", width: int = 256, height: int = 12) -> np.ndarray:
    """The colours from low to high as a strip: uint8, height x width x 3."""
    steps = np.linspace(0, 255, width).round().astype(np.uint8)
    return np.repeat(colours(colour_map)[steps][None], height, axis=0)


def _own_scale(heat: np.ndarray, colour_map: str) -> tuple[float, float]:
    if colour_map == "signed":
        reach = float(np.abs(heat).max())
        return -reach, reach
    return 0.0, float(heat.max())


@cache
def _table(number: int) -> np.ndarray:
    ramp = np.arange(256, dtype=np.uint8)[None]
    table = np.ascontiguousarray(cv2.applyColorMap(ramp, number)[0, :, ::-1])
    table.setflags(write=False)
    return table


@cache
def _signed_table() -> np.ndarray:
    at = np.linspace(0, 2, 256)
    table = np.stack([np.interp(at, (0, 1, 2), channel) for channel in zip(*SIGNED_COLOURS, strict=True)], 1)
    table = table.round().astype(np.uint8)
    table.setflags(write=False)
    return table
