"""What the ensemble page knows: the choice, one answer per choice, and what lies around it.

A tick must answer at once. So predictions are read and aligned once per set of runs with the same images
(`ensemble_cubes`), the draws of cases are made once per set of images (`_sample`), and the scores of a choice
are matrix products on them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import streamlit as st

from dashboard import cached, ensemble_cubes, ensemble_members, places
from engine.analysis import comparison, diversity, ensemble, fitting, intervals, metrics, roles, subsets
from engine.analysis.draws import Difference
from engine.analysis.ensemble import Combined, Cube, Fitted
from engine.analysis.intervals import Estimate
from engine.analysis.metrics import Outcome
from engine.analysis.roles import Caution
from engine.analysis.subsets import Search
from engine.errors import EngineError, EnsembleError
from engine.runs import ensembles
from engine.runs.folder import RunFolder

HEADLINE = ("balanced_accuracy", "accuracy", "prr", "auroc")
OWN = "ensemble"
FAMILIES = {
    "V1": "tf_efficientnet_b",
    "V2": "tf_efficientnetv2",
    "lite": "tf_efficientnet_lite",
}


@dataclass(frozen=True)
class Choice:
    """What is combined, and how. weights: one per member, empty = equal.

    tta: members as predicted with test-time augmentation. per_case: every image carries what its case says over
    all magnifications.
    """

    members: tuple[str, ...]
    method: str = "mean"
    weights: tuple[float, ...] = ()
    tie_rule: str = "mean-probability"
    tta: bool = False
    per_case: bool = False


# --- pure ----------------------------------------------------------------------------------------------
def family(model: str) -> str:
    """`V1`, `V2`, `lite`, or empty: the families of the source study."""
    return next((name for name, start in FAMILIES.items() if model.startswith(start)), "")


def parse_weights(text: str, members: int) -> tuple[float, ...]:
    """Weights of the URL, one per member from 0 to 1; empty (equal) where they do not fit."""
    try:
        values = tuple(float(part) for part in text.split(",") if part)
    except ValueError:
        return ()
    fits = len(values) == members and all(0 <= value <= 1 for value in values) and sum(values) > 0
    return values if fits else ()


def format_weights(weights: Sequence[float]) -> str:
    return ",".join(f"{value:g}" for value in weights)


def changed_cells(
    own: Mapping[str, Sequence], base: Mapping[str, Sequence], entry: str = OWN
) -> dict[tuple[str, str], np.ndarray]:
    """(entry, slice) -> which cells of two sets of matrices differ."""
    return {(entry, part): np.asarray(own[part]) != np.asarray(base[part]) for part in own if part in base}


def images_of(table: pd.DataFrame, show: str, best: str, tied: Sequence[bool]) -> pd.DataFrame:
    """The rows of `opinions` to show: fixed, broken, all-wrong, disagree, ties, or wrong (by the ensemble).

    Fixed: the ensemble is right where the best single member is wrong; broken: the reverse.
    """
    own = table[f"right_{OWN}"].to_numpy(dtype=bool)
    single = table[f"right_{best}"].to_numpy(dtype=bool)
    members = [name for name in table.columns if name.startswith("right_") and name != f"right_{OWN}"]
    count = table[members].to_numpy(dtype=bool).sum(axis=1)
    masks = {
        "fixed": own & ~single,
        "broken": ~own & single,
        "wrong": ~own,
        "all-wrong": count == 0,
        "disagree": (count > 0) & (count < len(members)),
        "ties": np.asarray(tied, dtype=bool),
    }
    return table[masks[show]]


# --- one answer per choice -----------------------------------------------------------------------------
@dataclass(frozen=True, eq=False)
class Answer:
    """What a choice gives on one split, with everything the page draws at once.

    best: the member that is best on validation (on this split where there is none); gain: paired difference.
    """

    source: Cube
    combined: Combined
    fits: dict[str, Fitted]
    table: pd.DataFrame
    outcome: Outcome
    scores: dict[str, Estimate]
    baseline: dict[str, float]
    best: str
    best_scores: dict[str, float]
    gains: dict[str, Estimate]
    matrices: dict[str, list[list[int]]]
    best_matrices: dict[str, list[list[int]]]


def answer(choice: Choice, split: str) -> Answer:
    """Combine, score, and compare with the best member.

    Raises:
        EngineError: members that do not fit together, or weights that sum to zero.
    """
    keys = tuple(ensemble_cubes.files_key(choice.members, part) for part in _parts(choice, split))
    return _answer(choice, split, keys, ensemble_cubes.trained_key(choice.members))


def _parts(choice: Choice, split: str) -> list[str]:
    """The splits an answer depends on: its own, and validation where that exists (fit, best member)."""
    has_val = all("val" in cached.run(run_id).predicted_splits() for run_id in choice.members)
    return [split, "val"] if has_val and split != "val" else [split]


@st.cache_resource(max_entries=128, show_spinner=False)
def _answer(choice: Choice, split: str, keys: tuple, trained: tuple) -> Answer:
    source = ensemble_cubes.cube(choice.members, split, choice.per_case)
    combined, fits, table = _combine(choice, split, source)
    own = metrics.outcome(table)
    known = source.true >= 0
    singles = {
        run_id: replace(own, probs=source.probs[k][known], guess=guess[known])
        for k, (run_id, guess) in enumerate(zip(source.ids, diversity.decisions(source), strict=True))
    }
    best = best_member(choice.members, split)
    # the score and its difference to the best member look at the same draws of the same statistic
    sample = replace(_sample(own), remembered={})
    names = [name for name in HEADLINE if name != "auroc" or len(own.classes) >= 2]
    groups = sample.groups
    scores = {name: intervals.score_estimate(name, own, sample) for name in names}
    gains = {
        name: sample.estimate(
            Difference(sample.statistic(name, own), sample.statistic(name, singles[best])), (-1.0, 1.0)
        )
        for name in names
        if metrics.score_of(name).family != "patient" or groups.kind == "case"
    }
    base = metrics.majority_baseline(own)
    return Answer(
        source,
        combined,
        fits,
        table,
        own,
        scores,
        {name: metrics.value(name, base) for name in names},
        best,
        {name: metrics.value(name, singles[best]) for name in names},
        gains,
        comparison.confusion_maps(table),
        _maps_of(source, best),
    )


def _combine(choice: Choice, split: str, source: Cube) -> tuple[Combined, dict[str, Fitted], pd.DataFrame]:
    weights = list(choice.weights) or None
    if not ensemble.method_of(choice.method).fitted:
        combined = ensemble.combine(source, choice.method, weights, tie_rule=choice.tie_rule)
        return combined, {}, ensemble.predictions_table(source, combined)
    _need_validation(choice)
    validation = {run_id: cached.predictions(run_id, "val") for run_id in choice.members}
    tables = {run_id: cached.predictions(run_id, split) for run_id in choice.members}
    banned = frozenset().union(*(ensemble_cubes.trained(run_id).images for run_id in choice.members))
    table, combined, fits = fitting.ensemble_predictions(
        tables,
        choice.method,
        weights,
        tie_rule=choice.tie_rule,
        validation=validation,
        exclude=banned,
        per_case=choice.per_case,
    )
    return combined, fits, table


def _need_validation(choice: Choice) -> None:
    lacking = [run_id for run_id in choice.members if "val" not in cached.run(run_id).predicted_splits()]
    if lacking:
        raise EnsembleError(
            f"{ensemble.method_of(choice.method).title} must be fitted on validation predictions",
            found=f"none of {cached.run(lacking[0]).name}",
            remedy="Choose another method, or members with validation predictions",
        )


def _sample(own: Outcome) -> intervals.Resample:
    """Draws of cases, shared by all choices that score the same images."""
    return _resample(own.case.tobytes(), own.true.tobytes(), own.cases, own)


@st.cache_resource(max_entries=16, show_spinner=False)
def _resample(case: bytes, true: bytes, names: tuple[str, ...], _own: Outcome) -> intervals.Resample:
    return intervals.resample(_own)


def _maps_of(source: Cube, member: str) -> dict[str, list[list[int]]]:
    k = source.ids.index(member)
    alone = Cube((member,), source.classes, source.probs[[k]], source.logits[[k]], source.true, source.frame)
    return comparison.confusion_maps(ensemble.predictions_table(alone, ensemble.combine(alone)))


def best_member(members: Sequence[str], split: str) -> str:
    """The best single member by balanced accuracy on validation, so that test does not choose its rival."""
    side = "val" if all("val" in cached.run(run_id).predicted_splits() for run_id in members) else split
    scores = [single_score(run_id, side) for run_id in members]
    return members[int(np.argmax(np.nan_to_num(scores, nan=-1.0)))]


def single_score(run_id: str, split: str, name: str = "balanced_accuracy") -> float:
    """A member's own score."""
    return _single_score(run_id, split, name, ensemble_cubes.files_key([run_id], split))


