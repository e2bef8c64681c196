"""Confusion matrices as small multiples in one figure: a row per entry, a column per slice, every cell clickable.

Filled shapes carry the colours (they stretch with the page), invisible square markers carry the clicks: a
Plotly heat map reports no selection. Colour is always the share of the true class's images, 0 to 100%, so
that all matrices share one scale whatever their size; the text is what the mode asks for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import plotly.graph_objects as go

from engine.analysis import metrics

CELL_PX, GAP_PX, HEAD_PX, LAST_PX = 34, 38, 46, 20
GAP_X = 0.42  # between matrices, in cell widths
LABEL_X = 2.15  # room for the names, in cell widths
INK = {"light": "#23212B", "dark": "#E9E7EE"}
# Hematoxylin on paper; on the dark theme from the page's own dark to a light violet.
RAMP = {"light": ("#F6F4FA", "#5B3E8F"), "dark": ("#221F29", "#B79DEB")}
# Less - nothing - more; green and violet stay apart for every kind of colour blindness (ColorBrewer PRGn).
DIVERGING = {"light": ("#7B3294", "#F7F7F7", "#008837"), "dark": ("#C79BD8", "#2A2731", "#5FBF86")}


@dataclass(frozen=True)
class Row:
    """One entry: its confusion counts per slice, (classes, classes) as nested lists, rows true."""

    id: str
    label: str
    colour: str
    matrices: Mapping[str, Sequence[Sequence[int]]]
    leaks: bool = False


def shares(matrix: np.ndarray) -> np.ndarray:
    """Counts as shares of their row; nan where a class has no image."""
    totals = matrix.sum(axis=1, keepdims=True).astype(float)
    return np.divide(matrix, totals, out=np.full(matrix.shape, np.nan), where=totals > 0)


def confusion_rows(
    rows: Sequence[Row],
    parts: Sequence[str],
    classes: Sequence[str],
    *,
    mode: str = "counts",
    against: Row | None = None,
    chosen: tuple[str, str, str, str] | None = None,
    changed: Mapping[tuple[str, str], np.ndarray] | None = None,
    titles: Mapping[str, str] | None = None,
    dark: bool = False,
) -> go.Figure:
    """The figure.

    Args:
        rows: the entries, in order. parts: the slices, in order. classes: in label order.
        mode: counts, percent, or difference (each row minus `against`, in percentage points).
        chosen: (entry, slice, true, predicted) of the cell whose images are open: it is outlined.
        titles: slice -> what stands above its column, where that is not its name.
        changed: (entry, slice) -> bool (classes, classes): cells to outline, because they changed.

    Custom data of a point: entry, slice, true class, predicted class.
    """
    theme = "dark" if dark else "light"
    size = len(classes)
    fig = go.Figure()
    points: dict[str, list] = {"x": [], "y": [], "data": [], "hover": [], "text": [], "ink": []}
    step_x, step_y = size + GAP_X, size + GAP_PX / CELL_PX
    for r, row in enumerate(rows):
        top = r * step_y
        _row_label(fig, row, top, size, INK[theme], classes)
        for c, part in enumerate(parts):
            matrix = np.asarray(row.matrices.get(part, np.zeros((size, size))), dtype=int)
            base = (
                np.asarray(against.matrices.get(part, np.zeros((size, size))), dtype=int) if against else None
            )
            _matrix(fig, points, row, part, matrix, base, c * step_x, top, classes, mode, theme)
            _under(fig, matrix, base, mode, c * step_x + size / 2, top + size, INK[theme])
            _outlines(fig, row, part, c * step_x, top, classes, chosen, changed, INK[theme])
    for c, part in enumerate(parts):
        title = (titles or {}).get(part, part)
        _text(fig, c * step_x + size / 2, -0.62, f"<b>{title}</b>", 13, INK[theme])
        for k, name in enumerate(classes):
            _text(fig, c * step_x + k + 0.5, -0.2, _initial(name), 11, INK[theme], 0.7)
    fig.add_trace(
        go.Scatter(
            x=points["x"], y=points["y"], mode="text", text=points["text"], hoverinfo="skip",
            textfont={"color": points["ink"], "size": 13}, showlegend=False,
        )
    )  # fmt: skip
    fig.add_trace(
        go.Scatter(
            x=points["x"], y=points["y"], mode="markers", customdata=points["data"], hovertext=points["hover"],
            hovertemplate="%{hovertext}<extra></extra>", showlegend=False,
            marker={"symbol": "square", "size": CELL_PX, "opacity": 0, "color": "#000"},
            selected={"marker": {"opacity": 0}}, unselected={"marker": {"opacity": 0}},
        )
    )  # fmt: skip
    height = HEAD_PX + len(rows) * (size * CELL_PX + GAP_PX) - GAP_PX + LAST_PX
    fig.update_layout(
        height=height,
        margin={"l": 0, "r": 0, "t": 0, "b": 0},
        hovermode="closest",
        hoverdistance=40,
        dragmode=False,
        clickmode="event+select",
        plot_bgcolor="rgba(0,0,0,0)",
        paper_bgcolor="rgba(0,0,0,0)",
    )
    bottom = len(rows) * step_y - (GAP_PX - LAST_PX) / CELL_PX
    fig.update_xaxes(visible=False, fixedrange=True, range=[-LABEL_X, len(parts) * step_x - GAP_X + 0.05])
    fig.update_yaxes(visible=False, fixedrange=True, range=[bottom, -HEAD_PX / CELL_PX])
    return fig


def alt_text(rows: Sequence[Row], parts: Sequence[str], classes: Sequence[str]) -> str:
    """The matrices in words, for those who cannot see them."""
    sentences = []
    for row in rows:
        found = []
        for part in parts:
            matrix = np.asarray(row.matrices.get(part, np.zeros((len(classes),) * 2)), dtype=int)
            right, total = int(np.trace(matrix)), int(matrix.sum())
            found.append(f"{part} {right} of {total} right")
        sentences.append(f"{row.label}: {', '.join(found)}")
    return "Confusion matrices. " + ". ".join(sentences) + "."


# --- parts of it ---------------------------------------------------------------------------------------
def _matrix(fig, points, row, part, matrix, base, left, top, classes, mode, theme) -> None:
    own = shares(matrix)
    gap = own - shares(base) if base is not None else None
    for i, true in enumerate(classes):
        for j, guess in enumerate(classes):
            value = gap[i, j] if mode == "difference" and gap is not None else own[i, j]
            fill = _fill(value, mode, theme)
            fig.add_shape(
                type="rect", x0=left + j, x1=left + j + 1, y0=top + i, y1=top + i + 1, layer="below",
                fillcolor=fill, line={"width": 1, "color": "rgba(128,120,140,.28)"},
            )  # fmt: skip
            points["x"].append(left + j + 0.5)
            points["y"].append(top + i + 0.5)
            points["data"].append([row.id, part, true, guess])
            points["text"].append(_cell_text(matrix, base, i, j, mode))
            points["ink"].append(_ink_on(fill, theme))
            points["hover"].append(_hover(row, part, matrix, base, i, j, true, guess))


def _cell_text(matrix: np.ndarray, base: np.ndarray | None, i: int, j: int, mode: str) -> str:
    own = shares(matrix)[i, j]
    if mode == "counts":
        return f"{matrix[i, j]:,}"
    if mode == "difference" and base is not None:
        gap = own - shares(base)[i, j]
        return "n/a" if np.isnan(gap) else "0.0" if abs(gap) < 5e-4 else f"{100 * gap:+.1f}"
    return "n/a" if np.isnan(own) else f"{100 * own:.1f}"


def _hover(row, part, matrix, base, i, j, true, guess) -> str:
    own = shares(matrix)[i, j]
    share = "n/a" if np.isnan(own) else f"{100 * own:.1f}%"
    where = "all magnifications" if part == "all" else part
    lines = [
        f"<b>{_safe(row.label)}</b>, {_safe(where)}",
        f"truly {_safe(true)}, called {_safe(guess)}",
        f"{matrix[i, j]:,} of {int(matrix[i].sum()):,} images ({share})",
    ]
    if base is not None:
        lines.append(f"reference: {base[i, j]:,} images")
    return "<br>".join([*lines, "Click to see them"])


def _under(fig, matrix, base, mode, x, y, ink) -> None:
    """Balanced accuracy and what it rests on, below each matrix."""
    own = float(metrics.balanced_accuracy(matrix[None])[0])
    text = "n/a" if np.isnan(own) else f"{own:.3f}"
    if mode == "difference" and base is not None:
        gap = own - float(metrics.balanced_accuracy(base[None])[0])
        text = "n/a" if np.isnan(gap) else f"{gap:+.3f}"
    _text(fig, x, y + 0.3, f"{text} · n = {int(matrix.sum()):,}", 11, ink, 0.78)


def _outlines(fig, row, part, left, top, classes, chosen, changed, ink) -> None:
    marks = []
    if chosen and chosen[:2] == (row.id, part) and chosen[2] in classes and chosen[3] in classes:
        marks.append((classes.index(chosen[2]), classes.index(chosen[3]), 3, "solid"))
    for i, j in np.argwhere(changed[row.id, part]) if changed and (row.id, part) in changed else []:
        marks.append((int(i), int(j), 1, "dot"))
    for i, j, width, dash in marks:
        inset = 0.05 if dash == "dot" else 0.0  # so that neighbours' outlines do not run together
        fig.add_shape(
            type="rect", x0=left + j + inset / 2, x1=left + j + 1 - inset / 2, y0=top + i + inset, y1=top + i + 1 - inset,
            line={"width": width, "color": ink, "dash": dash}, fillcolor="rgba(0,0,0,0)",
        )  # fmt: skip


def _row_label(fig, row: Row, top: float, size: int, ink: str, classes: Sequence[str]) -> None:
    fig.add_shape(
        type="rect", x0=-LABEL_X, x1=-LABEL_X + 0.05, y0=top, y1=top + size, fillcolor=row.colour,
        line={"width": 0},
    )  # fmt: skip
    name = _wrapped(row.label) + ("<br><span style='color:#D9534A'>⚠ leaks</span>" if row.leaks else "")
    fig.add_annotation(
        x=-LABEL_X + 0.14, y=top + size / 2, text=name, showarrow=False, xanchor="left", align="left",
        font={"size": 12, "color": ink},
    )  # fmt: skip
    for k, title in enumerate(classes):
        _text(fig, -0.14, top + k + 0.5, _initial(title), 11, ink, 0.7)


def _text(fig, x: float, y: float, text: str, size: int, ink: str, opacity: float = 1.0) -> None:
    fig.add_annotation(
        x=x, y=y, text=text, showarrow=False, font={"size": size, "color": ink}, opacity=opacity
    )


def _initial(name: str) -> str:
    return name if len(name) <= 2 else name[:1].upper()


def _wrapped(text: str, width: int = 15, most: int = 3) -> str:
    """A name in lines of about `width` letters; markup in it is text."""
    lines = [""]
    for word in text.split():
        if lines[-1] and len(lines[-1]) + len(word) >= width:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    if len(lines) > most:
        lines = [*lines[:most]]
        lines[-1] += " …"
    return "<br>".join(_safe(line if len(line) <= width + 4 else line[: width + 3] + "…") for line in lines)


def _safe(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _fill(value: float, mode: str, theme: str) -> str:
    if np.isnan(value):
        return "rgba(128,120,140,.12)"
    if mode == "difference":
        low, middle, high = DIVERGING[theme]
        reach = min(1.0, abs(value) / 0.25)  # a quarter of a class is the full colour
        return _mix(middle, high if value > 0 else low, reach)
    return _mix(*RAMP[theme], value)


def _mix(start: str, end: str, share: float) -> str:
    a, b = _rgb(start), _rgb(end)
    return "#" + "".join(f"{round(x + (y - x) * share):02X}" for x, y in zip(a, b, strict=True))


def _rgb(colour: str) -> tuple[int, int, int]:
    return int(colour[1:3], 16), int(colour[3:5], 16), int(colour[5:7], 16)


def _ink_on(fill: str, theme: str) -> str:
    if not fill.startswith("#"):
        return INK[theme]
    r, g, b = _rgb(fill)
    return "#23212B" if 0.299 * r + 0.587 * g + 0.114 * b > 140 else "#FFFFFF"
