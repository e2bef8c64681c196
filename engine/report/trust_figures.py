"""Figures of how far a map can be believed: faithfulness curves and the randomisation check. Numbers in, figure out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from engine.report.theme import ACCENT, plain, template, tone

CONTROL_COLOUR = "#8A8797"


@dataclass(frozen=True)
class Curve:
    """A line of a figure.

    Attributes:
        name: as it is labelled at its end.
        x, y: float, the same length.
        control: drawn grey and dashed: a map that knows nothing.
    """

    name: str
    x: np.ndarray
    y: np.ndarray
    control: bool = False


def faithfulness(parts: Mapping[str, Sequence[Curve]], *, dark: bool = False) -> go.Figure:
    """Probability of the explained class while pixels go (or come), a panel per way of doing it.

    Args:
        parts: title of the panel -> its curves; x is the share of pixels, 0..1.
    """
    own = tone(dark)
    fig = make_subplots(
        1,
        len(parts),
        shared_yaxes=True,
        horizontal_spacing=0.04,
        subplot_titles=[plain(name) for name in parts],
    )
    for column, curves in enumerate(parts.values(), start=1):
        for curve in curves:
            _line(fig, curve, column=column, legend=column == 1)
        fig.update_xaxes(
            title_text="share of the pixels", tickformat=".0%", range=[-0.02, 1.02], row=1, col=column
        )
    fig.update_yaxes(range=[-0.02, 1.02])
    fig.update_yaxes(title_text="probability", row=1, col=1)
    fig.update_annotations(font={"size": 13, "color": own.ink})
    fig.update_layout(
        template=template(dark), height=290, margin={"t": 46, "b": 84, "l": 60, "r": 12},
        legend={"orientation": "h", "y": -0.32, "x": 0},
    )  # fmt: skip
    return fig


def randomisation(curves: Sequence[Curve], steps: Sequence[str], *, dark: bool = False) -> go.Figure:
    """Likeness to the trained network's map as its parts are randomised one after another, last first.

    Args:
        curves: x is the step (0 = trained), y the mean correlation, -1..1.
        steps: names of the steps, `trained` first.
    """
    own = tone(dark)
    fig = go.Figure()
    for curve in curves:
        _line(fig, curve)
    fig.add_hline(y=0, line={"color": own.faint, "width": 1, "dash": "dot"})
    fig.update_xaxes(
        tickvals=list(range(len(steps))), ticktext=[plain(step) for step in steps], tickangle=-40,
        range=[-0.3, len(steps) - 0.7],
    )  # fmt: skip
    fig.update_yaxes(title_text="rank correlation with<br>the trained network's map", range=[-1.05, 1.05])
    fig.update_layout(
        template=template(dark), height=340, margin={"t": 16, "b": 120, "l": 70, "r": 12},
        legend={"orientation": "h", "y": -0.5, "x": 0},
    )  # fmt: skip
    return fig


def _line(fig: go.Figure, curve: Curve, column: int | None = None, legend: bool = True) -> None:
    colour = CONTROL_COLOUR if curve.control else ACCENT
    fig.add_trace(
        go.Scatter(
            x=curve.x, y=curve.y, name=plain(curve.name), mode="lines+markers", legendgroup=curve.name,
            showlegend=legend, marker={"size": 6, "symbol": "diamond" if curve.control else "circle"},
            line={"color": colour, "width": 2, "dash": "dash" if curve.control else "solid"},
            hovertemplate="%{x}: %{y:.2f}<extra>" + plain(curve.name) + "</extra>",
        ),
        row=None if column is None else 1, col=column,
    )  # fmt: skip
