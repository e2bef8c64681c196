"""The upper half of the compare page, drawn from one view: list, controls, score table, confusion matrices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import streamlit as st

from dashboard import (
    cached,
    compare_below,
    compare_table,
    compare_view,
    import_form,
    places,
    selection,
    sharing,
    tick_list,
    widgets,
)
from dashboard.compare_view import MODES, SPLITS, Line, View
from engine.analysis import metrics, operating, review
from engine.analysis.alignment import Aligned
from engine.analysis.comparison import Comparison
from engine.analysis.operating import Rule
from engine.report import confusion, score_table
from engine.runs import results
from engine.runs.folder import Summary
from engine.share import access

PARTS = {"magnification": "Magnification", "subtype": "Subtype", "fold": "Fold"}
MOST_WARNINGS = 4


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


def run_items(summaries: Sequence[Summary]) -> list[tick_list.Item]:
    """A line per run: its name and colour, whether its split leaks, its note."""
    labels, colours = widgets.run_labels(summaries), widgets.run_colours()
    return [
        tick_list.Item(
            summary.id,
            labels[summary.id],
            colours.get(summary.id, "#888888"),
            leaks=summary.audit.get("level") == "leak",
            note=run_note(summary),
        )
        for summary in summaries
    ]


def choose_runs(summaries: Sequence[Summary], key: str) -> list[str]:
    """The list on the left: a tick box per run with predictions; `seed_runs` comes before."""
    known = [summary.id for summary in summaries]
    with st.container(horizontal=True, gap="xsmall", vertical_alignment="center"):
        st.markdown(
            f"**{len(tick_list.chosen(key))} of {len(known)}**",
            help="Entries compared, of those with predictions",
        )
        tick_list.history_buttons(key, clear=True)
    tick_list.draw(run_items(summaries), key)
    import_form.draw(key)
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


def _thresholds(view: View) -> View:
    """The operating point, in the URL: most probable class, one threshold, or one chosen on validation."""
    raw = selection.read("threshold")
    keys = {name: f"compare_point_{name}" for name in ("rule", "value", "bound")}
    if st.session_state.get("_point_seen") != raw or keys["rule"] not in st.session_state:
        asked = compare_view.rule_of(raw)
        st.session_state[keys["rule"]] = asked.name
        st.session_state[keys["value"]] = asked.value if asked.name == "fixed" else 0.5
        bounded = asked.name in ("sensitivity", "specificity")
        st.session_state[keys["bound"]] = asked.value if bounded else 0.95
    with st.popover(_rule_word(st.session_state, keys), icon=":material/tune:"):
        name = st.radio(
            "An image is called malignant",
            list(operating.RULES),
            format_func=lambda one: operating.RULES[one],
            key=keys["rule"],
        )
        fixed = st.slider("Threshold", 0.01, 0.99, key=keys["value"], step=0.01, disabled=name != "fixed")
        bound = st.slider(
            "At least", 0.5, 1.0, key=keys["bound"], step=0.01,
            disabled=name not in ("sensitivity", "specificity"),
        )  # fmt: skip
        st.caption("Moves every score, matrix, curve and list of images on this page.")
    rule = Rule(name, {"fixed": fixed, "sensitivity": bound, "specificity": bound}.get(name, 0.0))
    selection.write(threshold=rule.text)
    st.session_state["_point_seen"] = rule.text
    return replace(view, thresholds=compare_view.thresholds_at(view.ids, rule))


def _rule_word(state, keys: Mapping[str, str]) -> str:
    name = state[keys["rule"]]
    if name == "argmax":
        return "Threshold"
    if name == "youden":
        return "Youden"
    if name == "fixed":
        return f"Threshold {state[keys['value']]:.2f}"
    return f"{name.capitalize()} ≥ {state[keys['bound']]:.2f}"


def _say_points(view: View, labels: Mapping[str, str], whole: Aligned) -> None:
    """Locked thresholds with what they reached on validation; a threshold tried out on test is called so."""
    rule = compare_view.rule_of(selection.read("threshold"))
    if rule.name == "fixed" and view.split == "test":
        st.warning(
            "Exploratory: this threshold was set while test was on the screen, so the scores flatter it. For a "
            "result choose it on validation (Youden, or a bound on sensitivity).",
            icon=":material/visibility:",
        )
    if not rule.on_validation:
        return
    parts = [
        f"{labels[run_id]} {value:.3f}"
        for run_id, value in compare_view.thresholds_of(view).items()
        if value is not None
    ]
    folds = (
        " The entries pool folds: the validation part of one fold is tested in another, so the threshold has seen "
        "these patients' labels and is slightly flattered."
        if "fold" in whole.frame.columns
        else ""
    )
    st.caption(
        widgets.escaped(
            f"Operating point {rule.words}, locked before these images were looked at: {', '.join(parts)}.{folds}"
        )
    )


def _point_words(view: View) -> dict[str, str]:
    """How each entry's operating point was chosen, for the exports."""
    rule = compare_view.rule_of(selection.read("threshold"))
    return {
        run_id: "most probable class" if value is None else f"{value:.6g}: malignant {rule.words}"
        for run_id, value in compare_view.thresholds_of(view).items()
    }


