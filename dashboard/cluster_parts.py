"""Where a run is executed: this machine, or the cluster that the runs folder is connected to."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import streamlit as st

from dashboard import places, widgets
from engine.errors import EngineError
from engine.runs import commands
from engine.runs.executors import CLUSTER_FILE, jobs, ray
from engine.runs.executors.answers import Check
from engine.runs.folder import Summary
from engine.runs.status import ACTIVE, LOCAL, UNKNOWN

HELP = (
    "This machine, or the Ray cluster that this runs folder is connected to. A cluster is connected from the command "
    "line only, since its token goes wherever the address says: `python -m engine cluster --address ...`.  \n"
    "On the command line: `--executor`"
)
CONCERNED = (*ACTIVE, UNKNOWN)
TITLES = {
    "reachable": "The head answers",
    "unreachable": "The head does not answer",
    "token": "The token is refused",  # nosec B105 - a sentence
    "room": "Room for a run",
    "shared folder": "A node sees the runs folder",
    "locks": "Its locks are seen here",
    "same program": "The same program on the node",
    "config": "Settings",
    "cluster": "The answer is understood",
}


@dataclass(frozen=True)
class Checked:
    """The outcome of a check, and when it was made (seconds since 1970)."""

    at: float
    address: str
    checks: tuple[Check, ...]


def is_connected() -> bool:
    return (places.runs_folder() / CLUSTER_FILE).is_file()


def picker(now: str, key: str) -> str:
    """Choose the executor; nothing is drawn (and this machine is it) where no cluster is connected."""
    if not is_connected():
        return LOCAL
    words = {LOCAL: "This machine", ray.NAME: "Ray cluster"}
    try:
        cluster = jobs.cluster_of(places.runs_folder())
        words[ray.NAME] = f"Ray cluster at {cluster.address}"
    except EngineError:
        cluster = None
    choices = list(words)
    chosen = st.selectbox(
        "Where it runs",
        choices,
        index=choices.index(now) if now in choices else 0,
        format_func=lambda name: words[name] if name in words else str(name),
        help=HELP,
        key=key,
    )
    if chosen == ray.NAME and cluster is not None:
        _state(cluster)
    return chosen


def _state(cluster: jobs.Cluster) -> None:
    """What a run gets there, whether the head answers, and the check."""
    gets = f"{widgets.counted(int(cluster.cpus), 'CPU')}, {widgets.counted(int(cluster.gpus), 'GPU')}"
    spread = f" in each of {cluster.processes} processes" if cluster.processes > 1 else " for a run"
    st.caption(widgets.escaped(f"{gets}{spread}."))
    contact(always=True)
    if st.button("Check the cluster", icon=":material/network_check:", type="tertiary", key="cluster_check"):
        with st.spinner("A node is asked a question through the shared folder; this can take a minute ..."):
            found = tuple(ray.check_up(places.runs_folder()))
        st.session_state["_cluster_checked"] = Checked(time.time(), cluster.address, found)
    checked = st.session_state.get("_cluster_checked")
    if checked is not None and checked.address == cluster.address:
        st.html(checks_html(checked))


def checks_html(checked: Checked) -> str:
    """A line per check: mark, what was tried, what was found."""
    rows = []
    for check in checked.checks:
        mark = (
            widgets.icon("check_circle", widgets.GREEN) if check.good else widgets.icon("error", widgets.RED)
        )
        word = "" if check.good else "<b>Not so:</b> "
        title = TITLES.get(check.name, check.name)
        rows.append(
            f'<li style="display:flex;gap:.4rem;align-items:flex-start;margin:.1rem 0">{mark}'
            f"<span>{word}{widgets.plain(title)}: {widgets.plain(check.found)}</span></li>"
        )
    good = all(check.good for check in checked.checks)
    verdict = "Runs can be sent there." if good else "Runs cannot be sent there yet."
    return (
        f'<div style="font-size:.87rem"><ul style="list-style:none;margin:0;padding:0">{"".join(rows)}</ul>'
        f'<div class="bh-muted">{verdict} Checked {widgets.ago(checked.at)}.</div></div>'
    )


def contact(*, always: bool = False) -> None:
    """Say since when the cluster does not answer; with `always` also that it does, or has not been asked."""
    said = ray.contact(places.runs_folder())
    if said is not None and not said.ok:
        st.warning(widgets.escaped(commands.contact_sentence(said)), icon=":material/cloud_off:")
    elif always:
        st.caption(widgets.escaped(commands.contact_sentence(said)))


def list_notice(summaries: Sequence[Summary]) -> None:
    """Above the list of runs: no contact, while the cluster has or is to have any of them."""
    if any(summary.status.executor != LOCAL and summary.state in CONCERNED for summary in summaries):
        contact()


def notice(summary: Summary) -> None:
    """On the page of a run that a cluster executes: which job it is, and whether anybody can ask about it."""
    status = summary.status
    if status.executor == LOCAL:
        return
    if summary.state == UNKNOWN:
        st.warning(
            "Unknown: the run was handed to the cluster, and nobody can say at the moment how it does. It has not failed.",
            icon=":material/help:",
        )
    job = f", job {status.submission}" if status.submission else ""
    st.caption(widgets.escaped(f"Executed by {status.executor}{job}."))
    if summary.state in CONCERNED:
        contact()
