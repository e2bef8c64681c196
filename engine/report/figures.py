"""Figures: pure Plotly, table in, figure out. The pages and the reports draw with these.

Colours mean one thing everywhere and survive colour blindness: benign blue, malignant vermilion (Okabe &
Ito, 2008), magnifications one ramp from light to dark, hematoxylin violet for emphasis, red for leakage.
Names are text: what looks like markup in them is shown, not interpreted.
"""

from __future__ import annotations

import html
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import plotly.graph_objects as go

if TYPE_CHECKING:
    from engine.analysis.intervals import Estimate

BENIGN, MALIGNANT, ACCENT, LEAKAGE = "#0072B2", "#D55E00", "#5B3E8F", "#B3261E"
CLASS_COLOURS = {"benign": BENIGN, "malignant": MALIGNANT}
MAGNIFICATION_COLOURS = {"40X": "#A6BDDB", "100X": "#6A93C2", "200X": "#39689F", "400X": "#173E6D"}
# Paul Tol's muted set without the tones the classes and the accent have taken, darkened for white paper.
RUN_COLOURS = (
    "#44AA99", "#CC6677", "#999933", "#88B4DD", "#117733", "#AA4499", "#C49A27", "#6B7F8C",
    "#882255", "#3B7A8C", "#B5838D", "#556B2F",
)  # fmt: skip
FONT = "Inter, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"
SEQUENTIAL = ((0.0, "#F6F4FA"), (0.5, "#B4A3D0"), (1.0, "#5B3E8F"))
SEQUENTIAL_DARK = ((0.0, "#24212B"), (0.5, "#5D4C85"), (1.0, "#B79DEB"))
DIVERGING = ((0.0, "#8C510A"), (0.25, "#D8B365"), (0.5, "#F6F5F3"), (0.75, "#5AB4AC"), (1.0, "#01665E"))
DIVERGING_DARK = ((0.0, "#D8A05A"), (0.25, "#7A5A32"), (0.5, "#2A2731"), (0.75, "#2F6E68"), (1.0, "#6FD3C7"))


# What every page and report passes on to Plotly: no tool bar over the figure.
CONFIG = {"displayModeBar": False, "displaylogo": False, "responsive": False}


@dataclass(frozen=True)
class Tone:
    """The neutral colours of a theme."""

    ink: str
    faint: str
    grid: str
    paper: str


LIGHT = Tone("#23212B", "#6B6774", "#E6E3EC", "#FFFFFF")
DARK = Tone("#E9E7EE", "#A29DAD", "#3A3643", "#1B1920")


def tone(dark: bool = False) -> Tone:
    """The neutral colours of the light or the dark theme."""
    return DARK if dark else LIGHT


def template(dark: bool = False) -> go.layout.Template:
    """The one template: quiet axes, light grid, text in the page's own font, transparent paper."""
    own = tone(dark)
    axis = {
        "gridcolor": own.grid,
        "linecolor": own.faint,
        "zerolinecolor": own.grid,
        "ticks": "outside",
        "ticklen": 4,
        "tickcolor": own.faint,
        "tickfont": {"color": own.faint, "size": 12},
        "title": {"font": {"color": own.ink, "size": 13}, "standoff": 8},
        "showline": True,
        "automargin": True,
    }
    clear = "rgba(0,0,0,0)"
    layout = go.Layout(
        font={"family": FONT, "color": own.ink, "size": 13},
        title={"font": {"size": 15, "color": own.ink}, "x": 0, "xref": "paper", "xanchor": "left"},
        paper_bgcolor=clear,
        plot_bgcolor=clear,
        colorway=list(RUN_COLOURS),
        xaxis=axis,
        yaxis=axis,
        margin={"l": 60, "r": 20, "t": 30, "b": 50},
        hoverlabel={
            "bgcolor": own.paper,
            "bordercolor": own.faint,
            "font": {"color": own.ink, "family": FONT},
        },
        legend={"bgcolor": clear, "font": {"color": own.ink}},
    )
    return go.layout.Template(layout=layout)


def plain(text: object) -> str:
    """Text as text: Plotly would read tags in it."""
    return html.escape(str(text), quote=False)


