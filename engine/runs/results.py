"""Results that no worker makes: imports, comparisons, ensembles, pooled cross-validations, single images.

Each is a run folder like any other, so that no page needs a special case; pages and command line come
through here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pandas as pd

from engine import files
from engine.analysis.comparison import Comparison, Entry, compare
from engine.analysis.ensemble import (
    Combined,
    Fitted,
    Optimism,
    Search,
    cube,
    ensemble_predictions,
    method_of,
    search,
    search_optimism,
)
from engine.analysis.importing import read_foreign
from engine.analysis.predictions import classes_of
from engine.errors import DataError, EnsembleError, PredictionsError, RunError
from engine.runs.config import RunConfig
from engine.runs.folder import COMPLETED, RunFolder, Status, create, locate
from engine.runs.launch import enqueue
from engine.share import access

Progress = Callable[[int, int], None]
LEVELS = ("clean", "unknown", "leak")  # from best to worst
IMAGE_ENDINGS = (".png", ".jpg", ".jpeg", ".tif", ".tiff")


# -- what a run was trained on --------------------------------------------------------------------


@dataclass(frozen=True)
class TrainedOn:
    """The images and cases a run (or any member of an ensemble) learned from; `known` is False for imports."""

    images: frozenset[str]
    cases: frozenset[str]
    known: bool


def trained_on(folder: RunFolder) -> TrainedOn:
    """What a run was fitted on: its training part; of an ensemble, that of all its members."""
    config = folder.config()
    if config.kind in ("ensemble", "pooled"):
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
    return TrainedOn(frozenset(rows["image_id"]), frozenset(rows["case"]) - {""}, True)


# -- import ---------------------------------------------------------------------------------------


def import_predictions(
    sources: Sequence[Path], name: str, runs: Path, *, mapping: Mapping[str, str] | None = None
) -> RunFolder:
    """Make another tool's predictions a run (kind `import`).

    Raises:
        PredictionsError: see `engine.analysis.importing.read_foreign`.
    """
    table = read_foreign(sources, mapping)
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
    return _finished(runs, config, "import", parts, audit)


def _finished(
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

    def as_record(self) -> dict[str, Any]:
        """The document of `compare --json` and `ensemble --json`."""
        record = {**self.comparison.as_records(), "split": self.split, **self.extra}
        for run in record["runs"]:
            audit = self.audits.get(run["id"], {})
            run["leakage"] = {"level": audit.get("level", "unknown"), "verdict": audit.get("verdict", "")}
        return record

    def as_text(self) -> str:
        """The same for people: scores with intervals, matrices, leakage."""
        lines = []
        for result in self.comparison.entries:
            audit = self.audits.get(result.id, {})
            lines += [f"{result.name} ({result.id})", f"  {audit.get('verdict', '')}"]
            lines += [f"  {name:>18}  {estimate}" for name, estimate in result.scores.items()]
            for part, matrix in result.confusion.items():
                lines.append(f"  {part:>5} (rows true, columns predicted): {matrix}")
        if self.comparison.note:
            lines.append(self.comparison.note)
        names = {result.id: result.name for result in self.comparison.entries}
        for difference in self.comparison.differences:
            pair = f"{names[difference.id]} minus {names[difference.reference]}"
            lines.append(f"{pair}, {difference.score}: {difference.estimate}, p = {difference.p:.3g}")
        lines += [
            f"{key}: {value}" for key, value in self.extra.items() if isinstance(value, str | int | float)
        ]
        return "\n".join(lines)


def compare_runs(folders: Sequence[RunFolder], split: str = "test", **options: Any) -> Compared:
    """Score runs on the images all of them predicted in this split.

    Raises:
        RunError: one has no such predictions. PredictionsError: see `engine.analysis.comparison.align`.
    """
    _distinct(folders)
    result = compare([entry(folder, split) for folder in folders], **options)
    return Compared(result, {folder.id: folder.audit() for folder in folders}, split)


def _distinct(folders: Sequence[RunFolder]) -> None:
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
        classes=first.classes,
        details={"members": [folder.id for folder in folders]},
    )
    return _finished(runs, config, f"pooled_{first.model.name}", tables, worst_audit(folders))


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


# -- ensembles ------------------------------------------------------------------------------------

MAX_LISTED = 5000


@dataclass(frozen=True)
class Seen:
    """What the members of an ensemble were trained on, among the images to be scored.

    `images` are never scored; `cases` raise the leakage badge; `unknown` members tell nothing.
    """

    images: frozenset[str]
    cases: frozenset[str]
    unknown: tuple[str, ...]


def seen_by(members: Sequence[RunFolder], tables: Mapping[str, pd.DataFrame]) -> Seen:
    """Judge every image to be scored by what each member learned from."""
    learned = {folder.id: trained_on(folder) for folder in members}
    scored_images = frozenset().union(*(set(table["image_id"]) for table in tables.values()))
    scored_cases = frozenset().union(*(set(table["case"]) for table in tables.values())) - {""}
    return Seen(
        scored_images.intersection(*[frozenset().union(*(one.images for one in learned.values()))]),
        scored_cases.intersection(*[frozenset().union(*(one.cases for one in learned.values()))]),
        tuple(folder.name for folder in members if not learned[folder.id].known),
    )


def ensemble_audit(members: Sequence[RunFolder], seen: Seen) -> dict[str, Any]:
    """The leakage badge of an ensemble: by what is scored, then the worst of its members'."""
    if seen.cases:
        cases = sorted(seen.cases)
        return {
            "level": "leak",
            "verdict": f"Leaks: members were trained on {len(cases)} of the cases they are scored on, among them {', '.join(cases[:3])}.",
            "seen_cases": cases,
        }
    return worst_audit(members)


