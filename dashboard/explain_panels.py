"""The parts of the explain page."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd
import streamlit as st

from dashboard import (
    cached,
    compare_panels,
    compare_view,
    ensemble_view,
    explain_more,
    explain_view,
    gallery,
    selection,
    tick_list,
    widgets,
)
from dashboard.explain_view import BUCKETS, Filter, Look
from engine.data.manifest import order_magnifications
from engine.errors import EngineError
from engine.explain import methods, overlay
from engine.explain.ensemble_map import EnsembleMap
from engine.explain.runs import Map
from engine.runs import catalog
from engine.runs.folder import Summary

KEY = "explain_runs"
MOST_RUNS = 10
RESEARCH = "Research use only. A map shows what the network used, not where the disease is."


# --- left ----------------------------------------------------------------------------------------------
def choose_runs(summaries: Sequence[Summary]) -> list[str]:
    """The runs whose maps are shown, one row each."""
    labels, colours = widgets.run_labels(summaries), widgets.run_colours()
    st.markdown(f"**Models** · {len(tick_list.chosen(KEY))} of {len(summaries)}")
    items = [
        tick_list.Item(
            summary.id,
            labels[summary.id],
            colours.get(summary.id, "#888888"),
            leaks=summary.audit.get("level") == "leak",
            note=compare_panels.run_note(summary),
        )
        for summary in summaries
    ]
    tick_list.draw(items, KEY, height=330)
    ids = tick_list.chosen(KEY)
    if len(ids) > MOST_RUNS:
        st.warning(f"The first {MOST_RUNS} of {len(ids)} are shown.", icon=":material/warning:")
    return ids[:MOST_RUNS]


def _pick(param: str, label: str, options: Sequence[str], default: str, words=None, where: Any = st) -> str:
    """A selectbox whose value is in the URL."""
    key = f"explain_{param}"
    missing = selection.choice_from_url(param, list(options), key, default)
    chosen = where.selectbox(
        label, list(options), key=key, format_func=lambda one: (words or {}).get(one, one)
    )
    if missing:
        where.caption(f"{widgets.escaped(missing[0][:60])} of the link is not here.")
    selection.choice_to_url(param, key, default)
    return chosen or default


def filters(table: pd.DataFrame, many: bool) -> Filter:
    """What to walk through."""
    st.markdown("**Images**")
    powers = ["all", *order_magnifications(table["magnification"].unique())]
    buckets = [name for name in BUCKETS if many or name != "disagree"]
    every = {"all": "All"}
    bucket = _pick("bucket", "Prediction of the first model", buckets, "all", BUCKETS)
    first, second = st.columns(2, gap="small")
    power = _pick("mag", "Magnification", powers, "all", every, first)
    subtype = _pick("subtype", "Subtype", ["all", *_values(table, "subtype")], "all", every, second)
    case = _pick("case", "Case", ["all", *_values(table, "case")], "all", every)
    return Filter(power, subtype, case, bucket)


def _values(table: pd.DataFrame, column: str) -> list[str]:
    return sorted(value for value in table[column].astype(str).unique() if value)


def question(summaries: Sequence[Summary]) -> tuple[str, str, str]:
    """Method, target, layer."""
    st.markdown("**Map**")
    names = [record.name for record in methods.METHODS]
    method = _pick(
        "method", "Method", names, methods.DEFAULT_METHOD, {m.name: m.label for m in methods.METHODS}
    )
    record = methods.find_method(method)
    st.caption(widgets.escaped(f"{record.help} Cost: {record.cost}."))
    classes = summaries[0].config.classes
    words = {
        "margin": f"{classes[-1]} minus {classes[0]}",
        "predicted": "the predicted class",
        **{name: f"logit of {name}" for name in classes},
    }
    default = methods.targets(classes)[0]
    target = _pick("target", "What the map explains", methods.targets(classes), default, words)
    return method, target, _layer(summaries)


def _layer(summaries: Sequence[Summary]) -> str:
    """A layer that all chosen models have; empty is each one's own default."""
    offered: list[dict[str, str]] = []
    for summary in summaries:
        if summary.config.kind != "train":
            return ""
        try:
            found = methods.layers(catalog.find(summary.config.model.name))
        except EngineError:
            return ""
        offered.append({layer.name: layer.label for layer in found[1:]})
    common = [name for name in offered[0] if all(name in one for one in offered)] if offered else []
    if not common:
        return ""
    words = {"": "default: just before pooling", **offered[0]}
    return _pick("layer", "Layer", ["", *common], "", words)


