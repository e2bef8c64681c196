"""Images with every entry's opinion under them, a page at a time, with previous and next on the keyboard."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import pandas as pd
import streamlit as st

from dashboard import cached, places, selection, widgets
from engine.data.manifest import CLASSES
from engine.errors import EngineError

SHOWN = 15


class Named(Protocol):
    """An entry whose opinion is shown."""

    @property
    def id(self) -> str: ...
    @property
    def label(self) -> str: ...
    @property
    def colour(self) -> str: ...


# --- pure ----------------------------------------------------------------------------------------------
def page_of(total: int, page: int, shown: int = SHOWN) -> tuple[int, int, int]:
    """(page, first, end) with the page brought into range; pages count from 1."""
    pages = max(1, -(-total // shown))
    page = min(max(1, page), pages)
    return page, (page - 1) * shown, min(total, page * shown)


def whole_number(text: str, default: int = 1) -> int:
    return int(text) if text.isdigit() and len(text) < 8 else default


def opinion_html(row: pd.Series, entries: Sequence[Named], flag: str = "") -> str:
    """The truth, then a line per entry: its name, its class, its probability, right or wrong in words."""
    mark = f' <span class="bh-flag">{widgets.icon("flag")} {widgets.plain(flag)}</span>' if flag else ""
    kinds = "".join(f" · {widgets.plain(row[name])}" for name in ("subtype", "magnification") if row[name])
    lines = [
        f'<div class="bh-truth">truly <b>{widgets.plain(row["label"] or "unknown")}</b>{kinds}<br>'
        f"{widgets.plain(row['case'] or 'case unknown')}{mark}</div>"
    ]
    for entry in entries:
        right = bool(row[f"right_{entry.id}"])
        sign = widgets.icon("check" if right else "close")
        lines.append(
            f'<div class="bh-opinion{"" if right else " bh-wrong"}" title="{widgets.plain(entry.label)}">'
            f'<span class="bh-dot" style="background:{entry.colour}"></span>{sign}'
            f'<span class="bh-who">{widgets.plain(entry.label)}</span>'
            f"<span>{_class_html(row[f'predicted_{entry.id}'])} {row[f'confidence_{entry.id}']:.2f}</span>"
            f'<span class="bh-sr">, {"right" if right else "wrong"}</span></div>'
        )
    return "".join(lines)


def _class_html(name: str) -> str:
    """A class in a narrow line: `B` and `M` as in the confusion matrices, the word for those who listen."""
    if name not in CLASSES:
        return widgets.plain(name)
    return (
        f'<span aria-hidden="true" title="{name}">{name[0].upper()}</span><span class="bh-sr">{name}</span>'
    )


def alt_of(row: pd.Series) -> str:
    """What an image is, for those who cannot see it."""
    parts = [row["magnification"], f"truly {row['label']}" if row["label"] else "", row["subtype"]]
    known = ", ".join(str(part) for part in parts if part)
    return f"Histology image {row['image_id']}" + (f": {known}" if known else "")


_STYLE = """<style>
.bh-truth{font-size:.78rem;opacity:.85;line-height:1.25;overflow-wrap:anywhere}
.bh-opinion{font-size:.8rem;line-height:1.3;display:flex;gap:.3rem;align-items:center;
 font-variant-numeric:tabular-nums}
.bh-opinion.bh-wrong{font-weight:650}
.bh-opinion>span{white-space:nowrap}
.bh-who{flex:1 1 0;min-width:0;overflow:hidden;text-overflow:ellipsis;font-weight:400;opacity:.75}
.bh-flag{color:var(--bh-amber);font-weight:600;white-space:nowrap}
.bh-sr{position:absolute;width:1px;height:1px;overflow:hidden;clip-path:inset(50%)}
.bh-gone{aspect-ratio:350/230;display:flex;align-items:center;justify-content:center;text-align:center;
 border:1px dashed color-mix(in srgb,currentColor 30%,transparent);border-radius:6px;font-size:.8rem;opacity:.7}
</style>"""


# --- drawing -------------------------------------------------------------------------------------------
def draw(
    rows: pd.DataFrame,
    entries: Sequence[Named],
    paths: Mapping[str, str],
    sentence: str,
    *,
    key: str,
    width: int = 5,
    link: Mapping[str, str] | None = None,
    flags: Mapping[str, str] | None = None,
) -> None:
    """The images of `rows` (of `engine.analysis.comparison.opinions`), a page at a time; page in the URL.

    Args:
        link: what the page of one image needs to find this list again; without it a tile leads to its maps.
        flags: image_id -> what people marked it as, in words.
    """
    page, first, end = page_of(len(rows), whole_number(selection.read("page")))
    with st.container(horizontal=True, gap="small", vertical_alignment="center"):
        st.markdown(f"**{widgets.escaped(sentence)}**")
        if len(rows) > SHOWN:
            st.button(
                "Previous", key=f"{key}_prev", icon=":material/chevron_left:", shortcut="Left",
                disabled=first == 0, on_click=_turn, args=(page - 1,),
            )  # fmt: skip
            st.button(
                "Next", key=f"{key}_next", icon=":material/chevron_right:", shortcut="Right",
                disabled=end >= len(rows), on_click=_turn, args=(page + 1,),
            )  # fmt: skip
            st.caption(f"{first + 1}–{end} of {len(rows):,}")
    if rows.empty:
        st.caption("There are none.")
        return
    tiles(rows.iloc[first:end], entries, paths, link=link, flags=flags, width=width)


def tiles(
    shown: pd.DataFrame,
    entries: Sequence[Named],
    paths: Mapping[str, str],
    *,
    link: Mapping[str, str] | None = None,
    flags: Mapping[str, str] | None = None,
    width: int = 5,
) -> None:
    """All of `shown`, `width` in a row; arguments as in `draw`."""
    st.html(_STYLE)
    for start in range(0, len(shown), width):
        for column, (_, row) in zip(
            st.columns(width, gap="small"), shown.iloc[start : start + width].iterrows(), strict=False
        ):
            with column:
                _tile(
                    row, entries, paths.get(row["image_id"], ""), link, (flags or {}).get(row["image_id"], "")
                )


def _tile(
    row: pd.Series, entries: Sequence[Named], path: str, link: Mapping[str, str] | None, flag: str
) -> None:
    picture(path, alt_of(row))
    st.html(opinion_html(row, entries, flag))
    if link is not None:
        st.page_link(
            places.page("image"),
            label="Open",
            icon=":material/open_in_full:",
            query_params={**link, "image": row["image_id"]},
        )
    elif path and places.has_page("explain"):
        st.page_link(
            places.page("explain"),
            label="Explain",
            query_params={"runs": ",".join(entry.id for entry in entries[:4]), "image": row["image_id"]},
        )


def picture(path: str, alt: str, width: int = 320) -> None:
    """A stored thumbnail, or words where the image cannot be shown."""
    try:
        if not path:
            raise EngineError("No file is known for this image")
        st.image(cached.thumbnail(path, width), alt=alt, width="stretch")
    except EngineError as error:
        words = "Image not at hand" if not path else error.message
        st.html(
            f'<div class="bh-gone" role="img" aria-label="{widgets.plain(alt)}">{widgets.plain(words)}</div>'
        )


def _turn(page: int) -> None:
    selection.write(page=page)
