"""Below the maps of one image: its slide, its case elsewhere, many images at once, members, files."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import streamlit as st
from PIL import Image

from dashboard import cached, explain_view, gallery, selection, widgets
from dashboard.explain_view import Look
from engine.data.images import thumbnail
from engine.errors import EngineError
from engine.explain import export, overlay
from engine.explain.ensemble_map import EnsembleMap, overlap_matrix
from engine.explain.explanation import Explanation
from engine.explain.montage import montage, patient_strip
from engine.explain.runs import Map
from engine.report import ensemble_figures

VIEWS = ("Slide", "Patient", "Grid", "Members", "Trust", "Files")
GRID_IMAGES = 6
SIBLINGS = 12


# --- the same slide ------------------------------------------------------------------------------------
def slide(table: pd.DataFrame, row: pd.Series, paths: Mapping[str, str], run_id: str) -> None:
    """The other images of the slide, a click opens one."""
    found = explain_view.siblings(table, row["image_id"])
    where = f"slide {row['slide']}" if row["slide"] else f"case {row['case']}"
    if found.empty:
        st.info("No other image of this slide is in this part of the data.", icon=":material/filter_none:")
        return
    shown = found.head(SIBLINGS)
    more = f", the first {SIBLINGS}" if len(found) > SIBLINGS else ""
    st.caption(widgets.escaped(f"{widgets.counted(len(found), 'other image')} of {where}{more}."))
    several = found["magnification"].nunique() > 1
    for start in range(0, len(shown), 6):
        part = shown.iloc[start : start + 6]
        for column, (_, one) in zip(st.columns(6, gap="small"), part.iterrows(), strict=False):
            with column:
                gallery.picture(paths.get(one["image_id"], ""), gallery.alt_of(one), 240)
                words = [one["magnification"]] if several else []
                if f"predicted_{run_id}" in one:
                    words.append(f"called {one[f'predicted_{run_id}']}")
                    words.append("" if one[f"right_{run_id}"] else "(wrong)")
                st.button(
                    widgets.escaped(" ".join(filter(None, words)) or "Open"),
                    icon=":material/open_in_full:",
                    key=f"explain_sibling_{one['image_id']}",
                    help=widgets.escaped(one["image_id"]),
                    type="tertiary",
                    on_click=selection.write,
                    kwargs={"image": one["image_id"]},
                )


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
        picture = thumbnail_of(explain_view.overlaid(pixels, found, _look()))
        verdict = explain_view.verdict(found, row["label"])
        st.image(picture, alt=f"{gallery.alt_of(row)}. Overlay; {verdict}", width="stretch")
        st.caption(widgets.escaped(f"{row['magnification']} · {row['slide']}  \n{verdict}"))
    except EngineError as error:
        st.caption(widgets.escaped(f"{row['image_id']}: {error}"))


def _look() -> Look:
    """As the reader has it above."""
    return st.session_state.get("_explain_look", Look())


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
    told = [run_id for run_id in ids if f"predicted_{run_id}" in known.columns]
    classes = cached.run(ids[0]).config().classes
    doubt = explain_view.spread(known, told, classes)
    shown = known.iloc[np.argsort(-doubt, kind="stable")].head(GRID_IMAGES)
    st.caption(
        f"The {len(shown)} of {widgets.counted(len(known), 'image')} of this filter on which the models' probabilities differ most, greatest difference first."
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
        with column:
            st.button(
                widgets.escaped(row["image_id"].rpartition(".")[0][-18:]),
                key=f"explain_grid_{row['image_id']}",
                help=widgets.escaped(f"Open {row['image_id']}"),
                type="tertiary",
                on_click=selection.write,
                kwargs={"image": row["image_id"]},
            )
            st.caption(
                widgets.escaped(f"truly {row['label'] or 'unknown'} · spread {widgets.number(doubt, 2)}")
            )
    lines = []
    for k in order:
        cells = zip(made.runs, (line[k] for line in made.cells), strict=True)
        maps = tuple((labels[run_id], cell) for run_id, cell in cells if not isinstance(cell, EngineError))
        row = shown.iloc[k]
        pixels = explain_view.pixels_of(str(made.sources[k]))
        lines.append(export.FigureRow(pixels, row["image_id"], maps, row["label"], row["magnification"]))
    _pages(lines, _look(), "montage")
    for r, run_id in enumerate(made.runs):
        st.markdown(f"**{widgets.escaped(labels[run_id])}**")
        for column, k in zip(st.columns(len(order), gap="small"), order, strict=True):
            cell, row = made.cells[r][k], shown.iloc[k]
            if isinstance(cell, EngineError):
                column.caption(widgets.escaped(cell.message))
                continue
            pixels = explain_view.pixels_of(str(made.sources[k]))
            picture = explain_view.overlaid(pixels, cell, _look())
            verdict = explain_view.verdict(cell, row["label"])
            column.image(
                thumbnail_of(picture, 240),
                alt=f"{row['image_id']} by {labels[run_id]}: {verdict}",
                width="stretch",
            )
            column.caption(widgets.escaped(verdict))


# --- several models on one image -----------------------------------------------------------------------
def members(found: Mapping[str, Map], labels: Mapping[str, str], path: str, look: Look) -> None:
    """The maps of an ensemble's members, or of the ticked models, and how much their hottest parts share."""
    every = widgets.run_labels(cached.summaries())
    fused = [run_id for run_id, one in found.items() if isinstance(one, EnsembleMap)]
    for run_id in fused:
        one = found[run_id]
        assert isinstance(one, EnsembleMap)
        st.markdown(f"**{widgets.escaped(labels[run_id])}**")
        names = [every.get(member, member) for member in one.members]
        captions = [f"weight {weight:.2f}" for weight in one.weights]
        _together(one.explanations, names, captions, one.overlap, path, look, f"explain_overlap_{run_id}")
    alone = {run_id: one for run_id, one in found.items() if isinstance(one, Explanation)}
    if len(alone) > 1:
        if fused:
            st.markdown("**Ticked models**")
        matrix = overlap_matrix([one.heat for one in alone.values()])
        names = [labels[run_id] for run_id in alone]
        _together(list(alone.values()), names, [""] * len(names), matrix, path, look, "explain_overlap")
    elif not fused:
        st.info(
            "Tick a second model, or an ensemble, to see what their maps have in common.",
            icon=":material/compare:",
        )