def wrapped(text: str, width: int = 24, lines: int = 2) -> str:
    """A name on a few lines, cut with an ellipsis; breaks at spaces, else anywhere."""
    rows = textwrap.wrap(str(text), width) or [""]
    if len(rows) > lines:
        rows = [*rows[: lines - 1], f"{rows[lines - 1][: width - 1].rstrip()}…"]
    return "<br>".join(plain(row) for row in rows)


def run_colours(ids: Sequence[str]) -> dict[str, str]:
    """id -> colour, the same for an id wherever it appears; within one figure no two runs share one.

    An id's hash names its colour; where two ids of a figure want the same one, the later by name takes the
    next free colour.
    """
    taken: dict[str, str] = {}
    for name in sorted(set(ids)):
        start = int.from_bytes(blake2b(name.encode(), digest_size=4).digest(), "big") % len(RUN_COLOURS)
        order = [RUN_COLOURS[(start + step) % len(RUN_COLOURS)] for step in range(len(RUN_COLOURS))]
        taken[name] = next((colour for colour in order if colour not in taken.values()), order[0])
    return {name: taken[name] for name in ids}


def class_colour(name: str, position: int = 0) -> str:
    """A class's colour: fixed for benign and malignant, by position for others."""
    return CLASS_COLOURS.get(name, RUN_COLOURS[position % len(RUN_COLOURS)])


def translucent(colour: str, opacity: float) -> str:
    """`#RRGGBB` as rgba."""
    red, green, blue = (int(colour[k : k + 2], 16) for k in (1, 3, 5))
    return f"rgba({red},{green},{blue},{opacity})"


def blend(scale: Sequence[tuple[float, str]], position: float) -> str:
    """The colour of a scale at a position 0..1, as #RRGGBB."""
    position = float(np.clip(position, 0, 1))
    channels = []
    for k in (1, 3, 5):
        values = [int(colour[k : k + 2], 16) for _, colour in scale]
        channels.append(round(float(np.interp(position, [stop for stop, _ in scale], values))))
    return "#{:02X}{:02X}{:02X}".format(*channels)


def readable_on(colour: str) -> str:
    """Dark or white ink, whichever contrasts more (relative luminance of WCAG 2)."""

    def linear(part: int) -> float:
        share = part / 255
        return share / 12.92 if share <= 0.04045 else ((share + 0.055) / 1.055) ** 2.4

    red, green, blue = (linear(int(colour[k : k + 2], 16)) for k in (1, 3, 5))
    luminance = 0.2126 * red + 0.7152 * green + 0.0722 * blue
    return "#FFFFFF" if 1.05 / (luminance + 0.05) > (luminance + 0.05) / 0.0656 else "#23212B"


# --- dot plot with intervals ---------------------------------------------------------------------------


@dataclass(frozen=True)
class ForestRow:
    """One line of a forest plot: a name, its estimate, its colour (default: ink)."""

    name: str
    estimate: Estimate
    colour: str = ""


def forest(
    rows: Sequence[ForestRow],
    title: str,
    *,
    line: float | None = None,
    line_name: str = "",
    signed: bool = False,
    dark: bool = False,
) -> go.Figure:
    """Scores as dots with their intervals, the numbers beside them. `line`: a baseline, or 0 for differences."""
    own = tone(dark)
    count = len(rows)
    fig = go.Figure()
    if line is not None:
        fig.add_vline(x=line, line={"color": own.faint, "width": 1, "dash": "dot"})
        if line_name:
            fig.add_annotation(
                x=line, y=1, yref="paper", yanchor="bottom", text=plain(line_name), showarrow=False,
                font={"size": 11, "color": own.faint},
            )  # fmt: skip
    for position, row in enumerate(rows):
        one, colour = row.estimate, row.colour or own.ink
        if np.isfinite(one.low + one.high):
            fig.add_trace(_bar(one.low, one.high, position, colour))
        hover = f"<b>{plain(row.name)}</b><br>{plain(one)}<br>{plain(one.method)}"
        hover += f"<br>{plain(one.warning)}" if one.warning else ""
        fig.add_trace(
            go.Scatter(
                x=[one.value if np.isfinite(one.value) else None], y=[position], mode="markers",
                marker={"color": colour, "size": 10, "line": {"color": own.paper, "width": 1}},
                hovertext=[hover], hovertemplate="%{hovertext}<extra></extra>", showlegend=False,
            )
        )  # fmt: skip
        fig.add_annotation(
            x=1, xref="paper", xanchor="left", xshift=12, y=position, text=_numbers(one, signed), showarrow=False,
            font={"size": 12, "color": own.ink, "family": "'DejaVu Sans Mono', Consolas, monospace"},
        )  # fmt: skip
    fig.update_layout(
        template=template(dark), height=72 + 34 * count, width=820,
        margin={"l": 200, "r": 190, "t": 26, "b": 46},
    )  # fmt: skip
    fig.update_xaxes(title_text=plain(title), range=_padded(rows, line))
    names = [wrapped(row.name, 28) for row in rows]
    fig.update_yaxes(
        tickvals=list(range(count)), ticktext=names, range=[count - 0.5, -0.5], showgrid=False, showline=False,
        ticks="", ticklabelstandoff=10, tickfont={"color": own.ink, "size": 13}, zeroline=False,
    )  # fmt: skip
    return fig


