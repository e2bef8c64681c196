"""`python -m engine COMMAND`: everything the pages can do, from a terminal.

With `--json`, stdout is exactly one JSON document; progress and logs go to stderr. A failure is one
sentence on stderr and an exit code that is not 0. Each command imports what it needs when it runs: `--help`
answers in a fraction of a second.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine import files
from engine.errors import ConfigError, DataError, EngineError, PredictionsError
from engine.runs.config import DataConfig, RunConfig, options

if TYPE_CHECKING:
    from engine.runs.folder import RunFolder, Status

EXIT_ERROR = 2
BENCHES = ("loader", "train", "runs", "compare", "ensemble", "explain", "predict", "growth")
Command = Callable[[argparse.Namespace], int]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
    options_given = _parser().parse_args(arguments)
    try:
        return options_given.run(options_given)
    except EngineError as error:
        _say(f"Error: {error}")
        return EXIT_ERROR
    except KeyboardInterrupt:
        _say("Interrupted.")
        return 130
    except BrokenPipeError:  # `... | head`
        sys.stderr.close()
        return 0


# -- the parser -------------------------------------------------------------------------------------


class _Help(argparse.ArgumentDefaultsHelpFormatter):
    """Defaults are worth a word only where there is one."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        if action.default in (None, "", (), False, 0, 0.0, -1):
            return action.help
        return super()._get_help_string(action)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m engine",
        description="Train, compare, ensemble and explain classifiers of BreakHis images. Research use only.",
    )
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    def add(
        name: str, run: Command, text: str, *, runs: bool = False, as_json: bool = False
    ) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=text, description=text, formatter_class=_Help)
        command.set_defaults(run=run)
        if runs:
            command.add_argument(
                "--runs", type=Path, default=Path("runs"), metavar="DIR", help="folder of all runs"
            )
        if as_json:
            command.add_argument("--json", action="store_true", help="print one JSON document on stdout")
        return command

    command = add(
        "sample",
        _sample,
        "Write a synthetic data set in the official layout, to try everything without a download.",
    )
    command.add_argument(
        "target", type=Path, metavar="DIR", help="folder to write; new, empty or an earlier sample"
    )
    command.add_argument("--seed", type=int, default=0, help="another seed draws other tissue")

    command = add(
        "check",
        _check,
        "Count what a data set holds and name what is wrong with it; exit 1 when it cannot be used.",
        as_json=True,
    )
    command.add_argument("data", type=Path, metavar="DATA", help="a copy of BreakHis, or another data set")
    command.add_argument(
        "--images", action="store_true", help="also hash every image and name those that show the same"
    )
    command.add_argument(
        "--headers",
        action="store_true",
        help="read names and headers only: seconds on a slow disk, but a flipped bit inside a file stays unseen",
    )

    command = add(
        "split", _split, "Divide a data set into train, val and test, and audit the result.", as_json=True
    )
    command.add_argument("data", type=Path, metavar="DATA", help="a copy of BreakHis, or another data set")
    for name in ("protocol", "magnifications", "task", "keep_ambiguous"):
        _add_option(command, DataConfig, name)
    command.add_argument("--fold", type=int, help="which fold is the test part; the first unless given")
    command.add_argument("--seed", type=int, default=0, help="seed of the split")
    command.add_argument("--out", type=Path, required=True, metavar="CSV", help="manifest to write")

    command = add(
        "audit",
        _audit,
        "Say what leaks between the splits of a manifest; exit 1 when something does.",
        as_json=True,
    )
    command.add_argument("manifest", type=Path, metavar="CSV", help="a manifest with a split column")
    command.add_argument(
        "--images", action="store_true", help="also compare the images: near duplicates on two sides"
    )

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
        _add_run_options(command)
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
    _add_run_options(command)
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
    command.add_argument("--tags", type=_listed, metavar="TAG,TAG", help="its tags from now on")
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

    command = add(
        "import",
        _import,
        "Make predictions of any other tool a run: compared and ensembled like ours.",
        runs=True,
        as_json=True,
    )
    command.add_argument(
        "predictions",
        type=Path,
        nargs="+",
        metavar="CSV",
        help="image_id and prob_<class>, one row per image",
    )
    command.add_argument("--name", metavar="LABEL", help="a label for people; the file's name unless given")
    command.add_argument(
        "--map",
        action="append",
        default=[],
        metavar="THEIRS=OURS",
        help="a column of the file and what it is here, as in y_prob=prob_malignant; may be repeated",
    )
    command.add_argument(
        "--each", action="store_true", help="every file is a model of its own, not a part of one"
    )

    command = add(
        "compare", _compare, "Score runs on the images that all of them predicted.", runs=True, as_json=True
    )
    command.add_argument("ids", nargs="+", metavar="ID")
    command.add_argument(
        "--split", choices=("train", "val", "test"), default="test", help="which predictions"
    )
    command.add_argument("--scores", metavar="NAME,NAME", help="scores of `engine.analysis.metrics`")
    command.add_argument("--reference", metavar="ID", help="what the others are measured against")
    command.add_argument(
        "--by", choices=("magnification", "subtype", "fold"), default="magnification", help="matrices per ..."
    )
    command.add_argument(
        "--threshold",
        default="",
        metavar="RULE",
        help="operating point: 0.42, youden, sensitivity:0.95 or specificity:0.95 (chosen on validation)",
    )
    command.add_argument(
        "--without-marked",
        default="",
        metavar="KIND,KIND",
        help="leave images with these marks out (wrong-label, artefact, discuss): a sensitivity analysis",
    )
    command.add_argument(
        "--out", type=Path, metavar="FILE", help="the score table as .csv or as .tex (LaTeX) too"
    )

    command = add(
        "review",
        _review,
        "Mark an image for other people, take marks back, list them, or take them home as CSV.",
        runs=True,
        as_json=True,
    )
    command.add_argument("image", nargs="?", metavar="IMAGE", help="file name of the image to mark")
    command.add_argument("--mark", metavar="KIND", help="wrong-label, artefact or discuss")
    command.add_argument("--note", default="", metavar="TEXT", help="kept with the mark")
    command.add_argument("--remove", action="store_true", help="take your own mark of this kind back")
    command.add_argument("--undo", action="store_true", help="take your last step back (twice: redo it)")
    command.add_argument("--out", type=Path, metavar="FILE", help="write the marks in force as CSV")

    command = add(
        "pool",
        _pool,
        "Put the test parts of one model's folds together as one entry.",
        runs=True,
        as_json=True,
    )
    command.add_argument("ids", nargs="+", metavar="ID", help="a run per fold")
    command.add_argument("--name", required=True, metavar="LABEL", help="a label for people")

    command = add(
        "ensemble",
        _ensemble,
        "Combine runs, and score the result beside its members.",
        runs=True,
        as_json=True,
    )
    command.add_argument("ids", nargs="+", metavar="ID", help="members")
    command.add_argument(
        "--method", default="mean", help="mean, vote, or another method of `engine.analysis.ensemble`"
    )
    command.add_argument(
        "--weights", metavar="W,W", help="a weight per member, for methods that take weights"
    )
    command.add_argument(
        "--ties",
        choices=("mean-probability", "lowest-label"),
        default="mean-probability",
        help="who wins a tied vote: the class of greater mean probability, or the lowest label as in the study",
    )
    command.add_argument(
        "--tta",
        action="store_true",
        help="members as predicted with test-time augmentation (`engine tta ID` makes these)",
    )
    command.add_argument(
        "--per-case",
        "--per_case",
        action="store_true",
        help="fuse each case's magnifications: every image carries what its whole case says",
    )
    command.add_argument("--name", metavar="LABEL", help="save it as a run of this name")
    command.add_argument(
        "--split", choices=("val", "test"), default="test", help="which predictions are reported"
    )
    command.add_argument("--search", action="store_true", help="rank all subsets on validation")
    command.add_argument(
        "--max-size", type=int, metavar="N", help="search subsets of at most so many members"
    )
    command.add_argument(
        "--reveal",
        action="store_true",
        help="with --search: lock the best one (saved, with what was tried), then report it on test",
    )

    command = add(
        "predict", _predict, "Predict images with a trained run or an ensemble.", runs=True, as_json=True
    )
    command.add_argument("id", metavar="ID")
    command.add_argument(
        "images", nargs="+", type=Path, metavar="IMAGE", help="image files, or folders of them"
    )
    command.add_argument(
        "--out", type=Path, metavar="CSV", help="write the predictions here instead of stdout"
    )
    command.add_argument(
        "--cases", type=Path, metavar="CSV", help="columns image and case (or label): who the images are of"
    )
    command.add_argument(
        "--report", type=Path, metavar="HTML", help="also write a self-contained report of the predictions"
    )
    command.add_argument(
        "--refer-below", "--refer_below", type=float, default=0.65, metavar="P",
        help="refer images whose class has less probability to a person",
    )  # fmt: skip
    command.add_argument(
        "--agreement", type=float, default=1.0, metavar="SHARE",
        help="refer images on which fewer of an ensemble's members agree",
    )  # fmt: skip
    command.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:<index>")

    command = add(
        "explain",
        _explain,
        "Draw what a run looked at, over the image, at native pixels.",
        runs=True,
        as_json=True,
    )
    command.add_argument("id", metavar="ID")
    command.add_argument("image", type=Path, metavar="IMAGE", help="an image file, or a folder of them")
    command.add_argument(
        "--method",
        default="gradcam",
        help="gradcam, hirescam, gradcam++, layercam, eigengradcam, scorecam, ablationcam, randomcam",
    )
    command.add_argument("--target", default="malignant", help="a class (its logit), margin, or predicted")
    command.add_argument(
        "--layer", metavar="MODULE", help="dotted name of the layer; the architecture's own unless given"
    )
    command.add_argument(
        "--out",
        type=Path,
        required=True,
        metavar="PNG",
        help="overlay to write; for a folder of images, a folder",
    )
    command.add_argument(
        "--raw",
        type=Path,
        metavar="NPY",
        help="also write the signed map on the layer's grid, float32; for a folder any name: one beside each overlay",
    )
    command.add_argument(
        "--geojson",
        type=Path,
        metavar="FILE",
        help="also write the outline for QuPath; for a folder as --raw",
    )
    command.add_argument(
        "--page", type=Path, metavar="FILE", help="also a figure for a paper: .pdf, .svg or .png"
    )
    command.add_argument("--opacity", type=float, default=0.5, help="0 = image only, 1 = colours only")
    command.add_argument("--colours", default="inferno", help="inferno, viridis, magma, cividis or jet")
    command.add_argument("--contour", type=float, metavar="SHARE", help="outline of the hottest share: 0.15")

    command = add(
        "probe",
        _probe,
        "Measure what leakage is worth: one light classifier under an image split and under a case split.",
        as_json=True,
    )
    command.add_argument("data", type=Path, metavar="DATA", help="a copy of BreakHis, or another data set")
    command.add_argument("--model", default="tf_efficientnet_lite0", help="whose frozen features are used")
    command.add_argument("--pretrained", default="offline", help="hub, offline or none")
    command.add_argument("--magnification", type=_listed, default=(), help="these magnifications only")
    command.add_argument("--seed", type=int, default=0, help="seed of both splits")

    command = add(
        "download",
        _download,
        "Fetch the official BreakHis archive; interrupted, it goes on where it was.",
        as_json=True,
    )
    command.add_argument("--to", type=Path, required=True, metavar="DIR", help="folder to write to")
    command.add_argument("--url", help="another address of the archive (.tar.gz)")

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

    command = add(
        "report",
        _report,
        "Write one self-contained HTML file (or PDF) about runs: leakage first, scores, matrices, limits.",
        runs=True,
        as_json=True,
    )
    command.add_argument("ids", nargs="+", metavar="ID")
    command.add_argument("--out", type=Path, required=True, metavar="FILE", help="ends with .html or .pdf")
    command.add_argument("--title", default="BreakHis report", help="what it is called")
    command.add_argument("--author", default="", help="who made it")
    command.add_argument("--split", choices=("val", "test"), default="test", help="which predictions")

    command = add(
        "freeze",
        _freeze,
        "Freeze the results of runs under a link that nobody can guess and that never changes.",
        runs=True,
        as_json=True,
    )
    command.add_argument("ids", nargs="+", metavar="ID")
    command.add_argument("--title", required=True, help="what it is called")
    command.add_argument("--author", default="", help="who made it")
    command.add_argument("--note", default="", help="a word to the reader")
    command.add_argument("--days", type=float, help="expires after so many days; never unless given")
    command.add_argument("--split", choices=("val", "test"), default="test", help="which predictions")

    command = add(
        "bundle",
        _bundle,
        "Pack a run, or an ensemble with its members, into one zip for another machine.",
        runs=True,
        as_json=True,
    )
    command.add_argument("id", metavar="ID")
    command.add_argument("--out", type=Path, required=True, metavar="ZIP", help="file to write")

    command = add(
        "unbundle",
        _unbundle,
        "Import a bundle: hashes verified, nothing in it is executed.",
        runs=True,
        as_json=True,
    )
    command.add_argument("bundle", type=Path, metavar="ZIP")
    command.add_argument("--data", default="", help="where the images lie on this machine")

    command = add(
        "pack",
        _pack,
        "Decode a data set once into a packed cache that training reads at memory speed.",
        as_json=True,
    )
    command.add_argument("data", type=Path, metavar="DATA")
    command.add_argument(
        "--image-size", "--image_size", type=int, default=0, help="side in pixels; 0 = native"
    )
    command.add_argument("--geometry", choices=("square", "letterbox", "tiles"), default="square")
    command.add_argument(
        "--interpolation", choices=("area", "bilinear"), default="area", help="bilinear: as the study resized"
    )

    command = add(
        "cache",
        _cache,
        "List the packed pixels, features and thumbnails that are kept, and forget what is not used.",
        as_json=True,
    )
    command.add_argument(
        "--limit",
        type=float,
        metavar="GB",
        help="forget the least recently used until the rest takes at most so much; 0 forgets all that nobody reads",
    )

    command = add(
        "bench",
        _bench,
        "Measure what is promised, each beside what a user would pick instead, in one run on this machine.",
        as_json=True,
    )
    command.add_argument(
        "names", nargs="*", metavar="NAME", help=f"which of {', '.join(BENCHES)}; all unless given"
    )
    command.add_argument(
        "--data", type=Path, help="data set for loader, train and predict; the sample unless given"
    )
    command.add_argument(
        "--device", default="auto", help="of the bench train: auto, cpu, cuda or cuda:<index>"
    )
    command.add_argument(
        "--batch-size",
        "--batch_size",
        type=int,
        default=0,
        help="of the bench train; 0 = what suits the device",
    )
    command.add_argument("--quick", action="store_true", help="as little work as shows that every bench runs")
    command.add_argument("--markdown", action="store_true", help="print the table as Markdown")
    command.add_argument(
        "--out",
        action="append",
        type=Path,
        metavar="FILE",
        help="write the table, too: .json, .md or text by its ending; may be repeated",
    )
    command.add_argument(
        "--into", type=Path, metavar="FILE", help="replace the table between the markers of a Markdown file"
    )

    command = add("work", _work, "Execute the run in a folder (what workers are started with).")
    command.add_argument("folder", type=Path, metavar="DIR")
    command = add(
        "supervise",
        _supervise,
        "Start what waits in a queue until nothing is left (started by whoever submits).",
    )
    command.add_argument("runs", type=Path, metavar="DIR")
    return parser


