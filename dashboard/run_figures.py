"""Figures of the run page: table in, figure and its words out."""

from __future__ import annotations

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from engine.report import theme

TRAIN = "#7E7888"  # readable on white and on dark
# More epochs than this are a line without dots: they would touch each other, and a browser draws each of them again
# whenever a live curve grows.
DOTTED_EPOCHS = 60


def learning_curves(
    metrics: pd.DataFrame, best: dict | None = None, *, dark: bool = False
) -> tuple[go.Figure, str]:
    """Loss and balanced accuracy by epoch, training and validation together, the learning rate below.

    Args:
        metrics: `RunFolder.metrics()`: `epoch, split` and numbers.
        best: `status.best`: its epoch is marked.

    Returns:
        The figure, and what it shows in words.
    """
    score = "balanced_accuracy" if "balanced_accuracy" in metrics else "accuracy"
    panels = [
        (name, title)
        for name, title in (("loss", "Loss"), (score, score.replace("_", " ").capitalize()))
        if name in metrics
    ]
    with_rate = "lr" in metrics and metrics["lr"].notna().any()
    rows = 2 if with_rate else 1
    mode = "lines+markers" if metrics["epoch"].nunique() <= DOTTED_EPOCHS else "lines"
    fig = make_subplots(
        rows,
        len(panels),
        shared_xaxes=True,
        vertical_spacing=0.07,
        horizontal_spacing=0.08,
        row_heights=[0.76, 0.24] if with_rate else None,
        subplot_titles=[title for _, title in panels],
    )
    for column, (name, _) in enumerate(panels, start=1):
        for side, words, colour in (("train", "training", TRAIN), ("val", "validation", theme.accent(dark))):
            part = metrics[(metrics["split"] == side) & metrics[name].notna()]
            if part.empty:
                continue
            fig.add_scatter(
                x=part["epoch"], y=part[name], mode=mode, name=words, legendgroup=words,
                showlegend=False, line={"color": colour, "width": 2}, marker={"size": 5},
                hovertemplate=f"{words}, epoch %{{x}}: %{{y:.3f}}<extra></extra>", row=1, col=column,
            )  # fmt: skip
            last = part.iloc[-1]
            fig.add_annotation(
                x=last["epoch"], y=last[name], text=words, xanchor="left", xshift=10, showarrow=False,
                yshift=_label_shift(metrics, name, side), font={"color": colour, "size": 12}, row=1, col=column,
            )  # fmt: skip
        if with_rate:
            rate = metrics[metrics["lr"].notna()].drop_duplicates("epoch")
            fig.add_scatter(
                x=rate["epoch"], y=rate["lr"], mode="lines", line={"color": TRAIN, "width": 1.5, "shape": "hv"},
                showlegend=False, hovertemplate="learning rate, epoch %{x}: %{y:.2e}<extra></extra>", row=2, col=column,
            )  # fmt: skip
            if column == 1:
                fig.update_yaxes(title_text="learning<br>rate", title_font_size=11, row=2, col=1)
            fig.update_yaxes(rangemode="tozero", nticks=3, tickformat=".0e", row=2, col=column)
    _mark_best(fig, metrics, score, best, [name for name, _ in panels], theme.accent(dark))
    last_epoch = int(metrics["epoch"].max())
    fig.update_xaxes(range=[0.8, max(last_epoch, 2) * 1.16], showgrid=False, dtick=max(1, last_epoch // 8))
    fig.update_xaxes(title_text="epoch", row=rows)
    fig.update_layout(
        height=360, margin={"l": 10, "r": 10, "t": 34, "b": 10}, uirevision="curves", hovermode="x"
    )
    return fig, _words(metrics, panels, last_epoch)


def _label_shift(metrics: pd.DataFrame, name: str, side: str) -> int:
    """Pixels up: where two curves end so close that their labels would cover each other, they step apart."""
    ends = {
        one: part[name].iloc[-1]
        for one, part in metrics[metrics[name].notna()].groupby("split")
        if one in ("train", "val")
    }
    whole = metrics[name].max() - metrics[name].min()
    if len(ends) < 2 or abs(ends["train"] - ends["val"]) > 0.09 * whole:
        return 0
    return 7 if (side == "train") == (ends["train"] >= ends["val"]) else -7


def _mark_best(
    fig: go.Figure, metrics: pd.DataFrame, score: str, best: dict | None, names: list[str], colour: str
) -> None:
    """A ring around the best epoch on the validation curve, whatever score chose it."""
    if not best or best.get("value") is None or score not in names:
        return
    there = metrics[
        (metrics["split"] == "val") & (metrics["epoch"] == best["epoch"]) & metrics[score].notna()
    ]
    if there.empty:
        return
    fig.add_scatter(
        x=[best["epoch"]], y=[there[score].iloc[-1]], mode="markers", showlegend=False,
        marker={"size": 13, "symbol": "circle-open", "color": colour, "line": {"width": 2}},
        hovertemplate="best, epoch %{x}: %{y:.3f}<extra></extra>", row=1, col=names.index(score) + 1,
    )  # fmt: skip


def _words(metrics: pd.DataFrame, panels: list[tuple[str, str]], last_epoch: int) -> str:
    parts = []
    for name, title in panels:
        for side, words in (("train", "training"), ("val", "validation")):
            part = metrics.loc[(metrics["split"] == side) & metrics[name].notna(), name]
            if len(part):
                parts.append(f"{title} in {words} from {part.iloc[0]:.3f} to {part.iloc[-1]:.3f}")
    return f"Learning curves over {last_epoch} epochs. {'; '.join(parts)}."
