"""Flags that several commands share, and what they spell out."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from engine.runs.config import RunConfig, options

if TYPE_CHECKING:
    from engine.runs.folder import RunFolder


Command = Callable[[argparse.Namespace], int]
Adder = Callable[..., argparse.ArgumentParser]
"""Declares a command: name, what runs it, its help text, whether it touches runs, whether it prints JSON."""


def add_run_options(command: argparse.ArgumentParser) -> None:
    for group, item in options():
        add_option(command, group, item.name)
    command.set_defaults(fold=None)


def add_option(command: argparse.ArgumentParser, group: type, name: str) -> None:
    """One flag from the facts of a configuration field; underscores work like dashes."""
    item = next(item for item in dataclasses.fields(group) if item.name == name)
    facts = item.metadata
    flag = facts["flag"]
    names = [flag] + ([flag.replace("-", "_").replace("__", "--", 1)] if "-" in flag[2:] else [])
    words: dict[str, Any] = {
        "dest": flag.lstrip("-").replace("-", "_"),
        "default": item.default,
        "help": facts["help"].replace("%", "%%"),
    }
    if isinstance(item.default, bool):
        command.add_argument(*names, action="store_true", **words)
        return
    if facts.get("choices"):
        words["choices"] = [choice for choice in facts["choices"] if choice]
    if isinstance(item.default, tuple):
        words["type"] = listed
    elif isinstance(item.default, int | float):
        words["type"] = type(item.default)
    command.add_argument(*names, **words)


def listed(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def config(given: argparse.Namespace) -> RunConfig:
    """The configuration that the flags spell out, on top of the file or the run that is named."""
    from engine.runs.config import read_config
    from engine.runs.launch import default_fold

    config = RunConfig()
    if given.config or given.parent:
        parent = locate(given, given.parent) if given.parent else None
        config = parent.config() if parent else read_config(given.config)
        config = config.changed(
            kind="train", name="", experiment="", parent=parent.id if parent else "", details={}
        )
        if parent and given.from_checkpoint:
            config = config.changed(model__pretrained=str(parent.best.resolve()))
    based = bool(given.config or given.parent)
    values: dict[str, Any] = {}
    prefix = {
        "DataConfig": "data__",
        "ModelConfig": "model__",
        "TrainingConfig": "training__",
        "RunConfig": "",
    }
    for group, item in options():
        value = getattr(given, item.metadata["flag"].lstrip("-").replace("-", "_"))
        if value is not None and not (based and value == item.default):
            values[prefix[group.__name__] + item.name] = value
    if given.fold is None and (not based or "data__protocol" in values):
        values["data__fold"] = default_fold(given.protocol)
    return config.changed(**values)


def locate(given: argparse.Namespace, run_id: str | None = None) -> RunFolder:
    from engine.runs.folder import locate

    return locate(given.runs, run_id or given.id)
