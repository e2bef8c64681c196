"""Commands that take results elsewhere: report, freeze, bundle, unbundle."""

from __future__ import annotations

import argparse
from pathlib import Path

from engine.commands import flags, output
from engine.commands.flags import Adder


def register(add: Adder) -> None:
    """Declare these commands."""
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


def _report(given: argparse.Namespace) -> int:
    from engine.report.html import write_report

    folders = [flags.locate(given, run_id) for run_id in given.ids]
    write_report(
        folders,
        given.out,
        title=given.title,
        author=given.author,
        split=given.split,
        progress=output.progress("Writing", "step"),
    )
    output.answer(given, {"report": str(given.out), "bytes": given.out.stat().st_size}, str(given.out))
    return 0


def _freeze(given: argparse.Namespace) -> int:
    from engine.share.freeze import freeze

    view = freeze(
        [flags.locate(given, run_id) for run_id in given.ids],
        title=given.title,
        author=given.author,
        note=given.note,
        expires_in_days=given.days,
        split=given.split,
        progress=output.progress("Freezing", "step"),
    )
    output.answer(given, {"view": view.id, "link": f"/shared?view={view.id}"}, f"/shared?view={view.id}")
    return 0


def _bundle(given: argparse.Namespace) -> int:
    from engine.share.bundle import write_bundle

    write_bundle(flags.locate(given), given.out, progress=output.progress("Packing", "byte"))
    output.answer(given, {"bundle": str(given.out), "bytes": given.out.stat().st_size}, str(given.out))
    return 0


def _unbundle(given: argparse.Namespace) -> int:
    from engine.share.bundle import read_bundle

    folders = read_bundle(
        given.bundle, given.runs, data_root=given.data, progress=output.progress("Verifying", "byte")
    )
    ids = [folder.id for folder in folders]
    output.answer(
        given,
        {"id": ids[-1] if ids else None, "ids": ids},
        "\n".join(ids) or "Everything in it is here already.",
    )
    return 0