def _add_run_options(command: argparse.ArgumentParser) -> None:
    for group, item in options():
        _add_option(command, group, item.name)
    command.set_defaults(fold=None)


def _add_option(command: argparse.ArgumentParser, group: type, name: str) -> None:
    """One flag from the facts of a configuration field; underscores work like dashes."""
    item = next(item for item in dataclasses.fields(group) if item.name == name)
    facts = item.metadata
    flag = facts["flag"]
    names = [flag] + ([flag.replace("-", "_").replace("__", "--", 1)] if "-" in flag[2:] else [])
    words: dict[str, Any] = {
        "dest": flag.lstrip("-").replace("-", "_"),
        "default": item.default,
        "help": facts["help"].replace("%", "%%"),
    }
    if isinstance(item.default, bool):
        command.add_argument(*names, action="store_true", **words)
        return
    if facts.get("choices"):
        words["choices"] = [choice for choice in facts["choices"] if choice]
    if isinstance(item.default, tuple):
        words["type"] = _listed
    elif isinstance(item.default, int | float):
        words["type"] = type(item.default)
    command.add_argument(*names, **words)


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


def _listed(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _config(given: argparse.Namespace) -> RunConfig:
    """The configuration that the flags spell out, on top of the file or the run that is named."""
    from engine.runs.config import read_config
    from engine.runs.launch import default_fold

    config = RunConfig()
    if given.config or given.parent:
        parent = _locate(given, given.parent) if given.parent else None
        config = parent.config() if parent else read_config(given.config)
        config = config.changed(
            kind="train", name="", experiment="", parent=parent.id if parent else "", details={}
        )
        if parent and given.from_checkpoint:
            config = config.changed(model__pretrained=str(parent.best.resolve()))
    based = bool(given.config or given.parent)
    values: dict[str, Any] = {}
    prefix = {
        "DataConfig": "data__",
        "ModelConfig": "model__",
        "TrainingConfig": "training__",
        "RunConfig": "",
    }
    for group, item in options():
        value = getattr(given, item.metadata["flag"].lstrip("-").replace("-", "_"))
        if value is not None and not (based and value == item.default):
            values[prefix[group.__name__] + item.name] = value
    if given.fold is None and (not based or "data__protocol" in values):
        values["data__fold"] = default_fold(given.protocol)
    return config.changed(**values)


# -- output -----------------------------------------------------------------------------------------


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _answer(given: argparse.Namespace, record: Any, text: str) -> None:
    """The result: one JSON document with --json, a text for people otherwise."""
    print(json.dumps(record, indent=1, ensure_ascii=False) if given.json else text, flush=True)


def _progress(label: str, unit: str = "image") -> Callable[[int, int], None]:
    """A progress bar on stderr, as a callback (done, total); where stderr is no terminal, a line now and then."""
    from tqdm import tqdm

    if not sys.stderr.isatty():
        return _progress_lines(label)

    bar = tqdm(desc=label, unit=unit, file=sys.stderr, leave=False)

    def update(done: int, total: int) -> None:
        bar.total = total
        bar.n = done
        bar.refresh()
        if done >= total:
            bar.close()

    return update


def _progress_lines(label: str, every_s: float = 2.0) -> Callable[[int, int], None]:
    """`Hashing: 1,200 of 7,909` every few seconds, for logs and for the page that reads them."""
    said_at = time.monotonic()

    def update(done: int, total: int) -> None:
        nonlocal said_at
        if time.monotonic() - said_at >= every_s:
            said_at = time.monotonic()
            _say(f"{label}: {done:,} of {total:,}")

    return update


def _table(rows: list[dict[str, Any]]) -> str:
    """Rows as aligned text."""
    import pandas as pd

    return pd.DataFrame(rows).to_string(index=False) if rows else "Nothing here."


# -- data -------------------------------------------------------------------------------------------


def _sample(given: argparse.Namespace) -> int:
    from engine.data.sample import write_sample

    write_sample(given.target, seed=given.seed, progress=_progress("Drawing tissue"))
    print(given.target)
    return 0


def _check(given: argparse.Namespace) -> int:
    from engine.data.datasets import inspect

    try:
        verify = _progress("Verifying checksums") if not given.headers else False
        manifest, inventory = inspect(given.data, progress=_progress("Reading headers"), verify=verify)
    except DataError as error:
        _say(f"Error: {error}")
        if given.json:
            record = {"images": 0, "slides": 0, "cases": 0, "counts": {}, "problems": [error.as_record()]}
            _answer(given, {**record, "usable": False}, "")
        return 1
    record, text = inventory.as_record(), inventory.as_text()
    if given.images:
        from engine.data.hashing import find_duplicates

        found = find_duplicates(manifest, progress=_progress("Hashing"))
        record["duplicates"] = found.as_record()
        text = f"{text}\n{found.as_text()}"
    _answer(given, record, text)
    return 0 if inventory.usable else 1


def _split(given: argparse.Namespace) -> int:
    from engine.data.manifest import write_manifest
    from engine.data.splits import composition
    from engine.runs.launch import default_fold, prepare_data

    fold = default_fold(given.protocol) if given.fold is None else given.fold
    config = RunConfig().changed(
        data__root=str(given.data),
        data__protocol=given.protocol,
        data__fold=fold,
        data__split_seed=given.seed,
        data__magnifications=given.magnification,
        data__task=given.task,
        data__keep_ambiguous=given.keep_ambiguous,
    )
    ready = prepare_data(config)
    write_manifest(ready.manifest, given.out, absolute=True)
    record = {
        "manifest": str(given.out),
        "split_hash": ready.split_hash,
        "images": ready.manifest.table["split"].value_counts().to_dict(),
        "composition": composition(ready.manifest.table, ("label", "subtype", "magnification")).to_dict(
            "records"
        ),
        "audit": ready.audit.as_record(),
        "warnings": list(ready.warnings),
    }
    text = "\n".join(
        [
            composition(ready.manifest.table, ("label", "subtype")).to_string(index=False),
            f"split {ready.split_hash}",
            ready.audit.verdict,
            *ready.warnings,
            f"Written: {given.out}",
        ]
    )
    _answer(given, record, text)
    return 0


def _audit(given: argparse.Namespace) -> int:
    from engine.data.audit import audit, audit_images
    from engine.data.manifest import read_manifest

    manifest = read_manifest(given.manifest)
    bar = _progress("Comparing")
    found = audit_images(manifest, progress=bar) if given.images else audit(manifest.table)
    _answer(given, found.as_record(), found.as_text())
    return 1 if found.level == "leak" else 0


# -- runs -------------------------------------------------------------------------------------------


def _plan(given: argparse.Namespace) -> list[RunConfig]:
    """The runs that the flags ask for, all checked before the first one starts."""
    from engine.runs import launch

    config = _config(given)
    configs = launch.plan(
        config,
        models=_listed(config.model.name),
        folds=launch.parse_numbers(given.folds, "Folds") if given.folds else (),
        seeds=launch.parse_numbers(given.seeds) if given.seeds else (),
        rates=launch.parse_rates(given.lrs) if given.lrs else (),
    )
    found = launch.all_problems(configs)
    for error in found[:-1]:
        _say(f"Error: {error}")
    if found:
        raise found[-1]
    return configs


def _train(given: argparse.Namespace) -> int:
    from engine.runs import launch
    from engine.runs.folder import STARTING

    ids, code = [], 0
    for config in _plan(given):
        folder = launch.prepare(config, given.runs, state=STARTING)
        ids.append(folder.id)
        _say(f"Run {folder.id}: {folder.audit()['verdict']}")
        if given.processes > 1:
            code = launch.work_together(folder, given.processes, _status_line())
        else:
            code = launch.work_here(folder, _status_line())
        status = folder.status()
        if status.error:
            _say(f"\nError: {status.error['message']} {status.error.get('remedy') or ''}")
        if code:
            break
    record = {"id": ids[0]} if len(ids) == 1 else {"id": ids[0], "ids": ids}
    _answer(given, record, "\n".join(ids))
    return code


def _reproduce(given: argparse.Namespace) -> int:
    from engine.runs import reproduction

    base = _config(given)
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
            _say(text)
        said = text

    if not given.detach:
        _say("Following the queue; Ctrl-C leaves it running, and the same command goes on.")
        now = reproduction.follow(base, given.runs, report)
    for one in now.failed:
        _say(f"{one.name} ({one.id}): {one.state}. {(one.status.error or {}).get('message') or ''}")
    record = reproduction.as_record(given.runs, base.experiment)
    _answer(given, record, reproduction.as_text(given.runs, base.experiment))
    return 0 if now.complete or (given.detach and not now.failed) else 1


def _status_line() -> Callable[[Status], None]:
    """One line on stderr that follows a run; a line per phase where stderr is no terminal."""
    live = sys.stderr.isatty()
    real = sys.stderr
    seen: list[str] = []

    def show(status: Status) -> None:
        epoch = f" epoch {status.epoch}/{status.epochs}" if status.epoch else ""
        left = f", {_duration(status.eta_s)} left" if status.eta_s is not None else ""
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


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return (
        f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
    )


def _start(given: argparse.Namespace) -> int:
    from engine.runs import commands, executors, launch

    configs = _plan(given)
    if given.check:
        record, text = commands.checks_record(executors.find(given.executor).check_up(given.runs))
        _say(text)
        if not record["good"]:
            return 1
    ids = [folder.id for folder in launch.start_all(configs, given.runs, executor=given.executor)]
    _answer(given, {"id": ids[0]} if len(ids) == 1 else {"id": ids[0], "ids": ids}, "\n".join(ids))
    return 0


def _label(given: argparse.Namespace) -> int:
    from engine.runs import commands

    _answer(given, *commands.write_label(_locate(given), name=given.name, tags=given.tags, notes=given.notes))
    return 0


def _queue(given: argparse.Namespace) -> int:
    from engine.runs import commands, launch

    if given.auto_resume:
        launch.auto_resume(given.runs, given.auto_resume == "on")
    if given.id:
        commands.change_queue(
            given.runs, given.id, to=given.to, hold=given.hold, release=given.release, priority=given.priority
        )
    _answer(given, *commands.queue_record(given.runs))
    return 0


def _trash(given: argparse.Namespace) -> int:
    from engine.runs import commands

    _answer(given, *commands.trash_record(given.runs, empty=given.empty))
    return 0


def _cluster(given: argparse.Namespace) -> int:
    from engine.runs import commands
    from engine.runs.executors import jobs, ray

    if given.disconnect:
        jobs.disconnect(given.runs)
        _answer(given, {"cluster": None}, "Disconnected; what runs there runs on.")
        return 0
    values = {item.name: getattr(given, f"cluster_{item.name}") for item in jobs.settings()}
    if any(value is not None for value in values.values()):
        commands.connect_cluster(given.runs, values)
    if given.check:
        record, text = commands.checks_record(ray.check_up(given.runs))
        _answer(given, record, text)
        return 0 if record["good"] else 1
    _answer(given, *commands.cluster_record(given.runs))
    return 0


def _runs(given: argparse.Namespace) -> int:
    from engine.runs.folder import summaries

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
    _answer(given, {"runs": rows}, _table(for_people))
    return 0


def _locate(given: argparse.Namespace, run_id: str | None = None) -> RunFolder:
    from engine.runs.folder import locate

    return locate(given.runs, run_id or given.id)


def _show(given: argparse.Namespace) -> int:
    from engine.runs import forecast, remedies
    from engine.runs.config import mode_of, reproducibility
    from engine.runs.cost import cost_of

    folder = _locate(given)
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
            f"No sign for {_duration(time.time() - status.check_in_at)}: its process lives, but may hang."
        )
    if status.best:
        lines.append(
            f"Best {status.best['metric']} {status.best['value']:.3f} at epoch {status.best['epoch']}"
        )
    if status.error:
        lines.append(f"{status.error['message']} {status.error.get('remedy') or ''}".strip())
    lines += [f"{cure.label}: {again}"] if cure else []
    _answer(given, record, "\n".join(lines))
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
            _say(f"Measuring {config.name} ...")
            found = forecast.measure(config, counts, given.runs)
        rows.append({"name": config.name, **found.as_record()})
    lines = [
        f"{row['name']}: {forecast.duration(row['seconds'])}, {forecast.duration(row['epoch_s'] or float('nan'))} per "
        f"epoch, {row['memory_mb'] or float('nan'):,.0f} MB ({row['source']})"
        for row in rows
    ]
    _answer(given, {"runs": rows}, "\n".join(lines))
    return 0


