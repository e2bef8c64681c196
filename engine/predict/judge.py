"""Images from anywhere, judged: predictions, calibrated, with agreement, and whether they look familiar.

Files are decoded batch by batch on all cores, each once whatever the number of members, and dropped after their
batch: memory does not grow with the number of images. Networks predict with their BatchNorms folded. For a GPU the
next batches are decoded while it works; on a CPU that would only take cores from the network. A file that cannot be
decoded is refused by name and the rest goes on; a stop keeps what was judged.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from engine.allocator import kept_memory
from engine.analysis.ensemble import Fitted
from engine.analysis.fitting import ensemble_predictions
from engine.analysis.predictions import classes_of, logits, predicted
from engine.data.files import printable
from engine.data.images import decode
from engine.data.preprocessing import Preprocessing
from engine.errors import DataError, EngineError, EnsembleError, RunError
from engine.machine import cores
from engine.predict import appearance, calibration
from engine.predict.appearance import Appearance, Look
from engine.predict.calibration import Calibration
from engine.predict.told import Told, describe
from engine.progress import Progress
from engine.runs.config import NETWORKS
from engine.runs.folder import RunFolder, locate

if TYPE_CHECKING:
    from engine.training.fusion import LoadedFusion
    from engine.training.models import LoadedModel

BATCH = 32
AHEAD_OF_GPU = 2
"""Batches."""


@dataclass(frozen=True)
class Refused:
    """A file that is not judged, and why."""

    name: str
    reason: str


@dataclass(frozen=True, eq=False)
class Judged:
    """What a run or an ensemble says about images.

    Attributes:
        table: predictions (see engine.analysis.predictions), and per image `calibrated_<class>` (the
            probabilities where they are not calibrated), `agreeing` and `members` (members that predict the
            ensemble's class), `stain_distance`, `magnification_distance` (1 = the limit) and `unlike`.
        paths: image_id -> file.
        own_colours: image_ids whose stain could not be normalised for at least one network, which therefore saw
            them in their own colours; None where no network normalises the stain.
        refused: files that were not judged.
        unfamiliar: why nothing is said about `unlike`; empty where it is.
        stopped: a stop came before the last image.
    """

    run_id: str
    table: pd.DataFrame
    paths: dict[str, Path]
    refused: tuple[Refused, ...]
    calibration: Calibration
    appearance: Appearance | None
    unfamiliar: str
    members: tuple[str, ...]
    stopped: bool = False
    own_colours: tuple[str, ...] | None = None


def judge(
    folder: RunFolder,
    paths: Sequence[Path],
    *,
    told: Told | None = None,
    progress: Progress | None = None,
    phase: Callable[[str], object] | None = None,
    stop: Callable[[], bool] | None = None,
    device: str = "auto",
) -> Judged:
    """Judge image files with a trained run, a soup, or an ensemble or a fusion of such runs.

    Args:
        paths: image files, see `engine.runs.results.image_files`.
        told: cases and labels from a CSV.
        progress: called with (done, in all), images unless `phase` just said otherwise.
        phase: called with what is being done, in words.
        stop: asked once per batch; what was judged is kept.

    Raises:
        RunError: the run has no network. EnsembleError: it was fitted anew in every fold.
        DataError: no file could be decoded (with one file, its error).
    """
    with kept_memory():
        return _judge(folder, paths, told, progress, phase or (lambda _: None), stop, device)


def _judge(
    folder: RunFolder,
    paths: Sequence[Path],
    told: Told | None,
    progress: Progress | None,
    say: Callable[[str], object],
    stop: Callable[[], bool] | None,
    device: str,
) -> Judged:
    say("Loading the model")
    leaves = judges(folder)
    models = {run_id: _load(leaf, device) for run_id, leaf in leaves.items()}
    known, unfamiliar = _appearances(leaves.values(), progress, say)
    say("Judging")
    found = _Found({run_id: [] for run_id in leaves})
    wanted = {one.key: one for one in (network.preprocessing for network in _networks(models))}
    stopped = False
    on_gpu = any(network.device.is_cuda for network in _networks(models))
    ready = _prepared(paths, wanted, bool(known), AHEAD_OF_GPU if on_gpu else 0)
    try:
        for batch in ready:
            found.add(batch, models)
            if progress:
                progress(found.seen, len(paths))
            if stop is not None and stop() and found.seen < len(paths):
                stopped = True
                break
    finally:
        ready.close()
    if not found.kept:
        if found.errors and len(paths) == 1:
            raise found.errors[0]
        raise DataError(
            "None of these files could be judged" if found.seen else "No file was judged",
            found="; ".join(str(error) for error in found.errors[:2]) or "stopped before the first batch",
            remedy="Give PNG, JPEG or TIFF images",
        )
    say("Combining")
    return _judged(folder, found, models, known, unfamiliar, told, stopped)


def judges(folder: RunFolder) -> dict[str, RunFolder]:
    """The runs that look at the images, by id: networks and fusions, itself or an ensemble's members (and theirs).

    Raises:
        RunError: there is none, or a member is gone. EnsembleError: it can only rank images of one set.
    """
    config = folder.config()
    if config.kind in (*NETWORKS, "fusion", "tta"):
        return {folder.id: folder}
    if config.kind != "ensemble":
        raise RunError(
            f"The run {folder.name} has no network",
            found=f"a run of kind {config.kind}",
            remedy="Choose a trained run, or an ensemble or fusion of trained runs",
        )
    if config.details["method"] == "rank":
        raise EnsembleError(
            f"{folder.name} cannot judge new images",
            found="a rank mean, which places images of one set beside each other: an answer would depend on what else is judged",
            remedy="Save the same members as a mean or a geometric mean",
        )
    found: dict[str, RunFolder] = {}
    for run_id in config.details["members"]:
        found |= judges(locate(folder.runs, run_id))
    return found


def _load(folder: RunFolder, device: str) -> LoadedModel | LoadedFusion:
    from engine.training.folding import folded
    from engine.training.fusion import load_fusion
    from engine.training.models import load_run_model

    def network(run: RunFolder) -> LoadedModel:
        return folded(load_run_model(run, device))

    return load_fusion(folder, load=network) if folder.config().kind == "fusion" else network(folder)


def _networks(models: dict[str, LoadedModel | LoadedFusion]) -> Iterator[LoadedModel]:
    """Every network that sees pixels."""
    for model in models.values():
        members: Any = getattr(model, "members", (model,))
        yield from members


# -- decoding -------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Ready:
    """A file as the networks take it: key of a preprocessing -> prepared pixels."""

    path: Path
    pixels: dict[str, np.ndarray] = field(default_factory=dict)
    normalised: bool = True
    look: Look | None = None
    error: DataError | None = None


def _prepare(path: Path, wanted: dict[str, Preprocessing], looked: bool) -> _Ready:
    try:
        native = decode(path)
    except DataError as error:
        return _Ready(path, error=error)
    prepared = {key: one.prepare(native) for key, one in wanted.items()}
    pixels = {key: values for key, (values, _) in prepared.items()}
    normalised = all(worked for _, worked in prepared.values())
    return _Ready(path, pixels, normalised, appearance.look(native) if looked else None)


def _prepared(
    paths: Sequence[Path], wanted: dict[str, Preprocessing], looked: bool, ahead: int
) -> Generator[list[_Ready], None, None]:
    """Batches of files in order, decoded on all cores; so many batches are begun before they are asked for."""
    rest = iter(paths)
    waiting: deque[list[Future[_Ready]]] = deque()
    with ThreadPoolExecutor(min(cores(), 8)) as pool:

        def begin() -> None:
            part = [pool.submit(_prepare, path, wanted, looked) for path in islice(rest, BATCH)]
            if part:
                waiting.append(part)

        try:
            for _ in range(ahead + 1):
                begin()
            while waiting:
                batch = [future.result() for future in waiting.popleft()]
                if ahead:
                    begin()
                yield batch
                if not ahead:
                    begin()
        finally:
            for future in (one for part in waiting for one in part):
                future.cancel()


class _Found:
    """What has been judged so far: logits per trained run, and per image what does not need a network."""

    def __init__(self, values: dict[str, list[np.ndarray]]):
        self.values = values
        self.kept: list[Path] = []
        self.normalised: list[bool] = []
        self.looks: list[Look] = []
        self.refused: list[Refused] = []
        self.errors: list[DataError] = []
        self.seen = 0

    def add(self, batch: list[_Ready], models: dict[str, LoadedModel | LoadedFusion]) -> None:
        from engine.training.evaluate import logits as forward
        from engine.training.fusion import LoadedFusion, fusion_logits

        self.seen += len(batch)
        for one in batch:
            if one.error is not None:
                self.errors.append(one.error)
                self.refused.append(Refused(printable(one.path.name), reason_of(one.error)))
        good = [one for one in batch if one.error is None]
        if not good:
            return
        self.kept += [one.path for one in good]
        self.normalised += [one.normalised for one in good]
        self.looks += [one.look for one in good if one.look is not None]

        def pixels(network: LoadedModel) -> list[np.ndarray]:
            return [one.pixels[network.preprocessing.key] for one in good]

        for run_id, model in models.items():
            if isinstance(model, LoadedFusion):
                values = fusion_logits(model, pixels)
            else:
                values = forward(model, pixels(model).__getitem__, range(len(good)), batch_size=BATCH)
            self.values[run_id].append(values)


def reason_of(error: DataError) -> str:
    """Why a file is not judged, in words that fit behind its name."""
    found = f" ({error.found.rstrip('.')})" if error.found else ""
    kinds = {
        "too_large": "too large",
        "empty": "empty",
        "truncated": "cut off",
        "damaged": "damaged",
        "mode": "of a kind of pixels for which no range is agreed",
        "unreadable": "it cannot be opened",
        "missing": "it is gone",
    }
    return f"{kinds.get(error.kind, 'no readable PNG, JPEG or TIFF')}{found}"


# -- putting together -----------------------------------------------------------------------------


def _appearances(
    leaves, progress: Progress | None, say: Callable[[str], object]
) -> tuple[list[Appearance], str]:
    """What the trained runs were trained on looks like, once per split; and why nothing is known, if so."""
    found: dict[str, Appearance] = {}
    reason = ""
    for one in leaves:
        members = one.config().details.get("members") or ()
        leaf = locate(one.runs, str(members[0])) if one.config().kind == "tta" and members else one
        key = str(leaf.record().get("split_hash") or leaf.id)
        if key in found:
            continue
        say("Looking at the training images")
        try:
            found[key] = appearance.of_run(leaf, progress)
        except EngineError as error:
            reason = reason or f"{error.message}"
    return list(found.values()), "" if found else reason


def _judged(
    folder: RunFolder,
    found: _Found,
    models: dict[str, LoadedModel | LoadedFusion],
    known: list[Appearance],
    unfamiliar: str,
    told: Told | None,
    stopped: bool,
) -> Judged:
    from engine.training.evaluate import predictions_table

    classes = next(iter(models.values())).classes
    rows = describe(found.kept, classes, told)
    tables = {
        run_id: predictions_table(rows, np.concatenate(values), models[run_id].classes)
        for run_id, values in found.values.items()
    }
    table, members = _combined(folder, tables)
    own = predicted(table)
    agreeing = np.sum([predicted(one) == own for one in members.values()], axis=0) if members else 1
    fitted = calibration.of_run(folder)
    probs = fitted.probabilities(logits(table)) if fitted.applied else None
    more = {
        f"calibrated_{name}": table[f"prob_{name}"] if probs is None else probs[:, k]
        for k, name in enumerate(classes_of(table))
    }
    table = table.assign(**more, agreeing=agreeing, members=max(1, len(members)))
    for column in ("stain_distance", "magnification_distance"):
        table[column] = np.nan
    table["unlike"] = ""
    if known:
        table = table.assign(**_unlike(known, found.looks))
    paths = dict(zip(table["image_id"], found.kept, strict=True))
    own_colours = None
    if any(network.preprocessing.stain for network in _networks(models)):
        pairs = zip(table["image_id"], found.normalised, strict=True)
        own_colours = tuple(name for name, normalised in pairs if not normalised)
    names = tuple(locate(folder.runs, run_id).name for run_id in members)
    return Judged(
        folder.id, table, paths, tuple(found.refused), fitted, known[0] if known else None, unfamiliar, names, stopped,
        own_colours,
    )  # fmt: skip


def _unlike(known: list[Appearance], looks: list[Look]) -> dict[str, Any]:
    """Distances to the training images of whichever member they are farthest from."""
    judged = [one.judge(looks) for one in known]
    stain, scale = (
        np.max([one[f"{name}_distance"] for one in judged], axis=0)
        for name in (appearance.STAIN, appearance.SCALE)
    )
    words = [
        " and ".join(name for name, value in ((appearance.STAIN, s), (appearance.SCALE, m)) if value > 1)
        for s, m in zip(stain, scale, strict=True)
    ]
    return {"stain_distance": stain, "magnification_distance": scale, "unlike": words}


def _combined(
    folder: RunFolder, tables: dict[str, pd.DataFrame]
) -> tuple[pd.DataFrame, dict[str, pd.DataFrame]]:
    """A run's table from those of its trained runs, and its members' (none for a trained run)."""
    if folder.id in tables:
        return tables[folder.id], {}
    details = folder.config().details
    fits = details.get("fits") or {}
    if fits and set(fits) != {"all"}:
        raise EnsembleError(
            "This ensemble was fitted anew in every fold",
            found=f"{len(fits)} fits",
            remedy="Save it from the runs of one fold to predict new images",
        )
    members = {run_id: _combined(locate(folder.runs, run_id), tables)[0] for run_id in details["members"]}
    table, _, _ = ensemble_predictions(
        members,
        details["method"],
        details["weights"],
        tie_rule=details.get("tie_rule", "mean-probability"),
        fitted=Fitted.from_record(fits["all"]) if fits else None,
        per_case=bool(details.get("per_case")),
    )
    order = {name: position for position, name in enumerate(next(iter(members.values()))["image_id"])}
    table = table.iloc[np.argsort([order[name] for name in table["image_id"]])].reset_index(drop=True)
    weights = dict(zip(members, details["weights"], strict=True))
    return table, {run_id: one for run_id, one in members.items() if weights[run_id] > 0}
