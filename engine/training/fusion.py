"""CNN-MLP fusion: frozen members' pooled features, concatenated, into a small network.

As the study ran it, the MLP is fitted on the validation split, which had chosen its members' checkpoints, and
watched on the test split. The corrected variant fits it on the training images and picks its epoch on
validation; test is looked at once. Its weakness is said openly: the members have seen the training images, so
their features look better there than they are.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from engine.analysis.predictions import confusion
from engine.data import cache
from engine.data.augment import sample_seed
from engine.errors import WeightsError
from engine.runs.folder import RunFolder, locate
from engine.runs.joining import check_members
from engine.runs.reporter import Reporter
from engine.runs.status import COMPLETED, STOPPED
from engine.training import checkpoint, failures
from engine.training.device import Device, choose, make_deterministic
from engine.training.evaluate import logits, predictions_table, scores
from engine.training.frozen import Backbone
from engine.training.loading import batches
from engine.training.loop import StopRequested
from engine.training.models import LoadedModel, load_run_model
from engine.training.parts import Part, parts_of
from engine.training.tally import Tally

HIDDEN = (128, 32)
DROPOUT = 0.2
EPOCHS = 40
BATCH = 16
RATE = 1e-3
FEATURE_SHARE = 0.9
"""Of the progress bar: the features cost minutes, the MLP seconds."""
PROCESSOR = Device(torch.device("cpu"))
"""Where the MLP trains: its features are in memory already, and a step takes less than a copy to a GPU."""


@dataclass(frozen=True)
class Fitted:
    """What is fitted on which images: positions into the parts of the manifest."""

    fit: str
    watch: str
    picks: bool
    predict: tuple[str, ...]


AS_STUDY = Fitted(fit="val", watch="test", picks=False, predict=("test",))
CORRECTED = Fitted(fit="train", watch="val", picks=True, predict=("val", "test"))


def build_mlp(inputs: int, classes: int = 2) -> nn.Sequential:
    """The study's fusion network: BN, dropout 0.2, dense 128, BN, dropout, dense 32, BN, dropout, dense.

    Args:
        inputs: features of all members together (7,296 for the study's V1 family, 6,784 for V2).
    """
    layers: list[nn.Module] = []
    width = inputs
    for hidden in HIDDEN:
        layers += [
            _norm(width),
            nn.Dropout(DROPOUT),
            nn.Linear(width, hidden),
            nn.ReLU(),
        ]
        width = hidden
    layers += [_norm(width), nn.Dropout(DROPOUT), nn.Linear(width, classes)]
    for layer in layers:
        if isinstance(layer, nn.Linear):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)
    return nn.Sequential(*layers)


def _norm(width: int) -> nn.BatchNorm1d:
    """With Keras' defaults, which the study used; its momentum 0.99 is 0.01 in torch."""
    return nn.BatchNorm1d(width, eps=1e-3, momentum=0.01)


def train_fusion(folder: RunFolder, report: Reporter) -> str:
    """Train the fusion of trained runs; `config.details` = {members: [ids], as_study: bool}, optionally
    epochs (40) and batch_size (16).

    A run that was interrupted starts the MLP again from its seed, on the features it has kept: the same bits.

    Returns:
        `completed` or `stopped`.

    Raises:
        EnsembleError: the members do not fit together, or saw images in training that would be scored.
        EngineError: as `engine.training.loop.train`.
    """
    fusion: Fusion | None = None
    try:
        fusion = Fusion(folder, report)
        fusion.run()
    except StopRequested:
        return STOPPED
    except Exception as error:
        where = fusion.where if fusion else "before the first step"
        failure = failures.translate(error, None, where)
        if failure is None or failure is error:
            raise
        raise failure from error
    return COMPLETED


class Fusion:
    """One fusion being trained."""

    def __init__(self, folder: RunFolder, report: Reporter):
        self.folder, self.report = folder, report
        self.config = folder.config()
        self.where = "before the first step"
        details = self.config.details
        self.plan = AS_STUDY if details.get("as_study") else CORRECTED
        self.members = [locate(folder.runs, run_id) for run_id in details.get("members") or []]
        self.manifest = folder.manifest()
        self.parts = parts_of(self.manifest)
        self.seed = self.config.training.seed
        # Not `config.training`: that is the members', which the launcher hands on with their data and seed.
        self.epochs = int(details.get("epochs") or EPOCHS)
        self.batch = int(details.get("batch_size") or BATCH)
        report.status = replace(report.status, epochs=self.epochs)
        check_members(self.members, self.manifest)
        make_deterministic(self.config.training.mode == "exact")

    def run(self) -> None:
        features = self._features()
        torch.manual_seed(self.seed)
        mlp = build_mlp(features.shape[1], len(self.manifest.classes))
        self._fit(mlp, features)
        self._predict(mlp, features)

    # -- features -----------------------------------------------------------------------------

    def _features(self) -> torch.Tensor:
        """Features of every image of the manifest, members side by side: (images, features)."""
        stored = self.folder.path / "features.safetensors"
        ids = [member.id for member in self.members]
        if stored.is_file():
            state, facts = checkpoint.load_weights(stored)
            if facts.get("members") == ids:
                return state["features"]
        blocks = [self._of_member(number, member) for number, member in enumerate(self.members)]
        features = torch.from_numpy(np.concatenate(blocks, axis=1)).float()
        checkpoint.save_weights(stored, {"features": features}, {"members": ids})
        return features

    def _of_member(self, number: int, member: RunFolder) -> np.ndarray:
        self.where = f"the features of {member.name}"
        loaded = load_run_model(member, str(choose(self.config.training.device, "fp32").torch))
        packed = cache.pack(self.manifest, loaded.preprocessing, say=print)
        if not packed.readable.all():
            self.parts = parts_of(self.manifest, packed.readable)
        eye = replace(loaded, model=Backbone(loaded.model).eval())

        def progress(done: int, total: int) -> None:
            share = FEATURE_SHARE * (number + done / total) / len(self.members)
            self._say(f"Features of {member.name}", share, step=done, steps=total)

        used = np.flatnonzero(packed.readable)
        values = logits(eye, lambda row: packed[row], used.tolist(), progress=progress)
        features = np.zeros((len(self.manifest), values.shape[1]))  # 0 for an image that cannot be decoded
        features[used] = values
        return features

    # -- the MLP ------------------------------------------------------------------------------

    def _fit(self, mlp: nn.Sequential, features: torch.Tensor) -> None:
        fit, watch = self.parts[self.plan.fit], self.parts[self.plan.watch]
        optimizer = torch.optim.Adam(mlp.parameters(), lr=RATE, eps=1e-7)
        # Keras counts patience 1 as one epoch without gain, torch calls that patience 0.
        schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(
            optimizer, factor=0.5, patience=0, threshold=1e-4, threshold_mode="abs"
        )
        best = -1.0
        for epoch in range(1, self.epochs + 1):
            rate = optimizer.param_groups[0]["lr"]
            tally = self._epoch(mlp, features, fit, epoch, optimizer)
            schedule.step(tally.loss / tally.images)
            row = scores(self._logits(mlp, features, watch), watch.targets)
            self.report.metrics({"epoch": epoch, "split": "train", **tally.row(), "lr": rate})
            self.report.metrics({"epoch": epoch, "split": self.plan.watch, **row, "lr": rate})
            # Nothing is picked on the test split that the study watched: its last epoch counts.
            value = row["balanced_accuracy"] if self.plan.picks else float(epoch)
            if value > best:
                best = value
                self._keep(mlp, epoch, row["balanced_accuracy"])

    def _epoch(self, mlp: nn.Sequential, features: torch.Tensor, part: Part, epoch: int, optimizer) -> Tally:
        mlp.train()
        tally, began = Tally.of(len(self.manifest.classes)), time.perf_counter()
        order = np.random.default_rng([self.seed, epoch]).permutation(len(part))
        wanted = batches(order, epoch, self.batch)
        for step, batch in enumerate(wanted):
            self.where = f"epoch {epoch}, step {step + 1}"
            PROCESSOR.seed(sample_seed(self.seed, -1 - epoch, step))
            rows = list(batch.rows)
            targets = torch.from_numpy(part.targets[rows])
            outputs = mlp(features[part.rows[rows]])
            loss = functional.cross_entropy(outputs, targets)
            if not torch.isfinite(loss):
                raise failures.not_a_number(epoch, step + 1)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            tally.loss += float(loss.detach()) * len(rows)
            tally.images += len(rows)
            tally.matrix += confusion(
                part.targets[rows], outputs.detach().argmax(1).numpy(), len(tally.matrix)
            )
            share = FEATURE_SHARE + (1 - FEATURE_SHARE) * (epoch - 1 + step / len(wanted)) / self.epochs
            self._say("Training", share, epoch=epoch, step=step + 1, steps=len(wanted))
        tally.seconds = time.perf_counter() - began
        return tally

    def _logits(self, mlp: nn.Sequential, features: torch.Tensor, part: Part) -> np.ndarray:
        mlp.eval()
        with torch.inference_mode():
            return mlp(features[part.rows]).numpy().astype(np.float64)

    def _keep(self, mlp: nn.Sequential, epoch: int, value: float) -> None:
        facts = {
            "fusion": [member.id for member in self.members],
            "classes": list(self.manifest.classes),
            "epoch": epoch,
            "as_study": not self.plan.picks,
        }
        checkpoint.save_weights(self.folder.best, mlp.state_dict(), facts)
        if self.plan.picks:
            self.report.best("balanced_accuracy", value, epoch)

    def _predict(self, mlp: nn.Sequential, features: torch.Tensor) -> None:
        state, _ = checkpoint.load_weights(self.folder.best)
        mlp.load_state_dict(state)
        for name in self.plan.predict:
            part = self.parts[name]
            if len(part):
                rows = self.manifest.table.iloc[part.rows].reset_index(drop=True)
                values = self._logits(mlp, features, part)
                self.folder.write_predictions(name, predictions_table(rows, values, self.manifest.classes))

    def _say(self, phase: str, share: float, **where: int) -> None:
        self.report.progress(phase, share, **where)
        if self.report.stop_requested():
            raise StopRequested


# -- a finished fusion --------------------------------------------------------------------------------


@dataclass(frozen=True)
class LoadedFusion:
    """A fusion ready to predict: its members' networks, in order, and the MLP on their features."""

    ids: tuple[str, ...]
    members: tuple[LoadedModel, ...]
    mlp: nn.Sequential
    classes: tuple[str, ...]


def load_fusion(
    folder: RunFolder, device: str = "cpu", load: Callable[[RunFolder], LoadedModel] | None = None
) -> LoadedFusion:
    """The MLP of a fusion, verified, and its members' networks, in eval mode.

    Args:
        load: how to get a member's network; `load_run_model` on `device` unless given.

    Raises:
        WeightsError: no checkpoint yet, or one that is damaged.
        RunError: a member was deleted.
    """
    if not folder.best.is_file():
        raise WeightsError(
            f"The fusion {folder.name} has no checkpoint",
            found=f"state {folder.state()}",
            remedy="Wait until it has completed, or resume it",
            kind="missing",
        )
    state, facts = checkpoint.load_weights(folder.best)
    ids = tuple(map(str, facts.get("fusion") or ()))
    if not ids or "classes" not in facts:
        raise WeightsError(
            f"The checkpoint of {folder.name} is not a fusion's",
            remedy="Fuse its members again",
            kind="shape",
        )
    found = [locate(folder.runs, run_id) for run_id in ids]
    members = [load(one) if load else load_run_model(one, device) for one in found]
    mlp = build_mlp(int(state["0.weight"].shape[0]), len(facts["classes"]))
    mlp.load_state_dict(state)
    return LoadedFusion(ids, tuple(members), mlp.eval(), tuple(facts["classes"]))


def fusion_logits(loaded: LoadedFusion, pixels: Callable[[LoadedModel], Sequence[np.ndarray]]) -> np.ndarray:
    """Logits of a fusion for a batch of images, float64 (images, classes).

    The members see the images one after another, so that one network's activations are in memory at a time.

    Args:
        pixels: a member -> the images as its preprocessing prepares them.
    """
    blocks = []
    for member in loaded.members:
        prepared = pixels(member)
        eye = replace(member, model=Backbone(member.model).eval())
        blocks.append(logits(eye, prepared.__getitem__, range(len(prepared))))
    with torch.inference_mode():
        values = loaded.mlp(torch.from_numpy(np.concatenate(blocks, axis=1)).float())
    return values.numpy().astype(np.float64)
