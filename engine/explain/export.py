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
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from engine import files
from engine.data.images import decode
from engine.errors import EngineError, ExplainError
from engine.explain import overlay
from engine.explain.explanation import Explanation
from engine.explain.runs import Map, explain_file, explain_files
from engine.runs.folder import RunFolder

RESEARCH_USE = "Research use only. Not for diagnosis."
FORMATS = ("pdf", "svg", "png")
MOST_ON_A_PAGE = 12
_COLOURS = {"benign": (0, 114, 178), "malignant": (213, 94, 0)}


@dataclass(frozen=True)
class Style:
    """How an overlay is drawn (see `overlay.overlay`)."""

    opacity: float = overlay.OPACITY
    colour_map: str = "inferno"
    contour_top: float | None = None
    even: bool = False

    def __post_init__(self) -> None:
        overlay.colours(self.colour_map)
        for name, value in (("opacity", self.opacity), ("outlined share", self.contour_top)):
            if value is not None and not 0 <= value <= 1:
                raise ExplainError(
                    f"The {name} is out of range", found=f"{value:g}", remedy="Give a number from 0 to 1"
                )


def about(explanation: Map, run_id: str = "") -> dict[str, str]:
    """What a file shows, as it is written into it."""
    one = explanation if isinstance(explanation, Explanation) else explanation.explanations[0]
    probability = float(explanation.probabilities[explanation.classes.index(explanation.predicted)])
    return {
        "Run": run_id,
        "Method": one.method,
        "Layer": one.layer,
        "Target": explanation.target,
        "Prediction": f"{explanation.predicted} {probability:.4f}",
        "Disclaimer": RESEARCH_USE,
    }


def overlay_png(pixels: np.ndarray, heat: np.ndarray, style: Style, facts: dict[str, str]) -> bytes:
    """An overlay at native pixels as a PNG whose text chunks say what it shows.

    Args:
        pixels: uint8, height x width x 3. heat: float, height x width.
        facts: of `about`.
    """
    drawn = overlay.overlay(
        pixels, heat, style.opacity, style.colour_map, contour_top=style.contour_top, even=style.even
    )
    info = PngInfo()
    for name, value in facts.items():
        info.add_itxt(name, value)
    buffer = io.BytesIO()
    Image.fromarray(drawn).save(buffer, format="PNG", pnginfo=info)
    return buffer.getvalue()


def raw_npy(explanation: Map) -> bytes:
    """The signed map on the layer's grid (a model's), or the fused map at image size (an ensemble's), as .npy."""
    values = explanation.raw if isinstance(explanation, Explanation) else explanation.heat
    buffer = io.BytesIO()
    np.save(buffer, np.asarray(values, dtype=np.float32))
    return buffer.getvalue()