def _padded(rows: Sequence[ForestRow], line: float | None) -> list[float] | None:
    """A range that holds every interval and the line, with air at both ends."""
    numbers = [number for row in rows for number in (row.estimate.low, row.estimate.value, row.estimate.high)]
    known = [number for number in [*numbers, *([line] if line is not None else [])] if np.isfinite(number)]
    if not known:
        return None
    air = max(0.05 * (max(known) - min(known)), 0.005)
    return [min(known) - air, max(known) + air]


def _bar(low: float, high: float, position: float, colour: str) -> go.Scatter:
    return go.Scatter(
        x=[low, high], y=[position, position], mode="lines", line={"color": colour, "width": 2.5},
        hoverinfo="skip", showlegend=False,
    )  # fmt: skip


def _numbers(one: Estimate, signed: bool) -> str:
    if not signed or not np.isfinite(one.value):
        return plain(one.short)
    if not np.isfinite(one.low + one.high):
        return f"{one.value:+.3f}".replace("-", "−")
    return f"{one.value:+.3f} [{one.low:+.3f}, {one.high:+.3f}]".replace("-", "−")


# --- curves --------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Line:
    """One line of a figure. table: what `engine.analysis.curves` returned. band: `x, low, high`, optional.

    label is written at the line's end or in the legend, e.g. `V2-B1 · 0.912 [0.880, 0.940]`.
    """

    id: str
    label: str
    table: pd.DataFrame
    colour: str
    band: pd.DataFrame | None = None


@dataclass(frozen=True)
class Point:
    """An operating point on ROC and precision-recall curves."""

    label: str
    colour: str
    fpr: float
    tpr: float
    ppv: float


def _square(fig: go.Figure, title_x: str, title_y: str, dark: bool, lines: int) -> go.Figure:
    below = 22 * lines
    fig.update_layout(
        template=template(dark), width=480, height=430 + below, margin={"l": 62, "r": 18, "t": 14, "b": 58 + below},
        legend={"orientation": "v", "x": 0, "xanchor": "left", "y": -0.17, "yanchor": "top", "font": {"size": 12}, "tracegroupgap": 0},
    )  # fmt: skip
    fig.update_xaxes(title_text=title_x, range=[-0.01, 1.01], constrain="domain")
    fig.update_yaxes(title_text=title_y, range=[-0.01, 1.01])
    return fig


def _add_line(fig: go.Figure, line: Line, x: str, y: str, shape: str = "linear") -> None:
    if line.band is not None and len(line.band):
        edges = pd.concat([line.band["x"], line.band["x"][::-1]])
        sides = pd.concat([line.band["high"], line.band["low"][::-1]])
        fig.add_trace(
            go.Scatter(
                x=edges, y=sides, fill="toself", fillcolor=translucent(line.colour, 0.13), line={"width": 0},
                hoverinfo="skip", showlegend=False, legendgroup=line.id,
            )
        )  # fmt: skip
    known = line.table["threshold"] if "threshold" in line.table.columns else None
    fig.add_trace(
        go.Scatter(
            x=line.table[x], y=line.table[y], mode="lines", name=plain(line.label), legendgroup=line.id,
            line={"color": line.colour, "width": 2, "shape": shape}, customdata=known,
            hovertemplate="%{x:.3f}, %{y:.3f}" + (" · threshold %{customdata:.3f}" if known is not None else "")
            + f"<extra>{plain(line.label)}</extra>",
        )
    )  # fmt: skip


