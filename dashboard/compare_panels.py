"""The parts of the compare page, drawn from one view (see `compare_view.View`)."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd
import streamlit as st

from dashboard import (
    compare_curves,
    compare_view,
    gallery,
    places,
    predict_view,
    selection,
    sharing,
    tick_list,
    widgets,
)
from dashboard.compare_view import MODES, Cell, Line, View
from engine.analysis import comparison, metrics
from engine.analysis.comparison import Aligned, Comparison
from engine.report import confusion, figures
from engine.runs import results
from engine.runs.folder import Summary
from engine.share import access

SPLITS = {"test": "Test", "val": "Validation"}
PARTS = {"magnification": "Magnification", "subtype": "Subtype", "fold": "Fold"}
VIEWS = ("Images", "Curves", "Patients", "Settings", "Study")


# --- controls ------------------------------------------------------------------------------------------
def split_choice() -> str:
    """Test or validation, from the URL; the widget itself is drawn by `draw`."""
    asked = selection.read("split", "test")
    return asked if asked in SPLITS else "test"


def seed_runs(summaries: Sequence[Summary], split: str, key: str) -> None:
    """Take the entries from the link; without one the newest runs that share a test part."""
    kept = st.session_state.get(key)
    default = compare_view.default_ids(summaries, split) if kept is None else kept
    tick_list.seed("runs", key, [summary.id for summary in summaries], default)


def choose_runs(summaries: Sequence[Summary], key: str) -> list[str]:
    """The list on the left: a tick box per run with predictions; `seed_runs` comes before."""
    known = [summary.id for summary in summaries]
    labels, colours = widgets.run_labels(summaries), widgets.run_colours()
    with st.container(horizontal=True, gap="small", vertical_alignment="center"):
        st.markdown(f"**Entries** · {len(tick_list.chosen(key))} of {len(known)}")
        if st.button("None", key="compare_none", type="tertiary", help="Untick all"):
            tick_list.change(key, [])
    items = [
        tick_list.Item(
            summary.id,
            labels[summary.id],
            colours.get(summary.id, "#888888"),
            leaks=summary.audit.get("level") == "leak",
            note=run_note(summary),
        )
        for summary in summaries
    ]
    tick_list.draw(items, key)
    import_form(key)
    ids = tick_list.chosen(key)
    if len(ids) > compare_view.MOST_RUNS:
        st.warning(
            f"{len(ids)} entries are ticked; the first {compare_view.MOST_RUNS} are compared.",
            icon=":material/warning:",
        )
        ids = ids[: compare_view.MOST_RUNS]
    return ids


def run_note(summary: Summary) -> str:
    """What tells a run from its neighbours: kind or model, protocol and fold."""
    config = summary.config
    if config.kind == "train":
        model = config.model.name.removeprefix("tf_").partition(".")[0]
        fold = "" if config.data.protocol == "image" else f"\u00a0{config.data.fold}"
        return f"{model} · {config.data.protocol}{fold}"
    words = {"ensemble": "ensemble", "import": "imported", "pooled": "pooled folds"}
    members = config.details.get("members") or ()
    return words.get(config.kind, config.kind) + (f" of {len(members)}" if members else "")


def _option(param: str, options: Mapping[str, str] | Sequence[str], label: str, default: str, **more) -> str:
    """A segmented control whose value is in the URL."""
    known = list(options)
    key = f"compare_{param}"
    missing = selection.choice_from_url(param, known, key, default)
    if missing:
        st.caption(f"The link asks for {widgets.escaped(missing[0][:40])}, which this view does not have.")
    words = dict(options) if isinstance(options, Mapping) else {name: name for name in known}
    chosen = st.segmented_control(
        label, known, format_func=lambda name: str(words.get(name, name)), key=key, required=True, **more
    )
    selection.choice_to_url(param, key, default)
    return chosen or default


def _thresholds(view: View, labels: Mapping[str, str]) -> View:
    """The operating point, in the URL: most probable class, one threshold, or one chosen on validation."""
    raw = selection.read("threshold")
    point = compare_view.parse_point(raw)
    keys = {name: f"compare_point_{name}" for name in ("rule", "value", "bound")}
    if st.session_state.get("_point_seen") != raw or keys["rule"] not in st.session_state:
        st.session_state[keys["rule"]] = point.rule
        st.session_state[keys["value"]] = point.value if point.rule == "fixed" else 0.5
        st.session_state[keys["bound"]] = (
            point.value if point.rule in ("sensitivity", "specificity") else 0.95
        )
    rule = st.session_state[keys["rule"]]
    with st.popover(_point_word(rule, st.session_state, keys), icon=":material/tune:"):
        rule = st.radio(
            "An image is called malignant",
            list(compare_view.RULES),
            format_func=lambda name: compare_view.RULES[name],
            key=keys["rule"],
        )
        fixed = st.slider("Threshold", 0.01, 0.99, key=keys["value"], step=0.01, disabled=rule != "fixed")
        bound = st.slider(
            "At least",
            0.5,
            1.0,
            key=keys["bound"],
            step=0.01,
            disabled=rule not in ("sensitivity", "specificity"),
        )
        if rule == "fixed" and view.split == "test":
            st.caption("A threshold chosen by looking at test flatters every score: choose it on validation.")
    value = {"fixed": fixed, "sensitivity": bound, "specificity": bound}.get(rule, 0.0)
    point = compare_view.Point(rule, value)
    selection.write(threshold=point.text)
    st.session_state["_point_seen"] = point.text
    return replace(view, thresholds=compare_view.thresholds_at(view.ids, point))


def _point_word(rule: str, state, keys: Mapping[str, str]) -> str:
    if rule == "argmax":
        return "Threshold"
    if rule == "youden":
        return "Youden"
    if rule == "fixed":
        return f"Threshold {state[keys['value']]:.2f}"
    return f"{rule.capitalize()} ≥ {state[keys['bound']]:.2f}"


def _say_points(view: View, labels: Mapping[str, str]) -> None:
    """The thresholds that were chosen on validation, locked before these images are shown."""
    point = compare_view.parse_point(selection.read("threshold"))
    if point.rule in ("argmax", "fixed"):
        return
    parts = [
        f"{labels[run_id]} {value:.3f}" for run_id, value in compare_view.thresholds_of(view).items() if value
    ]
    st.caption(
        widgets.escaped(
            f"Thresholds chosen on validation ({compare_view.RULES[point.rule]}): {', '.join(parts)}."
        )
    )


# --- the page ------------------------------------------------------------------------------------------
def draw(summaries: Sequence[Summary], labels: Mapping[str, str], split: str) -> None:
    """Everything right of the list.

    Raises:
        RunError, PredictionsError: the entries cannot be compared.
    """
    ids = tuple(summary.id for summary in summaries)
    widgets.leakage_badge(widgets.leakage_of(summaries))
    view = View(ids, split)
    whole = compare_view.aligned(view)
    powers = compare_view.magnifications(whole)
    with st.container(horizontal=True, gap="small", vertical_alignment="bottom"):
        _option("split", SPLITS, "Images", "test")
        shown = _option("mag", {"all": "All", **{p: p for p in powers}}, "Magnification", "all")
        if whole.classes == ("benign", "malignant"):
            view = _thresholds(view, labels)
        reference = _reference(ids, labels)
    view = replace(view, magnification=shown, names=_asked_scores(), reference=reference)
    _say_common(whole, labels)
    _say_points(view, labels)
    lines = _lines(summaries, labels)
    slot = st.empty()
    quick = compare_view.compare(view, with_intervals=False)
    ready = compare_view.is_ready(view)
    best = compare_view.compare(view, with_intervals=True) if ready else quick
    _table(slot, best, lines, view)
    words, buttons = st.columns([1.2, 1], vertical_alignment="center")
    with buttons.container(horizontal=True, gap="small", horizontal_alignment="right"):
        _columns()
        download = st.container(width="content")
        if access.actor().may_edit:
            title = ", ".join(labels[run_id] for run_id in ids[:3]) + (" ..." if len(ids) > 3 else "")
            sharing.freeze_runs_button(ids, "compare_freeze", split=split, title=title)
    _matrices(view, quick, lines, labels, whole)
    _below(view, summaries, lines, labels, whole)
    if not ready:
        best = compare_view.compare(view, with_intervals=True)
        _table(slot, best, lines, view)
    _table_footer(words, download, best, lines, view)


def _lines(summaries: Sequence[Summary], labels: Mapping[str, str]) -> list[Line]:
    colours = widgets.run_colours()
    return [
        Line(one.id, labels[one.id], colours.get(one.id, "#888888"), one.audit.get("level") == "leak")
        for one in summaries
    ]


def _say_common(images: Aligned, labels: Mapping[str, str]) -> None:
    if images.note:
        sentence = compare_view.named_note(images.note, labels)
        st.warning(widgets.escaped(sentence + "."), icon=":material/join_inner:")


def _asked_scores() -> tuple[str, ...]:
    """The scores to show, from the URL or the widget that `_columns` draws further down."""
    key = "compare_scores"
    selection.list_from_url("scores", list(metrics.SCORES), key, metrics.DEFAULT_SCORES)
    return tuple(st.session_state[key]) or metrics.DEFAULT_SCORES


def _columns() -> None:
    """Choose the scores and their order."""
    key = "compare_scores"
    with st.popover("Columns", icon=":material/view_column:"):
        st.multiselect(
            "Scores", list(metrics.SCORES), format_func=lambda name: metrics.SCORES[name].title, key=key
        )
        if "compare_sort" not in st.session_state:
            st.session_state["compare_sort"] = selection.read("sort") == "1"
        st.toggle("Best first, by the first score", key="compare_sort", on_change=_sort)
    names = tuple(st.session_state[key])
    if not names or names == metrics.DEFAULT_SCORES:
        selection.write(scores=None)
        st.session_state[f"_url_scores_{key}"] = ""
    else:
        selection.list_to_url("scores", key)


def _sort() -> None:
    selection.write(sort=st.session_state["compare_sort"])


def _reference(ids: Sequence[str], labels: Mapping[str, str]) -> str:
    """The entry that all others are measured against (paired differences, difference mode)."""
    if len(ids) < 2:
        return ""
    known = ["", *ids]
    key = "compare_ref"
    missing = selection.choice_from_url("ref", known, key, "")
    chosen = st.selectbox(
        "Measured against",
        known,
        format_func=lambda run_id: labels.get(run_id, run_id) if run_id else "nothing",
        key=key,
        width=190,
    )
    selection.choice_to_url("ref", key, "")
    if missing:
        st.caption("The reference of the link is not ticked.")
    return chosen or ""


def _table(slot, table: Comparison, lines: list[Line], view: View) -> None:
    order = compare_view.sorted_lines(lines, table, view.names[0] if selection.read("sort") == "1" else "")
    slot.html(compare_view.score_table_html(table, order, view.names, view.reference))


def _table_footer(words, download, table: Comparison, lines: list[Line], view: View) -> None:
    cases = f", {widgets.counted(table.n_cases, 'case')}" if table.n_cases else ""
    first = table.entries[0].scores[view.names[0]]
    where = "" if view.magnification == "all" else f" at {view.magnification}"
    gaps = (
        " Δ: paired difference to the reference at the same draws, p by sign-flip over cases, Holm."
        if table.differences
        else ""
    )
    words.caption(
        widgets.escaped(
            f"n = {widgets.counted(table.n_images, 'image')}{cases}{where}, the same for all. "
            f"95% intervals: {first.method}.{gaps} ! = hover for a warning."
        )
    )
    name = f"scores_{view.split}_{view.magnification}"
    with download.popover("Save", icon=":material/download:"):
        widgets.download_table(
            "CSV", lambda: compare_view.score_csv(table, lines, view.names), f"{name}.csv", "compare_csv"
        )
        widgets.download_text(
            "LaTeX",
            lambda: compare_view.score_latex(table, lines, view.names),
            f"{name}.tex",
            "compare_latex",
            mime="text/x-tex",
        )


# --- matrices ------------------------------------------------------------------------------------------
def _matrices(
    view: View, table: Comparison, lines: list[Line], labels: Mapping[str, str], whole: Aligned
) -> None:
    slices = {name: words for name, words in PARTS.items() if _has(whole, name)}
    with st.container(horizontal=True, gap="medium", vertical_alignment="bottom"):
        st.subheader("Confusion matrices", anchor=False)
        modes = dict(MODES) if view.reference else {k: v for k, v in MODES.items() if k != "difference"}
        mode = _option("mode", modes, "Numbers", "counts", label_visibility="collapsed")
        by = (
            _option("by", slices, "Columns", "magnification", label_visibility="collapsed")
            if slices
            else "magnification"
        )
    rows = {row.id: row for row in matrix_rows(table, lines)}
    if by != "magnification":
        view = replace(view, by=by)
        rows = {row.id: row for row in matrix_rows(compare_view.compare(view, False), lines)}
    parts = parts_of(rows.values(), by)
    against = rows.get(view.reference) if mode == "difference" else None
    shown = [rows[line.id] for line in lines if not (against and line.id == view.reference)]
    cell = compare_view.parse_cell(selection.read("cell"), view.ids, whole.classes)
    fig = confusion.figure(
        shown,
        parts,
        whole.classes,
        mode=mode,
        against=against,
        chosen=(cell.entry, cell.part, cell.true, cell.guess) if cell else None,
        titles={part: f"fold {part}" for part in parts if part != "all"} if by == "fold" else None,
        dark=widgets.is_dark(),
    )
    chart = f"matrices_{view.split}_{view.magnification}_{by}_{mode}_{len(shown)}"
    letters = confusion.legend(whole.classes)
    if mode == "difference":
        how = f"Percentage points of the true class's images, minus {labels[view.reference]}; teal is more, brown less, the full colour from 25 points on."
    else:
        how = "Colour: share of the true class's images, one scale for all."
    widgets.show_figure(
        fig,
        f"Rows: true class, columns: predicted ({letters}). {how} Below each: balanced accuracy and n. Click a cell to see its images.",
        confusion.alt_text(shown, parts, whole.classes),
        chart,
        on_select=lambda: _clicked(chart),
    )
    st.session_state["compare_cell_context"] = (by, view.reference if mode == "difference" else "")


def matrix_rows(table: Comparison, lines: Sequence[Line]) -> list[confusion.Row]:
    """The entries' matrices as the figure wants them."""
    found = {entry.id: entry.confusion for entry in table.entries}
    return [confusion.Row(line.id, line.label, line.colour, found[line.id], line.leaks) for line in lines]


