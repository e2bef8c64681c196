"""Ensemble: tick checkpoints, and see at once what each one brings."""

from __future__ import annotations

import streamlit as st

from dashboard import (
    cached,
    compare_view,
    ensemble_choice,
    ensemble_list,
    ensemble_members,
    ensemble_panels,
    ensemble_save,
    ensemble_view,
    widgets,
)
from engine.errors import EngineError, EnsembleError

widgets.header("Ensemble", "Which checkpoints together beat the best of them, and is the gain real?")
everyone = cached.summaries()
summaries = ensemble_members.candidates(everyone)
if not summaries:
    widgets.empty_state(
        "A score that follows every tick: mean, vote and other ways to combine checkpoints.",
        "No run has predictions yet, so there is nothing to combine.",
        action="Train a model",
        to="train",
        icon_name="hub",
    )
    widgets.stop()

by_id = {summary.id: summary for summary in everyone}
labels = widgets.run_labels(everyone)
ensemble_save.take_reveal()
choice = ensemble_choice.read([one.id for one in summaries], ensemble_choice.default_members(summaries))
shown, missing = None, None
try:
    shown = ensemble_view.resolved(choice)
except EnsembleError as error:
    missing = error
locked = ensemble_view.locked_run(shown) if shown and shown.members else ""
split = ensemble_choice.read_split(shown or choice, locked)
left, right = st.columns([1.35, 4], gap="medium")
with right:
    ensemble_panels.controls(choice, shown, locked)
with left:
    ensemble_list.draw(summaries, by_id, labels, choice, split)
ensemble_choice.write(choice)
with right:
    if not choice.members:
        st.info("Tick at least one checkpoint on the left.", icon=":material/arrow_back:")
        widgets.stop()
    if shown is None:
        ensemble_panels.offer_tta(choice, missing)
        widgets.stop()
    try:
        ensemble_panels.right(summaries, by_id, labels, shown, split, locked)
    except EngineError as error:
        st.error(widgets.escaped(compare_view.named_note(str(error), labels)), icon=":material/error:")