def geojson(
    explanation: Map, share: float = overlay.TOP_SHARE, facts: dict[str, str] | None = None
) -> dict[str, Any]:
    """The hottest share of the image as QuPath annotations (File > Import objects), in the image's pixels.

    Holes are kept; a pixel's centre is at + 0.5, as QuPath counts. `facts` (of `about`) become the metadata of
    each annotation.
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
                "metadata": facts or {},
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


def geojson_bytes(
    explanation: Map, share: float = overlay.TOP_SHARE, facts: dict[str, str] | None = None
) -> bytes:
    """`geojson` as a file's bytes."""
    return json.dumps(geojson(explanation, share, facts)).encode("utf-8")


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
    style: Style | None = None,
    shared_scale: bool = False,
) -> bytes:
    """Images and their overlays as one page: a row per image, a column per map, text as text.

    Args:
        form: `pdf`, `svg` or `png`. style: of the overlays.
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

    style = style or Style()
    columns = 1 + max(len(row.maps) for row in rows)
    figure = Figure(figsize=(2.6 * columns, 1.85 * len(rows) + 0.6), layout="constrained")
    axes = figure.subplots(len(rows), columns, squeeze=False)
    scales = _column_scales(rows, columns - 1) if shared_scale else None
    for line, row in zip(axes, rows, strict=True):
        _draw_row(line, row, style, scales)
    if title:
        figure.suptitle(title, fontsize=10)
    _colour_bar(figure, axes, style.colour_map, shared_scale)
    figure.supxlabel(RESEARCH_USE, fontsize=7)
    buffer = io.BytesIO()
    with _text_stays_text():
        figure.savefig(buffer, format=form, dpi=200)
    return buffer.getvalue()


def _text_stays_text():
    import matplotlib

    return matplotlib.rc_context({"svg.fonttype": "none", "pdf.fonttype": 42, "svg.hashsalt": "breakhis"})


def _draw_row(line, row: FigureRow, style: Style, scales: list[tuple[float, float]] | None) -> None:
    truth = f", true {row.truth}" if row.truth else ""
    _panel(line[0], overlay.scale_bar(row.image, row.magnification), f"{row.name}{truth}")
    for position, panel in enumerate(line[1:]):
        if position >= len(row.maps):
            panel.axis("off")
            continue
        label, found = row.maps[position]
        scale = scales[position] if scales else None
        drawn = overlay.overlay(
            row.image, found.heat, style.opacity, style.colour_map, scale, style.contour_top, style.even
        )
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


# --- image files ---------------------------------------------------------------------------------------


def explain_image(
    folder: RunFolder,
    image: Path,
    out: Path,
    *,
    raw: Path | None = None,
    outline: Path | None = None,
    page: Path | None = None,
    style: Style | None = None,
    **question,
) -> dict[str, Any]:
    """The overlay of one image at native pixels, and what else is asked for.

    Args:
        out: PNG. raw: .npy of the signed map on the layer's grid. outline: GeoJSON for QuPath.
        page: a figure, .pdf, .svg or .png.
        question: method, target, layer, device, load (see `runs.explain_file`).

    Returns:
        What was found, as JSON values.

    Raises:
        ExplainError, DataError, RunError: see `engine.explain.runs.explain_file`.
    """
    style = style or Style()
    for path in (out, raw, outline, page):
        if path is not None and path.is_dir():
            raise ExplainError(
                "A file cannot be written over a folder",
                found=str(path),
                remedy="Give the name of a file in it",
            )
    found = explain_file(folder, image, **question)
    for path in (out, raw, outline, page):
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
    pixels, facts = decode(Path(image)), about(found, folder.id)
    files.write_bytes(out, overlay_png(pixels, found.heat, style, facts))
    if raw is not None:
        files.write_bytes(raw, raw_npy(found))
    if outline is not None:
        share = style.contour_top or overlay.TOP_SHARE
        files.write_bytes(outline, geojson_bytes(found, share, facts))
    if page is not None:
        row = FigureRow(pixels, image.name, ((folder.name, found),))
        files.write_bytes(page, _page([row], page, style))
    return {
        "id": folder.id,
        "image": image.name,
        "method": facts["Method"],
        "layer": facts["Layer"],
        "target": found.target,
        "predicted": found.predicted,
        "probability": float(found.probabilities[found.classes.index(found.predicted)]),
        "probabilities": {
            name: float(value) for name, value in zip(found.classes, found.probabilities, strict=True)
        },
        "out": str(out),
        "raw": str(raw) if raw else None,
    }


def _page(rows: list[FigureRow], path: Path, style: Style) -> bytes:
    form = path.suffix.lower().removeprefix(".")
    return figure_page(rows, form=form, style=style)


def explain_folder(
    folder: RunFolder,
    sources: list[Path],
    out: Path,
    *,
    raw: bool = False,
    outline: bool = False,
    page: Path | None = None,
    style: Style | None = None,
    progress: Callable[[int, int], None] | None = None,
    **question,
) -> pd.DataFrame:
    """Overlays of many images as PNG at native pixels, and `explanations.csv` beside them.

    Args:
        sources: image files; two of the same name get their number in front.
        out: folder, made if it is not there.
        raw: also write the signed maps as .npy. outline: also GeoJSON for QuPath.
        page: also a figure of all of them, .pdf, .svg or .png; a dozen at most.
        progress: called with (images done, images in all).
        question: method, target, layer, device, load, batch_size (see `runs.explain_files`).

    Returns:
        One row per image: `image, overlay, predicted, target, prob_<class>..., error`; an image that cannot
        be explained has its error and no overlay.

    Raises:
        ExplainError, RunError: what is wrong for all images.
    """
    style = style or Style()
    _check_folder(out, page, len(sources))
    out.mkdir(parents=True, exist_ok=True)
    names = _names(sources)
    rows: list[dict[str, Any]] = []
    figure: list[FigureRow] = []
    for position, (source, one) in enumerate(explain_files(folder, sources, **question)):
        record: dict[str, Any] = {"image": str(source), "overlay": "", "error": ""}
        if isinstance(one, EngineError):
            record["error"] = str(one)
        else:
            stem, pixels, facts = names[position], decode(source), about(one, folder.id)
            files.write_bytes(out / f"{stem}.png", overlay_png(pixels, one.heat, style, facts))
            if raw:
                files.write_bytes(out / f"{stem}.npy", raw_npy(one))
            if outline:
                share = style.contour_top or overlay.TOP_SHARE
                files.write_bytes(out / f"{stem}.geojson", geojson_bytes(one, share, facts))
            if page is not None:
                figure.append(FigureRow(pixels, source.name, ((folder.name, one),)))
            record |= {"overlay": f"{stem}.png", "predicted": one.predicted, "target": one.target}
            record |= {
                f"prob_{name}": float(p) for name, p in zip(one.classes, one.probabilities, strict=True)
            }
        rows.append(record)
        if progress:
            progress(position + 1, len(sources))
    if page is not None and figure:
        files.write_bytes(page, _page(figure, page, style))
    table = pd.DataFrame(rows)
    files.write_csv(out / "explanations.csv", files.spreadsheet_safe(table))
    return table


def _check_folder(out: Path, page: Path | None, count: int) -> None:
    if out.exists() and not out.is_dir():
        raise ExplainError(
            "The overlays of a folder need a folder", found=f"the file {out}", remedy="Give another --out"
        )
    if page is not None and count > MOST_ON_A_PAGE:
        raise ExplainError(
            "These images do not fit on a page",
            found=f"{count} images",
            remedy=f"Give a folder of at most {MOST_ON_A_PAGE}",
        )


def _names(sources: list[Path]) -> list[str]:
    stems = [source.stem for source in sources]
    width = len(str(len(stems)))
    return [
        stem if stems.count(stem) == 1 else f"{position:0{width}d}_{stem}"
        for position, stem in enumerate(stems, 1)
    ]