def parts_of(rows, by: str) -> list[str]:
    """The columns: every slice that is there, and `all` at the end."""
    names = list(dict.fromkeys(part for row in rows for part in row.matrices if part != "all"))
    if by == "magnification":
        return [*compare_view.order_magnifications(names), "all"]
    return [*names, "all"]


def _has(images: Aligned, column: str) -> bool:
    return column in images.frame.columns and bool(images.frame[column].astype(str).ne("").any())


def _clicked(chart: str) -> None:
    cell = compare_view.clicked_cell(st.session_state.get(chart))
    if cell is not None:
        st.session_state["compare_open"] = cell.text
        selection.write(cell=cell.text, bucket=None, page=None)


# --- below: one of several views -----------------------------------------------------------------------
def _below(
    view: View, summaries: Sequence[Summary], lines: list[Line], labels: Mapping[str, str], whole: Aligned
) -> None:
    st.space("small")
    chosen = _option("view", VIEWS, "Below", VIEWS[0], label_visibility="collapsed")
    if chosen == "Images":
        _images(view, lines, labels, whole)
    elif chosen == "Curves":
        kind = _option(
            "curve", compare_curves.KINDS, "Curves", compare_curves.KINDS[0], label_visibility="collapsed"
        )
        compare_curves.draw(view, lines, kind)
    elif chosen == "Patients":
        _patients(view, lines)
    elif chosen == "Settings":
        _settings(summaries, labels)
    else:
        _study(view, summaries, labels)


