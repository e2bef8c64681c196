"""The views below the matrices of the ensemble page: images, agreement, size, members, roles."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd
import streamlit as st

from dashboard import (
    compare_view,
    ensemble_choice,
    ensemble_list,
    ensemble_view,
    gallery,
    selection,
    widgets,
)
from dashboard.compare_view import Cell, Line
from dashboard.ensemble_members import SPLITS
from dashboard.ensemble_view import OWN, Answer, Choice
from engine import wording
from engine.analysis import curves, diversity, subsets
from engine.report import curve_figures, ensemble_figures, theme
from engine.runs.folder import Summary

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
COUNTED = {"disagreement": "Images they disagree on", "double_fault": "Images both have wrong"}
MOST_POINTS = 8192


def draw(
    summaries: Sequence[Summary], labels: Mapping[str, str], choice: Choice, found: Answer, split: str
) -> None:
    """One of the views, by the URL. choice: resolved; summaries: the runs that can be members."""
    key = "ens_view"
    selection.choice_from_url("view", VIEWS, key, VIEWS[0])
    view = st.segmented_control("Below", VIEWS, key=key, required=True, label_visibility="collapsed")
    selection.choice_to_url("view", key, VIEWS[0])
    if view == "Images":
        _images(choice, found, split, labels)
    elif view == "Agreement":
        _agreement(found, labels)
        _referral(found)
    elif view == "Size":
        _size(summaries, choice, labels)
    elif view == "Members":
        _members(choice, split, labels)
    else:
        _roles(choice, split, labels)


# --- images --------------------------------------------------------------------------------------------
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
    lines = [Line(OWN, "Ensemble", theme.accent(widgets.is_dark()), False)]
    lines += [
        Line(run_id, labels[run_id], colours.get(run_id, "#888888"), False) for run_id in choice.members
    ]
    gallery.draw(rows, lines, compare_view.image_paths(choice.members), sentence, key="ens", width=5)


# --- agreement -----------------------------------------------------------------------------------------
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
    few = int(pairs["few_errors"].sum())
    counted = bool(few) and measure in COUNTED
    matrix = diversity.pair_matrix(source, measure, counts=counted)
    title = COUNTED[measure] if counted else MEASURES[measure]
    hidden = diversity.pair_matrix(source, "few_errors") == 1 if few and not counted else None
    fig = ensemble_figures.agreement_map(
        matrix, names, title, counts=counted, few=hidden, dark=widgets.is_dark()
    )
    oracle = diversity.oracle_errors(source)
    st.plotly_chart(
        widgets.themed(fig), theme=None, width="content", key=f"ens_agreement_{measure}_{len(source)}",
        config={"displayModeBar": False}, alt=_agreement_words(pairs, measure, labels),
    )  # fmt: skip
    sentence = (
        f" In {few} of {len(pairs)} pairs a member errs on fewer than {diversity.FEW_ERRORS} images: there counts say more "
        "than coefficients do."
    )
    st.caption(
        widgets.escaped(
            f"Per pair of members, on {widgets.counted(len(found.outcome), 'image')}. Every member is wrong on {oracle} of them: "
            f"what no vote can mend. Undefined is n/a.{sentence if few else ''}"
        )
    )
    with st.expander("Counts of every pair", expanded=bool(few)):
        st.dataframe(pairs_table(pairs, labels), hide_index=True, key="ens_pairs")


def pairs_table(pairs: pd.DataFrame, labels: Mapping[str, str]) -> pd.DataFrame:
    """`diversity.pairs` for reading: names for ids, words for columns, three digits."""
    shown = pairs.replace({"first": dict(labels), "second": dict(labels)}).round(3)
    shown["few_errors"] = shown["few_errors"].map({True: "yes", False: "no"})
    return shown.rename(
        columns={
            "both_right": "Both right",
            "first_only": "Only first right",
            "second_only": "Only second right",
            "both_wrong": "Both wrong",
            "double_fault": "Share both wrong",
            "few_errors": "Few errors",
            **{name: words for name, words in MEASURES.items() if name != "double_fault"},
        }
    ).rename(columns=str.capitalize)


def _agreement_words(pairs: pd.DataFrame, measure: str, labels: Mapping[str, str]) -> str:
    """The heat map for those who cannot see it: each pair with its number."""
    parts = [
        f"{labels[str(a)]} and {labels[str(b)]}: {widgets.number(float(value))}"
        for a, b, value in zip(pairs["first"], pairs["second"], pairs[measure], strict=True)
    ]
    return f"{MEASURES[measure]} of {len(pairs)} pairs of members. " + "; ".join(parts[:12])


def _referral(found: Answer) -> None:
    """Error rate among the images the members agree on, against how many these are."""
    if len(found.source) < 2:
        return
    shares = diversity.agreement(found.source)["share"].to_numpy()
    by_agreement = curves.risk_coverage(found.outcome, shares)
    lines = [
        curve_figures.Line(
            "agreement", "by agreement of members", by_agreement, theme.accent(widgets.is_dark())
        ),
        curve_figures.Line(
            "confidence", "by the ensemble's probability", curves.risk_coverage(found.outcome), "#7A7A7A"
        ),
    ]
    full = by_agreement.iloc[0]
    widgets.show_figure(
        curve_figures.risk_coverage(lines, dark=widgets.is_dark()),
        f"Risk and coverage: images are judged from the most agreed on, the rest is referred. Members are unanimous on "
        f"{full['coverage']:.0%} of the images; among these {full['risk']:.1%} are wrong.",
        f"Error rate against coverage. Unanimous: coverage {full['coverage']:.2f}, error rate {full['risk']:.3f}; "
        f"all images: error rate {by_agreement['risk'].iloc[-1]:.3f}.",
        "ens_referral",
    )


# --- size ----------------------------------------------------------------------------------------------
def _size(summaries: Sequence[Summary], choice: Choice, labels: Mapping[str, str]) -> None:
    """Every subset as a point, on validation; a click loads it. choice: resolved."""
    asked = st.session_state.get("_ens_last") or choice
    able = ensemble_list.searchable(ensemble_list.mates_of(summaries, asked.members), asked)
    if len(able) < 2 or len(able) > subsets.MAX_SEARCH:
        more = " Greedy, on the left, searches among more." if len(able) > subsets.MAX_SEARCH else ""
        st.info(
            f"Every combination is scored for 2 to {subsets.MAX_SEARCH} runs with the same validation images; "
            f"there are {len(able)}.{more}",
            icon=":material/help:",
        )
        return
    found = ensemble_view.search(able, choice.per_case)
    ensemble_choice.remember_search(found)
    points = ensemble_view.size_points(found, dict(labels), MOST_POINTS)
    chosen = rank_of(found, choice)
    fig = ensemble_figures.accuracy_by_size(points, chosen=chosen, dark=widgets.is_dark())
    chart = "ens_sizes"
    hidden = f" The best {len(points):,} are drawn." if len(points) < found.tried else ""
    place = f" This choice (ring) ranks {chosen:,}." if chosen else ""
    widgets.show_figure(
        fig,
        f"{found.tried:,} combinations of {len(able)} runs by mean and by vote, balanced accuracy on validation "
        f"(n = {found.n:,} images, {found.n_cases} cases).{hidden}{place} Click a point to load it.",
        f"Balanced accuracy on validation of {found.tried} ensembles against their number of members; the best has "
        f"{widgets.number(float(found.score[0]))} with {int(found.subsets[0].sum())} members.",
        chart,
        on_select=lambda: _load_point(chart, able, choice.per_case),
    )
    guess = ensemble_view.optimism(able, choice.per_case)
    st.caption(
        widgets.escaped(f"What searching made of it: {guess}.")
        if guess
        else "What searching made of it cannot be estimated: it takes two cases per class that can be held out."
    )
    top = st.dataframe(
        _ranking(found, labels),
        hide_index=True,
        key="ens_ranking",
        on_select="rerun",
        selection_mode="single-row",
    )
    rows = top["selection"]["rows"] if top else []
    if rows and st.button("Load the selected row", key="ens_load_row", icon=":material/upload:"):
        ensemble_choice.put_on_next(ensemble_choice.of_rank(found, int(rows[0])))


def rank_of(found: subsets.Search, choice: Choice) -> int | None:
    """The rank (from 1) of a choice among all that were searched; None for other methods or own weights."""
    if choice.method not in found.methods or choice.weights or not set(choice.members) <= set(found.ids):
        return None
    wanted = [name in choice.members for name in found.ids]
    same = (found.subsets == wanted).all(axis=1) & (found.method == found.methods.index(choice.method))
    ranks = same.nonzero()[0]
    return int(ranks[0]) + 1 if len(ranks) else None


def _ranking(found: subsets.Search, labels: Mapping[str, str]) -> pd.DataFrame:
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


def _load_point(chart: str, able: Sequence[str], per_case: bool) -> None:
    rank = clicked_rank(st.session_state.get(chart))
    if rank:
        ensemble_choice.put(ensemble_choice.of_rank(ensemble_view.search(able, per_case), rank - 1))


def clicked_rank(event: object) -> int | None:
    """The rank (from 1) of the point that was clicked; None where none was."""
    chosen = (event or {}).get("selection") if isinstance(event, Mapping) else None
    for point in (chosen or {}).get("points") or []:
        data = point.get("customdata")
        rank = data[0] if isinstance(data, list) else (data or {}).get("0")
        if rank:
            return int(rank)
    return None


# --- members and roles ---------------------------------------------------------------------------------
def _members(choice: Choice, split: str, labels: Mapping[str, str]) -> None:
    if len(choice.members) > subsets.MAX_SEARCH:
        st.info(f"Shapley values are exact for up to {subsets.MAX_SEARCH} members.", icon=":material/help:")
        return
    side = "val" if ensemble_choice.have(choice.members, "val") else split
    table = ensemble_view.shapley(choice, side)
    method = choice.method if choice.method in ("mean", "vote") else "mean"
    fig = ensemble_figures.contributions(
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
        f"They sum to {full:.3f} − {empty:.3f} = {full - empty:.3f}.",
        "Shapley value per member: "
        + ", ".join(
            f"{labels[m]} {wording.signed(v)}" for m, v in zip(table["member"], table["shapley"], strict=True)
        ),
        "ens_shapley",
    )


def _roles(choice: Choice, split: str, labels: Mapping[str, str]) -> None:
    audit = ensemble_view.role_audit(choice.members, split)
    for sentence in audit.sentences:
        st.markdown(f"- {widgets.escaped(compare_view.named_note(sentence, labels))}.")
    table = ensemble_view.with_own_roles(audit.table, choice)
    titles = {**labels, OWN: "This ensemble"}
    fig = ensemble_figures.role_map(table, titles, scored=audit.scored_cases, dark=widgets.is_dark())
    widgets.show_figure(
        fig,
        f"What the images of each case were to each member; left of the line the cases of {SPLITS[split]}, which are scored. "
        "T: trained on, S: selected on (checkpoint, or members), F: a fusion or a method was fitted on it, E: tested only.",
        "Roles of cases per member. " + ". ".join(audit.sentences),
        f"ens_roles_{split}_{len(choice.members)}",
    )
    counts = audit.counts.assign(member=[titles.get(str(one), str(one)) for one in audit.counts["member"]])
    counts.columns = ["Member", "Images trained on", "selected on", "fused on", "tested on"]
    st.dataframe(counts, hide_index=True, key="ens_role_counts")
