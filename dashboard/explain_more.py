"""Below the maps of one image: the same case elsewhere, many images at once, whether to believe it, files."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import streamlit as st
from PIL import Image

from dashboard import cached, explain_view, gallery, widgets
from dashboard.explain_view import Look
from engine.data.images import thumbnail
from engine.errors import EngineError
from engine.explain import export, methods, overlay
from engine.explain.ensemble_map import EnsembleMap
from engine.explain.montage import montage, patient_strip
from engine.explain.runs import Map
from engine.report import figures

VIEWS = ("Patient", "Grid", "Trust", "Files")
GRID_IMAGES = 6
TRUST_IMAGES = 8


# --- the same patient ----------------------------------------------------------------------------------
def patient(
    run_id: str, label: str, table: pd.DataFrame, row: pd.Series, paths: Mapping[str, str], question: dict
) -> None:
    """One case across its slides and magnifications: overlay and prediction of the first model each."""
    if not row["case"]:
        st.info("The case of this image is not known.", icon=":material/help:")
        return
    strip = patient_strip(table, row["case"], per_group=2)
    st.caption(
        widgets.escaped(
            f"Case {row['case']}: {widgets.counted(strip['slide'].nunique(), 'slide')}, at most two images of each slide and magnification, by {label}."
        )
    )
    if not st.toggle(
        "Make their maps", key="explain_patient", help=f"{len(strip)} maps; stored ones are quick."
    ):
        return
    bar = st.progress(0.0)
    columns = st.columns(4, gap="small")
    for position, (_, one) in enumerate(strip.iterrows()):
        with columns[position % 4]:
            _small(run_id, one, paths.get(one["image_id"], ""), question)
        bar.progress((position + 1) / len(strip), f"{position + 1} of {len(strip)}")
    bar.empty()


def _small(run_id: str, row: pd.Series, path: str, question: dict) -> None:
    """An overlay with its prediction."""
    try:
        if not path:
            raise EngineError("No file is known for this image")
        found = explain_view.map_of(run_id, path, **question)
        pixels = explain_view.pixels_of(path)
        picture = thumbnail_of(overlay.overlay(pixels, found.heat))
        verdict = explain_view.verdict(found, row["label"])
        st.image(picture, alt=f"{gallery.alt_of(row)}. Overlay; {verdict}", width="stretch")
        st.caption(widgets.escaped(f"{row['magnification']} · {row['slide']}  \n{verdict}"))
    except EngineError as error:
        st.caption(widgets.escaped(f"{row['image_id']}: {error}"))


def thumbnail_of(picture: np.ndarray, width: int = 320) -> bytes:
    """A picture made small for the screen."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, format="PNG", compress_level=1)
    return explain_view.jpeg(thumbnail(buffer.getvalue(), width))


# --- models x images -----------------------------------------------------------------------------------
def grid(
    ids: Sequence[str],
    labels: Mapping[str, str],
    rows: pd.DataFrame,
    paths: Mapping[str, str],
    question: dict,
) -> None:
    """The study's montage: a row per model, a column per image, those the models disagree on first."""
    known = rows[rows["image_id"].isin(paths)]
    spread = known[[name for name in known.columns if name.startswith("right_")]].mean(axis=1)
    ranked = known.assign(_doubt=(spread - 0.5).abs()).sort_values("_doubt", kind="stable")
    shown = ranked.head(GRID_IMAGES)
    st.caption(
        f"The {len(shown)} images of this filter on which the models' answers differ most, then sorted by the spread of their probabilities."
    )
    if not st.toggle(
        "Make their maps", key="explain_grid", help=f"{len(shown) * len(ids)} maps; stored ones are quick."
    ):
        return
    bar = st.progress(0.0)

    def report(done: int, total: int) -> None:
        bar.progress(done / total, f"{done} of {total} maps")

    made = montage(
        [cached.run(run_id) for run_id in ids],
        [Path(paths[name]) for name in shown["image_id"]],
        load=explain_view.load,
        progress=report,
        method=question["method"],
        target=question["target"],
        layer=question["layer"] or None,
    )
    bar.empty()
    order = made.order()
    head = st.columns(len(order), gap="small")
    for column, k in zip(head, order, strict=True):
        row = shown.iloc[k]
        doubt = made.disagreement[k]
        column.caption(
            widgets.escaped(
                f"{row['image_id'][:34]}  \ntruly {row['label']} · spread {widgets.number(doubt, 2)}"
            )
        )
    for r, run_id in enumerate(made.runs):
        st.markdown(f"**{widgets.escaped(labels[run_id])}**")
        for column, k in zip(st.columns(len(order), gap="small"), order, strict=True):
            cell, row = made.cells[r][k], shown.iloc[k]
            if isinstance(cell, EngineError):
                column.caption(widgets.escaped(cell.message))
                continue
            picture = overlay.overlay(explain_view.pixels_of(str(made.sources[k])), cell.heat)
            verdict = explain_view.verdict(cell, row["label"])
            column.image(
                thumbnail_of(picture, 240),
                alt=f"{row['image_id']} by {labels[run_id]}: {verdict}",
                width="stretch",
            )
            column.caption(widgets.escaped(verdict))


# --- an ensemble's members -----------------------------------------------------------------------------
def overlap(found: Map, labels: Mapping[str, str]) -> None:
    """How much the hottest parts of an ensemble's members have in common."""
    if not isinstance(found, EnsembleMap) or len(found.members) < 2:
        return
    names = [labels.get(run_id, run_id) for run_id in found.members]
    fig = figures.agreement_map(found.overlap, names, "Overlap of the hottest parts", dark=widgets.is_dark())
    st.plotly_chart(
        widgets.themed(fig), theme=None, width="content", key="explain_overlap",
        alt=f"Overlap of the top {found.top:.0%} of each pair of {len(names)} members.",
    )  # fmt: skip
    st.caption(
        f"Dice overlap of the top {found.top:.0%} per pair of members, mean {widgets.number(found.agreement, 2)}; unrelated maps share about {found.top:.2f}."
    )


