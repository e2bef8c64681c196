"""Commands about runs, their queue, their trash and the cluster."""

from __future__ import annotations

import argparse
import time

from engine.commands import flags, output
from engine.commands.flags import Adder
from engine.wording import duration


def register(add: Adder) -> None:
    """Declare these commands."""
    add("runs", _runs, "List all runs, newest first.", runs=True, as_json=True)

    for name, run, text in (
        ("show", _show, "Say where a run is and how it did."),
        ("stop", _stop, "Stop a run at its next step; it saves a checkpoint."),
        ("resume", _resume, "Continue an unfinished run where its last checkpoint is."),
        ("delete", _delete, "Move a run to the trash of its runs folder."),
        ("restore", _restore, "Bring a deleted run back."),
    ):
        command = add(name, run, text, runs=True, as_json=True)
        command.add_argument("id", metavar="ID", help="the id of a run (or its name, where only one has it)")
        if name == "stop":
            command.add_argument(
                "--kill", action="store_true", help="end its process at once, without a checkpoint"
            )
            command.add_argument(
                "--wait", type=float, default=0.0, metavar="S", help="wait so many seconds for it to end"
            )

    command = add(
        "label", _label, "Name, tag or annotate a run; its id and its links stay.", runs=True, as_json=True
    )
    command.add_argument("id", metavar="ID")
    command.add_argument("--name", metavar="LABEL", help="a label for people")
    command.add_argument("--tags", type=flags.listed, metavar="TAG,TAG", help="its tags from now on")
    command.add_argument("--notes", metavar="TEXT", help="its notes from now on")

    command = add(
        "queue",
        _queue,
        "Show the queue; move, hold, release or prioritise a waiting run.",
        runs=True,
        as_json=True,
    )
    command.add_argument("id", metavar="ID", nargs="?", help="a run that waits")
    command.add_argument("--to", type=int, metavar="PLACE", help="put it at this place; 0 is next")
    command.add_argument(
        "--priority", type=int, metavar="N", help="runs of higher priority start first; 0 unless given"
    )
    command.add_argument("--hold", action="store_true", help="hold it back until it is released")
    command.add_argument("--release", action="store_true", help="let a held run go")
    command.add_argument(
        "--auto-resume", "--auto_resume", choices=("on", "off"), help="resume interrupted runs by themselves"
    )

    command = add(
        "trash",
        _trash,
        "List the deleted runs of a runs folder, or delete them for good.",
        runs=True,
        as_json=True,
    )
    command.add_argument("--empty", action="store_true", help="delete them for good; this cannot be undone")

    command = add(
        "cluster",
        _cluster,
        "Connect a runs folder to a Ray cluster, or show its cluster; --check tries everything a run needs there.",
        runs=True,
        as_json=True,
    )
    _add_cluster_options(command)


def _add_cluster_options(command: argparse.ArgumentParser) -> None:
    from engine.runs.executors import jobs

    for item in jobs.settings():
        kind = type(item.default)
        command.add_argument(
            item.metadata["flag"],
            dest=f"cluster_{item.name}",
            type=kind,
            metavar=item.name.upper(),
            help=item.metadata["help"],
        )
    command.add_argument(
        "--check",
        action="store_true",
        help="have a node answer a question through the shared folder; exit 1 when it cannot be used",
    )
    command.add_argument("--disconnect", action="store_true", help="forget it; what runs there runs on")


def _label(given: argparse.Namespace) -> int:
    from engine.runs import commands

    output.answer(
        given, *commands.write_label(flags.locate(given), name=given.name, tags=given.tags, notes=given.notes)
    )
    return 0


def _queue(given: argparse.Namespace) -> int:
    from engine.runs import commands, launch

    if given.auto_resume:
        launch.auto_resume(given.runs, given.auto_resume == "on")
    if given.id:
        commands.change_queue(
            given.runs, given.id, to=given.to, hold=given.hold, release=given.release, priority=given.priority
        )
    output.answer(given, *commands.queue_record(given.runs))
    return 0


def _trash(given: argparse.Namespace) -> int:
    from engine.runs import commands

    output.answer(given, *commands.trash_record(given.runs, empty=given.empty))
    return 0


