"""Failures that other settings cure: which settings, so that one click starts the run with them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from engine.errors import EngineError
from engine.runs import catalog, presets
from engine.runs.config import RunConfig


@dataclass(frozen=True)
class Remedy:
    """What to start instead, and what the button says."""

    label: str
    config: RunConfig


def remedy(config: RunConfig, error: Mapping | None) -> Remedy | None:
    """The settings that a failed run should be started with.

    Args:
        error: as `status.json` stores it; its `kind` decides.

    Returns:
        None where other settings are no cure (a full disk, a killed worker: those are resumed).
    """
    cure = CURES.get(str((error or {}).get("kind")))
    if cure is None or config.kind != "train":
        return None
    try:
        return cure(config)
    except EngineError:
        return None


def _less_memory(config: RunConfig) -> Remedy | None:
    found = presets.relieved(config)
    if found is None:
        return None
    training = found.training
    return Remedy(f"Start with batch {training.batch_size}, accumulation {training.accumulate}", found)


def _lower_rate(config: RunConfig) -> Remedy:
    rate = presets.resolve(config).stages[-1].lr / 10
    return Remedy(
        f"Start with learning rate {rate:g} in float32",
        config.changed(training__lr=rate, training__precision="fp32"),
    )


def _packaged_weights(config: RunConfig) -> Remedy | None:
    record = catalog.find(config.model.name)
    if config.model.pretrained == "offline" or not catalog.package_installed(record):
        return None
    return Remedy("Start with the installed weights", config.changed(model__pretrained="offline"))


def _no_processes(config: RunConfig) -> Remedy:
    return Remedy("Start without loader processes", config.changed(training__workers=0))


CURES: dict[str, Callable[[RunConfig], Remedy | None]] = {
    "out_of_memory": _less_memory,
    "nan_loss": _lower_rate,
    "hub": _packaged_weights,
    "loader": _no_processes,
    "hung": _no_processes,
}
