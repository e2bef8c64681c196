"""The parts of the data set page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import streamlit as st

from dashboard import cached, overview_parts, places, selection, widgets
from engine.data import breakhis
from engine.data import images as pixels
from engine.data.breakhis import Inventory
from engine.data.files import Problem
from engine.data.manifest import CLASSES, MAGNIFICATIONS, Manifest, order_magnifications
from engine.errors import EngineError
from engine.report import theme
from engine.runs.config import DataConfig, help_of

VIEWS = ("Contents", "Images", "Stain and augmentation", "Split", "Leakage gap")
PER_PAGE = 24
THUMB = 320


# --- which data set ------------------------------------------------------------------------------------
def choose() -> str:
    """The data set of the link, or the last one opened; its folder, empty where there is none."""
    known = places.datasets()
    wanted = selection.read("data") or (known[0] if known else "")
    if not known and not wanted:
        clicked = widgets.empty_state(
            "This page shows a data set: its counts, its images and its split.",
            "It is empty because no data set has been opened yet. Give a folder below, or start with synthetic tissue.",
            action="Make the sample data set",
            key="make_sample",
            icon_name="photo_library",
        )
        if clicked and overview_parts.make_sample():
            st.switch_page(places.page("dataset"))
    with st.container(horizontal=True, vertical_alignment="bottom", gap="small"):
        given = st.text_input(
            "Folder",
            value=wanted,
            key=f"folder_{wanted}",
            help=help_of(DataConfig, "root"),
            placeholder="/path/to/BreaKHis_v1",
            width="stretch",
        )
        others = [path for path in known if path != wanted]
        if others:
            with st.popover("Opened before", icon=":material/history:"):
                for path in others:
                    if st.button(widgets.escaped(path), key=f"open_{path}", type="tertiary"):
                        given = path
        if (
            known
            and not places.sample_folder().is_dir()
            and st.button("Make the sample data set", key="make_sample")
            and overview_parts.make_sample()
        ):
            given = str(places.sample_folder())
    given = (given or "").strip()
    if given != wanted:
        st.switch_page(places.page("dataset"), query_params={"data": given} if given else {})
    if given and "data" not in st.query_params:
        selection.write(data=given)
    return given


def summary_line(manifest: Manifest, inventory: Inventory) -> None:
    """Images, slides, cases, problems: the first thing to know."""
    columns = st.columns(5, border=True)
    columns[0].metric("Images", f"{inventory.images:,}")
    for column, what, count, named in (
        (columns[1], "slide", inventory.slides, ""),
        (columns[2], "case", inventory.cases, ""),
        (columns[3], "magnification", len(manifest.magnifications), ", ".join(manifest.magnifications)),
    ):
        unknown = f"No image says its {what}: a CSV can, in a column {what}."
        column.metric(f"{what.capitalize()}s", count or "unknown", help=named if count else unknown)
    left_out = sum(problem.excluded for problem in inventory.problems)
    columns[4].metric(
        "Problems",
        len(inventory.problems),
        help=f"{left_out} left out, {len(inventory.problems) - left_out} odd but used; named under Contents.",
    )
    if not inventory.usable:
        st.error(
            "Nothing can be trained on this: images of both classes are needed.", icon=":material/error:"
        )


# --- contents ------------------------------------------------------------------------------------------
def contents(root: str, manifest: Manifest, inventory: Inventory) -> None:
    """Counts per class and magnification, per subtype, against the official release; problems by file."""
    table = subtype_table(manifest.table)
    parts = st.columns([1] if table.empty else [6, 5], gap="medium")
    with parts[0]:
        powers = bool(manifest.magnifications)
        st.subheader(f"Images per class{' and magnification' if powers else ''}", anchor=False)
        fig, alt = counts_figure(inventory.counts)
        note = "Images; a case has several slides, a slide images at every magnification."
        widgets.show_figure(fig, note if powers else "Images of every class.", alt, "counts")
    if not table.empty:
        with parts[1]:
            st.subheader("Subtypes", anchor=False)
            st.dataframe(
                table,
                hide_index=True,
                height="content",
                column_config={
                    "Class": st.column_config.TextColumn(width=80),
                    "Subtype": st.column_config.TextColumn(width=165),
                    **{
                        name: st.column_config.NumberColumn(width=62)
                        for name in ("Images", "Slides", "Cases")
                    },
                },
                alt="Images, slides and cases per subtype.",
            )
    _official(inventory)
    _problems(inventory)
    if inventory.sizes and len(inventory.sizes) not in (2, 3, 4):  # these the remarks tell already
        sizes = ", ".join(f"{size} ({count:,})" for size, count in list(inventory.sizes.items())[:6])
        st.caption(widgets.escaped(f"Image sizes in pixels: {sizes}."))
    _duplicates(root, manifest)


def counts_figure(counts: pd.DataFrame) -> tuple[go.Figure, str]:
    """Small multiples: a bar per class within each magnification, the number on it; a bar per class where none
    is known."""
    known = [str(name) for name in counts.columns if str(name)]
    fig = go.Figure()
    for position, (label, row) in enumerate(counts.iterrows()):
        fig.add_bar(
            x=[str(name) or "unknown" for name in counts.columns] if known else [str(label)],
            y=row.to_list(),
            name=str(label),
            text=[f"{value:,}" for value in row],
            textposition="outside",
            cliponaxis=False,
            marker_color=theme.class_colour(str(label), position),
        )
    top = float(counts.to_numpy().max(initial=1))
    fig.update_layout(
        barmode="group" if known else "relative",
        showlegend=bool(known),
        bargap=0.35 if known else 0.5,
        height=270,
        margin={"l": 10, "r": 10, "t": 34, "b": 10},
        legend={"orientation": "h", "y": 1.18, "x": 0},
        yaxis={"visible": False, "range": [0, top * 1.15]},
    )
    said = "; ".join(
        f"{label}: "
        + ", ".join(f"{value} at {name or 'unknown'}" if known else str(value) for name, value in row.items())
        for label, row in counts.iterrows()
    )
    return fig, f"Images per class{' and magnification' if known else ''}. {said}."


def subtype_table(table: pd.DataFrame) -> pd.DataFrame:
    """A row per subtype: class, code and name, images, slides, cases."""
    known = table[table["subtype"] != ""]
    if known.empty:
        return pd.DataFrame()
    grouped = known.groupby(["label", "subtype"]).agg(
        Images=("image_id", "size"), Slides=("slide", "nunique"), Cases=("case", "nunique")
    )
    grouped = grouped.reset_index()
    grouped["subtype"] = [f"{code} {breakhis.SUBTYPES.get(code, '')}".strip() for code in grouped["subtype"]]
    return grouped.rename(columns={"label": "Class", "subtype": "Subtype"})


def _official(inventory: Inventory) -> None:
    """What is complete, missing and extra against the 82 slides of the release."""
    official = inventory.official
    if official is None:
        return
    st.subheader("Against the official release", anchor=False)
    mark = ":material/check_circle:" if official.complete else ":material/info:"
    st.caption(f"{mark} {widgets.escaped(official.summary)}")
    st.dataframe(
        official_table(inventory),
        hide_index=True,
        alt="Images here and in the release, per class and magnification.",
    )
    for remark in inventory.remarks:
        st.caption(widgets.escaped(remark))
    if len(official.differences):
        with st.expander(f"Slide by slide ({len(official.differences):,} numbers differ)"):
            st.dataframe(
                official.differences.rename(columns=str.capitalize),
                hide_index=True,
                height=320,
                alt="Images expected and found per slide and magnification, where they differ.",
            )


def official_table(inventory: Inventory) -> pd.DataFrame:
    """`7 of 625` per class and magnification, and in all: what is here and what the release has."""
    facts = breakhis.slide_facts()
    expected = facts.groupby("label")[[f"images_{name}" for name in MAGNIFICATIONS]].sum()
    expected.columns = pd.Index(MAGNIFICATIONS)
    found = inventory.counts.reindex(index=list(CLASSES), columns=list(MAGNIFICATIONS), fill_value=0)
    rows = []
    for label in (*CLASSES, "both"):
        chosen = list(CLASSES) if label == "both" else [label]
        here, there = found.loc[chosen].sum(), expected.loc[chosen].sum()
        cells = {name: f"{here[name]:,} of {there[name]:,}" for name in MAGNIFICATIONS}
        rows.append({"Class": label, **cells, "All": f"{here.sum():,} of {there.sum():,}"})
    return pd.DataFrame(rows)


def _duplicates(root: str, manifest: Manifest) -> None:
    """Exact and near duplicates, on demand: every image is decoded for it."""
    st.subheader("Duplicates", anchor=False)
    found = cached.duplicates(root)
    if found is None:
        with st.container(horizontal=True, vertical_alignment="center", gap="small"):
            clicked = st.button("Look for duplicates", icon=":material/content_copy:", key="duplicates")
            st.caption(
                "Compares every image with every other, turned and mirrored too; minutes for the whole release."
            )
        if not clicked:
            return
        bar = st.progress(0.0, text="Hashing images ...")

        def progress(done: int, total: int) -> None:
            bar.progress(done / max(total, 1), text=f"Hashing images: {done:,} of {total:,}")

        with widgets.errors_shown():
            found = cached.duplicates(root, progress)
        bar.empty()
    if found is None or found.empty:
        st.caption(f"No two of the {len(manifest):,} images show the same.")
        return
    across = {
        name: int(found[f"other_{name}"].sum())
        for name in ("slide", "case", "label")
        if f"other_{name}" in found
    }
    words = ", ".join(f"{count} across {name}s" for name, count in across.items())
    st.caption(
        widgets.escaped(
            f"{widgets.counted(len(found), 'pair')} show the same: {int(found['exact'].sum())} exact, {words}."
        )
    )
    st.dataframe(
        found,
        hide_index=True,
        height=min(36 * (len(found) + 1) + 3, 300),
        alt="Pairs of images that show the same.",
    )


def _problems(inventory: Inventory) -> None:
    if not inventory.problems:
        return
    left_out = sum(problem.excluded for problem in inventory.problems)
    st.subheader(f"Problems ({len(inventory.problems)})", anchor=False)
    st.caption(f"{widgets.counted(left_out, 'file is', 'files are')} left out; the rest stays usable.")
    table = problem_table(inventory.problems)
    st.dataframe(
        table,
        hide_index=True,
        height="content" if len(table) <= 9 else 340,
        column_config={
            "What is wrong": st.column_config.TextColumn(width="large"),
            "Image": st.column_config.TextColumn(width=70),
            "Folder": st.column_config.TextColumn(width="medium"),
        },
        alt="Files with problems.",
    )


def problem_table(problems: Sequence[Problem]) -> pd.DataFrame:
    """A row per file: its name, what is wrong with it, whether it is used, and where it lies."""
    rows = []
    for problem in problems:
        folder, _, name = problem.file.rpartition("/")
        wrong = problem.message.removeprefix(name).strip()  # most sentences begin with the name
        rows.append((name, wrong, "left out" if problem.excluded else "used", folder))
    return pd.DataFrame(rows, columns=["File", "What is wrong", "Image", "Folder"])


# --- images --------------------------------------------------------------------------------------------
def images(manifest: Manifest) -> None:
    """A gallery that is filtered and paginated; a slide across its magnifications once one is chosen."""
    table = manifest.table
    with st.container(horizontal=True, vertical_alignment="bottom", gap="small"):
        table = _filter(table, "label", "Class", "class")
        table = _filter(table, "subtype", "Subtype", "subtype", breakhis.SUBTYPES)
        chosen = table
        table = _filter(table, "magnification", "Magnification", "power")
        table = _filter(table, "case", "Case", "case")
        table = _filter(table, "slide", "Slide", "slide")
    if table.empty:
        st.info("No image matches this filter.", icon=":material/filter_alt_off:")
        return
    slide = st.session_state.get("filter_slide") or ""
    if slide:
        _strip(manifest, chosen[chosen["slide"] == slide], slide)
    pages = max(1, -(-len(table) // PER_PAGE))
    with st.container(horizontal=True, horizontal_alignment="distribute", vertical_alignment="center"):
        st.caption(widgets.counted(len(table), "image"), width="content")
        page = st.pagination(pages, key="page", bind="query-params") if pages > 1 else 1
    _grid(manifest, table.iloc[(page - 1) * PER_PAGE : page * PER_PAGE])


def _filter(
    table: pd.DataFrame, column: str, label: str, param: str, names: dict[str, str] | None = None
) -> pd.DataFrame:
    """One filter in the URL; offers only what the filters before it left."""
    values = [str(value) for value in pd.unique(table[column]) if value]
    order = [name for name in (*CLASSES, *MAGNIFICATIONS) if name in values]
    values = order or sorted(values)
    if len(values) < 2 and selection.read(param) in ("", *values):
        return table
    key = f"filter_{column}"
    missing = selection.choice_from_url(param, ["", *values], key, default="")
    if missing:
        st.session_state[key] = ""
        st.toast(
            widgets.escaped(f"The link names a {label.lower()} that is not here: {missing[0][:60]}."),
            icon=":material/link_off:",
        )
    value = st.selectbox(
        label,
        ["", *values],
        format_func=lambda item: (f"{item} {names.get(item, '')}".strip() if names else item) or "all",
        key=key,
        width="stretch",
    )
    selection.choice_to_url(param, key, default="")
    return table[table[column] == value] if value else table


def _grid(manifest: Manifest, rows: pd.DataFrame) -> None:
    columns = st.columns(6, gap="small")
    places_of = {label: number for number, label in enumerate(manifest.classes)}
    for position, row in enumerate(rows.to_dict("records")):
        with columns[position % 6]:
            kind = " · ".join(
                filter(None, (f"{row['label']} {row['subtype']}".strip(), row["magnification"]))
            )
            said = f"{kind.replace(' · ', ', ')}, case {row['case'] or 'unknown'}"
            try:
                st.image(
                    cached.thumbnail(manifest.absolute(str(row["path"])), THUMB),
                    width="stretch",
                    alt=f"{row['image_id']}: {said}",
                )
            except EngineError as error:
                st.caption(widgets.escaped(error.message))
            dot = theme.class_colour(str(row["label"]), places_of.get(row["label"], 0))
            st.html(
                f'<div style="font-size:.78rem;line-height:1.3;margin:-.35rem 0 .35rem" title="{widgets.plain(row["image_id"])}">'
                f'<span class="bh-dot" style="background:{dot}" aria-hidden="true"></span> {widgets.plain(kind)}'
                f'<br><span class="bh-muted">{widgets.plain(row["case"] or row["image_id"])}</span></div>'
            )


def _strip(manifest: Manifest, rows: pd.DataFrame, slide: str) -> None:
    """One slide across its magnifications, a scale bar on each image of known size."""
    st.subheader(f"Slide {widgets.escaped(slide)} across its magnifications", anchor=False)
    powers = order_magnifications(rows["magnification"])
    columns = st.columns(max(len(powers), 1), gap="small")
    with_bar = False
    for column, power in zip(columns, powers, strict=False):
        row = rows[rows["magnification"] == power].iloc[0]
        with column:
            try:
                scale = micrometres_per_pixel(row, power)
                picture, bar = strip_image(manifest.absolute(str(row["path"])), scale)
            except EngineError as error:
                st.caption(widgets.escaped(error.message))
                continue
            with_bar = with_bar or bool(bar)
            st.image(
                picture,
                width="stretch",
                alt=f"{row['image_id']} at {power}" + (f", scale bar {bar}" if bar else ""),
            )
            st.caption(f"{power}" + (f", bar = {bar}" if bar else ""))
    if not with_bar:
        st.caption(
            "No scale bar: the optics of these images are not known. A CSV can say them in a column um_per_pixel."
        )


def micrometres_per_pixel(row: pd.Series, power: str) -> float | None:
    """What a CSV says of the image (`um_per_pixel`); for BreakHis' own names the optics of the magnification."""
    said = pd.to_numeric(row.get("um_per_pixel", ""), errors="coerce")
    if pd.notna(said) and 0 < said < 1000:
        return float(said)
    is_breakhis = breakhis.parse_name(Path(str(row["path"])).name) is not None
    return breakhis.MICROMETRES_PER_PIXEL.get(power) if is_breakhis else None