@st.cache_data(max_entries=512, show_spinner=False)
def _single_score(run_id: str, split: str, name: str, key: tuple) -> float:
    table = RunFolder(Path(key[0]) / run_id).predictions(split)
    return metrics.value(name, metrics.outcome(table))


def val_words(run_id: str) -> str:
    """`val 0.859 [0.812, 0.901]`, or that there is none."""
    return _val_words(run_id, ensemble_cubes.files_key([run_id], "val"))


@st.cache_resource(max_entries=512, show_spinner=False)
def _val_words(run_id: str, key: tuple) -> str:
    try:
        table = cached.estimates(run_id, "val", ("balanced_accuracy",))
        return f"val {table['balanced_accuracy'].iloc[0].short}"
    except (EngineError, KeyError):
        return "val n/a"


# --- around it -----------------------------------------------------------------------------------------
def leave_one_out(choice: Choice, split: str) -> dict[str, float]:
    """Member -> full score minus the score without it (balanced accuracy); empty for fitted methods."""
    if ensemble.method_of(choice.method).fitted or len(choice.members) < 2:
        return {}
    return _leave_one_out(
        choice,
        split,
        *ensemble_cubes.keys(choice.members, split),
    )


@st.cache_data(max_entries=256, show_spinner=False)
def _leave_one_out(choice: Choice, split: str, keys: tuple, trained: tuple) -> dict[str, float]:
    source = ensemble_cubes.cube(choice.members, split, choice.per_case)
    weights = np.array(choice.weights) if choice.weights else None
    table = diversity.leave_one_out(source, choice.method, weights, tie_rule=choice.tie_rule)
    return dict(zip(table["member"], table["effect"].astype(float), strict=True))


