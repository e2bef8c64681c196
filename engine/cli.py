"""`python -m engine COMMAND`: everything the pages can do, from a terminal.

With `--json`, stdout is exactly one JSON document; progress and logs go to stderr. A failure is one
sentence on stderr and an exit code that is not 0. Each command imports what it needs when it runs: `--help`
answers in a fraction of a second.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from engine.commands import data, images, output, processes, results, runs, sharing, training
from engine.commands.flags import Command
from engine.errors import EngineError

GROUPS = (data, training, runs, results, images, sharing, processes)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
    options_given = parser().parse_args(arguments)
    try:
        return options_given.run(options_given)
    except EngineError as error:
        output.say(f"Error: {error}")
        return output.EXIT_ERROR
    except KeyboardInterrupt:
        output.say("Interrupted.")
        return 130
    except BrokenPipeError:  # `... | head`
        sys.stderr.close()
        return 0


class _Help(argparse.ArgumentDefaultsHelpFormatter):
    """Defaults are worth a word only where there is one."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        if action.default in (None, "", (), False, 0, 0.0, -1):
            return action.help
        return super()._get_help_string(action)


def parser() -> argparse.ArgumentParser:
    """All commands with their flags."""
    top = argparse.ArgumentParser(
        prog="python -m engine",
        description="Train, compare, ensemble and explain classifiers of BreakHis images. Research use only.",
    )
    commands = top.add_subparsers(title="commands", metavar="COMMAND", required=True)

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

    for group in GROUPS:
        group.register(add)
    return top
