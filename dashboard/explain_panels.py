"""The parts of the explain page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import streamlit as st

from dashboard import (
    cached,
    compare_panels,
    compare_view,
    explain_more,
    explain_trust,
    explain_view,
    gallery,
    selection,
    synced_view,
    tick_list,
    widgets,
)
from dashboard.explain_view import BUCKETS, Filter, Judgement, Look
from engine.analysis.operating import Rule
from engine.data.manifest import order_magnifications
from engine.errors import EngineError
from engine.explain import methods, overlay
from engine.explain.ensemble_map import EnsembleMap
from engine.explain.glass import on_glass
from engine.explain.runs import Map
from engine.runs import catalog
from engine.runs.folder import Summary

KEY = "explain_runs"
VIEWER = "explain_viewer"
MOST_RUNS = 10
RESEARCH = "Research use only. A map shows what the network used, not where the disease is."


def say_unexplained(summaries: Sequence[Summary], able: Sequence[str]) -> None:
    """Say why runs of the link that are here have no maps, and take them out of the link."""
    asked = selection.read_list("runs")
    known = {summary.id: summary for summary in summaries}
    without = [known[run_id] for run_id in asked if run_id in known and run_id not in able]
    for summary in without:
        joined = summary.config.kind == "ensemble" and summary.config.details.get("members")
        why = (
            "not every member has a network whose map can be joined with those of the others (a fusion's cannot); tick its members instead"
            if joined
            else "it has no network of its own"
            if summary.config.kind in ("import", "pooled", "tta")
            else "its weights are not there"
        )
        st.info(f"No map can be made of {widgets.escaped(summary.name)}: {why}.", icon=":material/blur_off:")
    if without:
        gone = {summary.id for summary in without}
        selection.write(runs=",".join(run_id for run_id in asked if run_id not in gone) or None)


# --- left ----------------------------------------------------------------------------------------------
def choose_runs(summaries: Sequence[Summary]) -> list[str]:
    """The runs whose maps are shown, one row each."""
    st.markdown(f"**Models** · {len(tick_list.chosen(KEY))} of {len(summaries)}")
    tick_list.draw(compare_panels.run_items(summaries), KEY, height=330)
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


POINTS = {
    "": "the most probable class",
    "youden": "Youden's index on validation",
    "sensitivity:0.95": "sensitivity of 95% on validation",
    "specificity:0.95": "specificity of 95% on validation",
}


def operating_point(classes: Sequence[str]) -> Rule | None:
    """From which probability on an image is called malignant: the parameter that the compare page has too."""
    if len(classes) != 2:
        return None
    asked = compare_view.rule_of(selection.read("threshold"))
    options = dict(POINTS)
    if asked.text not in options:  # chosen on the compare page
        options[asked.text] = asked.words
    chosen = _pick("threshold", f"Called {classes[-1]} by", list(options), "", options)
    return compare_view.rule_of(chosen) if chosen else None


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
    ids: Sequence[str], path: str, method: str, target: str, layer: str
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


@dataclass(frozen=True)
class Shown:
    """What is on the page: the image, its row of `opinions`, each run's map and what the run said of it."""

    row: pd.Series
    path: str
    labels: dict[str, str]
    found: dict[str, Map]
    failed: dict[str, EngineError]
    judged: dict[str, Judgement]


