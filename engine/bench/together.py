"""All benches in one run on one machine, in one table: as text, Markdown and JSON.

Each bench runs in a process of its own (they set threads and fill memory), and one that fails is a row that says
so. The benches keep records that suit them; here each becomes a row of the same columns:

    bench, what, ours, theirs, unit, ratio (how many times better ours is; above 1 is better), beside (what a user
    would pick instead), limit, kept (None where nothing is promised), detail
"""

from __future__ import annotations

import importlib
import inspect
import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from engine.errors import ConfigError
from engine.machine import cores

BEGIN, END = "<!-- speed: python -m engine bench --into README.md -->", "<!-- end of speed -->"
BESIDE = {
    "loader": "PIL + torchvision v2 from the folder",
    "train": "a plain PyTorch loop with ImageFolder",
    "runs": "MLflow search_runs",
    "compare": "scikit-learn + scipy.stats.bootstrap",
    "ensemble": "a loop over scikit-learn",
    "explain": "pytorch-grad-cam one by one",
    "predict": "training's own evaluation",
    "growth": "scikit-learn, draw by draw",
}
QUICK: dict[str, dict[str, Any]] = {
    "loader": {"size": 32, "seconds": 0.1, "rounds": 1},
    "train": {"image_size": 32, "batch_size": 2, "batches": 2, "rounds": 1},
    "runs": {"runs": 30, "epochs": 2, "repeats": 1},
    "compare": {"entries": 2, "draws": 100, "reference_draws": 5},
    "ensemble": {"repeats": 1, "reference_subsets": 5},
    "explain": {"model": "tf_efficientnet_lite0", "images": 2, "rounds": 1},
    "predict": {"model": "tf_efficientnet_lite0", "images": 8, "rounds": 1},
    "growth": {"runs": (5, 10), "predictions": (500, 1000), "draws": 100, "repeats": 1},
}
PACKAGES = (
    "torch",
    "torchvision",
    "timm",
    "albumentations",
    "grad-cam",
    "scikit-learn",
    "scipy",
    "pandas",
    "numpy",
)
Row = dict[str, Any]


def measure(name: str, options: Mapping[str, Any], quick: bool = False) -> list[dict[str, Any]]:
    """One bench in this process.

    Args:
        options: keyword arguments of its `run`.
        quick: as little work as shows that it runs; its figures mean nothing.
    """
    work = importlib.import_module(f"engine.bench.{name}").run
    words = {**(QUICK.get(name, {}) if quick else {}), **options}
    known = inspect.signature(work).parameters
    return work(**{key: value for key, value in words.items() if key in known})


def measure_all(
    names: Sequence[str], arguments: Sequence[str], say: Callable[[str], object]
) -> tuple[dict[str, list[dict[str, Any]]], dict[str, str]]:
    """Every bench in a process of its own, one after the other.

    Args:
        names: which.
        arguments: the options of the command line for each of them.
        say: told what is being measured.

    Returns:
        The records of those that ended, and why the others did not.
    """
    done, failed = {}, {}
    for name in names:
        say(f"Measuring {name} ...")
        command = [sys.executable, "-m", "engine", "bench", name, "--json", *arguments]
        ended = subprocess.run(command, stdout=subprocess.PIPE, cwd=Path(__file__).resolve().parents[2])
        try:
            done[name] = json.loads(ended.stdout)["benches"][name]
        except (ValueError, KeyError, TypeError):
            failed[name] = f"ended with exit code {ended.returncode}"
    return done, failed


def table(benches: Mapping[str, list[dict[str, Any]]], failed: Mapping[str, str]) -> list[Row]:
    """One row per measurement, whichever shape its bench keeps; those that failed last."""
    rows = []
    for name, records in benches.items():
        shape = {"loader": _loader_rows, "train": _train_rows}.get(name, _plain_rows)
        rows += shape(name, records)
    for name, reason in failed.items():
        rows.append(_row(name, "the bench itself", kept=False, detail=reason))
    return rows


def _row(bench: str, what: str, **values: Any) -> Row:
    empty = {"ours": None, "theirs": None, "unit": "", "ratio": None, "beside": "", "limit": "", "kept": None}
    return {"bench": bench, "what": what, **empty, "detail": "", **values}