def _diagonal(fig: go.Figure, own: Tone) -> None:
    fig.add_trace(
        go.Scatter(
            x=[0, 1], y=[0, 1], mode="lines", line={"color": own.faint, "width": 1, "dash": "dot"},
            hoverinfo="skip", showlegend=False,
        )
    )  # fmt: skip


def roc(lines: Sequence[Line], points: Sequence[Point] = (), *, dark: bool = False) -> go.Figure:
    """ROC curves with bands; `points` are ringed."""
    fig = go.Figure()
    _diagonal(fig, tone(dark))
    for line in lines:
        _add_line(fig, line, "fpr", "tpr")
    for point in points:
        _ring(fig, point, point.fpr, point.tpr)
    return _square(fig, "1 − specificity", "Sensitivity", dark, len(lines))


def precision_recall(
    lines: Sequence[Line], prevalence: float, points: Sequence[Point] = (), *, dark: bool = False
) -> go.Figure:
    """Precision-recall curves with bands; the dotted line is the share of malignant images."""
    fig = go.Figure()
    fig.add_hline(y=prevalence, line={"color": tone(dark).faint, "width": 1, "dash": "dot"})
    for line in lines:
        _add_line(fig, line, "recall", "precision", "vh")
    for point in points:
        _ring(fig, point, point.tpr, point.ppv)
    return _square(fig, "Recall (sensitivity)", "Precision (PPV)", dark, len(lines))


def _ring(fig: go.Figure, point: Point, x: float, y: float) -> None:
    fig.add_trace(
        go.Scatter(
            x=[x], y=[y], mode="markers", showlegend=False,
            marker={"symbol": "circle-open", "size": 12, "color": point.colour, "line": {"width": 2.5}},
            hovertemplate=f"operating point of {plain(point.label)}: %{{x:.3f}}, %{{y:.3f}}<extra></extra>",
        )
    )  # fmt: skip


def by_threshold(
    lines: Sequence[Line],
    score: str,
    title: str,
    marks: Sequence[tuple[str, float]] = (),
    *,
    dark: bool = False,
) -> go.Figure:
    """A score by threshold (`operating.threshold_table`); `marks` are (colour, threshold in use)."""
    fig = go.Figure()
    for colour, place in marks:
        fig.add_vline(x=place, line={"color": colour, "width": 1.5, "dash": "dot"})
    for line in lines:
        _add_line(fig, line, "threshold", score)
    return _square(fig, "Threshold on the probability of malignancy", title, dark, len(lines))


def reliability(lines: Sequence[Line], *, dark: bool = False) -> go.Figure:
    """Observed share of malignant images by predicted probability, with the number of images per bin below."""
    own, fig = tone(dark), go.Figure()
    _diagonal(fig, own)
    most = max([1, *[int(line.table["n"].max()) for line in lines if len(line.table)]])
    for position, line in enumerate(lines):
        table = line.table
        fig.add_trace(
            go.Scatter(
                x=table["predicted"], y=table["observed"], mode="lines+markers", name=plain(line.label),
                line={"color": line.colour, "width": 2}, marker={"size": 7}, legendgroup=line.id,
                error_y={
                    "type": "data", "symmetric": False, "thickness": 1, "width": 0, "color": line.colour,
                    "array": table["observed_high"] - table["observed"],
                    "arrayminus": table["observed"] - table["observed_low"],
                },
                customdata=table["n"],
                hovertemplate="predicted %{x:.3f}, observed %{y:.3f} · %{customdata:,} images<extra></extra>",
            )
        )  # fmt: skip
        step = 0.8 / max(len(lines), 1)
        middle = table["low"] + (table["high"] - table["low"]) * (0.1 + step * (position + 0.5))
        fig.add_trace(
            go.Bar(
                x=middle, y=table["n"], width=(table["high"] - table["low"]) * step, yaxis="y2", showlegend=False,
                marker={"color": line.colour, "opacity": 0.75}, legendgroup=line.id,
                hovertemplate="%{y:,} images<extra></extra>",
            )
        )  # fmt: skip
    fig = _square(fig, "Predicted probability of malignancy", "Observed share malignant", dark, len(lines))
    fig.update_layout(
        barmode="overlay", height=490 + 22 * len(lines), yaxis={"domain": [0.25, 1]}, xaxis={"anchor": "y2"},
        yaxis2={"domain": [0, 0.17], "range": [0, most * 1.05], "anchor": "x", "nticks": 3, "title": {"text": "Images"}},
    )  # fmt: skip
    return fig


