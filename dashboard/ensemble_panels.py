"""The parts of the ensemble page: controls on top, then what the choice makes; the views below are in `ensemble_views`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import streamlit as st

from dashboard import (
    cached,
    compare_view,
    ensemble_choice,
    ensemble_cubes,
    ensemble_members,
    ensemble_save,
    ensemble_view,
    ensemble_views,
    selection,
    widgets,
)
from dashboard.ensemble_choice import TIE_RULES
from dashboard.ensemble_members import SPLITS
from dashboard.ensemble_view import OWN, Answer, Choice
from engine import wording
from engine.analysis import ensemble, metrics
from engine.data.manifest import order_magnifications
from engine.errors import EngineError
from engine.report import confusion, theme
from engine.runs.folder import Summary
from engine.runs.selection import selection_sentence


# --- controls ------------------------------------------------------------------------------------------
def controls(choice: Choice, shown: Choice | None, locked: str) -> None:
    """Method, ties, switches, which images are scored, and what can be done with the choice.

    shown: the choice with the runs that are really combined; None where these are not there yet.
    locked: the run that locked it.
    """
    with st.container(horizontal=True, gap="small", vertical_alignment="bottom"):
        st.selectbox(
            "Method", list(ensemble.METHODS), key="ens_method", width=220,
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
        there = ensemble_choice.splits(shown) if shown else []
        if locked and len(there) > 1:
            st.segmented_control(
                "Scored on", list(SPLITS), key="ens_split", required=True,
                format_func=lambda name: SPLITS[name].capitalize(),
            )  # fmt: skip
        if shown and shown.members:
            ensemble_save.save(shown, locked)
            ensemble_save.compute(choice)
    with st.container(horizontal=True, gap="medium", vertical_alignment="center"):
        if ensemble.METHODS[choice.method].weighted:
            st.toggle("Own weights", key="ens_own_weights", help="A slider per member on the left.")
        st.toggle(
            "Test-time augmentation", key="ens_tta",
            help="Members as they predict with the mean logit of the four flips. Computed once per run by a worker.",
        )  # fmt: skip
        st.toggle(
            "Per case, over magnifications", key="ens_per_case",
            help="Each case's images of one magnification are averaged, then its magnifications with equal weight; "
            "every image carries its case's answer.",
        )  # fmt: skip
    selection.choice_to_url("split", "ens_split", "val")


# --- right: what it makes ------------------------------------------------------------------------------
def right(
    summaries: Sequence[Summary],
    by_id: Mapping[str, Summary],
    labels: Mapping[str, str],
    choice: Choice,
    split: str,
    locked: str,
) -> None:
    """Headline, warnings, matrices and one of the views. choice: resolved.

    Raises:
        EngineError: the members do not fit together.
    """
    found = ensemble_view.answer(choice, split)
    if split == "val":
        ensemble_choice.count_looked_at(choice)
    _lock_line(choice, locked, split)
    _badge(choice, split, [by_id[run_id] for run_id in choice.members])
    _headline(found, choice, split, labels, by_id)
    _cautions(choice, found, split, labels)
    _matrices(found, labels, split)
    st.space("small")
    ensemble_views.draw(summaries, labels, choice, found, split)


def _lock_line(choice: Choice, locked: str, split: str) -> None:
    """Whether test is covered, and how the choice was found where it is locked."""
    if locked:
        folder = cached.run(locked)
        text = selection_sentence(folder.config().details)
        if split == "test":
            one = cached.estimates(locked, "test", ("balanced_accuracy",))["balanced_accuracy"].iloc[0]
            text = f"Balanced accuracy on test {one}. {text}"
        st.success(widgets.escaped(f"Locked: {folder.name}. {text}"), icon=":material/lock:")
    elif st.session_state.get("_ens_covered"):
        st.info(
            "Test is covered until this choice is locked: what is chosen while looking at test is no longer tested by it. "
            "Validation is shown.",
            icon=":material/visibility_off:",
        )


def _badge(choice: Choice, split: str, members: Sequence[Summary]) -> None:
    seen = ensemble_cubes.seen(choice.members, split)
    if seen.cases:
        names = ", ".join(sorted(seen.cases)[:3]) + (" ..." if len(seen.cases) > 3 else "")
        verdict = f"Leaks: {widgets.counted(len(seen.cases), 'scored case')} had images in a member's training set: {names}."
        widgets.leakage_badge({"level": "leak", "verdict": verdict})
    else:
        widgets.leakage_badge(widgets.leakage_of(members))
    if seen.images:
        st.caption(
            f"{widgets.counted(len(seen.images), 'image')} left out: a member was trained on them, so they are never scored."
        )


def _headline(
    found: Answer, choice: Choice, split: str, labels: Mapping[str, str], by_id: Mapping[str, Summary]
) -> None:
    cards = []
    for name, one in found.scores.items():
        record = metrics.score_of(name)
        gap = found.gains.get(name)
        gap_text = "&nbsp;"
        if gap is not None and gap.value == gap.value and len(choice.members) > 1:
            gap_text = wording.signed(gap.value, gap.low, gap.high)
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
    if choice.per_case:
        note += " Every image carries what its whole case says, all magnifications alike: the cases are what counts."
    parts = [ensemble_members.cost(run_id, by_id) for run_id in choice.members]
    price = ensemble_members.Cost(sum(one.size for one in parts), sum(one.latency for one in parts)).text
    note += f" All members together: {price}." if price else ""
    st.caption(
        widgets.escaped(
            f"{SPLITS[split].capitalize()}, n = {widgets.counted(len(result), 'image')}{cases}. "
            f"95% intervals: {found.scores['balanced_accuracy'].method}.{against}{ties}{note}"
        )
    )


_CARD_STYLE = """<style>
.bh-cards{display:grid;grid-template-columns:repeat(auto-fit,minmax(9.5rem,1fr));gap:.6rem}
.bh-card{border:1px solid color-mix(in srgb,currentColor 16%,transparent);border-radius:6px;padding:.5rem .75rem;
 font-variant-numeric:tabular-nums}
