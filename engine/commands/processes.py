"""What is measured, and what workers and supervisors are started with."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from engine.commands import output
from engine.commands.flags import Adder
from engine.errors import ConfigError

BENCHES = ("loader", "train", "runs", "compare", "ensemble", "explain", "predict", "growth")


def register(add: Adder) -> None:
    """Declare these commands."""
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
        results, failed = together.measure_all(names, words, output.say)
    rows, where = together.table(results, failed), together.machine()
    for path in given.out or []:
        together.write(path, rows, where)
    if given.into:
        together.put_into(given.into, rows, where)
    text = (together.markdown if given.markdown else together.text)(rows, where)
    output.answer(given, {"benches": results, "table": rows, "machine": where}, text)
    return output.EXIT_ERROR if failed else 0


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


def _work(given: argparse.Namespace) -> int:
    from engine.runs.worker import work

    return work(given.folder)


def _supervise(given: argparse.Namespace) -> int:
    from engine.runs.supervisor import supervise

    return supervise(given.runs)