def _marks(view: View) -> View:
    """Leave marked images out (a sensitivity analysis, always labelled), and take the marks home as CSV."""
    marked = cached.marks()
    chosen = compare_view.kinds_from_url()
    key = "compare_without"
    if st.session_state.get("_without_seen") != chosen or key not in st.session_state:
        st.session_state[key] = list(chosen)
    word = "Marks" if not chosen else "Without marked"
    with st.popover(word, icon=":material/flag:", help="What people remarked on images"):
        if marked.empty:
            st.caption("Nobody has marked an image yet. Open one from the gallery below to mark it.")
        kinds = [kind for kind in review.KINDS if kind in set(marked["kind"]) or kind in chosen]
        if kinds:
            counts = marked.groupby("kind")["image_id"].nunique()
            st.pills(
                "Leave out of the analysis",
                kinds,
                selection_mode="multi",
                format_func=lambda kind: f"{review.SHORT[kind]} ({int(counts.get(kind, 0)):,})",
                key=key,
            )
            st.caption("The result is then a sensitivity analysis and says so everywhere.")
            widgets.download_text(
                "All marks", lambda: review.export_csv(places.runs_folder()), "marks.csv", "compare_marks_csv",
                mime="text/csv",
            )  # fmt: skip
    picked = tuple(st.session_state.get(key) or ())
    selection.write(without=picked)
    st.session_state["_without_seen"] = picked
    return replace(view, without=picked)


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
    with st.container(horizontal=True, gap="xsmall", vertical_alignment="bottom"):
        selection.option("split", SPLITS, "Images", "test")
        shown = selection.option("mag", {"all": "All", **{p: p for p in powers}}, "Magnification", "all")
        reference = _reference(ids, labels)
        if whole.classes == ("benign", "malignant"):
            view = _thresholds(view)
        view = _marks(view)
    view = replace(view, magnification=shown, names=_asked_scores(), reference=reference)
    _say_common(whole, labels)
    analysis = compare_view.sensitivity(view)
    if analysis:
        st.warning(f"**{widgets.escaped(analysis)}.**", icon=":material/flag:")
    _say_points(view, labels, whole)
    lines = compare_view.lines_of(summaries, labels)
    slot = st.empty()
    quick = compare_view.compare(view, with_intervals=False)
    ready = compare_view.is_ready(view)
    best = compare_view.compare(view, with_intervals=True) if ready else quick
    _table(slot, best, lines, view)
    notes = st.container(gap="xxsmall")
    words, buttons = st.columns([1.2, 1], vertical_alignment="center")
    with buttons.container(horizontal=True, gap="small", horizontal_alignment="right"):
        _columns()
        download = st.container(width="content")
        if access.actor().may_edit and not analysis:
            title = ", ".join(labels[run_id] for run_id in ids[:3]) + (" ..." if len(ids) > 3 else "")
            sharing.freeze_runs_button(ids, "compare_freeze", split=split, title=title)
    _matrices(view, quick, lines, labels, whole)
    compare_below.draw(view, summaries, lines, labels, whole)
    if not ready:
        best = compare_view.compare(view, with_intervals=True)
        _table(slot, best, lines, view)
    _notes(notes, best, lines, summaries, view)
    _table_footer(words, download, best, lines, view)