def decision_curve(lines: Sequence[Line], *, dark: bool = False) -> go.Figure:
    """Net benefit by threshold probability, against treating everyone and no one."""
    own, fig = tone(dark), go.Figure()
    if lines:
        table = lines[0].table
        fig.add_trace(
            go.Scatter(
                x=table["threshold"], y=table["treat_all"], mode="lines", name="all treated as malignant",
                line={"color": own.faint, "width": 1, "dash": "dash"}, hoverinfo="skip",
            )
        )  # fmt: skip
    fig.add_hline(y=0, line={"color": own.faint, "width": 1, "dash": "dot"})
    for line in lines:
        _add_line(fig, line, "threshold", "net_benefit")
    tops = [float(line.table["net_benefit"].max()) for line in lines if len(line.table)]
    fig = _square(fig, "Threshold probability", "Net benefit per image", dark, len(lines) + 1)
    fig.update_yaxes(range=[-0.1, max([0.1, *tops]) * 1.08])
    return fig


def risk_coverage(lines: Sequence[Line], *, dark: bool = False) -> go.Figure:
    """Error rate when only the surest images are judged, the rest referred."""
    fig = go.Figure()
    for line in lines:
        _add_line(fig, line, "coverage", "risk")
    tops = [float(line.table["risk"].max()) for line in lines if len(line.table)]
    fig = _square(fig, "Share of images judged (coverage)", "Error rate among them", dark, len(lines))
    fig.update_yaxes(range=[0, min(1.0, max([0.05, *tops]) * 1.1)])
    return fig


def learning_curves(
    table: pd.DataFrame,
    measure: str,
    title: str = "",
    *,
    colours: Mapping[str, str] | None = None,
    dark: bool = False,
) -> go.Figure:
    """Training (dotted) and validation (solid) by epoch.

    table: `run` (id), `name`, `split`, `epoch` and the measure; one row per run, epoch and split.
    colours: run id -> colour, by the ids' hash unless given.
    """
    fig = go.Figure()
    colours = colours or run_colours(list(dict.fromkeys(table["run"].astype(str))))
    for (run, split), rows in table.dropna(subset=[measure]).groupby(["run", "split"], sort=False):
        name = plain(rows["name"].iloc[0])
        fig.add_trace(
            go.Scatter(
                x=rows["epoch"], y=rows[measure], mode="lines", legendgroup=str(run), name=f"{name} · {plain(split)}",
                line={"color": colours[str(run)], "width": 2 if split != "train" else 1.5,
                      "dash": "dot" if split == "train" else "solid"},
                hovertemplate=f"epoch %{{x}}: %{{y:.4g}}<extra>{name} · {plain(split)}</extra>",
            )
        )  # fmt: skip
    lines = max(1, len(list(table.groupby(["run", "split"]).groups)))
    fig.update_layout(
        template=template(dark), width=640, height=330 + 20 * lines,
        margin={"l": 62, "r": 18, "t": 14, "b": 58 + 20 * lines},
        legend={"x": 0, "xanchor": "left", "y": -0.22, "yanchor": "top", "font": {"size": 12}, "tracegroupgap": 0},
    )  # fmt: skip
    fig.update_xaxes(title_text="Epoch", rangemode="tozero")
    fig.update_yaxes(title_text=title or measure)
    return fig


# --- ensembles -----------------------------------------------------------------------------------------