def _together(
    maps: Sequence[Explanation],
    names: Sequence[str],
    captions: Sequence[str],
    overlap: np.ndarray,
    path: str,
    look: Look,
    key: str,
) -> None:
    pixels = explain_view.pixels_of(path)
    for start in range(0, len(maps), 5):
        for k, column in zip(
            range(start, min(start + 5, len(maps))), st.columns(5, gap="small"), strict=False
        ):
            picture = explain_view.overlaid(pixels, maps[k], look)
            said = f"{maps[k].predicted} {maps[k].probability(maps[k].predicted):.2f}"
            column.image(
                thumbnail_of(picture, 240),
                alt=f"Overlay of {names[k]} for {maps[k].target}: {said}",
                width="stretch",
            )
            words = " · ".join(part for part in (said, captions[k]) if part)
            column.caption(widgets.escaped(f"{names[k]}  \n{words}"))
    if len(maps) < 2:
        return
    if len(maps) > 2:
        fig = ensemble_figures.agreement_map(overlap, names, "", dark=widgets.is_dark())
        st.plotly_chart(
            widgets.themed(fig), theme=None, width="content", key=key,
            alt=f"Overlap of the top {overlay.TOP_SHARE:.0%} of each pair of {len(names)} models.",
        )  # fmt: skip
    pairs = overlap[np.triu_indices(len(maps), 1)]
    mean = float(np.nanmean(pairs)) if np.isfinite(pairs).any() else float("nan")
    st.caption(
        f"Dice overlap of the top {overlay.TOP_SHARE:.0%}{' per pair, mean' if len(maps) > 2 else ' of both'} "
        f"{widgets.number(mean, 2)}; "
        f"unrelated maps share about {overlay.TOP_SHARE:.2f}, the same map 1."
    )


# --- files ---------------------------------------------------------------------------------------------
def downloads(
    found: Mapping[str, Map], labels: Mapping[str, str], row: pd.Series, path: str, look: Look
) -> None:
    """Overlay at native pixels, the raw map, an outline for QuPath, and a page for a paper."""
    stem = row["image_id"].rpartition(".")[0] or row["image_id"]
    pixels = explain_view.pixels_of(path)
    share = look.contour or overlay.TOP_SHARE
    for run_id, one in found.items():
        facts, name = export.about(one, run_id), f"{stem}_{run_id[-4:]}"
        with st.container(horizontal=True, gap="small", vertical_alignment="center"):
            st.markdown(f"**{widgets.escaped(labels[run_id])}**")
            _file("Overlay (PNG)", partial(_overlay_png, pixels, one, look, facts), f"{name}.png")
            _file("Raw map (.npy)", partial(export.raw_npy, one), f"{name}.npy")
            _file("Outline (GeoJSON)", partial(export.geojson_bytes, one, share, facts), f"{name}.geojson")
    if found:
        maps = tuple((labels[run_id], one) for run_id, one in found.items())
        _pages(
            [export.FigureRow(pixels, row["image_id"], maps, row["label"], row["magnification"])], look, stem
        )
    st.caption(
        "At the file's own pixels. PNG and outline carry run, method, layer and target; the outline opens in QuPath "
        "(File, Import objects) and encloses the hottest "
        f"{share:.0%}."
    )


def _pages(lines: list[export.FigureRow], look: Look, stem: str) -> None:
    """A figure page as PDF and as SVG."""
    with st.container(horizontal=True, gap="small"):
        for form in ("pdf", "svg"):
            make = partial(
                export.figure_page,
                lines,
                form=form,
                style=export.Style(look.opacity, look.colour_map, look.contour or None, look.even),
            )
            _file(f"Figure page ({form.upper()})", make, f"{stem}.{form}")


_KINDS = {
    "png": "image/png",
    "npy": "application/octet-stream",
    "geojson": "application/geo+json",
    "pdf": "application/pdf",
    "svg": "image/svg+xml",
}


def _file(label: str, make: Callable[[], bytes], name: str) -> None:
    """A button for a file that is made when it is asked for."""
    st.download_button(
        label,
        make,
        file_name=name,
        mime=_KINDS[name.rpartition(".")[2]],
        key=f"explain_file_{name}",
        on_click="ignore",
        icon=":material/download:",
    )


def _overlay_png(pixels: np.ndarray, found: Map, look: Look, facts: dict[str, str]) -> bytes:
    style = export.Style(look.opacity, look.colours, look.contour or None, look.even)
    return export.overlay_png(pixels, explain_view.heat_of(found, look.signed), style, facts)