@st.fragment
def pictures(shown: Shown) -> None:
    """The rows of pictures and the controls that only change how they look: nothing is computed again."""
    look, shared = _look(len(shown.found) > 1)
    for run_id, error in shown.failed.items():
        st.markdown(f"**{widgets.escaped(shown.labels[run_id])}**")
        widgets.show_error(error)
    if not shown.found:
        return
    heats = {run_id: explain_view.heat_of(one, look.signed) for run_id, one in shown.found.items()}
    models = [heat for run_id, heat in heats.items() if not isinstance(shown.found[run_id], EnsembleMap)]
    scale = explain_view.shared_scale(models, look.signed) if shared and models else None
    files = {"image": explain_view.picture_of(shown.path)}
    rows = []
    for run_id, found in shown.found.items():
        own = None if isinstance(found, EnsembleMap) else scale
        files[run_id] = explain_view.coloured(heats[run_id], look, own)
        if not look.even:
            files[f"{run_id} over"] = explain_view.veiled(heats[run_id], look, own)
        if isinstance(found, EnsembleMap):
            files[f"{run_id} spread"] = explain_view.veiled(found.spread, replace(look, signed=False))
        rows.append(_row(shown, run_id, heats[run_id], look))
    pixels = explain_view.pixels_of(shown.path)
    image_id = str(shown.row["image_id"])
    if st.session_state.get("_explain_image", image_id) != image_id:
        selection.write(zoom=None)  # another image starts whole
    st.session_state["_explain_image"] = image_id
    synced_view.draw(
        rows,
        files,
        image_id=image_id,
        size=pixels.shape[:2],
        microns_per_pixel=overlay.MICRONS_PER_PIXEL.get(shown.row["magnification"]),
        legend=explain_view.legend(look, scale),
        view=synced_view.parse_view(selection.read("zoom")),
        on_view=_view_to_url,
        key=VIEWER,
    )
    st.caption(RESEARCH)
    st.session_state["_explain_look"] = look


def _view_to_url() -> None:
    """The part of the image that is seen, in the link."""
    view = synced_view.seen(VIEWER, st.session_state.get("_explain_image", ""))
    if view is not None:
        selection.write(zoom=synced_view.view_text(view) or None)


def _look(many: bool) -> tuple[Look, bool]:
    """Opacity, colours and the rest, kept in the URL; whether all models share a scale."""
    names = [record.name for record in overlay.COLOUR_MAPS]
    words = {record.name: record.label for record in overlay.COLOUR_MAPS}
    with st.container(horizontal=True, gap="small", vertical_alignment="bottom", key="explain_look"):
        opacity = st.slider(
            "Opacity", 0, 100, round(100 * overlay.OPACITY), 5, format="%d%%", key="opacity",
            bind="query-params", width=115,
            help="Of the colours where the evidence is greatest; they fade with it.",
        )  # fmt: skip
        even = st.toggle(
            "Even", key="even", bind="query-params",
            help="The same opacity everywhere, as in most papers: tissue without evidence is darkened or tinted too.",
        )  # fmt: skip
        colour = _colours(names, words)
        contour = st.slider(
            "Outline top", 0, 50, 0, 5, format="%d%%", key="contour", bind="query-params", width=115,
            help="A line around the hottest share of the image; 0 draws none.",
        )  # fmt: skip
        signed = st.toggle(
            "Signed",
            key="signed",
            bind="query-params",
            help="Evidence for (orange) and against (blue) the target.",
        )
        shared = many and st.toggle(
            "One scale", key="scale", bind="query-params",
            help="One scale for all models, so that weak maps look weak. Off: each map fills its own scale.",
        )  # fmt: skip
    return Look(opacity / 100, colour, contour / 100, bool(signed), bool(even)), bool(shared)


def _colours(names: Sequence[str], words: dict[str, str]) -> str:
    """The colour map; by its name in the URL (a bound selectbox would write the label)."""
    selection.choice_from_url("colours", names, "colours", names[0])
    st.selectbox("Colours", names, key="colours", format_func=lambda one: words[one], width=135)
    selection.choice_to_url("colours", "colours", names[0])
    return st.session_state["colours"]


