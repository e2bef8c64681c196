"""The choice of the ensemble page: in the URL, in the widgets of the last run, and its history.

A choice is members, method, weights, tie rule and two switches. Undo and redo go through whole choices, so that
what greedy selection or a click on a point changed comes back in one step.
"""

from __future__ import annotations

from collections.abc import Sequence

import streamlit as st

from dashboard import cached, compare_view, ensemble_members, ensemble_view, selection, tick_list
from dashboard.ensemble_members import SPLITS
from dashboard.ensemble_view import Choice
from engine.analysis import ensemble, subsets
from engine.runs.folder import Summary

KEY = "ensemble_members"
TIE_RULES = {"mean-probability": "mean probability", "lowest-label": "lowest label (as the study)"}
KEPT_STEPS = 50


# --- reading -------------------------------------------------------------------------------------------
def read(known: Sequence[str], default: Sequence[str]) -> Choice:
    """The choice from the URL and the widgets of the last run; before any widget is drawn."""
    _take_asked()
    tick_list.seed("members", KEY, known, default)
    selection.choice_from_url("method", list(ensemble.METHODS), "ens_method", "mean")
    selection.choice_from_url("ties", list(TIE_RULES), "ens_ties", "mean-probability")
    for param, key in (("tta", "ens_tta"), ("per_case", "ens_per_case")):
        _seed_switch(param, key)
    members = tuple(tick_list.chosen(KEY))
    method = ensemble.method_of(st.session_state["ens_method"])
    _seed_weights(members)
    weights: tuple[float, ...] = ()
    if st.session_state["ens_own_weights"] and method.weighted:
        weights = tuple(float(st.session_state.get(weight_key(one), 1.0)) for one in members)
    switches = st.session_state["ens_tta"], st.session_state["ens_per_case"]
    choice = Choice(members, method.name, weights, st.session_state["ens_ties"], *switches)
    _record_step(choice)
    return choice


def _record_step(choice: Choice) -> None:
    """A step of history where the choice is another than before; now, so that undo is there at once."""
    last = st.session_state.get("_ens_last")
    if not st.session_state.pop("_ens_stepped", False) and last is not None and last != choice:
        st.session_state["_ens_past"] = [*st.session_state.get("_ens_past", []), last][-KEPT_STEPS:]
        st.session_state["_ens_future"] = []
    st.session_state["_ens_last"] = choice


def default_members(summaries: Sequence[Summary]) -> list[str]:
    """Where the link says nothing: the newest trained runs of one test part, at most five."""
    kept = st.session_state.get(KEY)
    if kept is not None:
        return list(kept)
    single = [summary for summary in summaries if summary.config.kind != "ensemble"]
    split = "val" if single and "val" in single[0].has_predictions else "test"
    return compare_view.default_ids(single, split, most=5)


def weight_key(run_id: str) -> str:
    return f"ens_weight_{run_id}"


def _seed_switch(param: str, key: str) -> None:
    raw = selection.read(param)
    if st.session_state.get(f"_{key}_seen") != raw:
        st.session_state[key] = raw == "1"
        st.session_state[f"_{key}_seen"] = raw
    st.session_state.setdefault(key, False)


def _seed_weights(members: Sequence[str]) -> None:
    raw = selection.read("weights")
    if st.session_state.get("_weights_seen") != raw:
        values = ensemble_view.parse_weights(raw, len(members))
        st.session_state["ens_own_weights"] = bool(values)
        for run_id, value in zip(members, values, strict=False):
            st.session_state[weight_key(run_id)] = value
        st.session_state["_weights_seen"] = raw
    st.session_state.setdefault("ens_own_weights", False)


# --- which images --------------------------------------------------------------------------------------
def splits(choice: Choice) -> list[str]:
    """Splits that all members have predictions for."""
    return [split for split in SPLITS if choice.members and have(choice.members, split)]