def agreement_map(
    matrix: np.ndarray,
    names: Sequence[str],
    title: str = "Disagreement",
    *,
    counts: bool = False,
    few: np.ndarray | None = None,
    dark: bool = False,
) -> go.Figure:
    """A symmetric measure of pairs as a lower triangle with its numbers written in; the diagonal is left out.

    counts: the measure is a number of images. few: pairs with too few errors for a coefficient, bool (members,
    members): these cells say so instead.
    """
    own, size = tone(dark), len(names)
    fig = go.Figure()
    rows, columns = np.tril_indices(size, -1)
    values = np.asarray(matrix, dtype=float)[rows, columns]
    if few is not None:
        values = np.where(np.asarray(few, dtype=bool)[rows, columns], np.nan, values)
    finite = values[np.isfinite(values)]
    low, high = (float(finite.min()), float(finite.max())) if len(finite) else (0.0, 1.0)
    scale = SEQUENTIAL_DARK if dark else SEQUENTIAL
    spread = (values - low) / (high - low) if high > low else np.full(len(values), 0.5)
    fill = [blend(scale, one) if np.isfinite(one) else own.grid for one in spread]
    none = "n/a" if few is None else "few"
    text = [none if not np.isfinite(one) else (f"{one:.0f}" if counts else f"{one:.2f}") for one in values]
    cell = 46 if size <= 8 else 38
    fig.add_trace(
        go.Scatter(
            x=columns, y=rows, mode="markers+text", text=text, showlegend=False,
            textfont={"color": [readable_on(one) for one in fill], "size": 12},
            marker={"symbol": "square", "size": cell - 1.5, "color": fill, "line": {"width": 0}},
            customdata=[[plain(names[int(r)]), plain(names[int(c)])] for r, c in zip(rows, columns, strict=True)],
            hovertemplate="%{customdata[0]} and %{customdata[1]}: %{text}<extra></extra>",
        )
    )  # fmt: skip
    left, below = 190, 120
    spare = max(0, 430 - left - size * cell)  # so that the title has room over few members
    fig.update_layout(
        template=template(dark), width=left + size * cell + spare, height=40 + (size - 1) * cell + below,
        margin={"l": left, "r": cell + spare, "t": 36, "b": below}, clickmode="event+select", dragmode=False,
        title={"text": plain(title), "y": 1, "yanchor": "top", "pad": {"t": 8}},
    )  # fmt: skip
    bare = {"showgrid": False, "showline": False, "zeroline": False, "ticks": "", "automargin": False}
    labels = [wrapped(name, 24) for name in names]
    shown = {"color": own.ink, "size": 12}
    fig.update_xaxes(
        tickvals=list(range(size - 1)), ticktext=[wrapped(name, 18, 1) for name in names[:-1]], tickangle=-40,
        range=[-0.5, size - 1.5], tickfont=shown, **bare,
    )  # fmt: skip
    fig.update_yaxes(
        tickvals=list(range(1, size)), ticktext=labels[1:], range=[size - 0.5, 0.5], tickfont=shown, **bare
    )
    return fig


def accuracy_by_size(
    points: pd.DataFrame,
    *,
    measure: str = "Balanced accuracy on validation",
    chosen: int | None = None,
    dark: bool = False,
) -> go.Figure:
    """One point per subset searched (`diversity.size_points`), the best of each size joined; customdata: rank.

    chosen: the rank to ring.
    """
    own, fig = tone(dark), go.Figure()
    styles = {"mean": (ACCENT if not dark else "#B79DEB", -0.11), "vote": ("#999933", 0.11)}
    for method, rows in points.groupby("method", sort=False):
        colour, shift = styles.get(str(method), (own.ink, 0.0))
        spread = (rows["rank"] * 0.618) % 1 * 0.16 - 0.08  # so that equal scores do not hide each other
        fig.add_trace(
            go.Scattergl(
                x=rows["size"] + shift + spread, y=rows["score"], mode="markers", name=plain(method),
                marker={"color": translucent(colour, 0.45), "size": 6}, legendgroup=str(method),
                customdata=rows[["rank", "members"]],
                hovertemplate="%{y:.4f} · %{customdata[1]}<extra>" + plain(method) + "</extra>",
            )
        )  # fmt: skip
        best = rows.loc[rows.groupby("size")["score"].idxmax()]
        fig.add_trace(
            go.Scatter(
                x=best["size"] + shift, y=best["score"], mode="lines", line={"color": colour, "width": 1.5},
                hoverinfo="skip", showlegend=False, legendgroup=str(method),
            )
        )  # fmt: skip
    ring = points[points["rank"] == chosen] if chosen is not None else points.iloc[:0]
    if len(ring):
        shift = styles.get(str(ring["method"].iloc[0]), ("", 0.0))[1]
        fig.add_trace(
            go.Scatter(
                x=ring["size"] + shift, y=ring["score"], mode="markers", name="chosen", hoverinfo="skip",
                marker={"symbol": "circle-open", "size": 14, "color": own.ink, "line": {"width": 2}},
            )
        )  # fmt: skip
    fig.update_layout(
        template=template(dark), width=640, height=400, margin={"l": 66, "r": 18, "t": 34, "b": 52},
        legend={"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom"}, clickmode="event+select",
    )  # fmt: skip
    fig.update_xaxes(title_text="Members", dtick=1, showgrid=False)
    fig.update_yaxes(title_text=plain(measure))
    return fig


