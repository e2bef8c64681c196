"""Minutes and memory of a run before it is launched, and afterwards how right that was.

Nothing is guessed from tables. What finished runs of this machine took is scaled to the run at hand; where none
is alike, what a probe has measured (`engine estimate`, or the launch form's button) counts; else it is unknown.
"""

from __future__ import annotations

import functools
import hashlib
import json
import math
import platform
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from engine import files
from engine.errors import EngineError, TrainingError
from engine.runs import catalog, presets
from engine.runs.config import RunConfig
from engine.runs.folder import RunFolder
from engine.runs.listing import summaries
from engine.runs.status import COMPLETED, RUNNING, Status
from engine.wording import duration

FILE = "estimate.json"
MEASURED = ".estimates.json"
PAST_RUNS = 30
MOST_MEASURED = 200
PROBE_TIMEOUT_S = 300.0


@dataclass(frozen=True)
class Past:
    """What a finished run took: per epoch (medians), outside of epochs, and at most of memory."""

    name: str
    config: RunConfig
    train_images: int
    val_images: int
    train_s: float
    val_s: float
    rest_s: float
    memory_mb: float


@dataclass(frozen=True)
class Forecast:
    """Seconds and MB of one run, seconds of one epoch, and where they come from; nan and empty: not known."""

    seconds: float
    memory_mb: float
    source: str
    epoch_s: float = float("nan")

    @property
    def known(self) -> bool:
        return math.isfinite(self.seconds)

    def as_record(self) -> dict:
        """Plain JSON values; unknown is None."""
        names = ("seconds", "memory_mb", "epoch_s")
        return {**{name: _json(getattr(self, name)) for name in names}, "source": self.source}

    @classmethod
    def from_record(cls, record: Mapping | None) -> Forecast:
        """The inverse of `as_record`; `UNKNOWN` of anything else."""
        try:
            numbers = {
                name: float("nan") if value is None else float(value)
                for name, value in (record or {}).items()
                if name != "source"
            }
            return cls(source=str((record or {})["source"]), **numbers)
        except (TypeError, ValueError, KeyError):
            return UNKNOWN


def _json(value: float) -> float | None:
    return round(value, 4) if math.isfinite(value) else None


UNKNOWN = Forecast(float("nan"), float("nan"), "")


@dataclass(frozen=True)
class Outcome:
    """A forecast beside what the run took; errors are shares: 0.1 = it took a tenth more than foreseen."""

    forecast: Forecast
    seconds: float
    memory_mb: float

    @property
    def time_error(self) -> float:
        return self.seconds / self.forecast.seconds - 1 if self.forecast.seconds else float("nan")

    @property
    def memory_error(self) -> float:
        return self.memory_mb / self.forecast.memory_mb - 1 if self.forecast.memory_mb else float("nan")

    def as_record(self) -> dict:
        """Plain JSON values; unknown is None."""
        numbers = {
            "seconds": self.forecast.seconds,
            "memory_mb": self.forecast.memory_mb,
            "actual_seconds": self.seconds,
            "actual_memory_mb": self.memory_mb,
            "time_error": self.time_error,
            "memory_error": self.memory_error,
        }
        return {**{name: _json(value) for name, value in numbers.items()}, "source": self.forecast.source}

    def as_text(self) -> str:
        """`Foreseen 3 min 10 s and 900 MB (scaled from x); took 3 min 40 s (+16%) and 870 MB (-3%)`."""
        foreseen = f"Foreseen: {duration(self.forecast.seconds)}"
        if math.isfinite(self.forecast.memory_mb):
            foreseen += f" and {self.forecast.memory_mb:,.0f} MB"
        took = f"took {duration(self.seconds)} ({self.time_error:+.0%})"
        if math.isfinite(self.memory_error):
            took += f" and {self.memory_mb:,.0f} MB ({self.memory_error:+.0%})"
        source = f" ({self.forecast.source})" if self.forecast.source else ""
        return (
            f"{foreseen}{source}; {took if math.isfinite(self.seconds) else 'not known yet what it takes'}."
        )


