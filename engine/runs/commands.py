"""The commands about the queue, the cluster and labels: what was done as a record, and as a text for people.

The command line is their skin; parsing and printing stay there.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from engine.errors import ConfigError, RunError
from engine.runs import executors, launch, supervisor
from engine.runs.executors import jobs, ray
from engine.runs.executors.answers import Check
from engine.runs.folder import RunFolder, locate
from engine.runs.queue import Queue
from engine.runs.trash import empty_trash, trashed

Answer = tuple[dict[str, Any], str]


def queue_record(runs: Path) -> Answer:
    """What works and what waits, in the order in which it will start, and how the queue is worked off."""
    queue = Queue(runs)
    rows = []
    for entry in queue.entries():
        folder = RunFolder(Path(runs) / entry.run_id)
        name = folder.name if (folder.path / "config.json").is_file() else "(gone)"
        state = "working" if entry.slot else "held" if entry.held else "waiting"
        place = None if entry.slot else sum(row["place"] is not None for row in rows)
        rows.append(
            {
                "place": place,
                "id": entry.run_id,
                "name": name,
                "state": state,
                "slot": entry.slot or "",
                "wants": entry.wants,
                "priority": entry.priority,
            }
        )
    settings = queue.settings()
    watched = supervisor.is_running(runs)
    record = {
        "entries": rows,
        "auto_resume": settings.auto_resume,
        "max_restarts": settings.max_restarts,
        "supervisor": watched,
    }
    lines = [
        f"{'' if row['place'] is None else row['place']:>3}  {row['state']:8} {row['slot'] or row['wants']:12} "
        f"{row['priority']:>4}  {row['id']}  {row['name']}"
        for row in rows
    ]
    head = (
        [f"{'':>3}  {'state':8} {'slot/wants':12} {'prio':>4}  run"] if lines else ["Nothing works or waits."]
    )
    tail = [
        f"Interrupted runs are resumed {'by themselves' if settings.auto_resume else 'by hand'}; "
        f"a supervisor is {'at work' if watched else 'not needed now'}."
    ]
    return record, "\n".join([*head, *lines, *tail])


def change_queue(
    runs: Path,
    run_id: str,
    *,
    to: int | None = None,
    hold: bool = False,
    release: bool = False,
    priority: int | None = None,
) -> None:
    """Move, hold, release or prioritise a waiting run.

    Raises:
        RunError: it does not wait.
        ConfigError: hold and release at once, or nothing is asked for.
    """
    folder = locate(runs, run_id)
    queue = Queue(runs)
    if hold and release:
        raise ConfigError("A run cannot be held and released at once", remedy="Give one of both")
    if not (hold or release or to is not None or priority is not None):
        raise ConfigError(
            "Nothing is said about what to do with it", remedy="Give --to, --priority, --hold or --release"
        )
    if not any(entry.run_id == folder.id and entry.slot is None for entry in queue.entries()):
        raise RunError(
            f"The run {folder.name} does not wait in the queue",
            found=f"state {folder.state()}",
            remedy="Only a waiting run can be moved, held or prioritised",
        )
    if priority is not None:
        queue.prioritize(folder.id, priority)
    if to is not None:
        queue.move(folder.id, to)
    if hold:
        launch.hold(folder)
    if release:
        launch.release(folder)


def cluster_record(runs: Path) -> Answer:
    """The cluster of a runs folder, without the token, and whether it answered lately."""
    cluster = jobs.cluster_of(runs)
    said = ray.contact(runs)
    record = {"cluster": dataclasses.asdict(cluster), "contact": dataclasses.asdict(said) if said else None}
    lines = [
        f"{item.metadata['label']}: {value}"
        for item in jobs.settings()
        if (value := getattr(cluster, item.name))
    ]
    return record, "\n".join([*lines, contact_sentence(said)])


def contact_sentence(said: ray.Contact | None) -> str:
    """Whether the cluster answers, as far as anybody here knows."""
    if said is None:
        return "It has not been asked yet: it is when a run is sent to it, or by a check."
    since = time.strftime("%Y-%m-%d %H:%M", time.localtime(said.since))
    if said.ok:
        return f"It answers since {since}; last asked {time.strftime('%H:%M:%S', time.localtime(said.at))}."
    return f"No contact since {since}. {said.message} What runs there may run on; what waits, waits here."


def connect_cluster(runs: Path, values: Mapping[str, Any]) -> jobs.Cluster:
    """Connect a runs folder, or change what is given of its connection (fields of a `Cluster`; None = as it is).

    Raises:
        ConfigError: a value is out of range, or there is no token.
    """
    wanted = {name: value for name, value in values.items() if value is not None}
    known = (Path(runs) / executors.CLUSTER_FILE).is_file()
    base = jobs.cluster_of(runs) if known and "address" not in wanted else jobs.Cluster()
    cluster = dataclasses.replace(base, **wanted)
    jobs.connect(runs, cluster)
    return cluster


def checks_record(checks: Sequence[Check]) -> Answer:
    """The outcome of `Executor.check_up`."""
    good = all(check.good for check in checks)
    lines = [f"{'ok ' if check.good else 'NOT'}  {check.name}: {check.found}" for check in checks]
    last = "Runs can be sent there." if good else "Runs cannot be sent there yet."
    return {"good": good, "checks": [dataclasses.asdict(check) for check in checks]}, "\n".join(
        [*lines, last]
    )


def write_label(
    folder: RunFolder, *, name: str | None = None, tags: Sequence[str] | None = None, notes: str | None = None
) -> Answer:
    """Change what is given of a run's label."""
    changes: dict[str, Any] = {}
    if name is not None:
        changes["name"] = name.strip() or folder.id
    if tags is not None:
        changes["tags"] = list(dict.fromkeys(tags))
    if notes is not None:
        changes["notes"] = notes
    if changes:
        folder.write_label(**changes)
    label = folder.label()
    text = f"{label['name']} ({folder.id}) · tags: {', '.join(label['tags']) or 'none'} · notes: {label['notes'] or 'none'}"
    return {"id": folder.id, **label}, text


def trash_record(runs: Path, *, empty: bool = False) -> Answer:
    """What is in the trash; with `empty`, it is deleted for good."""
    ids = trashed(runs)
    gone = empty_trash(runs) if empty else 0
    text = f"{gone} runs deleted for good." if empty else "\n".join(ids) or "The trash is empty."
    return {"trash": [] if empty else ids, "deleted": gone}, text
