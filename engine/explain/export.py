"""Maps that leave the dashboard: PNG, .npy, GeoJSON for QuPath, a page for a paper. No torch."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd

from engine import files
from engine.data.images import decode, encode_png
from engine.errors import EngineError, ExplainError
from engine.explain import overlay
from engine.explain.explanation import Explanation
from engine.explain.runs import Map, explain_files
from engine.runs.folder import RunFolder

RESEARCH_USE = "Research use only. Not for diagnosis."
FORMATS = ("pdf", "svg", "png")
_COLOURS = {"benign": (0, 114, 178), "malignant": (213, 94, 0)}


def raw_npy(explanation: Map) -> bytes:
    """The signed map on the layer's grid (a model's), or the fused map at image size (an ensemble's), as .npy."""
    values = explanation.raw if isinstance(explanation, Explanation) else explanation.heat
    buffer = io.BytesIO()
    np.save(buffer, np.asarray(values, dtype=np.float32))
    return buffer.getvalue()


def geojson(explanation: Map, share: float = overlay.TOP_SHARE) -> dict[str, Any]:
    """The hottest share of the image as QuPath annotations (File > Import objects), in the image's pixels.

    Holes are kept; a pixel's centre is at + 0.5, as QuPath counts.
    """
    name = f"{explanation.target} top {share:.0%}"
    red, green, blue = _COLOURS.get(explanation.target, (91, 62, 143))
    features = [
        {
            "type": "Feature",
            "geometry": {"type": "Polygon", "coordinates": rings},
            "properties": {
                "objectType": "annotation",
                "classification": {"name": name, "color": [red, green, blue]},
            },
        }
        for rings in _polygons(explanation.heat, share)
    ]
    return {"type": "FeatureCollection", "features": features}


def _polygons(heat: np.ndarray, share: float) -> list[list[list[list[float]]]]:
    """Regions of the hottest share: per region its outline, then its holes; rings closed."""
    mask = overlay.top_mask(heat, share).astype(np.uint8)
    outlines, tree = cv2.findContours(mask, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    rings = [_ring(outline) for outline in outlines]
    found = []
    for position, ring in enumerate(rings):
        is_hole = tree[0][position][3] >= 0
        if is_hole or len(ring) < 4:
            continue
        holes = [rings[k] for k in range(len(rings)) if tree[0][k][3] == position and len(rings[k]) >= 4]
        found.append([ring, *holes])
    return found


def _ring(outline: np.ndarray) -> list[list[float]]:
    points = (outline.reshape(-1, 2) + 0.5).tolist()
    return [*points, points[0]]


# --- a page for a paper --------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class FigureRow:
    """One image of a figure: pixels (uint8, height x width x 3), name, true class, and (label, map) pairs."""

    image: np.ndarray
    name: str
    maps: tuple[tuple[str, Map], ...]
    truth: str = ""
    magnification: str = ""


def figure_page(
    rows: list[FigureRow],
    *,
    title: str = "",
    form: str = "pdf",
    opacity: float = 0.5,
    colour_map: str = "inferno",
    shared_scale: bool = False,
    contour_top: float | None = None,
) -> bytes:
    """Images and their overlays as one page: a row per image, a column per map, text as text.

    Args:
        form: `pdf`, `svg` or `png`.
        shared_scale: one scale for each column (maps of one model), instead of each map's own.

    Raises:
        ExplainError: no rows, or no such format.
    """
    if not rows or form not in FORMATS:
        raise ExplainError(
            "This figure cannot be made",
            found=f"{len(rows)} images, format {form}",
            remedy=f"Choose at least one image and one of {', '.join(FORMATS)}",
        )
    from matplotlib.figure import Figure  # half a second: only when a page is asked for

    columns = 1 + max(len(row.maps) for row in rows)
    figure = Figure(figsize=(2.6 * columns, 1.85 * len(rows) + 0.6), layout="constrained")
    axes = figure.subplots(len(rows), columns, squeeze=False)
    scales = _column_scales(rows, columns - 1) if shared_scale else None
    for line, row in zip(axes, rows, strict=True):
        _draw_row(line, row, opacity, colour_map, scales, contour_top)
    if title:
        figure.suptitle(title, fontsize=10)
    _colour_bar(figure, axes, colour_map, shared_scale)
    figure.supxlabel(RESEARCH_USE, fontsize=7)
    buffer = io.BytesIO()
    with _text_stays_text():
        figure.savefig(buffer, format=form, dpi=200)
    return buffer.getvalue()


def _text_stays_text():
    import matplotlib

    return matplotlib.rc_context({"svg.fonttype": "none", "pdf.fonttype": 42, "svg.hashsalt": "breakhis"})


def _draw_row(line, row: FigureRow, opacity, colour_map, scales, contour_top) -> None:
    truth = f", true {row.truth}" if row.truth else ""
    _panel(line[0], overlay.scale_bar(row.image, row.magnification), f"{row.name}{truth}")
    for position, panel in enumerate(line[1:]):
        if position >= len(row.maps):
            panel.axis("off")
            continue
        label, found = row.maps[position]
        scale = scales[position] if scales else None
        drawn = overlay.overlay(row.image, found.heat, opacity, colour_map, scale, contour_top)
        probability = float(found.probabilities[found.classes.index(found.predicted)])
        nothing = f" (nothing speaks for {found.target})" if found.is_empty else ""
        _panel(panel, drawn, f"{label}: {found.predicted} {probability:.2f}{nothing}")


def _panel(panel, pixels: np.ndarray, text: str) -> None:
    panel.imshow(pixels, interpolation="nearest")
    # a dollar sign would start a formula
    panel.set_title(text.replace("$", r"\$"), fontsize=6.5)
    panel.axis("off")


def _column_scales(rows: list[FigureRow], count: int) -> list[tuple[float, float]]:
    return [
        overlay.heat_range([row.maps[k][1].heat for row in rows if k < len(row.maps)]) for k in range(count)
    ]


def _colour_bar(figure, axes, colour_map: str, shared: bool) -> None:
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import ListedColormap, Normalize

    table = ListedColormap(overlay.colours(colour_map) / 255.0)
    bar = figure.colorbar(ScalarMappable(Normalize(0, 1), table), ax=axes, shrink=0.6, aspect=30, pad=0.01)
    scale = "one scale per column" if shared else "each map's own scale"
    bar.set_label(f"evidence, 0 to maximum ({scale})", fontsize=6.5)
    bar.ax.tick_params(labelsize=6)


# --- a folder of images --------------------------------------------------------------------------------


def explain_folder(
    folder: RunFolder,
    sources: list[Path],
    out: Path,
    *,
    raw: bool = False,
    opacity: float = 0.5,
    colour_map: str = "inferno",
    contour_top: float | None = None,
    progress: Callable[[int, int], None] | None = None,
    **question,
) -> pd.DataFrame:
    """Overlays of many images as PNG at native pixels, and `explanations.csv` beside them.

    Args:
        sources: image files; two of the same name get their number in front.
        out: folder, made if it is not there.
        raw: also write the signed maps as .npy.
        progress: called with (images done, images in all).
        question: method, target, layer, device, load, batch_size (see `runs.explain_files`).

    Returns:
        One row per image: `image, overlay, predicted, target, prob_<class>..., error`; an image that cannot
        be explained has its error and no overlay.

    Raises:
        ExplainError, RunError: what is wrong for all images.
    """
    out.mkdir(parents=True, exist_ok=True)
    names = _names(sources)
    rows = []
    found = explain_files(folder, sources, **question)
    for position, (source, one) in enumerate(found):
        record: dict[str, Any] = {"image": str(source), "overlay": "", "error": ""}
        if isinstance(one, EngineError):
            record["error"] = str(one)
        else:
            pixels = decode(source)
            drawn = overlay.overlay(pixels, one.heat, opacity, colour_map, contour_top=contour_top)
            files.write_bytes(out / f"{names[position]}.png", encode_png(drawn))
            if raw:
                files.write_bytes(out / f"{names[position]}.npy", raw_npy(one))
            record |= {"overlay": f"{names[position]}.png", "predicted": one.predicted, "target": one.target}
            record |= {
                f"prob_{name}": float(p) for name, p in zip(one.classes, one.probabilities, strict=True)
            }
        rows.append(record)
        if progress:
            progress(position + 1, len(sources))
    table = pd.DataFrame(rows)
    files.write_csv(out / "explanations.csv", files.spreadsheet_safe(table))
    return table


def _names(sources: list[Path]) -> list[str]:
    stems = [source.stem for source in sources]
    width = len(str(len(stems)))
    return [
        stem if stems.count(stem) == 1 else f"{position:0{width}d}_{stem}"
        for position, stem in enumerate(stems, 1)
    ]


def geojson_bytes(explanation: Map, share: float = overlay.TOP_SHARE) -> bytes:
    """`geojson` as a file's bytes."""
    return json.dumps(geojson(explanation, share)).encode("utf-8")
