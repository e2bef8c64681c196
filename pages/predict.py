"""Predict: new images, judged by a run or an ensemble."""

from __future__ import annotations

import streamlit as st

from dashboard import cached, predict_job, predict_view, selection, widgets
from engine.errors import EngineError

widgets.header("Predict", "What does a model say about new images?")
summaries = predict_view.able(cached.summaries())
if not summaries:
    widgets.empty_state(
        "Predictions of a trained model or an ensemble for images you drop here.",
        "No run has weights yet: predictions need a trained network.",
        action="Train a model",
        to="train",
        icon_name="biotech",
    )
    widgets.stop()

by_id = {summary.id: summary for summary in summaries}
labels = widgets.run_labels(summaries)
left, right = st.columns([1.15, 2.9], gap="large")
with left:
    widgets.missing_notice(selection.choice_from_url("run", list(by_id), "predict_run", summaries[0].id))
    run_id = st.selectbox("Model", list(by_id), format_func=lambda one: labels[one], key="predict_run")
    selection.choice_to_url("run", "predict_run")
    widgets.leakage_badge(by_id[run_id].audit, short=True)
    named, uploads, table = predict_view.inputs()
    go = st.button(
        "Predict", type="primary", icon=":material/biotech:", key="predict_go", disabled=not (uploads or named)
    )  # fmt: skip
    before = predict_job.current()
    several = by_id[run_id].config.kind == "ensemble" or bool(
        before and before.judged and before.judged.members
    )
    rule = predict_view.rule_of_link(several)
    st.caption(
        "Research use only. Not for diagnosis. What you drop here is deleted when you judge other images or close this "
        "page. A link to it opens this model and this rule, without the images."
    )

with right:
    if go:
        predict_job.clear()
        with widgets.errors_shown():
            with st.spinner("Reading the files ..."):
                job = predict_view.job_of(cached.run(run_id), named, uploads, table)
            if job.paths:
                predict_job.begin(job)
            else:
                predict_view.refusals(job.refused)
    job = predict_job.current()
    if job is None:
        if not go:
            st.info(
                "Choose a model and images on the left; the predictions appear here.",
                icon=":material/arrow_back:",
            )
    elif not job.finished:
        predict_job.watch()
    else:
        predict_view.refusals([*job.refused, *(job.judged.refused if job.judged else ())])
        if job.error is not None:
            widgets.show_error(job.error)
        elif job.judged is not None:
            try:
                predict_view.answer(job, job.judged, predict_view.labels_of(job.folder.id, labels), rule)
            except EngineError as error:  # the run, or a member, was deleted since
                widgets.show_error(error)