# -- what finished runs took ------------------------------------------------------------------------------


def known_runs(runs: Path) -> list[Past]:
    """What the newest finished runs of this machine took."""
    found = []
    for summary in summaries(runs):
        if summary.state == COMPLETED and summary.config.kind == "train" and len(found) < PAST_RUNS:
            ended = summary.status.ended_at or 0.0
            record = _past(str(Path(runs) / summary.id), ended)
            found += [record] if record else []
    return found


@functools.lru_cache(maxsize=4 * PAST_RUNS)
def _past(path: str, ended: float) -> Past | None:
    """The record of a finished run; None where it ran elsewhere, or does not say how long an epoch took."""
    folder = RunFolder(Path(path))
    try:
        status = folder.status()
        if status.worker.get("host") not in (None, "", platform.node()):
            return None
        sides = folder.manifest().table["split"].value_counts()
        metrics = folder.metrics()
        if "seconds" not in metrics:
            return None
        seconds = metrics.dropna(subset=["seconds"]).groupby("split")["seconds"]
        medians, sums = seconds.median(), seconds.sum()
        rest = max(working_seconds(status) - float(sums.sum()), 0.0)
        return Past(
            folder.name,
            folder.config(),
            int(sides.get("train", 0)),
            int(sides.get("val", 0)),
            float(medians["train"]),
            float(medians.get("val", 0.0)),
            rest,
            memory_mb(status),
        )
    except (EngineError, KeyError, OSError, ValueError):
        return None


def working_seconds(status: Status) -> float:
    """How long workers worked on a run, waiting and interruptions left out; nan where it is not recorded."""
    times = [at for _, at in status.history[1:]]
    times += [status.ended_at or float("nan")] if status.history else []
    spans = [end - at for (state, at), end in zip(status.history, times, strict=True) if state == RUNNING]
    return sum(spans) if spans else float("nan")


def memory_mb(status: Status) -> float:
    """The most memory that a run took; 0 where it was not measured."""
    numbers = status.numbers
    names = ("peak_memory_mb", "gpu_memory_mb", "ram_mb", "memory_mb")
    return float(next((numbers[name] for name in names if numbers.get(name)), 0.0))


# -- before a launch --------------------------------------------------------------------------------------


def scaled(config: RunConfig, train_images: int, val_images: int, known: Sequence[Past]) -> Forecast:
    """The most alike finished run, scaled by images, epochs and pixels.

    Only runs of the same model, recipe, geometry and device count; among those the nearest image size. Time is
    taken to grow with images and with the square of the side, memory with the batch and the square of the side
    (an upper bound, since part of it is constant).
    """
    try:
        config = presets.settled(config)
        recipe = presets.resolve(config)
    except EngineError:
        return UNKNOWN
    alike = [
        record
        for record in known
        if record.config.model.name == config.model.name
        and presets.settled(record.config).model.geometry == config.model.geometry
        and record.config.training.recipe == config.training.recipe
        and record.config.training.device == config.training.device
        and record.train_images
    ]
    if not alike:
        return UNKNOWN
    side = _side(config)
    record = min(alike, key=lambda item: abs(_side(item.config) - side))
    pixels = (side / _side(record.config)) ** 2
    before = presets.resolve(record.config)
    images = train_images / record.train_images
    per_epoch = record.train_s * images
    if record.val_images:
        per_epoch += record.val_s * val_images / record.val_images
    # What is not in an epoch (packing, features of a frozen backbone, predictions) grows with the images too.
    seconds = (per_epoch * recipe.epochs + record.rest_s * images) * pixels
    memory = record.memory_mb * max(1.0, pixels * recipe.batch_size / max(before.batch_size, 1))
    return Forecast(seconds, memory or float("nan"), f"scaled from {record.name}", per_epoch * pixels)