# --- the walk ------------------------------------------------------------------------------------------
def walk(rows: pd.DataFrame, whole: pd.DataFrame) -> pd.Series:
    """The image that is shown, with previous and next on the arrow keys."""
    asked = selection.read("image")
    if asked and asked not in set(whole["image_id"]):
        st.warning(
            f"The link names an image that these runs did not predict: {widgets.escaped(asked[:80])}.",
            icon=":material/link_off:",
        )
    here = explain_view.position_of(rows, asked)
    ids = rows["image_id"].tolist()
    row = rows.iloc[here]
    with st.container(horizontal=True, gap="small", vertical_alignment="center"):
        st.button(
            "Previous", key="explain_prev", icon=":material/chevron_left:", shortcut="Left",
            on_click=_go, args=(ids[max(0, here - 1)],), disabled=here == 0,
        )  # fmt: skip
        st.button(
            "Next", key="explain_next", icon=":material/chevron_right:", shortcut="Right",
            on_click=_go, args=(ids[min(len(ids) - 1, here + 1)],), disabled=here == len(ids) - 1,
        )  # fmt: skip
        st.markdown(f"**{widgets.escaped(row['image_id'])}** · {here + 1} of {len(ids):,}")
    facts = [row["magnification"], row["subtype"], f"case {row['case']}" if row["case"] else "", row["slide"]]
    truth = f"truly {row['label']}" if row["label"] else "truth unknown"
    st.caption(widgets.escaped(" · ".join(str(one) for one in [truth, *facts] if one)))
    selection.write(image=row["image_id"] if asked or here else None)
    return row


def _go(image_id: str) -> None:
    selection.write(image=image_id)


# --- maps ----------------------------------------------------------------------------------------------
def make_maps(
    ids: Sequence[str], labels: dict[str, str], path: str, method: str, target: str, layer: str
) -> tuple[dict[str, Map], dict[str, EngineError]]:
    """A map per run, or the error that says why there is none. The first one of a run loads its model."""
    found: dict[str, Map] = {}
    failed: dict[str, EngineError] = {}
    with st.spinner("Making the map. The first one of a model loads its weights ...", show_time=True):
        for run_id in ids:
            try:
                found[run_id] = explain_view.map_of(run_id, path, method, target, layer)
            except EngineError as error:
                failed[run_id] = error
    return found, failed


@st.fragment
def pictures(
    found: dict[str, Map],
    failed: dict[str, EngineError],
    labels: dict[str, str],
    row: pd.Series,
    path: str,
) -> None:
    """The rows of pictures and the controls that only change how they look: nothing is computed again."""
    look, shared = _look(found)
    pixels = explain_view.pixels_of(path)
    heats = {run_id: explain_view.heat_of(one, look.signed) for run_id, one in found.items()}
    models = {run_id: heat for run_id, heat in heats.items() if not isinstance(found[run_id], EnsembleMap)}
    scale = explain_view.shared_scale(list(models.values()), look.signed) if shared and models else None
    colours = widgets.run_colours()
    for position, run_id in enumerate([*found, *failed]):
        _row_head(run_id, labels[run_id], colours.get(run_id, "#888888"), found.get(run_id), row)
        if run_id in failed:
            widgets.show_error(failed[run_id])
            continue
        own = scale if run_id in models else None
        _row(found[run_id], heats[run_id], pixels, look, own, row, labels[run_id], first=position == 0)
    st.caption(RESEARCH)
    st.session_state["_explain_look"] = look


def _look(found: dict[str, Map]) -> tuple[Look, bool]:
    """Opacity, colours and the rest, kept in the URL."""
    names = [record.name for record in overlay.COLOUR_MAPS]
    words = {record.name: record.label for record in overlay.COLOUR_MAPS}
    with st.container(horizontal=True, gap="medium", vertical_alignment="bottom", key="explain_look"):
        opacity = st.slider(
            "Opacity", 0, 100, 50, 5, format="%d%%", key="opacity", bind="query-params", width=190
        )
        colour = _colours(names, words)
        contour = st.slider(
            "Outline of the top", 0, 50, 0, 5, format="%d%%", key="contour", bind="query-params", width=160,
            help="A line around the hottest share of the image; 0 draws none.",
        )  # fmt: skip
        zoom = _zoom()
        signed = st.toggle(
            "Signed",
            key="signed",
            bind="query-params",
            help="Evidence for (orange) and against (blue) the target.",
        )
        shared = len(found) > 1 and st.toggle(
            "One scale", key="scale", bind="query-params",
            help="One scale for all models, so that weak maps look weak. Off: each map fills its own scale.",
        )  # fmt: skip
    centre = (0.5, 0.5)
    if zoom > 1:
        with st.container(horizontal=True, gap="medium"):
            x = st.slider("Left to right", 0, 100, 50, 5, key="zoom_x", width=260, bind="query-params")
            y = st.slider("Top to bottom", 0, 100, 50, 5, key="zoom_y", width=260, bind="query-params")
        centre = (x / 100, y / 100)
    look = Look(opacity / 100, colour, contour / 100, bool(signed), zoom, centre)
    return look, bool(shared)


def _colours(names: Sequence[str], words: dict[str, str]) -> str:
    """The colour map; by its name in the URL (a bound selectbox would write the label)."""
    selection.choice_from_url("colours", names, "colours", names[0])
    st.selectbox("Colours", names, key="colours", format_func=lambda one: words[one], width=190)
    selection.choice_to_url("colours", "colours", names[0])
    return st.session_state["colours"]


def _zoom() -> float:
    """How much nearer all three pictures are."""
    steps = ["1", "2", "4"]
    selection.choice_from_url("zoom", steps, "zoom", "1")
    st.segmented_control("Zoom", steps, key="zoom", required=True, format_func=lambda one: f"{one}×")
    selection.choice_to_url("zoom", "zoom", "1")
    return float(st.session_state["zoom"] or 1)


