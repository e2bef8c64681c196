"""Predict: new images, judged by a run or an ensemble."""

from __future__ import annotations

import tempfile
from pathlib import Path

import streamlit as st

from dashboard import cached, predict_view, selection, widgets
from engine.errors import EngineError
from engine.runs import results
from engine.share import access

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
    st.stop()

by_id = {summary.id: summary for summary in summaries}
labels = widgets.run_labels(summaries)
left, right = st.columns([1.15, 2.6], gap="large")
with left:
    widgets.missing_notice(selection.choice_from_url("run", list(by_id), "predict_run", summaries[0].id))
    run_id = st.selectbox("Model", list(by_id), format_func=lambda one: labels[one], key="predict_run")
    selection.choice_to_url("run", "predict_run")
    widgets.leakage_badge(by_id[run_id].audit, short=True)
    sources = ["Drop images", "Name a folder"] if access.actor().may_edit else ["Drop images"]
    source = st.segmented_control("Images", sources, default=sources[0], key="predict_source", required=True)
    uploads, folder_text = [], ""
    if source == "Name a folder":
        folder_text = st.text_input(
            "Folder on this machine", key="predict_folder", placeholder="/data/new_images"
        )
    else:
        uploads = st.file_uploader(
            f"PNG, JPEG or TIFF, at most {predict_view.MOST_UPLOADS} files",
            accept_multiple_files=True,
            key="predict_uploads",
        )
    go = st.button(
        "Predict", type="primary", icon=":material/biotech:", key="predict_go",
        disabled=not (uploads or folder_text.strip()),
    )  # fmt: skip
    st.caption("Research use only. Not for diagnosis. Nothing that you drop here is kept.")


def progress_bar():
    """A bar, and what the engine calls with (done, total)."""
    bar = st.progress(0.0, "Loading the model ...")

    def report(done: int, total: int) -> None:
        bar.progress(min(1.0, done / max(total, 1)), f"{done:,} of {total:,} images")

    return bar, report


def predict_now() -> None:
    """Judge what was given; the result stays in this session."""
    folder = cached.run(run_id)
    refused: list[predict_view.Refused] = []
    with tempfile.TemporaryDirectory(prefix="predict-") as scratch:
        if folder_text:
            access.require_editor("read a folder of this machine")
            paths = predict_view.folder_sources(folder_text)
        else:
            data = [(upload.name, upload.getvalue()) for upload in uploads]
            paths, refused = predict_view.save_uploads(data, Path(scratch))
        table = None
        if paths:
            bar, report = progress_bar()
            st.button("Cancel", key="predict_cancel", help="Any other click stops it as well.")
            table = results.predict_images(folder, paths, progress=report)
            bar.empty()
    st.session_state["_predicted"] = (run_id, table, refused)


with right:
    if go:
        slot = st.container()
        try:
            with slot:
                predict_now()
        except EngineError as error:
            st.session_state.pop("_predicted", None)
            widgets.show_error(error)
        else:
            st.rerun()
    made = st.session_state.get("_predicted")
    if made is None:
        st.info(
            "Choose a model and images on the left; the predictions appear here.",
            icon=":material/arrow_back:",
        )
        st.stop()
    by, table, refused = made
    if refused:
        lines = [f"- {widgets.escaped(one.name)}: {widgets.escaped(one.reason)}." for one in refused[:10]]
        more = f"\n- and {len(refused) - 10} more" if len(refused) > 10 else ""
        st.warning(
            f"**{widgets.counted(len(refused), 'file')} not judged**\n" + "\n".join(lines) + more,
            icon=":material/warning:",
        )
    if table is None:
        st.stop()
    folder = cached.run(by)
    trained, cases, known = predict_view.met_before(folder, table)
    if trained or cases:
        verdict = (
            f"{labels.get(by, folder.name)} was trained on {widgets.counted(trained, 'of these image', 'of these images')} "
            f"and on {widgets.counted(len(cases), 'of these case', 'of these cases')}: what it says about them proves nothing."
        )
        widgets.leakage_badge({"level": "leak", "verdict": verdict})
    elif not known:
        st.caption("What this model was trained on is not recorded: some of these images may be among it.")
    counts = ", ".join(f"{n:,} {name}" for name, n in predict_view.outcome_counts(table).items())
    st.markdown(
        f"**{widgets.counted(len(table), 'image')}** by {widgets.escaped(labels.get(by, folder.name))}: {widgets.escaped(counts)}."
    )
    sentence = predict_view.score_sentence(table)
    if sentence:
        st.caption(widgets.escaped(sentence + "."))
    refer = st.slider(
        "Refer images below this probability to a person",
        0.5,
        1.0,
        0.65,
        0.01,
        key="refer",
        bind="query-params",
    )
    shown = predict_view.image_table(table, refer)
    st.caption(
        f"{int(shown['Refer'].sum())} of {len(shown):,} images are to be referred. Probabilities are not calibrated."
    )
    config = {
        name: st.column_config.ProgressColumn(name, format="%.3f", min_value=0, max_value=1)
        for name in shown.columns
        if name.startswith("P(")
    }
    st.dataframe(shown, hide_index=True, column_config=config, key="predict_table")
    widgets.download_table("Predictions as CSV", table, "predictions.csv", "predict_csv")
    per_case = predict_view.case_table(table)
    if not per_case.empty:
        st.subheader("Per case", anchor=False)
        st.dataframe(per_case, hide_index=True, key="predict_cases")
        widgets.download_table("Cases as CSV", per_case, "cases.csv", "predict_cases_csv")
