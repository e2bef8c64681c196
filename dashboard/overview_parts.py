"""The parts of the overview page."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import plotly.graph_objects as go
import streamlit as st

from dashboard import cached, places, widgets
from dashboard.next_step import Step, best_honest, demo_config, leak_pairs
from engine.errors import EngineError
from engine.runs import launch
from engine.runs import status as run_status
from engine.runs.folder import Summary

if TYPE_CHECKING:
    from engine.analysis.intervals import Estimate

RECENT = 6
NAME_WIDTH = 28


def welcome(step: Step) -> None:
    """Nothing is here yet: one button."""
    clicked = widgets.empty_state(
        "This page shows the data sets, runs and results of this installation.",
        "It is empty because nothing has been opened or trained yet.",
        action=step.label,
        key="make_sample",
        icon_name="biotech",
    )
    st.caption(step.because)
    st.page_link(
        places.page("dataset"),
        label="I have a copy of BreakHis: open its folder",
        icon=":material/folder_open:",
    )
    if clicked and make_sample():
        st.rerun()


def make_sample() -> bool:
    """Write the sample data set, with progress; says what went wrong where it did."""
    from engine.data.sample import write_sample

    target = places.sample_folder()
    bar = st.progress(0.0, text="Drawing synthetic tissue ...")

    def progress(done: int, total: int) -> None:
        bar.progress(
            min(done / max(total, 1), 1.0), text=f"Drawing synthetic tissue: {done} of {total} images"
        )

    try:
        write_sample(target, progress=progress)
    except EngineError as error:
        bar.empty()
        widgets.show_error(error)
        return False
    except OSError as error:
        bar.empty()
        widgets.show_error(
            {
                "message": f"The sample data set could not be written. Found: {error.strerror or error}: {target}.",
                "remedy": "Free disk space, or name another folder in DASHBOARD_SAMPLE",
            }
        )
        return False
    bar.empty()
    places.remember(target)
    return True


def take(step: Step, data: Path | None) -> None:
    """The next step as one primary button."""
    with st.container(horizontal=True, vertical_alignment="center", gap="medium"):
        clicked = st.button(step.label, type="primary", key="next_step", icon=":material/arrow_forward:")
        st.caption(widgets.escaped(step.because), width="content")
    if not clicked:
        return
    if step.action == "go":
        if places.has_page(step.page):
            st.switch_page(places.page(step.page), query_params=step.params)
    elif step.action == "demo" and data is not None:
        with widgets.errors_shown():
            with st.spinner("Checking the data set and the split ..."):
                folder = launch.start(demo_config(str(data)), places.runs_folder())
            st.switch_page(places.page("run"), query_params={"id": folder.id})


def counts(datasets: Sequence[str], summaries: Sequence[Summary]) -> None:
    """Data sets, runs by state, ensembles: a row of numbers."""
    states = [summary.state for summary in summaries]
    active = sum(state in run_status.ACTIVE for state in states)
    finished = states.count(run_status.COMPLETED)
    failed = sum(state in (run_status.FAILED, run_status.INTERRUPTED) for state in states)
    ensembles = sum(summary.config.kind == "ensemble" for summary in summaries)
    columns = st.columns(4, border=True)
    columns[0].metric(
        "Data sets", len(datasets), help="\n\n".join(widgets.escaped(path) for path in datasets) or None
    )
    columns[1].metric("Runs", len(summaries), help=f"{finished} completed, {failed} failed or interrupted")
    columns[2].metric("At work or waiting", active)
    columns[3].metric("Ensembles", ensembles)


def recent(summaries: Sequence[Summary]) -> None:
    """The newest runs, one line each; the name opens the run."""
    st.subheader("Latest runs", anchor=False)
    if not summaries:
        st.caption("No run yet.")
        return
    colours = widgets.run_colours(summaries)
    with st.container(gap=None, key="recent_runs"):
        for summary in summaries[:RECENT]:
            _recent_row(summary, colours[summary.id])
    if len(summaries) > RECENT:
        st.page_link(places.page("runs"), label=f"All {len(summaries)} runs", icon=":material/list_alt:")


def _recent_row(summary: Summary, colour: str) -> None:
    name, state, rest = st.columns([5, 3, 5], vertical_alignment="center", gap="small")
    with name, st.container(horizontal=True, vertical_alignment="center", gap="xsmall"):
        st.html(
            f'<span class="bh-dot" style="background:{colour}" aria-hidden="true"></span>', width="content"
        )
        st.page_link(
            places.page("run"),
            label=widgets.escaped(textwrap.shorten(summary.name, NAME_WIDTH, placeholder=" …")),
            help=widgets.escaped(summary.name) if len(summary.name) > NAME_WIDTH else None,
            query_params={"id": summary.id},
            width="stretch",
        )
    with state:
        widgets.status_chip(summary.state, stalled=summary.stalled)
    value = (summary.status.best or {}).get("value")
    score = "" if value is None else f"{value:.3f} val"
    why = "Best balanced accuracy on validation; its interval and n are on the run's page"
    leak = ""
    if summary.audit.get("level") == "leak":
        verdict = widgets.plain(summary.audit.get("verdict", ""))
        leak = (
            f'<span class="bh-badge bh-leak bh-small" title="{verdict}">{widgets.icon("warning")}leaks</span>'
        )
    with rest:
        st.html(
            f'<div class="bh-row" style="row-gap:0;font-size:.9rem"><span class="bh-num" style="min-width:5.2rem" title="{why}">{score}</span>'
            f'<span class="bh-muted" style="min-width:5.4rem" title="{widgets.when(summary.created_at)}">'
            f"{widgets.ago(summary.created_at)}</span>{leak}</div>"
        )


def best(summaries: Sequence[Summary]) -> None:
    """The best honest result: chosen on validation, told on test, with its interval and n."""
    st.subheader("Best honest result", anchor=False)
    chosen = best_honest(summaries)
    if chosen is None:
        st.caption("None yet: it takes a completed run whose split keeps patients apart.")
        return
    with widgets.errors_shown():
        estimate = cached.estimates(chosen.id, "test", ("balanced_accuracy",)).iloc[0]["balanced_accuracy"]
        value, _, rest = str(estimate).partition(" ")
        warning = f"{estimate.warning[0].upper()}{estimate.warning[1:]}. " if estimate.warning else ""
        st.html(
            f'<div style="font-size:.9rem">Balanced accuracy on test</div>'
            f'<div class="bh-num"><span style="font-size:1.5rem">{widgets.plain(value)}</span> {widgets.plain(rest)}</div>'
            f'<div class="bh-muted" style="font-size:.87rem;margin-top:.3rem">95% interval, whole cases drawn. '
            f"{widgets.plain(warning)}"
            f"Chosen by its validation score ({widgets.number(chosen.status.best['value'])}), not by this one.</div>"  # type: ignore[index]
        )
        st.page_link(
            places.page("run"),
            label=widgets.escaped(chosen.name),
            query_params={"id": chosen.id},
            icon=":material/monitoring:",
        )
        widgets.leakage_badge(chosen.audit)


def honest_splits(summaries: Sequence[Summary]) -> None:
    """What leakage is worth here, from runs at hand that differ in their split only; nothing without them."""
    pairs = leak_pairs(summaries)[:6]
    if not pairs:
        return
    rows = []
    for leaking, clean in pairs:
        with widgets.errors_shown():
            one, other = (
                cached.estimates(summary.id, "test", ("balanced_accuracy",)).iloc[0]["balanced_accuracy"]
                for summary in (leaking, clean)
            )
            if math.isfinite(one.low) and math.isfinite(other.low):  # a bare point would promise too much
                rows.append((leaking, clean, one, other))
    if not rows:
        return
    st.subheader("What a leaking split is worth here", anchor=False)
    fig, alt = leak_figure(rows)
    widgets.show_figure(
        fig,
        "Balanced accuracy on test with 95% intervals (whole cases drawn). Same model, data and training; only the "
        f"split differs. {gap_meaning([(one, other) for _, _, one, other in rows])}",
        alt,
        "leak_gap",
    )


def gap_meaning(estimates: Sequence[tuple[Estimate, Estimate]]) -> str:
    """What the differences between (leaking, clean) estimates may be taken for."""
    if any(one.low > other.high for one, other in estimates):
        return "The difference is what recognising a known patient is worth, not skill."
    return (
        "All intervals overlap: these test parts are too small to show what a known patient is worth. "
        "The data set's Leakage gap measures it on all of its cases."
    )


def leak_figure(rows: Sequence[tuple]) -> tuple[go.Figure, str]:
    """One line per pair: split by image against split by case."""
    fig = go.Figure()
    labels: list[str] = []
    for _, clean, _, _ in rows:  # a row each, also where the model is the same
        again = sum(label.split(",")[0] == clean.config.model.name for label in labels)
        labels.append(f"{clean.config.model.name}, pair {again + 1}" if again else clean.config.model.name)
    red, green = widgets.verdict_colours()
    for words, colour, symbol, index in (
        ("Patients on both sides", red, "x", 2),
        ("Patients kept apart", green, "circle", 3),
    ):
        found = [row[index] for row in rows]
        fig.add_scatter(
            x=[estimate.value for estimate in found],
            y=labels,
            error_x={
                "type": "data",
                "array": [estimate.high - estimate.value for estimate in found],
                "arrayminus": [estimate.value - estimate.low for estimate in found],
                "thickness": 1.5,
                "width": 4,
            },
            mode="markers",
            marker={"size": 11, "color": colour, "symbol": symbol},
            name=words,
        )
    fig.update_layout(
        height=130 + 42 * len(rows),
        margin={"l": 10, "r": 10, "t": 10, "b": 40},
        legend={"orientation": "h", "y": 1.25, "x": 0},
        xaxis={"title": "balanced accuracy", "range": [0.35, 1.02]},
    )
    said = "; ".join(
        f"{clean.config.model.name}: {one} with patients on both sides, {other} with patients kept apart"
        for _, clean, one, other in rows
    )
    return fig, f"Balanced accuracy under two splits. {said}."
