"""The queue on the runs page: what waits, in the order in which it will start."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import streamlit as st

from dashboard import places, widgets
from engine.errors import EngineError
from engine.runs import launch, supervisor
from engine.runs import status as run_status
from engine.runs.folder import Summary, locate
from engine.runs.queue import Entry, Queue

SHOWN = 30
PRIORITIES = {"High": 10, "Normal": 0, "Low": -10}


def tend(runs: Path) -> None:
    """See that somebody starts what waits: after a restart of the machine nobody may be left."""
    if places.read_only_reason():
        return
    with widgets.errors_shown():
        supervisor.tend(runs)


def queue(runs: Path, summaries: Sequence[Summary]) -> None:
    """A row per waiting run: earlier, later, its priority, hold, cancel; and how the queue is worked off."""
    names = {summary.id: summary.name for summary in summaries}
    try:
        found = Queue(runs)
        waiting = [entry for entry in found.entries() if entry.slot is None and entry.run_id in names]
        settings = found.settings()
    except EngineError as error:
        widgets.show_error(error)
        return
    locked = bool(places.read_only_reason())
    with st.container(horizontal=True, vertical_alignment="center", gap="medium"):
        st.subheader(f"Queue, {len(waiting)} waiting" if waiting else "Queue", anchor=False, width="content")
        automatic = st.toggle(
            "Resume interrupted runs by themselves",
            value=settings.auto_resume,
            disabled=locked,
            key=f"auto_resume_{settings.auto_resume}",
            help=f"After a crash or a restart of the machine; at most {settings.max_restarts} times without an epoch in between.",
        )
    if automatic != settings.auto_resume:
        _do(lambda: launch.auto_resume(runs, automatic))
    if not waiting:
        working = any(summary.state in run_status.WORKING for summary in summaries)
        begins = "begins when there is room" if working else "begins at once"
        st.caption(f"Nothing waits: what is started now {begins}.")
    for place, entry in enumerate(waiting[:SHOWN]):
        _row(runs, place, entry, names[entry.run_id], len(waiting), locked)
    if len(waiting) > SHOWN:
        st.caption(f"and {len(waiting) - SHOWN} more behind them")


def _row(runs: Path, place: int, entry: Entry, name: str, n: int, locked: bool) -> None:
    key, queue = entry.run_id, Queue(runs)
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        notes = [word for word in ("held back" if entry.held else "", _wish(entry.wants)) if word]
        said = f' <span class="bh-muted">{widgets.plain(", ".join(notes))}</span>' if notes else ""
        st.html(
            f'<span class="bh-num bh-muted" style="display:inline-block;width:2.4ch">{place + 1}</span> '
            f"{widgets.plain(name)}{said}",
            width=380,
        )
        for word, to, off in (
            ("First", 0, place == 0),
            ("Earlier", place - 1, place == 0),
            ("Later", place + 1, place == n - 1),
        ):
            clicked = st.button(word, key=f"{word}_{key}", disabled=locked or off, type="tertiary")
            if clicked:
                _do(lambda to=to: queue.move(key, to))
        _priority(queue, entry, name, locked)
        word = "Release" if entry.held else "Hold"
        if st.button(word, key=f"hold_{key}", type="tertiary", disabled=locked):
            act = launch.release if entry.held else launch.hold
            _do(lambda: act(locate(runs, key)))
        if st.button("Cancel", key=f"cancel_{key}", type="tertiary", disabled=locked):
            _do(lambda: launch.stop(locate(runs, key)))


def _wish(wants: str) -> str:
    return "" if wants == "auto" else f"for {wants}"


def _priority(queue: Queue, entry: Entry, name: str, locked: bool) -> None:
    """High before normal before low, whatever the place; another number (the command line's) is kept."""
    words = {number: word for word, number in PRIORITIES.items()}
    choices = [*PRIORITIES.values()]
    if entry.priority not in words:
        words[entry.priority] = f"Priority {entry.priority}"
        choices.append(entry.priority)
    chosen = st.selectbox(
        f"Priority of {name}",
        choices,
        index=choices.index(entry.priority),
        format_func=lambda number: words[number] if number in words else str(number),
        label_visibility="collapsed",
        key=f"priority_{entry.run_id}_{entry.priority}",
        disabled=locked,
        width=130,
    )
    if chosen != entry.priority:
        _do(lambda: queue.prioritize(entry.run_id, chosen))


def _do(act: Callable[[], object]) -> None:
    with widgets.errors_shown():
        act()
        st.rerun()