def _row_head(run_id: str, label: str, colour: str, found: Map | None, row: pd.Series) -> None:
    summary = next((one for one in cached.summaries() if one.id == run_id), None)
    leak = ""
    if summary is not None and summary.audit.get("level") == "leak":
        leak = widgets.leakage_html(summary.audit, short=True)
    words = ""
    if found is not None:
        right = found.predicted == row["label"]
        mark = widgets.icon("check" if right else "close") if row["label"] else ""
        words = f"{mark} {widgets.plain(explain_view.verdict(found, row['label']))}"
        classes = list(found.classes)
        words += f' <span class="bh-muted">· P({widgets.plain(classes[-1])}) = {float(found.probabilities[-1]):.3f}</span>'
    st.html(
        f'<div class="bh-row bh-num"><span class="bh-chip"><span class="bh-dot" style="background:{colour}"></span>'
        f"<b>{widgets.plain(label)}</b></span><span>{words}</span>{leak}</div>"
    )


def _row(found: Map, heat, pixels, look: Look, scale, row: pd.Series, label: str, first: bool) -> None:
    """Image, map and overlay (an ensemble's disagreement beside them)."""
    shown = explain_view.pictures(pixels, heat, look, row["magnification"], scale)
    target = found.target
    alt = gallery.alt_of(row)
    verdict = explain_view.verdict(found, row["label"])
    columns = st.columns(4 if isinstance(found, EnsembleMap) else 3, gap="small")
    columns[0].image(shown.image, alt=alt, width="stretch")
    columns[1].image(
        shown.heat, alt=f"Map of {label} for {target}: brighter is more evidence", width="stretch"
    )
    columns[2].image(shown.overlay, alt=f"{alt}. Overlay of {label} for {target}; {verdict}", width="stretch")
    if isinstance(found, EnsembleMap):
        spread = explain_view.pictures(pixels, found.spread, look, row["magnification"])
        columns[3].image(
            spread.overlay, alt=f"Where the {len(found.members)} members disagree", width="stretch"
        )
    if first:
        words = [
            f"Image{_width(pixels, row['magnification'], look)}",
            f"Map: evidence for {'and against ' if look.signed else ''}{target}",
            "Overlay",
        ]
        if isinstance(found, EnsembleMap):
            words.append("Where members disagree (SD)")
        for column, text in zip(columns, words, strict=False):
            column.caption(text)
    if found.is_empty:
        st.caption(f"Nothing in this image speaks for {widgets.escaped(target)}: the map is zero everywhere.")


def _width(pixels, magnification: str, look: Look) -> str:
    """`, 138 µm wide`: the scale bar in words, legible at any size."""
    scale = overlay.MICRONS_PER_PIXEL.get(magnification)
    return f", {pixels.shape[1] * scale / max(look.zoom, 1):.0f} µm wide" if scale else ""


def below(
    ids: Sequence[str],
    labels: dict[str, str],
    table: pd.DataFrame,
    rows: pd.DataFrame,
    row: pd.Series,
    found: dict[str, Map],
    asked: dict[str, str],
) -> None:
    """One of the views below the maps."""
    key = "explain_view"
    selection.choice_from_url("view", explain_more.VIEWS, key, explain_more.VIEWS[0])
    view = st.segmented_control(
        "Below", explain_more.VIEWS, key=key, required=True, label_visibility="collapsed"
    )
    selection.choice_to_url("view", key, explain_more.VIEWS[0])
    files = paths(ids)
    look = st.session_state.get("_explain_look", Look())
    if view == "Patient":
        explain_more.patient(ids[0], labels[ids[0]], table, row, files, asked)
    elif view == "Grid":
        explain_more.grid(ids, labels, rows, files, asked)
    elif view == "Trust":
        explain_more.trust(ids[0], labels[ids[0]], rows, files, asked)
    else:
        explain_more.downloads(found, labels, row, files[row["image_id"]], look)


def notes(found: dict[str, Map], labels: dict[str, str]) -> None:
    """What to know when reading the probabilities."""
    lines = []
    for run_id in found:
        if "val" in cached.run(run_id).predicted_splits():
            error = ensemble_view.single_score(run_id, "val", "ece")
            if error == error:
                lines.append(f"{labels[run_id]}: calibration error on validation {error:.3f}")
    if lines:
        st.caption(widgets.escaped("Probabilities are not calibrated. " + "; ".join(lines) + "."))


def table_of(ids: Sequence[str], split: str) -> tuple[pd.DataFrame, list[str], str]:
    """The images the runs predicted, restricted to those whose file is known."""
    table, inside, note = explain_view.opinions(ids, split)
    return table, inside, note


def paths(ids: Sequence[str]) -> dict[str, str]:
    """image_id -> file, from the runs' manifests and those of ensembles' members."""
    every: list[str] = []
    for run_id in ids:
        every.append(run_id)
        try:
            every += list(cached.run(run_id).config().details.get("members") or ())
        except EngineError:
            continue
    return compare_view.image_paths(every)
