"""Figures of curves: ROC, precision-recall, calibration, decision, risk-coverage, learning. Table in, figure out.

The tables are those of `engine.analysis.curves` and `engine.analysis.operating`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd
import plotly.graph_objects as go

from engine.report.theme import Tone, plain, template, tone, translucent


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
    colours: Mapping[str, str],
    dark: bool = False,
) -> go.Figure:
    """Training (dotted) and validation (solid) by epoch.

    table: `run` (id), `name`, `split`, `epoch` and the measure; one row per run, epoch and split.
    colours: run id -> colour.
    """
    fig = go.Figure()
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