def _stop(given: argparse.Namespace) -> int:
    from engine.runs import launch

    folder = _locate(given)
    said = launch.stop(folder, kill=given.kill)
    state = launch.wait(folder, given.wait) if given.wait else folder.state()
    _answer(given, {"id": folder.id, "state": state, "message": said}, said)
    return 0


def _resume(given: argparse.Namespace) -> int:
    from engine.runs import launch

    folder = _locate(given)
    said = launch.resume(folder)
    _answer(given, {"id": folder.id, "state": folder.state(), "message": said}, said)
    return 0


def _delete(given: argparse.Namespace) -> int:
    from engine.runs import launch

    folder = _locate(given)
    launch.delete(folder)
    _answer(given, {"id": folder.id}, f"Moved to the trash: {folder.id} (restore brings it back)")
    return 0


def _restore(given: argparse.Namespace) -> int:
    from engine.runs.folder import restore

    folder = restore(given.runs, given.id)
    _answer(given, {"id": folder.id}, f"Restored: {folder.id}")
    return 0


# -- results ----------------------------------------------------------------------------------------


def _import(given: argparse.Namespace) -> int:
    from engine.runs.results import import_each, import_predictions

    pairs = [text.partition("=") for text in given.map]
    if any(not (theirs and ours) for theirs, _, ours in pairs):
        raise PredictionsError(
            "A mapping names two columns",
            found=", ".join(given.map),
            remedy="As in --map y_prob=prob_malignant",
        )
    mapping = {theirs: ours for theirs, _, ours in pairs}
    stems = [file.stem for file in given.predictions]
    if not given.each:
        folder = import_predictions(given.predictions, given.name or stems[0], given.runs, mapping=mapping)
        _answer(given, {"id": folder.id}, folder.id)
        return 0
    names = [f"{given.name} {stem}" if given.name else stem for stem in stems]
    ids = [folder.id for folder in import_each(given.predictions, names, given.runs, mapping=mapping)]
    _answer(given, {"ids": ids}, "\n".join(ids))
    return 0


