"""Commands about predictions: import, compare, review, pool, ensemble."""

from __future__ import annotations

import argparse
from pathlib import Path

from engine import files
from engine.commands import flags, output
from engine.commands.flags import Adder
from engine.errors import ConfigError, PredictionsError


def register(add: Adder) -> None:
    """Declare these commands."""
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
        output.answer(given, {"id": folder.id}, folder.id)
        return 0
    names = [f"{given.name} {stem}" if given.name else stem for stem in stems]
    ids = [folder.id for folder in import_each(given.predictions, names, given.runs, mapping=mapping)]
    output.answer(given, {"ids": ids}, "\n".join(ids))
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
        [flags.locate(given, run_id) for run_id in given.ids],
        given.split,
        rule=parse_rule(given.threshold),
        without=flags.listed(given.without_marked),
        names=flags.listed(given.scores) if given.scores else None,
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
    output.answer(given, result.as_record(), result.as_text())
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
            output.say(f"{who.name} has marked nothing yet.")
        else:
            output.say(f"{'Taken back' if step.removed else 'Marked'}: {step.kind} on {step.image_id}")
    marked = review.marks(given.runs)
    if given.image:
        marked = marked[marked["image_id"] == given.image]
    if given.out:
        files.write_bytes(given.out, review.export_csv(given.runs).encode())
    rows = [{str(name): value for name, value in row.items()} for row in marked.to_dict("records")]
    output.answer(given, {"marks": rows}, output.table(rows))
    return 0


def _pool(given: argparse.Namespace) -> int:
    from engine.runs.results import pool_folds

    folder = pool_folds([flags.locate(given, run_id) for run_id in given.ids], given.name, given.runs)
    output.answer(given, {"id": folder.id}, folder.id)
    return 0


def _ensemble(given: argparse.Namespace) -> int:
    from engine.runs import derived, ensembles

    members = [flags.locate(given, run_id) for run_id in given.ids]
    if given.tta:
        members = derived.with_tta(members, given.runs)
    if given.search:
        found = ensembles.search_ensembles(
            members,
            max_size=given.max_size,
            reveal=given.reveal,
            name=given.name,
            per_case=given.per_case,
            progress=output.progress("Searching", "subset"),
        )
        output.answer(given, found.as_record(), found.as_text())
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
    output.answer(given, result.as_record(), result.as_text())
    return 0


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError as error:
        raise ConfigError(
            "A weight is not a number", found=text, remedy="Give numbers with commas between them: 1,0.5,2"
        ) from error