def _images(view: View, lines: list[Line], labels: Mapping[str, str], whole: Aligned) -> None:
    table = compare_view.opinions(view)
    by, against = st.session_state.get("compare_cell_context", ("magnification", ""))
    cell = compare_view.parse_cell(selection.read("cell"), view.ids, whole.classes)
    bucket, entry = _bucket_choice(view, labels, cell)
    if cell is not None:
        rows = compare_view.cell_images(table, cell, by, against or None)
        sentence = compare_view.cell_sentence(cell, labels, len(rows), against or None)
        order = cell.entry
    else:
        rows = comparison.select_images(table, entry=entry, bucket=bucket)
        about = f" ({labels[entry]})" if entry and compare_view.BUCKETS[bucket][1] else ""
        sentence = f"{widgets.counted(len(rows), 'image')}: {compare_view.BUCKETS[bucket][0].lower()}{about}"
        order = entry or view.ids[0]
    rows = rows.sort_values(f"confidence_{order}", ascending=False, kind="stable")
    gallery.draw(rows, lines, compare_view.image_paths(view.ids), sentence, key="compare", width=5)


def _bucket_choice(view: View, labels: Mapping[str, str], cell: Cell | None) -> tuple[str, str]:
    """Which images to show where no cell is open: a bucket, and whose."""
    many = len(view.ids) > 1
    known = [
        name for name in compare_view.BUCKETS if many or name not in ("disagree", "only-wrong", "only-right")
    ]
    asked = selection.read("bucket")
    here = asked if asked in known else "all-wrong" if many else "wrong"
    whose = selection.read("whose")
    whose = whose if whose in view.ids else view.ids[0]
    with st.container(horizontal=True, gap="small", vertical_alignment="bottom"):
        picked = st.selectbox(
            "Show",
            ["", *known] if cell else known,
            index=0 if cell else known.index(here),
            format_func=lambda name: compare_view.BUCKETS[name][0] if name else "The clicked cell",
            width=280,
            key=f"compare_bucket_{cell.text if cell else here}",
        )
        if picked and compare_view.BUCKETS[picked][1] and many:
            whose = st.selectbox(
                "of",
                list(view.ids),
                index=list(view.ids).index(whose),
                format_func=lambda run_id: labels[run_id],
                width=240,
                key=f"compare_whose_{whose}",
            )
    if picked and (cell or picked != here or whose != selection.read("whose", view.ids[0])):
        selection.write(
            cell=None, bucket=picked, whose=whose if compare_view.BUCKETS[picked][1] else None, page=None
        )
        st.rerun()
    return (picked or here), whose


