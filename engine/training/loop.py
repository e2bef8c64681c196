"""One training run: from a run folder with a configuration and a split to weights, metrics and predictions.

Everything random is a function of (seed, epoch, step, image), and a checkpoint holds the rest, so that a run
that was killed anywhere ends with the same bits as one that was not (`exact` mode, same machine).
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import nn

from engine.analysis import metrics
from engine.analysis.predictions import confusion, softmax
from engine.data.augment import sample_seed
from engine.data.manifest import SPLITS, Manifest
from engine.data.preprocessing import Preprocessing
from engine.errors import SplitError, WeightsError
from engine.runs import catalog, presets
from engine.runs.config import RunConfig
from engine.runs.folder import RunFolder
from engine.runs.presets import Recipe, Stage
from engine.runs.reporter import Reporter
from engine.runs.status import COMPLETED, STOPPED
from engine.training import checkpoint, distributed, failures, frozen, models, objective, pixels
from engine.training.device import Device, choose, make_deterministic
from engine.training.evaluate import logits, predictions_table
from engine.training.loading import Batch, Loader, TrainingImages, Waiting, batches, order
from engine.training.models import LoadedModel

STATE_SCHEMA = 1
SAVE_EVERY_S = 600.0
"""Within an epoch a checkpoint is written this often, so that a kill costs ten minutes at most."""
STEP_STREAM = -1
"""The `epoch` that seeds of steps (dropout, mixing) are drawn from; epochs of images count from 0."""
SETTLE_EVERY = 16
"""A GPU runs ahead of the program; reading a loss makes it wait, so that is done every so many steps."""
TRAIN_COST = 3.0
"""A training step costs about three forward passes; only the shape of the progress bar depends on it."""


class StopRequested(Exception):  # noqa: N818 - a request, not an error
    """Raised between two steps when a stop was asked for; the state has been written."""


def train(folder: RunFolder, report: Reporter) -> str:
    """Train a run, or go on with it where its last checkpoint stands.

    Args:
        folder: holds `config.json` and `manifest.csv` with its split; the caller holds the lock.
        report: progress, metrics and the request to stop.

    Returns:
        `completed`, or `stopped` (checkpoint written, resumable).

    Raises:
        EngineError: the run failed; kind and remedy say how.
    """
    recipe: Recipe | None = None
    fit: Fit | None = None
    try:
        config = folder.config()
        recipe = presets.resolve(config)
        fit = Fit(folder, report, config, recipe)
        fit.run()
    except StopRequested:
        return STOPPED
    except Exception as error:
        failure = failures.translate(error, recipe, fit.where if fit else "before the first step")
        if (
            fit is not None
            and failure is not None
            and failure.kind == "loader"
            and fit.group.world == 1
            and report.stop_requested()
        ):
            # A stop that was sent to a whole group of processes ends the loader processes at once. What this
            # one was in the middle of is unknown, so that nothing is written.
            print(
                "Stopped together with its loader processes; resume goes on from the last checkpoint.",
                flush=True,
            )
            return STOPPED
        if failure is None or failure is error:
            raise
        raise failure from error
    finally:
        if fit is not None:
            fit.close()
    return COMPLETED


@dataclass
class Tally:
    """What an epoch's training steps add up to; part of the checkpoint."""

    matrix: np.ndarray
    loss: float = 0.0
    images: int = 0
    seconds: float = 0.0
    waiting: float = 0.0

    @classmethod
    def of(cls, classes: int) -> Tally:
        """Nothing yet; `matrix` counts (classes, classes), rows true, columns predicted."""
        return cls(np.zeros((classes, classes), dtype=np.int64))

    def to_state(self) -> dict:
        state = {"loss": self.loss, "images": self.images, "seconds": self.seconds, "waiting": self.waiting}
        return {**state, "matrix": self.matrix.tolist()}

    @classmethod
    def from_state(cls, state: dict) -> Tally:
        return cls(**{**state, "matrix": np.array(state["matrix"], dtype=np.int64)})

    def row(self) -> dict[str, float]:
        """The epoch's numbers as `metrics.jsonl` has them."""
        return {
            "loss": self.loss / self.images,
            "accuracy": float(metrics.accuracy(self.matrix)),
            "balanced_accuracy": float(metrics.balanced_accuracy(self.matrix)),
            "seconds": round(self.seconds, 3),
            "images_per_s": round(self.images / max(self.seconds, 1e-9), 2),
            "wait_share": round(self.waiting / max(self.seconds, 1e-9), 4),
        }


