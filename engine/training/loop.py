"""One training run: from a run folder with a configuration and a split to weights, metrics and predictions.

Everything random is a function of (seed, epoch, step, image), and a checkpoint holds the rest, so that a run
that was killed anywhere ends with the same bits as one that was not (`exact` mode, same machine).
"""

from __future__ import annotations

import time
from contextlib import ExitStack
from dataclasses import replace

import numpy as np
import torch
from torch import nn

from engine.data.preprocessing import Preprocessing
from engine.runs import catalog, presets
from engine.runs.config import RunConfig
from engine.runs.folder import RunFolder
from engine.runs.presets import Recipe, Stage
from engine.runs.reporter import Reporter
from engine.runs.status import COMPLETED, STOPPED
from engine.training import checkpoint, distributed, failures, frozen, models, objective, pixels
from engine.training.device import Device, choose, make_deterministic
from engine.training.evaluate import logits, predictions_table, scores
from engine.training.keeping import SAVE_EVERY_S, SHORT_EPOCH_S, Keeper
from engine.training.loading import Batch, Loader, TrainingImages, Waiting, batches, order
from engine.training.models import LoadedModel
from engine.training.parts import Part, parts_of
from engine.training.steps import Place, Steps
from engine.training.tally import Tally
from engine.training.work import Work, step_cost


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
        self.device.make_current()
        report.status = replace(report.status, epochs=recipe.epochs)
        make_deterministic(recipe.mode == "exact")
        self.manifest = folder.manifest()
        self.parts = parts_of(self.manifest)
        self.loaded = self._network()
        self.model: nn.Module = self.loaded.model
        self.loss = self._loss()
        self.steps: Steps | None = None
        self.cached: frozen.CachedFeatures | None = None
        self.keeper = Keeper(folder, recipe, writes=report.writes)
        # The place in the run, all of it in the checkpoint.
        self.epoch, self.step, self.stage_at = 1, 0, -1
        self.best: dict | None = None
        self.stale = 0
        self.tally = Tally.of(len(self.manifest.classes))
        self.rows: list[dict] = []  # of epochs whose weights are not written yet
        self.step_seconds: list[float] = []

    # -- the order of things ------------------------------------------------------------------

    def run(self) -> None:
        """Pack, train stage by stage, then predict with the best checkpoint.

        Raises:
            StopRequested: the state is written.
        """
        state = self._resume_state()
        self._pack()
        self.work = Work.of(self.recipe, self.parts, self._views_per_image(), self.epoch)
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
        """Begin the stage of the epoch, or go on with it as a checkpoint's state says."""
        position, stage = self.recipe.stage_of(self.epoch)
        if position == self.stage_at:
            return
        self.stage_at = position
        given = self.config
        self.steps = Steps(
            self.loaded,
            self.recipe,
            position,
            self.group,
            self.loss,
            dropout=given.model.dropout,
            compiled=given.training.compile,
        )
        if state:
            self.steps.load(state)
        self.cached = self._cache_features(stage) if stage.views else None

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
        assert self.steps is not None
        while self.step < len(groups):
            group = groups[self.step]
            self.where = f"epoch {self.epoch}, step {self.step + 1}"
            rate = self.steps.update(source, group, Place(self.epoch, self.step, len(groups)), self.tally)
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

    def _after_step(self, steps: int, rate: float, images: int, stage: Stage) -> None:
        """Progress, the checkpoint that is due, the stop that was asked for."""
        assert self.steps is not None
        tally = self.tally
        self.work.done += images * step_cost(stage)
        read = tally.images - len(self.steps.unread)  # the loss of the others is still on the device
        self.report.progress(
            "Training",
            self.work.fraction,
            epoch=self.epoch,
            step=self.step,
            steps=steps,
            lr=rate,
            images_per_s=tally.images / max(tally.seconds, 1e-9),
            wait_share=tally.waiting / max(tally.seconds, 1e-9),
            memory_mb=self.device.memory_mb() if self.step % 20 == 1 else self._memory(),
            **({"loss": tally.loss / read} if read else {}),
        )
        stop, due = self.group.any(self.report.stop_requested(), self.keeper.is_due(SAVE_EVERY_S))
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
        assert self.steps is not None
        rate = self.steps.rate
        tally = self._common_tally()
        self.rows.append({"epoch": self.epoch, "split": "train", **tally.row(), "lr": rate})
        self.rows.append({"epoch": self.epoch, "split": "val", **row, "lr": rate})
        self._keep_if_best(row)
        self.epoch, self.step, self.tally = self.epoch + 1, 0, Tally.of(len(self.manifest.classes))
        (due,) = self.group.any(self.keeper.is_due(SHORT_EPOCH_S))
        if self.cached is None or self._is_last_of_stage() or due:
            self._save()

    def _is_last_of_stage(self) -> bool:
        """Whether the epoch that has just ended is followed by another stage, or by the predictions."""
        if self.epoch > self.recipe.epochs or self._is_exhausted():
            return True
        return self.recipe.stage_of(self.epoch)[0] != self.stage_at

    def _common_tally(self) -> Tally:
        """The epoch so far over all processes; where every process trains on everything, its own."""
        if self.group.world == 1 or self.cached is not None:
            return self.tally
        sums = self.group.sum(np.array([self.tally.loss, self.tally.images, *self.tally.matrix.ravel()]))
        matrix = sums[2:].astype(np.int64).reshape(self.tally.matrix.shape)
        return replace(self.tally, loss=float(sums[0]), images=int(sums[1]), matrix=matrix)

    def _val_logits(self, part: Part) -> np.ndarray:
        assert self.steps is not None
        model = self.steps.averaged.eval()
        if self.cached is not None:
            with torch.inference_mode():
                return models.head_logits(model, self.cached.val).cpu().numpy().astype(np.float64)
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
        return {
            **scores(values, targets),
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
            assert self.steps is not None
            self.keeper.best(self.steps.averaged, {**self.loaded.facts(), "epoch": self.epoch, name: value})

    # -- the state ----------------------------------------------------------------------------

    def _save(self) -> None:
        """Write what the epochs since the last time have found, the weights, and everything a resume needs.

        The state comes last: what is written before it and lost by a kill is found again.
        """
        assert self.steps is not None
        self.steps.unread.read_into(self.tally, self.epoch, self.group)
        tally = self._common_tally()
        for row in self.rows:
            self.report.metrics(row)
        self.rows.clear()
        if self.best is not None and self.keeper.has_new_best:
            self.report.best(self.best["metric"], self.best["value"], self.best["epoch"])
        self.keeper.save(
            {
                "epoch": self.epoch,
                "step": self.step,
                "model": self.model.state_dict(),
                **self.steps.state(),
                "best": self.best,
                "stale": self.stale,
                "tally": tally.to_state(),
            }
        )

    def _resume_state(self) -> dict | None:
        """The last checkpoint, its place in the run taken over; None to begin at the beginning.

        Raises:
            WeightsError: it belongs to other settings.
        """
        state = self.keeper.read()
        if state is None:
            return None
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
        self.group.wait()  # the best weights may have been written just now, by another process
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
            if phase == "Validating":  # the epoch's steps are made, and nothing holds them yet
                self._save()
            raise StopRequested

    def _views_per_image(self) -> int:
        """Squares the network sees per image at evaluation, flips not counted."""
        if self.loaded.geometry != "tiles":
            return 1
        height, width = self.packed[0].shape[:2]
        size = self.loaded.image_size
        return max(1, -(-height // size)) * max(1, -(-width // size))
