"""The source study once more: its ten models and, per family, its three ensembles, beside its published table.

`engine reproduce-study` queues what is not there yet, so that it may be called again at any time: after a
restart, after a failure, or only to print the table. Ensembles are made by whoever completes a family.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from engine.analysis import study
from engine.analysis.comparison import compare
from engine.errors import ConfigError, EngineError
from engine.runs import catalog, launch
from engine.runs.config import RunConfig
from engine.runs.folder import RunFolder, Summary
from engine.runs.listing import summaries
from engine.runs.results import entry
from engine.runs.status import ACTIVE, COMPLETED, RESUMABLE

EXPERIMENT = "reproduce-study"
METHODS = ("mean", "vote", "fusion MLP")
NAMES = tuple(catalog.find(name).study for name in catalog.STUDY)
NOT_MEASURED = (
    "The full run (ten models, 40 epochs, all of BreakHis) has not been made by the authors of this program: "
    "whoever makes it sees here for the first time how near it comes."
)
POLL_S = 2.0


@dataclass(frozen=True)
class Reproduction:
    """How far it is. `members` by the study's name (`V1-B0`, `V2 vote`), None where there is no run yet."""

    experiment: str
    members: dict[str, Summary | None]

    @property
    def complete(self) -> bool:
        return all(one is not None and one.state == COMPLETED for one in self.members.values())

    @property
    def waiting(self) -> int:
        """Runs that are being worked on or wait for it."""
        return sum(one is not None and one.state in ACTIVE for one in self.members.values())

    @property
    def failed(self) -> list[Summary]:
        return [one for one in self.members.values() if one is not None and one.state in RESUMABLE]


def plan(base: RunConfig) -> list[RunConfig]:
    """The ten models, each knowing which row of the study's table it is."""
    planned = launch.plan(base.changed(name=""), models=catalog.STUDY)
    named = zip(NAMES, planned, strict=True)
    return [one.changed(name=f"Study {name}", details={"study": name}) for name, one in named]


def rows() -> tuple[str, ...]:
    """The sixteen rows of the published table: ten models and three ensembles of each family."""
    return (*NAMES, *(f"{family} {method}" for family in ("V1", "V2") for method in METHODS))


def state(runs: Path, experiment: str = EXPERIMENT) -> Reproduction:
    """What is there of a reproduction; of several runs of one row the newest."""
    members: dict[str, Summary | None] = dict.fromkeys(rows())
    for one in reversed(summaries(runs)):  # oldest first
        name = str(one.config.details.get("study") or "")
        if one.config.experiment == experiment and name in members:
            members[name] = one
    return Reproduction(experiment, members)


def start(base: RunConfig, runs: Path) -> Reproduction:
    """Queue what is missing, resume what ended early, and combine what is complete.

    Raises:
        ConfigError: a run of this reproduction has other settings than `base`.
        EngineError: as `launch.start_all`; nothing is queued then.
    """
    known = state(runs, base.experiment).members
    missing = []
    for config in plan(base):
        there = known[str(config.details["study"])]
        if there is None:
            missing.append(config)
        else:
            _same_settings(config, there.config)
    launch.start_all(missing, runs)
    for one in known.values():
        if one is not None and one.state in RESUMABLE:
            launch.resume(RunFolder(Path(runs) / one.id))
    combine(runs, base.experiment)
    return state(runs, base.experiment)


def combine(runs: Path, experiment: str) -> list[RunFolder]:
    """Make the ensembles of every family whose five models have completed: mean and vote at once, as the study
    combined them, the fusion as a run of its own in the queue, fitted as the study fitted it."""
    from engine.runs.derived import start_fusion  # queueing the models needs none of it
    from engine.runs.ensembles import save_ensemble

    members = state(runs, experiment).members
    made = []
    for family in ("V1", "V2"):
        five = [one for name, one in members.items() if name in NAMES and name.startswith(family)]
        whole = [RunFolder(Path(runs) / one.id) for one in five if one is not None and one.state == COMPLETED]
        if len(whole) < len(five):
            continue
        for method in METHODS:
            name = f"{family} {method}"
            if members[name] is not None:
                continue
            if method == "fusion MLP":
                made.append(
                    start_fusion(
                        whole, f"Study {name}", runs, as_study=True, study=name, experiment=experiment
                    )
                )
            else:
                rule = "lowest-label" if method == "vote" else "mean-probability"
                made.append(
                    save_ensemble(
                        whole, method, f"Study {name}", runs, tie_rule=rule, study=name, experiment=experiment
                    )
                )
    return made


def follow(
    base: RunConfig, runs: Path, report: Callable[[Reproduction], None], timeout_s: float = math.inf
) -> Reproduction:
    """Wait until nothing is in the queue any more; the runs go on when the caller does not."""
    end = time.monotonic() + timeout_s
    while True:
        combine(runs, base.experiment)
        now = state(runs, base.experiment)
        report(now)
        if not now.waiting or time.monotonic() > end:
            return now
        time.sleep(POLL_S)