def _plain_rows(bench: str, records: list[dict[str, Any]]) -> list[Row]:
    """Records of seconds (`ours_s`, `theirs_s`), of a value beside a peer's, or of a rate."""
    rows = []
    for record in records:
        row = _row(bench, record.get("what") or record.get("name", ""), detail=record.get("detail", ""))
        if "ours_s" in record:
            row |= {"ours": record["ours_s"], "theirs": record.get("theirs_s"), "unit": "s"}
            limit = record.get("limit_s")
            row["limit"] = "" if limit is None else f"at most {_figure(limit)} s"
        elif "images_per_s" in record:
            row |= {
                "ours": record["images_per_s"],
                "theirs": record.get("peer_images_per_s"),
                "unit": "images/s",
            }
            limit = record.get("limit")
            row["limit"] = "" if limit is None else f"at least {_figure(limit)} times"
        else:
            row |= {"ours": record.get("value"), "theirs": record.get("peer_value")}
            row["unit"] = record.get("unit", "")
            limit = record.get("limit")
            row["limit"] = "" if limit is None else f"at most {_figure(limit)} {row['unit']}"
            row["detail"] = row["detail"] or record.get("n", "")
        row["ratio"] = record.get("ratio")
        kept = record.get("within", record.get("ok"))
        if kept is None and record.get("limit") is not None and "value" in record:
            kept = record["value"] <= record["limit"]
        row["kept"] = kept
        what, named, peer = row["what"].rpartition(" beside ")
        if named:
            row |= {"what": what.rstrip(" ,"), "beside": peer}
        elif row["ratio"] is not None or row["theirs"] is not None:
            row["beside"] = record.get("peer") or BESIDE.get(bench, "")
        rows.append(row)
    return rows


def _loader_rows(bench: str, records: list[dict[str, Any]]) -> list[Row]:
    """Each pipeline beside the folder pipeline on as many cores."""
    folder = {
        record["cores"]: record["images_per_second"] for record in records if record.get("name") == "folder"
    }
    rows = []
    for record in records:
        rate = record.get("images_per_second")
        if rate is None:
            values = {"ours": record.get("megabytes"), "unit": "MB"}
        else:
            base = folder.get(record.get("cores"))
            ours = record["name"].startswith("cache,") or record["name"] == "cache"
            values = {"ours": rate, "unit": "images/s", "ratio": record.get("ratio")}
            if ours and record.get("ratio"):
                values |= {"theirs": base or rate / record["ratio"], "beside": BESIDE[bench]}
        cores = f", {record['cores']} cores" if record.get("cores", 1) > 1 else ""
        rows.append(_row(bench, f"{record['name']}{cores}", detail=record.get("help", ""), **values))
    return rows


def _train_rows(bench: str, records: list[dict[str, Any]]) -> list[Row]:
    """Our loop beside the plain one in one row; the other records as they are."""
    known = {record["name"]: record for record in records}
    rows = []
    if {"ours", "plain", "ours / plain"} <= set(known):
        ratio = known["ours / plain"]
        limit = "" if ratio["limit"] is None else f"at least {_figure(ratio['limit'])} times"
        pair = {"ours": known["ours"]["value"], "theirs": known["plain"]["value"], "unit": "images/s"}
        said = {"limit": limit, "kept": ratio["ok"], "detail": known["plain"]["detail"]}
        rows.append(_row(bench, "training", ratio=ratio["value"], beside=BESIDE[bench], **pair, **said))
    for name, record in known.items():
        if name in ("ours", "plain", "ours / plain") and rows:
            continue
        bound = "at most" if name == "wait share" else "at least"
        limit = "" if record["limit"] is None else f"{bound} {_figure(record['limit'])}"
        values = {"ours": record["value"], "unit": record["unit"], "limit": limit, "kept": record["ok"]}
        rows.append(_row(bench, name, detail=record["detail"], **values))
    return rows


def machine() -> dict[str, Any]:
    """What it was measured on: processor, cores, load, memory, device, system, versions."""
    import psutil

    return {
        "processor": _processor(),
        "cores": cores(),
        "memory_gb": round(psutil.virtual_memory().total / 2**30, 1),
        "load": round(os.getloadavg()[0], 1) if hasattr(os, "getloadavg") else None,
        "device": _device(),
        "system": f"{platform.system()} {platform.machine()}",
        "versions": {"python": platform.python_version(), **{name: _version(name) for name in PACKAGES}},
    }


