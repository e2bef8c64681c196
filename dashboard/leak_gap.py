"""What leakage is worth on a data set: `engine probe` in a process of its own, its answer kept beside the runs.

The probe loads torch and takes minutes; the server neither carries the one nor waits for the other.
"""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
import streamlit as st

from dashboard import cached, places, widgets
from engine import files
from engine.analysis.probe import REPRESENTATIONS
from engine.errors import DataError
from engine.runs import niceness

FOLDER = ".probes"
SPLITS = (
    ("image", "patients on both sides", "x"),
    ("case", "patients kept apart", "circle"),
)


@dataclass
class Job:
    """A probe at work."""

    process: subprocess.Popen
    since: float


@st.cache_resource(show_spinner=False)
def _jobs() -> dict[str, Job]:
    """Probes of this server, shared by its sessions."""
    return {}


def answer_file(root: str) -> Path:
    """Where the answer for a data set in its present state lies."""
    words = f"{Path(root).expanduser().absolute()} {cached.folder_stamp(root)}"
    return places.runs_folder() / FOLDER / f"{hashlib.sha256(words.encode()).hexdigest()[:24]}.json"


def start(root: str, target: Path) -> Job:
    """Begin a probe, which steps back for whoever looks at pages; its output is the answer file."""
    target.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "engine", "probe", str(Path(root).expanduser().absolute()), "--json"]
    with open(target, "wb") as out, open(target.with_suffix(".log"), "wb") as log:
        process = subprocess.Popen(
            command, stdout=out, stderr=log, stdin=subprocess.DEVNULL, cwd=places.ROOT, start_new_session=True
        )
    niceness.step_back(process.pid)
    return Job(process, time.time())


def section(root: str) -> None:
    """The gap, or the button that measures it, or how far the measurement is."""
    target = answer_file(root)
    job = _jobs().get(str(target))
    record = files.read_json(target)
    if record is None and job is not None and job.process.poll() is None:
        st.fragment(run_every=2.0)(_waiting)(str(target))
        return
    if record is None:
        if job is not None:
            widgets.show_error(failure(target))
        st.caption(
            "The same light classifier on frozen features, cross-validated twice: images drawn at random, and patients "
            "kept apart; beside two controls that see no tissue. Minutes on a CPU; it goes on when you leave this page."
        )
        if st.button(
            "Measure the gap", icon=":material/balance:", key="gap", disabled=bool(places.read_only_reason())
        ):
            _jobs()[str(target)] = start(root, target)
            st.rerun()
        return
    draw(record)


def _waiting(target: str) -> None:
    job = _jobs()[target]
    if job.process.poll() is not None:
        st.rerun(scope="app")
    share, words = progress_of(log_tail(Path(target)))
    st.progress(share, text=f"{words} ({widgets.duration(time.time() - job.since)} so far)")
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        st.caption("It goes on when you leave this page.", width="content")
        if st.button("Cancel", key="gap_cancel", type="tertiary"):
            job.process.terminate()
            _jobs().pop(target, None)
            Path(target).unlink(missing_ok=True)
            st.rerun(scope="app")


PHASES = ("Packing images", "Pretrained features", "Controls", "Cross-validation")
_LINE = re.compile(r"(.+): ([\d,]+) of ([\d,]+)")


def progress_of(lines: Sequence[str]) -> tuple[float, str]:
    """How far a probe is (0 to 1, every phase an equal part) and what it does, from the lines of its log."""
    for line in reversed(lines):
        match = _LINE.fullmatch(line.strip())
        if match and match[1] in PHASES:
            done, total = (int(match[number].replace(",", "")) for number in (2, 3))
            share = (PHASES.index(match[1]) + done / max(total, 1)) / len(PHASES)
            return min(share, 1.0), f"{match[1]}: {match[2]} of {match[3]}"
    return 0.0, "Starting"


def log_tail(target: Path) -> list[str]:
    """The lines that a probe has written beside its answer."""
    try:
        text = target.with_suffix(".log").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    return text.strip().splitlines()


def failure(target: Path) -> DataError:
    """Why a probe ended without an answer, from its last line."""
    lines = log_tail(target)
    return DataError(
        "The gap could not be measured",
        found=lines[-1][:300] if lines else None,
        remedy="Correct this and measure again",
    )


def draw(record: dict[str, Any]) -> None:
    """The figure that is understood at once, and the verdict in a sentence."""
    st.markdown(f"**{widgets.escaped(record.get('verdict', ''))}**")
    fig, alt = figure(record)
    widgets.show_figure(
        fig,
        "Balanced accuracy in five-fold cross-validation with 95% intervals (whole cases drawn); the dotted line is chance."
        + counts_of(record),
        alt,
        "gap_figure",
    )


def counts_of(record: dict[str, Any]) -> str:
    """How many images and cases the scores are of, what that does to the intervals, and how many images are left out."""
    first = next((row for row in record["scores"] if "n" in row), None)
    words = (
        f" n = {widgets.counted(first['n'], 'image')}, {widgets.counted(first['cases'], 'case')}."
        if first
        else ""
    )
    left_out = record.get("left_out") or []
    warnings = dict.fromkeys(row.get("warning", "") for row in record["scores"])
    words += "".join(f" {text.capitalize()}." for text in warnings if text)
    return words + (f" {widgets.counted(len(left_out), 'image')} could not be decoded." if left_out else "")


def figure(record: dict[str, Any]) -> tuple[go.Figure, str]:
    """A line per representation: its score with patients on both sides and with patients kept apart."""
    rows = record["scores"]
    order = [name for name in REPRESENTATIONS if any(row["representation"] == name for row in rows)]
    order += [row["representation"] for row in rows if row["representation"] not in REPRESENTATIONS]
    order = list(dict.fromkeys(order))
    fig = go.Figure()
    for (split, words, symbol), colour in zip(SPLITS, widgets.verdict_colours(), strict=True):
        found = {row["representation"]: row for row in rows if row["split"] == split}
        part = [found[name] for name in order if name in found]
        fig.add_scatter(
            x=[row["balanced_accuracy"] for row in part],
            y=[REPRESENTATIONS.get(row["representation"], row["representation"]) for row in part],
            error_x={
                "type": "data",
                "array": [row["high"] - row["balanced_accuracy"] for row in part],
                "arrayminus": [row["balanced_accuracy"] - row["low"] for row in part],
                "thickness": 1.5,
                "width": 4,
            },
            mode="markers",
            marker={"size": 11, "color": colour, "symbol": symbol},
            name=words,
        )
    chance = float(record.get("chance", 0.5))
    fig.add_vline(x=chance, line={"dash": "dot", "width": 1, "color": "#8A8494"})
    fig.update_layout(
        height=130 + 48 * len(order),
        margin={"l": 10, "r": 10, "t": 10, "b": 40},
        legend={"orientation": "h", "y": 1.22, "x": 0},
        xaxis={
            "title": "balanced accuracy",
            "range": [min(chance - 0.1, *(row["low"] - 0.03 for row in rows)), 1.02],
        },
    )
    fig.update_yaxes(autorange="reversed")
    said = "; ".join(
        f"{REPRESENTATIONS.get(row['representation'], row['representation'])}, split by {row['split']}: {row['balanced_accuracy']:.3f} [{row['low']:.3f}, {row['high']:.3f}]"
        for row in rows
    )
    return fig, f"What a leaking split is worth. {said}."