@dataclass(frozen=True, eq=False)
class Ensemble:
    """An ensemble of stored predictions in one split, before it is saved or compared."""

    table: pd.DataFrame
    combined: Combined
    fits: dict[str, Fitted]
    excluded: int
    audit: dict[str, Any]


def combine_runs(
    members: Sequence[RunFolder],
    method: str = "mean",
    weights: Sequence[float] | None = None,
    *,
    split: str = "test",
    tie_rule: str = "mean-probability",
) -> Ensemble:
    """Combine the stored predictions of runs.

    An image that any member was trained on is left out; `excluded` counts them.

    Raises:
        EnsembleError, PredictionsError, RunError: members that do not fit together, or lack predictions.
    """
    if not members:
        raise EnsembleError("An ensemble needs members", remedy="Choose at least one checkpoint")
    _distinct(members)
    tables = {folder.id: folder.predictions(split) for folder in members}
    validation = None
    if method_of(method).fitted:
        validation = {folder.id: folder.predictions("val") for folder in members}
    seen = seen_by(members, tables)
    table, combined, fits = ensemble_predictions(
        tables, method, weights, tie_rule=tie_rule, validation=validation, exclude=seen.images
    )
    return Ensemble(table, combined, fits, len(seen.images), ensemble_audit(members, seen))


def ensemble_runs(
    members: Sequence[RunFolder],
    method: str = "mean",
    *,
    weights: Sequence[float] | None = None,
    split: str = "test",
    name: str | None = None,
    runs: Path | None = None,
    tie_rule: str = "mean-probability",
) -> Compared:
    """Members in order and their ensemble last, compared; with a name it is also saved as a run.

    Raises:
        EnsembleError, PredictionsError, RunError: see `combine_runs`.
    """
    made = combine_runs(members, method, weights, split=split, tie_rule=tie_rule)
    saved = (
        save_ensemble(members, method, name, runs or members[0].runs, weights=weights, tie_rule=tie_rule)
        if name
        else None
    )
    label = name or f"{method_of(method).title} of {len(members)}"
    own = Entry(saved.id if saved else "ensemble", label, made.table)
    scored = set(made.table["image_id"])
    entries = [entry(folder, split) for folder in members]
    entries = [
        replace(one, predictions=one.predictions[one.predictions["image_id"].isin(scored)]) for one in entries
    ]
    audits = {folder.id: folder.audit() for folder in members} | {own.id: made.audit}
    extra: dict[str, Any] = {
        "method": method,
        "weights": [float(value) for value in made.combined.weights],
        "ties": made.combined.ties,
        "excluded": made.excluded,
    }
    if saved:
        extra["id"] = saved.id
    return Compared(compare([*entries, own], reference=entries[0].id), audits, split, extra)


