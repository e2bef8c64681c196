"""The table of runs: which rows, which columns, which groups. Pure, so that it is tested without a browser."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from dashboard import widgets
from engine.errors import ConfigError
from engine.runs import catalog
from engine.runs import status as run_status
from engine.runs.config import EXECUTED, options
from engine.runs.folder import Summary

LEAK_WORDS = {"leak": "⚠ leaks patients", "clean": "no leak", "unknown": "unknown"}


@dataclass(frozen=True)
class Column:
    """A column of the table: its key in the URL, its title, and how its value is read from a run."""

    key: str
    title: str
    value: Callable[[Summary], Any]
    help: str = ""


def _best(name: str) -> Callable[[Summary], Any]:
    return lambda summary: (summary.status.best or {}).get(name)


def _progress(summary: Summary) -> float:
    return 100.0 if summary.state == run_status.COMPLETED else 100.0 * summary.status.progress


def _eta(summary: Summary) -> str:
    active = summary.state in (run_status.RUNNING, run_status.STARTING)
    return widgets.duration(summary.status.eta_s) if active and summary.status.eta_s is not None else ""


def _state(summary: Summary) -> str:
    return "Stalled" if summary.stalled else widgets.state_word(summary.state)


def _is_trained(summary: Summary) -> bool:
    """Whether split and fold were chosen for it; an import or an ensemble only has the defaults there."""
    return summary.config.kind in ("train", "fusion")


def _model(summary: Summary) -> str:
    if summary.config.kind != "train":
        return summary.config.kind
    record = catalog.BY_NAME.get(summary.config.model.name)
    return record.label if record else summary.config.model.name


_FIXED = (
    Column("state", "Status", lambda summary: [_state(summary)]),
    Column("name", "Name", lambda summary: summary.name),
    Column("progress", "Progress", _progress),
    Column("eta", "Left", _eta, "Estimated time left"),
    Column("best", "Best (val)", _best("value"), "Best validation score so far; its epoch stands beside it"),
    Column("best_epoch", "Epoch", _best("epoch"), "The epoch of the best validation score"),
    Column("model", "Model", _model),
    Column("protocol", "Split", lambda summary: summary.config.data.protocol if _is_trained(summary) else ""),
    Column("fold", "Fold", lambda summary: summary.config.data.fold if _is_trained(summary) else None),
    Column(
        "leakage", "Leakage", lambda summary: [LEAK_WORDS.get(str(summary.audit.get("level")), "unknown")]
    ),
    Column("age", "Created", lambda summary: pd.Timestamp(summary.created_at or float("nan"), unit="s", tz="UTC"),
           "How long ago; Enter or a double click on a cell shows date and time, as does the column Date"),
    Column("created", "Date", lambda summary: widgets.when(summary.created_at)),
    Column("tags", "Tags", lambda summary: list(summary.tags)),
    Column("notes", "Notes", lambda summary: summary.notes),
    Column("experiment", "Experiment", lambda summary: summary.config.experiment),
    Column("kind", "Kind", lambda summary: summary.config.kind),
    Column("id", "Id", lambda summary: summary.id),
)  # fmt: skip
DEFAULT_COLUMNS = (
    "state", "name", "progress", "eta", "best", "best_epoch", "leakage", "model", "protocol", "fold", "age", "tags",
)  # fmt: skip


def _config_columns() -> tuple[Column, ...]:
    """A column per configuration field, from the one place that describes them."""
    groups = {"DataConfig": "data", "ModelConfig": "model", "TrainingConfig": "training"}
    made = []
    for group, item in options():
        part = groups.get(group.__name__)
        if part is None:
            continue

        def value(summary: Summary, part: str = part, name: str = item.name) -> Any:
            found = getattr(getattr(summary.config, part), name)
            return ", ".join(found) if isinstance(found, tuple) else found

        made.append(Column(f"{part}.{item.name}", item.metadata["label"], value, item.metadata["help"]))
    return tuple(made)


COLUMNS: dict[str, Column] = {column.key: column for column in (*_FIXED, *_config_columns())}
GROUPS = ("model", "experiment", "kind", "tags", "leakage", "state", *(key for key in COLUMNS if "." in key))
"""What runs can be grouped by: every configuration key, and what else tells them apart."""


def filtered(summaries: Sequence[Summary], query: str) -> list[Summary]:
    """The runs that a text filter keeps.

    Words: each must occur in name, id, tags, notes, model, split, state or experiment, in any case.
    Between slashes (`/b[0-2]$/`): a regular expression, searched in the same text.

    Raises:
        ConfigError: the expression is not a regular one.
    """
    query = query.strip()
    if not query:
        return list(summaries)
    if len(query) > 2 and query.startswith("/") and query.endswith("/"):
        try:
            pattern = re.compile(query[1:-1], re.IGNORECASE)
        except re.error as error:
            raise ConfigError(
                "The filter is not a regular expression",
                found=f"{query}: {error}",
                remedy="Correct it, or leave out the slashes to search for words",
            ) from error
        return [summary for summary in summaries if any(pattern.search(part) for part in _searched(summary))]
    words = query.lower().split()
    return [
        summary
        for summary in summaries
        if all(any(word in part.lower() for part in _searched(summary)) for word in words)
    ]


def _searched(summary: Summary) -> tuple[str, ...]:
    config = summary.config
    return (
        summary.name, summary.id, " ".join(summary.tags), summary.notes, config.model.name, _model(summary),
        config.data.protocol, _state(summary), config.experiment, config.kind,
        LEAK_WORDS.get(str(summary.audit.get("level")), ""),
    )  # fmt: skip


def table(summaries: Sequence[Summary], columns: Sequence[str]) -> pd.DataFrame:
    """A row per run in the order given, a column per key; unknown keys are left out, and `eta` where no run is active."""
    keys = [key for key in columns if key in COLUMNS]
    if "eta" in keys and not any(summary.state in run_status.ACTIVE for summary in summaries):
        keys.remove("eta")  # nothing is left to do: the room is for the others
    data = {key: [COLUMNS[key].value(summary) for summary in summaries] for key in keys}
    return pd.DataFrame(data, columns=keys)


def grouped(summaries: Sequence[Summary], key: str) -> list[Summary]:
    """The same runs with those of one group together; groups in the order of their newest run."""
    if key not in COLUMNS:
        return list(summaries)
    order: dict[str, int] = {}
    for summary in summaries:
        order.setdefault(_group_name(summary, key), len(order))
    return sorted(summaries, key=lambda summary: order[_group_name(summary, key)])


def _group_name(summary: Summary, key: str) -> str:
    if "." in key and not _is_trained(summary):
        return ""  # an import has the defaults there, which nobody chose
    value = COLUMNS[key].value(summary)
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def group_table(summaries: Sequence[Summary], key: str) -> pd.DataFrame:
    """A row per group: `group, runs, finished, best, mean, sd` of the best validation scores.

    `sd` is n/a (nan) for fewer than two scores: the spread over seeds or folds is what it is for.
    """
    rows = []
    for name in dict.fromkeys(_group_name(summary, key) for summary in summaries):
        members = [summary for summary in summaries if _group_name(summary, key) == name]
        found = [(member.status.best or {}).get("value") for member in members]
        scores = np.array([score for score in found if score is not None], dtype=float)
        rows.append(
            {
                "group": name or "(none)",
                "runs": len(members),
                "finished": sum(member.state == run_status.COMPLETED for member in members),
                "best": scores.max() if len(scores) else float("nan"),
                "mean": scores.mean() if len(scores) else float("nan"),
                "sd": scores.std(ddof=1) if len(scores) > 1 else float("nan"),
            }
        )
    return pd.DataFrame(rows, columns=["group", "runs", "finished", "best", "mean", "sd"])


def by_use(summaries: Sequence[Summary], keys: Sequence[str] = GROUPS) -> list[str]:
    """The keys for grouping, those that tell these runs apart first."""
    return sorted(keys, key=lambda key: not varies(summaries, key))


def varies(summaries: Sequence[Summary], key: str) -> bool:
    """Whether a key tells runs apart."""
    return len({_group_name(summary, key) for summary in summaries}) > 1


def able(summaries: Sequence[Summary], action: str) -> list[Summary]:
    """The runs among those selected that an action applies to."""
    checks: dict[str, Callable[[Summary], bool]] = {
        "stop": lambda summary: summary.state in (run_status.QUEUED, run_status.STARTING, run_status.RUNNING),
        "resume": lambda summary: summary.state in run_status.RESUMABLE and summary.config.kind in EXECUTED,
        "delete": lambda summary: summary.state not in (run_status.STARTING, run_status.RUNNING, run_status.STOPPING),
        "compare": lambda summary: bool({"val", "test"} & set(summary.has_predictions)),
        "ensemble": lambda summary: bool({"val", "test"} & set(summary.has_predictions)) and summary.config.kind != "ensemble",
    }  # fmt: skip
    return [summary for summary in summaries if checks[action](summary)]


def retagged(
    labels: Sequence[Mapping[str, Any]], more: Sequence[str], less: Sequence[str]
) -> list[dict[str, Any]]:
    """The change of each label (`RunFolder.label`) when tags are put on and taken off all of them."""
    return [
        {"tags": [tag for tag in dict.fromkeys([*label["tags"], *more]) if tag not in less]}
        for label in labels
    ]
