"""One image: the file, every entry's opinion, its siblings at other magnifications, overlays, and what people say.

It belongs to a view of the compare page (same parameters in the link), whose list of images it walks through.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import streamlit as st

from dashboard import cached, compare_view, explain_view, gallery, places, selection, widgets
from dashboard.compare_view import Line, View
from engine.analysis import metrics, review
from engine.data.manifest import order_magnifications
from engine.errors import EngineError, PredictionsError
from engine.explain import overlay
from engine.explain.methods import DEFAULT_METHOD, DEFAULT_TARGET
from engine.runs.folder import Summary
from engine.share import access

KEYS = {"wrong-label": "w", "artefact": "a", "discuss": "d"}
ICONS = {"wrong-label": "label_off", "artefact": "blur_off", "discuss": "forum"}
MOST_SIBLINGS = 12
WIDTH = 700  # BreakHis' own


# --- pure ----------------------------------------------------------------------------------------------
def neighbours(ids: Sequence[str], image: str) -> tuple[str, str, int]:
    """(the one before, the one after, place counted from 1) in a list of images; empty and 0 where there is none."""
    if image not in ids:
        return "", "", 0
    at = list(ids).index(image)
    return (ids[at - 1] if at else ""), (ids[at + 1] if at + 1 < len(ids) else ""), at + 1


def siblings(table: pd.DataFrame, image: str) -> dict[str, pd.DataFrame]:
    """magnification -> the other images of the same slide (of the same case where the slide is not known)."""
    others = explain_view.siblings(table, image)
    powers = order_magnifications(others["magnification"].unique())
    return {power: others[others["magnification"] == power] for power in powers}


def overlay_of(heat: np.ndarray, pixels: np.ndarray, magnification: str) -> bytes:
    """A map over its image with a scale bar where the magnification is known, as a JPEG.

    Args: heat (height, width), pixels uint8 (height, width, 3).
    """
    return explain_view.jpeg(overlay.scale_bar(overlay.overlay(pixels, heat), magnification))


def opinions_html(
    row: pd.Series,
    lines: Sequence[Line],
    probabilities: Mapping[str, np.ndarray],
    cases: Mapping[str, pd.Series | None],
    classes: Sequence[str],
    thresholds: Mapping[str, float | None],
) -> str:
    """A row per entry: what it calls the image and how surely, and how it does on the whole patient.

    Args:
        row: of `comparison.opinions`. probabilities: entry -> (classes,). cases: entry -> its row of
        `metrics.case_table`, None where the patient is not known.
    """
    rows = []
    for line in lines:
        right = bool(row[f"right_{line.id}"])
        share = float(probabilities[line.id][-1])
        word = "right" if right else "wrong"
        point = thresholds[line.id]
        mark = f'<i style="left:{100 * point:.1f}%"></i>' if point is not None and len(classes) == 2 else ""
        bar = f'<span class="bh-bar" aria-hidden="true"><b style="width:{100 * share:.1f}%;background:{line.colour}"></b>{mark}</span>'
        case = cases[line.id]
        patient = "n/a"
        if case is not None:
            verdict = "right" if case["diagnosis"] == case["label"] else "wrong"
            patient = f"{int(case['right'])} of {int(case['n_images'])} images right · diagnosis {case['diagnosis']} ({verdict})"
        rows.append(
            f'<tr><th scope="row"><span class="bh-dot" style="background:{line.colour}"></span> {widgets.plain(line.label)}</th>'
            f"<td>{widgets.icon('check' if right else 'close')} {widgets.plain(row[f'predicted_{line.id}'])}"
            f' <small>{word}</small></td><td class="bh-num">{bar} {share:.3f}</td><td><small>{widgets.plain(patient)}</small></td></tr>'
        )
    head = f'<th scope="col">Entry</th><th scope="col">Calls it</th><th scope="col">P({widgets.plain(classes[-1])})</th><th scope="col">On this patient</th>'
    return f'<div class="bh-scroll"><table class="bh-ops"><thead><tr>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table></div>{_STYLE}'


_STYLE = """<style>
.bh-ops{border-collapse:collapse;width:100%;font-size:.9rem;font-variant-numeric:tabular-nums}
.bh-ops th,.bh-ops td{padding:.3rem .5rem .3rem 0;text-align:left;border:0;vertical-align:middle;
 border-bottom:1px solid color-mix(in srgb,currentColor 12%,transparent)}
.bh-ops thead th{font-weight:550;font-size:.78rem;opacity:.75}
.bh-ops tbody th{font-weight:550;overflow-wrap:anywhere}
.bh-bar{display:inline-block;position:relative;width:4.5rem;height:.55rem;vertical-align:middle;border-radius:2px;
 background:color-mix(in srgb,currentColor 12%,transparent)}