def strip_image(path: Path, scale: float | None, width: int = 480) -> tuple[bytes, str]:
    """A PNG with a scale bar and the bar's length (`100 µm`); no bar where the scale (µm per pixel) is unknown."""
    header = pixels.read_header(path)
    small = pixels.thumbnail(path, width)
    if scale is None:
        return pixels.encode_png(small), ""
    per_pixel = scale * header.width / small.shape[1]
    length = bar_length(per_pixel * small.shape[1])
    return pixels.encode_png(draw_bar(small, round(length / per_pixel))), f"{length:g} µm"


def bar_length(field: float) -> float:
    """The longest of 1, 2, 5, 10, ... micrometres that takes at most a third of the field."""
    steps = [factor * 10**power for power in range(4) for factor in (1, 2, 5)]
    return float(max(step for step in steps if step <= max(field / 3, 1)))


def draw_bar(image: np.ndarray, length: int) -> np.ndarray:
    """A white bar with a dark edge, bottom right; image (h, w, 3) uint8, copied."""
    drawn = image.copy()
    height, width = drawn.shape[:2]
    y, x = height - 16, width - 12 - length
    drawn[y - 2 : y + 6, x - 2 : x + length + 2] = 20
    drawn[y : y + 4, x : x + length] = 255
    return drawn