class Work:
    """How much of the run is done, in forward passes of one image."""

    def __init__(self, total: float, done: float = 0.0):
        self.total, self.done = total, done

    @property
    def fraction(self) -> float:
        return min(self.done / self.total, 1.0)


@dataclass(frozen=True)
class Part:
    """The rows of one split: positions in the manifest, and class indices."""

    rows: np.ndarray
    targets: np.ndarray

    def __len__(self) -> int:
        return len(self.rows)


def parts_of(manifest: Manifest, used: np.ndarray | None = None) -> dict[str, Part]:
    """Rows and class indices per split.

    Args:
        used: which rows count, bool; all of them unless given.

    Raises:
        SplitError: no split, or train or validation lacks a class.
    """
    table = manifest.table
    if "split" not in table.columns:
        raise SplitError("The manifest has no split", remedy="Write it with `python -m engine split`")
    index = {name: at for at, name in enumerate(manifest.classes)}
    found = {}
    for name in SPLITS:
        here = (table["split"] == name).to_numpy()
        rows = np.flatnonzero(here if used is None else here & used)
        targets = np.array([index.get(label, -1) for label in table["label"].iloc[rows]], dtype=np.int64)
        found[name] = Part(rows[targets >= 0], targets[targets >= 0])
    for name in ("train", "val"):
        absent = [label for label, at in index.items() if not (found[name].targets == at).any()]
        if absent:
            raise SplitError(
                f"The {name} part has no image of class {' and '.join(absent)}",
                found=f"{len(found[name])} images in {name}",
                remedy="Choose another fold or protocol, or more magnifications",
            )
    return found