def _patients(view: View, lines: list[Line]) -> None:
    """Bars with k/n for one entry, and all entries side by side in a table."""
    table = patient_table(view, lines)
    if table.empty:
        st.info("The cases of these images are not known.", icon=":material/help:")
        return
    names = {line.id: line.label for line in lines}
    whose = lines[0].id
    if len(lines) > 1:
        selection.choice_from_url("patients", list(names), "compare_patients_of", whose)
        whose = st.selectbox(
            "Bars of", list(names), format_func=lambda one: names[one], key="compare_patients_of", width=320
        )
        selection.choice_to_url("patients", "compare_patients_of", lines[0].id)
    images = compare_view.aligned(view)
    cases = metrics.case_table(images.tables[whose], compare_view.thresholds_of(view)[whose])
    right = int((cases["label"] == cases["diagnosis"]).sum())
    widgets.show_figure(
        figures.case_bars(cases, dark=widgets.is_dark()),
        f"{names[whose]}: share of each patient's images that are right, hardest first. Hatched: the patient's mean "
        f"probability gives the wrong diagnosis ({right} of {len(cases)} right).",
        f"Recognition per patient of {names[whose]}, {right} of {len(cases)} diagnosed rightly.",
        f"patients_{whose}",
    )
    columns: dict = {
        line.label: st.column_config.ProgressColumn(line.label, format="percent", min_value=0, max_value=1)
        for line in lines
    }
    st.dataframe(table, hide_index=True, column_config=columns, key="compare_patients")
    widgets.download_table("CSV", table, f"patients_{view.split}.csv", "compare_patients_csv")


