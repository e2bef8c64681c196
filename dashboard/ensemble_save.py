"""What can be done with a choice: lock it and see its test score, save it, or let a worker compute on top of it."""

from __future__ import annotations

import streamlit as st

from dashboard import cached, ensemble_choice, ensemble_members, ensemble_view, places, widgets
from dashboard.ensemble_view import Choice
from engine.analysis import ensemble
from engine.errors import EnsembleError
from engine.runs import derived, ensembles
from engine.runs.config import NETWORKS
from engine.runs.folder import RunFolder
from engine.share import access

FUSION, SOUP, TTA = "CNN-MLP fusion", "Weight average (soup)", "Test-time augmentation"
JOBS = {
    FUSION: "The members' pooled features side by side into a small network. Features are computed once, then it "
    "trains in seconds. Fitted on the training images, its epoch picked on validation.",
    SOUP: "The mean of the members' weights as one network: as fast as one of them. One architecture, the same first weights.",
    TTA: "Every member predicted again as the mean logit of the four flips: what the switch above needs.",
}


# --- lock and save -------------------------------------------------------------------------------------
def save(choice: Choice, locked: str) -> None:
    """Lock the choice and reveal test, or only save it, under a name. choice: resolved."""
    reason = _may_not()
    has_val = ensemble_choice.have(choice.members, "val")
    can_lock = has_val and not locked and "test" in ensemble_choice.splits(choice)
    title = "Lock and reveal test" if can_lock else "Save as a run"
    icon = ":material/lock:" if can_lock else ":material/save:"
    with st.popover(
        title,
        icon=icon,
        type="primary" if can_lock else "secondary",
        disabled=bool(reason),
        help=reason or None,
    ):
        suggestion = f"{ensemble.METHODS[choice.method].title} of {len(choice.members)}"
        with st.form("ens_save", border=False):
            name = st.text_input("Name", value=suggestion, max_chars=120, key=f"ens_name_{suggestion}")
            lock = can_lock and st.form_submit_button(
                "Lock and reveal test",
                type="primary",
                icon=":material/lock:",
                help="Saves this choice with who tried how much, when and how; then its test score is shown.",
            )
            done = st.form_submit_button("Save", type="secondary" if can_lock else "primary")
        st.caption(
            "Members, weights, predictions and what was tried are stored; no weights are copied. "
            + (f"So far: {_tried_words()}." if has_val else "")
        )
        if done or lock:
            with widgets.errors_shown():
                saved = _save(choice, name.strip() or suggestion, locked=bool(lock))
                st.session_state["_ens_saved"] = (saved, choice)
                if lock:
                    st.session_state["_ens_show_test"] = True
                st.rerun()
    saved, of = st.session_state.get("_ens_saved") or ("", None)
    if saved and of == choice:
        st.page_link(
            places.page("compare"), label="Saved: compare it", icon=":material/compare_arrows:",
            query_params={"runs": ",".join([saved, *choice.members[:5]])},
        )  # fmt: skip
        st.page_link(
            places.page("predict"),
            label="Predict with it",
            icon=":material/biotech:",
            query_params={"run": saved},
        )


def take_reveal() -> None:
    """After locking: show test. Before any widget is drawn."""
    if st.session_state.pop("_ens_show_test", False):
        st.session_state["ens_split"] = "test"


def _may_not() -> str:
    who = access.actor()
    return places.read_only_reason() or ("" if who.may_edit else who.reason or "You may only read")


def chosen_on(choice: Choice) -> str:
    """The split a choice was made on: validation where more than one was looked at; "" where nothing was tried."""
    tried = len(st.session_state.get("_ens_tried", ())) > 1 or st.session_state.get("_ens_searches")
    return "val" if tried and ensemble_choice.have(choice.members, "val") else ""


def _tried_words() -> str:
    looked = len(st.session_state.get("_ens_tried", ()))
    searched = sum(found.tried for found in st.session_state.get("_ens_searches", {}).values())
    text = f"{widgets.counted(looked, 'choice')} looked at"
    return f"{searched:,} combinations searched, {text}" if searched else text


