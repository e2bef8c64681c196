"""The door: who is at the other end of this session, and which page they may see.

Two ways in. With `[auth]` in `.streamlit/secrets.toml` people log in through Streamlit's own `st.login`
and the allow-list gives them a role. Without it, this machine edits and every other machine reads. A
frozen view is shown to whoever has its link, in both cases, and nothing else with it.

The engine asks for itself (`engine.share.access`): hiding a button here is a courtesy, not the lock.
"""

from __future__ import annotations

import os
from typing import Any

import streamlit as st
from streamlit import runtime
from streamlit.runtime.scriptrunner import get_script_run_ctx

from dashboard import places, widgets
from engine.share import access
from engine.share.access import NOBODY, Actor

ROLE = "DASHBOARD_ROLE"


def serve() -> None:
    """From now on the engine asks this module who is asking; Home.py calls it first of all."""
    access.serve(find)


def find() -> Actor:
    """Whoever is at the other end of this session.

    Raises:
        RuntimeError: outside a session (a thread of the server): the engine takes that for nobody.
    """
    if get_script_run_ctx(suppress_warning=True) is None:
        if not runtime.exists():  # no server at all: a script, a test
            return access.local_actor()
        raise RuntimeError("not in a session")
    claims = dict(st.user.to_dict())
    known = claims.get("is_logged_in")
    if known is None:  # no [auth] in secrets.toml
        peer = st.context.ip_address
        peer = peer if isinstance(peer, str) else None  # AppTest has a stand-in here
        return access.without_login(dict(st.context.headers), peer, os.environ.get(ROLE, ""))
    if not known:
        return Actor("visitor", NOBODY, "You are not logged in")
    return access.logged_in(claims, access.allow_list_path(places.ROOT))


def is_open_to_all(page: Any) -> bool:
    """Whether this is a frozen view: the one page that a link alone opens."""
    return page.url_path == "shared" and "view" in st.query_params


def shows_navigation(page: Any) -> bool:
    """Whether the list of pages is drawn: not beside a frozen view, not for those who may see none of them."""
    return not is_open_to_all(page) and access.actor().may_view


def admit(page: Any) -> bool:
    """Whether the page may be shown; what to do instead is drawn where it may not."""
    if is_open_to_all(page):
        return True
    who = access.actor()
    if who.may_view:
        _badge(who)
        return True
    _door(who)
    return False


def _badge(who: Actor) -> None:
    """In the sidebar: who one is here, where that matters."""
    with st.sidebar:
        if not who.may_edit:
            st.caption(f":material/lock: Read only. {widgets.escaped(who.reason)}.")
        if st.user.to_dict().get("is_logged_in"):
            st.caption(widgets.escaped(who.name))
            if st.button("Log out", key="log_out", icon=":material/logout:"):
                st.logout()


def _door(who: Actor) -> None:
    st.title("BreakHis dashboard", anchor=False)
    st.warning(widgets.escaped(f"{who.reason}."), icon=":material/lock:")
    if st.user.to_dict().get("is_logged_in"):
        st.caption("Whoever runs this server can add you to its list.")
        if st.button("Log out", key="log_out", icon=":material/logout:"):
            st.logout()
        return
    for name in _providers():
        label = f"Log in with {widgets.escaped(name)}" if name else "Log in"
        if st.button(label, key=f"log_in_{name}", type="primary", icon=":material/login:"):
            st.login(name or None)


def _providers() -> list[str]:
    """Names of the identity providers in secrets.toml; `""` is the one without a name."""
    section = st.secrets.get("auth", {})
    named = [name for name in section if hasattr(section[name], "get")]
    return ["", *named] if "client_id" in section else named
