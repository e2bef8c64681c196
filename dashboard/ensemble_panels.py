"""The parts of the ensemble page: the list and its buttons on the left, what they make on the right."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import streamlit as st

from dashboard import (
    cached,
    compare_view,
    ensemble_view,
    gallery,
    places,
    selection,
    tick_list,
    widgets,
)
from dashboard.compare_view import Cell, Line
from dashboard.ensemble_view import OWN, SPLITS, Answer, Choice
from engine.analysis import diversity, ensemble, metrics, subsets
from engine.data.manifest import order_magnifications
from engine.errors import EngineError
from engine.report import confusion, figures
from engine.runs import ensembles
from engine.runs.folder import Summary
from engine.share import access

KEY = "ensemble_members"
ACCENT = "#5B3E8F"
TIE_RULES = {"mean-probability": "mean probability", "lowest-label": "lowest label (as the study)"}
VIEWS = ("Images", "Agreement", "Size", "Members", "Roles")
SHOWS = {
    "fixed": "Fixed: the best member is wrong, the ensemble right",
    "broken": "Broken: the best member is right, the ensemble wrong",
    "wrong": "The ensemble is wrong",
    "all-wrong": "Every member is wrong",
    "disagree": "Members disagree",
    "ties": "The vote was tied",
}
MEASURES = {
    "disagreement": "Disagreement",
    "q": "Yule's Q",
    "kappa": "Kappa",
    "double_fault": "Both wrong",
}


# --- left: the list ------------------------------------------------------------------------------------
def left(summaries: Sequence[Summary], labels: Mapping[str, str], choice: Choice, split: str) -> None:
    """Tick boxes with validation scores and leave-one-out effects, and the buttons that tick for you."""
    ids = list(choice.members)
    with st.container(horizontal=True, gap="small", vertical_alignment="center"):
        st.markdown(f"**Members** · {len(ids)} of {len(summaries)}")
        past, future = st.session_state.get(f"{KEY}_past"), st.session_state.get(f"{KEY}_future")
        st.button(
            "Undo", key="ens_undo", icon=":material/undo:", type="tertiary", disabled=not past,
            on_click=tick_list.undo, args=(KEY,), shortcut="Ctrl+Z",
        )  # fmt: skip
        st.button(
            "Redo", key="ens_redo", icon=":material/redo:", type="tertiary", disabled=not future,
            on_click=tick_list.redo, args=(KEY,), shortcut="Ctrl+Y",
        )  # fmt: skip
    mates = _mates(summaries, ids)
    with st.container(key="ens_buttons", gap="small"):
        _tick_buttons(summaries, mates)
        _search_buttons(mates)
    st.html(_BUTTON_STYLE)
    effects = _effects(choice, split)
    colours = widgets.run_colours()
    items = [
        tick_list.Item(
            summary.id,
            labels[summary.id],
            colours.get(summary.id, "#888888"),
            leaks=summary.audit.get("level") == "leak",
            note=_note(summary, effects),
        )
        for summary in summaries
    ]
    own = st.session_state.get("ens_own_weights", False)
    tick_list.draw(items, KEY, height=760, extra=_weight if own else None)


_BUTTON_STYLE = """<style>
.st-key-ens_buttons button{min-height:1.9rem;padding:.1rem .55rem}
.st-key-ens_buttons button p{font-size:.87rem}
.st-key-ens_buttons [data-testid="stNumberInputContainer"]{height:1.9rem;min-height:0}
</style>"""


def _note(summary: Summary, effects: Mapping[str, float]) -> str:
    parts = []
    if "val" in summary.has_predictions:
        try:
            table = cached.estimates(summary.id, "val", ("balanced_accuracy",))
            one = table["balanced_accuracy"].iloc[0]
            parts.append(f"val {one.short}")
        except (EngineError, KeyError):
            parts.append("val n/a")
    else:
        parts.append("no validation predictions")
    if summary.id in effects:
        parts.append(f"adds {effects[summary.id]:+.3f}".replace("-", "−"))
    return " · ".join(parts)


def _effects(choice: Choice, split: str) -> dict[str, float]:
    """Leave-one-out effects on validation where that exists, otherwise on what is shown."""
    if len(choice.members) < 2:
        return {}
    side = "val" if _have(choice.members, "val") else split
    try:
        return ensemble_view.leave_one_out(choice, side)
    except EngineError:
        return {}


def _have(members: Sequence[str], split: str) -> bool:
    return all(split in cached.run(run_id).predicted_splits() for run_id in members)


def _mates(summaries: Sequence[Summary], ids: Sequence[str]) -> list[str]:
    """What the buttons choose among: runs that share their validation images with the first member."""
    known = [summary.id for summary in summaries if "val" in summary.has_predictions]
    kinds = {summary.id: summary.config.kind for summary in summaries}
    start = next((run_id for run_id in ids if run_id in known), known[0] if known else "")
    if not start:
        return []
    found = [run_id for run_id in ensemble_view.mates(start, "val") if run_id in known]
    return [run_id for run_id in found if kinds[run_id] != "ensemble"]


def _tick_buttons(summaries: Sequence[Summary], mates: Sequence[str]) -> None:
    models = {
        summary.id: summary.config.model.name for summary in summaries if summary.config.kind == "train"
    }
    known = mates or [summary.id for summary in summaries]
    with st.container(horizontal=True, gap="small"):
        _button("All", "ens_all", known, "All runs that were tested on the same images")
        _button("None", "ens_none", [], "Untick all")
        for name in ensemble_view.FAMILIES:
            members = [run_id for run_id in known if ensemble_view.family(models.get(run_id, "")) == name]
            if len(members) > 1:
                _button(
                    f"All {name}", f"ens_{name}", members, f"The {len(members)} runs of the {name} family"
                )


def _button(label: str, key: str, ids: Sequence[str], help_text: str) -> None:
    st.button(label, key=key, on_click=_tick, args=(list(ids),), help=help_text)


def _tick(ids: list[str]) -> None:
    tick_list.change(KEY, ids)


def _search_buttons(mates: Sequence[str]) -> None:
    """Best of size k and greedy, both on validation."""
    if len(mates) < 2:
        return
    few = len(mates) <= subsets.MAX_SEARCH
    with st.container(horizontal=True, gap="small", vertical_alignment="bottom"):
        st.button(
            "Best of", key="ens_best", on_click=_best, args=(list(mates),), disabled=not few,
            help="The subset of this size that is best on validation, of all subsets, by mean or vote."
            if few else f"A search takes up to {subsets.MAX_SEARCH} runs; {len(mates)} are here.",
        )  # fmt: skip
        st.number_input(
            "Size", 1, len(mates), min(5, len(mates)), key="ens_size", width=110, label_visibility="collapsed"
        )
        st.button(
            "Greedy", key="ens_greedy", on_click=_greedy, args=(list(mates),),
            help="Forward selection with replacement on validation, bagged over cases; sets the weights too.",
        )  # fmt: skip


def _best(mates: list[str]) -> None:
    found = ensemble_view.search(mates)
    rank = found.best_of_size(int(st.session_state.get("ens_size", 1)))
    st.session_state["_ens_searched"] = found.tried
    if rank is not None:
        _load(found, rank)


def _load(found: subsets.Search, rank: int) -> None:
    tick_list.change(KEY, found.members(rank))
    st.session_state["ens_method"] = found.methods[int(found.method[rank])]
    st.session_state["ens_own_weights"] = False


def _greedy(mates: list[str]) -> None:
    ids, weights = ensemble_view.greedy(mates)
    tick_list.change(KEY, ids)
    st.session_state["ens_method"] = "mean"
    st.session_state["ens_own_weights"] = True
    for run_id, weight in zip(ids, weights, strict=True):
        st.session_state[f"ens_weight_{run_id}"] = weight


def _weight(item: tick_list.Item) -> None:
    key = f"ens_weight_{item.id}"
    st.session_state.setdefault(key, 1.0)
    st.slider(f"Weight of {item.label}", 0.0, 1.0, step=0.05, key=key, label_visibility="collapsed")


# --- the choice ----------------------------------------------------------------------------------------
def read_choice(known: Sequence[str], default: Sequence[str]) -> Choice:
    """The choice from the URL and the widgets of the last run; before any widget is drawn."""
    tick_list.seed("members", KEY, known, default)
    selection.choice_from_url("method", list(ensemble.METHODS), "ens_method", "mean")
    selection.choice_from_url("ties", list(TIE_RULES), "ens_ties", "mean-probability")
    members = tuple(tick_list.chosen(KEY))
    method = ensemble.method_of(st.session_state["ens_method"])
    _seed_weights(members)
    weights: tuple[float, ...] = ()
    if st.session_state["ens_own_weights"] and method.weighted:
        weights = tuple(float(st.session_state.get(f"ens_weight_{run_id}", 1.0)) for run_id in members)
    return Choice(members, method.name, weights, st.session_state["ens_ties"])


def default_members(summaries: Sequence[Summary]) -> list[str]:
    """Where the link says nothing: the newest trained runs of one test part, at most five."""
    kept = st.session_state.get(KEY)
    if kept is not None:
        return list(kept)
    single = [summary for summary in summaries if summary.config.kind != "ensemble"]
    split = "val" if single and "val" in single[0].has_predictions else "test"
    return compare_view.default_ids(single, split, most=5)


def _seed_weights(members: Sequence[str]) -> None:
    raw = selection.read("weights")
    if st.session_state.get("_weights_seen") != raw:
        values = ensemble_view.parse_weights(raw, len(members))
        st.session_state["ens_own_weights"] = bool(values)
        for run_id, value in zip(members, values, strict=False):
            st.session_state[f"ens_weight_{run_id}"] = value
        st.session_state["_weights_seen"] = raw
    st.session_state.setdefault("ens_own_weights", False)


def write_choice(choice: Choice, split: str) -> None:
    """The choice into the URL; a change made while test was in sight is remembered until all is unticked."""
    last = st.session_state.get("_ens_last")
    if not choice.members:
        st.session_state["_ens_ticked_on_test"] = False
    elif split == "test" and last not in (None, choice):
        st.session_state["_ens_ticked_on_test"] = True
    st.session_state["_ens_last"] = choice
    selection.list_to_url("members", KEY)
    text = ensemble_view.format_weights(choice.weights)
    selection.write(weights=text)
    st.session_state["_weights_seen"] = text


def controls(choice: Choice) -> None:
    """Method, ties, weights, and which images are scored."""
    with st.container(horizontal=True, gap="small", vertical_alignment="bottom"):
        st.selectbox(
            "Method", list(ensemble.METHODS), key="ens_method", width=250,
            format_func=lambda name: ensemble.METHODS[name].title,
            help=ensemble.METHODS[choice.method].help,
        )  # fmt: skip
        selection.choice_to_url("method", "ens_method", "mean")
        if choice.method == "vote":
            st.selectbox(
                "A tie goes to the class of", list(TIE_RULES), key="ens_ties", width=230,
                format_func=lambda name: TIE_RULES[name],
            )  # fmt: skip
            selection.choice_to_url("ties", "ens_ties", "mean-probability")
        st.segmented_control(
            "Scored on", list(SPLITS), key="ens_split", required=True,
            format_func=lambda name: SPLITS[name].capitalize(), disabled=len(_splits(choice)) < 2,
        )  # fmt: skip
        if ensemble.METHODS[choice.method].weighted:
            st.toggle("Own weights", key="ens_own_weights", help="A slider per member on the left.")
        if choice.members:
            save(choice)


def _splits(choice: Choice) -> list[str]:
    return [split for split in SPLITS if choice.members and _have(choice.members, split)]


def read_split(choice: Choice) -> str:
    """Validation unless the link or the switch says test (or there is no validation)."""
    there = _splits(choice)
    selection.choice_from_url("split", list(SPLITS), "ens_split", "val")
    if there and st.session_state["ens_split"] not in there:
        st.session_state["ens_split"] = there[0]
    return st.session_state["ens_split"]


# --- right: what it makes ------------------------------------------------------------------------------
def right(summaries: Mapping[str, Summary], labels: Mapping[str, str], choice: Choice, split: str) -> None:
    """Headline, warnings, matrices and one of the views.

    Raises:
        EngineError: the members do not fit together.
    """
    found = ensemble_view.answer(choice, split)
    count_tried(choice, split)
    revealed(labels)
    _badge(choice, split, [summaries[run_id] for run_id in choice.members])
    _headline(found, choice, split, labels)
    _cautions(choice, found, split, labels)
    _matrices(found, labels, split)
    st.space("small")
    key = "ens_view"
    selection.choice_from_url("view", VIEWS, key, VIEWS[0])
    view = st.segmented_control("Below", VIEWS, key=key, required=True, label_visibility="collapsed")
    selection.choice_to_url("view", key, VIEWS[0])
    if view == "Images":
        _images(choice, found, split, labels)
    elif view == "Agreement":
        _agreement(found, labels)
    elif view == "Size":
        _size(summaries, choice, labels)
    elif view == "Members":
        _members(choice, split, labels)
    else:
        _roles(choice, split, labels)


def _badge(choice: Choice, split: str, members: Sequence[Summary]) -> None:
    excluded, cases, _ = ensemble_view.seen(choice.members, split)
    if cases:
        names = ", ".join(cases[:3]) + (" ..." if len(cases) > 3 else "")
        verdict = f"Leaks: {widgets.counted(len(cases), 'scored case')} had images in a member's training set: {names}."
        widgets.leakage_badge({"level": "leak", "verdict": verdict})
    else:
        widgets.leakage_badge(widgets.leakage_of(members))
    if excluded:
        st.caption(
            f"{widgets.counted(excluded, 'image')} left out: a member was trained on them, so they are never scored."
        )


def _headline(found: Answer, choice: Choice, split: str, labels: Mapping[str, str]) -> None:
    cards = []
    for name, one in found.scores.items():
        record = metrics.score_of(name)
        gap = found.gains.get(name)
        gap_text = "&nbsp;"
        if gap is not None and gap.value == gap.value and len(choice.members) > 1:
            interval = f" [{gap.low:+.3f}, {gap.high:+.3f}]" if gap.low == gap.low else ""
            gap_text = f"{gap.value:+.3f}{interval}"
        interval = f"[{one.low:.3f}, {one.high:.3f}]" if one.low == one.low else "no interval"
        warning = f" ! {one.warning}" if one.warning else ""
        cards.append(
            f'<div class="bh-card" title="{widgets.plain(record.help + warning)}"><div class="bh-cardname">{widgets.plain(record.title)}</div>'
            f'<div class="bh-cardvalue">{widgets.number(one.value)}</div>'
            f'<div class="bh-cardline">{interval}</div>'
            f'<div class="bh-cardline"><b>{gap_text}</b></div>'
            f'<div class="bh-cardline bh-muted">larger class {widgets.number(found.baseline.get(name))}</div></div>'
        )
    st.html(f'<div class="bh-cards">{"".join(cards)}</div>{_CARD_STYLE}')
    result = found.outcome
    cases = f", {widgets.counted(result.n_cases, 'case')}" if result.n_cases else ""
    where = "validation" if "val" in cached.run(found.best).predicted_splits() else SPLITS[split]
    against = (
        f" Bold: paired difference to the best member ({labels[found.best]}, chosen on {where})."
        if len(choice.members) > 1
        else ""
    )
    ties = ""
    if choice.method == "vote":
        ties = (
            f" {widgets.counted(found.combined.ties, 'tied vote')}, decided by {TIE_RULES[choice.tie_rule]}."
        )
    note = f" {compare_view.named_note(found.source.note, labels)}." if found.source.note else ""
    st.caption(
        widgets.escaped(
            f"{SPLITS[split].capitalize()}, n = {widgets.counted(len(result), 'image')}{cases}. "
            f"95% intervals: {found.scores['balanced_accuracy'].method}.{against}{ties}{note}"
        )
    )


_CARD_STYLE = """<style>
.bh-cards{display:grid;grid-template-columns:repeat(4,minmax(0,1fr));gap:.6rem}
.bh-card{border:1px solid color-mix(in srgb,currentColor 16%,transparent);border-radius:6px;padding:.5rem .75rem;
 font-variant-numeric:tabular-nums}