def patient_table(view: View, lines: Sequence[Line]) -> pd.DataFrame:
    """A row per case: label, images, and per entry the share of right images; hardest first."""
    images = compare_view.aligned(view)
    thresholds = compare_view.thresholds_of(view)
    tables = {line.id: metrics.case_table(images.tables[line.id], thresholds[line.id]) for line in lines}
    first = tables[lines[0].id][["case", "label", "n_images"]]
    frame = first.rename(columns={"case": "Case", "label": "Truly", "n_images": "Images"})
    for line in lines:
        frame[line.label] = tables[line.id]["recognition"].to_numpy()
    shares = [line.label for line in lines]
    return frame.assign(_mean=frame[shares].mean(axis=1)).sort_values("_mean").drop(columns="_mean")


def _settings(summaries: Sequence[Summary], labels: Mapping[str, str]) -> None:
    configs = {summary.id: summary.config.to_record() for summary in summaries}
    table = comparison.config_differences(configs)
    table = table[~table["setting"].isin(["name", "experiment", "parent"])]
    if len(summaries) < 2 or table.empty:
        st.info(
            "These entries have the same settings."
            if len(summaries) > 1
            else "Tick a second entry to see what differs.",
            icon=":material/check:",
        )
        return
    table = table.rename(columns={"setting": "Setting", **{one.id: labels[one.id] for one in summaries}})
    st.dataframe(table, hide_index=True, key="compare_settings")
    st.caption("Only what differs. Everything else is the same in all entries.")