def selection_of(choice: Choice) -> ensembles.Selection:
    """How the choice was found in this session."""
    searches = st.session_state.get("_ens_searches", {})
    candidates = tuple(dict.fromkeys(run_id for ids in searches for run_id in ids))
    methods = tuple(dict.fromkeys(name for found in searches.values() for name in found.methods))
    widest = max(searches, key=len, default=())
    return ensembles.Selection(
        chosen_on="val" if ensemble_choice.have(choice.members, "val") else "test",
        candidates=candidates,
        subsets=sum(found.tried for found in searches.values()),
        methods=methods,
        looked_at=len(st.session_state.get("_ens_tried", ())),
        optimism=ensemble_view.optimism(widest, choice.per_case) if widest else None,
    )


def _save(choice: Choice, name: str, *, locked: bool) -> str:
    access.require_editor("save an ensemble")
    folder = ensembles.save_ensemble(
        [cached.run(run_id) for run_id in choice.members],
        choice.method,
        name,
        places.runs_folder(),
        weights=list(choice.weights) or None,
        tie_rule=choice.tie_rule,
        per_case=choice.per_case,
        selection=selection_of(choice),
        locked=locked,
    )
    return folder.id


# --- computed by a worker ------------------------------------------------------------------------------
def compute(choice: Choice) -> None:
    """Queue a fusion, a soup, or test-time augmentation of the ticked runs. choice: as ticked."""
    reason = _may_not()
    with st.popover("Compute ...", icon=":material/bolt:", disabled=bool(reason), help=reason or None):
        job = st.radio("What", list(JOBS), key="ens_job", label_visibility="collapsed")
        st.caption(JOBS[job])
        as_study = job == FUSION and st.toggle(
            "As the study did (validation)",
            key="ens_as_study",
            help="Fitted on the validation images, which chose the members' checkpoints, and watched on test.",
        )
        greedy = job == SOUP and st.toggle(
            "Greedy",
            key="ens_greedy_soup",
            help="A member is taken in only where validation does not get worse.",
        )
        name = f"{job.split(' (')[0]} of {len(choice.members)}"
        if job != TTA:
            name = st.text_input("Name", value=name, max_chars=120, key=f"ens_job_{name}").strip() or name
        if st.button("Queue", key="ens_queue", type="primary", icon=":material/playlist_add:"):
            with widgets.errors_shown():
                st.session_state["_ens_queued"] = _queue(job, choice, name, bool(as_study), bool(greedy))
        queued = [run_id for run_id in st.session_state.get("_ens_queued", []) if _there(run_id)]
        for run_id in queued[:3]:
            st.page_link(
                places.page("run"), label=f"Queued: {widgets.escaped(cached.run(run_id).name)}",
                icon=":material/play_circle:", query_params={"id": run_id},
            )  # fmt: skip
        if len(queued) > 3:
            st.caption(f"and {len(queued) - 3} more, on the Runs page")


def _there(run_id: str) -> bool:
    return run_id in {summary.id for summary in cached.summaries()}


def _queue(job: str, choice: Choice, name: str, as_study: bool, greedy: bool) -> list[str]:
    members, runs = [cached.run(run_id) for run_id in choice.members], places.runs_folder()
    if job == FUSION:
        return [derived.start_fusion(members, name, runs, as_study=as_study).id]
    if job == SOUP:
        return [derived.start_soup(members, name, runs, recipe="greedy" if greedy else "uniform").id]
    return queue_tta(members)


def queue_tta(members: list[RunFolder]) -> list[str]:
    """Queue test-time augmentation of those members that lack it and have a network.

    Raises:
        EnsembleError: none of them does.
    """
    there = ensemble_members.augmented([folder.id for folder in members])
    waiting = {
        one.config.details["members"][0]
        for one in cached.summaries()
        if one.config.kind == "tta" and one.state in ("queued", "starting", "running")
    }
    lacking = [folder for folder in members if folder.id not in there and folder.config().kind in NETWORKS]
    if not lacking:
        raise EnsembleError(
            "There is nothing to compute",
            found="every ticked run with a network has it",
            remedy="Imports and ensembles have no network of their own: tick trained runs",
        )
    return [
        derived.start_tta(folder, places.runs_folder()).id for folder in lacking if folder.id not in waiting
    ]
