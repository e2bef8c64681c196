"""Runs launched together: what their completion completes.

The folds of a cross-validation become one entry (kind `pooled`) as soon as the last of them has completed; it is
compared and combined like any run. The worker of that last run does it.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from filelock import FileLock

from engine.errors import PredictionsError
from engine.runs import results
from engine.runs.folder import RunFolder, Summary
from engine.runs.listing import summaries
from engine.runs.status import COMPLETED

LOCK = ".experiments.lock"
LOCK_WAIT_S = 120.0


def finish(folder: RunFolder) -> list[RunFolder]:
    """Make what a run that has just completed was the last missing part of; called by its worker.

    Returns:
        The entries made; none for a run of no experiment, or while others of it are not through.
    """
    config = folder.config()
    if not config.experiment:
        return []
    from engine.runs import reproduction

    with FileLock(folder.runs / LOCK, timeout=LOCK_WAIT_S):  # two folds may end in the same second
        made = pool(folder.runs, config.experiment)
        return made + reproduction.combine(folder.runs, config.experiment)


def pool(runs: Path, experiment: str) -> list[RunFolder]:
    """Pool every cross-validation of an experiment that is complete and not pooled yet.

    A cross-validation is what differs in nothing but the fold. A failed run does not count once another one has
    taken its place (its `parent` says so). Folds that tested an image twice (the official ones) are not pooled.
    """
    found = [one for one in summaries(runs) if one.config.experiment == experiment]
    done = [set(one.config.details.get("members") or ()) for one in found if one.config.kind == "pooled"]
    made = []
    for group in cross_validations(found):
        ids = {one.id for one in group}
        whole = all(one.state == COMPLETED and "test" in one.has_predictions for one in group)
        if not whole or ids in done:
            continue
        name = f"{re.sub(r' · fold [0-9]+', '', group[0].name)} · {len(group)} folds pooled"
        try:
            made.append(results.pool_folds([RunFolder(Path(runs) / one.id) for one in group], name, runs))
        except PredictionsError as error:
            print(f"Not pooled: {error}", flush=True)
    return made


def cross_validations(found: Sequence[Summary]) -> list[list[Summary]]:
    """Trained runs that differ in nothing but the fold, in the order of their folds; two or more of them."""
    trained = {one.id: one for one in found if one.config.kind == "train"}
    replaced = {one.config.parent for one in trained.values()}
    groups: dict[str, list[Summary]] = defaultdict(list)
    for one in trained.values():
        if one.id not in replaced:
            groups[_settings(one, trained)].append(one)
    ordered = [sorted(group, key=lambda one: one.config.data.fold) for group in groups.values()]
    return [group for group in ordered if len({one.config.data.fold for one in group}) == len(group) > 1]


def _settings(one: Summary, trained: dict[str, Summary]) -> str:
    """Everything but the fold; of a run that took a failed one's place, that one's."""
    seen = {one.id}
    while one.config.parent in trained and one.config.parent not in seen:
        one = trained[one.config.parent]
        seen.add(one.id)
    record = one.config.changed(data__fold=0, name="", parent="").to_record()
    return json.dumps(record, sort_keys=True)
