"""Everything that only a GPU can show, in one go: `python tests/training/gpu_session.py [SECONDS] [FOLDER]`.

Meant for a GPU that is lent for minutes. What matters most comes first, each part has its share of the time, and what
it found is printed and written to FOLDER (`gpu_session/`) at once, so that a session that is cut off has said all it
knew:

1. `bench train --device cuda`: ours / plain, ours / bare, frozen (the figures promised for a GPU)
2. `test_gpu.py`: every way to train, no step that waits, kills with equal bits, memory, losses, estimates
3. the one test that compiles, which takes longest
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TESTS = "tests/training/test_gpu.py"
PYTEST = [
    "-m",
    "pytest",
    TESTS,
    "-p",
    "no:cacheprovider",
    "-n0",
    "-vv",
    "-rfE",
    "--tb=short",
    "--durations=0",
]
PARTS = [  # name, command, share of the time
    ("bench", ["-m", "engine", "bench", "train", "--device", "cuda", "--json"], 0.4),
    ("tests", [*PYTEST, "-k", "not compiled"], 0.5),
    ("compiled", [*PYTEST, "-k", "compiled"], 0.2),
]


def part(name: str, words: list[str], seconds: float, folder: Path) -> str:
    """Run one part for so long at most, its output in a file; returns how it ended."""
    output = folder / f"{name}.txt"
    errors = folder / f"{name}.err.txt"
    began = time.monotonic()
    with output.open("w") as out, errors.open("w") as err:
        running = subprocess.Popen(
            [sys.executable, *words], cwd=ROOT, stdout=out, stderr=err, start_new_session=True
        )
        try:
            code = running.wait(timeout=seconds)
            ended = f"ended with {code}"
        except subprocess.TimeoutExpired:
            os.killpg(running.pid, signal.SIGKILL)
            running.wait()
            ended = "was cut off"
    return f"== {name} {ended} after {time.monotonic() - began:.0f} of {seconds:.0f} s"


def figures(path: Path) -> str:
    """The bench's lines for people."""
    try:
        document = json.loads(path.read_text())
    except ValueError:
        return path.read_text()[-3000:]
    rows = document["benches"]["train"]
    return "\n".join(
        f"{row['name']:<14}{row['value']:>12.3f} {row['unit']:<12} limit {row['limit']} {row['ok']}  {row['detail']}"
        for row in rows
    )


def main() -> None:
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 290.0
    folder = Path(sys.argv[2] if len(sys.argv) > 2 else "gpu_session")
    folder.mkdir(parents=True, exist_ok=True)
    os.environ.setdefault("BREAKHIS_CACHE", str((folder / "cache").resolve()))
    os.environ["PYTHONUNBUFFERED"] = "1"  # what a part that is cut off has said is kept
    end = time.monotonic() + seconds
    for name, words, share in PARTS:
        left = end - time.monotonic()
        if left < 15:
            print(f"== {name} had no time left", flush=True)
            continue
        print(part(name, words, min(left, share * seconds), folder), flush=True)
        output = folder / f"{name}.txt"
        print(figures(output) if name == "bench" else output.read_text()[-9000:], flush=True)
        if trouble := (folder / f"{name}.err.txt").read_text()[-1500:]:
            print(trouble, flush=True)


if __name__ == "__main__":
    main()