def contributions(
    table: pd.DataFrame,
    column: str,
    title: str,
    names: Mapping[str, str],
    *,
    colours: Mapping[str, str] | None = None,
    dark: bool = False,
) -> go.Figure:
    """Bars around 0, one per member (`member` and a column: Shapley value or leave-one-out effect).

    colours: of the members, by id.
    """
    own = tone(dark)
    rows = table.sort_values(column, ascending=False, kind="stable")
    colours = colours or run_colours(list(rows["member"]))
    fig = go.Figure(
        go.Bar(
            x=rows[column], y=[wrapped(names.get(name, name), 28) for name in rows["member"]], orientation="h",
            marker={"color": [colours[name] for name in rows["member"]]}, width=0.6,
            text=[f"{number:+.3f}".replace("-", "−") for number in rows[column]], textposition="outside",
            cliponaxis=False, textfont={"color": own.ink, "size": 12},
            hovertemplate="%{y}: %{x:+.4f}<extra></extra>",
        )
    )  # fmt: skip
    fig.add_vline(x=0, line={"color": own.faint, "width": 1})
    fig.update_layout(
        template=template(dark),
        width=560,
        height=80 + 30 * len(rows),
        margin={"l": 190, "r": 60, "t": 14, "b": 50},
    )
    fig.update_xaxes(title_text=plain(title))
    fig.update_yaxes(
        autorange="reversed", showgrid=False, showline=False, ticks="", tickfont={"color": own.ink}
    )
    return fig


# role -> (letter in the cell, colour, words)
ROLE_STYLES = {
    "leak": ("!", LEAKAGE, "trained on, yet scored"),
    "train": ("T", "#7C93C3", "trained on"),
    "fused": ("F", "#8C5BB5", "fused or fitted on"),
    "val": ("S", "#C49A27", "selected on"),
    "test": ("E", "#44AA99", "tested only"),
    "?": ("?", "#9A96A3", "unknown"),
    "": ("", "", "not in its data"),
}


def role_map(
    table: pd.DataFrame,
    names: Mapping[str, str] | None = None,
    *,
    scored: int | None = None,
    dark: bool = False,
) -> go.Figure:
    """What each case was to each member: a row per member, a column per case, by its strongest role.

    table: `RoleAudit.table`. scored: how many of its first rows are scored (all unless given); a scored case
    that a member was trained on is red with an exclamation mark.
    """
    own, titles = tone(dark), names or {}
    members = [name for name in table.columns if name != "case"]
    scored = len(table) if scored is None else scored
    cell = 20 if len(table) <= 30 else 14 if len(table) <= 60 else 11
    fig = go.Figure()
    cells: dict[str, list[tuple[int, int, list[str]]]] = {role: [] for role in ROLE_STYLES}
    for r, member in enumerate(members):
        for c, roles in enumerate(table[member]):
            role = _strongest(str(roles), c < scored)
            data = [plain(titles.get(member, member)), plain(table["case"].iloc[c]), plain(roles)]
            cells[role].append((c, r, data))
    for role, found in cells.items():
        letter, colour, words = ROLE_STYLES[role]
        fill = colour or own.grid
        if found:
            fig.add_trace(
                go.Scatter(
                    x=[x for x, _, _ in found], y=[y for _, y, _ in found], customdata=[data for _, _, data in found],
                    mode="markers+text", text=letter, name=f"{letter} {words}".strip(),
                    textfont={"size": 9, "color": readable_on(fill)},
                    marker={"symbol": "square", "size": cell - 1, "color": fill},
                    hovertemplate="%{customdata[0]} · case %{customdata[1]}: %{customdata[2]}<extra></extra>",
                )
            )  # fmt: skip
    if scored < len(table):
        fig.add_vline(x=scored - 0.5, line={"color": own.ink, "width": 1.5})
    width = 200 + max(cell * len(table), 300) + 20
    fig.update_layout(
        template=template(dark), width=width, height=120 + 26 * len(members), margin={"l": 200, "r": 20, "t": 54, "b": 44},
        legend={"orientation": "h", "x": 0, "y": 1, "yref": "container", "yanchor": "top"},
    )  # fmt: skip
    bare = {"showgrid": False, "showline": False, "zeroline": False, "ticks": ""}
    rest = f", then {len(table) - scored} others" if scored < len(table) else ""
    fig.update_xaxes(
        title_text=f"Cases: {scored} that are scored{rest}", showticklabels=False,
        range=[-0.7, max(len(table), 300 / cell) - 0.3], **bare,
    )  # fmt: skip
    fig.update_yaxes(
        tickvals=list(range(len(members))), ticktext=[wrapped(titles.get(m, m), 28, 1) for m in members],
        range=[len(members) - 0.5, -0.5], tickfont={"color": own.ink}, **bare,
    )  # fmt: skip
    return fig


