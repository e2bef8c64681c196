"""The split designer: protocol, fold, seed; who is on which side; what leaks, line by line."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

import pandas as pd
import plotly.graph_objects as go
import streamlit as st

from dashboard import cached, places, selection, widgets
from engine.data.audit import Audit, audit
from engine.data.breakhis import SUBTYPES
from engine.data.manifest import SPLITS, Manifest
from engine.data.splits import PROTOCOLS, composition
from engine.errors import EngineError
from engine.report import theme
from engine.runs.config import TASKS, DataConfig, help_of
from engine.runs.launch import Prepared

BY = {"label": "Class", "subtype": "Subtype", "magnification": "Magnification"}


def section(root: str, manifest: Manifest) -> None:
    """The controls, the verdict in one line, the composition, the audit behind the verdict, and what to do next."""
    data = _controls(root, manifest)
    try:
        ready = cached.prepared(data)
    except EngineError as error:
        widgets.show_error(error)
        return
    found = _audited(root, ready)
    widgets.leakage_badge(found.as_record())
    if ready.warnings:
        st.caption("  \n".join(f":material/info: {widgets.escaped(warning)}" for warning in ready.warnings))
    _composition(manifest, ready)
    _audit(found)
    _next(root, data, ready)


def _controls(root: str, manifest: Manifest) -> DataConfig:
    available = [name for name in PROTOCOLS if name != "csv" or "split" in manifest.table.columns]
    with st.container(horizontal=True, vertical_alignment="bottom", gap="small"):
        selection.choice_from_url("protocol", available, "split_protocol", default="case")
        protocol = st.selectbox(
            "Protocol",
            available,
            format_func=lambda name: PROTOCOLS[name].label if name in PROTOCOLS else str(name),
            key="split_protocol",
            help=help_of(DataConfig, "protocol"),
            width=280,
        )
        selection.choice_to_url("protocol", "split_protocol", default="case")
        folds = [str(fold) for fold in PROTOCOLS[protocol].folds]
        selection.choice_from_url("fold", folds, "split_fold", default=folds[0])
        fold = st.segmented_control("Fold", folds, key="split_fold", required=True, disabled=len(folds) == 1)
        selection.choice_to_url("fold", "split_fold", default=folds[0])
        seed = st.number_input(
            "Seed",
            0,
            2**31 - 1,
            key="seed",
            bind="query-params",
            help=help_of(DataConfig, "split_seed"),
            width=120,
        )
        powers: Sequence[str] = ()
        if len(manifest.magnifications) > 1:
            powers = st.pills(
                "Magnifications",
                manifest.magnifications,
                selection_mode="multi",
                key="split_powers",
                help=help_of(DataConfig, "magnifications"),
            )
        task = "malignancy"
        if (manifest.table["subtype"] != "").all():
            selection.choice_from_url("task", list(TASKS), "split_task", default="malignancy")
            task = st.selectbox("Task", TASKS, key="split_task", help=help_of(DataConfig, "task"), width=140)
            selection.choice_to_url("task", "split_task", default="malignancy")
    st.caption(widgets.escaped(PROTOCOLS[protocol].help + "."))
    return DataConfig(
        root=root,
        protocol=protocol,
        fold=int(fold or folds[0]),
        split_seed=int(seed),
        magnifications=tuple(name for name in manifest.magnifications if name in powers),
        task=task,
    )


def _audited(root: str, ready: Prepared) -> Audit:
    """The audit of the table; with the images compared too, where somebody has looked for duplicates."""
    pairs = cached.duplicates(root)
    return ready.audit if pairs is None else audit(ready.manifest.table, pairs)


# --- composition -----------------------------------------------------------------------------------------
def _composition(manifest: Manifest, ready: Prepared) -> None:
    table = ready.manifest.table
    offered = [name for name in BY if table[name].astype(bool).any() and table[name].nunique() > 1]
    if ready.manifest.classes != manifest.classes and "subtype" in offered:
        offered.remove("subtype")  # it is the label of this task
    by = "label"
    if len(offered) > 1:
        selection.choice_from_url("by", offered, "split_by", default="label")
        by = st.segmented_control(
            "Composition by",
            offered,
            format_func=lambda name: BY.get(name, str(name)),
            key="split_by",
            required=True,
        )
        selection.choice_to_url("by", "split_by", default="label")
    by = by or "label"
    fig, alt = composition_figure(composition(table, (by,)), by)
    left_out = len(manifest) - len(table)
    widgets.show_figure(
        fig,
        "On each side; one case may hold several slides. "
        f"Not in this split: {widgets.counted(left_out, 'image')}.",
        alt,
        "composition",
    )
    with st.expander("As a table: by class, subtype and magnification"):
        st.dataframe(
            composition(table, ("label", "subtype", "magnification")),
            hide_index=True,
            height=320,
            alt="Images, slides and cases per side, class, subtype and magnification.",
        )


def composition_figure(table: pd.DataFrame, by: str = "label") -> tuple[go.Figure, str]:
    """Small multiples (cases, slides, images; those that are known), a bar per side, stacked by class, subtype or
    magnification."""
    from plotly.subplots import make_subplots

    units = [unit for unit in ("cases", "slides", "images") if table[unit].any()]
    titles = [unit.capitalize() for unit in units]
    fig = make_subplots(1, len(units), subplot_titles=titles, shared_yaxes=True, horizontal_spacing=0.05)
    sides = [side for side in reversed(SPLITS) if side in set(table["split"])]
    values = list(dict.fromkeys(table[by]))
    if by == "subtype":
        values = [code for code in SUBTYPES if code in values] + [v for v in values if v not in SUBTYPES]
    for column, unit in enumerate(units, start=1):
        for position, value in enumerate(values):
            part = table[table[by] == value].set_index("split")[unit]
            counts = [int(part.get(side, 0)) for side in sides]
            colour = _colour(by, str(value), position)
            fig.add_bar(
                y=sides,
                x=counts,
                orientation="h",
                name=_named(by, str(value)),
                legendgroup=str(value),
                showlegend=column == 1,
                text=[f"{count:,}" if count else "" for count in counts],
                textposition="inside",
                insidetextanchor="middle",
                textangle=0,
                marker_color=colour,
                textfont_color="#1B1726" if colour in _LIGHT else "#FFFFFF",
                row=1,
                col=column,
            )
    rows = 1 if len(values) <= 4 else 2
    fig.update_layout(
        barmode="stack",
        bargap=0.25,
        height=190 + 24 * rows,
        margin={"l": 10, "r": 10, "t": 26 + 24 * rows, "b": 10},
        legend={"orientation": "h", "yanchor": "bottom", "y": 1.2, "x": 0},
    )
    fig.update_xaxes(visible=False)
    said = "; ".join(
        f"{row['split']} {row[by]}: {row['cases']} cases, {row['slides']} slides, {row['images']} images"
        for row in table.to_dict("records")
    )
    return fig, f"Composition of the split. {said}."


_LIGHT = {"#A6BDDB", "#6A93C2", "#88B4DD", "#44AA99", "#999933", "#C49A27", "#CC6677", "#B5838D"}
"""Colours that dark figures are read on."""


def _colour(by: str, value: str, position: int) -> str:
    if by == "magnification" and value in theme.MAGNIFICATION_COLOURS:
        return theme.MAGNIFICATION_COLOURS[value]
    return theme.class_colour(value, position)


def _named(by: str, value: str) -> str:
    if by == "subtype" and value in SUBTYPES:
        return f"{value} {SUBTYPES[value]}"
    return value or "unknown"


# --- audit -----------------------------------------------------------------------------------------------
def _audit(found: Audit) -> None:
    """What is behind the verdict, counted and in words; the names on demand."""
    st.subheader("Audit", anchor=False)
    st.dataframe(
        audit_table(found),
        hide_index=True,
        column_config={
            "Looked for": st.column_config.TextColumn(width=330),
            "Found": st.column_config.TextColumn(width=110),
        },
        alt="What the leakage audit looked for, what it found and what that means.",
    )
    if found.near_duplicates is None:
        st.caption(
            "Images were not compared with each other: look for duplicates under Contents, once per data set."
        )
    for conflict in found.label_conflicts[:20]:
        st.caption(f":material/warning: {widgets.escaped(conflict)}")
    if len(found.label_conflicts) > 20:
        st.caption(f"... and {len(found.label_conflicts) - 20} more conflicts of labels.")
    if found.shared_cases:
        with st.expander(f"Cases on two sides ({len(found.shared_cases)})"):
            st.dataframe(
                pd.DataFrame(
                    [(name, ", ".join(sides)) for name, sides in found.shared_cases.items()],
                    columns=["Case", "Sides"],
                ),
                hide_index=True,
                height=min(36 * (len(found.shared_cases) + 1) + 3, 320),
                alt="Cases that are on more than one side of the split.",
            )


def audit_table(found: Audit) -> pd.DataFrame:
    """A row per thing that the audit looks for: what it is, how many were found, what it means for a score."""
    near = found.near_duplicates
    rows = [
        (
            "Cases (patients) on more than one side",
            f"{len(found.shared_cases)} of {found.cases}",
            "A network recognises a patient's stain and tissue",
        ),
        (
            "Slides on more than one side",
            str(len(found.shared_slides)),
            "The same glass is learned and judged",
        ),
        (
            "Test images whose case was seen before",
            str(found.leaking_images.get("test", 0)),
            "Their scores say little about the next patient",
        ),
        (
            "Validation images whose case was seen before",
            str(found.leaking_images.get("val", 0)),
            "The checkpoint is chosen on known patients",
        ),
        (
            "Test images of a slide seen at another magnification",
            str(found.other_magnification.get("test", 0)),
            "The same lesion, zoomed",
        ),
        (
            "Pairs of near-identical images on two sides",
            "not compared" if near is None else str(len(near)),
            "The same picture, turned or saved again",
        ),
        ("One thing under two labels", str(len(found.label_conflicts)), "No answer can be right for both"),
        ("Images whose case is not known", str(found.unknown_cases), "Whether they leak cannot be told"),
    ]
    return pd.DataFrame(rows, columns=["Looked for", "Found", "Why it matters"])


# --- what next -------------------------------------------------------------------------------------------
def _next(root: str, data: DataConfig, ready: Prepared) -> None:
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        if st.button("Train on this split", type="primary", icon=":material/model_training:"):
            st.switch_page(
                places.page("train"),
                query_params={
                    "data": root,
                    "protocol": data.protocol,
                    "fold": str(data.fold),
                    "split_seed": str(data.split_seed),
                },
            )
        widgets.download_table(
            "Manifest with split (CSV)",
            ready.manifest.table,
            f"manifest-{data.protocol}-{data.fold}.csv",
            "download_split",
        )
        st.html(
            f'<span class="bh-muted bh-num" title="{ready.split_hash}">split {ready.split_hash[:12]}</span>',
            width="content",
        )
    words = ["python", "-m", "engine", "split", root, "--protocol", data.protocol, "--fold", str(data.fold)]
    words += ["--magnification", ",".join(data.magnifications)] if data.magnifications else []
    words += ["--task", data.task] if data.task != "malignancy" else []
    st.code(
        shlex.join([*words, "--seed", str(data.split_seed), "--out", "manifest.csv"]),
        language="bash",
        wrap_lines=True,
    )
