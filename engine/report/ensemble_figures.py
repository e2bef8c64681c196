"""Figures of ensembles: how members differ, what each adds, subsets by size, who has seen what. Table in, figure out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from engine.report.theme import (
    LEAKAGE,
    SEQUENTIAL,
    SEQUENTIAL_DARK,
    accent,
    blend,
    plain,
    readable_on,
    template,
    tone,
    translucent,
    wrapped,
)
from engine.wording import signed


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
    styles = {"mean": (accent(dark), -0.11), "vote": ("#999933", 0.11)}
    for method, rows in points.groupby("method", sort=False):
        colour, shift = styles.get(str(method), (own.ink, 0.0))
        fig.add_trace(
            go.Scattergl(
                x=rows["size"] + shift + _spread(rows), y=rows["score"], mode="markers", name=plain(method),
                marker={"color": translucent(colour, 0.7 if dark else 0.5), "size": 6}, legendgroup=str(method),
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
                x=ring["size"] + shift + _spread(ring), y=ring["score"], mode="markers", name="chosen", hoverinfo="skip",
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


def _spread(rows: pd.DataFrame) -> pd.Series:
    """Sideways, so that equal scores do not hide each other; the same for a point and its ring."""
    return (rows["rank"] * 0.618) % 1 * 0.16 - 0.08


def contributions(
    table: pd.DataFrame,
    column: str,
    title: str,
    names: Mapping[str, str],
    *,
    colours: Mapping[str, str],
    dark: bool = False,
) -> go.Figure:
    """Bars around 0, one per member (`member` and a column: Shapley value or leave-one-out effect).

    colours: of the members, by id.
    """
    own = tone(dark)
    rows = table.sort_values(column, ascending=False, kind="stable")
    fig = go.Figure(
        go.Bar(
            x=rows[column], y=[wrapped(names.get(name, name), 28) for name in rows["member"]], orientation="h",
            marker={"color": [colours[name] for name in rows["member"]]}, width=0.6,
            text=[signed(number) for number in rows[column]], textposition="outside",
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
    present = set(roles.split("+"))
    if scored and ("train" in present or {"fused", "test"} <= present):
        return "leak"
    return next((one for one in ("train", "fused", "val", "test", "?") if one in present), "")