def _compare(given: argparse.Namespace) -> int:
    from engine.analysis.operating import parse_rule
    from engine.report import score_table
    from engine.runs.results import compare_runs

    if given.out and given.out.suffix not in (".csv", ".tex"):
        raise PredictionsError(
            "The score table is written as .csv or .tex", found=given.out.name, remedy="Name the file so"
        )
    result = compare_runs(
        [_locate(given, run_id) for run_id in given.ids],
        given.split,
        rule=parse_rule(given.threshold),
        without=_listed(given.without_marked),
        names=_listed(given.scores) if given.scores else None,
        reference=given.reference,
        by=given.by,
    )
    if given.out:
        table, label = result.comparison, str(result.extra.get("sensitivity", ""))
        names = list(table.entries[0].scores)
        if given.out.suffix == ".csv":
            points = {run_id: f"{value:.6g}" for run_id, value in result.extra.get("thresholds", {}).items()}
            files.write_csv(
                given.out,
                files.spreadsheet_safe(score_table.rows(table, names, points=points, analysis=label)),
            )
        else:
            files.write_bytes(given.out, score_table.latex(table, names, analysis=label).encode())
    _answer(given, result.as_record(), result.as_text())
    return 0


def _review(given: argparse.Namespace) -> int:
    from engine.analysis import review
    from engine.share import access

    if given.mark or given.undo:
        who = access.require_editor("mark images")
        if given.undo:
            step = review.undo(given.runs, who.name)
        else:
            step = review.mark(
                given.runs, given.image or "", given.mark, who.name, given.note, remove=given.remove
            )
        if step is None:
            _say(f"{who.name} has marked nothing yet.")
        else:
            _say(f"{'Taken back' if step.removed else 'Marked'}: {step.kind} on {step.image_id}")
    marked = review.marks(given.runs)
    if given.image:
        marked = marked[marked["image_id"] == given.image]
    if given.out:
        files.write_bytes(given.out, review.export_csv(given.runs).encode())
    rows = [{str(name): value for name, value in row.items()} for row in marked.to_dict("records")]
    _answer(given, {"marks": rows}, _table(rows))
    return 0


