"""The selection of a page lives in its URL: whoever opens the link sees the same view.

Streamlit's own `bind="query-params"` serves plain widgets (a text filter, a fold, a slider). It is not
enough for ids: a bound selectbox silently shows its first option for an unknown id, and a bound multiselect
drops it. So lists of ids are one parameter (`members=a,b`), read raw *before* the widget is made, and what
the link names but is not here is said in a sentence.

The pure functions come first (AppTest neither writes the URL nor selects rows, so the logic is tested here).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from urllib.parse import urlencode

import streamlit as st

from engine.errors import shorten


# --- pure ----------------------------------------------------------------------------------------------
def parse_list(text: str | None) -> list[str]:
    """`a,b,,a` -> `[a, b]`: order kept, blanks and repeats dropped."""
    return list(dict.fromkeys(part.strip() for part in (text or "").split(",") if part.strip()))


def format_list(items: Iterable[str]) -> str:
    """The inverse of `parse_list`."""
    return ",".join(dict.fromkeys(str(item) for item in items))


def divide(wanted: Iterable[str], known: Iterable[str]) -> tuple[list[str], list[str]]:
    """What a link names, as (here, not here), order kept."""
    there = set(known)
    wanted = list(wanted)
    return [item for item in wanted if item in there], [item for item in wanted if item not in there]


def missing_sentence(missing: Sequence[str], noun: str = "run") -> str:
    """`The link names 2 runs that are not here: a and b.`; empty where nothing is missing."""
    if not missing:
        return ""
    names = shorten([item[:80] for item in missing], limit=5)
    if len(missing) == 1:
        return f"The link names a {noun} that is not here: {names}."
    return f"The link names {len(missing)} {noun}s that are not here: {names}."


def rows_to_ids(rows: Iterable[int], ids: Sequence[str]) -> list[str]:
    """Positions that a data frame reports as selected -> ids; positions out of range are dropped."""
    return [ids[row] for row in rows if 0 <= row < len(ids)]


def query_string(params: Mapping[str, str | Sequence[str]]) -> str:
    """`?a=1&b=2`, ready to be appended to a page's address; empty without parameters."""
    plain = {key: value for key, value in params.items() if value not in ("", None, [])}
    return f"?{urlencode(plain, doseq=True, safe=',')}" if plain else ""


# --- in the page ---------------------------------------------------------------------------------------
def read(name: str, default: str = "") -> str:
    """The raw value of a parameter in the URL."""
    return st.query_params.get(name, default)


def read_list(name: str) -> list[str]:
    """The raw ids of a list parameter; repeated parameters (`runs=a&runs=b`) are taken too."""
    return parse_list(",".join(st.query_params.get_all(name)))


def write(**values: str | int | float | bool | Iterable[str] | None) -> None:
    """Put values in the URL; None, empty text and empty lists remove theirs. Nothing is sent if nothing changed.

    Parameters of widgets bound with `bind="query-params"` cannot be written here.
    """
    for name, value in values.items():
        text = _as_text(value)
        if text == "":
            if name in st.query_params:
                del st.query_params[name]
        elif st.query_params.get(name) != text:
            st.query_params[name] = text


def _as_text(value: str | int | float | bool | Iterable[str] | None) -> str:
    if value is None or value is False:
        return ""
    if value is True:
        return "1"
    if isinstance(value, str | int | float):
        return str(value)
    return format_list(value)


def list_from_url(param: str, known: Sequence[str], key: str, default: Sequence[str] = ()) -> list[str]:
    """Seed the widget `key` (a multiselect of ids) from the URL; call it before the widget, every run.

    Args:
        param: the list parameter.
        known: the ids that are here.
        key: the widget's key; its state becomes the ids of the link that are here.
        default: what is selected where the link says nothing.

    Returns:
        The ids the link names that are not here, for `missing_sentence`.

    The URL wins when it changed since `list_to_url` last wrote it (a pasted link, the back button);
    otherwise the widget does.
    """
    raw = read_list(param)
    seen = f"_url_{param}_{key}"
    written = st.session_state.get(seen)
    current = format_list(raw)
    if key not in st.session_state or written != current:
        here, missing = divide(raw, known)
        st.session_state[key] = here if param in st.query_params else list(default)
        st.session_state[f"{seen}_missing"] = missing
        st.session_state[seen] = current
    else:
        st.session_state[key] = [item for item in st.session_state[key] if item in set(known)]
    return st.session_state.get(f"{seen}_missing", [])


def list_to_url(param: str, key: str) -> None:
    """Write the state of the widget `key` to the URL; call it after the widget."""
    chosen = list(st.session_state.get(key, []))
    write(**{param: chosen})
    st.session_state[f"_url_{param}_{key}"] = format_list(chosen)


def choice_from_url(param: str, known: Sequence[str], key: str, default: str | None = None) -> list[str]:
    """As `list_from_url`, for a selectbox or radio of one value; returns what the link names in vain."""
    raw = read(param)
    seen = f"_url_{param}_{key}"
    if key not in st.session_state or st.session_state.get(seen) != raw or st.session_state[key] not in known:
        fallback = default if default in known else (known[0] if known else None)
        st.session_state[key] = raw if raw in known else fallback
        st.session_state[f"{seen}_missing"] = [raw] if raw and raw not in known else []
        st.session_state[seen] = raw
    return st.session_state.get(f"{seen}_missing", [])


def choice_to_url(param: str, key: str, default: str | None = None) -> None:
    """Write a chosen value to the URL (left out while it is the default); call it after the widget."""
    value = st.session_state.get(key)
    text = "" if value is None or value == default else str(value)
    write(**{param: text})
    st.session_state[f"_url_{param}_{key}"] = text


def option(param: str, options: Mapping[str, str] | Sequence[str], label: str, default: str, **more) -> str:
    """A segmented control whose value is the parameter `param`; says so where the link asks for another.

    Args:
        options: value -> words, or values that are their own words.
        more: passed on to `st.segmented_control`.
    """
    words = dict(options) if isinstance(options, Mapping) else {name: name for name in options}
    key = f"option_{param}"
    missing = choice_from_url(param, list(words), key, default)
    if missing:
        st.caption(missing_option(missing[0]))
    chosen = st.segmented_control(
        label, list(words), format_func=lambda name: str(words[name]), key=key, required=True, **more
    )
    choice_to_url(param, key, default)
    return chosen or default


def missing_option(asked: str) -> str:
    """`The link asks for x, which this view does not have.`, with what Markdown would read in x taken out."""
    plain = "".join(sign for sign in asked[:40] if sign.isalnum() or sign in " -_,")
    return f"The link asks for {plain}, which this view does not have."
