"""Explain: which places of an image spoke for the prediction, for one model, several, or an ensemble."""

from __future__ import annotations

import streamlit as st

from dashboard import (
    cached,
    compare_panels,
    explain_panels,
    explain_view,
    selection,
    tick_list,
    widgets,
)
from engine.errors import EngineError

KEY = explain_panels.KEY

widgets.header("Explain", "Which places of an image spoke for the prediction, and do the models agree?")
split = compare_panels.split_choice()
summaries = explain_view.explainable(cached.summaries())
if not summaries:
    widgets.empty_state(
        "Image, map and overlay side by side, for one model or several.",
        "No run has weights yet: maps need a trained network. Imported predictions have none.",
        action="Train a model",
        to="train",
        icon_name="blur_on",
    )
    widgets.stop()

by_id = {summary.id: summary for summary in summaries}
labels = widgets.run_labels(summaries)
explain_panels.say_unexplained(cached.summaries(), list(by_id))
kept = st.session_state.get(KEY)
tick_list.seed("runs", KEY, list(by_id), [summaries[0].id] if kept is None else kept)
left, right = st.columns([1, 3.6], gap="medium")
with left:
    ids = explain_panels.choose_runs(summaries)
selection.list_to_url("runs", KEY)
if not ids:
    right.info("Tick at least one model on the left.", icon=":material/arrow_back:")
    widgets.stop()

with left:
    point = explain_panels.operating_point(by_id[ids[0]].config.classes)
try:
    table, inside, note = explain_view.opinions(ids, split, point)
    thresholds = explain_view.thresholds(ids, point)
except EngineError as error:
    with right:
        widgets.show_error(error)
    widgets.stop()
with left:
    chosen = explain_panels.filters(table, len(inside) > 1)
    method, target, layer = explain_panels.question([by_id[run_id] for run_id in ids])
rows = explain_view.walk(table, chosen, inside[0])
with right:
    widgets.leakage_badge(widgets.leakage_of([by_id[run_id] for run_id in ids]), short=True)
    if note:
        st.caption(widgets.escaped(note))
    if rows.empty:
        st.info("No image passes these filters.", icon=":material/filter_alt_off:")
        widgets.stop()
    row = explain_panels.walk(rows, table)
    path = explain_panels.paths(ids).get(row["image_id"], "")
    try:
        if not path:
            raise EngineError(
                "The file of this image is not known",
                found=row["image_id"],
                remedy="Tick a run that was trained here: its manifest says where the images lie",
            )
        explain_view.pixels_of(path)
        asked = {"method": method, "target": target, "layer": layer}
        found, failed = explain_panels.make_maps(ids, path, **asked)
        judged = {
            run_id: explain_view.said_of(one, row, run_id, thresholds[run_id])
            for run_id, one in found.items()
        }
        shown = explain_panels.Shown(row, path, labels, found, failed, judged)
        explain_panels.pictures(shown)
        explain_panels.below(ids, shown, table, rows, asked)
    except EngineError as error:
        widgets.show_error(error)