def _processor() -> str:
    facts = Path("/proc/cpuinfo")
    if facts.exists():
        for line in facts.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _device() -> str:
    """The GPU's name as the driver's tool gives it; empty without one."""
    try:
        words = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
        return subprocess.run(words, capture_output=True, text=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""


def _figure(value: float | None) -> str:
    """Three significant digits, no exponent: 0.0123, 4.56, 1,230."""
    if value is None:
        return ""
    if value == 0 or abs(value) >= 1000:
        return f"{value:,.0f}"
    digits = 3 - len(f"{abs(value):.0f}".lstrip("0")) if abs(value) >= 1 else 3
    return f"{value:.{max(0, digits)}f}" if abs(value) >= 0.1 else f"{value:.2g}"


def _amount(value: float | None, unit: str) -> str:
    if value is None:
        return ""
    if unit == "s" and value < 1:
        return f"{_figure(1000 * value)} ms"
    return f"{_figure(value)} {unit}".strip()


def _cells(row: Row) -> list[str]:
    ratio = "" if row["ratio"] is None else f"{_figure(row['ratio'])}x"
    promise = row["limit"] if row["kept"] in (True, None) else f"{row['limit']} MISSED".strip()
    return [
        row["bench"],
        row["what"],
        _amount(row["ours"], row["unit"]),
        _amount(row["theirs"], row["unit"]),
        ratio,
        row["beside"],
        promise,
    ]


HEADS = ("bench", "what", "ours", "theirs", "ratio", "beside", "limit")


def foot(where: Mapping[str, Any]) -> str:
    """The machine and the versions in a sentence."""
    versions = ", ".join(f"{name} {version}" for name, version in where["versions"].items() if version)
    device = f"; {where['device']}" if where["device"] else ""
    return (
        f"{where['processor']}, {where['cores']} cores, {where['memory_gb']:g} GB, load {where['load']}{device}; "
        f"{where['system']}; {versions}"
    )


def text(rows: Sequence[Row], where: Mapping[str, Any]) -> str:
    """The table for a terminal, details under their rows."""
    cells = [list(HEADS), *(_cells(row) for row in rows)]
    widths = [max(len(line[column]) for line in cells) for column in range(len(HEADS))]
    lines = []
    for line, row in zip(cells, [None, *rows], strict=True):
        lines.append("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())
        if row and row["detail"]:
            lines.append(f"    {row['detail']}")
    return "\n".join([*lines, "", foot(where)])


def markdown(rows: Sequence[Row], where: Mapping[str, Any]) -> str:
    """The table for the README."""
    lines = [f"| {' | '.join(HEADS)} |", f"|{' --- |' * len(HEADS)}"]
    for row in rows:
        lines.append(f"| {' | '.join(cell.replace('|', '/') for cell in _cells(row))} |")
    return "\n".join([*lines, "", foot(where)])


def write(path: Path, rows: Sequence[Row], where: Mapping[str, Any]) -> None:
    """The table into a file: JSON, Markdown or text by its ending."""
    if path.suffix == ".json":
        body = json.dumps({"machine": where, "table": list(rows)}, indent=1, ensure_ascii=False)
    else:
        body = (markdown if path.suffix == ".md" else text)(rows, where)
    path.write_text(body + "\n", encoding="utf-8")


def put_into(path: Path, rows: Sequence[Row], where: Mapping[str, Any]) -> None:
    """Replace the table between the markers of a Markdown file.

    Raises:
        ConfigError: it has no markers.
    """
    whole = path.read_text(encoding="utf-8")
    if BEGIN not in whole or END not in whole:
        raise ConfigError(
            f"{path} has no place for the table", remedy=f"Put the lines {BEGIN} and {END} where it belongs"
        )
    head, _, rest = whole.partition(BEGIN)
    tail = rest.partition(END)[2]
    path.write_text(f"{head}{BEGIN}\n\n{markdown(rows, where)}\n\n{END}{tail}", encoding="utf-8")
