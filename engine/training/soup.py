"""A soup: the weights of several checkpoints averaged into one network, which costs no more than one of them.

It works for fine-tunings of one architecture that began from the same pretrained weights (Wortsman et al.,
Model soups, ICML 2022). `uniform` averages all of them. `greedy` begins with the best on validation and takes
a member in only where validation does not get worse; so its validation score is one that was chosen on.

Also here: a trained run predicted again with test-time augmentation (the mean logit of the four flips), which
uses the run's own weights and copies none.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from timm.layers.drop import DropPath
from torch.optim.swa_utils import update_bn

from engine.analysis import metrics
from engine.data import cache
from engine.data.manifest import Manifest
from engine.errors import EnsembleError
from engine.runs.folder import RunFolder, locate
from engine.runs.joining import check_members, check_same_start
from engine.runs.reporter import Reporter
from engine.runs.status import COMPLETED, STOPPED
from engine.training import checkpoint, failures
from engine.training.device import choose, make_deterministic
from engine.training.evaluate import logits, predictions_table, scores
from engine.training.loop import StopRequested
from engine.training.models import LoadedModel, load_run_model
from engine.training.parts import Part, parts_of

BATCH = 32
State = dict[str, torch.Tensor]


def make_soup(folder: RunFolder, report: Reporter) -> str:
    """Average the members' weights; `config.details` = {members: [ids], recipe: uniform or greedy}.

    Returns:
        `completed` or `stopped`.

    Raises:
        EnsembleError: members that cannot be averaged (see `check_same_start`).
        EngineError: as `engine.training.loop.train`.
    """
    return _run(Soup, folder, report)


def predict_flipped(folder: RunFolder, report: Reporter) -> str:
    """Predict a trained run's validation and test images again, with the mean logit of the four flips.

    `config.details` = {members: [id]}. Returns and raises as `make_soup`.
    """
    return _run(Flipped, folder, report)


def average(states: Sequence[State]) -> State:
    """The mean of state dicts; counters (integers) take the greatest."""
    mean: State = {}
    for name, first in states[0].items():
        stack = torch.stack([state[name] for state in states])
        mean[name] = (
            stack.double().mean(dim=0).to(first.dtype) if first.is_floating_point() else stack.amax(dim=0)
        )
    return mean


def _run(job: type[_Job], folder: RunFolder, report: Reporter) -> str:
    made = None
    try:
        made = job(folder, report)
        made.run()
    except StopRequested:
        return STOPPED
    except Exception as error:
        failure = failures.translate(error, None, made.where if made else "before the first image")
        if failure is None or failure is error:
            raise
        raise failure from error
    return COMPLETED


@dataclass(frozen=True)
class _Share:
    """From where to where a step moves the progress bar."""

    start: float
    end: float


class _Job:
    """What both have in common: members of one split, packed pixels, predictions of validation and test."""

    def __init__(self, folder: RunFolder, report: Reporter):
        self.folder, self.report = folder, report
        self.config = folder.config()
        self.where = "before the first image"
        details = self.config.details
        self.members = [locate(folder.runs, run_id) for run_id in details.get("members") or []]
        self.manifest: Manifest = folder.manifest()
        self.parts = parts_of(self.manifest)
        make_deterministic(self.config.training.mode == "exact")
        self.device = choose(self.config.training.device, "fp32").torch.type

    def run(self) -> None:
        raise NotImplementedError

    def _pack(self, loaded: LoadedModel) -> cache.PackedImages:
        def progress(done: int, total: int) -> None:
            self._say("Packing images", _Share(0.0, 0.0), done, total)

        return cache.pack(self.manifest, loaded.preprocessing, progress=progress, say=print)

    def _logits(
        self, loaded: LoadedModel, packed: cache.PackedImages, part: Part, phase: str, share: _Share
    ) -> np.ndarray:
        self.where = phase.lower()
        return logits(
            loaded,
            lambda row: packed[int(row)],
            part.rows.tolist(),
            batch_size=BATCH,
            progress=lambda done, total: self._say(phase, share, done, total),
        )

    def _predict(self, loaded: LoadedModel, packed: cache.PackedImages, share: _Share) -> None:
        names = [name for name in ("val", "test") if len(self.parts[name])]
        total = sum(len(self.parts[name]) for name in names)
        done = 0
        for name in names:
            part = self.parts[name]
            ends = [share.start + (share.end - share.start) * n / total for n in (done, done + len(part))]
            values = self._logits(loaded, packed, part, f"Predicting {name}", _Share(*ends))
            rows = self.manifest.table.iloc[part.rows].reset_index(drop=True)
            self.folder.write_predictions(name, predictions_table(rows, values, self.manifest.classes))
            done += len(part)

    def _say(self, phase: str, share: _Share, done: int, total: int) -> None:
        fraction = share.start + (share.end - share.start) * done / max(total, 1)
        self.report.progress(phase, fraction, step=done, steps=total)
        if self.report.stop_requested():
            raise StopRequested


class Flipped(_Job):
    """A trained run, predicted again with flips."""

    def run(self) -> None:
        loaded = replace(load_run_model(self.members[0], self.device), tta=True)
        self._predict(loaded, self._pack(loaded), _Share(0.0, 1.0))


class Soup(_Job):
    """A soup being made."""

    def __init__(self, folder: RunFolder, report: Reporter):
        super().__init__(folder, report)
        check_members(self.members, self.manifest)
        check_same_start([(member.name, member.config()) for member in self.members], self.manifest.classes)
        self.greedy = self.config.details.get("recipe") == "greedy"

    def run(self) -> None:
        loaded = [load_run_model(member, self.device) for member in self.members]
        states = [dict(one.model.state_dict()) for one in loaded]
        first = loaded[0]
        keys = {one.preprocessing.key for one in loaded}
        if len(keys) > 1:  # the stain reference is an image of the training part, so it can differ
            raise EnsembleError(
                "Weights can only be averaged where images are prepared alike",
                found="; ".join(sorted(keys)),
                remedy="Choose runs of one split and one stain normalisation, or take the mean of their probabilities",
            )
        packed = self._pack(first)
        used = self._choose(first, states, packed) if self.greedy else list(range(len(states)))
        self._fill(first, [states[k] for k in used], packed, _Share(0.6, 0.8))
        facts = {**first.facts(), "soup": [self.members[k].id for k in used]}
        checkpoint.save_weights(self.folder.best, first.model.state_dict(), facts)
        self._predict(first, packed, _Share(0.8, 1.0))
        self._remember(used)

    def _choose(self, eye: LoadedModel, states: list[State], packed: cache.PackedImages) -> list[int]:
        """Greedy: the members taken in, best on validation first."""
        part = self.parts["val"]
        steps = 2 * len(states) - 1

        def judged(chosen: list[int], step: int) -> float:
            share = _Share(0.6 * step / steps, 0.6 * (step + 1) / steps)
            self._fill(eye, [states[k] for k in chosen], packed, _Share(share.start, share.start))
            names = " + ".join(self.members[k].name for k in chosen)
            row = scores(self._logits(eye, packed, part, f"Judging {names}", share), part.targets)
            self.report.metrics({"epoch": step + 1, "split": "val", **row})
            return row["balanced_accuracy"]

        single = [judged([k], k) for k in range(len(states))]
        order = sorted(range(len(states)), key=lambda k: (-single[k], k))
        used, best = [order[0]], single[order[0]]
        for step, k in enumerate(order[1:], len(states)):
            value = judged([*used, k], step)
            if value >= best:
                used, best = [*used, k], value
        return used

    def _fill(self, eye: LoadedModel, states: list[State], packed: cache.PackedImages, share: _Share) -> None:
        """The mean of these weights into the network; with BatchNorm statistics of its own where they differ."""
        eye.model.load_state_dict(average(states))
        if len(states) > 1 and _statistics_differ(states):
            self._renew_statistics(eye, packed, share)
        eye.model.eval()

    def _renew_statistics(self, eye: LoadedModel, packed: cache.PackedImages, share: _Share) -> None:
        """BatchNorm's running mean and variance belong to the weights: measured anew on the training images."""
        rows = self.parts["train"].rows.tolist()

        def stream():
            for start in range(0, len(rows), BATCH):
                views = [eye.preprocessing.views(packed[int(row)]) for row in rows[start : start + BATCH]]
                self._say("Statistics of the averaged network", share, start, len(rows))
                yield eye.normalise(torch.from_numpy(np.concatenate(views)))

        for module in eye.model.modules():
            if isinstance(module, DropPath):
                module.drop_prob = 0.0  # statistics of the whole network, not of a random part of it
        update_bn(stream(), eye.model)

    def _remember(self, used: list[int]) -> None:
        part = self.parts["val"]
        if not len(part):
            return
        table = self.folder.predictions("val")
        row = {
            name: metrics.value(name, metrics.outcome(table))
            for name in ("accuracy", "balanced_accuracy", "auroc")
        }
        steps = 2 * len(self.members) if self.greedy else 1
        self.report.metrics({"epoch": steps, "split": "val", "members": len(used), **row})
        self.report.best("balanced_accuracy", row["balanced_accuracy"], steps)


def _statistics_differ(states: Sequence[State]) -> bool:
    names = [name for name in states[0] if name.endswith(("running_mean", "running_var"))]
    return any(not torch.equal(states[0][name], state[name]) for name in names for state in states[1:])
