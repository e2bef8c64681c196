"""Confusion matrices as small multiples in one figure: a row per entry, a column per slice, every cell clickable.

The pages and the report draw with this one. Filled shapes carry the colours (they stretch with the page),
invisible square markers carry the clicks: a Plotly heat map reports no selection. Colour is always the share
of the true class's images, 0 to 100%, so that all matrices share one scale whatever their size; the text is
what the mode asks for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import plotly.graph_objects as go

from engine.analysis import metrics
from engine.report import theme
from engine.wording import signed

MODES = ("counts", "percent", "difference")
CELL_PX, GAP_PX, HEAD_PX, LAST_PX = 34, 38, 46, 20
GAP_X = 0.42  # between matrices, in cell widths
LABEL_SHARE = 0.17  # of the width is room for the names
LEAST_CELLS = 9  # fewer than this do not stretch over the whole width
NARROW_FROM = 16  # cells in a row from which a cell holds no more than its number
FULL_AT = 0.25  # a difference of a quarter of a class is the full colour


@dataclass(frozen=True)
class Row:
    """One entry: its confusion counts per slice, (classes, classes) as nested lists, rows true."""

    id: str
    label: str
    colour: str
    matrices: Mapping[str, Sequence[Sequence[int]]]
    leaks: bool = False


@dataclass(frozen=True)
class _Canvas:
    """Shapes and annotations, gathered to be given to the figure at once."""

    shapes: list[dict]
    notes: list[dict]

    def shape(self, **values) -> None:
        self.shapes.append(values)

    def note(self, **values) -> None:
        self.notes.append(values)


def widths(parts: int, classes: int) -> tuple[float, float]:
    """(room for the names, room for the matrices) in cell widths."""
    cells = parts * (classes + GAP_X) - GAP_X
    room = max(cells + 0.05, LEAST_CELLS)
    return room * LABEL_SHARE / (1 - LABEL_SHARE), room


def shares(matrix: np.ndarray) -> np.ndarray:
    """Counts as shares of their row; nan where a class has no image."""
    totals = matrix.sum(axis=1, keepdims=True).astype(float)
    return np.divide(matrix, totals, out=np.full(matrix.shape, np.nan), where=totals > 0)


def columns(
    parts: Sequence[str], titles: Mapping[str, str] | None = None
) -> tuple[list[str], dict[str, str]]:
    """The slices to draw and their titles: one slice that holds all there is is drawn once, as `all (40X)`."""
    named = dict(titles or {})
    others = [part for part in parts if part != "all"]
    if len(others) == 1 and len(parts) == 2:
        return ["all"], {"all": f"all ({named.get(others[0], others[0])})"}
    return list(parts), named


def figure(
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

    Raises:
        ValueError: an unknown mode, or a difference without `against`.
    """
    if mode not in MODES:
        raise ValueError(f"mode must be one of {', '.join(MODES)}, not {mode}")
    if mode == "difference" and against is None:
        raise ValueError("a difference needs the row that is subtracted")
    ink, size = theme.tone(dark).ink, len(classes)
    digits = 13 if size <= 3 else 11 if size <= 5 else 9  # many classes leave a cell some 20 pixels
    canvas = _Canvas([], [])  # Plotly takes seconds to add hundreds of shapes one by one
    points: dict[str, list] = {"x": [], "y": [], "data": [], "hover": [], "text": [], "ink": []}
    step_x, step_y = size + GAP_X, size + GAP_PX / CELL_PX
    label_x, room = widths(len(parts), size)
    narrow = room > NARROW_FROM
    for r, row in enumerate(rows):
        top = r * step_y
        _row_label(canvas, row, top, label_x, ink, classes)
        for c, part in enumerate(parts):
            matrix = np.asarray(row.matrices.get(part, np.zeros((size, size))), dtype=int)
            base = (
                np.asarray(against.matrices.get(part, np.zeros((size, size))), dtype=int) if against else None
            )
            _matrix(canvas, points, row, part, matrix, base, c * step_x, top, classes, mode, dark)
            _under(canvas, matrix, base, mode, c * step_x + size / 2, top + size, ink, narrow)
            _outlines(canvas, row, part, c * step_x, top, classes, chosen, changed, ink)
    for c, part in enumerate(parts):
        title = (titles or {}).get(part, part)
        _text(canvas, c * step_x + size / 2, -0.62, f"<b>{theme.plain(title)}</b>", 13, ink)
        for k, name in enumerate(short_names(classes)):
            _text(canvas, c * step_x + k + 0.5, -0.2, theme.plain(name), min(11, digits), ink, 0.7)
    drawn = go.Figure(layout={"shapes": canvas.shapes, "annotations": canvas.notes})
    drawn.add_trace(
        go.Scatter(
            x=points["x"], y=points["y"], mode="text", text=points["text"], hoverinfo="skip",
            textfont={"color": points["ink"], "size": digits}, showlegend=False,
        )
    )  # fmt: skip
    drawn.add_trace(
        go.Scatter(
            x=points["x"], y=points["y"], mode="markers", customdata=points["data"], hovertext=points["hover"],
            hovertemplate="%{hovertext}<extra></extra>", showlegend=False,
            marker={"symbol": "square", "size": CELL_PX, "opacity": 0, "color": "#000"},
            selected={"marker": {"opacity": 0}}, unselected={"marker": {"opacity": 0}},
        )
    )  # fmt: skip
    last = LAST_PX + (14 if narrow else 0)  # two lines stand under a narrow matrix
    height = HEAD_PX + len(rows) * (size * CELL_PX + GAP_PX) - GAP_PX + last
    drawn.update_layout(
        height=height,
        margin={"l": 0, "r": 0, "t": 0, "b": 0},
        hovermode="closest",
        hoverdistance=40,
        dragmode=False,
        clickmode="event+select",
        plot_bgcolor="rgba(0,0,0,0)",
        paper_bgcolor="rgba(0,0,0,0)",
    )
    bottom = len(rows) * step_y - (GAP_PX - last) / CELL_PX
    drawn.update_xaxes(visible=False, fixedrange=True, range=[-label_x, room])
    drawn.update_yaxes(visible=False, fixedrange=True, range=[bottom, -HEAD_PX / CELL_PX])
    return drawn


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