class Fit:
    """One run being trained. `run` is the order of things; everything else is one thing each."""

    def __init__(self, folder: RunFolder, report: Reporter, config: RunConfig, recipe: Recipe):
        self.folder, self.report, self.config, self.recipe = folder, report, config, recipe
        self.where = "before the first step"
        self.group = distributed.join(config.training.device)
        self.beside = ExitStack()
        self.beside.callback(self.group.leave)
        given = config.training
        self.device: Device = choose(distributed.local_device(given.device), given.precision)
        report.status = replace(report.status, epochs=recipe.epochs)
        make_deterministic(recipe.mode == "exact")
        self.manifest = folder.manifest()
        self.parts = parts_of(self.manifest)
        self.loaded = self._network()
        self.model: nn.Module = self.loaded.model
        self.forward: Callable[[torch.Tensor], torch.Tensor] = self.model
        self.loss = self._loss()
        self.mixer = objective.mixer(recipe, len(self.manifest.classes))
        self.optimizer: torch.optim.Optimizer | None = None
        self.ema = None
        self.scaler = torch.amp.GradScaler(self.device.torch.type, enabled=self.device.scaled)
        self.cached: frozen.CachedFeatures | None = None
        # The place in the run, all of it in the checkpoint.
        self.epoch, self.step, self.stage_at = 1, 0, -1
        self.best: dict | None = None
        self.stale = 0
        self.tally = Tally.of(len(self.manifest.classes))
        self.saved_at = time.monotonic()
        self.step_seconds: list[float] = []
        self.unsettled: list[tuple[int, torch.Tensor, torch.Tensor]] = []

    # -- the order of things ------------------------------------------------------------------

    def run(self) -> None:
        """Pack, train stage by stage, then predict with the best checkpoint.

        Raises:
            StopRequested: the state is written.
        """
        state = self._resume_state()
        self._pack()
        self.work = Work(self._total_work(), self._work_before())
        while self.epoch <= self.recipe.epochs and not self._is_exhausted():
            self._enter_stage(state)
            state = None
            self._train_epoch()
            self._validate_epoch()
        self._predict()

    def close(self) -> None:
        """End what runs beside this process: its loader processes, and its part in a group."""
        self.beside.close()

    def _is_exhausted(self) -> bool:
        """Early stopping: validation has not improved for `patience` epochs."""
        return bool(self.recipe.patience) and self.stale >= self.recipe.patience

    # -- building -----------------------------------------------------------------------------

    def _loss(self) -> objective.Loss:
        counts = np.bincount(self.parts["train"].targets, minlength=len(self.manifest.classes))
        return objective.loss_per_image(self.recipe, counts, self.device.torch)

    def _network(self) -> LoadedModel:
        given = self.config.model
        record = catalog.find(given.name)
        geometry = given.geometry or self.recipe.geometry
        size = given.image_size or record.input_size(geometry)
        torch.manual_seed(self.recipe.seed)
        self.report.progress("Loading the network", 0.0)
        model = models.build(
            record, len(self.manifest.classes), given.pretrained, dropout=given.dropout, image_size=size
        )
        model = self.group.synchronise_batchnorm(model, self.device)
        mean, std = models.statistics(model, given.pretrained)
        model.to(device=self.device.torch, memory_format=torch.channels_last)  # type: ignore[call-overload]
        return LoadedModel(
            model,
            record,
            self.manifest.classes,
            mean,
            std,
            self._preprocessing(size, geometry),
            self.device,
            self.recipe.tta,
        )

    def _preprocessing(self, size: int, geometry: str) -> Preprocessing:
        given = self.config.model
        if given.stain != "none":
            self.report.progress("Choosing the stain reference", 0.0)
        return pixels.preprocessing_of(
            self.folder,
            self.manifest,
            size,
            geometry,
            self.recipe.interpolation,
            given.stain,
        )

    def _pack(self) -> None:
        def packed(done: int, total: int) -> None:
            self.report.progress("Packing images", 0.0, step=done, steps=total)
            if self.report.stop_requested():
                raise StopRequested

        self.packed, used = pixels.packed_of(
            self.folder, self.manifest, self.loaded.preprocessing, packed, writes=self.report.writes
        )
        if not used.all():
            self.parts = parts_of(self.manifest, used)
            self.loss = self._loss()
        self._make_loader()

    def _make_loader(self) -> None:
        train, given = self.parts["train"], self.config.training
        images = TrainingImages(
            self.packed,
            train.rows,
            train.targets,
            self.recipe.augmentation,
            self.loaded.image_size,
            self.loaded.geometry,
            self.recipe.seed,
        )
        self.loader = Loader(images, self.device, given.workers)
        self.beside.callback(self.loader.close)
        table = self.manifest.table.iloc[train.rows]
        self.strata = (table["label"] + "/" + table["magnification"]).to_numpy(dtype=str)

    def _fetch(self, row: int) -> np.ndarray:
        return self.packed[int(row)]

    def _enter_stage(self, state: dict | None) -> None:
        """Freeze, and make the optimizer of the epoch's stage; with a checkpoint's state, go on with its own."""
        position, stage = self.recipe.stage_of(self.epoch)
        if position == self.stage_at:
            return
        self.stage_at = position
        models.set_trainable(
            self.model, self.loaded.architecture, stage.trainable, self.recipe.freeze_batchnorm
        )
        self.optimizer = objective.optimizer(self.model, self.recipe, stage)
        self.ema = objective.moving_average(self.model, self.recipe)
        self.cached = self._cache_features(stage) if stage.views else None
        self.forward = self._forward_of(stage)
        if state and state["stage"] == position and state["optimizer"]:
            self.optimizer.load_state_dict(state["optimizer"])
            self.scaler.load_state_dict(state["scaler"])
            if self.ema is not None and state["ema"]:
                self.ema.module.load_state_dict(state["ema"])

    def _forward_of(self, stage: Stage) -> Callable[[torch.Tensor], torch.Tensor]:
        if stage.views:
            return lambda feature: frozen.head_logits(self.model, feature, self.config.model.dropout)
        network = self.group.wrap(self.model, self.device)
        if self.config.training.compile:
            network = self._compiled(network)
        return lambda images: network(self.loaded.normalise(images))

    def _compiled(self, plain: nn.Module) -> Callable[[torch.Tensor], torch.Tensor]:
        """torch.compile, and the plain network where compiling fails."""
        compiled = torch.compile(plain)

        def forward(pixels: torch.Tensor) -> torch.Tensor:
            nonlocal compiled
            try:
                return compiled(pixels)
            except Exception as error:
                if compiled is plain or failures.translate(error, self.recipe, self.where):
                    raise
                print(f"torch.compile failed, going on without: {str(error).splitlines()[0]}", flush=True)
                compiled = plain
                return plain(pixels)

        return forward

    def _cache_features(self, stage: Stage) -> frozen.CachedFeatures:
        total = stage.views * len(self.parts["train"]) + len(self.parts["val"])
        seen, began = 0, time.perf_counter()

        def progress(images: int) -> None:
            nonlocal seen
            seen += images
            self._advance(images * self._views_per_image(), "Computing features", seen, total, began)

        self.model.eval()
        return frozen.compute(
            self.loaded,
            self.loader,
            self._fetch,
            self.parts["val"].rows,
            stage.views,
            self.recipe.batch_size,
            progress,
        )

    # -- one epoch ----------------------------------------------------------------------------

    def _train_epoch(self) -> None:
        """The steps of an epoch that have not been made yet."""
        _, stage = self.recipe.stage_of(self.epoch)
        models.train_mode(self.model, stage.trainable, self.recipe.freeze_batchnorm)
        groups = self._groups(self.epoch)
        mine = [self._own(batch, stage) for group in groups[self.step :] for batch in group]
        source = Waiting(
            self.cached.serve(mine) if self.cached else self.loader.serve(mine, self._next_epoch(stage))
        )
        began = time.perf_counter()
        waited = 0.0
        while self.step < len(groups):
            group = groups[self.step]
            self.where = f"epoch {self.epoch}, step {self.step + 1}"
            rate = self._update(
                source, sum(len(batch.rows) for batch in group), len(group), stage, len(groups)
            )
            self.step += 1
            now = time.perf_counter()
            self.tally.seconds += now - began
            self.step_seconds.append(now - began)
            self.tally.waiting += source.seconds - waited
            began, waited = now, source.seconds
            self._after_step(len(groups), rate, sum(len(batch.rows) for batch in group), stage)

    def _groups(self, epoch: int) -> list[list[Batch]]:
        """The batches of each update of an epoch, of all processes together."""
        rows = order(self.recipe.seed, epoch, self.strata, self.recipe.sampling)
        wanted = batches(rows, epoch, self.recipe.batch_size, max(2, self.group.world))
        size = self.recipe.accumulate
        return [wanted[start : start + size] for start in range(0, len(wanted), size)]

    def _next_epoch(self, stage: Stage) -> list[Batch]:
        """What this process will train on after the epoch at hand, where the stage goes on."""
        epoch = self.epoch + 1
        if epoch > self.recipe.epochs or self.recipe.stage_of(epoch)[1] is not stage:
            return []
        return [self._own(batch, stage) for group in self._groups(epoch) for batch in group]

    def _own(self, batch: Batch, stage: Stage) -> Batch:
        """This process' images of a batch; the head on cached features is trained by every process alike."""
        return batch if stage.views else Batch(batch.epoch, tuple(self.group.share(batch.rows)))

    def _update(
        self, source: Iterator, images: int, parts: int, stage: Stage, updates_per_epoch: int
    ) -> float:
        """One update of the weights from `parts` batches of together `images` images; returns the rate."""
        assert self.optimizer is not None
        update = (self.epoch - self.recipe.first_epoch(self.stage_at)) * updates_per_epoch + self.step
        rate = objective.set_rates(self.optimizer, update, stage.epochs * updates_per_epoch, stage)
        self._seed_step()
        for _ in range(parts):
            pixels, targets = next(source)
            targets = targets.to(self.device.torch, non_blocking=True)
            self._backward(pixels, targets, images, stage)
        last = self.step + 1 == updates_per_epoch
        if last or not self.device.is_cuda or self.step % SETTLE_EVERY == SETTLE_EVERY - 1:
            self._settle()
        self.scaler.unscale_(self.optimizer)
        if self.recipe.clip:
            trained = [p for group in self.optimizer.param_groups for p in group["params"]]
            torch.nn.utils.clip_grad_norm_(trained, self.recipe.clip)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        if self.ema is not None:
            self.ema.update(self.model, step=update)
        return rate

    def _settle(self) -> None:
        """Read the losses and counts of the steps since the last time into the tally.

        Raises:
            TrainingError: a loss is no number; the tally and the last checkpoint are from before.
        """
        losses = torch.stack([loss for _, loss, _ in self.unsettled]).tolist() if self.unsettled else []
        finite = np.isfinite(losses)
        (broken,) = self.group.any(not finite.all())
        if broken:
            steps = [step for step, _, _ in self.unsettled]
            raise failures.not_a_number(self.epoch, steps[int(np.argmin(finite))])
        size = len(self.tally.matrix)
        for loss, (_, _, counts) in zip(losses, self.unsettled, strict=True):
            self.tally.loss += loss  # one by one: the sum does not depend on when it is read
            self.tally.matrix += counts.cpu().numpy().reshape(size, size)
        self.unsettled.clear()

    def _backward(self, pixels: torch.Tensor, targets: torch.Tensor, images: int, stage: Stage) -> None:
        """Add the gradient of one batch, as its share of the update's `images`."""
        mixed = targets
        if self.mixer is not None and not stage.views and len(pixels) % 2 == 0:
            mixed_pixels, mixed = self.mixer(pixels.to(self.device.torch).float(), targets)
            pixels = mixed_pixels.round_().to(torch.uint8)
        with self.device.forward_context():
            outputs = self.forward(pixels)
            each = self.loss(outputs.float(), mixed)
        loss = each.sum()
        # The processes' gradients are averaged, but each has only its part of the update's images.
        share = 1 if stage.views else self.group.world
        self.scaler.scale(loss * share / images).backward()
        classes = outputs.shape[1]
        # Not bincount: on a GPU it waits for the numbers to learn how many bins there are.
        cells = targets * classes + outputs.detach().argmax(1)
        counts = (cells[:, None] == torch.arange(classes**2, device=cells.device)).sum(0)
        self.unsettled.append((self.step + 1, loss.detach(), counts))
        self.tally.images += len(targets)

    def _seed_step(self) -> None:
        """Dropout, stochastic depth and mixing of this step, whatever was drawn before."""
        stream = self.step + self.group.rank * 1_000_000_007  # other images, other dropout
        seed = sample_seed(self.recipe.seed, STEP_STREAM - self.epoch, stream)
        self.device.seed(seed)
        if self.mixer is not None:
            np.random.seed(seed % 2**32)  # timm draws from numpy's global state

    def _after_step(self, steps: int, rate: float, images: int, stage: Stage) -> None:
        """Progress, the checkpoint that is due, the stop that was asked for."""
        tally = self.tally
        self.work.done += images * (0.01 if stage.views else TRAIN_COST)
        self.report.progress(
            "Training",
            self.work.fraction,
            epoch=self.epoch,
            step=self.step,
            steps=steps,
            loss=tally.loss / max(tally.images, 1),
            lr=rate,
            images_per_s=tally.images / max(tally.seconds, 1e-9),
            wait_share=tally.waiting / max(tally.seconds, 1e-9),
            memory_mb=self.device.memory_mb() if self.step % 20 == 1 else self._memory(),
        )
        due = time.monotonic() - self.saved_at > SAVE_EVERY_S
        stop, due = self.group.any(self.report.stop_requested(), due)
        if stop or due:
            self._save()
        if stop:
            raise StopRequested

    def _memory(self) -> float:
        return float(self.report.status.numbers.get("memory_mb", 0.0))

    def _validate_epoch(self) -> None:
        """Metrics of the epoch, the checkpoint if it is the best, then the state of the next epoch."""
        self.where = f"validation of epoch {self.epoch}"
        began = time.perf_counter()
        part = self.parts["val"]
        values = self._val_logits(part)
        row = self._val_row(values, part.targets, time.perf_counter() - began)
        if self.cached is None:  # what the chosen geometry costs; on cached features it says nothing
            row["ms_per_image"] = round(1000 * row["seconds"] / len(part), 2)
        assert self.optimizer is not None
        rate = max(group["lr"] for group in self.optimizer.param_groups)
        tally = self._common_tally()
        self.report.metrics({"epoch": self.epoch, "split": "train", **tally.row(), "lr": rate})
        self.report.metrics({"epoch": self.epoch, "split": "val", **row, "lr": rate})
        self._keep_if_best(row)
        self.epoch, self.step, self.tally = self.epoch + 1, 0, Tally.of(len(self.manifest.classes))
        self._save()

    def _common_tally(self) -> Tally:
        """The epoch so far over all processes; where every process trains on everything, its own."""
        if self.group.world == 1 or self.cached is not None:
            return self.tally
        sums = self.group.sum(np.array([self.tally.loss, self.tally.images, *self.tally.matrix.ravel()]))
        matrix = sums[2:].astype(np.int64).reshape(self.tally.matrix.shape)
        return replace(self.tally, loss=float(sums[0]), images=int(sums[1]), matrix=matrix)

    def _averaged(self) -> nn.Module:
        """The weights that are validated and kept: the moving average where there is one."""
        return self.ema.module if self.ema is not None else self.model

    def _val_logits(self, part: Part) -> np.ndarray:
        model = self._averaged().eval()
        if self.cached is not None:
            with torch.inference_mode():
                return frozen.head_logits(model, self.cached.val, 0.0).cpu().numpy().astype(np.float64)
        return self._evaluate(replace(self.loaded, model=model, tta=False), part, "Validating")

    def _evaluate(self, loaded: LoadedModel, part: Part, phase: str) -> np.ndarray:
        done, began = 0, time.perf_counter()

        def progress(position: int, total: int) -> None:
            nonlocal done
            cost = (position - done) * self._views_per_image() * (4 if loaded.tta else 1)
            done = position
            self._advance(cost, phase, position, total, began)

        size = max(self.recipe.batch_size, 16)
        own = self.group.share(part.rows.tolist())
        values = logits(loaded, self._fetch, own, batch_size=size, progress=progress)
        return self.group.collect(values, len(part))

    def _val_row(self, values: np.ndarray, targets: np.ndarray, seconds: float) -> dict[str, float]:
        probs = softmax(values)
        matrix = confusion(targets, probs.argmax(1), probs.shape[1])
        chosen = np.clip(probs[np.arange(len(targets)), targets], 1e-12, 1.0)
        return {
            "loss": float(-np.log(chosen).mean()),
            "accuracy": float(metrics.accuracy(matrix)),
            "balanced_accuracy": float(metrics.balanced_accuracy(matrix)),
            "auroc": float(metrics.SCORES["auroc"].function(targets, probs)),
            "seconds": round(seconds, 3),
            "images_per_s": round(len(targets) / max(seconds, 1e-9), 2),
        }

    def _keep_if_best(self, row: dict[str, float]) -> None:
        name = self.recipe.select
        value = row[name]
        self.stale += 1
        if self.best is None or value > self.best["value"]:
            self.best = {"metric": name, "value": value, "epoch": self.epoch}
            self.stale = 0
            facts = {**self.loaded.facts(), "epoch": self.epoch, name: value}
            if self.report.writes:
                checkpoint.save_weights(self.folder.best, self._averaged().state_dict(), facts)
            self.report.best(name, value, self.epoch)

    # -- the state ----------------------------------------------------------------------------

    def _save(self) -> None:
        """Write everything a resume needs."""
        self.saved_at = time.monotonic()
        self._settle()
        tally = self._common_tally()
        if not self.report.writes:
            return
        assert self.optimizer is not None
        state = {
            "schema": STATE_SCHEMA,
            "fingerprint": self.recipe.fingerprint(),
            "threads": torch.get_num_threads(),
            "epoch": self.epoch,
            "step": self.step,
            "stage": self.stage_at,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "ema": self.ema.module.state_dict() if self.ema is not None else None,
            "scaler": self.scaler.state_dict(),
            "best": copy.copy(self.best),
            "stale": self.stale,
            "tally": tally.to_state(),
        }
        checkpoint.save_state(self.folder.last, state)

    def _resume_state(self) -> dict | None:
        """The last checkpoint that verifies, its place in the run taken over; None to begin at the beginning.

        Raises:
            WeightsError: the checkpoint belongs to other settings.
        """
        state = checkpoint.load_state(self.folder.last)
        if state is None:
            return None
        if state["schema"] != STATE_SCHEMA or state["fingerprint"] != self.recipe.fingerprint():
            raise WeightsError(
                "The last checkpoint was made with other settings",
                found=f"recipe {state['fingerprint']}, now {self.recipe.fingerprint()}",
                remedy="Start a new run from this one instead of resuming it",
                kind="settings",
            )
        if self.recipe.mode == "exact":
            torch.set_num_threads(state["threads"])  # sums in another order have other last bits
        self.model.load_state_dict(state["model"])
        self.epoch, self.step = state["epoch"], state["step"]
        self.best, self.stale = state["best"], state["stale"]
        if self.group.is_first:  # it counts for all
            self.tally = Tally.from_state(state["tally"])
        print(f"Resuming in epoch {self.epoch} after step {self.step}.", flush=True)
        return state

    # -- the end ------------------------------------------------------------------------------

    def _predict(self) -> None:
        """Predictions of validation and test with the best checkpoint, as `predict` would make them: in float32,
        whatever it was trained in."""
        self.where = "the predictions"
        state, _ = checkpoint.load_weights(self.folder.best)
        self.model.load_state_dict(state)
        loaded = replace(self.loaded, model=self.model.eval(), device=Device(self.device.torch))
        for name in ("val", "test"):
            part = self.parts[name]
            if not len(part):
                continue
            began = time.perf_counter()
            values = self._evaluate(loaded, part, f"Predicting {name}")
            self._state_cost((time.perf_counter() - began) / len(part))
            rows = self.manifest.table.iloc[part.rows].reset_index(drop=True)
            if self.report.writes:
                self.folder.write_predictions(name, predictions_table(rows, values, self.loaded.classes))

    def _state_cost(self, seconds: float) -> None:
        """What evaluating an image costs with this geometry, and the memory the run took: beside its scores."""
        squares = self._views_per_image() * (4 if self.recipe.tta else 1)
        numbers = {
            "predict_ms_per_image": round(1000 * seconds, 2),
            "squares_per_image": squares,
            "peak_memory_mb": round(self.device.peak_mb(), 1),
        }
        status = self.report.status
        self.report.status = replace(status, numbers={**status.numbers, **numbers})

    # -- progress -----------------------------------------------------------------------------

    def _advance(self, cost: float, phase: str, done: int, total: int, began: float) -> None:
        """Progress of anything but training steps; raises StopRequested when a stop was asked for."""
        self.work.done += cost
        rate = done / max(time.perf_counter() - began, 1e-9)
        epoch = self.epoch if phase == "Validating" else 0
        self.report.progress(
            phase, self.work.fraction, epoch=epoch, step=done, steps=total, images_per_s=rate
        )
        if self.group.world == 1 and self.report.stop_requested():
            if self.optimizer is not None and self.epoch <= self.recipe.epochs and self.step:
                self._save()
            raise StopRequested

    def _views_per_image(self) -> int:
        """Squares the network sees per image at evaluation, flips not counted."""
        if self.loaded.geometry != "tiles":
            return 1
        height, width = self.packed[0].shape[:2]
        size = self.loaded.image_size
        return max(1, -(-height // size)) * max(1, -(-width // size))

    def _stage_work(self, stage: Stage) -> tuple[float, float]:
        """Forward passes of a stage: once at its beginning, and per epoch."""
        train, val, views = len(self.parts["train"]), len(self.parts["val"]), self._views_per_image()
        if stage.views:
            return (stage.views * train + val) * views, 0.01 * train
        return 0.0, TRAIN_COST * train + val * views

    def _total_work(self) -> float:
        """Forward passes of the whole run."""
        flips = 4 if self.recipe.tta else 1
        total = (len(self.parts["val"]) + len(self.parts["test"])) * self._views_per_image() * flips
        for stage in self.recipe.stages:
            once, each = self._stage_work(stage)
            total += once + each * stage.epochs
        return max(total, 1.0)

    def _work_before(self) -> float:
        """What of it a resumed run has behind it."""
        done, left = 0.0, self.epoch - 1
        for stage in self.recipe.stages:
            once, each = self._stage_work(stage)
            epochs = min(left, stage.epochs)
            done += each * epochs + (once if left >= stage.epochs else 0.0)
            left -= epochs
        return done