def save_ensemble(
    members: Sequence[RunFolder],
    method: str,
    name: str,
    runs: Path,
    *,
    weights: Sequence[float] | None = None,
    tie_rule: str = "mean-probability",
    notes: Mapping[str, Any] | None = None,
) -> RunFolder:
    """Save an ensemble as a run (kind `ensemble`): members, weights, fit and predictions; no copies of weights.

    Args:
        notes: what is to be remembered of how it was found (a search, say).
    """
    parts = {
        split: combine_runs(members, method, weights, split=split, tie_rule=tie_rule)
        for split in ("val", "test")
        if all(split in folder.predicted_splits() for folder in members)
    }
    if not parts:
        raise EnsembleError(
            "The members have no split in common that can be saved",
            found="; ".join(
                f"{folder.name}: {', '.join(folder.predicted_splits()) or 'none'}" for folder in members[:4]
            ),
            remedy="Choose members that have completed",
        )
    last = parts.get("test") or parts["val"]
    first = members[0].config()
    details = {
        "members": [folder.id for folder in members],
        "method": method,
        "weights": [float(value) for value in last.combined.weights],
        "tie_rule": tie_rule,
        "fits": {key: fit.as_record() for key, fit in last.fits.items()},
        "excluded": {split: part.excluded for split, part in parts.items()},
        **(notes or {}),
    }
    config = RunConfig(
        kind="ensemble", name=name, data=first.data, classes=classes_of(last.table), details=details
    )
    return _finished(
        runs, config, f"ensemble_{method}", {split: part.table for split, part in parts.items()}, last.audit
    )


def start_fusion(members: Sequence[RunFolder], name: str, runs: Path, *, as_study: bool = False) -> RunFolder:
    """Queue a CNN-MLP fusion of trained runs of one split (kind `fusion`).

    Raises:
        EnsembleError: fewer than two members, or members that are no trained runs.
    """
    access.require_editor("launch runs")
    if len(members) < 2:
        raise EnsembleError(
            "A fusion needs at least two members", found=str(len(members)), remedy="Choose more runs"
        )
    _distinct(members)
    untrained = [folder.name for folder in members if folder.config().kind != "train"]
    if untrained:
        raise EnsembleError(
            "Only trained runs can be fused", found=", ".join(untrained), remedy="Leave the others out"
        )
    first = members[0].config()
    details = {"members": [folder.id for folder in members], "as_study": as_study}
    config = replace(first, kind="fusion", name=name, parent="", experiment="", details=details)
    record = members[0].record()
    folder = create(
        runs,
        config,
        "fusion",
        manifest=members[0].manifest(),
        audit=worst_audit(members),
        split_hash=str(record.get("split_hash", "")),
    )
    enqueue(folder)
    return folder


@dataclass(frozen=True)
class Searched:
    """A search over all subsets, ranked on validation; the best one compared with its members."""

    search: Search
    best: Compared
    optimism: Optimism | None
    names: Mapping[str, str]

    def as_record(self) -> dict[str, Any]:
        """The document of `ensemble --search --json`."""
        record = {
            **self.best.as_record(),
            "tried": self.search.tried,
            "search": self.search.records(MAX_LISTED),
        }
        if self.optimism:
            record["optimism"] = {
                "apparent": self.optimism.apparent,
                "nested": self.optimism.nested,
                "optimism": self.optimism.optimism,
            }
        return record

    def as_text(self) -> str:
        lines = [
            f"{self.search.tried:,} combinations tried, ranked by balanced accuracy on validation (n = {self.search.n:,} images, {self.search.n_cases} cases):"
        ]
        for rank, row in enumerate(self.search.records(10), 1):
            lines.append(
                f"{rank:>3}. {row['score']:.4f}  {row['method']:<6} {', '.join(self.names[run_id] for run_id in row['members'])}"
            )
        if self.optimism:
            lines.append(str(self.optimism))
        return "\n".join([*lines, "", f"The first of them on {self.best.split}:", self.best.as_text()])


