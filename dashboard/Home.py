# ruff: noqa: N999 - the file is named after what Streamlit is started with
"""The way in: `streamlit run dashboard/Home.py`. A router and the frame around every page; no page is here."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Literal

# Streamlit puts only dashboard/ on the path; the pages and the engine lie one floor up.
ROOT = Path(__file__).resolve().parent.parent
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

import streamlit as st  # noqa: E402
from streamlit import runtime  # noqa: E402

from dashboard import gate, places, resident, widgets  # noqa: E402
from engine.errors import EngineError  # noqa: E402

# file -> (title, icon, group); the group "" is routable but not listed.
PAGES = {
    "overview": ("Overview", "space_dashboard", "Start"),
    "dataset": ("Data set", "photo_library", "Data"),
    "train": ("Train", "model_training", "Training"),
    "runs": ("Runs", "list_alt", "Training"),
    "run": ("Run", "monitoring", ""),
    "compare": ("Compare", "compare_arrows", "Results"),
    "image": ("Image", "image", ""),
    "ensemble": ("Ensemble", "hub", "Results"),
    "explain": ("Explain", "blur_on", "Results"),
    "predict": ("Predict", "biotech", "Results"),
    "shared": ("Share", "ios_share", "Results"),
}


def route(position: Literal["sidebar", "hidden"] = "sidebar") -> st.Page:
    """The pages whose files exist, grouped."""
    groups: dict[str, list] = {}
    for name, (title, icon, group) in PAGES.items():
        if not places.has_page(name):
            continue
        page = st.Page(
            places.page(name),
            title=title,
            icon=f":material/{icon}:",
            url_path="home" if name == "overview" else name,
            default=name == "overview",
            visibility="visible" if group else "hidden",
        )
        groups.setdefault(group or "Training", []).append(page)
    groups["Start"].append(alias())
    return st.navigation(groups, expanded=True, position=position)


def alias() -> st.Page:
    """`/overview`: the default page is at `/` and reserves its own path, but people type one as for every page."""
    return st.Page(
        lambda: st.switch_page(places.page("overview")),
        title="Overview",
        url_path="overview",
        visibility="hidden",
    )


st.set_page_config(
    page_title="BreakHis dashboard",
    page_icon=str(ROOT / "dashboard" / "favicon.png"),
    layout="wide",
    initial_sidebar_state="expanded",
)
gate.serve()
widgets.style()
page = route()
if not gate.shows_navigation(page):
    page = route("hidden")
with st.sidebar:
    st.caption("Research use only. Not for diagnosis.")
try:
    if gate.admit(page):
        page.run()
except EngineError as error:
    widgets.show_error(error)
finally:
    widgets.fill_share()
    if runtime.exists():  # a server, no test
        resident.settle()
