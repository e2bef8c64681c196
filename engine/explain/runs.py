"""Maps for a run: its model (or its members), image files in, explanations out, each made once.

What is stored is read without torch; the network is loaded only when a map is missing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from engine.data import images
from engine.data.files import printable
from engine.errors import DataError, EngineError, ExplainError
from engine.explain import methods, store
from engine.explain.ensemble_map import EnsembleMap, fuse
from engine.explain.explanation import Explanation
from engine.runs import catalog
from engine.runs.config import NETWORKS
from engine.runs.folder import RunFolder, locate

if TYPE_CHECKING:
    from engine.explain.cam import Loaded

Map = Explanation | EnsembleMap
FILES_AT_ONCE = 16
Loader = Callable[[RunFolder], "Loaded"]


@dataclass(frozen=True)
class _Question:
    """What is asked of a map; `layer` empty = the architecture's default. `keep`: store what is made."""

    method: str
    target: str | int
    layer: str
    keep: bool = True


def explain_file(
    folder: RunFolder,
    image: Path,
    *,
    method: str = methods.DEFAULT_METHOD,
    target: str | int = methods.DEFAULT_TARGET,
    layer: str | None = None,
    device: str = "cpu",
    load: Loader | None = None,
) -> Map:
    """The map of one image file by a run: a model's, or an ensemble's members' fused.

    Args:
        method, target, layer: as `cam.explain`.
        load: how to get a run's model; `load_run_model` on `device` unless given (a page gives its cache).

    Raises:
        ExplainError: no weights, no network, unknown method, target or layer.
        DataError: the image is gone or unreadable.
    """
    asked = explain_files(
        folder, [Path(image)], method=method, target=target, layer=layer, device=device, load=load
    )
    result = next(asked)[1]
    if isinstance(result, EngineError):
        raise result
    return result


def explain_files(
    folder: RunFolder,
    sources: list[Path],
    *,
    method: str = methods.DEFAULT_METHOD,
    target: str | int = methods.DEFAULT_TARGET,
    layer: str | None = None,
    device: str = "cpu",
    load: Loader | None = None,
    batch_size: int | None = None,
    keep: bool = True,
) -> Iterator[tuple[Path, Map | EngineError]]:
    """Maps of many files, in order, a few at a time; an unreadable image gives its error, not an end.

    Args:
        batch_size: inputs per pass of the network; what suits the device unless given.
        keep: store the maps in the run folder; images of new patients leave nothing there.

    Raises:
        ExplainError: what is wrong for every image (no weights, unknown method, target or layer).
    """
    load = load or _loader(device)
    question = _Question(method, target, layer or "", keep)
    for start in range(0, len(sources), FILES_AT_ONCE):
        chunk = sources[start : start + FILES_AT_ONCE]
        data = [_read(source) for source in chunk]
        good = [one for one in data if isinstance(one, bytes)]
        found = iter(_maps(folder, good, question, load, batch_size))
        for source, one in zip(chunk, data, strict=True):
            yield source, next(found) if isinstance(one, bytes) else one


def _maps(
    folder: RunFolder, data: list[bytes], question: _Question, load: Loader, batch_size: int | None
) -> list[Map] | list[Map | EngineError]:
    kind = folder.config().kind
    if kind == "fusion":
        return [*_fusion_maps(folder, data, question, load)]
    if kind in ("ensemble", "tta"):
        return [*_ensemble_maps(folder, data, question, load, batch_size)]
    return [*_model_maps(folder, data, question, load, batch_size)]


def _model_maps(
    folder: RunFolder, data: list[bytes], question: _Question, load: Loader, batch_size: int | None
) -> list[Explanation | EngineError]:
    """Maps of one trained run: stored ones read, the others made in one go and stored."""
    keys = [_key(folder, one, question) for one in data]
    found: list[Explanation | EngineError | None] = [store.find(folder, key) for key in keys]
    missing = [position for position, one in enumerate(found) if one is None]
    pixels: dict[int, np.ndarray] = {}
    for position in missing:
        try:
            pixels[position] = images.decode(data[position])
        except DataError as error:
            found[position] = error
    if pixels:
        made = _make(folder, list(pixels.values()), keys[0], load, batch_size)
        for position, one in zip(pixels, made, strict=True):
            if question.keep:
                store.save(folder, keys[position], one)
            found[position] = one
    return [one for one in found if one is not None]


def _make(
    folder: RunFolder, pixels: list[np.ndarray], key: store.Key, load: Loader, batch_size: int | None
) -> list[Explanation]:
    from engine.explain import cam

    return cam.explain(
        load(folder), pixels, method=key.method, target=key.target, layer=key.layer, batch_size=batch_size
    )