def search_ensembles(
    members: Sequence[RunFolder],
    *,
    max_size: int | None = None,
    reveal: bool = False,
    methods: Sequence[str] = ("mean", "vote"),
    progress: Progress | None = None,
) -> Searched:
    """Rank all subsets on validation; test stays covered unless `reveal`.

    Raises:
        EnsembleError: too many members, or none that fit together. RunError: one has no validation predictions.
    """
    _distinct(members)
    tables = {folder.id: folder.predictions("val") for folder in members}
    seen = seen_by(members, tables)
    held = cube(tables)
    held = held.take(~held.frame["image_id"].isin(seen.images).to_numpy())
    found = search(
        held,
        methods,
        max_size,
        progress=(lambda share: progress(round(share * 1000), 1000)) if progress else None,
    )
    by_id = {folder.id: folder for folder in members}
    best = [by_id[run_id] for run_id in found.members()]
    compared = ensemble_runs(best, found.methods[int(found.method[0])], split="test" if reveal else "val")
    try:
        optimism = search_optimism(held, methods, max_size)
    except EnsembleError:  # too few cases to search on some and judge on others: then nothing is claimed
        optimism = None
    return Searched(found, compared, optimism, {folder.id: folder.name for folder in members})


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


def predict_images(
    folder: RunFolder, sources: Sequence[Path], *, progress: Progress | None = None, device: str = "cpu"
) -> pd.DataFrame:
    """Predict images with a trained run, or with an ensemble of trained runs.

    Returns:
        A table of predictions (see engine.analysis.predictions).

    Raises:
        DataError: an image that cannot be read. RunError: the run has no network.
    """
    paths = image_files(sources)
    config = folder.config()
    if config.kind == "train":
        from engine.training.evaluate import predict_images as predict
        from engine.training.models import load_run_model

        return predict(load_run_model(folder, device), paths, progress)
    if config.kind != "ensemble":
        raise RunError(
            f"The run {folder.name} has no network",
            found=f"a run of kind {config.kind}",
            remedy="Choose a trained run, or an ensemble of trained runs",
        )
    details = config.details
    fits = details.get("fits") or {}
    if fits and set(fits) != {"all"}:
        raise EnsembleError(
            "This ensemble was fitted anew in every fold",
            found=f"{len(fits)} fits",
            remedy="Save it from the runs of one fold to predict new images",
        )
    members = [locate(folder.runs, run_id) for run_id in details["members"]]
    tables = {}
    for position, member in enumerate(members):
        step = _share_of(progress, position, len(members))
        tables[member.id] = predict_images(member, paths, progress=step, device=device)
    fitted = Fitted.from_record(fits["all"]) if fits else None
    table, _, _ = ensemble_predictions(
        tables,
        details["method"],
        details["weights"],
        tie_rule=details.get("tie_rule", "mean-probability"),
        fitted=fitted,
    )
    return table


def _share_of(progress: Progress | None, position: int, members: int) -> Progress | None:
    """The progress of one member as a part of the whole."""
    if progress is None:
        return None
    return lambda done, total: progress(position * total + done, members * total)


def explain_image(
    folder: RunFolder,
    image: Path,
    *,
    method: str = "gradcam",
    target: str = "malignant",
    layer: str | None = None,
    out: Path,
    raw: Path | None = None,
    device: str = "cpu",
) -> dict[str, Any]:
    """Write the overlay of one image at native pixels, and with `raw` the signed map on the layer's grid.

    Raises:
        ExplainError, DataError, RunError: see `engine.explain.runs.explain_file`.
    """
    import numpy as np
    from PIL import Image

    from engine.data.images import decode
    from engine.explain.overlay import overlay
    from engine.explain.runs import explain_file

    found = explain_file(folder, image, method=method, target=target, layer=layer, device=device)
    pixels = decode(Path(image))
    files.replace_file(
        out, lambda file: Image.fromarray(overlay(pixels, found.heat)).save(file, format="PNG")
    )
    if raw is not None:
        values = getattr(found, "raw", found.heat)
        files.replace_file(raw, lambda file: np.save(file, np.asarray(values, dtype=np.float32)))
    return {
        "id": folder.id,
        "image": Path(image).name,
        "method": method,
        "target": found.target,
        "predicted": found.predicted,
        "probability": float(found.probabilities[found.classes.index(found.predicted)]),
        "probabilities": {
            name: float(value) for name, value in zip(found.classes, found.probabilities, strict=True)
        },
        "out": str(out),
        "raw": str(raw) if raw else None,
    }