def expected(
    config: RunConfig, counts: tuple[int, int, int], runs: Path, known: Sequence[Past] | None = None
) -> Forecast:
    """What is known about a run before it is launched: from finished runs, else as a probe has measured it.

    Args:
        counts: images in train, val and test.
        known: `known_runs(runs)`, where a caller asks for many.
    """
    found = scaled(config, counts[0], counts[1], known_runs(runs) if known is None else known)
    if found.known:
        return found
    return Forecast.from_record((files.read_json(Path(runs) / MEASURED) or {}).get(same_cost(config, counts)))


def measure(config: RunConfig, counts: tuple[int, int, int], runs: Path | None = None) -> Forecast:
    """A few real steps on made-up pixels, in a process of its own: its memory is a worker's, and torch stays
    out of whoever asks.

    Args:
        counts: images in train, val and test.
        runs: where to keep the answer for whoever launches this configuration (`expected`).

    Raises:
        TrainingError: the steps failed, with what training would have said.
    """
    request = json.dumps({"config": config.to_record(), "counts": list(counts)})
    try:
        done = subprocess.run(
            [sys.executable, "-m", "engine.training.estimate"],
            input=request,
            capture_output=True,
            text=True,
            timeout=PROBE_TIMEOUT_S,
            cwd=Path(__file__).resolve().parents[2],
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise TrainingError(
            "The measurement took too long",
            found=f"{PROBE_TIMEOUT_S:.0f} s",
            remedy="Start without it, or take a smaller model",
            kind="timeout",
        ) from error
    found = read_answer(done.returncode, done.stdout, done.stderr)
    if runs is not None:
        _remember(runs, config, counts, found)
    return found


def read_answer(code: int, out: str, err: str) -> Forecast:
    """The answer of the measuring process.

    Raises:
        TrainingError: it has none.
    """
    try:
        answer = json.loads(out.strip().splitlines()[-1]) if code == 0 else {}
    except (IndexError, ValueError):
        answer = {}
    found = answer.get("estimate")
    if found:
        return Forecast(
            float(found["seconds"]),
            float(found["memory_mb"]),
            f"measured: {found['source']}",
            float(found["seconds_per_epoch"]),
        )
    error = answer.get("error") or {}
    lines = err.strip().splitlines()
    raise TrainingError(
        error.get("message") or "The measurement failed",
        found=None if error else (lines[-1][:300] if lines else "no output"),
        remedy=error.get("remedy") or "Start without it",
        kind=error.get("kind") or "training",
    )


def _remember(runs: Path, config: RunConfig, counts: tuple[int, int, int], measured: Forecast) -> None:
    path = Path(runs) / MEASURED
    stored = files.read_json(path) or {}
    stored[same_cost(config, counts)] = measured.as_record()
    Path(runs).mkdir(parents=True, exist_ok=True)
    files.write_json(path, dict(list(stored.items())[-MOST_MEASURED:]))


def same_cost(config: RunConfig, counts: tuple[int, int, int]) -> str:
    """A key that runs of the same cost share: folds, seeds and rates do not change it."""
    config = presets.settled(config)
    record = config.to_record()
    training = {name: value for name, value in record["training"].items() if name not in ("seed", "lr")}
    words = json.dumps([record["model"], training, platform.node(), list(counts)], sort_keys=True)
    return hashlib.sha256(words.encode()).hexdigest()[:24]


def _side(config: RunConfig) -> int:
    record = catalog.BY_NAME.get(config.model.name)
    return config.model.image_size or (record.input_size(config.model.geometry) if record else 224)


# -- afterwards -------------------------------------------------------------------------------------------


def keep(folder: RunFolder, forecast: Forecast) -> None:
    """Write what was foreseen into the folder of a run."""
    if forecast.known:
        files.write_json(folder.path / FILE, forecast.as_record())


def outcome(folder: RunFolder, status: Status | None = None) -> Outcome | None:
    """What was foreseen for a run and what it took; None where nothing was foreseen.

    Before its end what it took is nan.
    """
    forecast = Forecast.from_record(files.read_json(folder.path / FILE))
    if not forecast.known:
        return None
    status = status or folder.status()
    if status.state != COMPLETED:
        return Outcome(forecast, float("nan"), float("nan"))
    return Outcome(forecast, working_seconds(status), memory_mb(status) or float("nan"))
