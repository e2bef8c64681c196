"""What a report says, gathered once as data: the HTML file, the PDF and a frozen view are skins of it.

Runs that were tested on the same images form a group and are compared with each other; runs of different
folds are not. Nothing is computed here that `engine.analysis` does not compute: this module reads, asks
and arranges.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from engine.analysis import intervals
from engine.analysis.comparison import Comparison, Entry, compare, opinions
from engine.analysis.intervals import Estimate
from engine.analysis.metrics import DEFAULT_SCORES
from engine.data.images import encode_jpeg
from engine.data.manifest import SPLITS, order_magnifications
from engine.errors import EngineError, ShareError
from engine.progress import Progress
from engine.report.colours import run_colours
from engine.runs import catalog
from engine.runs.config import NETWORKS
from engine.runs.folder import RunFolder
from engine.runs.provenance import provenance

QUESTION = (
    "Can these models tell benign from malignant breast tumours on images of patients they have not seen?"
)
HEADLINE = "balanced_accuracy"
ERROR_ROWS = 20
MAX_RUNS = 40
PICTURE_WIDTH = 320


@dataclass(frozen=True, eq=False)
class RunPart:
    """One run as the report shows it. `table` are its predictions for the reported split."""

    id: str
    name: str
    kind: str
    model: str
    config: dict[str, Any]
    audit: dict[str, Any]
    split_hash: str
    provenance: dict[str, Any]
    created_at: float
    best: dict[str, Any] | None
    notes: str
    metrics: pd.DataFrame
    table: pd.DataFrame
    weights_sha: str = ""

    @property
    def members(self) -> list[str]:
        return [str(member) for member in self.config.get("details", {}).get("members", ())]


@dataclass(frozen=True, eq=False)
class Group:
    """Runs tested on the same images. `by_power`: run id -> (magnification, headline score) in order."""

    comparison: Comparison
    by_power: dict[str, list[tuple[str, Estimate]]]

    @property
    def ids(self) -> list[str]:
        return [entry.id for entry in self.comparison.entries]


@dataclass(frozen=True, eq=False)
class Flow:
    """How one split divides its images. `counts`: side -> class -> (images, cases, slides)."""

    split_hash: str
    protocol: str
    fold: int
    seed: int
    root: str
    audit: dict[str, Any]
    runs: tuple[str, ...]
    counts: dict[str, dict[str, tuple[int, int, int]]]
    unused: int = 0

    def total(self, side: str | None = None) -> tuple[int, int]:
        """(images, images of the last class) of a side, or of all sides."""
        sides = [side] if side else list(self.counts)
        per_class = [self.counts[name] for name in sides if name in self.counts]
        last = [list(classes.values())[-1][0] for classes in per_class if classes]
        return sum(images for classes in per_class for images, _, _ in classes.values()), sum(last)


@dataclass(frozen=True, eq=False)
class Picture:
    """An image with what the runs said: `verdicts` (run name, predicted, probability of it), pictures as JPEG."""

    image_id: str
    case: str
    magnification: str
    label: str
    verdicts: tuple[tuple[str, str, float], ...]
    image: bytes
    overlays: tuple[tuple[str, bytes], ...] = ()


@dataclass(frozen=True, eq=False)
class Contents:
    """Everything a report shows."""

    title: str
    author: str
    question: str
    note: str
    created_at: float
    split: str
    classes: tuple[str, ...]
    runs: tuple[RunPart, ...]
    groups: tuple[Group, ...]
    flows: tuple[Flow, ...]
    errors: pd.DataFrame
    pictures: tuple[Picture, ...]
    versions: dict[str, Any]
    skipped: tuple[str, ...] = ()
    names: dict[str, str] = field(default_factory=dict)
    """Run id -> the name it is shown under."""
    colours: dict[str, str] = field(default_factory=dict)
    """Run id -> the colour that the run has on the pages."""

    def run(self, run_id: str) -> RunPart:
        return next(run for run in self.runs if run.id == run_id)

    @property
    def worst_audit(self) -> dict[str, Any]:
        """The verdict that stands first: the worst of all runs."""
        return leakage_of(self.runs)


def leakage_of(runs: Iterable[RunPart]) -> dict[str, Any]:
    """One verdict for several runs: the worst, saying whose it is."""
    runs = list(runs)
    for level in ("leak", "unknown"):
        found = [run for run in runs if run.audit.get("level", "unknown") == level]
        if found:
            names = ", ".join(run.name for run in found[:4]) + (" ..." if len(found) > 4 else "")
            text = f"{found[0].audit.get('verdict', 'Unknown.')} This holds for {len(found)} of {len(runs)} runs: {names}."
            return {"level": level, "verdict": text}
    count = f"any of the {len(runs)} runs" if len(runs) > 1 else "the split"
    return {"level": "clean", "verdict": f"Clean: no case is on two sides of the split of {count}."
            if len(runs) > 1 else str(runs[0].audit.get("verdict", "Clean."))}  # fmt: skip


# -- gather ---------------------------------------------------------------------------------------


def collect(
    folders: Sequence[RunFolder],
    *,
    title: str,
    author: str = "",
    question: str = QUESTION,
    note: str = "",
    split: str = "test",
    draws: int = intervals.DRAWS,
    pictures: int = 12,
    progress: Progress | None = None,
) -> Contents:
    """Read runs and score them.

    Args:
        folders: the runs, in the order they are shown; the first of each group is the reference.
        split: whose predictions are reported.
        pictures: at most so many images with their maps; 0 = none (a report without patients' images).
        progress: called with (steps done, steps).

    Raises:
        ShareError: no run, too many, a run twice, or none has predictions for the split.
        RunError, PredictionsError: a run cannot be read or scored.
    """
    _check(folders)
    steps = _Steps(progress, total=3 * len(folders) + 2)
    parts, skipped = [], []
    for folder in folders:
        if split in folder.predicted_splits():
            parts.append(_run_part(folder, split))
        else:
            skipped.append(f"{folder.name}: no predictions for {split} (state {folder.state()})")
        steps.done()
    if not parts:
        raise ShareError(
            f"None of these runs has predictions for {split}",
            found="; ".join(skipped[:3]),
            remedy="Wait until they have completed, or report another split",
        )
    groups = [_group(members, draws, steps) for members in _same_images(parts)]
    flows = _flows(folders)
    steps.done()
    shown = _pictures(parts, groups, {folder.id: folder for folder in folders}, pictures)
    steps.finish()
    first = parts[0]
    return Contents(
        title.strip()[:200] or "Report",
        author.strip()[:120],
        question.strip()[:2000] or QUESTION,
        note.strip()[:8000],
        time.time(),
        split,
        tuple(first.config.get("classes") or ("benign", "malignant")),
        tuple(parts),
        tuple(groups),
        tuple(flows),
        _errors(groups),
        shown,
        provenance(),
        tuple(skipped),
        told_apart(parts),
        run_colours(folders[0].runs, [part.id for part in parts]),
    )


class _Steps:
    """Counts what is done for the progress callback."""

    def __init__(self, progress: Progress | None, total: int):
        self.progress, self.total, self.count = progress, total, 0

    def done(self, steps: int = 1) -> None:
        self.count = min(self.count + steps, self.total)
        if self.progress:
            self.progress(self.count, self.total)

    def finish(self) -> None:
        self.done(self.total)


def _check(folders: Sequence[RunFolder]) -> None:
    ids = [folder.id for folder in folders]
    if not ids:
        raise ShareError("A report needs at least one run", remedy="Choose runs")
    if len(ids) > MAX_RUNS:
        raise ShareError("Too many runs for one report", found=str(len(ids)), remedy=f"At most {MAX_RUNS}")
    if len(set(ids)) < len(ids):
        raise ShareError("The same run is named twice", remedy="Name every run once")


def told_apart(parts: Sequence[RunPart]) -> dict[str, str]:
    """Run id -> its name, with the end of the id where another run has the same name."""
    names = [part.name for part in parts]
    return {
        part.id: f"{part.name} ({part.id[-4:]})" if names.count(part.name) > 1 else part.name
        for part in parts
    }


def _run_part(folder: RunFolder, split: str) -> RunPart:
    record, label = folder.record(), folder.label()
    config = folder.config()
    return RunPart(
        folder.id,
        label["name"],
        config.kind,
        _model_label(config.kind, config.model.name),
        record,
        folder.audit(),
        str(record.get("split_hash") or ""),
        dict(record.get("provenance") or {}),
        float(record.get("created_at") or 0.0),
        folder.status().best,
        label["notes"],
        folder.metrics(),
        folder.predictions(split),
    )


def _model_label(kind: str, name: str) -> str:
    if kind == "ensemble":
        return "Ensemble"
    if kind == "import":
        return "Imported predictions"
    with contextlib.suppress(EngineError):
        return catalog.find(name).label
    return name


def _same_images(parts: Sequence[RunPart]) -> list[list[RunPart]]:
    """Runs tested on the same images together, in order of first appearance."""
    groups: dict[frozenset[str], list[RunPart]] = {}
    for part in parts:
        folds = (
            part.table["fold"].astype(str) if "fold" in part.table else pd.Series("", index=part.table.index)
        )
        groups.setdefault(frozenset(part.table["image_id"] + "\t" + folds), []).append(part)
    return list(groups.values())


def _group(members: Sequence[RunPart], draws: int, steps: _Steps) -> Group:
    entries = [Entry(part.id, part.name, part.table, part.config) for part in members]
    comparison = compare(entries, names=DEFAULT_SCORES, draws=draws)
    steps.done(len(members))
    by_power = {}
    for part in members:
        by_power[part.id] = [
            (row["slice"], row[HEADLINE])
            for row in intervals.estimate_table(
                part.table, [HEADLINE], by="magnification", draws=draws
            ).to_dict("records")
        ]
        steps.done()
    return Group(comparison, by_power)


def _flows(folders: Sequence[RunFolder]) -> list[Flow]:
    """One flow per split; imports and ensembles have no manifest of their own."""
    found: dict[str, Flow] = {}
    for folder in folders:
        if not (folder.path / "manifest.csv").is_file():
            continue
        record = folder.record()
        key = str(record.get("split_hash") or folder.id)
        if key in found:
            known = found[key]
            found[key] = Flow(**{**known.__dict__, "runs": (*known.runs, folder.name)})
            continue
        manifest = folder.manifest()
        data = folder.config().data
        counts = {
            side: {
                label: _sizes(manifest.table, side, label) for label in manifest.classes
            }
            for side in SPLITS
        }  # fmt: skip
        used = manifest.table["split"].isin(SPLITS) if "split" in manifest.table else pd.Series(dtype=bool)
        found[key] = Flow(
            key, data.protocol, data.fold, data.split_seed, Path(data.root).name, folder.audit(),
            (folder.name,), counts, int((~used).sum()),
        )  # fmt: skip
    return list(found.values())


def _sizes(table: pd.DataFrame, side: str, label: str) -> tuple[int, int, int]:
    rows = table[(table["split"] == side) & (table["label"] == label)]
    cases, slides = set(rows["case"]) - {""}, set(rows["slide"]) - {""}
    return len(rows), len(cases), len(slides)


# -- errors ---------------------------------------------------------------------------------------


def _errors(groups: Sequence[Group]) -> pd.DataFrame:
    """Images that most runs get wrong, the surest mistakes first: a row per image and group."""
    rows = [table for group in groups if not (table := group_errors(group)).empty]
    return pd.concat(rows, ignore_index=True) if rows else pd.DataFrame()


def group_errors(group: Group, limit: int = ERROR_ROWS) -> pd.DataFrame:
    """`image_id, case, slide, magnification, subtype, label, wrong, of, confidence` of a group's mistakes.

    confidence: mean probability that the runs which are wrong give to the wrong class.
    """
    table = opinions(group.comparison.aligned)
    table = table[table["label"].isin(group.comparison.aligned.classes)].reset_index(drop=True)
    ids = group.ids
    right = np.column_stack([table[f"right_{name}"].to_numpy(dtype=bool) for name in ids])
    sure = np.column_stack([table[f"confidence_{name}"].to_numpy(dtype=float) for name in ids])
    wrong = (~right).sum(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        confidence = np.where(wrong > 0, (sure * ~right).sum(axis=1) / np.maximum(wrong, 1), np.nan)
    kept = table[["image_id", "case", "slide", "magnification", "subtype", "label"]].assign(
        wrong=wrong, of=len(ids), confidence=confidence
    )
    kept = kept[kept["wrong"] > 0].sort_values(["wrong", "confidence"], ascending=False)
    return kept.head(limit).reset_index(drop=True)


def case_errors(group: Group) -> pd.DataFrame:
    """`case, label, images, wrong, of`: mistakes per case over all runs of a group, the worst first."""
    table = opinions(group.comparison.aligned)
    table = table[(table["case"] != "") & table["label"].isin(group.comparison.aligned.classes)]
    if table.empty:
        return pd.DataFrame()
    runs = len(group.ids)
    found = (
        table.assign(wrong=runs - table["n_right"])
        .groupby(["case", "label"], as_index=False)
        .agg(images=("image_id", "size"), wrong=("wrong", "sum"))
    )
    found["of"] = found["images"] * runs
    found = found[found["wrong"] > 0]
    return found.sort_values("wrong", ascending=False).reset_index(drop=True)


# -- pictures -------------------------------------------------------------------------------------


def _pictures(
    parts: Sequence[RunPart], groups: Sequence[Group], folders: dict[str, RunFolder], limit: int
) -> tuple[Picture, ...]:
    """Images of mistakes whose files are at hand, with the maps that the run folders hold.

    The best network of each group makes the maps that are missing; ten runs' would take minutes.
    """
    if limit <= 0:
        return ()
    shown: list[Picture] = []
    for group in groups:
        paths = _image_paths([folders[run_id] for run_id in group.ids])
        wanted = group_errors(group, limit * 2)
        at_hand = [paths[name] for name in wanted["image_id"] if name in paths][: limit - len(shown)]
        _make_maps(group, folders, at_hand)
        for row in wanted.to_dict("records"):
            if len(shown) >= limit:
                return tuple(shown)
            path = paths.get(row["image_id"])
            if path is None:
                continue
            with contextlib.suppress(EngineError, OSError):
                shown.append(_picture({str(key): value for key, value in row.items()}, path, group, folders))
    return tuple(shown)


def _make_maps(group: Group, folders: dict[str, RunFolder], paths: list[Path]) -> None:
    """The default map of these images by the best network of a group, stored in its folder."""
    able = [
        entry
        for entry in group.comparison.entries
        if folders[entry.id].config().kind in NETWORKS and folders[entry.id].best.is_file()
    ]
    if not able or not paths:
        return
    from engine.explain.runs import explain_files

    best = max(able, key=lambda entry: np.nan_to_num(entry.scores[HEADLINE].value))
    with contextlib.suppress(EngineError, OSError):
        for _ in explain_files(folders[best.id], paths):
            pass


def _image_paths(folders: Sequence[RunFolder]) -> dict[str, Path]:
    """image_id -> file, for images that are still where the runs found them."""
    for folder in folders:
        with contextlib.suppress(EngineError, OSError):
            manifest = folder.manifest()
            first = manifest.table["path"].iloc[:1]
            if len(first) and manifest.absolute(first.iloc[0]).is_file():
                return {
                    image_id: manifest.absolute(path)
                    for image_id, path in zip(manifest.table["image_id"], manifest.table["path"], strict=True)
                }
    return {}


def _picture(
    row: dict[str, Any], path: Path, group: Group, folders: dict[str, RunFolder]
) -> Picture:  # fmt: skip
    from engine.data import images

    pixels = images.decode(path)
    verdicts, overlays = [], []
    aligned = group.comparison.aligned
    for entry in group.comparison.entries:
        table = aligned.tables[entry.id]
        found = table[table["image_id"] == row["image_id"]].iloc[0]
        values = {name: float(found[f"prob_{name}"]) for name in aligned.classes}
        guess = max(values, key=lambda name: values[name])
        verdicts.append((entry.name, guess, values[guess]))
        overlays += [(entry.name, picture) for picture in _cached_overlay(folders[entry.id], path, pixels)]
    return Picture(
        row["image_id"], row["case"], row["magnification"], row["label"], tuple(verdicts), encode_jpeg(pixels, PICTURE_WIDTH),
        tuple(overlays[:6]),
    )  # fmt: skip


def _cached_overlay(folder: RunFolder, path: Path, pixels: np.ndarray) -> Iterator[bytes]:
    """The default map of an image, if the run folder holds it."""
    from engine.explain.overlay import overlay
    from engine.explain.runs import explain_file

    if not (folder.path / "maps").is_dir() and folder.config().kind != "ensemble":
        return
    with contextlib.suppress(EngineError, OSError):
        found = explain_file(folder, path, load=_no_network)
        yield encode_jpeg(overlay(pixels, found.heat), PICTURE_WIDTH)


def _no_network(folder: RunFolder) -> Any:
    raise ShareError("This map was not made yet", found=folder.id)


# -- tables that several skins share --------------------------------------------------------------


def powers(group: Group) -> list[str]:
    """The magnifications of a group's images, in order."""
    return list(order_magnifications(group.comparison.aligned.frame["magnification"].unique()))


def predictions_table(contents: Contents) -> pd.DataFrame:
    """All predictions in one table: image columns, then `<prob_class> <run name>` of the last class per run.

    With more than two classes, every class per run. Probabilities at six digits.
    """
    base: pd.DataFrame | None = None
    for part in contents.runs:
        keys = ["image_id", *(["fold"] if "fold" in part.table else [])]
        names = [name for name in part.table.columns if name.startswith("prob_")]
        names = names[-1:] if len(names) == 2 else names
        own = part.table[[*keys, *names]].round(6)
        own = own.rename(columns={name: f"{name} {contents.names[part.id]}" for name in names})
        columns = ["case", "slide", "magnification", "subtype", "label"]
        known = part.table[[*keys, *columns]]
        if base is None:
            base = known.merge(own, on=keys)
        else:
            shared = [key for key in keys if key in base.columns]
            base = base.merge(own, on=shared, how="outer")
            missing = known[~known["image_id"].isin(base.loc[base["label"].notna(), "image_id"])]
            if len(missing):
                filled = base.set_index("image_id")
                filled.update(missing.drop_duplicates("image_id").set_index("image_id")[columns])
                base = filled.reset_index()
    assert base is not None  # `collect` refuses an empty report
    return base


def scores_table(contents: Contents) -> pd.DataFrame:
    """Every score as numbers: `group, run, id, score, value, low, high, n_images, n_cases, method, warning`."""
    rows = []
    for number, group in enumerate(contents.groups, start=1):
        for entry in group.comparison.entries:
            for score, estimate in entry.scores.items():
                rows.append(
                    {"group": number, "run": contents.names[entry.id], "id": entry.id, "score": score}
                    | estimate.as_record()
                )
    return pd.DataFrame(rows)
