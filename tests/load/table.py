"""What the sessions of `python tests/load` have seen, as a record and as text."""

from __future__ import annotations

import json
import os
import platform
import statistics
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

LIMIT_S, LIMIT_GROWTH, LIMIT_CORES = 2.0, 0.10, 1.0
# A run that has not come further for so long does not train beside the sessions. It has stepped back for them, so that
# it may stand still for some seconds: 24 were seen in ten minutes on a machine that others used, too.
LIMIT_PAUSE_S = 60.0


@dataclass(frozen=True)
class View:
    """One page view of one session: from the click until the page was whole, in seconds of the monotonic clock, and
    the processor seconds that the page's own process used meanwhile."""

    page: str
    who: str
    began: float
    ended: float
    browser_s: float


@dataclass
class Load:
    """What the sessions have seen."""

    views: list[View] = field(default_factory=list)
    troubles: list[str] = field(default_factory=list)
    samples: list[tuple[float, float, dict[str, float]]] = field(default_factory=list)
    """When, the server's memory in MB, processor seconds by then of server, training, browsers, this test and the
    whole machine."""
    progress: list[tuple[float, float, int]] = field(default_factory=list)
    """When, epochs done by then and step of the run that trains."""
    answers: list[dict[str, Any]] = field(default_factory=list)
    late: list[float] = field(default_factory=list)

    def read_answers(self, log: Path) -> None:
        """The lines of the stopwatch at the server."""
        for line in log.read_text(encoding="utf-8").splitlines():
            told = json.loads(line)
            if "late" in told:
                self.late.append(told["late"])
            else:
                self.answers.append(told)

    def server_s(self, view: View) -> tuple[float, int]:
        """Seconds in which the server answered this view, and bytes that it sent; what a page asks for by itself,
        every other second, is not part of a view."""
        found = [
            one
            for one in self.answers
            if one["who"] == view.who and not one["auto"] and view.began <= one["began"] <= view.ended
        ]
        return sum(one["ended"] - one["began"] for one in found), sum(one["bytes"] for one in found)


def p95(values: list[float]) -> float:
    return sorted(values)[min(len(values) - 1, int(0.95 * len(values)))]


def summary(load: Load, sessions: int, minutes: float) -> dict[str, Any]:
    """The table as a record."""
    by_page: dict[str, list[tuple[float, float, float, float]]] = defaultdict(list)
    for view in load.views:
        server, size = load.server_s(view)
        if not server:
            load.troubles.append(f"session {view.who}: {view.page}: the stopwatch saw no answer")
        by_page[view.page].append((server, view.ended - view.began, view.browser_s, size / 1e3))
    rows = [_row(name, found) for name, found in sorted(by_page.items())]
    everything = [one for found in by_page.values() for one in found]
    polls = [one["ended"] - one["began"] for one in load.answers if one["auto"]]
    first, last = load.samples[0], load.samples[-1]
    length = max(last[0] - first[0], 1e-9)
    # Caches fill in the first fifth; what is promised is that nothing leaks after it.
    early = [memory for at, memory, _ in load.samples if 0.2 <= (at - first[0]) / length < 0.4]
    late = [memory for at, memory, _ in load.samples if (at - first[0]) / length >= 0.8]
    growth = statistics.median(late) / statistics.median(early) - 1 if early and late else float("nan")
    cores = {name: round((last[2][name] - first[2][name]) / length, 3) for name in last[2]}
    busy = cores.pop("machine")
    cores["everything else"] = round(max(0.0, busy - sum(cores.values())), 3)
    waited = sum(view.ended - view.began for view in load.views)
    training = _training(load)
    kept = (
        all(row["within"] for row in rows)
        and abs(growth) < LIMIT_GROWTH
        and cores["server"] < LIMIT_CORES
        and training["longest_pause_s"] <= LIMIT_PAUSE_S
        and not load.troubles
    )
    return {
        "sessions": sessions,
        "minutes": minutes,
        "pages": rows,
        "all": _row("all", everything),
        "refreshes": {"n": len(polls), "median_s": _median(polls), "p95_s": p95(polls) if polls else None},
        "loop_late_s": {"p95": p95(load.late), "longest": max(load.late)} if load.late else {},
        "server_memory_mb": [round(statistics.median(early)), round(statistics.median(late))]
        if early and late
        else [],
        "memory_growth": round(growth, 4),
        "cores": cores,
        "own_share_of_wait": round(sum(view.browser_s for view in load.views) / waited, 3)
        if waited
        else None,
        "training": training,
        "troubles": load.troubles,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, "
        f"Python {platform.python_version()}",
        "kept": kept,
    }