.bh-cardname{font-size:.8rem;opacity:.8}.bh-cardvalue{font-size:1.5rem;font-weight:600;line-height:1.25}
.bh-cardline{font-size:.8rem;line-height:1.4}
</style>"""


def _cautions(choice: Choice, found: Answer, split: str, labels: Mapping[str, str]) -> None:
    """What to beware of, one line each."""
    unheld = split == "test" and not ensemble_choice.have(choice.members, "val")
    lines = []
    if unheld:
        lines.append(
            ("These members have no validation predictions: whatever is chosen here is chosen on test", True)
        )
    for one in ensemble_view.cautions(
        choice, found, split, "test" if unheld else ensemble_save.chosen_on(choice)
    ):
        if one.kind not in ("leakage", "trained-on-scored", "ties"):
            lines.append((compare_view.named_note(one.message, labels), one.serious))
    for name in _gone(choice):
        lines.append(
            (
                "A member of "
                + name
                + " was deleted: its stored predictions are shown, new images cannot be judged",
                False,
            )
        )
    if lines:
        rows = "".join(
            f'<li class="{"bh-serious" if serious else ""}">{widgets.plain(text.rstrip("."))}.</li>'
            for text, serious in lines
        )
        st.html(
            f'<div role="note"><ul class="bh-cautions">{rows}</ul></div><style>.bh-cautions{{margin:0;padding-left:1.1rem;'
            "font-size:.86rem;line-height:1.45}.bh-cautions .bh-serious{color:var(--bh-red);font-weight:600}</style>"
        )


def _gone(choice: Choice) -> list[str]:
    """Names of members that are ensembles of which a run was deleted."""
    names = []
    for run_id in choice.members:
        folder = cached.run(run_id)
        for member in folder.config().details.get("members") or ():
            try:
                cached.run(member)
            except EngineError:
                names.append(folder.name)
                break
    return names


def _matrices(found: Answer, labels: Mapping[str, str], split: str) -> None:
    names = [name for name in found.matrices if name != "all"]
    parts, titles = confusion.columns([*order_magnifications(names), "all"])
    classes = found.source.classes
    own = confusion.Row(OWN, "Ensemble", theme.accent(widgets.is_dark()), found.matrices)
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
        titles=titles,
        dark=widgets.is_dark(),
    )
    chart = f"ens_matrices_{split}_{len(rows)}"
    letters = confusion.legend(classes)
    with st.container(key="wide_figure_matrices" if len(parts) > 2 else None):
        widgets.show_figure(
            fig,
            f"Rows: true class, columns: predicted ({letters}). Colour: share of the true class. "
            "Dashed: cells that differ from the best member. Below each: balanced accuracy and n. Click a cell to see its images.",
            confusion.alt_text(rows, parts, classes),
            chart,
            on_select=lambda: _clicked(chart),
        )


def _clicked(chart: str) -> None:
    cell = compare_view.clicked_cell(st.session_state.get(chart))
    if cell is not None:
        selection.write(cell=cell.text, show=None, page=None)


def offer_tta(choice: Choice, missing: EngineError | None) -> None:
    """Instead of an answer: what test-time augmentation lacks, how far it is, and a button that queues it."""
    st.info(widgets.escaped(str(missing or "")), icon=":material/flip:")
    working = [
        one
        for one in cached.summaries()
        if one.config.kind == "tta"
        and one.state in ("queued", "starting", "running")
        and set(one.config.details["members"]) & set(choice.members)
    ]
    for one in working:
        st.progress(one.status.progress, widgets.escaped(f"{one.name}: {one.status.phase or one.state}"))
    if working:
        st.button("Look again", key="ens_look_again", icon=":material/refresh:")
    elif st.button(
        "Queue it for these members", key="ens_queue_tta", type="primary", icon=":material/playlist_add:"
    ):
        with widgets.errors_shown():
            ensemble_save.queue_tta([cached.run(run_id) for run_id in choice.members])
            st.rerun()
