"""From a configuration to a run: check everything, make the folder, hand it to a worker.

Pages and command line launch through here and nowhere else.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from engine.data.audit import Audit, audit
from engine.data.breakhis import load_dataset
from engine.data.datasets import with_task
from engine.data.manifest import Manifest, read_manifest
from engine.data.splits import SplitSpec, find_protocol, make_split, split_hash, split_warnings
from engine.errors import ConfigError, EngineError, RunError, SplitError, shorten
from engine.runs import catalog, executors, forecast, presets, remedies, supervisor, trash
from engine.runs.config import EXECUTED, DataConfig, RunConfig, options, value_problems
from engine.runs.creation import create, new_id
from engine.runs.exit_codes import EXIT_STOPPED
from engine.runs.folder import RunFolder
from engine.runs.queue import Queue, requeue, wanted
from engine.runs.status import (
    ACTIVE,
    COMPLETED,
    INTERRUPTED,
    LOCAL,
    QUEUED,
    RESUMABLE,
    STARTING,
    STOPPED,
    UNKNOWN,
    WORKING,
    Status,
)
from engine.share import access

# A worker's loop looks for STOP at every step and then saves; what takes longer than this hangs.
STOP_GRACE_S = 60.0
KILL_WAIT_S = 10.0


@dataclass(frozen=True)
class Prepared:
    """A data set ready to be trained on: its manifest with the split, what leaks, what is doubtful."""

    manifest: Manifest
    audit: Audit
    split_hash: str
    warnings: tuple[str, ...]


def prepare_data(config: RunConfig, manifest: Manifest | None = None) -> Prepared:
    """Load, filter, split and audit what a configuration names.

    Args:
        config: its `data` part is used.
        manifest: the data set, where the caller has it already (a page's cache).

    Raises:
        DataError, SplitError: with what was found and what to do.
    """
    data = config.data
    manifest = manifest or load_dataset(Path(data.root).expanduser())
    manifest = with_task(manifest, data.task, data.keep_ambiguous).only(data.magnifications)
    if data.split_csv:
        manifest = _with_split_from(manifest, Path(data.split_csv).expanduser())
    split = make_split(manifest, SplitSpec(data.protocol, data.fold, data.split_seed))
    return Prepared(split, audit(split.table), split_hash(split.table), tuple(split_warnings(split.table)))


def _with_split_from(manifest: Manifest, source: Path) -> Manifest:
    given = read_manifest(source).table
    if "split" not in given.columns:
        raise SplitError(
            f"{source.name} has no column split",
            found=", ".join(given.columns),
            remedy="Give image_id and split (train, val, test)",
        )
    sides = dict(zip(given["image_id"], given["split"], strict=True))
    unknown = sorted(set(sides) - set(manifest.table["image_id"]))
    if len(unknown) == len(sides):
        raise SplitError(
            f"{source.name} names none of the images of this data set",
            found=shorten(unknown),
            remedy="Give the split of this data set",
        )
    return manifest.with_table(
        manifest.table.assign(split=[sides.get(name, "") for name in manifest.table["image_id"]])
    )


def problems(config: RunConfig, manifest: Manifest | None = None) -> list[EngineError]:
    """Everything that keeps a configuration from running, all at once; empty = it can be launched."""
    return [*setting_problems(config), *data_problems(config, manifest)]


def setting_problems(config: RunConfig) -> list[EngineError]:
    """Those that can be told without the data set: values, recipe, device."""
    found: list[EngineError] = list(value_problems(config))
    try:
        presets.resolve(config)
    except ConfigError as error:
        found.append(error)
    device = config.training.device
    if not (device in ("auto", "cpu", "cuda") or (device.startswith("cuda:") and device[5:].isdigit())):
        found.append(
            ConfigError("There is no such device", found=device, remedy="Choose auto, cpu, cuda or cuda:0")
        )
    return found


def data_problems(config: RunConfig, manifest: Manifest | None = None) -> list[EngineError]:
    """Those of the data set and its split; a tenth of a second for the whole of BreakHis."""
    if config.data.root:
        try:
            prepare_data(config, manifest)
        except EngineError as error:
            return [error]
    return []


def all_problems(
    configs: Sequence[RunConfig], of_data: Callable[[RunConfig], list[EngineError]] = data_problems
) -> list[EngineError]:
    """The problems of several runs, each once.

    Args:
        of_data: `data_problems`, or the same on what a caller has loaded already; asked once per split, not once
            per model, seed and learning rate.
    """
    seen: dict[str, EngineError] = {}
    divided: set[DataConfig] = set()
    for config in configs:
        found = setting_problems(config)
        if config.data not in divided:
            divided.add(config.data)
            found += of_data(config)
        for error in found:
            seen.setdefault(str(error), error)
    return list(seen.values())


def plan(
    config: RunConfig,
    *,
    models: tuple[str, ...] | list[str] = (),
    folds: tuple[int, ...] | list[int] = (),
    seeds: tuple[int, ...] | list[int] = (),
    rates: tuple[float, ...] | list[float] = (),
) -> list[RunConfig]:
    """One launch = models x folds x seeds x learning rates: a configuration per run, all of one experiment.

    A family name (`EfficientNetV2`, as the study's own command line has it) stands for its members. What each
    network sees is written out (`presets.settled`).

    Raises:
        ConfigError: a model that is not in the catalogue.
    """
    names = [name for model in (models or [config.model.name]) for name in catalog.expand(model)]
    folds = list(folds) or [config.data.fold]
    seeds = list(seeds) or [config.training.seed]
    rates = list(rates) or [config.training.lr]
    several = len(names) * len(folds) * len(seeds) * len(rates) > 1
    experiment = config.experiment or (new_id("experiment") if several else "")
    runs = []
    for name, fold, seed, rate in itertools.product(names, folds, seeds, rates):
        parts = [config.name] if config.name else []
        if len(names) > 1 or not parts:
            parts.append(catalog.find(name).label)
        if len(folds) > 1:
            parts.append(f"fold {fold}")
        if len(seeds) > 1:
            parts.append(f"seed {seed}")
        if len(rates) > 1:
            parts.append(f"lr {rate:g}" if rate else "the recipe's lr")
        one = config.changed(
            name=" · ".join(parts),
            experiment=experiment,
            model__name=catalog.find(name).name,
            data__fold=fold,
            training__seed=seed,
            training__lr=rate,
        )
        runs.append(presets.settled(one))
    return runs


def parse_numbers(text: str, what: str = "Seeds") -> tuple[int, ...]:
    """`0, 1, 2` or `0-4` -> the numbers, each once: how folds and seeds of a launch are written.

    Raises:
        ConfigError: not whole numbers, none, or more than 100.
    """
    found: list[int] = []
    for part in text.replace(";", ",").split(","):
        part = part.strip()
        if not part:
            continue
        low, dash, high = part.partition("-")
        if not (low.strip().isdigit() and (not dash or high.strip().isdigit())):
            raise ConfigError(f"{what} are whole numbers", found=part, remedy="Give them like 0, 1, 2 or 0-4")
        start, end = int(low), int(high) if dash else int(low)
        if end - start > 100 or len(found) > 100:
            raise ConfigError(
                f"That many {what.lower()} are no experiment", found=part, remedy="Give at most 100"
            )
        found += range(start, end + 1)
    if not found:
        raise ConfigError(f"No {what.lower().removesuffix('s')} is given", remedy="Give at least one, like 0")
    return tuple(dict.fromkeys(found))


def parse_rates(text: str) -> tuple[float, ...]:
    """`1e-4, 1e-3` -> learning rates, each once; nothing = the recipe's (0).

    Raises:
        ConfigError: not numbers between 0 and 1.
    """
    found = []
    for part in filter(None, (part.strip() for part in text.replace(";", ",").split(","))):
        try:
            rate = float(part)
        except ValueError:
            rate = -1.0
        if not 0 < rate <= 1:
            raise ConfigError(
                "Learning rates are numbers between 0 and 1", found=part, remedy="Give them like 1e-4, 1e-3"
            )
        found.append(rate)
    return tuple(dict.fromkeys(found)) or (0.0,)


def prepare(
    config: RunConfig,
    runs: Path,
    *,
    manifest: Manifest | None = None,
    state: str = QUEUED,
    executor: str = LOCAL,
    known: Sequence[forecast.Past] | None = None,
) -> RunFolder:
    """Make the folder of a run that can be executed.

    Args:
        known: what finished runs took (`forecast.known_runs`), where a caller prepares many.

    Raises:
        AccessError: whoever asks is no editor.
        EngineError: the first of `problems`; nothing is then left behind.
    """
    who = access.require_editor("launch runs")
    for error in [*executors.find(executor).problems(runs), *value_problems(config)]:
        raise error
    config = presets.settled(config)
    ready = prepare_data(config, manifest)
    root = str(Path(config.data.root).expanduser().resolve())
    config = config.changed(data__root=root, classes=ready.manifest.classes)
    if not config.name:
        config = config.changed(name=catalog.find(config.model.name).label)
    folder = create(
        runs,
        config,
        config.model.name,
        manifest=ready.manifest,
        audit=ready.audit.as_record(),
        split_hash=ready.split_hash,
        status=Status(executor=executor).moved(state),
    )
    with contextlib.suppress(OSError):  # a number for the eye: never a reason to fail
        forecast.keep(folder, forecast.expected(config, part_sizes(ready.manifest), runs, known))
    access.log(runs, "launch", folder.id, who)
    return folder


def part_sizes(manifest: Manifest) -> tuple[int, int, int]:
    """Images in train, val and test."""
    counts = manifest.table["split"].value_counts()
    return int(counts.get("train", 0)), int(counts.get("val", 0)), int(counts.get("test", 0))


def start(
    config: RunConfig,
    runs: Path,
    *,
    manifest: Manifest | None = None,
    executor: str = LOCAL,
    known: Sequence[forecast.Past] | None = None,
) -> RunFolder:
    """Queue a run for a worker of its own and return at once; it outlives the caller.

    Args:
        executor: `local`, or `ray` (the runs folder must be connected to a cluster, see executors.ray).
    """
    folder = prepare(config, runs, manifest=manifest, executor=executor, known=known)
    enqueue(folder)
    return folder


def start_all(configs: list[RunConfig], runs: Path, *, executor: str = LOCAL) -> list[RunFolder]:
    """Queue several runs; all are checked before the first one is queued."""
    cache = {root: load_dataset(Path(root).expanduser()) for root in {one.data.root for one in configs}}
    found = all_problems(configs, lambda config: data_problems(config, cache[config.data.root]))
    for error in [*executors.find(executor).problems(runs), *found]:
        raise error
    known = forecast.known_runs(runs)
    return [
        start(config, runs, manifest=cache[config.data.root], executor=executor, known=known)
        for config in configs
    ]


def start_remedy(folder: RunFolder) -> RunFolder:
    """Start a failed run once more with what its error asks for (`remedies.remedy`), as a run of its own.

    Raises:
        RunError: there is no remedy that another configuration could be.
    """
    config = folder.config()
    found = remedies.remedy(config, folder.status().error)
    if found is None:
        raise RunError(
            f"No other settings are known to help {folder.name}",
            found=str((folder.status().error or {}).get("kind") or f"state {folder.state()}"),
            remedy="Read its log, or resume it",
        )
    again = dataclasses.replace(found.config, name=folder.name, parent=folder.id)
    return start(again, folder.runs, manifest=load_dataset(Path(again.data.root).expanduser()))


def enqueue(folder: RunFolder) -> None:
    """Put a prepared run into the queue and see that somebody starts it."""
    Queue(folder.runs).add(folder.id, wants=wanted(folder))
    supervisor.ensure(folder.runs)


def hold(folder: RunFolder) -> None:
    """Hold a waiting run back."""
    Queue(folder.runs).hold(folder.id)


def release(folder: RunFolder) -> None:
    """Let a held run go, and see that somebody starts it."""
    Queue(folder.runs).hold(folder.id, False)
    supervisor.ensure(folder.runs)


def stop(folder: RunFolder, *, kill: bool = False) -> str:
    """Stop a run: a waiting one at once, a working one at its next step.

    Args:
        kill: end its process at once, without a checkpoint. For a worker that has not stopped within
            STOP_GRACE_S (`may_kill`): it hangs.

    Returns:
        What happened, as a sentence.

    Raises:
        AccessError: whoever asks is no editor.
        RunError: it is not active, the folder cannot be written, or (kill) its process cannot be found.
    """
    who = access.require_editor("stop runs")
    state = folder.state()
    lost = state == UNKNOWN and folder.status().state in WORKING  # a cluster out of reach
    if state not in ACTIVE and not lost:
        raise RunError(
            f"The run {folder.name} is not active",
            found=f"state {state}",
            remedy="Only a queued or running run can be stopped",
        )
    access.log(folder.runs, "kill" if kill else "stop", folder.id, who)
    folder.request_stop()  # first of all: a worker that is just being started looks for it before it works
    withdrawn = Queue(folder.runs).withdraw(folder.id)
    if (withdrawn or state == QUEUED) and folder.move((QUEUED,), STOPPED, ended_at=time.time()):
        return "It was waiting and has been taken out of the queue."
    executor = folder.status().executor
    executors.find(executor).stop(folder, kill=kill)
    if not kill:
        return "It stops at its next step and saves a checkpoint."
    end = time.monotonic() + KILL_WAIT_S
    while folder.is_alive() and time.monotonic() < end:
        time.sleep(0.05)
    moved = folder.move((STARTING, INTERRUPTED), STOPPED, ended_at=time.time(), eta_s=None, error=None)
    if moved or folder.state() not in ACTIVE:
        return "Its worker was killed; resume continues from the last checkpoint."
    return "Its worker was told to end; it has not yet."


def may_kill(folder: RunFolder) -> bool:
    """Was a stop asked for so long ago that its worker must be hanging?"""
    asked = folder.stop_requested_s()
    return asked is not None and asked > STOP_GRACE_S and folder.is_alive()


def resume(folder: RunFolder) -> str:
    """Queue an unfinished run again; it continues where its last checkpoint is.

    Returns:
        What happened, as a sentence; a completed run is left as it is.

    Raises:
        AccessError: whoever asks is no editor.
        RunError: it is active already, of a kind without a worker, or the folder cannot be written.
    """
    who = access.require_editor("resume runs")
    state = folder.state()
    if state == COMPLETED:
        return f"The run {folder.name} has completed: there is nothing to resume."
    _require_resumable(folder, state)
    if not requeue(folder, RESUMABLE, forget_stop=True, restarts=0):
        raise RunError(
            f"The run {folder.name} has been taken up by somebody else",
            found=f"state {folder.state()}",
            remedy="Nothing needs to be done",
        )
    access.log(folder.runs, "resume", folder.id, who)
    supervisor.ensure(folder.runs)
    return f"The run {folder.name} is queued again."


def _require_resumable(folder: RunFolder, state: str) -> None:
    if state not in RESUMABLE:
        raise RunError(
            f"The run {folder.name} cannot be resumed",
            found=f"state {state}",
            remedy="Stop it first, or wait until it has ended",
        )
    if folder.config().kind not in EXECUTED:
        raise RunError(
            f"The run {folder.name} has no worker",
            found=f"kind {folder.config().kind}",
            remedy="Make it anew",
        )


def auto_resume(runs: Path, on: bool) -> None:
    """Whether interrupted runs of this folder go back into the queue by themselves."""
    queue = Queue(runs)
    queue.write_settings(dataclasses.replace(queue.settings(), auto_resume=on))
    supervisor.tend(runs)


def delete(folder: RunFolder) -> None:
    """Move a run to the trash; a waiting one leaves the queue and, restored, has to be resumed.

    Raises:
        RunError: it is being worked on, gone already, or the folder cannot be written.
    """
    if folder.state() == QUEUED:
        stop(folder)
    trash.delete(folder)


def wait(folder: RunFolder, timeout_s: float = float("inf"), every_s: float = 0.2) -> str:
    """Wait until a run is no longer active; returns its state then."""
    end = time.monotonic() + timeout_s
    while (state := folder.state()) in ACTIVE and time.monotonic() < end:
        time.sleep(every_s)
    return state


def command_line(
    config: RunConfig,
    command: str = "start",
    *,
    models: Sequence[str] = (),
    folds: Sequence[int] = (),
    seeds: Sequence[int] = (),
    rates: Sequence[float] = (),
    executor: str = LOCAL,
) -> str:
    """The command that launches this configuration: every value that is not the default, shell-quoted.

    Args:
        models, folds, seeds, rates: of a launch of several runs (see `plan`); those of the configuration unless given.
    """
    if config.kind in _JOINED:
        return _joined_line(config)
    words = ["python", "-m", "engine", command]
    several = {"--model": models, "--fold": folds, "--seed": seeds, "--lr": rates}
    for group, item in options():
        holder = next(
            (part for part in (config.data, config.model, config.training, config) if type(part) is group),
            config,
        )
        value = getattr(holder, item.name)
        flag = item.metadata["flag"]
        if len(several.get(flag, ())) > 1:
            words += [flag if flag == "--model" else f"{flag}s", ",".join(map(str, several[flag]))]
            continue
        default = item.default if item.default is not dataclasses.MISSING else None
        if value == default or value in ("", ()):
            continue
        if isinstance(value, bool):
            words.append(flag)
        else:
            words += [flag, ",".join(value) if isinstance(value, tuple) else str(value)]
    if executor != LOCAL:
        words += ["--executor", executor]
    return shlex.join(words)


# kind of a run that is made of others -> the command that makes it
_JOINED = {"ensemble": "ensemble", "fusion": "fuse", "soup": "soup", "pooled": "pool"}


def _joined_line(config: RunConfig) -> str:
    """The command that makes an ensemble, fusion, soup or pooled entry of its members again."""
    told = config.details
    members = [str(member) for member in told.get("members") or ()]
    words = ["python", "-m", "engine", _JOINED[config.kind], *members]
    if config.kind == "ensemble":
        words += ["--method", str(told.get("method", "mean"))]
        weights = [float(weight) for weight in told.get("weights") or ()]
        if weights and not told.get("fits") and max(weights) - min(weights) > 1e-9:
            words += ["--weights", ",".join(f"{weight:.6g}" for weight in weights)]
        if told.get("tie_rule", "mean-probability") != "mean-probability":
            words += ["--ties", str(told["tie_rule"])]
        words += ["--per-case"] * bool(told.get("per_case"))
    words += ["--as-study"] * bool(told.get("as_study")) + ["--greedy"] * (told.get("recipe") == "greedy")
    return shlex.join([*words, "--name", config.name])


def work_here(folder: RunFolder, listener: Callable[[Status], None] | None = None) -> int:
    """Execute a prepared run in this process (`engine train`), its output in its log; returns the exit code."""
    from engine.runs.worker import work

    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
    with (
        open(folder.path / "log.txt", "a", encoding="utf-8") as log,
        contextlib.redirect_stdout(log),
        contextlib.redirect_stderr(log),
    ):
        return work(folder.path, listener)


def work_together(
    folder: RunFolder, processes: int, listener: Callable[[Status], None] | None = None, every_s: float = 0.5
) -> int:
    """Execute a prepared run in so many processes, one per GPU where there are any, and wait for them
    (`engine train --processes`); Ctrl-C reaches all of them and asks for a stop. Returns the exit code.
    """
    words = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        str(processes),
    ]
    with open(folder.path / "log.txt", "ab") as log:
        group = subprocess.Popen(
            [*words, "-m", "engine", "work", str(folder.path.resolve())],
            cwd=Path(__file__).resolve().parents[2],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    while group.poll() is None:
        with contextlib.suppress(KeyboardInterrupt):  # they have got it too, and save before they end
            time.sleep(every_s)
        if listener:
            listener(folder.status())
    status = folder.status()
    ended = {COMPLETED: 0, STOPPED: EXIT_STOPPED}
    # torch.distributed.run gives 1 for any failure: what the worker wrote says which.
    return ended.get(status.state, group.returncode or 1)


def default_fold(protocol: str) -> int:
    """The first fold of a protocol: 0, or 1 for the official folds."""
    return find_protocol(protocol).folds[0]