def _pool(given: argparse.Namespace) -> int:
    from engine.runs.results import pool_folds

    folder = pool_folds([_locate(given, run_id) for run_id in given.ids], given.name, given.runs)
    _answer(given, {"id": folder.id}, folder.id)
    return 0


def _ensemble(given: argparse.Namespace) -> int:
    from engine.runs import ensembles

    members = [_locate(given, run_id) for run_id in given.ids]
    if given.tta:
        members = ensembles.with_tta(members, given.runs)
    if given.search:
        found = ensembles.search_ensembles(
            members,
            max_size=given.max_size,
            reveal=given.reveal,
            name=given.name,
            per_case=given.per_case,
            progress=_progress("Searching", "subset"),
        )
        _answer(given, found.as_record(), found.as_text())
        return 0
    weights = [_number(text) for text in given.weights.split(",")] if given.weights else None
    result = ensembles.ensemble_runs(
        members,
        given.method,
        weights=weights,
        split=given.split,
        name=given.name,
        runs=given.runs,
        tie_rule=given.ties,
        per_case=given.per_case,
    )
    _answer(given, result.as_record(), result.as_text())
    return 0


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError as error:
        raise ConfigError(
            "A weight is not a number", found=text, remedy="Give numbers with commas between them: 1,0.5,2"
        ) from error


