"""Run: one run, live while it works, its results afterwards."""

import streamlit as st

from dashboard import cached, cluster_parts, run_live, run_parts, selection, widgets
from engine.errors import EngineError
from engine.runs import status as run_status

run_id = selection.read("id")
if not run_id:
    widgets.header("Run", "How is this run doing, and what came out?")
    widgets.empty_state(
        "This page shows one run: live while it trains, its results afterwards.",
        "It is empty because the link names no run.",
        action="Choose a run",
        to="runs",
        icon_name="monitoring",
    )
    widgets.stop()

try:
    folder = cached.run(run_id)
    summary = folder.summary()
except EngineError as error:
    widgets.header("Run", "How is this run doing, and what came out?")
    run_live.gone(run_id, error)
    widgets.stop()

widgets.header(summary.name, run_parts.about(summary))
run_parts.badges(summary)
cluster_parts.notice(summary)
run_parts.actions(folder, summary)
st.fragment(run_every=2.0 if summary.state in run_status.ACTIVE else None)(run_live.live)(folder.id)
run_parts.results(summary)
run_parts.details(folder, summary)