def _row(shown: Shown, run_id: str, heat: np.ndarray, look: Look) -> synced_view.Row:
    """Image, map and overlay (an ensemble's disagreement beside them) with what the run said."""
    found, judged, label = shown.found[run_id], shown.judged[run_id], shown.labels[run_id]
    rings = explain_view.outlines(heat, look)
    image_alt = gallery.alt_of(shown.row)
    panels = [
        synced_view.Panel("Image", image_alt, (("image", 1.0),), bar=True),
        synced_view.Panel(
            f"Map: evidence for {'and against ' if look.signed else ''}{found.target}",
            f"Map of {label} for {found.target}: brighter is more evidence",
            ((run_id, 1.0),),
            rings,
        ),
        synced_view.Panel(
            "Overlay",
            f"{image_alt}. Overlay of {label} for {found.target}; {judged.words}",
            (("image", 1.0), (run_id if look.even else f"{run_id} over", look.opacity)),
            rings,
            bar=True,
        ),
    ]
    if isinstance(found, EnsembleMap):
        panels.append(
            synced_view.Panel(
                "Where members disagree (SD)",
                f"Where the {len(found.members)} members disagree",
                (("image", 1.0), (f"{run_id} spread", look.opacity)),
            )
        )
    audit = _audit_of(run_id)
    leaks = audit.get("level") == "leak"
    return synced_view.Row(
        label=label,
        colour=widgets.run_colours().get(run_id, "#888888"),
        verdict=judged.words,
        panels=tuple(panels),
        right=judged.right,
        probability=judged.positive,
        probability_words=_probability_words(found, judged),
        threshold=0.5 if judged.threshold is None else judged.threshold,
        leaks="\u26a0 Leaks patients" if leaks else "",
        leaks_why=str(audit.get("verdict") or ""),
        note=_note(shown, run_id),
    )


def _audit_of(run_id: str) -> dict[str, Any]:
    return next((one.audit for one in cached.summaries() if one.id == run_id), {})


def _stain_of(run_id: str) -> str:
    stain = next((one.config.model.stain for one in cached.summaries() if one.id == run_id), "none")
    return "" if stain == "none" else stain


def _probability_words(found: Map, judged: Judgement) -> str:
    """`P(malignant) 0.831, threshold 0.42`."""
    if judged.positive is None:
        return ""
    threshold = "0.50" if judged.threshold is None else f"{judged.threshold:.3f}"
    return f"P({found.classes[-1]}) {judged.positive:.3f} · threshold {threshold}"


def _note(shown: Shown, run_id: str) -> str:
    """What the probability has meant on validation, and how much of the map lies on glass."""
    found, judged = shown.found[run_id], shown.judged[run_id]
    parts = []
    if judged.positive is not None:
        meant = explain_view.calibration(run_id, judged.positive)
        parts.append(
            f"Calibration: {meant}." if meant else "Calibration: not known, no validation predictions."
        )
    stain = _stain_of(run_id)
    if stain:
        parts.append(f"The network saw the image after {stain} stain normalisation.")
    if found.is_empty:
        parts.append(f"Nothing in this image speaks for {found.target}: the map is zero everywhere.")
    else:
        glass = on_glass(found.heat, explain_view.pixels_of(shown.path))
        parts.append(
            f"On glass: {glass.share:.0%} of the map, {glass.area:.0%} of the image."
            if glass.area > 0
            else "No glass in this image."
        )
    return " ".join(parts)


def below(
    ids: Sequence[str], shown: Shown, table: pd.DataFrame, rows: pd.DataFrame, asked: dict[str, str]
) -> None:
    """One of the views below the maps."""
    key = "explain_view"
    selection.choice_from_url("view", explain_more.VIEWS, key, explain_more.VIEWS[0])
    view = st.segmented_control(
        "Below", explain_more.VIEWS, key=key, required=True, label_visibility="collapsed"
    )
    selection.choice_to_url("view", key, explain_more.VIEWS[0])
    files, labels, row = paths(ids), shown.labels, shown.row
    look = st.session_state.get("_explain_look", Look())
    if view == "Slide":
        explain_more.slide(table, row, files, ids[0])
    elif view == "Patient":
        explain_more.patient(ids[0], labels[ids[0]], table, row, files, asked)
    elif view == "Grid":
        explain_more.grid(ids, labels, rows, files, asked)
    elif view == "Members":
        explain_more.members(shown.found, labels, shown.path, look)
    elif view == "Trust":
        explain_trust.draw(ids[0], labels[ids[0]], shown.found.get(ids[0]), shown.path, rows, files, asked)
    else:
        explain_more.downloads(shown.found, labels, row, files[row["image_id"]], look)


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
