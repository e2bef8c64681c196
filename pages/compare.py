"""Compare: which model is better, where, for whom, and is the difference real?"""

from __future__ import annotations

import streamlit as st

from dashboard import cached, compare_panels, compare_view, selection, widgets
from engine.errors import EngineError

KEY = "compare_runs"

widgets.header("Compare", "Which model is better, where, for whom, and is the difference real?")
split = compare_panels.split_choice()
summaries = cached.scored(split)
if not summaries:
    widgets.empty_state(
        "Scores with intervals, confusion matrices per magnification and the images behind every cell.",
        f"No run has predictions for {compare_view.SPLITS[split].lower()} yet.",
        action="Train a model",
        to="train",
        icon_name="compare_arrows",
    )
    widgets.stop()

compare_panels.seed_runs(summaries, split, KEY)
left, right = st.columns([1, 4.3], gap="medium")
with left:
    ids = compare_panels.choose_runs(summaries, KEY)
selection.list_to_url("runs", KEY)
with right:
    if not ids:
        st.info("Tick at least one run on the left.", icon=":material/arrow_back:")
        widgets.stop()
    labels = widgets.run_labels(summaries)
    by_id = {summary.id: summary for summary in summaries}
    try:
        compare_panels.draw([by_id[run_id] for run_id in ids], labels, split)
    except EngineError as error:
        st.error(widgets.escaped(compare_view.named_note(str(error), labels)), icon=":material/error:")
        compare_panels.pool_offer([by_id[run_id] for run_id in ids], KEY)
