"""The left column of the ensemble page: a box per checkpoint, and the buttons that tick for you."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import streamlit as st

from dashboard import (
    cached,
    ensemble_choice,
    ensemble_cubes,
    ensemble_members,
    ensemble_view,
    tick_list,
    widgets,
)
from dashboard.ensemble_choice import KEY
from dashboard.ensemble_view import Choice
from engine.analysis import subsets
from engine.errors import EngineError
from engine.runs.folder import Summary
from engine.wording import signed


def draw(
    summaries: Sequence[Summary],
    by_id: Mapping[str, Summary],
    labels: Mapping[str, str],
    choice: Choice,
    split: str,
) -> None:
    """Boxes with validation score, leave-one-out effect, size, latency and compatibility.

    summaries: the runs that can be members. by_id: every run.
    """
    ids = list(choice.members)
    _undo_buttons(f"**Members** · {len(ids)} of {len(summaries)}")
    mates = mates_of(summaries, ids)
    with st.container(key="ens_buttons", gap="small"):
        _tick_buttons(summaries, mates)
        _search_buttons(mates, choice)
    st.html(_BUTTON_STYLE)
    effects = _effects(choice, split)
    colours = widgets.run_colours()
    problems = ensemble_members.fit_problems([summary.id for summary in summaries], choice.members, split)
    items = []
    for summary in summaries:
        problem, refused = problems.get(summary.id, ("", False))
        items.append(
            tick_list.Item(
                summary.id,
                labels[summary.id],
                colours.get(summary.id, "#888888"),
                leaks=summary.audit.get("level") == "leak",
                note=_note(summary, by_id, effects, problem),
                help=_help(summary),
                disabled=f"Cannot join this choice: {problem}" if refused else "",
            )
        )
    own = st.session_state.get("ens_own_weights", False)
    tick_list.draw(items, KEY, height=760, extra=_weight if own else None)


def _undo_buttons(title: str) -> None:
    st.markdown(title)
    with st.container(horizontal=True, gap="small", vertical_alignment="center", key="ens_steps"):
        st.button(
            "Undo", key="ens_undo", icon=":material/undo:", type="tertiary",
            disabled=not ensemble_choice.can_undo(), on_click=ensemble_choice.undo, shortcut="Ctrl+Z",
        )  # fmt: skip
        st.button(
            "Redo", key="ens_redo", icon=":material/redo:", type="tertiary",
            disabled=not ensemble_choice.can_redo(), on_click=ensemble_choice.redo, shortcut="Ctrl+Y",
        )  # fmt: skip


_BUTTON_STYLE = """<style>
.st-key-ens_buttons button{min-height:1.9rem;padding:.1rem .55rem}
.st-key-ens_buttons button p{font-size:.87rem}
.st-key-ens_buttons [data-testid="stNumberInputContainer"]{height:1.9rem;min-height:0}
</style>"""


def _note(summary: Summary, by_id: Mapping[str, Summary], effects: Mapping[str, float], problem: str) -> str:
    """Two lines: how good and what it adds; what it costs, and what is wrong with it here."""
    parts = []
    if "val" in summary.has_predictions:
        parts.append(ensemble_view.val_words(summary.id))
    else:
        parts.append("no validation predictions")
    if summary.id in effects:
        parts.append(f"adds {signed(effects[summary.id])}")
    lines = [" · ".join(parts)]
    cost = ensemble_members.cost(summary.id, by_id).text
    if cost:
        lines.append(cost)
    if problem:
        lines.append(f"! {problem}")
    return "\n".join(lines)


def _help(summary: Summary) -> str:
    if summary.config.kind in ("import", "pooled"):
        return ""
    return (
        "Size of the weights; time per image as measured when its predictions were made, on the device it ran on. "
        "Adds: balanced accuracy of the choice minus the same without this member."
    )


def _effects(choice: Choice, split: str) -> dict[str, float]:
    """Leave-one-out effects on validation where that exists, otherwise on what is shown; by the ids that are ticked."""
    try:
        shown = ensemble_view.resolved(choice)
        side = "val" if ensemble_choice.have(shown.members, "val") else split
        effects = ensemble_view.leave_one_out(shown, side)
    except EngineError:
        return {}
    return {
        base: effects[own] for base, own in zip(choice.members, shown.members, strict=True) if own in effects
    }


def mates_of(summaries: Sequence[Summary], ids: Sequence[str]) -> list[str]:
    """What the buttons choose among: runs that share their validation images with the first member."""
    known = [summary.id for summary in summaries if "val" in summary.has_predictions]
    kinds = {summary.id: summary.config.kind for summary in summaries}
    start = next((run_id for run_id in ids if run_id in known), known[0] if known else "")
    if not start:
        return []
    found = [run_id for run_id in ensemble_cubes.mates(start, "val") if run_id in known]
    return [run_id for run_id in found if kinds[run_id] != "ensemble"]


def searchable(mates: Sequence[str], choice: Choice) -> list[str]:
    """The runs a search combines: the mates, with test-time augmentation where that is on."""
    if not choice.tta:
        return list(mates)
    return list(ensemble_members.augmented(mates).values())


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


def _search_buttons(mates: Sequence[str], choice: Choice) -> None:
    """Best of size k and greedy, both on validation."""
    able = searchable(mates, choice)
    if len(able) < 2:
        return
    few = len(able) <= subsets.MAX_SEARCH
    with st.container(horizontal=True, gap="small", vertical_alignment="bottom"):
        st.button(
            "Best of", key="ens_best", on_click=_best, args=(able, choice.per_case), disabled=not few,
            help="The subset of this size that is best on validation, of all subsets, by mean or vote."
            if few else f"A search takes up to {subsets.MAX_SEARCH} runs; {len(able)} are here.",
        )  # fmt: skip
        st.number_input(
            "Size", 1, len(able), min(5, len(able)), key="ens_size", width=84, label_visibility="collapsed"
        )
        st.button(
            "Greedy", key="ens_greedy", on_click=_greedy, args=(able, choice),
            help="Forward selection with replacement on validation, bagged over cases; sets the weights too.",
        )  # fmt: skip


def _best(able: list[str], per_case: bool) -> None:
    found = ensemble_view.search(able, per_case)
    rank = found.best_of_size(int(st.session_state.get("ens_size", 1)))
    ensemble_choice.remember_search(found)
    if rank is not None:
        ensemble_choice.put(ensemble_choice.of_rank(found, rank))


def _greedy(able: list[str], choice: Choice) -> None:
    ids, weights = ensemble_view.greedy(able, choice.per_case)
    if choice.tta:
        back = {made: run_id for run_id, made in ensemble_members.augmented(_bases()).items()}
        ids = [back.get(one, one) for one in ids]
    ensemble_choice.put(
        Choice(tuple(ids), "mean", tuple(weights), choice.tie_rule, choice.tta, choice.per_case)
    )


def _bases() -> list[str]:
    return [summary.id for summary in ensemble_members.candidates(cached.summaries())]


def _weight(item: tick_list.Item) -> None:
    key = ensemble_choice.weight_key(item.id)
    st.session_state.setdefault(key, 1.0)
    st.slider(f"Weight of {item.label}", 0.0, 1.0, step=0.05, key=key, label_visibility="collapsed")
