"""The live part of a run's page: where it is, what it uses, its curves; and what a person should know at once."""

from __future__ import annotations

from typing import Any

import pandas as pd
import plotly.graph_objects as go
import streamlit as st

from dashboard import cached, places, run_figures, widgets
from engine.errors import EngineError
from engine.runs import launch, trash
from engine.runs import status as run_status
from engine.runs.folder import RunFolder
from engine.runs.queue import Queue
from engine.runs.status import Status

LOG_LINES = 200
# key in status.numbers -> (label, unit, digits)
NUMBERS = {
    "images_per_s": ("Images / s", "", 1),
    "wait_share": ("Data wait", "%", 0),
    "cpu_share": ("CPU", "%", 0),
    "ram_mb": ("Memory", " MB", 0),
    "ram_share": ("Machine memory", "%", 0),
    "gpu_share": ("GPU", "%", 0),
    "gpu_memory_mb": ("GPU memory", " MB", 0),
    "loss": ("Loss (train)", "", 3),
    "lr": ("Learning rate", "", -1),
}


def live(run_id: str) -> None:
    """State, progress, numbers and curves; redrawn every two seconds while the run is active."""
    try:
        folder = cached.run(run_id)
        status, state = folder.status(), folder.state()
    except EngineError as error:
        gone(run_id, error)
        return
    _tell_changes(run_id, state, status)
    if status.error:
        widgets.show_error(status.error)
    elif state == run_status.INTERRUPTED:
        widgets.show_error(
            {
                "message": "The worker is gone without a word: it was killed, or the machine was switched off.",
                "remedy": "Resume continues from the last checkpoint",
            },
            level="warning",
        )
    if state == run_status.QUEUED:
        _place_in_queue(folder)
    elif state in run_status.ACTIVE:
        _progress(folder, status, state)
    metrics = cached.metrics(run_id)
    if metrics.empty:
        if state in run_status.WORKING:
            st.caption("Curves appear when the first epoch has ended.")
    else:
        _curves(metrics, status)
    log = folder.log_tail()
    if log and state in run_status.ACTIVE:
        with st.expander("Log, last lines", icon=":material/terminal:"):
            st.code("\n".join(log.splitlines()[-LOG_LINES:]), language=None, height=260)


def gone(run_id: str, error: EngineError) -> None:
    """Deleted while it is looked at: say so, and offer the way back."""
    widgets.show_error(error)
    with st.container(horizontal=True, gap="small"):
        if run_id in trash.trashed(places.runs_folder()) and st.button(
            "Restore it", icon=":material/undo:", key="restore_gone", disabled=bool(places.read_only_reason())
        ):
            with widgets.errors_shown():
                trash.restore(places.runs_folder(), run_id)
                st.rerun()
        st.page_link(places.page("runs"), label="All runs", icon=":material/list_alt:")


def _tell_changes(run_id: str, state: str, status: Status) -> None:
    """A notice when the run ends, fails or comes to a standstill while it is looked at, and the whole page once more."""
    key, now = f"_state_{run_id}", "stalled" if _is_stalled(state, status) else state
    before = st.session_state.get(key)
    st.session_state[key] = now
    if before in (None, now):
        return
    text, icon = notice(now, status)
    if text:
        st.toast(widgets.escaped(text), icon=f":material/{icon}:", duration="long")
    st.rerun(scope="app")


def notice(now: str, status: Status) -> tuple[str, str]:
    """(what a person should hear of a change of state, its icon); an empty text where it is no news.

    Args:
        now: a state, or `stalled`.
    """
    if now == "stalled":
        return (
            f"The run has stalled: no sign from its worker for {widgets.duration(status.age_s())}.",
            "hourglass_disabled",
        )
    if now in run_status.ACTIVE:
        return "", ""
    if now == run_status.COMPLETED:
        return "The run has completed.", "check_circle"
    message = str((status.error or {}).get("message") or "")
    if (status.error or {}).get("kind") == "nan_loss":
        return f"The loss is no number any more: the run has ended. {message}", "error"
    word = widgets.state_word(now).lower()
    return f"The run has ended: {word}. {message}".strip(), "error"