def _strongest(roles: str, scored: bool) -> str:
    present = roles.split("+")
    if scored and "train" in present:
        return "leak"
    return next((one for one in ("train", "fused", "val", "test", "?") if one in present), "")


def case_bars(cases: pd.DataFrame, *, dark: bool = False) -> go.Figure:
    """Recognition per case (`metrics.case_table`), grouped by class, worst first, with right / images written."""
    own = tone(dark)
    rows = cases.sort_values(["label", "recognition", "case"], kind="stable").reset_index(drop=True)
    fig = go.Figure()
    for position, label in enumerate(dict.fromkeys(rows["label"])):
        for right in (True, False):
            part = rows[(rows["label"] == label) & ((rows["diagnosis"] == rows["label"]) == right)]
            colour = class_colour(label, position)
            counts = [f"{k}/{n}" for k, n in zip(part["right"], part["n_images"], strict=True)]
            fig.add_trace(
                go.Bar(
                    x=part.index, y=part["recognition"], name=plain(label), width=0.78, showlegend=right,
                    marker={"color": colour, "pattern": {"shape": "" if right else "/", "fgcolor": colour,
                                                         "bgcolor": own.paper, "fillmode": "replace"},
                            "line": {"color": colour, "width": 1}},
                    customdata=np.stack([part["case"], part["right"], part["n_images"], part["diagnosis"]], axis=1),
                    hovertemplate="case %{customdata[0]}: %{customdata[1]} of %{customdata[2]} images right, "
                    "diagnosed %{customdata[3]}<extra></extra>",
                    text=counts if len(rows) <= 30 else None, textposition="outside", cliponaxis=False,
                    textfont={"size": 10, "color": own.ink},
                    selected={"marker": {"opacity": 1}}, unselected={"marker": {"opacity": 1}},
                )
            )  # fmt: skip
    fig.add_trace(
        go.Bar(
            x=[None], y=[None], name="diagnosis wrong", marker={"color": own.faint, "pattern": {"shape": "/"}}
        )
    )
    fig.update_layout(
        clickmode="event+select", dragmode=False,
        template=template(dark), width=max(520, 90 + 13 * len(rows)), height=330 if len(rows) > 30 else 300,
        margin={"l": 60, "r": 14, "t": 40, "b": 70}, legend={"orientation": "h", "x": 0, "y": 1.05, "yanchor": "bottom"},
    )  # fmt: skip
    many = len(rows) > 30  # then k/n stands with the name, not on the bar
    ticks = [
        f"{plain(case)} · {right}/{n}" if many else plain(case)
        for case, right, n in zip(rows["case"], rows["right"], rows["n_images"], strict=True)
    ]
    fig.update_xaxes(
        tickvals=list(rows.index), ticktext=ticks, tickangle=-90,
        tickfont={"size": 9, "color": own.faint}, showgrid=False,
    )  # fmt: skip
    fig.update_yaxes(
        title_text="Images right", range=[0, 1.08 if len(rows) <= 30 else 1.02], tickformat=".0%"
    )
    return fig