def _predict(given: argparse.Namespace) -> int:
    from engine.predict import command

    folder = _locate(given)
    judged, report = command.predict(
        folder,
        given.images,
        cases=given.cases,
        rule=command.Rule(given.refer_below, given.agreement),
        out=given.out,
        report=given.report,
        device=given.device,
        progress=_progress("Predicting"),
        say=_say,
    )
    record = {"id": given.id, **report}
    if given.out:
        text = "\n".join([f"{len(judged.table)} images predicted: {given.out}", *report["said"]])
    else:
        for line in report["said"]:
            _say(line)
        text = judged.table.to_csv(index=False).rstrip()
    _answer(given, record, text)
    return 130 if judged.stopped else 0


def _explain(given: argparse.Namespace) -> int:
    from engine.explain import export
    from engine.runs.results import image_files

    folder = _locate(given)
    style = export.Style(given.opacity, given.colours, given.contour)
    asked = {"method": given.method, "target": given.target, "layer": given.layer or ""}
    if not given.image.is_dir():
        record = export.explain_image(
            folder,
            given.image,
            given.out,
            raw=given.raw,
            outline=given.geojson,
            page=given.page,
            style=style,
            **asked,
        )
        said = (
            f"{record['image']}: {record['predicted']} ({record['probability']:.3f}), overlay in {given.out}"
        )
        _answer(given, record, said)
        return 0
    table = export.explain_folder(
        folder,
        image_files([given.image]),
        given.out,
        raw=given.raw is not None,
        outline=given.geojson is not None,
        page=given.page,
        style=style,
        progress=_progress("Explaining"),
        **asked,
    )
    failed = int((table["error"] != "").sum())
    said = f"{len(table) - failed} of {len(table)} images explained, overlays and explanations.csv in {given.out}"
    record = {"id": given.id, "out": str(given.out), "images": table.to_dict(orient="records")}
    _answer(given, record, said + (f"; {failed} could not be, see its column error" if failed else ""))
    return 0


