"""A list of runs with a tick box each: the left column of compare, ensemble and explain.

The choice is one parameter of the URL (`runs=a,b`, `members=a,b`), order of ticking kept. Every change can be
undone. The boxes are views of that list, never its owner: so buttons (all, none, greedy) change it too.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import streamlit as st

from dashboard import selection, widgets

FILTER_FROM = 9
KEPT_STEPS = 50


@dataclass(frozen=True)
class Item:
    """One line of the list. note: short text under the name; disabled: a sentence why it cannot be ticked."""

    id: str
    label: str
    colour: str
    leaks: bool = False
    note: str = ""
    help: str = ""
    disabled: str = ""


# --- pure ----------------------------------------------------------------------------------------------
def toggled(chosen: Sequence[str], item: str) -> list[str]:
    """The list without the item, or with it at the end."""
    return [other for other in chosen if other != item] if item in chosen else [*chosen, item]


def matching(items: Sequence[Item], text: str) -> list[Item]:
    """Items whose name, note or id has every word of the text, in any case."""
    words = text.lower().split()
    return [
        item for item in items if all(word in f"{item.label} {item.note} {item.id}".lower() for word in words)
    ]


# --- the choice and its history ------------------------------------------------------------------------
def change(key: str, ids: Sequence[str]) -> None:
    """Replace the choice; `undo` brings the one before back."""
    before = list(st.session_state.get(key, []))
    after = list(dict.fromkeys(ids))
    if after == before:
        return
    st.session_state[f"{key}_past"] = [*st.session_state.get(f"{key}_past", []), before][-KEPT_STEPS:]
    st.session_state[f"{key}_future"] = []
    st.session_state[key] = after


def undo(key: str) -> None:
    _step(key, "past", "future")


def redo(key: str) -> None:
    _step(key, "future", "past")


def _step(key: str, source: str, target: str) -> None:
    steps = list(st.session_state.get(f"{key}_{source}", []))
    if steps:
        now = list(st.session_state.get(key, []))
        st.session_state[f"{key}_{target}"] = [*st.session_state.get(f"{key}_{target}", []), now]
        st.session_state[key] = steps.pop()
        st.session_state[f"{key}_{source}"] = steps


def seed(param: str, key: str, known: Sequence[str], default: Sequence[str]) -> None:
    """Take the choice from the URL, or keep that of this session, or start with the default; say what is gone."""
    kept = st.session_state.get(key)
    missing = selection.list_from_url(param, known, key, default if kept is None else kept)
    widgets.missing_notice(missing)


def chosen(key: str) -> list[str]:
    return list(st.session_state.get(key, []))


def history_buttons(key: str, *, clear: bool = False) -> None:
    """Undo and redo of the ticks, on the keyboard too; `clear` adds a button that unticks all."""
    past, future = st.session_state.get(f"{key}_past"), st.session_state.get(f"{key}_future")
    # the column is narrow: the keys are told in the tooltip, not in the buttons
    st.html(f"<style>.st-key-{key}_undo kbd,.st-key-{key}_redo kbd{{display:none}}</style>")
    st.button(
        "", key=f"{key}_undo", icon=":material/undo:", type="tertiary", disabled=not past, on_click=undo,
        args=(key,), shortcut="Ctrl+Z", help="Undo the last tick (Ctrl+Z)",
    )  # fmt: skip
    st.button(
        "", key=f"{key}_redo", icon=":material/redo:", type="tertiary", disabled=not future, on_click=redo,
        args=(key,), shortcut="Ctrl+Y", help="Redo (Ctrl+Y)",
    )  # fmt: skip
    if clear:
        st.button(
            "None", key=f"{key}_none", type="tertiary", disabled=not chosen(key), on_click=change,
            args=(key, []), help="Untick all",
        )  # fmt: skip


# --- drawing -------------------------------------------------------------------------------------------
def draw(items: Sequence[Item], key: str, *, height: int = 620, extra: Callable[[Item], None] | None = None):
    """The boxes. Call `seed` before and `selection.list_to_url` after.

    Args:
        key: where the choice is kept.
        height: the list scrolls beyond it, pixels.
        extra: draws something of its own under each ticked item (a weight).
    """
    shown = items
    if len(items) >= FILTER_FROM:
        text = st.text_input(
            "Filter", key=f"{key}_filter", placeholder="Filter by name or model", label_visibility="collapsed"
        )
        shown = matching(items, text or "")
        if not shown:
            st.caption("No run has these words in its name.")
    ticked = set(chosen(key))
    st.html(_marks(shown, key))
    with st.container(height=height if len(shown) * 52 > height else "content", border=False, gap=None):
        for item in shown:
            box = f"{key}_tick_{item.id}"
            st.session_state[box] = item.id in ticked
            st.checkbox(
                _label(item),
                key=box,
                on_change=_toggle,
                args=(key, item.id),
                disabled=bool(item.disabled) and item.id not in ticked,
                help=item.disabled or item.help or None,
            )
            if item.note:
                st.html(f'<div class="bh-note bh-num">{widgets.plain(item.note)}</div>')
            if extra and item.id in ticked:
                extra(item)  # nosec B610 - a callback, no query


def _toggle(key: str, item: str) -> None:
    change(key, toggled(chosen(key), item))


def _label(item: Item) -> str:
    name = widgets.escaped(item.label)
    return f"{name} :red[:material/warning: leaks]" if item.leaks else name


def _marks(items: Sequence[Item], key: str) -> str:
    """Each run's colour as a bar before its box: the same colour as in every figure."""
    rules = [
        f".st-key-{key}_tick_{item.id}{{border-left:4px solid {item.colour};padding:.12rem 0 .12rem .55rem;"
        "margin-top:.5rem}"
        for item in items
    ]
    note = ".bh-note{font-size:.78rem;opacity:.72;padding-left:2.45rem;line-height:1.3;white-space:pre-line}"
    return f"<style>{''.join(rules)}{note}</style>"