def _is_stalled(state: str, status: Status) -> bool:
    return status.stalls(state)


def _place_in_queue(folder: RunFolder) -> None:
    """Where a waiting run stands."""
    with widgets.errors_shown():
        waiting = [entry for entry in Queue(folder.runs).entries() if entry.slot is None]
        place = next((index for index, entry in enumerate(waiting) if entry.run_id == folder.id), None)
        if place is None:
            st.caption("It is about to start.")
            return
        held = ", held back until it is released" if waiting[place].held else ""
        st.caption(
            f"Waits in the queue as number {place + 1} of {len(waiting)}{held}. The queue is on the page Runs."
        )


def _progress(folder: RunFolder, status: Status, state: str) -> None:
    parts = [status.phase or widgets.state_word(state)]
    if status.epoch and status.epochs:
        parts.append(f"epoch {status.epoch} of {status.epochs}")
    if status.steps:
        parts.append(f"step {status.step} of {status.steps}")
    if status.eta_s is not None:
        parts.append(f"{widgets.duration(status.eta_s)} left")
    st.progress(min(max(status.progress, 0.0), 1.0), text=widgets.escaped(" · ".join(parts)))
    if _is_stalled(state, status):
        st.warning(
            f"No sign from the worker for {widgets.duration(status.age_s())}. It may be busy with a long step; stop it if this goes on.",
            icon=":material/hourglass_disabled:",
        )
    if state == run_status.STOPPING:
        _stopping(folder)
    shown = numbers(status)
    if shown:
        columns = st.columns(max(len(shown), 6))
        for column, (_, label, value) in zip(columns, shown, strict=False):
            column.metric(label, value)


def _stopping(folder: RunFolder) -> None:
    """How long it has been asked to stop; after the grace its worker may be killed."""
    asked = folder.stop_requested_s() or 0.0
    left = launch.STOP_GRACE_S - asked
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        words = f"Asked to stop {widgets.duration(asked)} ago: it saves at its next step. "
        words += (
            f"It can be killed in {widgets.duration(left)}."
            if left > 0
            else "A worker that still works then hangs."
        )
        st.caption(words, width="content")
        locked = bool(places.read_only_reason())
        if st.button(
            "Kill",
            icon=":material/dangerous:",
            key="kill",
            disabled=locked or not launch.may_kill(folder),
            help="Ends its process without a checkpoint; resume continues from the last one.",
        ):
            with widgets.errors_shown():
                st.session_state["_run_said"] = launch.stop(folder, kill=True)
                st.rerun(scope="app")


def numbers(status: Status) -> list[tuple[str, str, str]]:
    """(key, label, value) of what the worker measured last: speed, waiting, CPU, memory, GPU."""
    found = []
    for key, (label, unit, digits) in NUMBERS.items():
        value = status.numbers.get(key)
        if value is None:
            continue
        scaled = value * (100 if key.endswith("_share") else 1)
        found.append((key, label, f"{value:.2e}" if digits < 0 else f"{scaled:,.{digits}f}{unit}"))
    return found


def _curves(metrics: pd.DataFrame, status: Status) -> None:
    best = status.best or {}
    fig, words = _curves_figure(metrics, best, widgets.is_dark())
    said = ""
    if best.get("value") is not None:
        said = f"Best {str(best.get('metric', 'score')).replace('_', ' ')} on validation {best['value']:.3f} at epoch {best['epoch']}. "
    widgets.show_figure(
        fig,
        f"{said}Scores over all images of a side after each epoch; the checkpoint kept is the one of the best validation epoch.",
        words,
        "curves",
    )


@st.cache_resource(max_entries=64, show_spinner=False)
def _curves_figure(metrics: pd.DataFrame, best: dict[str, Any], dark: bool) -> tuple[go.Figure, str]:
    """The curves, drawn once per epoch and theme: everybody who watches is asked for them every two seconds.

    The figure is shared; what `show_figure` changes of it depends on `dark` only.
    """
    return run_figures.learning_curves(metrics, best, dark=dark)