def _same_settings(wanted: RunConfig, there: RunConfig) -> None:
    def settings(config: RunConfig) -> tuple:
        data = dataclasses.replace(config.data, root=str(Path(config.data.root).expanduser().resolve()))
        device = dataclasses.replace(config.training, device="auto", workers=-1)
        return data, config.model, device

    if settings(wanted) != settings(there):
        raise ConfigError(
            "This runs folder holds a reproduction with other settings",
            found=f"experiment {there.experiment}: {launch.command_line(there)}",
            remedy="Give the same settings to go on with it, or another --experiment to begin anew",
        )


# -- the table --------------------------------------------------------------------------------------------


def table(runs: Path, experiment: str = EXPERIMENT) -> pd.DataFrame:
    """Ours beside the published sixteen: one row each, in the study's order.

    Returns:
        Columns `study_model`, `study`, `study_low`, `study_high` (fractions, Wilson over images), `study_n`;
        `id`, `state`, `ours`, `low`, `high`, `n`, `n_cases` (nan or empty until there are predictions),
        `difference`.
    """
    found = state(runs, experiment).members
    published = {row["model"]: row for row in study.recomputed().to_dict(orient="records")}
    lines = []
    for name, one in found.items():
        row = published[name]
        line = {
            "study_model": name,
            "study": float(row["accuracy"]),
            "study_low": float(row["low"]),
            "study_high": float(row["high"]),
            "study_n": int(row["n"]),
            "id": one.id if one else "",
            "state": one.state if one else "missing",
        }
        lines.append(line | _ours(Path(runs), one))
    made = pd.DataFrame(lines)
    return made.assign(difference=made["ours"] - made["study"])


def _ours(runs: Path, one: Summary | None) -> dict[str, float]:
    unknown = {"ours": math.nan, "low": math.nan, "high": math.nan, "n": 0, "n_cases": 0}
    if one is None or "test" not in one.has_predictions:
        return unknown
    try:
        result = compare([entry(RunFolder(runs / one.id))]).entries[0]
    except EngineError:
        return unknown
    score = result.scores["accuracy"]
    return {
        "ours": result.accuracy,
        "low": score.low,
        "high": score.high,
        "n": result.n,
        "n_cases": result.n_cases,
    }


def differences(runs: Path, experiment: str = EXPERIMENT) -> pd.DataFrame:
    """What differs in protocol: `aspect, study, ours`; empty before the first model has predictions."""
    members = state(runs, experiment).members
    first = next((one for one in members.values() if one is not None), None)
    if first is None:
        return pd.DataFrame(columns=["aspect", "study", "ours"])
    ours = table(runs, experiment)
    known = ours[ours["n"] > 0]
    n, cases = (int(known["n"].iloc[0]), int(known["n_cases"].iloc[0])) if len(known) else (0, 0)
    config = first.config
    epochs = config.training.epochs or 40
    size = config.model.image_size
    more = [
        ("epochs", "40", str(epochs)),
        ("input", "224 to 380 pixels, by model", f"{size} pixels" if size else "the same"),
        ("first weights", "ImageNet", "random" if config.model.pretrained == "none" else "ImageNet, timm's"),
        ("framework", "Keras", "PyTorch and timm: other kernels, other weights files"),
    ]
    stated = study.differences(config.to_record(), n_images=n, n_cases=cases)
    fitted = "as the study: models on validation, which also fits the fusion; no ensemble is chosen on test"
    stated.loc[stated["aspect"] == "members chosen on", "ours"] = fitted
    extra = pd.DataFrame(more, columns=["aspect", "study", "ours"])
    return pd.concat([stated, extra[extra["study"] != extra["ours"]]], ignore_index=True)


def as_record(runs: Path, experiment: str = EXPERIMENT) -> dict[str, Any]:
    """The document of `reproduce-study --json`."""
    now = state(runs, experiment)
    lines = table(runs, experiment).to_dict(orient="records")
    plain = [
        {
            key: None if isinstance(value, float) and math.isnan(value) else value
            for key, value in line.items()
        }
        for line in lines
    ]
    return {
        "experiment": experiment,
        "complete": now.complete,
        "waiting": now.waiting,
        "rows": plain,
        "differences": differences(runs, experiment).to_dict(orient="records"),
        "citation": study.CITATION,
        "note": NOT_MEASURED,
    }


def as_text(runs: Path, experiment: str = EXPERIMENT) -> str:
    """The same for people."""
    lines = [f"{'':<14}{'study (n = 1,182)':<28}{'ours':<46}difference"]
    for row in table(runs, experiment).to_dict(orient="records"):
        theirs = f"{row['study']:.4f} [{row['study_low']:.4f}, {row['study_high']:.4f}]"
        ours, gap = str(row["state"]), ""
        if row["n"]:
            ours = f"{row['ours']:.4f} [{row['low']:.4f}, {row['high']:.4f}] · n = {row['n']}, {row['n_cases']} cases"
            gap = f"{row['difference']:+.4f}"
        lines.append(f"{row['study_model']:<14}{theirs:<28}{ours:<46}{gap}")
    lines += ["", "Accuracy; the study's intervals over images (Wilson), ours over cases. What differs:"]
    lines += [
        f"  {row['aspect']}: {row['study']} | here: {row['ours']}"
        for row in differences(runs, experiment).to_dict(orient="records")
    ]
    return "\n".join([*lines, "", NOT_MEASURED])
