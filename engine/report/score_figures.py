"""Figures of scores: dots with their intervals, and what was right per case. Table in, figure out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from engine import wording
from engine.report.theme import class_colour, plain, template, tone, wrapped

if TYPE_CHECKING:
    from engine.analysis.intervals import Estimate


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
    return wording.signed(one.value, one.low, one.high)


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
