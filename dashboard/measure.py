"""Minutes and memory of a configuration that never ran here: a few real steps on made-up pixels.

`engine.training.estimate` does it in a process of its own, asked here through its own standard input, since
importing it would bring torch into the server.
"""

from __future__ import annotations

import json
import subprocess
import sys

from dashboard import forecast, places
from engine.errors import TrainingError
from engine.runs.config import RunConfig

TIMEOUT_S = 300


def measure(config: RunConfig, train: int, val: int, test: int) -> forecast.Forecast:
    """Seconds and MB of one run.

    Raises:
        TrainingError: the steps failed, with what training would have said.
    """
    request = json.dumps({"config": config.to_record(), "counts": [train, val, test]})
    command = [sys.executable, "-m", "engine.training.estimate"]
    try:
        done = subprocess.run(
            command,
            input=request,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            cwd=places.ROOT,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise TrainingError(
            "The measurement took too long", found=f"{TIMEOUT_S} s", remedy="Start without it", kind="timeout"
        ) from error
    return read(done.returncode, done.stdout, done.stderr)


def read(code: int, out: str, err: str) -> forecast.Forecast:
    """The answer of the process.

    Raises:
        TrainingError: it has none.
    """
    try:
        answer = json.loads(out.strip().splitlines()[-1]) if code == 0 else {}
    except (IndexError, ValueError):
        answer = {}
    found = answer.get("estimate")
    if found:
        return forecast.Forecast(
            float(found["seconds"]), float(found["memory_mb"]), f"a measurement, {found['source']}"
        )
    error = answer.get("error") or {}
    lines = err.strip().splitlines()
    raise TrainingError(
        error.get("message") or "The measurement failed",
        found=None if error else (lines[-1][:300] if lines else "no output"),
        remedy=error.get("remedy") or "Start without it",
    )