def _study(view: View, summaries: Sequence[Summary], labels: Mapping[str, str]) -> None:
    """Our runs beside the source study's published figures, and what differs in protocol."""
    from engine.analysis import study

    wanted = replace(view, names=("accuracy",), reference="")
    table = compare_view.compare(wanted, with_intervals=True)
    configs = {summary.id: summary.config.to_record() for summary in summaries}
    beside = study.beside(table.entries, configs)
    beside["name"] = [
        labels.get(run_id, name) for run_id, name in zip(beside["id"], beside["name"], strict=True)
    ]
    shown = pd.DataFrame(
        {
            "Entry": beside["name"],
            "Accuracy": [widgets.number(value) for value in beside["accuracy"]],
            "95% interval": [
                f"[{low:.3f}, {high:.3f}] {kind}" if low == low else "n/a"
                for low, high, kind in zip(beside["low"], beside["high"], beside["interval"], strict=True)
            ],
            "n": beside["n"],
            **{
                power: [widgets.number(value) for value in beside[power]]
                for power in ("40X", "100X", "200X", "400X")
            },
            "Split": beside["protocol"],
        }
    )
    st.dataframe(shown, hide_index=True, key="compare_study")
    st.caption(
        widgets.escaped(
            f"Study: {study.CITATION}, recomputed from its counts. Its patients are on both sides of its split: "
            "compare its figures with runs split by image, never with runs split by case."
        )
    )
    first = summaries[0]
    st.markdown(f"**What differs between the study and {widgets.escaped(labels[first.id])}**")
    differing = study.differences(configs[first.id], n_images=table.n_images, n_cases=table.n_cases)
    st.dataframe(
        differing.rename(columns={"aspect": "Aspect", "study": "Study", "ours": labels[first.id]}),
        hide_index=True,
        key="compare_protocol",
    )


# --- import --------------------------------------------------------------------------------------------
def import_form(key: str) -> None:
    """Predictions of any other tool become an entry."""
    reason = places.read_only_reason() or (
        "" if access.actor().may_edit else access.actor().reason or "You may only read"
    )
    with st.popover(
        "Import predictions", icon=":material/upload_file:", disabled=bool(reason), help=reason or None
    ):
        with st.form("compare_import", border=False):
            uploads = st.file_uploader(
                "CSV files of one model", type="csv", accept_multiple_files=True, key="compare_import_files"
            )
            name = st.text_input(
                "Name", max_chars=120, key="compare_import_name", placeholder="Keras B0, fold 1"
            )
            mapping = st.text_area(
                "Other column names, one per line",
                key="compare_import_map",
                height=80,
                placeholder="y_prob = prob_malignant",
                help="Their name = ours. Ours: image_id, label, case, magnification, split, fold, prob_benign, prob_malignant.",
            )
            go = st.form_submit_button("Import", type="primary")
        st.caption(
            "At least image_id and prob_malignant. BreakHis file names give label, case and magnification; "
            "split and fold are kept where they are given."
        )
        if go and not uploads:
            st.warning("Choose at least one CSV file.", icon=":material/upload_file:")
        elif go:
            with widgets.errors_shown():
                saved = import_uploads([(one.name, one.getvalue()) for one in uploads], name, mapping)
                tick_list.change(key, [*tick_list.chosen(key), saved])
                st.rerun()


def parse_mapping(text: str) -> dict[str, str]:
    """`theirs = ours` per line."""
    pairs = (line.partition("=") for line in text.splitlines() if "=" in line)
    return {theirs.strip(): ours.strip() for theirs, _, ours in pairs if theirs.strip() and ours.strip()}


def import_uploads(uploads: Sequence[tuple[str, bytes]], name: str, mapping: str) -> str:
    """The id of the run that the files become.

    Raises:
        PredictionsError: not predictions. AccessError: a viewer asks.
    """
    access.require_editor("import predictions")
    with tempfile.TemporaryDirectory(prefix="import-") as scratch:
        files = []
        for position, (own, data) in enumerate(uploads):
            target = Path(scratch) / f"{position}_{predict_view.safe_name(own)}"
            target.write_bytes(data)
            files.append(target)
        title = name.strip() or predict_view.safe_name(uploads[0][0]).rpartition(".")[0] or "imported"
        return results.import_predictions(
            files, title, places.runs_folder(), mapping=parse_mapping(mapping) or None
        ).id
