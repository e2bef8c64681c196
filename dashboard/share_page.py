"""The parts of the Share page: frozen views, reports, bundles, the log of acts."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import streamlit as st

from dashboard import cached, places, sharing, widgets
from engine.errors import EngineError, ShareError
from engine.report.contents import QUESTION
from engine.runs.folder import Summary
from engine.runs.status import FINISHED
from engine.share import access, freeze, views
from engine.share.views import View

PARTS = ("Frozen views", "Report", "Bundles", "Log")
FORMATS = {"HTML": ".html", "PDF": ".pdf"}
LISTED = 50


# --- frozen views --------------------------------------------------------------------------------------
def frozen_views(summaries: Sequence[Summary]) -> None:
    """Freeze the results of runs, and every view that there is."""
    if summaries:
        chosen = widgets.run_picker("Runs to freeze", summaries, key="freeze_runs")
        if chosen:
            with st.container(border=True):
                sharing.freeze_form(lambda **words: sharing.freeze_runs(chosen, **words), "freeze")
    known = views.listed(places.runs_folder())
    if not known:
        widgets.empty_state(
            "This list shows every frozen view: a copy of results under a link that nobody can guess.",
            "It is empty because nothing has been frozen yet.",
            icon_name="ac_unit",
            action="" if summaries else "Train a model",
            to="train",
        )
        return
    st.subheader(widgets.counted(len(known), "frozen view"), anchor=False)
    for view in known[:LISTED]:
        _view_row(view)
    if len(known) > LISTED:
        st.caption(f"The newest {LISTED} are shown.")


def _view_row(view: View) -> None:
    editor = access.actor().may_edit
    with st.container(border=True):
        st.html(f'<b style="overflow-wrap:anywhere">{widgets.plain(view.title)}</b>')
        words = [view.author, f"frozen {widgets.ago(view.frozen_at)}", _state_words(view)]
        st.caption(widgets.escaped(" · ".join(word for word in words if word)))
        if view.state == "open":
            st.code(sharing.view_link(view.id), language=None, wrap_lines=True)
        if not editor:
            return
        with st.container(horizontal=True):
            if view.state == "revoked":
                _act("Open again", "lock_open", view, views.reinstate)
            else:
                _act("Revoke", "block", view, views.revoke)
            if view.source.get("runs") and view.state != "revoked":
                _act("Freeze again", "refresh", view, _again)


def _state_words(view: View) -> str:
    if view.state == "revoked":
        return f"revoked {widgets.ago(view.revoked_at)}"
    if view.state == "expired":
        return f"expired {widgets.when(view.expires_at)}"
    return f"open until {widgets.when(view.expires_at)}" if view.expires_at else "open without end"


def _act(label: str, icon: str, view: View, act: Any) -> None:
    if st.button(label, key=f"{act.__name__}_{view.id}", icon=f":material/{icon}:"):
        try:
            act(places.runs_folder(), view.id)
        except EngineError as error:
            widgets.show_error(error)
        else:
            st.rerun()


def _again(runs: Path, view_id: str) -> View:
    bar = st.progress(0.0, text="Freezing what the runs say now ...")
    return freeze.freeze_again(runs, view_id, progress=lambda done, total: bar.progress(done / max(total, 1)))


# --- report --------------------------------------------------------------------------------------------
def report(summaries: Sequence[Summary]) -> None:
    """One self-contained file from chosen runs."""
    if not summaries:
        widgets.empty_state(
            "A report is one file with everything about some runs: it opens offline, from a USB stick.",
            "There is nothing to report because no run has test predictions yet.",
            action="Train a model",
            to="train",
            icon_name="description",
        )
        return
    chosen = widgets.run_picker("Runs in the report", summaries, key="report_runs")
    with st.form("report_form", border=False):
        title = st.text_input("Title", max_chars=200, key="report_title")
        author = st.text_input("Author", max_chars=120, key="report_author")
        question = st.text_area("Question", QUESTION, max_chars=2000, key="report_question", height=80)
        note = st.text_area("Note", max_chars=8000, key="report_note", height=90)
        left, right = st.columns(2)
        kind = left.selectbox(
            "Format", list(FORMATS), key="report_format", help="The PDF has no interactive figures."
        )
        shots = right.number_input(
            "Images of mistakes", 0, 40, 12, key="report_pictures", help="0 = no image leaves the data set."
        )
        clicked = st.form_submit_button("Make the report", type="primary", icon=":material/description:")
    if clicked:
        st.session_state.pop("report_made", None)
        with widgets.errors_shown():
            words = {"title": title or "Report", "author": author, "question": question, "note": note}
            st.session_state["report_made"] = _make(chosen, FORMATS[kind], int(shots), words)
    made = st.session_state.get("report_made")
    if made:
        st.success(
            f"{made['name']}: {made['size'] / 1e6:.1f} MB in {made['seconds']:.0f} s.",
            icon=":material/check_circle:",
        )
        st.download_button(
            "Download the report", made["data"], made["name"], made["mime"], on_click="ignore",
            key="report_download", icon=":material/download:", type="primary",
        )  # fmt: skip


def _make(run_ids: Sequence[str], suffix: str, pictures: int, words: dict[str, Any]) -> dict[str, Any]:
    from engine.report.contents import collect
    from engine.report.html import render

    start = time.perf_counter()
    bar = st.progress(0.0, text="Reading and scoring ...")
    try:
        folders = [cached.run(run_id) for run_id in run_ids]
        contents = collect(
            folders,
            pictures=pictures,
            progress=lambda done, total: bar.progress(done / max(total, 1)),
            **words,
        )
        data = render(contents, suffix)
    finally:
        bar.empty()
    access.log(places.runs_folder(), "report", ",".join(run_ids), title=words["title"])
    mime = "text/html" if suffix == ".html" else "application/pdf"
    name = f"report-{time.strftime('%Y%m%d-%H%M')}{suffix}"
    return {
        "data": data,
        "name": name,
        "mime": mime,
        "size": len(data),
        "seconds": time.perf_counter() - start,
    }


# --- bundles -------------------------------------------------------------------------------------------
def bundles(summaries: Sequence[Summary]) -> None:
    """Take a run away as one zip, or bring one in."""
    done = [summary for summary in summaries if summary.status.state in FINISHED]
    left, right = st.columns(2, gap="large")
    with left:
        st.subheader("Take a run along", anchor=False)
        st.caption(
            "Weights, configuration, card, environment and predictions, each with its sha256; an ensemble brings its members. No image, no path of this machine."
        )
        if not done:
            st.caption("There is no run that has ended.")
        else:
            _export(done)
    with right:
        st.subheader("Bring one in", anchor=False)
        _import()


def _export(summaries: Sequence[Summary]) -> None:
    from engine.share import bundle

    names = widgets.run_labels(summaries)
    chosen = st.selectbox(
        "Run or ensemble", list(names), format_func=lambda run_id: names[run_id], key="bundle_run"
    )
    if st.button("Make the bundle", key="bundle_make", icon=":material/inventory_2:"):
        st.session_state.pop("bundle_made", None)
        bar = st.progress(0.0, text="Packing ...")
        with widgets.errors_shown():
            target = places.runs_folder() / ".bundles" / f"{chosen}.zip"
            bundle.write_bundle(cached.run(chosen), target, progress=lambda a, b: bar.progress(a / max(b, 1)))
            st.session_state["bundle_made"] = str(target)
        bar.empty()
    made = Path(st.session_state.get("bundle_made", ""))
    if made.is_file():
        st.caption(widgets.escaped(f"{made.name}: {made.stat().st_size / 1e6:.1f} MB"))
        st.download_button(
            "Download the bundle", made.read_bytes, made.name, "application/zip", on_click="ignore",
            key="bundle_download", icon=":material/download:",
        )  # fmt: skip


def _import() -> None:
    who = access.actor()
    if not who.may_edit:
        st.caption(widgets.escaped(f"Only editors can import bundles. {who.reason}."))
        return
    limit = st.get_option("server.maxUploadSize")
    given = st.file_uploader(f"A bundle of at most {limit} MB", type=["zip"], key="bundle_upload")
    path = st.text_input("Or a larger one, by its path on the server", key="bundle_path")
    if st.button("Import", key="bundle_import", icon=":material/upload:", disabled=not (given or path)):
        with widgets.errors_shown():
            _bring_in(given or Path(path).expanduser())


def _bring_in(source: Any) -> None:
    from engine.share import bundle

    if isinstance(source, Path) and not source.is_file():
        raise ShareError("There is no such file", found=str(source), remedy="Check the path")
    bar = st.progress(0.0, text="Checking and unpacking ...")
    try:
        imported = bundle.read_bundle(
            source, places.runs_folder(), progress=lambda a, b: bar.progress(a / max(b, 1))
        )
    finally:
        bar.empty()
    main = imported[-1]
    st.success(
        widgets.escaped(f"Imported: {main.name} ({widgets.counted(len(imported), 'run')})."),
        icon=":material/check_circle:",
    )
    st.page_link(
        places.page("run"), label="Open it", query_params={"id": main.id}, icon=":material/monitoring:"
    )


# --- log -----------------------------------------------------------------------------------------------
def log() -> None:
    """Who launched, deleted, shared: the last acts."""
    rows = access.read_log(places.runs_folder())
    if not rows:
        widgets.empty_state(
            "This log shows who launched, deleted, shared or imported what.",
            "It is empty because nothing was done yet that is written down.",
            icon_name="history",
        )
        return
    table = pd.DataFrame(
        {
            "When": [widgets.when(row.get("time")) for row in rows],
            "Who": [str(row.get("who", "")) for row in rows],
            "Role": [str(row.get("role", "")) for row in rows],
            "Did": [str(row.get("action", "")) for row in rows],
            "To": [str(row.get("target", "")) for row in rows],
        }
    )
    st.dataframe(table, hide_index=True, key="log_table")
    widgets.download_table("Download the log as CSV", table, "log.csv", "log_csv")