.bh-cardname{font-size:.8rem;opacity:.8}.bh-cardvalue{font-size:1.5rem;font-weight:600;line-height:1.25}
.bh-cardline{font-size:.8rem;line-height:1.4}
</style>"""


def _cautions(choice: Choice, found: Answer, split: str, labels: Mapping[str, str]) -> None:
    """What to beware of, one line each."""
    chosen_on = "test" if split == "test" and st.session_state.get("_ens_ticked_on_test") else ""
    lines = []
    if split == "test":
        lines.append(
            ("You are looking at test. A choice made while looking at it makes the test score flattering: choose on validation.", chosen_on == "test")
        )  # fmt: skip
    for one in ensemble_view.cautions(choice, found, split, chosen_on):
        if one.kind not in ("leakage", "trained-on-scored", "ties"):
            lines.append((compare_view.named_note(one.message, labels), one.serious))
    if lines:
        rows = "".join(
            f'<li class="{"bh-serious" if serious else ""}">{widgets.plain(text.rstrip("."))}.</li>'
            for text, serious in lines
        )
        st.html(
            f'<ul class="bh-cautions" role="note">{rows}</ul><style>.bh-cautions{{margin:0;padding-left:1.1rem;'
            "font-size:.86rem;line-height:1.45}.bh-cautions .bh-serious{color:var(--st-red-color,#B3261E);font-weight:600}</style>"
        )


def _matrices(found: Answer, labels: Mapping[str, str], split: str) -> None:
    names = [name for name in found.matrices if name != "all"]
    parts = [*order_magnifications(names), "all"]
    classes = found.source.classes
    own = confusion.Row(OWN, "Ensemble", ACCENT, found.matrices)
    colours = widgets.run_colours()
    best = confusion.Row(
        found.best,
        f"{labels[found.best]} (best member)",
        colours.get(found.best, "#888888"),
        found.best_matrices,
    )
    rows = [own, best] if len(found.source.ids) > 1 else [own]
    cell = compare_view.parse_cell(selection.read("cell"), [OWN, found.best], classes)
    fig = confusion.figure(
        rows,
        parts,
        classes,
        chosen=(cell.entry, cell.part, cell.true, cell.guess) if cell else None,
        changed=ensemble_view.changed_cells(found.matrices, found.best_matrices) if len(rows) > 1 else None,
        dark=widgets.is_dark(),
    )
    chart = f"ens_matrices_{split}_{len(rows)}"
    letters = confusion.legend(classes)
    widgets.show_figure(
        fig,
        f"Rows: true class, columns: predicted ({letters}). Colour: share of the true class. "
        "Dotted: cells that differ from the best member. Below each: balanced accuracy and n. Click a cell to see its images.",
        confusion.alt_text(rows, parts, classes),
        chart,
        on_select=lambda: _clicked(chart),
    )


def _clicked(chart: str) -> None:
    cell = compare_view.clicked_cell(st.session_state.get(chart))
    if cell is not None:
        selection.write(cell=cell.text, show=None, page=None)


# --- views ---------------------------------------------------------------------------------------------
def _images(choice: Choice, found: Answer, split: str, labels: Mapping[str, str]) -> None:
    table = ensemble_view.opinions(choice, split)
    cell = compare_view.parse_cell(selection.read("cell"), [OWN, *choice.members], found.source.classes)
    names = [name for name in SHOWS if name != "ties" or choice.method == "vote"]
    asked = selection.read("show", names[0])
    here = asked if asked in names else names[0]
    options = ["", *names] if cell else names
    picked = st.selectbox(
        "Show",
        options,
        index=0 if cell else names.index(here),
        format_func=lambda name: SHOWS[name] if name else "The clicked cell",
        key=f"ens_show_{cell.text if cell else here}",
        width=460,
    )
    if picked and (cell or picked != here):
        selection.write(cell=None, show=picked, page=None)
        st.rerun()
    if cell and not picked:
        rows = compare_view.cell_images(table, Cell(cell.entry, *cell.text.split(",")[1:]), "magnification")
        who = "the ensemble" if cell.entry == OWN else labels[cell.entry]
        sentence = compare_view.cell_sentence(cell, {**labels, OWN: who}, len(rows))
    else:
        tied = dict(zip(found.table["image_id"], found.combined.tied, strict=True))
        rows = ensemble_view.images_of(table, here, found.best, [tied[name] for name in table["image_id"]])
        sentence = f"{widgets.counted(len(rows), 'image')}. {SHOWS[here]}"
    colours = widgets.run_colours()
    lines = [Line(OWN, "Ensemble", ACCENT, False)]
    lines += [
        Line(run_id, labels[run_id], colours.get(run_id, "#888888"), False) for run_id in choice.members
    ]
    gallery.draw(rows, lines, compare_view.image_paths(choice.members), sentence, key="ens", width=5)


def _agreement(found: Answer, labels: Mapping[str, str]) -> None:
    source = found.source
    if len(source) < 2:
        st.info("Agreement needs two members.", icon=":material/help:")
        return
    measure = st.segmented_control(
        "Measure", list(MEASURES), key="ens_measure", required=True, default="disagreement",
        format_func=lambda name: MEASURES[name], label_visibility="collapsed",
    ) or "disagreement"  # fmt: skip
    pairs = diversity.pairs(source)
    names = [labels[run_id] for run_id in source.ids]
    matrix = diversity.pair_matrix(source, measure)
    fig = figures.agreement_map(matrix, names, MEASURES[measure], dark=widgets.is_dark())
    oracle = diversity.oracle_errors(source)
    st.plotly_chart(
        widgets.themed(fig), theme=None, width="content", key=f"ens_agreement_{measure}_{len(source)}",
        config={"displayModeBar": False}, alt=f"{MEASURES[measure]} of {len(pairs)} pairs of members.",
    )  # fmt: skip
    few = int(pairs["few"].sum()) if "few" in pairs.columns else 0
    st.caption(
        widgets.escaped(
            f"Per pair of members, on {widgets.counted(len(found.outcome), 'image')}. Every member is wrong on {oracle} of them: "
            "what no vote can mend. Undefined is n/a."
            + (f" {few} pairs have so few errors that only their counts mean anything." if few else "")
        )
    )
    with st.expander("Counts of every pair", expanded=bool(few)):
        st.dataframe(
            pairs.replace({"first": dict(labels), "second": dict(labels)}), hide_index=True, key="ens_pairs"
        )


def _size(summaries: Mapping[str, Summary], choice: Choice, labels: Mapping[str, str]) -> None:
    """Every subset as a point, on validation; a click loads it."""
    mates = _mates(list(summaries.values()), choice.members)
    if len(mates) < 2 or len(mates) > subsets.MAX_SEARCH:
        st.info(
            f"Every combination is scored for 2 to {subsets.MAX_SEARCH} runs with the same validation images; there are {len(mates)}.",
            icon=":material/help:",
        )
        return
    found = ensemble_view.search(mates)
    points = diversity.size_points(found, dict(labels))
    chosen = rank_of(found, choice)
    fig = figures.accuracy_by_size(points, chosen=chosen, dark=widgets.is_dark())
    chart = "ens_sizes"
    widgets.show_figure(
        fig,
        f"{found.tried:,} combinations of {len(mates)} runs by mean and by vote, balanced accuracy on validation "
        f"(n = {found.n:,} images, {found.n_cases} cases). Ring: this choice. Click a point to load it.",
        f"Balanced accuracy on validation of {found.tried} ensembles against their number of members.",
        chart,
        on_select=lambda: _load_point(chart, mates),
    )
    guess = ensemble_view.optimism(mates)
    if guess is not None:
        st.caption(widgets.escaped(f"What searching made of it: {guess}."))
    top = st.dataframe(
        _ranking(found, labels),
        hide_index=True,
        key="ens_ranking",
        on_select="rerun",
        selection_mode="single-row",
    )
    rows = top["selection"]["rows"] if top else []
    if rows and st.button("Load the selected row", key="ens_load_row", icon=":material/upload:"):
        _load_on_next(found, int(rows[0]))


def rank_of(found: subsets.Search, choice: Choice) -> int | None:
    """The rank (from 1) of a choice among all that were searched; None for other methods or own weights."""
    if choice.method not in found.methods or choice.weights or not set(choice.members) <= set(found.ids):
        return None
    wanted = [name in choice.members for name in found.ids]
    same = (found.subsets == wanted).all(axis=1) & (found.method == found.methods.index(choice.method))
    ranks = same.nonzero()[0]
    return int(ranks[0]) + 1 if len(ranks) else None


def _ranking(found: subsets.Search, labels: Mapping[str, str]):
    import pandas as pd

    rows = [
        {
            "Rank": rank + 1,
            "Balanced accuracy": row["score"],
            "Method": row["method"],
            "Size": len(row["members"]),
            "Members": ", ".join(labels[run_id] for run_id in row["members"]),
        }
        for rank, row in enumerate(found.records(50))
    ]
    return pd.DataFrame(rows)


def _load_point(chart: str, mates: Sequence[str]) -> None:
    state = st.session_state.get(chart) or {}
    for point in (state.get("selection") or {}).get("points") or []:
        data = point.get("customdata")
        rank = data[0] if isinstance(data, list) else (data or {}).get("0")
        if rank:
            _load(ensemble_view.search(mates), int(rank) - 1)
            return


def _load_on_next(found: subsets.Search, rank: int) -> None:
    st.session_state["_ens_load"] = (list(found.members(rank)), found.methods[int(found.method[rank])])
    st.rerun()


def take_loaded() -> None:
    """Apply what a button below the widgets asked for; called before any widget is drawn."""
    asked = st.session_state.pop("_ens_load", None)
    if asked:
        tick_list.change(KEY, asked[0])
        st.session_state["ens_method"] = asked[1]
        st.session_state["ens_own_weights"] = False


def _members(choice: Choice, split: str, labels: Mapping[str, str]) -> None:
    if len(choice.members) > subsets.MAX_SEARCH:
        st.info(f"Shapley values are exact for up to {subsets.MAX_SEARCH} members.", icon=":material/help:")
        return
    side = "val" if _have(choice.members, "val") else split
    table = ensemble_view.shapley(choice, side)
    method = choice.method if choice.method in ("mean", "vote") else "mean"
    fig = figures.contributions(
        table,
        "shapley",
        "Share of the gain in balanced accuracy",
        labels,
        colours=widgets.run_colours(),
        dark=widgets.is_dark(),
    )
    full, empty = float(table["full"].iloc[0]), float(table["empty"].iloc[0])
    widgets.show_figure(
        fig,
        f"Exact Shapley values by {method} on {SPLITS[side]}: each member's mean contribution over all orders of joining. "
        f"They sum to {full:.3f} - {empty:.3f} = {full - empty:.3f}.",
        "Shapley value per member: "
        + ", ".join(f"{labels[m]} {v:+.3f}" for m, v in zip(table["member"], table["shapley"], strict=True)),
        "ens_shapley",
    )


def _roles(choice: Choice, split: str, labels: Mapping[str, str]) -> None:
    audit = ensemble_view.role_audit(choice.members, split)
    for sentence in audit.sentences:
        st.markdown(f"- {widgets.escaped(compare_view.named_note(sentence, labels))}.")
    fig = figures.role_map(audit.table, dict(labels), dark=widgets.is_dark())
    widgets.show_figure(
        fig,
        f"Each scored case of {SPLITS[split]}: what its images were to each member.",
        "Roles of cases per member. " + ". ".join(audit.sentences),
        f"ens_roles_{split}_{len(choice.members)}",
    )


# --- save ----------------------------------------------------------------------------------------------
def save(choice: Choice) -> None:
    """Save the choice as a run of its own, under a name."""
    who = access.actor()
    reason = places.read_only_reason() or ("" if who.may_edit else who.reason or "You may only read")
    with st.popover("Save as a run", icon=":material/save:", disabled=bool(reason), help=reason or None):
        suggestion = f"{ensemble.METHODS[choice.method].title} of {len(choice.members)}"
        with st.form("ens_save", border=False):
            name = st.text_input("Name", value=suggestion, max_chars=120, key=f"ens_name_{suggestion}")
            done = st.form_submit_button("Save", type="primary")
            lock = st.form_submit_button(
                "Lock and reveal test",
                icon=":material/lock:",
                help="Saves this choice as it is, with how many choices were looked at, and then shows its test score once.",
            )
        st.caption("Members, weights and predictions are stored; no weights are copied.")
        if done or lock:
            with widgets.errors_shown():
                saved = _save(choice, name.strip() or suggestion, locked=lock)
                st.session_state["_ens_saved"] = saved
                st.session_state["_ens_revealed"] = saved if lock else ""
                st.rerun()
    saved = st.session_state.get("_ens_saved")
    if saved:
        st.page_link(
            places.page("compare"), label="Saved: compare it", icon=":material/compare_arrows:",
            query_params={"runs": ",".join([saved, *choice.members[:5]])},
        )  # fmt: skip


def revealed(labels: Mapping[str, str]) -> None:
    """The test score of the choice that was locked in this session, with what was tried before."""
    run_id = st.session_state.get("_ens_revealed")
    if not run_id:
        return
    with widgets.errors_shown():
        folder = cached.run(run_id)
        details = folder.config().details
        one = cached.estimates(run_id, "test", ("balanced_accuracy",))["balanced_accuracy"].iloc[0]
        side = SPLITS[details.get("chosen_on", "val")]
        st.success(
            widgets.escaped(
                f"Locked: {folder.name}. Balanced accuracy on test {one}. Chosen on {side} after "
                f"{widgets.counted(int(details.get('tried', 1)), 'choice')} had been looked at."
            ),
            icon=":material/lock:",
        )


def count_tried(choice: Choice, split: str, searched: int = 0) -> None:
    """Remember how many choices were looked at in this session: what optimism grows with."""
    tried = st.session_state.setdefault("_ens_tried", set())
    tried.add((choice, split))
    st.session_state["_ens_searched"] = max(searched, st.session_state.get("_ens_searched", 0))


def _save(choice: Choice, name: str, locked: bool = False) -> str:
    access.require_editor("save an ensemble")
    members = [cached.run(run_id) for run_id in choice.members]
    looked = bool(st.session_state.get("_ens_ticked_on_test"))
    folder = ensembles.save_ensemble(
        members,
        choice.method,
        name,
        places.runs_folder(),
        weights=list(choice.weights) or None,
        tie_rule=choice.tie_rule,
        notes={
            "chosen_on": "test" if looked else "val",
            "tried": max(
                len(st.session_state.get("_ens_tried", ())), st.session_state.get("_ens_searched", 0)
            ),
            "locked": locked,
        },
    )
    return folder.id