.bh-bar b{position:absolute;left:0;top:0;bottom:0;border-radius:2px}
.bh-bar i{position:absolute;top:-.2rem;bottom:-.2rem;width:2px;background:currentColor}
</style>"""


# --- the page ------------------------------------------------------------------------------------------
def draw(image: str, summaries: Sequence[Summary], labels: Mapping[str, str]) -> None:
    """Everything below the header.

    Raises:
        RunError, PredictionsError: the entries cannot be compared, or none of them knows the image.
    """
    ids = [summary.id for summary in summaries]
    view = compare_view.view_from_url(ids)
    table = compare_view.opinions(view)
    whole = compare_view.aligned(view)
    asked = compare_view.asked_from_url(ids, whole.classes)
    flags = review.flags(cached.marks())
    rows, sentence = compare_view.listed(table, asked, labels, set(flags))
    row = _row(table, image)
    _walk(list(rows["image_id"]), image, sentence)
    analysis = compare_view.sensitivity(view)
    if analysis:
        st.warning(f"**{widgets.escaped(analysis)}.**", icon=":material/flag:")
    widgets.leakage_badge(widgets.leakage_of(summaries), short=True)
    lines = compare_view.lines_of(summaries, labels)
    paths = compare_view.image_paths(ids)
    left, right = st.columns([1.15, 1], gap="medium")
    with left:
        gallery.picture(paths.get(image, ""), gallery.alt_of(row), WIDTH)
        _marks(image)
    with right:
        _facts(row)
        _opinions(view, row, lines)
    thresholds = compare_view.thresholds_of(view)
    _overlays(image, summaries, labels, row, paths.get(image, ""), thresholds)
    _siblings(table, image, row, lines, paths, flags)


def _row(table: pd.DataFrame, image: str) -> pd.Series:
    found = table[table["image_id"] == image]
    if found.empty:
        raise PredictionsError(
            "This image is not among those that all these entries predicted",
            found=image,
            remedy="Go back to the comparison and open one of its images",
        )
    return found.iloc[0]


def _walk(ids: list[str], image: str, sentence: str) -> None:
    """Back to the comparison; previous and next in its list, on the keyboard too."""
    before, after, place = neighbours(ids, image)
    with st.container(horizontal=True, gap="small", vertical_alignment="center"):
        st.page_link(
            places.page("compare"), label="Back to the comparison", icon=":material/arrow_back:",
            query_params=compare_view.link_params(),
        )  # fmt: skip
        st.button(
            "Previous", key="image_prev", icon=":material/chevron_left:", shortcut="Left", disabled=not before,
            on_click=_go, args=(before,),
        )  # fmt: skip
        st.button(
            "Next", key="image_next", icon=":material/chevron_right:", shortcut="Right", disabled=not after,
            on_click=_go, args=(after,),
        )  # fmt: skip
        st.caption(widgets.escaped(f"{place} of {sentence}" if place else f"Not among the {sentence}"))


def _go(image: str) -> None:
    selection.write(image=image)


def _facts(row: pd.Series) -> None:
    known = [
        ("True class", row["label"] or "unknown"),
        ("Subtype", row["subtype"] or "unknown"),
        ("Magnification", row["magnification"] or "unknown"),
        ("Patient", row["case"] or "unknown"),
        ("Slide", row["slide"] or "unknown"),
    ]
    if "fold" in row.index:
        known.append(("Tested in fold", row["fold"]))
    widgets.facts(known)


def _opinions(view: View, row: pd.Series, lines: Sequence[Line]) -> None:
    images, thresholds = compare_view.aligned(view), compare_view.thresholds_of(view)
    columns = [f"prob_{name}" for name in images.classes]
    place = list(images.frame["image_id"]).index(row["image_id"])
    probabilities, cases = {}, {}
    for line in lines:
        own = images.tables[line.id]
        probabilities[line.id] = own[columns].to_numpy(dtype=float)[place]
        patient = (
            metrics.case_table(own[own["case"] == row["case"]], thresholds[line.id]) if row["case"] else None
        )
        cases[line.id] = patient.iloc[0] if patient is not None and len(patient) else None
    st.html(opinions_html(row, lines, probabilities, cases, images.classes, thresholds))
    right = int(row["n_right"])
    st.caption(
        f"{right} of {len(lines)} right."
        + (" The line in a bar is that entry's operating point." if any(thresholds.values()) else "")
    )


# --- marks ---------------------------------------------------------------------------------------------
def _marks(image: str) -> None:
    """What people say about this image, and what you say; every mark can be taken back."""
    who = access.actor()
    marked = cached.marks()
    here = marked[marked["image_id"] == image]
    reason = places.read_only_reason() or ("" if who.may_edit else who.reason or "You may only read")
    st.markdown("**Marks**")
    for _, one in here.iterrows():
        note = f" — {one['note']}" if one["note"] else ""
        st.markdown(
            f":material/{ICONS.get(one['kind'], 'flag')}: **{widgets.escaped(review.SHORT.get(one['kind'], one['kind']))}** · "
            f"{widgets.escaped(one['author'])}, {widgets.escaped(str(one['time'])[:16].replace('T', ' '))} UTC{widgets.escaped(note)}"
        )
    if here.empty:
        st.caption("Nobody has marked this image.")
    own = set(here.loc[here["author"] == who.name, "kind"])
    st.text_input(
        "Note", key=f"image_note_{image}", max_chars=review.LONGEST, placeholder="Note (kept with the mark)",
        label_visibility="collapsed", disabled=bool(reason),
    )  # fmt: skip
    with st.container(horizontal=True, gap="small"):
        for kind, words in review.SHORT.items():
            st.button(
                f"Take back: {words}" if kind in own else words.capitalize(),
                key=f"image_mark_{kind}",
                icon=f":material/{ICONS[kind]}:",
                type="primary" if kind in own else "secondary",
                shortcut=KEYS[kind],
                disabled=bool(reason),
                help=reason or review.KINDS[kind],
                on_click=_mark,
                args=(image, kind, kind in own),
            )
        st.button(
            "Undo", key="image_undo", icon=":material/undo:", type="tertiary", shortcut="Ctrl+Z",
            disabled=bool(reason) or "image_last" not in st.session_state, on_click=_undo,
        )  # fmt: skip
    said = st.session_state.pop("image_said", None)
    if isinstance(said, EngineError):
        widgets.show_error(said)
    elif said:
        st.toast(said, icon=":material/flag:")


def _mark(image: str, kind: str, remove: bool) -> None:
    note_key = f"image_note_{image}"
    try:
        who = access.require_editor("mark images")
        review.mark(
            places.runs_folder(),
            image,
            kind,
            who.name,
            st.session_state.get(note_key, "").strip(),
            remove=remove,
        )
    except EngineError as error:
        st.session_state["image_said"] = error
        return
    st.session_state[note_key] = ""
    st.session_state["image_last"] = image
    st.session_state["image_said"] = f"{'Taken back' if remove else 'Marked'}: {review.SHORT[kind]}"


def _undo() -> None:
    try:
        who = access.require_editor("mark images")
        back = review.undo(places.runs_folder(), who.name)
    except EngineError as error:
        st.session_state["image_said"] = error
        return
    if back is not None:
        st.session_state["image_said"] = f"Undone on {back.image_id}"


# --- overlays ------------------------------------------------------------------------------------------
def _overlays(
    image: str,
    summaries: Sequence[Summary],
    labels: Mapping[str, str],
    row: pd.Series,
    path: str,
    thresholds: Mapping[str, float | None],
) -> None:
    """Which places spoke for the prediction, per entry that has a network; made when asked for, then stored."""
    able = explain_view.explainable(summaries)
    st.markdown("**Overlays**")
    if not able or not path:
        st.caption(
            "The file of this image is not known here, so no map can be made."
            if able
            else "None of these entries has a network: imported predictions have no maps."
        )
        return
    if selection.read("maps") != "1":
        st.button(
            f"Show the maps of {widgets.counted(len(able), 'entry', 'entries')}", key="image_maps",
            icon=":material/blur_on:", on_click=selection.write, kwargs={"maps": True},
        )  # fmt: skip
        return
    columns = st.columns(min(5, max(3, len(able))), gap="small")
    for position, summary in enumerate(able):
        with columns[position % len(columns)], widgets.errors_shown():
            with st.spinner(f"Map of {widgets.escaped(labels[summary.id])} ...", show_time=True):
                found = explain_view.map_of(summary.id, path, DEFAULT_METHOD, str(DEFAULT_TARGET), "")
                shown = overlay_of(found.heat, explain_view.pixels_of(path), row["magnification"])
            verdict = explain_view.said_of(found, row, summary.id, thresholds[summary.id]).words
            alt = f"Overlay of {labels[summary.id]} on {image}: {verdict}"
            st.image(shown, alt=alt, width="stretch")
            st.caption(widgets.escaped(f"{labels[summary.id]}: {verdict}"))
    st.page_link(
        places.page("explain"),
        label="More about these maps",
        icon=":material/blur_on:",
        query_params={"runs": ",".join(one.id for one in able[:4]), "image": image},
    )
    st.caption("GradCAM, each map on its own scale. Research use only.")


# --- siblings ------------------------------------------------------------------------------------------
def _siblings(
    table: pd.DataFrame,
    image: str,
    row: pd.Series,
    lines: Sequence[Line],
    paths: Mapping[str, str],
    flags: Mapping[str, str],
) -> None:
    """The same slide at every magnification, with the same opinions."""
    found = siblings(table, image)
    n = sum(len(rows) for rows in found.values())
    kind = "slide" if row["slide"] else "patient"
    st.markdown(f"**The same {kind}** · {widgets.counted(n, 'other image')} that all entries predicted")
    if not n:
        st.caption("There are none in this part of the data.")
        return
    each = max(1, MOST_SIBLINGS // len(found))
    link = {**compare_view.link_params(), "maps": selection.read("maps")}
    for power, rows in found.items():
        wrong = int((rows["n_right"] < len(lines)).sum())
        st.caption(
            f"{power or 'Magnification unknown'}: {widgets.counted(len(rows), 'image')}, {wrong} of them wrong for some entry"
            + (f"; the first {each} are shown" if len(rows) > each else "")
        )
        gallery.tiles(
            rows.head(each), lines, paths, link={k: v for k, v in link.items() if v}, flags=flags, width=6
        )