def shapley(choice: Choice, split: str) -> pd.DataFrame:
    """Exact Shapley values of the members for mean or vote (engine.analysis.diversity.shapley)."""
    return _shapley(
        choice,
        split,
        *ensemble_cubes.keys(choice.members, split),
    )


@st.cache_data(max_entries=32, show_spinner=False)
def _shapley(choice: Choice, split: str, keys: tuple, trained: tuple) -> pd.DataFrame:
    method = choice.method if choice.method in ("mean", "vote") else "mean"
    return diversity.shapley(
        ensemble_cubes.cube(choice.members, split, choice.per_case), method, tie_rule=choice.tie_rule
    )


def search(candidates: Sequence[str], per_case: bool = False) -> Search:
    """Every subset of the candidates, ranked on validation (at most 16; computed once, with a progress bar)."""
    ids = tuple(sorted(candidates))
    return _search(ids, per_case, *ensemble_cubes.keys(ids, "val"))


@st.cache_resource(max_entries=8, show_spinner="Scoring every combination on validation ...")
def _search(ids: tuple[str, ...], per_case: bool, keys: tuple, trained: tuple) -> Search:
    source = ensemble_cubes.cube(ids, "val", per_case)
    if len(ids) < 13:  # some milliseconds
        return subsets.search(source)
    bar = st.progress(0.0, "Scoring every combination ...")

    def show(share: float) -> None:
        bar.progress(min(share, 1.0))

    found = subsets.search(source, progress=show)
    bar.empty()
    return found


def optimism(candidates: Sequence[str], per_case: bool = False) -> subsets.Optimism | None:
    """What having searched made of the best score; None where there are too few cases to say."""
    ids = tuple(sorted(candidates))
    return _optimism(ids, per_case, *ensemble_cubes.keys(ids, "val"))


@st.cache_resource(max_entries=8, show_spinner="Searching again without each fifth of the cases ...")
def _optimism(ids: tuple[str, ...], per_case: bool, keys: tuple, trained: tuple) -> subsets.Optimism | None:
    try:
        return subsets.search_optimism(ensemble_cubes.cube(ids, "val", per_case))
    except EnsembleError:
        return None


def greedy(candidates: Sequence[str], per_case: bool = False) -> tuple[list[str], list[float]]:
    """Members that greedy selection on validation picks, and their weights scaled to a maximum of 1."""
    source = ensemble_cubes.cube(tuple(sorted(candidates)), "val", per_case)
    found = fitting.greedy(source.take(source.true >= 0))
    greatest = float(found.weights.max())
    kept = [
        (run_id, round(float(weight) / greatest, 2))
        for run_id, weight in zip(source.ids, found.weights, strict=True)
        if weight / greatest >= 0.005
    ]
    return [run_id for run_id, _ in kept], [weight for _, weight in kept]


def cautions(choice: Choice, found: Answer, split: str, chosen_on: str) -> list[Caution]:
    """The warnings that apply to this choice (engine.analysis.roles.cautions)."""
    fitted = ensemble.method_of(choice.method).fitted
    gain = found.gains.get("balanced_accuracy")
    chosen_cases = frozenset()
    if split == "test" and chosen_on == "val":
        chosen_cases = frozenset(ensemble_cubes.cube(choice.members, "val").frame["case"])
    return roles.cautions(
        found.source,
        found.combined,
        gain=(gain.value, gain.low, gain.high) if gain and len(choice.members) > 1 else None,
        chosen_on=chosen_on,
        fitted_on="val" if fitted else "",
        chosen_cases=chosen_cases,
    )


