"""Results that no worker makes: imports, comparisons, pooled cross-validations, single images.

Each is a run folder like any other, so that no page needs a special case; pages and command line come
through here.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pandas as pd

from engine import files
from engine.analysis import review
from engine.analysis.alignment import align
from engine.analysis.comparison import Comparison, Entry, compare
from engine.analysis.importing import read_foreign
from engine.analysis.operating import Rule, threshold_by
from engine.analysis.predictions import classes_of
from engine.data.files import IMAGE_ENDINGS
from engine.errors import DataError, EngineError, PredictionsError, RunError
from engine.runs.config import FAST, RunConfig, TrainingConfig, mode_of
from engine.runs.cost import Cost, cost_of
from engine.runs.creation import create
from engine.runs.folder import RunFolder, locate
from engine.runs.status import COMPLETED, Status
from engine.share import access

LEVELS = ("clean", "unknown", "leak")  # from best to worst


# -- what a run was trained on --------------------------------------------------------------------


@dataclass(frozen=True)
class TrainedOn:
    """The images and cases a run (or any member of an ensemble) learned from; `known` is False for imports."""

    images: frozenset[str]
    cases: frozenset[str]
    known: bool


def trained_on(folder: RunFolder) -> TrainedOn:
    """What a run was fitted on: its training part; of an ensemble, that of all its members.

    Of pooled folds: the images that the very run which predicts them was trained on (none, where the folds are
    sound), since each image's prediction comes from one fold alone.
    """
    config = folder.config()
    if config.kind == "pooled":
        return _trained_in_fold(folder)
    if config.kind == "ensemble":
        parts = []
        for run_id in config.details.get("members", ()):
            try:
                parts.append(trained_on(locate(folder.runs, run_id)))
            except RunError:  # deleted since: nothing is known of it any more
                parts.append(TrainedOn(frozenset(), frozenset(), False))
        return TrainedOn(
            frozenset().union(*(part.images for part in parts)),
            frozenset().union(*(part.cases for part in parts)),
            bool(parts) and all(part.known for part in parts),
        )
    if not (folder.path / "manifest.csv").is_file():
        if "train" not in folder.predicted_splits():
            return TrainedOn(frozenset(), frozenset(), False)
        table = folder.predictions("train")
        return TrainedOn(frozenset(table["image_id"]), frozenset(table["case"]) - {""}, True)
    table = folder.manifest().table
    if "split" not in table.columns:
        return TrainedOn(frozenset(), frozenset(), False)
    # The study fitted its fusion on the validation part.
    learned = ("train", "val") if config.details.get("as_study") else ("train",)
    rows = table[table["split"].isin(learned)]
    images, cases = set(rows["image_id"]), set(rows["case"])
    for run_id in config.details.get("members", ()) if config.kind != "train" else ():
        with contextlib.suppress(RunError):  # deleted since; it was of the same split when this was made
            member = trained_on(locate(folder.runs, run_id))
            images |= member.images
            cases |= member.cases
    return TrainedOn(frozenset(images), frozenset(cases) - {""}, True)


def _trained_in_fold(folder: RunFolder) -> TrainedOn:
    images, cases = set(), set()
    for run_id in folder.config().details.get("members", ()):
        try:
            member = locate(folder.runs, run_id)
            learned = trained_on(member)
            tables = [member.predictions(split) for split in member.predicted_splits() if split != "train"]
        except EngineError:  # deleted since: nothing is known of it any more
            return TrainedOn(frozenset(), frozenset(), False)
        for table in tables:
            images |= set(table["image_id"]) & learned.images
            cases |= set(table["case"]) & learned.cases
    return TrainedOn(frozenset(images), frozenset(cases) - {""}, True)


# -- import ---------------------------------------------------------------------------------------


def import_predictions(
    sources: Sequence[Path], name: str, runs: Path, *, mapping: Mapping[str, str] | None = None
) -> RunFolder:
    """Make another tool's predictions a run (kind `import`).

    Raises:
        PredictionsError: see `engine.analysis.importing.read_foreign`.
    """
    return _imported(read_foreign(sources, mapping), sources, name, runs)


def import_each(
    sources: Sequence[Path], names: Sequence[str], runs: Path, *, mapping: Mapping[str, str] | None = None
) -> list[RunFolder]:
    """Make each file a run of its own; all are read before the first is written.

    Raises:
        PredictionsError: see `engine.analysis.importing.read_foreign`.
    """
    tables = [read_foreign([source], mapping) for source in sources]
    return [
        _imported(table, [source], name, runs)
        for table, source, name in zip(tables, sources, names, strict=True)
    ]


def _imported(table: pd.DataFrame, sources: Sequence[Path], name: str, runs: Path) -> RunFolder:
    details = {
        "sources": [Path(source).name for source in sources],
        "sha256": [files.sha256(source) for source in sources],
    }
    config = RunConfig(kind="import", name=name, classes=classes_of(table), details=details)
    audit = {
        "level": "unknown",
        "verdict": "Unknown: these predictions were made by another tool; which cases it was trained on is not recorded.",
    }
    parts = {
        split: rows.drop(columns="split").reset_index(drop=True) for split, rows in table.groupby("split")
    }
    return finished(runs, config, "import", parts, audit)


def finished(
    runs: Path, config: RunConfig, slug: str, parts: Mapping[Any, pd.DataFrame], audit: dict[str, Any]
) -> RunFolder:
    """A run folder that is complete at once; its status is written last."""
    who = access.require_editor("save results")
    folder = create(runs, config, slug, audit=audit, status=Status().moved("starting"))
    for split, table in parts.items():
        folder.write_predictions(str(split), table)
    folder.write_status(Status(progress=1.0).moved(COMPLETED, ended_at=folder.status().check_in_at))
    access.log(runs, f"save {config.kind}", folder.id, who)
    return folder


# -- compare --------------------------------------------------------------------------------------


def entry(folder: RunFolder, split: str = "test", threshold: float | None = None) -> Entry:
    """A run as the comparison takes it."""
    return Entry(folder.id, folder.name, folder.predictions(split), folder.config().to_record(), threshold)


@dataclass(frozen=True)
class Compared:
    """A comparison and what leaks in its entries."""

    comparison: Comparison
    audits: Mapping[str, dict[str, Any]]
    split: str
    extra: Mapping[str, Any] = field(default_factory=dict)
    costs: Mapping[str, Cost] = field(default_factory=dict)
    modes: Mapping[str, str] = field(default_factory=dict)

    def as_record(self) -> dict[str, Any]:
        """The document of `compare --json` and `ensemble --json`."""
        record = {**self.comparison.as_records(), "split": self.split, **self.extra}
        for run in record["runs"]:
            audit = self.audits.get(run["id"], {})
            run["leakage"] = {"level": audit.get("level", "unknown"), "verdict": audit.get("verdict", "")}
            run["cost"] = self.costs[run["id"]].as_record() if run["id"] in self.costs else None
            run["reproducibility"] = self.modes.get(run["id"], "unknown")
        return record

    def as_text(self) -> str:
        """The same for people: scores with intervals, matrices, leakage."""
        lines = [f"{self.extra['sensitivity']}."] if "sensitivity" in self.extra else []
        for result in self.comparison.entries:
            audit = self.audits.get(result.id, {})
            lines += [f"{result.name} ({result.id})", f"  {audit.get('verdict', '')}"]
            lines += [f"  {FAST}"] if self.modes.get(result.id) == "fast" else []
            lines += [f"  {self.costs[result.id]}"] if result.id in self.costs else []
            lines += [f"  {name:>18}  {estimate}" for name, estimate in result.scores.items()]
            warnings = dict.fromkeys(one.warning for one in result.scores.values() if one.warning)
            lines += [f"  {warning.capitalize()}." for warning in warnings]
            for part, matrix in result.confusion.items():
                lines.append(f"  {part:>5} (rows true, columns predicted): {matrix}")
        if self.comparison.note:
            lines.append(self.comparison.note)
        entries = self.comparison.entries
        shared = {one.name for one in entries if sum(one.name == other.name for other in entries) > 1}
        names = {one.id: f"{one.name} ({one.id})" if one.name in shared else one.name for one in entries}
        for difference in self.comparison.differences:
            pair = f"{names[difference.id]} minus {names[difference.reference]}"
            lines.append(
                f"{pair}, {difference.score}: {difference.estimate}, sign-flip over cases p = {difference.p:.3g}, "
                f"Holm over {difference.comparisons} p = {difference.p_holm:.3g}"
            )
        tests = {one.id: one for one in self.comparison.differences}
        lines += [
            f"{names[one.id]} against {names[one.reference]}: {one.mcnemar.first_only} images only the first has right, "
            f"{one.mcnemar.second_only} only the second, exact McNemar p = {one.mcnemar.p:.3g} ({one.mcnemar.label})"
            for one in tests.values()
        ]
        lines += [f"Beware: {one['message']}." for one in self.extra.get("cautions", ())]
        lines += [
            f"{key}: {value}"
            for key, value in self.extra.items()
            if isinstance(value, str | int | float) and key != "sensitivity"
        ]
        return "\n".join(lines)


def compare_runs(
    folders: Sequence[RunFolder],
    split: str = "test",
    *,
    rule: Rule | None = None,
    without: Sequence[str] = (),
    **options: Any,
) -> Compared:
    """Score runs on the images all of them predicted in this split.

    Args:
        rule: how each run's operating point is chosen (on its validation predictions, where it says so).
        without: kinds of marks (`engine.analysis.review`) whose images are left out: a sensitivity analysis,
            whose label is the first thing that text and record say.
        options: as `engine.analysis.comparison.compare`.

    Raises:
        RunError: one has no such predictions. PredictionsError: see `engine.analysis.comparison.align`.
    """
    distinct(folders)
    entries = [entry(folder, split, _threshold(folder, rule or Rule())) for folder in folders]
    extra: dict[str, Any] = {}
    if without:
        marked = review.marks(folders[0].path.parent)
        common = align({one.id: one.predictions for one in entries}).frame
        kept = review.without_marked(common, marked, without)
        extra["sensitivity"] = kept.label
        entries = [
            replace(one, predictions=one.predictions[~one.predictions["image_id"].isin(kept.excluded)])
            for one in entries
        ]
    if rule and rule.name != "argmax":
        extra["operating_point"] = rule.text
        extra["thresholds"] = {one.id: one.threshold for one in entries}
    result = compare(entries, **options)
    return Compared(
        result, {folder.id: folder.audit() for folder in folders}, split, extra, **facts_of(folders)
    )


def _threshold(folder: RunFolder, rule: Rule) -> float | None:
    there = rule.on_validation and "val" in folder.predicted_splits()
    return threshold_by(rule, folder.predictions("val") if there else None)


def facts_of(folders: Sequence[RunFolder]) -> dict[str, dict[str, Any]]:
    """What is said beside the scores of runs: `costs` and `modes` by run."""
    costs = {folder.id: found for folder in folders if (found := cost_of(folder))}
    return {"costs": costs, "modes": {folder.id: mode_of(folder.config()) for folder in folders}}


def common_mode(folders: Sequence[RunFolder]) -> str:
    """The mode of what is made from several runs: fast as soon as one of them is."""
    return "fast" if any(mode_of(folder.config()) == "fast" for folder in folders) else "exact"


def distinct(folders: Sequence[RunFolder]) -> None:
    ids = [folder.id for folder in folders]
    if len(set(ids)) < len(ids):
        twice = sorted({run_id for run_id in ids if ids.count(run_id) > 1})
        raise PredictionsError(
            "The same run is named twice", found=", ".join(twice), remedy="Name every run once"
        )


# -- pooled cross-validation ----------------------------------------------------------------------


def pool_folds(folders: Sequence[RunFolder], name: str, runs: Path) -> RunFolder:
    """Put the test parts of one model's folds together: every image predicted by the run that never saw its case.

    Raises:
        PredictionsError: two folds tested the same image, or the classes differ.
    """
    parts: dict[str, list[pd.DataFrame]] = {"val": [], "test": []}
    for folder in folders:
        fold = folder.config().data.fold
        for split in parts:
            if split in folder.predicted_splits():
                parts[split].append(folder.predictions(split).assign(fold=fold))
    if not parts["test"]:
        raise PredictionsError(
            "None of these runs has test predictions", remedy="Wait until they have completed"
        )
    tables = {split: pd.concat(tables, ignore_index=True) for split, tables in parts.items() if tables}
    repeated = tables["test"].loc[tables["test"]["image_id"].duplicated(), "image_id"]
    if len(repeated):
        raise PredictionsError(
            "Two of these runs tested the same image",
            found=f"{len(repeated)} images, for example {repeated.iloc[0]}",
            remedy="Pool the folds of one cross-validation, each fold once",
        )
    first = folders[0].config()
    config = RunConfig(
        kind="pooled",
        name=name,
        model=first.model,
        data=first.data,
        training=TrainingConfig(mode=common_mode(folders)),
        classes=first.classes,
        experiment=first.experiment,
        details={"members": [folder.id for folder in folders]},
    )
    return finished(runs, config, f"pooled_{first.model.name}", tables, worst_audit(folders))


def worst_audit(folders: Sequence[RunFolder]) -> dict[str, Any]:
    """The badge of what is made from several runs: the worst of theirs, saying whose it is."""
    audits = [(folder.name, folder.audit()) for folder in folders]
    name, worst = max(audits, key=lambda pair: LEVELS.index(pair[1].get("level", "unknown")))
    if worst.get("level") == "clean":
        return {
            "level": "clean",
            "verdict": f"Clean: no case is on two sides in any of the {len(folders)} members.",
        }
    return {**worst, "verdict": f"{worst.get('verdict', 'Unknown.')} (member {name})"}


# -- images from anywhere -------------------------------------------------------------------------


def image_files(sources: Sequence[Path]) -> list[Path]:
    """Image files, and those in folders (in order of their names).

    Raises:
        DataError: a source is not there, or there is no image in any.
    """
    found: list[Path] = []
    for source in map(Path, sources):
        if source.is_dir():
            found += sorted(
                path for path in source.rglob("*") if path.suffix.lower() in IMAGE_ENDINGS and path.is_file()
            )
        elif source.exists():
            found.append(source)
        else:
            raise DataError(
                "There is no such image or folder",
                found=str(source),
                remedy="Give the path of an image file or of a folder of them",
            )
    if not found:
        raise DataError(
            "There is no image here",
            found=", ".join(map(str, sources))[:200],
            remedy=f"Give files that end with {', '.join(IMAGE_ENDINGS)}",
        )
    return found