def _probe(given: argparse.Namespace) -> int:
    from engine.analysis.probe import probe_dataset
    from engine.data.breakhis import load_dataset

    bars: dict[str, Callable[[int, int], None]] = {}

    def step(label: str, done: int, total: int) -> None:
        if label not in bars:
            bars[label] = _progress(label)
        bars[label](done, total)

    manifest = load_dataset(given.data).only(given.magnification)
    found = probe_dataset(manifest, given.model, given.pretrained, seed=given.seed, progress=step)
    _answer(given, found.as_record(), found.as_text())
    return 0


def _download(given: argparse.Namespace) -> int:
    from engine.data.download import OFFICIAL_URL, download

    found = download(given.to, given.url or OFFICIAL_URL, progress=_progress("Fetching", "byte"))
    text = f"{found.inventory.images} images in {found.folder}"
    _answer(given, found.as_record(), text if found.complete else f"{text}: not the complete data set")
    return 0 if found.complete else 1


def _export(given: argparse.Namespace) -> int:
    from engine.training.export import export_run

    made = export_run(_locate(given), given.to, given.format)
    record = {"file": str(made.path), "card": str(made.card), "greatest_difference": made.difference}
    _answer(given, record, f"{made.path}\n{made.card}\nGreatest difference of a logit: {made.difference:.2g}")
    return 0


def _fuse(given: argparse.Namespace) -> int:
    from engine.runs.ensembles import start_fusion

    members = [_locate(given, run_id) for run_id in given.ids]
    folder = start_fusion(members, given.name, given.runs, as_study=given.as_study)
    _answer(given, {"id": folder.id}, folder.id)
    return 0


def _soup(given: argparse.Namespace) -> int:
    from engine.runs.ensembles import start_soup

    members = [_locate(given, run_id) for run_id in given.ids]
    recipe = "greedy" if given.greedy else "uniform"
    folder = start_soup(members, given.name, given.runs, recipe=recipe)
    _answer(given, {"id": folder.id}, folder.id)
    return 0


