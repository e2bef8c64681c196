"""Runs: every run, what it does now, and what can be done with it."""

import streamlit as st

from dashboard import cached, places, queue_parts, runs_parts, selection, widgets
from engine.runs import status as run_status

widgets.header("Runs", "What is running, what came out, and what next?")

runs_parts.notices()
queue_parts.tend(places.runs_folder())
summaries = cached.summaries()
if not summaries:
    widgets.empty_state(
        "This page lists every run with its state, its best score and its split.",
        "It is empty because nothing has been trained or imported yet.",
        action="Train a model",
        to="train",
        icon_name="list_alt",
    )
    runs_parts.trash()
    widgets.stop()

_, missing = selection.divide(selection.read_list("runs"), [summary.id for summary in summaries])
widgets.missing_notice(missing)

_, columns, group = runs_parts.controls(summaries)
busy = any(summary.state in run_status.ACTIVE for summary in summaries)
st.fragment(run_every=2.0 if busy else None)(runs_parts.live)(columns, group)
runs_parts.trash()
