"""Commands that train, or derive a run from trained ones."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from engine.commands import flags, output
from engine.commands.flags import Adder
from engine.runs.config import RunConfig

if TYPE_CHECKING:
    from engine.runs.status import Status
from engine.wording import duration


def register(add: Adder) -> None:
    """Declare these commands."""
    for name, run, text in (
        (
            "train",
            _train,
            "Train one run (or a family, one after another) in the foreground; Ctrl-C stops and saves.",
        ),
        ("start", _start, "Hand the same run to a worker of its own, print its id and return."),
        (
            "estimate",
            _estimate,
            "Say how long the same run takes and how much memory, from earlier runs or a few real steps.",
        ),
    ):
        command = add(name, run, text, runs=True, as_json=True)
        flags.add_run_options(command)
        command.add_argument(
            "--config",
            type=Path,
            metavar="JSON",
            help="start from the configuration of a run or of the form; flags that are not at their default win",
        )
        command.add_argument(
            "--from",
            dest="parent",
            metavar="ID",
            help="start from the settings of a run, its parent; flags that are not at their default win",
        )
        command.add_argument(
            "--from-checkpoint",
            "--from_checkpoint",
            action="store_true",
            help="with --from: its best checkpoint gives the first weights",
        )
        command.add_argument("--folds", metavar="N,N", help="several folds at once: 0,1,2 or 0-4")
        command.add_argument("--seeds", metavar="N,N", help="several seeds at once: 0,1,2 or 0-4")
        command.add_argument("--lrs", metavar="R,R", help="several learning rates at once: 1e-4,1e-3")
        if name == "train":
            command.add_argument(
                "--processes",
                type=int,
                default=1,
                metavar="N",
                help="train each run in so many processes together, one per GPU (torch.distributed.run)",
            )
        if name == "estimate":
            command.add_argument(
                "--measure", action="store_true", help="measure, also where earlier runs tell it"
            )
        if name == "start":
            command.add_argument(
                "--executor",
                default="local",
                choices=("local", "ray"),
                help="this machine, or the cluster that `cluster` connected",
            )
            command.add_argument(
                "--check",
                action="store_true",
                help="first try everything a run needs there, and start nothing when it is not so",
            )

    command = add(
        "reproduce-study",
        _reproduce,
        "Train the source study's ten models and its three ensembles per family, and print them beside its table.",
        runs=True,
        as_json=True,
    )
    flags.add_run_options(command)
    command.set_defaults(
        protocol="image",
        geometry="square",
        recipe="study-as-run",
        experiment="reproduce-study",
        config=None,
        parent=None,
    )
    command.add_argument(
        "--detach", action="store_true", help="queue what is missing, print the table so far and return"
    )

    command = add(
        "export",
        _export,
        "Take a run's network elsewhere: weights with a model card, TorchScript or ONNX, logits verified.",
        runs=True,
        as_json=True,
    )
    command.add_argument("id", metavar="ID")
    command.add_argument("--to", type=Path, required=True, metavar="DIR", help="folder to write to")
    command.add_argument("--format", choices=("safetensors", "torchscript", "onnx"), default="safetensors")

    command = add(
        "fuse",
        _fuse,
        "Queue a CNN-MLP fusion of trained runs of one split, as a run like any other.",
        runs=True,
        as_json=True,
    )
    command.add_argument("ids", nargs="+", metavar="ID", help="members")
    command.add_argument("--name", required=True, metavar="LABEL", help="a label for people")
    command.add_argument(
        "--as-study",
        "--as_study",
        action="store_true",
        help="fit on validation and watch test, as the study did; otherwise fit on train, choose on validation",
    )

    command = add(
        "soup",
        _soup,
        "Queue the mean of several checkpoints' weights as one network, as a run like any other.",
        runs=True,
        as_json=True,
    )
    command.add_argument("ids", nargs="+", metavar="ID", help="runs of one architecture and first weights")
    command.add_argument("--name", required=True, metavar="LABEL", help="a label for people")
    command.add_argument(
        "--greedy", action="store_true", help="take a member in only where validation does not get worse"
    )

    command = add(
        "tta",
        _tta,
        "Queue trained runs' predictions with test-time augmentation (mean of four flips), a run each.",
        runs=True,
        as_json=True,
    )
    command.add_argument("ids", nargs="+", metavar="ID", help="trained runs")


def _plan(given: argparse.Namespace) -> list[RunConfig]:
    """The runs that the flags ask for, all checked before the first one starts."""
    from engine.runs import launch

    config = flags.config(given)
    configs = launch.plan(
        config,
        models=flags.listed(config.model.name),
        folds=launch.parse_numbers(given.folds, "Folds") if given.folds else (),
        seeds=launch.parse_numbers(given.seeds) if given.seeds else (),
        rates=launch.parse_rates(given.lrs) if given.lrs else (),
    )
    found = launch.all_problems(configs)
    for error in found[:-1]:
        output.say(f"Error: {error}")
    if found:
        raise found[-1]
    return configs


def _train(given: argparse.Namespace) -> int:
    from engine.runs import launch
    from engine.runs.status import STARTING

    ids, code = [], 0
    for config in _plan(given):
        folder = launch.prepare(config, given.runs, state=STARTING)
        ids.append(folder.id)
        output.say(f"Run {folder.id}: {folder.audit()['verdict']}")
        if given.processes > 1:
            code = launch.work_together(folder, given.processes, _status_line())
        else:
            code = launch.work_here(folder, _status_line())
        status = folder.status()
        if status.error:
            output.say(f"\nError: {status.error['message']} {status.error.get('remedy') or ''}")
        if code:
            break
    record = {"id": ids[0]} if len(ids) == 1 else {"id": ids[0], "ids": ids}
    output.answer(given, record, "\n".join(ids))
    return code


def _reproduce(given: argparse.Namespace) -> int:
    from engine.runs import reproduction

    base = flags.config(given)
    now = reproduction.start(base, given.runs)
    said = ""

    def report(found: reproduction.Reproduction) -> None:
        nonlocal said
        done = sum(one is not None and one.state == "completed" for one in found.members.values())
        active = [
            f"{name} {one.status.progress:.0%}"
            for name, one in found.members.items()
            if one is not None and one.state in ("running", "starting")
        ]
        text = f"{done} of {len(found.members)} rows done; {', '.join(active) or 'none'} running"
        if text != said:
            output.say(text)
        said = text

    if not given.detach:
        output.say("Following the queue; Ctrl-C leaves it running, and the same command goes on.")
        now = reproduction.follow(base, given.runs, report)
    for one in now.failed:
        output.say(f"{one.name} ({one.id}): {one.state}. {(one.status.error or {}).get('message') or ''}")
    record = reproduction.as_record(given.runs, base.experiment)
    output.answer(given, record, reproduction.as_text(given.runs, base.experiment))
    return 0 if now.complete or (given.detach and not now.failed) else 1


def _status_line() -> Callable[[Status], None]:
    """One line on stderr that follows a run; a line per phase where stderr is no terminal."""
    live = sys.stderr.isatty()
    real = sys.stderr
    seen: list[str] = []

    def show(status: Status) -> None:
        epoch = f" epoch {status.epoch}/{status.epochs}" if status.epoch else ""
        left = f", {duration(status.eta_s)} left" if status.eta_s is not None else ""
        best = (
            f", best {status.best['metric']} {status.best['value']:.3f} (epoch {status.best['epoch']})"
            if status.best
            else ""
        )
        text = f"{status.state}: {status.phase}{epoch} {status.progress:4.0%}{left}{best}"
        if live:
            real.write(f"\r\x1b[K{text}")
        elif (key := f"{status.state} {status.phase} {status.epoch}") not in seen:
            seen.append(key)
            real.write(text + "\n")
        real.flush()

    return show


def _start(given: argparse.Namespace) -> int:
    from engine.runs import commands, executors, launch

    configs = _plan(given)
    if given.check:
        record, text = commands.checks_record(executors.find(given.executor).check_up(given.runs))
        output.say(text)
        if not record["good"]:
            return 1
    ids = [folder.id for folder in launch.start_all(configs, given.runs, executor=given.executor)]
    output.answer(given, {"id": ids[0]} if len(ids) == 1 else {"id": ids[0], "ids": ids}, "\n".join(ids))
    return 0


def _estimate(given: argparse.Namespace) -> int:
    from engine.runs import forecast, launch

    rows = []
    sizes: dict[object, tuple[int, int, int]] = {}
    known = forecast.known_runs(given.runs)
    for config in _plan(given):
        if config.data not in sizes:
            sizes[config.data] = launch.part_sizes(launch.prepare_data(config).manifest)
        counts = sizes[config.data]
        found = forecast.expected(config, counts, given.runs, known)
        if not found.known or given.measure:
            output.say(f"Measuring {config.name} ...")
            found = forecast.measure(config, counts, given.runs)
        rows.append({"name": config.name, **found.as_record()})
    lines = [
        f"{row['name']}: {duration(row['seconds'])}, {duration(row['epoch_s'])} per "
        f"epoch, {row['memory_mb'] or float('nan'):,.0f} MB ({row['source']})"
        for row in rows
    ]
    output.answer(given, {"runs": rows}, "\n".join(lines))
    return 0


def _export(given: argparse.Namespace) -> int:
    from engine.training.export import export_run

    made = export_run(flags.locate(given), given.to, given.format)
    record = {"file": str(made.path), "card": str(made.card), "greatest_difference": made.difference}
    output.answer(
        given, record, f"{made.path}\n{made.card}\nGreatest difference of a logit: {made.difference:.2g}"
    )
    return 0


def _fuse(given: argparse.Namespace) -> int:
    from engine.runs.derived import start_fusion

    members = [flags.locate(given, run_id) for run_id in given.ids]
    folder = start_fusion(members, given.name, given.runs, as_study=given.as_study)
    output.answer(given, {"id": folder.id}, folder.id)
    return 0


def _soup(given: argparse.Namespace) -> int:
    from engine.runs.derived import start_soup

    members = [flags.locate(given, run_id) for run_id in given.ids]
    recipe = "greedy" if given.greedy else "uniform"
    folder = start_soup(members, given.name, given.runs, recipe=recipe)
    output.answer(given, {"id": folder.id}, folder.id)
    return 0


def _tta(given: argparse.Namespace) -> int:
    from engine.runs.derived import start_tta

    folders = [start_tta(flags.locate(given, run_id), given.runs) for run_id in given.ids]
    output.answer(given, {"ids": [one.id for one in folders]}, "\n".join(one.id for one in folders))
    return 0