def _tta(given: argparse.Namespace) -> int:
    from engine.runs.ensembles import start_tta

    folders = [start_tta(_locate(given, run_id), given.runs) for run_id in given.ids]
    _answer(given, {"ids": [one.id for one in folders]}, "\n".join(one.id for one in folders))
    return 0


def _report(given: argparse.Namespace) -> int:
    from engine.report.html import write_report

    folders = [_locate(given, run_id) for run_id in given.ids]
    write_report(
        folders,
        given.out,
        title=given.title,
        author=given.author,
        split=given.split,
        progress=_progress("Writing", "step"),
    )
    _answer(given, {"report": str(given.out), "bytes": given.out.stat().st_size}, str(given.out))
    return 0


def _freeze(given: argparse.Namespace) -> int:
    from engine.share.freeze import freeze

    view = freeze(
        [_locate(given, run_id) for run_id in given.ids],
        title=given.title,
        author=given.author,
        note=given.note,
        expires_in_days=given.days,
        split=given.split,
        progress=_progress("Freezing", "step"),
    )
    _answer(given, {"view": view.id, "link": f"/shared?view={view.id}"}, f"/shared?view={view.id}")
    return 0


def _bundle(given: argparse.Namespace) -> int:
    from engine.share.bundle import write_bundle

    write_bundle(_locate(given), given.out, progress=_progress("Packing", "byte"))
    _answer(given, {"bundle": str(given.out), "bytes": given.out.stat().st_size}, str(given.out))
    return 0


def _unbundle(given: argparse.Namespace) -> int:
    from engine.share.bundle import read_bundle

    folders = read_bundle(
        given.bundle, given.runs, data_root=given.data, progress=_progress("Verifying", "byte")
    )
    ids = [folder.id for folder in folders]
    _answer(
        given,
        {"id": ids[-1] if ids else None, "ids": ids},
        "\n".join(ids) or "Everything in it is here already.",
    )
    return 0


def _pack(given: argparse.Namespace) -> int:
    from engine.data.breakhis import load_dataset
    from engine.data.cache import pack
    from engine.data.preprocessing import NATIVE, Preprocessing

    native = given.geometry == "tiles" or not given.image_size
    preprocessing = NATIVE if native else Preprocessing(given.image_size, given.geometry, given.interpolation)
    packed = pack(load_dataset(given.data), preprocessing, progress=_progress("Packing"), say=_say)
    count = int(packed.readable.sum())
    record = {
        "images": count,
        "file": str(packed.source),
        "bytes": packed.bytes,
        "problems": [problem.as_record() for problem in packed.problems],
    }
    lines = [f"{count} images, {packed.bytes / 1e6:,.0f} MB, in {packed.source}"]
    lines += [f"Left out: {problem.message}" for problem in packed.problems]
    _answer(given, record, "\n".join(lines))
    return 0


def _cache(given: argparse.Namespace) -> int:
    from engine.data import cache_room

    folder = cache_room.default_cache_dir()
    gone = [] if given.limit is None else cache_room.prune(folder, int(given.limit * 1e9), _say)
    left = cache_room.entries(folder)
    record = {
        "folder": str(folder),
        "limit_bytes": cache_room.limit_bytes(),
        "bytes": sum(entry.bytes for entry in left),
        "entries": [entry.as_record() for entry in left],
        "forgotten": [entry.as_record() for entry in gone],
    }
    _answer(given, record, cache_room.as_text(folder, left))
    return 0


def _bench(given: argparse.Namespace) -> int:
    from engine.bench import together

    unknown = [name for name in given.names if name not in BENCHES]
    if unknown:
        raise ConfigError(
            "There is no such bench", found=", ".join(unknown), remedy=f"Choose {', '.join(BENCHES)}"
        )
    names = given.names or BENCHES
    failed: dict[str, str] = {}
    if len(names) == 1:
        results = {names[0]: together.measure(names[0], _bench_options(names[0], given), given.quick)}
    else:
        words = ["--device", given.device, "--batch-size", str(given.batch_size)]
        words += (["--data", str(given.data.absolute())] if given.data else []) + ["--quick"] * given.quick
        results, failed = together.measure_all(names, words, _say)
    rows, where = together.table(results, failed), together.machine()
    for path in given.out or []:
        together.write(path, rows, where)
    if given.into:
        together.put_into(given.into, rows, where)
    text = (together.markdown if given.markdown else together.text)(rows, where)
    _answer(given, {"benches": results, "table": rows, "machine": where}, text)
    return EXIT_ERROR if failed else 0


def _bench_options(name: str, given: argparse.Namespace) -> dict[str, Any]:
    """The data set for the benches that read images: the one given, or the sample in a temporary folder."""
    data: Path | None = given.data
    if name not in ("loader", "train", "predict"):
        return {}
    import tempfile

    from engine.data.breakhis import load_dataset
    from engine.data.sample import write_sample

    if data is None:
        data = Path(tempfile.gettempdir()) / "breakhis-dashboard-bench-sample"
        write_sample(data, seed=0)
    device = {"device": given.device} if name == "train" else {}
    batch = {"batch_size": given.batch_size} if name == "train" and given.batch_size else {}
    return {"manifest": load_dataset(data), **device, **batch}


# -- processes --------------------------------------------------------------------------------------


def _work(given: argparse.Namespace) -> int:
    from engine.runs.worker import work

    return work(given.folder)


def _supervise(given: argparse.Namespace) -> int:
    from engine.runs.supervisor import supervise

    return supervise(given.runs)