def legend(classes: Sequence[str]) -> str:
    """`B = benign, M = malignant`: what the letters at the edges mean."""
    return ", ".join(f"{short} = {name}" for short, name in zip(short_names(classes), classes, strict=True))


# --- parts of it ---------------------------------------------------------------------------------------
def _matrix(canvas, points, row, part, matrix, base, left, top, classes, mode, dark) -> None:
    own = shares(matrix)
    gap = own - shares(base) if base is not None else None
    for i, true in enumerate(classes):
        for j, guess in enumerate(classes):
            value = gap[i, j] if mode == "difference" and gap is not None else own[i, j]
            fill = _fill(value, mode, dark)
            canvas.shape(
                type="rect", x0=left + j, x1=left + j + 1, y0=top + i, y1=top + i + 1, layer="below",
                fillcolor=fill, line={"width": 1, "color": "rgba(128,120,140,.28)"},
            )  # fmt: skip
            points["x"].append(left + j + 0.5)
            points["y"].append(top + i + 0.5)
            points["data"].append([row.id, part, true, guess])
            points["text"].append(_cell_text(matrix, base, i, j, mode))
            points["ink"].append(theme.readable_on(fill))
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
        f"<b>{theme.plain(row.label)}</b>, {theme.plain(where)}",
        f"truly {theme.plain(true)}, called {theme.plain(guess)}",
        f"{matrix[i, j]:,} of {int(matrix[i].sum()):,} images ({share})",
    ]
    if base is not None:
        lines.append(f"reference: {base[i, j]:,} images")
    return "<br>".join([*lines, "Click to see them"])


def _under(canvas, matrix, base, mode, x, y, ink, narrow) -> None:
    """Balanced accuracy and what it rests on, below each matrix; where a class has no image only the latter."""
    own = float(metrics.balanced_accuracy(matrix[None])[0])
    text = "n/a" if np.isnan(own) else f"{own:.3f}"
    if mode == "difference" and base is not None:
        gap = own - float(metrics.balanced_accuracy(base[None])[0])
        text = "n/a" if np.isnan(gap) else signed(gap)
    n = f"n = {int(matrix.sum()):,}"
    if narrow:
        _text(canvas, x, y + 0.45, n if text == "n/a" else f"{text}<br>{n}", 10, ink, 0.78)
    else:
        _text(canvas, x, y + 0.3, f"{text} · {n}", 11, ink, 0.78)


def _outlines(canvas, row, part, left, top, classes, chosen, changed, ink) -> None:
    marks = []
    if chosen and chosen[:2] == (row.id, part) and chosen[2] in classes and chosen[3] in classes:
        marks.append((classes.index(chosen[2]), classes.index(chosen[3]), 3, "solid"))
    for i, j in np.argwhere(changed[row.id, part]) if changed and (row.id, part) in changed else []:
        marks.append((int(i), int(j), 1, "dot"))
    for i, j, width, dash in marks:
        inset = 0.05 if dash == "dot" else 0.0  # so that neighbours' outlines do not run together
        canvas.shape(
            type="rect", x0=left + j + inset / 2, x1=left + j + 1 - inset / 2, y0=top + i + inset, y1=top + i + 1 - inset,
            line={"width": width, "color": ink, "dash": dash}, fillcolor="rgba(0,0,0,0)",
        )  # fmt: skip


def _row_label(canvas, row: Row, top: float, label_x: float, ink: str, classes: Sequence[str]) -> None:
    size = len(classes)
    canvas.shape(
        type="rect", x0=-label_x, x1=-0.994 * label_x + 0.02, y0=top, y1=top + size, fillcolor=row.colour,
        line={"width": 0},
    )  # fmt: skip
    label = theme.wrapped(row.label, 18, 3) + (
        "<br><span style='color:#D9534A'>⚠ leaks</span>" if row.leaks else ""
    )
    canvas.note(
        x=-0.96 * label_x, y=top + size / 2, text=label, showarrow=False, xanchor="left", align="left",
        font={"size": 12, "color": ink},
    )  # fmt: skip
    for k, name in enumerate(short_names(classes)):
        _text(canvas, -0.14, top + k + 0.5, theme.plain(name), 11, ink, 0.7)


def _text(canvas, x: float, y: float, text: str, size: int, ink: str, opacity: float = 1.0) -> None:
    canvas.note(x=x, y=y, text=text, showarrow=False, font={"size": size, "color": ink}, opacity=opacity)


def short_names(classes: Sequence[str]) -> list[str]:
    """One letter per class where that tells them apart (B, M), else codes of up to two letters, else three."""
    for length in (1, 2, 3):
        short = [name if len(name) <= 2 else name[:length].upper() for name in classes]
        if len(set(short)) == len(short):
            return short
    return list(classes)


def _fill(value: float, mode: str, dark: bool) -> str:
    if np.isnan(value):
        return theme.DARK.grid if dark else "#F0EFF2"
    if mode == "difference":
        scale = theme.DIVERGING_DARK if dark else theme.DIVERGING
        return theme.blend(scale, 0.5 + value / (2 * FULL_AT))
    return theme.blend(theme.SEQUENTIAL_DARK if dark else theme.SEQUENTIAL, value)
