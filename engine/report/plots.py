"""Which figures a report has: its contents in, figures of `score_figures`, `curve_figures` and `confusion` out."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd
import plotly.graph_objects as go

from engine.analysis import curves
from engine.analysis.metrics import SCORES, outcome
from engine.report import confusion, curve_figures, score_figures, theme
from engine.report.contents import HEADLINE, Contents, Group, powers
from engine.report.curve_figures import Line
from engine.report.score_figures import ForestRow

Lines = list[Line]


@dataclass(frozen=True, eq=False)
class Shown:
    """A figure with its title (what is seen), caption (how it was computed) and words for who cannot see it."""

    figure: go.Figure
    title: str
    caption: str
    alt: str


def forest(contents: Contents, group: Group, score: str = HEADLINE) -> Shown:
    """One score of every run of a group, with its interval and the baseline."""
    colours, record = contents.colours, SCORES[score]
    rows = [
        ForestRow(contents.names[entry.id], entry.scores[score], colours[entry.id])
        for entry in group.comparison.entries
    ]
    baseline = group.comparison.baseline.get(score)
    known = baseline is not None and baseline == baseline
    figure = score_figures.forest(
        rows, record.title, line=baseline if known else None, line_name="always the commonest class" if known else ""
    )  # fmt: skip
    alt = "; ".join(f"{row.name}: {row.estimate.short}" for row in rows)
    size = f"{group.comparison.n_images:,} images of {group.comparison.n_cases} cases"
    caption = f"{record.help} 95% intervals over whole cases; {size}."
    return Shown(figure, f"{record.title} with 95% intervals", caption, alt)


def matrices(contents: Contents, group: Group) -> Shown:
    """Confusion matrices: a row per run, a column for all images and one per magnification."""
    classes = group.comparison.aligned.classes
    columns, titles = confusion.columns(["all", *powers(group)])
    colours = contents.colours
    leaking = {run.id for run in contents.runs if run.audit.get("level") == "leak"}
    rows = [
        confusion.Row(
            entry.id, contents.names[entry.id], colours[entry.id], entry.confusion, entry.id in leaking
        )
        for entry in group.comparison.entries
    ]
    figure = confusion.figure(rows, columns, classes, titles=titles)
    cells = sum(confusion.widths(len(columns), len(classes)))
    figure.update_layout(width=round(62 * cells), template=theme.template())
    alt = confusion.alt_text(rows, columns, classes)
    caption = (
        "Counts of images, rows true, columns predicted; colour is the share of the true class on one "
        "scale for all matrices."
    )
    return Shown(figure, "Confusion matrices at each magnification", caption, alt)


def roc(contents: Contents, group: Group) -> Shown | None:
    """ROC curves; None unless there are two classes, both present."""
    if len(group.comparison.aligned.classes) != 2:
        return None
    lines = _lines(contents, group, curves.roc, "auroc")
    if not lines:
        return None
    alt = "ROC curves; areas: " + "; ".join(line.label for line in lines)
    caption = "One point per distinct probability; the label gives the area with its 95% interval over cases."
    return Shown(_legend_beside(curve_figures.roc(lines), len(lines)), "ROC curves", caption, alt)


def calibration(contents: Contents, group: Group) -> Shown | None:
    """Observed share malignant by predicted probability; None unless there are two classes."""
    if len(group.comparison.aligned.classes) != 2:
        return None
    lines = _lines(contents, group, curves.reliability, "")
    if not lines:
        return None
    caption = "Ten bins of equal width; bars are Wilson intervals over images, which ignore that images share patients."
    alt = "Observed share of malignant images by predicted probability, per run"
    return Shown(_legend_beside(curve_figures.reliability(lines), len(lines)), "Calibration", caption, alt)


def _legend_beside(figure: go.Figure, lines: int) -> go.Figure:
    """Many names stand beside the axes rather than below them."""
    width, height = figure.layout.width or 640, figure.layout.height or 400
    below = 22 * lines
    figure.update_layout(
        width=width + 330, height=max(380, height - below), margin_r=330, margin_b=60,
        legend={"x": 1.02, "xanchor": "left", "y": 1, "yanchor": "top"},
    )  # fmt: skip
    return figure


def _lines(contents: Contents, group: Group, curve, score: str) -> Lines:
    colours = contents.colours
    lines = []
    for entry in group.comparison.entries:
        table = curve(outcome(group.comparison.aligned.tables[entry.id]))
        name = contents.names[entry.id]
        text = f"{name} · {entry.scores[score].short}" if score else name
        if len(table):
            lines.append(Line(entry.id, text, table, colours[entry.id]))
    return lines


def learning_curves(contents: Contents) -> Shown | None:
    """Validation score by epoch of every trained run; None where no run has epochs."""
    tables = [
        run.metrics[run.metrics["split"] == "val"].assign(run=run.id, name=contents.names[run.id])
        for run in contents.runs
        if not run.metrics.empty and HEADLINE in run.metrics and "split" in run.metrics
    ]
    tables = [table for table in tables if len(table)]
    if not tables:
        return None
    figure = curve_figures.learning_curves(
        pd.concat(tables, ignore_index=True), HEADLINE, "Balanced accuracy", colours=contents.colours
    )
    best = [
        f"{run.name}: {run.best['value']:.3f} at epoch {run.best['epoch']}"
        for run in contents.runs
        if run.best
    ]
    return Shown(
        _legend_beside(figure, len(tables)),
        "Balanced accuracy on validation images during training",
        "One point per epoch; the weights of the best epoch are the ones that were tested.",
        "Best: " + "; ".join(best),
    )
