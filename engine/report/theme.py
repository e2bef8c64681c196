"""How every figure looks: the palette, the neutral colours of both themes, the one Plotly template, text as text.

Colours mean one thing everywhere and survive colour blindness: benign blue, malignant vermilion (Okabe &
Ito, 2008), magnifications one ramp from light to dark, hematoxylin violet for emphasis, red for leakage.
Names are text: what looks like markup in them is shown, not interpreted.
"""

from __future__ import annotations

import html
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import plotly.graph_objects as go

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
    """Dark or white ink, whichever contrasts more."""
    return max("#FFFFFF", LIGHT.ink, key=lambda ink: contrast(ink, colour))


def contrast(one: str, other: str) -> float:
    """The contrast of two colours by WCAG 2: 1 to 21. Text wants 4.5, lines and marks 3."""
    low, high = sorted((_luminance(one), _luminance(other)))
    return (high + 0.05) / (low + 0.05)


def _luminance(colour: str) -> float:
    def linear(part: int) -> float:
        share = part / 255
        return share / 12.92 if share <= 0.04045 else ((share + 0.055) / 1.055) ** 2.4

    red, green, blue = (linear(int(colour[k : k + 2], 16)) for k in (1, 3, 5))
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def accent(dark: bool = False) -> str:
    """Hematoxylin violet for lines and words of a figure."""
    return "#B79DEB" if dark else ACCENT


@cache
def on_dark(colour: str, least: float = 3.5) -> str:
    """A colour with as much white as makes it stand out from the dark theme, its hue kept."""
    shares = (step / 20 for step in range(21))
    mixed = (blend(((0.0, colour), (1.0, "#FFFFFF")), share) for share in shares)
    return next(one for one in mixed if contrast(one, DARK.paper) >= least)