def _cluster(given: argparse.Namespace) -> int:
    from engine.runs import commands
    from engine.runs.executors import jobs, ray

    if given.disconnect:
        jobs.disconnect(given.runs)
        output.answer(given, {"cluster": None}, "Disconnected; what runs there runs on.")
        return 0
    values = {item.name: getattr(given, f"cluster_{item.name}") for item in jobs.settings()}
    if any(value is not None for value in values.values()):
        commands.connect_cluster(given.runs, values)
    if given.check:
        record, text = commands.checks_record(ray.check_up(given.runs))
        output.answer(given, record, text)
        return 0 if record["good"] else 1
    output.answer(given, *commands.cluster_record(given.runs))
    return 0


def _runs(given: argparse.Namespace) -> int:
    from engine.runs.listing import summaries

    found = summaries(given.runs)
    rows = [
        {
            "id": summary.id,
            "name": summary.name,
            "kind": summary.config.kind,
            "state": summary.state,
            "progress": round(summary.status.progress, 3),
            "best": summary.status.best,
            "leakage": summary.audit["level"],
        }
        for summary in found
    ]
    for_people = [
        {
            **row,
            "progress": f"{row['progress']:.0%}",
            "best": f"{row['best']['value']:.3f} @ {row['best']['epoch']}" if row["best"] else "",
        }
        for row in rows
    ]
    output.answer(given, {"runs": rows}, output.table(for_people))
    return 0


def _show(given: argparse.Namespace) -> int:
    from engine.runs import forecast, remedies
    from engine.runs.config import mode_of, reproducibility
    from engine.runs.cost import cost_of

    folder = flags.locate(given)
    summary = folder.summary()
    status = summary.status
    foreseen, spent = forecast.outcome(folder, status), cost_of(folder)
    cure = remedies.remedy(summary.config, status.error)
    again = ""
    if cure:
        from engine.runs.launch import command_line

        again = command_line(cure.config)
    record = {
        "id": folder.id,
        "name": summary.name,
        "kind": summary.config.kind,
        "state": summary.state,
        "stalled": summary.stalled,
        "phase": status.phase,
        "progress": status.progress,
        "epoch": status.epoch,
        "epochs": status.epochs,
        "eta_s": status.eta_s,
        "best": status.best,
        "error": status.error,
        "audit": summary.audit,
        "predictions": list(summary.has_predictions),
        "estimate": foreseen.as_record() if foreseen else None,
        "cost": spent.as_record() if spent else None,
        "reproducibility": mode_of(summary.config),
        "remedy": {"label": cure.label, "command": again} if cure else None,
        "parent": summary.config.parent,
        "config": summary.config.to_record(),
    }
    lines = [
        f"{summary.name} ({folder.id})",
        f"{summary.state}, {status.progress:.0%} {status.phase}".strip(),
        summary.audit["verdict"],
    ]
    lines += [text for text in (reproducibility(summary.config),) if text]
    lines += [foreseen.as_text()] if foreseen else []
    lines += [f"Evaluation: {spent}"] if spent else []
    if summary.stalled:
        lines.append(
            f"No sign for {duration(time.time() - status.check_in_at)}: its process lives, but may hang."
        )
    if status.best:
        lines.append(
            f"Best {status.best['metric']} {status.best['value']:.3f} at epoch {status.best['epoch']}"
        )
    if status.error:
        lines.append(f"{status.error['message']} {status.error.get('remedy') or ''}".strip())
    lines += [f"{cure.label}: {again}"] if cure else []
    output.answer(given, record, "\n".join(lines))
    return 0


def _stop(given: argparse.Namespace) -> int:
    from engine.runs import launch

    folder = flags.locate(given)
    said = launch.stop(folder, kill=given.kill)
    state = launch.wait(folder, given.wait) if given.wait else folder.state()
    output.answer(given, {"id": folder.id, "state": state, "message": said}, said)
    return 0


def _resume(given: argparse.Namespace) -> int:
    from engine.runs import launch

    folder = flags.locate(given)
    said = launch.resume(folder)
    output.answer(given, {"id": folder.id, "state": folder.state(), "message": said}, said)
    return 0


def _delete(given: argparse.Namespace) -> int:
    from engine.runs import launch

    folder = flags.locate(given)
    launch.delete(folder)
    output.answer(given, {"id": folder.id}, f"Moved to the trash: {folder.id} (restore brings it back)")
    return 0


def _restore(given: argparse.Namespace) -> int:
    from engine.runs.trash import restore

    folder = restore(given.runs, given.id)
    output.answer(given, {"id": folder.id}, f"Restored: {folder.id}")
    return 0