def role_audit(members: Sequence[str], split: str) -> roles.RoleAudit:
    """Which cases trained, selected and tested each member."""
    return _role_audit(tuple(members), split, *ensemble_cubes.keys(members, split))


@st.cache_resource(max_entries=32, show_spinner=False)
def _role_audit(members: tuple[str, ...], split: str, keys: tuple, trained: tuple) -> roles.RoleAudit:
    scored = ensemble_cubes.aligned(members, split).frame
    return roles.audit_roles({run_id: _history(run_id) for run_id in members}, scored)


def _history(run_id: str) -> pd.DataFrame | None:
    """Every image a run met, with its split, and whether a fusion was fitted on it; None where that is unknown."""
    try:
        config = cached.run(run_id).config()
        if config.kind in ("ensemble", "pooled"):
            known = []
            for one in config.details.get("members") or ():
                part = _history(one)
                if part is None:
                    return None
                fold = cached.run(one).config().data.fold
                known.append(part.assign(fold=fold) if config.kind == "pooled" else part)
            return pd.concat(known, ignore_index=True) if known else None
        table = cached.manifest_of(run_id).table
    except EngineError:
        return None
    if config.kind != "fusion" or "split" not in table.columns:
        return table
    return table.assign(fused=table["split"] == ("val" if config.details.get("as_study") else "train"))


def with_own_roles(table: pd.DataFrame, choice: Choice) -> pd.DataFrame:
    """The role table with a row for the ensemble itself: what it was chosen and fitted on, and what it is tested on."""
    fitted = ensemble.method_of(choice.method).fitted
    chosen, tested = set(), set()
    for part, cases in (("val", chosen), ("test", tested)):
        if all(part in cached.run(run_id).predicted_splits() for run_id in choice.members):
            cases |= set(ensemble_cubes.cube(choice.members, part).frame["case"])
    own = []
    for case in table["case"]:
        names = (["val"] if case in chosen and not fitted else []) + (
            ["fused"] if case in chosen and fitted else []
        )
        own.append("+".join([*names, *(["test"] if case in tested else [])]))
    return table.assign(**{OWN: own})


def size_points(found: Search, labels: Mapping[str, str], most: int) -> pd.DataFrame:
    """`diversity.size_points` of the best so many."""
    if found.tried > most:
        part = slice(0, most)
        found = replace(
            found, subsets=found.subsets[part], method=found.method[part], score=found.score[part],
            brier=found.brier[part], ties=found.ties[part],
        )  # fmt: skip
    return diversity.size_points(found, dict(labels))


def opinions(choice: Choice, split: str) -> pd.DataFrame:
    """A row per scored image with the ensemble's and every member's opinion."""
    return _opinions(
        choice,
        split,
        *ensemble_cubes.keys(choice.members, split),
    )


@st.cache_resource(max_entries=16, show_spinner=False)
def _opinions(choice: Choice, split: str, keys: tuple, trained: tuple) -> pd.DataFrame:
    """From the cube, which is aligned already (`comparison.opinions` would align the tables again)."""
    found = answer(choice, split)
    source = found.source
    columns: dict[str, np.ndarray] = {}
    members = [(OWN, found.combined.probabilities, found.combined.decisions)]
    members += zip(source.ids, source.probs, diversity.decisions(source), strict=True)
    names, rows = np.array(source.classes), np.arange(len(source.true))
    for name, probs, guess in members:
        columns[f"predicted_{name}"] = names[guess]
        columns[f"confidence_{name}"] = probs[rows, guess]
        columns[f"right_{name}"] = guess == source.true
    right = np.sum([columns[f"right_{name}"] for name, _, _ in members], axis=0)
    return source.frame.assign(**columns, n_right=right)


def resolved(choice: Choice) -> Choice:
    """The choice with the runs that are really combined (test-time augmentation).

    Raises:
        EnsembleError: for some members this was not computed.
    """
    if not choice.tta:
        return choice
    found = ensemble_members.augmented(choice.members)
    absent = [run_id for run_id in choice.members if run_id not in found]
    if absent:
        raise EnsembleError(
            "Some members were not predicted with test-time augmentation",
            found=", ".join(cached.run(run_id).name for run_id in absent),
            remedy="Queue it below, or switch test-time augmentation off",
        )
    return replace(choice, members=tuple(found[run_id] for run_id in choice.members))


def locked_run(choice: Choice) -> str:
    """The id of the run that locked exactly this choice; empty where none did. choice: resolved."""
    return ensembles.locked_run(
        places.runs_folder(),
        choice.members,
        choice.method,
        list(choice.weights) or None,
        tie_rule=choice.tie_rule,
        per_case=choice.per_case,
    )