# --- can it be believed --------------------------------------------------------------------------------
def trust(run_id: str, label: str, rows: pd.DataFrame, paths: Mapping[str, str], question: dict) -> None:
    """Faithfulness of this method against random weights over a sample of the filter, with intervals by case."""
    from engine.explain.trust import MEASURES

    if cached.run(run_id).config().kind != "train":
        st.info("Measured for one model at a time: tick a trained run first.", icon=":material/help:")
        return
    known = rows[rows["image_id"].isin(paths)]
    sample = known.iloc[np.unique(np.linspace(0, max(0, len(known) - 1), TRUST_IMAGES).round().astype(int))]
    st.caption(
        widgets.escaped(
            f"{len(sample)} images spread over this filter, by {label}: does the probability fall when the pixels the map calls relevant go, "
            "more than for a map with random weights? A method that does not beat the control explains nothing."
        )
    )
    key = (run_id, question["method"], question["layer"], tuple(sample["image_id"]))
    kept = st.session_state.setdefault("_trust", {})
    if key not in kept:
        if not st.button("Measure", key="explain_measure", icon=":material/science:"):
            return
        kept[key] = _measured(run_id, sample, paths, question)
    found = kept[key]
    titles = {measure.name: measure for measure in MEASURES}
    lines = []
    for one in found:
        measure = titles[one.measure]
        better = {1: "more is better", -1: "less is better", 0: "compare with its area"}[measure.better]
        beats = {True: "yes", False: "no", None: ""}[one.beats_control]
        lines.append(
            {
                "Method": methods.find_method(one.method).label,
                "Measure": f"{measure.label} ({better})",
                "Mean": str(one.mean),
                "Minus random": one.difference.short if one.difference is not None else "",
                "Beats random": beats,
            }
        )
    st.dataframe(pd.DataFrame(lines), hide_index=True, key="explain_trust")
    st.caption(" ".join(f"{measure.label}: {measure.help}" for measure in MEASURES))


def _measured(run_id: str, sample: pd.DataFrame, paths: Mapping[str, str], question: dict):
    from engine.explain.faithfulness import SampleImage, measure_sample
    from engine.explain.trust import CONTROL, summarise

    loaded = explain_view.load(cached.run(run_id))
    images = (
        SampleImage(
            row["image_id"], explain_view.pixels_of(paths[row["image_id"]]), row["case"], row["label"]
        )
        for _, row in sample.iterrows()
    )
    bar = st.progress(0.0, "Measuring ...")

    def report(done: int) -> None:
        bar.progress(done / len(sample), f"{done} of {len(sample)} images")

    asked = tuple(dict.fromkeys((question["method"], CONTROL)))
    table = measure_sample(
        loaded,
        images,
        asked,
        layer=question["layer"] or None,
        progress=report,
    )
    bar.empty()
    return summarise(table)


# --- files ---------------------------------------------------------------------------------------------
def downloads(
    found: Mapping[str, Map], labels: Mapping[str, str], row: pd.Series, path: str, look: Look
) -> None:
    """Overlay at native pixels, the raw map, an outline for QuPath, and a page for a paper."""
    stem = row["image_id"].rpartition(".")[0] or row["image_id"]
    pixels = explain_view.pixels_of(path)
    for run_id, one in found.items():
        with st.container(horizontal=True, gap="small", vertical_alignment="center"):
            st.markdown(f"**{widgets.escaped(labels[run_id])}**")
            _file(
                "Overlay (PNG)",
                lambda one=one: _overlay_png(pixels, one, look),
                f"{stem}_{run_id[-4:]}.png",
                "image/png",
                f"png_{run_id}",
            )
            _file(
                "Raw map (.npy)",
                lambda one=one: export.raw_npy(one),
                f"{stem}_{run_id[-4:]}.npy",
                "application/octet-stream",
                f"npy_{run_id}",
            )
            _file(
                "Outline (GeoJSON)",
                lambda one=one: export.geojson_bytes(one, look.contour or overlay.TOP_SHARE),
                f"{stem}_{run_id[-4:]}.geojson",
                "application/geo+json",
                f"geo_{run_id}",
            )
    if found:
        maps = tuple((labels[run_id], one) for run_id, one in found.items())
        line = export.FigureRow(pixels, row["image_id"], maps, row["label"], row["magnification"])
        with st.container(horizontal=True, gap="small"):
            for form in ("pdf", "svg"):
                _file(
                    f"Figure page ({form.upper()})",
                    lambda form=form: export.figure_page(
                        [line], form=form, opacity=look.opacity, colour_map=look.colour_map, contour_top=look.contour or None
                    ),
                    f"{stem}.{form}", "application/pdf" if form == "pdf" else "image/svg+xml", f"page_{form}",
                )  # fmt: skip
    st.caption(
        "The outline opens in QuPath (File, Import objects). Files carry what they show: method, target, run."
    )


def _file(label: str, data, name: str, mime: str, key: str) -> None:
    st.download_button(
        label,
        data,
        file_name=name,
        mime=mime,
        key=f"explain_{key}",
        on_click="ignore",
        icon=":material/download:",
    )


def _overlay_png(pixels: np.ndarray, found: Map, look: Look) -> bytes:
    heat = explain_view.heat_of(found, look.signed)
    colours = "signed" if look.signed else look.colour_map
    picture = overlay.overlay(pixels, heat, look.opacity, colours, contour_top=look.contour or None)
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, format="PNG")
    return buffer.getvalue()