def have(members: Sequence[str], split: str) -> bool:
    return all(split in cached.run(run_id).predicted_splits() for run_id in members)


def read_split(choice: Choice, locked: str) -> str:
    """What is scored: validation, while there is some and the choice is not locked; test stays covered.

    choice: resolved. locked: the run that locked it, empty where none did.
    """
    there = splits(choice)
    selection.choice_from_url("split", list(SPLITS), "ens_split", "val")
    asked = st.session_state["ens_split"]
    if there and (asked not in there or (asked == "test" and "val" in there and not locked)):
        st.session_state["_ens_covered"] = asked == "test" and "test" in there
        st.session_state["ens_split"] = there[0]
    else:
        st.session_state["_ens_covered"] = False
    return st.session_state["ens_split"]


# --- writing -------------------------------------------------------------------------------------------
def write(choice: Choice) -> None:
    """The choice into the URL."""
    selection.list_to_url("members", KEY)
    text = ensemble_view.format_weights(choice.weights)
    selection.write(weights=text, tta="1" if choice.tta else None, per_case="1" if choice.per_case else None)
    st.session_state["_weights_seen"] = text
    st.session_state["_ens_tta_seen"] = "1" if choice.tta else ""
    st.session_state["_ens_per_case_seen"] = "1" if choice.per_case else ""


def can_undo() -> bool:
    """Whether a choice was made before this one."""
    return bool(st.session_state.get("_ens_past"))


def can_redo() -> bool:
    return bool(st.session_state.get("_ens_future"))


def undo() -> None:
    _step("_ens_past", "_ens_future")


def redo() -> None:
    _step("_ens_future", "_ens_past")


def _step(source: str, target: str) -> None:
    steps = list(st.session_state.get(source, []))
    if steps:
        now = st.session_state["_ens_last"]
        st.session_state[target] = [*st.session_state.get(target, []), now]
        put(steps.pop())
        st.session_state[source] = steps
        st.session_state["_ens_stepped"] = True


def put(choice: Choice) -> None:
    """Make a choice the current one: in a callback, or before any widget is drawn."""
    st.session_state[KEY] = list(choice.members)
    st.session_state["ens_method"] = choice.method
    st.session_state["ens_ties"] = choice.tie_rule
    st.session_state["ens_own_weights"] = bool(choice.weights)
    st.session_state["ens_tta"], st.session_state["ens_per_case"] = choice.tta, choice.per_case
    for run_id, weight in zip(choice.members, choice.weights, strict=False):
        st.session_state[weight_key(run_id)] = weight


def put_on_next(choice: Choice) -> None:
    """Make a choice the current one from below the widgets."""
    st.session_state["_ens_asked"] = choice
    st.rerun()


def _take_asked() -> None:
    asked = st.session_state.pop("_ens_asked", None)
    if asked is not None:
        put(asked)


# --- searched ------------------------------------------------------------------------------------------
def of_rank(found: subsets.Search, rank: int) -> Choice:
    """A combination that was searched as a choice; the switches stay as they are."""
    now = st.session_state.get("_ens_last") or Choice(())
    members = found.members(rank)
    if now.tta:
        back = {made: run_id for run_id, made in ensemble_members.augmented(_everyone()).items()}
        members = tuple(back.get(one, one) for one in members)
    method = found.methods[int(found.method[rank])]
    return Choice(members, method, (), "mean-probability", now.tta, now.per_case)


def _everyone() -> list[str]:
    return [summary.id for summary in ensemble_members.candidates(cached.summaries())]


def remember_search(found: subsets.Search) -> None:
    """What a search showed counts as tried, whichever of it is chosen."""
    searched = st.session_state.setdefault("_ens_searches", {})
    searched[found.ids] = found


def count_looked_at(choice: Choice) -> None:
    """Every choice whose validation score was shown counts as tried."""
    st.session_state.setdefault("_ens_tried", set()).add(choice)