def _median(values: list[float]) -> float | None:
    return round(statistics.median(values), 3) if values else None


def _row(name: str, found: list[tuple[float, float, float, float]]) -> dict[str, Any]:
    """Of views (server, wait, the browser's own processor time, kB sent)."""
    if not found:
        return {"page": name, "n": 0, "within": False}
    server, wait, browser, size = (list(column) for column in zip(*found, strict=True))
    return {
        "page": name,
        "n": len(found),
        "server_median_s": _median(server),
        "server_p95_s": round(p95(server), 3),
        "wait_median_s": _median(wait),
        "wait_p95_s": round(p95(wait), 3),
        "browser_processor_s": _median(browser),
        "kb": _median(size),
        "within": p95(server) <= LIMIT_S,
    }


def _training(load: Load) -> dict[str, Any]:
    """How far the run came, and the longest time for which it came no further."""
    pause, since = 0.0, load.progress[0][0] if load.progress else 0.0
    for before, after in zip(load.progress, load.progress[1:], strict=False):
        if after[1:] != before[1:]:
            since = after[0]
        pause = max(pause, after[0] - since)
    epochs = load.progress[-1][1] - load.progress[0][1] if load.progress else 0
    return {"epochs": round(epochs, 1), "longest_pause_s": round(pause, 1)}


def text(found: dict[str, Any]) -> str:
    """The table for people."""
    head = f"{'':24}{'':>5}  {'server':^17}  {'wait here':^17}  {'browser':>9}  {'sent':>8}"
    lines = [
        head,
        f"{'page':24}{'n':>5}  {'median':>8} {'p95':>8}  {'median':>8} {'p95':>8}  {'processor':>9}",
    ]
    for row in [*found["pages"], found["all"]]:
        if row["n"]:
            lines.append(
                f"{row['page']:24}{row['n']:>5}  {row['server_median_s']:>6.2f} s {row['server_p95_s']:>6.2f} s"
                f"  {row['wait_median_s']:>6.2f} s {row['wait_p95_s']:>6.2f} s  {row['browser_processor_s']:>7.2f} s"
                f"  {row['kb']:>5.0f} kB" + ("" if row["within"] else f"  over {LIMIT_S:.0f} s at the server")
            )
    refreshes, late, cores = found["refreshes"], found["loop_late_s"], found["cores"]
    if refreshes["n"]:
        lines.append(
            f"live parts: {refreshes['n']} refreshes, median {refreshes['median_s']:.2f} s, p95 {refreshes['p95_s']:.2f} s"
        )
    if late:
        lines.append(
            f"a request waits to be read: p95 {1000 * late['p95']:.0f} ms, longest {1000 * late['longest']:.0f} ms"
        )
    early, end = found["server_memory_mb"] or ("n/a", "n/a")
    lines += [
        "cores: " + ", ".join(f"{name} {used:.2f}" for name, used in cores.items()),
        f"of the wait here {100 * (found['own_share_of_wait'] or 0):.0f}% is processor time of the page that is waited for",
        f"server memory: {early} MB after a fifth of the time, {end} MB at the end ({100 * found['memory_growth']:+.1f}%)",
        f"training: {found['training']['epochs']} epochs meanwhile, longest pause {found['training']['longest_pause_s']} s",
        f"{found['sessions']} sessions, {found['minutes']:g} minutes; crashes and exceptions: {len(found['troubles'])}; "
        f"{found['machine']}",
        *found["troubles"][:10],
    ]
    return "\n".join(lines)
