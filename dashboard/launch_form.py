"""The launch form's logic: a configuration in the URL and back, what is doubtful, what is planned. Pure.

Every field, label and help text comes from `engine.runs.config`; nothing is described twice.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

from dashboard import widgets
from engine.data.splits import PROTOCOLS
from engine.errors import ConfigError
from engine.runs import catalog, presets
from engine.runs.config import DataConfig, ModelConfig, RunConfig, TrainingConfig, options
from engine.runs.executors import EXECUTORS
from engine.runs.forecast import Forecast
from engine.runs.launch import Prepared
from engine.runs.status import LOCAL

PARTS = {DataConfig: "data", ModelConfig: "model", TrainingConfig: "training"}


@dataclasses.dataclass(frozen=True)
class Draft:
    """What the form holds: a configuration, what the batch has several of, and who executes it."""

    config: RunConfig
    models: tuple[str, ...]
    folds: tuple[int, ...]
    seeds: tuple[int, ...]
    executor: str = LOCAL
    rates: tuple[float, ...] = (0.0,)


def param_of(item: dataclasses.Field) -> str:
    """`--batch-size` -> `batch_size`: the URL parameter of a field is its flag."""
    return item.metadata["flag"].removeprefix("--").replace("-", "_")


def fields() -> list[tuple[str, str, dataclasses.Field]]:
    """(URL parameter, dotted name, field) of every field of the form."""
    return [
        (param_of(item), f"{PARTS[group]}.{item.name}" if group in PARTS else item.name, item)
        for group, item in options()
    ]


def value_of(config: RunConfig, dotted: str) -> Any:
    part, _, name = dotted.rpartition(".")
    return getattr(getattr(config, part) if part else config, name)


def with_value(config: RunConfig, dotted: str, value: Any) -> RunConfig:
    return config.changed(**{dotted.replace(".", "__"): value})


# --- the URL -------------------------------------------------------------------------------------------
LISTS = {"model": "models", "fold": "folds", "seed": "seeds", "lr": "rates"}


def draft_of(config: RunConfig) -> Draft:
    training = config.training
    return Draft(config, (config.model.name,), (config.data.fold,), (training.seed,), rates=(training.lr,))


def from_params(params: Mapping[str, str], base: RunConfig) -> tuple[Draft, list[str]]:
    """A draft from the URL on top of a base; and the parameters that could not be read."""
    config, bad = base, []
    several: dict[str, tuple] = {}
    for param, dotted, item in fields():
        if param not in params:
            continue
        text = params[param]
        try:
            if param in LISTS:
                values = tuple(_read(item.default, part) for part in text.split(",") if part)
                several[LISTS[param]] = tuple(dict.fromkeys(values))
                config = with_value(config, dotted, values[0]) if values else config
            else:
                config = with_value(config, dotted, _read(item.default, text))
        except (ValueError, TypeError):
            bad.append(param)
    draft = draft_of(config)
    if (executor := params.get("executor", LOCAL)) in EXECUTORS:
        draft = dataclasses.replace(draft, executor=executor)
    else:
        bad.append("executor")
    return dataclasses.replace(draft, **{name: values for name, values in several.items() if values}), bad


def _read(default: Any, text: str) -> Any:
    if isinstance(default, bool):
        return text in ("1", "true", "True")
    if isinstance(default, int):
        return int(text)
    if isinstance(default, float):
        return float(text)
    if isinstance(default, tuple):
        return tuple(part for part in text.split(",") if part)
    return text


def to_params(draft: Draft, base: RunConfig) -> dict[str, str]:
    """The URL parameters of what differs from the base; the inverse of `from_params`."""
    start = draft_of(base)
    params: dict[str, str] = {}
    for param, dotted, _ in fields():
        if param in LISTS:
            values = getattr(draft, LISTS[param])
            if values != getattr(start, LISTS[param]):
                params[param] = ",".join(map(str, values))
            continue
        value = value_of(draft.config, dotted)
        if value != value_of(base, dotted):
            params[param] = _write(value)
    if draft.executor != start.executor:
        params["executor"] = draft.executor
    return params


def _write(value: Any) -> str:
    if isinstance(value, bool):
        return "1" if value else "0"
    return ",".join(value) if isinstance(value, tuple) else str(value)


def first_config(data_root: str) -> RunConfig:
    """Where the form starts: a model whose weights are in an installed package, so that it runs anywhere."""
    config = RunConfig().changed(data__root=data_root)
    if catalog.package_installed(catalog.find(config.model.name)):
        config = config.changed(model__pretrained="offline")
    return config


def link_base(base: RunConfig, data_root: str) -> RunConfig:
    """What a link's parameters are relative to: the run that it names, otherwise where everybody's form starts
    (an uploaded file is only in this session)."""
    return base if base.parent else first_config(data_root)


# --- doubts --------------------------------------------------------------------------------------------
def worst_audit(ready: Mapping[int, Prepared]) -> dict[str, Any]:
    """The verdict on the folds of a launch: the worst, saying how many of them it holds for."""
    leaking = [fold for fold, one in ready.items() if one.audit.level == "leak"]
    if not leaking or len(ready) == 1:
        return ready[leaking[0] if leaking else next(iter(ready))].audit.as_record()
    which = f"fold {leaking[0]}" if len(leaking) == 1 else f"folds {', '.join(map(str, leaking))}"
    verdict = (
        f"{len(leaking)} of {len(ready)} folds leak. Of {which} the first: {ready[leaking[0]].audit.verdict}"
    )
    return {**ready[leaking[0]].audit.as_record(), "verdict": verdict}


def doubts(config: RunConfig, ready: Prepared | None, folds: Mapping[int, Prepared]) -> list[str]:
    """What may be meant, but should be meant: each a sentence. They can be overridden; errors can't.

    Args:
        ready: the data set divided by the first fold; None where it cannot be.
        folds: the same for every fold of the launch.
    """
    found = []
    protocol = PROTOCOLS.get(config.data.protocol)
    if folds and (worst := worst_audit(folds))["level"] == "leak":
        found.append(f"{worst['verdict']} Scores on this split say little about new patients.")
    elif protocol is not None and not protocol.keeps_cases_apart:
        found.append("This protocol does not keep patients apart.")
    try:
        recipe = presets.resolve(config)
    except ConfigError:
        return found
    if ready is not None:
        images = int((ready.manifest.table["split"] == "train").sum())
        if recipe.batch_size > images:
            found.append(
                f"The batch ({recipe.batch_size}) is larger than the training part ({images} images)."
            )
    if 0 < config.model.image_size < 96:
        found.append(f"At {config.model.image_size} pixels the nuclei are gone; 160 and more are usual.")
    geometry = config.model.geometry or recipe.geometry
    if geometry != recipe.geometry and recipe.geometry != "square":
        found.append(f"The recipe {recipe.name} was made for the geometry {recipe.geometry}.")
    if config.model.pretrained == "none" and recipe.stages[0].trainable == "head":
        found.append("A frozen backbone with random weights learns little: its features mean nothing.")
    if config.training.lr > 0.05:
        found.append(f"A learning rate of {config.training.lr:g} is far above what fine-tuning takes.")
    return found


# --- minutes and memory --------------------------------------------------------------------------------
def cost_html(guesses: Sequence[Forecast]) -> str:
    """` · about 12 min 30 s one after another, up to 812 MB (scaled from ...)`, or that it is not known."""
    known = [guess for guess in guesses if math.isfinite(guess.seconds)]
    text = ""
    if known:
        text += f" · about {widgets.duration(sum(guess.seconds for guess in known))}"
        text += " one after another" if len(known) > 1 else ""
        epochs = [guess.epoch_s for guess in known if math.isfinite(guess.epoch_s)]
        if epochs:
            text += f", {'up to ' if len(epochs) > 1 else ''}{widgets.duration(max(epochs))} an epoch"
        memory = [guess.memory_mb for guess in known if math.isfinite(guess.memory_mb)]
        text += f", up to {max(memory):,.0f} MB" if memory else ""
        sources = list(dict.fromkeys(guess.source for guess in known))
        more = f" and {len(sources) - 2} more" if len(sources) > 2 else ""
        text += f'<span class="bh-muted"> ({widgets.plain(", ".join(sources[:2])[:120])}{more})</span>'
    if left := len(guesses) - len(known):
        which = "their time" if len(guesses) > 1 else "its time"
        of = f"for {left} of them " if known else ""
        text += f' · <span class="bh-muted">{of}{which} is not known: no such run has finished here</span>'
    return text
