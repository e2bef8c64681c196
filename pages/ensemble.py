"""Ensemble: tick checkpoints, and see at once what each one brings."""

from __future__ import annotations

import streamlit as st

from dashboard import cached, compare_view, ensemble_panels, ensemble_view, selection, widgets
from engine.errors import EngineError

widgets.header("Ensemble", "Which checkpoints together beat the best of them, and is the gain real?")
summaries = ensemble_view.candidates(cached.summaries())
if not summaries:
    widgets.empty_state(
        "A score that follows every tick: mean, vote and other ways to combine checkpoints.",
        "No run has predictions yet, so there is nothing to combine.",
        action="Train a model",
        to="train",
        icon_name="hub",
    )
    st.stop()

ensemble_panels.take_loaded()
by_id = {summary.id: summary for summary in summaries}
labels = widgets.run_labels(summaries)
choice = ensemble_panels.read_choice(list(by_id), ensemble_panels.default_members(summaries))
split = ensemble_panels.read_split(choice)
left, right = st.columns([1.25, 4], gap="medium")
with right:
    ensemble_panels.controls(choice)
    selection.choice_to_url("split", "ens_split", "val")
with left:
    ensemble_panels.left(summaries, labels, choice, split)
ensemble_panels.write_choice(choice, split)
with right:
    if not choice.members:
        st.info("Tick at least one checkpoint on the left.", icon=":material/arrow_back:")
        st.stop()
    try:
        ensemble_panels.right(by_id, labels, choice, split)
    except EngineError as error:
        st.error(widgets.escaped(compare_view.named_note(str(error), labels)), icon=":material/error:")