def _notes(place, table: Comparison, lines: Sequence[Line], summaries: Sequence[Summary], view: View) -> None:
    """What the intervals must be read with, in words, and what would help; the paired tests; the seed spread."""
    sentences = compare_table.warning_sentences(table, lines)
    more = len(sentences) - MOST_WARNINGS
    shown = sentences[:MOST_WARNINGS]
    if more > 0:
        shown.append(f"And {more} more: hover over the cells marked with !.")
    remedy = compare_table.remedy(sentences)
    text = "".join(f"<li>{widgets.plain(one)}</li>" for one in shown)
    text += f"<li><b>What to do:</b> {widgets.plain(remedy)}</li>" if remedy else ""
    text += "".join(f"<li>{widgets.plain(one)}</li>" for one in seed_sentences(view, summaries))
    if text:
        place.html(f'<div role="note"><ul class="bh-warn">{text}</ul></div>{compare_table.WARN_STYLE}')
    if table.differences and view.reference:
        tests = compare_table.paired_tests(table, lines, view.names[0])
        label = {line.id: line.label for line in lines}[view.reference]
        with place.expander(f"Paired tests against {widgets.escaped(label)}", icon=":material/balance:"):
            st.dataframe(tests, hide_index=True, key="compare_tests")
            st.caption(
                "Difference with its interval at the same draws of cases. Sign-flip: whole cases are exchanged between "
                "the two models. McNemar: image level, ignores that images share patients, so its p is too small."
            )


def seed_sentences(view: View, summaries: Sequence[Summary]) -> list[str]:
    """Seed spread apart from case spread, for entries that differ in the training seed only."""
    groups: dict[str, list[str]] = {}
    for one in summaries:
        if one.config.kind == "train":
            record = one.config.changed(name="", training__seed=0).to_record()
            told = {key: value for key, value in record.items() if key not in compare_below.UNTOLD}
            groups.setdefault(repr(told), []).append(one.id)
    found = []
    for ids in groups.values():
        if len(ids) > 1:
            spread = compare_view.seed_spread(view, tuple(ids))
            found.append(
                f"{len(ids)} entries differ in the training seed only. {metrics.SCORES[spread.score].title}: {spread}."
            )
    return found


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
        orders = ["", *st.session_state[key]]
        selection.choice_from_url("sort", orders, "compare_sort", "")
        st.selectbox(
            "Order",
            orders,
            format_func=lambda name: (
                f"best {metrics.SCORES[name].title.lower()} first" if name else "as ticked"
            ),
            key="compare_sort",
            on_change=_sort,
        )
    names = tuple(st.session_state[key])
    if not names or names == metrics.DEFAULT_SCORES:
        selection.write(scores=None)
        st.session_state[f"_url_scores_{key}"] = ""
    else:
        selection.list_to_url("scores", key)


def _sort() -> None:
    """At once, since the table is drawn above the widget."""
    selection.choice_to_url("sort", "compare_sort", "")


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
        width=140,
    )
    selection.choice_to_url("ref", key, "")
    if missing:
        st.caption("The reference of the link is not ticked.")
    return chosen or ""


def _table(slot, table: Comparison, lines: list[Line], view: View) -> None:
    order = compare_table.sorted_lines(lines, table, selection.read("sort"))
    slot.html(compare_table.html(table, order, view.names, view.reference))


def _table_footer(words, download, table: Comparison, lines: list[Line], view: View) -> None:
    cases = f", {widgets.counted(table.n_cases, 'case')}" if table.n_cases else ""
    where = "" if view.magnification == "all" else f" at {view.magnification}"
    gaps = (
        " Δ: paired difference to the reference at the same draws, p by sign-flip over cases, Holm."
        if table.differences and view.reference
        else ""
    )
    words.caption(
        widgets.escaped(
            f"n = {widgets.counted(table.n_images, 'image')}{cases}{where}, the same for all. "
            f"95% intervals: {compare_table.methods(table)}.{gaps}"
        )
    )
    name = f"scores_{view.split}_{view.magnification}" + ("_sensitivity" if view.without else "")
    names = {line.id: line.label for line in lines}
    with download.popover("Save", icon=":material/download:"):
        widgets.download_table(
            "CSV",
            lambda: score_table.rows(
                table, view.names, names, points=_point_words(view), analysis=compare_view.sensitivity(view)
            ),
            f"{name}.csv",
            "compare_csv",
        )
        widgets.download_text(
            "LaTeX",
            lambda: score_table.latex(table, view.names, names, analysis=compare_view.sensitivity(view)),
            f"{name}.tex",
            "compare_latex",
            mime="text/x-tex",
        )


