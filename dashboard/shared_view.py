"""A frozen view as its visitors see it: read only, from its own files, whatever became of the runs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pandas as pd
import plotly.graph_objects as go
import streamlit as st

from dashboard import places, widgets
from engine.errors import ShareError
from engine.share import views
from engine.share.views import View

# The frame of the app leads to pages that a visitor may not see.
_FRAME = """
<style>
[data-testid="stSidebar"],[data-testid="stSidebarCollapsedControl"],[data-testid="stExpandSidebarButton"]{display:none}
</style>
"""


def show(view_id: str) -> None:
    """The view behind a link, or a sentence that says why there is none."""
    st.html(_FRAME)
    runs = places.runs_folder()
    try:
        view = views.read(runs, view_id)
    except ShareError as error:
        st.title("Shared view", anchor=False)
        widgets.show_error(error)
        return
    _head(view)
    for position, part in enumerate(view.parts):
        try:
            _part(view, part, f"part_{position}")
        except ShareError as error:
            widgets.show_error(error)


def _head(view: View) -> None:
    st.html(f'<h1 style="margin:0;overflow-wrap:anywhere">{widgets.plain(view.title)}</h1>')
    facts = [f"Frozen {widgets.when(view.frozen_at)}"]
    if view.version > 1:
        facts.append(f"version {view.version}")
    if view.author:
        facts.insert(0, view.author)
    if view.expires_at:
        facts.append(f"open until {widgets.when(view.expires_at)}")
    st.caption(widgets.escaped(" · ".join(facts)))
    if view.note:
        _text(view.note)


def _part(view: View, part: Mapping[str, Any], key: str) -> None:
    runs, kind = places.runs_folder(), part.get("kind")
    if part.get("title"):
        st.subheader(widgets.escaped(part["title"]), anchor=False)
    if kind == "leakage":
        widgets.leakage_badge(part.get("audit"))
    elif kind == "text":
        _text(str(part.get("text", "")))
    elif kind == "facts":
        widgets.facts([(str(label), value) for label, value in part.get("facts", ())])
    elif kind == "table":
        _table(views.table(runs, view, part), str(part.get("title") or "table"), key)
    elif kind == "figure":
        record = json.loads(views.read_file(runs, view, part))
        figure = go.Figure(record, skip_invalid=True)
        widgets.show_figure(figure, str(part.get("caption", "")), str(part.get("alt", "")), key)
        return
    elif kind == "image":
        st.image(views.read_file(runs, view, part))
    if part.get("caption"):
        st.caption(widgets.escaped(part["caption"]))


def _text(value: str) -> None:
    st.html(
        f'<p style="white-space:pre-wrap;overflow-wrap:anywhere;max-width:80ch">{widgets.plain(value)}</p>'
    )


def _table(table: pd.DataFrame, title: str, key: str) -> None:
    st.dataframe(table, hide_index=True, key=key, height=min(38 + 35 * len(table), 420))
    if len(table) > 20:
        widgets.download_table("Download as CSV", table, f"{_file_name(title)}.csv", f"{key}_csv")


def _file_name(title: str) -> str:
    return "".join(sign if sign.isalnum() else "_" for sign in title.lower())[:40] or "table"