def _key(folder: RunFolder, data: bytes, question: _Question) -> store.Key:
    config = folder.config()
    if config.kind not in NETWORKS:
        raise ExplainError(
            f"The run {folder.name} has no network to explain",
            found=f"a run of kind {config.kind}",
            remedy="Choose a trained run, or an ensemble of trained runs",
        )
    architecture = catalog.find(config.model.name)
    return store.key_of(
        folder,
        data,
        method=methods.find_method(question.method).name,
        layer=question.layer or architecture.cam_layer,
        target=methods.check_target(question.target, config.classes),
    )


# --- ensembles -----------------------------------------------------------------------------------------


def _ensemble_maps(
    folder: RunFolder, data: list[bytes], question: _Question, load: Loader, batch_size: int | None
) -> list[Map | EngineError]:
    members, weights = ensemble_members(folder)
    if folder.config().kind == "tta" and len(members) == 1:  # the same weights: its one view is explained
        return [*_model_maps(members[0], data, question, load, batch_size)]
    if str(question.target).strip().lower() == methods.PREDICTED:
        return _by_prediction(folder, data, question, load, batch_size)
    per_member = [_model_maps(member, data, question, load, batch_size) for member in members]
    names = [member.id for member in members]
    results: list[Map | EngineError] = []
    for maps in zip(*per_member, strict=True):
        failed = next((one for one in maps if isinstance(one, EngineError)), None)
        good = [one for one in maps if isinstance(one, Explanation)]
        results.append(failed or fuse(good, names, weights))
    return results


def _by_prediction(
    folder: RunFolder, data: list[bytes], question: _Question, load: Loader, batch_size: int | None
) -> list[Map | EngineError]:
    """The class that the ensemble predicts, image by image: members may predict another one."""
    first = replace(question, target=folder.config().classes[-1])
    results = _ensemble_maps(folder, data, first, load, batch_size)
    for position, one in enumerate(results):
        if isinstance(one, EnsembleMap) and one.predicted != one.target:
            again = replace(question, target=one.predicted)
            results[position] = _ensemble_maps(folder, [data[position]], again, load, batch_size)[0]
    return results


def _fusion_maps(
    folder: RunFolder, data: list[bytes], question: _Question, load: Loader
) -> list[Map | EngineError]:
    """Maps of a fusion's own score; made anew each time, since they depend on all its members at once."""
    from engine.explain.fusion_map import explain_fusion
    from engine.training.fusion import load_fusion

    loaded = load_fusion(folder, load=load)  # type: ignore[arg-type]
    results: list[Map | EngineError] = []
    for one in data:
        try:
            pixels = images.decode(one)
        except DataError as error:
            results.append(error)
            continue
        found = explain_fusion(
            loaded, pixels, method=question.method, target=question.target, layer=question.layer
        )
        results.append(found)
    return results


def ensemble_members(folder: RunFolder) -> tuple[list[RunFolder], list[float]]:
    """The networks of a saved ensemble that carry weight, and their weights; ensembles in it are taken apart.

    Raises:
        ExplainError: it lists none.
        RunError: a member was deleted.
    """
    details = folder.config().details
    ids = list(details.get("members") or ())
    weights = [float(value) for value in (details.get("weights") or [1.0] * len(ids))]
    if not ids or len(ids) != len(weights):
        raise ExplainError(
            f"The ensemble {folder.name} does not say what its members are",
            found=f"{len(ids)} members, {len(weights)} weights",
            remedy="Save it again on the ensemble page",
        )
    members: list[RunFolder] = []
    kept: list[float] = []
    for run_id, weight in zip(ids, weights, strict=True):
        if weight <= 0:
            continue
        member = locate(folder.runs, run_id)
        if member.config().kind in ("ensemble", "tta"):  # an ensemble of ensembles: down to the networks
            inner, shares = ensemble_members(member)
            members += inner
            kept += [weight * share / sum(shares) for share in shares]
        else:
            members.append(member)
            kept.append(weight)
    return members, kept


def _loader(device: str) -> Loader:
    """Loads each run's model once for the length of one call."""
    known: dict[Path, Loaded] = {}

    def load(folder: RunFolder) -> Loaded:
        from engine.training.models import load_run_model

        if folder.path not in known:
            known[folder.path] = load_run_model(folder, device)
        return known[folder.path]

    return load


def _read(source: Path) -> bytes | DataError:
    try:
        data = Path(source).read_bytes()
    except OSError as error:
        return DataError(
            f"{printable(Path(source).name)} cannot be opened",
            found=error.strerror or str(error),
            remedy="Check that the data folder is still where it was",
            kind="missing" if isinstance(error, FileNotFoundError) else "unreadable",
        )
    if not data:
        return DataError(f"{printable(Path(source).name)} is empty", found="0 bytes", remedy="Copy it again")
    return data