def pool_offer(summaries: Sequence[Summary], key: str) -> None:
    """Folds of one cross-validation have no image in common; pooled they are one entry over all patients."""
    folds = poolable(summaries)
    if not folds or not access.actor().may_edit:
        return
    st.info(
        f"These are {len(folds)} folds of one cross-validation. Pooled they are one entry in which every patient "
        "was tested once, by the fold that never saw them.",
        icon=":material/merge:",
    )
    if st.button("Pool the folds", type="primary", key="compare_pool", icon=":material/merge:"):
        with widgets.errors_shown():
            name = f"{folds[0].config.model.name.removeprefix('tf_')}, {len(folds)} folds"
            runs = [cached.run(one.id) for one in folds]
            made = results.pool_folds(runs, name, places.runs_folder())
            tick_list.change(key, [made.id])
            st.rerun()


def poolable(summaries: Sequence[Summary]) -> list[Summary]:
    """The entries where they are folds of one configuration, each once; otherwise none."""
    if len(summaries) < 2 or any(one.config.kind != "train" for one in summaries):
        return []
    configs = [one.config.to_record() for one in summaries]
    alike = compare_below.differing(summaries)["setting"]
    folds = [config["data"].get("fold") for config in configs]
    same = set(alike) <= {"data.fold", "notes", "tags"}
    return list(summaries) if same and len(set(folds)) == len(folds) else []


# --- matrices ------------------------------------------------------------------------------------------
def _matrices(
    view: View, table: Comparison, lines: list[Line], labels: Mapping[str, str], whole: Aligned
) -> None:
    slices = {name: words for name, words in PARTS.items() if _has(whole, name)}
    with st.container(horizontal=True, gap="medium", vertical_alignment="bottom"):
        st.subheader("Confusion matrices", anchor=False)
        modes = dict(MODES) if len(view.ids) > 1 else {k: v for k, v in MODES.items() if k != "difference"}
        mode = selection.option("mode", modes, "Numbers", "counts", label_visibility="collapsed")
        by = (
            selection.option("by", slices, "Columns", "magnification", label_visibility="collapsed")
            if slices
            else "magnification"
        )
    rows = {row.id: row for row in matrix_rows(table, lines)}
    if by != "magnification":
        view = replace(view, by=by)
        rows = {row.id: row for row in matrix_rows(compare_view.compare(view, False), lines)}
    found = parts_of(rows.values(), by)
    folds = {part: f"fold {part}" for part in found if part != "all"} if by == "fold" else {}
    parts, titles = confusion.columns(found, folds)
    base = view.reference or next(iter(view.ids))
    against = rows[base] if mode == "difference" else None
    shown = [rows[line.id] for line in lines if not (against and line.id == base)]
    cell = compare_view.parse_cell(selection.read("cell"), view.ids, whole.classes)
    fig = confusion.figure(
        shown,
        parts,
        whole.classes,
        mode=mode,
        against=against,
        chosen=(cell.entry, cell.part, cell.true, cell.guess) if cell else None,
        titles=titles,
        dark=widgets.is_dark(),
    )
    chart = f"matrices_{view.split}_{view.magnification}_{by}_{mode}_{len(shown)}"
    letters = confusion.legend(whole.classes)
    if mode == "difference":
        how = f"Percentage points of the true class's images, minus {labels[base]}; teal is more, brown less, the full colour from 25 points on."
    else:
        how = "Colour: share of the true class's images, one scale for all."
    with st.container(key="wide_figure_matrices" if len(parts) > 2 else None):
        widgets.show_figure(
            fig,
            f"Rows: true class, columns: predicted ({letters}). {how} Below each: balanced accuracy and n. Click a cell to see its images.",
            confusion.alt_text(shown, parts, whole.classes),
            chart,
            on_select=lambda: _clicked(chart),
        )


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
        selection.write(cell=cell.text, bucket=None, case=None, page=None, view=None)
