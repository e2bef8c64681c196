"""Freezing what a page shows under a link. Any page calls `freeze_button`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import streamlit as st

from dashboard import cached, places, widgets
from engine.runs.folder import RunFolder
from engine.share import access, freeze, views
from engine.share.views import Part, View

EXPIRIES: dict[str, float | None] = {"7 days": 7, "30 days": 30, "90 days": 90, "1 year": 365, "Never": None}
DEFAULT_EXPIRY = "90 days"


def view_link(view_id: str) -> str:
    """The address that opens a frozen view."""
    base = (st.context.url or "").split("?")[0].rstrip("/")
    start, _, last = base.rpartition("/")
    return f"{start if places.has_page(last) else base}/shared?view={view_id}"


def freeze_button(
    make: Callable[[], list[Part]], source: dict[str, Any], key: str, *, title: str = ""
) -> None:
    """A popover that freezes what the page shows: title, author, note, expiry; then the link.

    Args:
        make: the parts, made when the button is clicked (see `engine.share.views.Part`).
        source: the page and its parameters as plain JSON, for the list of views.
        key: one per place.
        title: what stands in the title field first.
    """

    def create(**words: Any) -> View:
        return views.create(places.runs_folder(), make(), source=source, **words)

    with st.popover(
        "Freeze", icon=":material/ac_unit:", help="A copy of this view that never changes, under a link"
    ):
        freeze_form(create, key, title=title)


def freeze_runs_button(run_ids: Sequence[str], key: str, *, split: str = "test", title: str = "") -> None:
    """The same for the results of some runs."""

    def create(**words: Any) -> View:
        return freeze_runs(run_ids, split=split, **words)

    with st.popover(
        "Freeze", icon=":material/ac_unit:", help="A copy of these results that never changes, under a link"
    ):
        freeze_form(create, key, title=title)


def freeze_runs(run_ids: Sequence[str], **words: Any) -> View:
    """Freeze runs by their ids, with a progress bar.

    Raises:
        AccessError, ShareError, RunError, PredictionsError: as `engine.share.freeze.freeze`.
    """
    folders: list[RunFolder] = [cached.run(run_id) for run_id in run_ids]
    bar = st.progress(0.0, text="Freezing ...")
    try:
        return freeze.freeze(
            folders, progress=lambda done, total: bar.progress(done / max(total, 1)), **words
        )
    finally:
        bar.empty()


def freeze_form(create: Callable[..., View], key: str, *, title: str = "") -> None:
    """Title, author, note, expiry and the button; below it the link of what was frozen last."""
    who = access.actor()
    if not who.may_edit:
        st.caption(widgets.escaped(f"Only editors can freeze views. {who.reason}."))
        return
    with st.form(f"{key}_form", border=False):
        words = {
            "title": st.text_input("Title", value=title, max_chars=views.TITLE_LENGTH, key=f"{key}_title"),
            "author": st.text_input("Author", max_chars=views.AUTHOR_LENGTH, key=f"{key}_author"),
            "note": st.text_area("Note", max_chars=views.NOTE_LENGTH, key=f"{key}_note", height=90),
        }
        expiry = st.selectbox(
            "Open for", list(EXPIRIES), list(EXPIRIES).index(DEFAULT_EXPIRY), key=f"{key}_expiry"
        )
        clicked = st.form_submit_button("Freeze and make a link", type="primary", icon=":material/ac_unit:")
    if clicked:
        with widgets.errors_shown():
            st.session_state[f"{key}_made"] = create(**words, expires_in_days=EXPIRIES[expiry]).id
    made = st.session_state.get(f"{key}_made")
    if made:
        st.caption("Whoever has this link sees the view, and nothing else of this server.")
        st.code(view_link(made), language=None, wrap_lines=True)
