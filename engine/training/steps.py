"""The updates of one stage: forward, backward and what changes the weights.

Beside a GPU the program only launches work and the device follows; whatever asks the device for a number makes the
program wait for it. So nothing here does: losses and outputs stay where they are and are read now and then.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from engine.data.augment import sample_seed
from engine.runs.presets import Recipe
from engine.training import failures, models, objective
from engine.training.device import Carrier
from engine.training.distributed import Group
from engine.training.loading import Batch
from engine.training.models import LoadedModel
from engine.training.tally import SETTLE_EVERY, Tally, Unread

STEP_STREAM = -1
"""The `epoch` that seeds of steps (dropout, mixing) are drawn from; epochs of images count from 0."""


@dataclass(frozen=True)
class Place:
    """A step of a run: epoch from 1, step of the epoch from 0, and how many the epoch has."""

    epoch: int
    step: int
    steps: int


class Steps:
    """A network frozen as its stage says, with a fresh optimizer, moving average and scaler.

    Args:
        loaded: the network and its input, on its device.
        stage_at: position of the stage in the recipe.
        loss: as `objective.loss_per_image` gives it.
        dropout: before the last layer; on cached features the network does not draw it itself.
        compiled: torch.compile is asked for.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        recipe: Recipe,
        stage_at: int,
        group: Group,
        loss: objective.Loss,
        *,
        dropout: float = 0.0,
        compiled: bool = False,
    ):
        self.loaded, self.recipe, self.group, self.loss = loaded, recipe, group, loss
        self.model, self.device = loaded.model, loaded.device
        self.stage_at, self.stage = stage_at, recipe.stages[stage_at]
        models.set_trainable(self.model, loaded.architecture, self.stage.trainable, recipe.freeze_batchnorm)
        self.optimizer = objective.optimizer(self.model, recipe, self.stage)
        self.ema = objective.moving_average(self.model, recipe)
        self.scaler = torch.amp.GradScaler(self.device.torch.type, enabled=self.device.scaled)
        self.mixer = None if self.stage.views else objective.mixer(recipe, len(loaded.classes))
        self.unread = Unread()
        self._carry = Carrier(self.device)
        # The head alone gains nothing from fewer bits: casting what it multiplies costs more than multiplying it.
        self._context = nullcontext if self.stage.views else self.device.forward_context
        self._forward = self._forward_of(dropout, compiled)

    @property
    def averaged(self) -> nn.Module:
        """The weights that are validated and kept: the moving average where there is one."""
        return self.ema.module if self.ema is not None else self.model

    @property
    def rate(self) -> float:
        """The learning rate of the head, which is the greatest."""
        return max(group["lr"] for group in self.optimizer.param_groups)

    def state(self) -> dict:
        """What a checkpoint holds of it."""
        return {
            "stage": self.stage_at,
            "optimizer": self.optimizer.state_dict(),
            "ema": self.ema.module.state_dict() if self.ema is not None else None,
            "scaler": self.scaler.state_dict(),
        }

    def load(self, state: dict) -> None:
        """Go on from a checkpoint of the same stage; one of the stage before says nothing about this one."""
        if state["stage"] != self.stage_at:
            return
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        if self.ema is not None:
            self.ema.module.load_state_dict(state["ema"])

    def update(self, source: Iterator, batches: Sequence[Batch], place: Place, tally: Tally) -> float:
        """One update of the weights.

        Args:
            source: yields pixels (or features) and class indices of each batch, or of this process' part of it.
            batches: of the update, of all processes together.

        Returns:
            The learning rate of the head.

        Raises:
            TrainingError: a loss is no number.
        """
        update = (place.epoch - self.recipe.first_epoch(self.stage_at)) * place.steps + place.step
        rate = objective.set_rates(self.optimizer, update, self.stage.epochs * place.steps, self.stage)
        self._seed(place)
        images = sum(len(batch.rows) for batch in batches)
        for _ in batches:
            pixels, targets = self._carry(*next(source))
            self.backward(pixels, targets, images, place.step)
            tally.images += len(targets)
        last = place.step + 1 == place.steps
        if last or not self.device.is_cuda or place.step % SETTLE_EVERY == SETTLE_EVERY - 1:
            self.unread.read_into(tally, place.epoch, self.group)
        self._change_weights(update)
        return rate

    def backward(self, inputs: torch.Tensor, targets: torch.Tensor, images: int, step: int) -> None:
        """Add the gradient of one batch, as its share of the update's `images`.

        Args:
            inputs: pixels, uint8 (n, height, width, 3), or features (n, channels); on the device.
            targets: class indices (n,), on the device.
            step: from 0.
        """
        mixed = targets
        if self.mixer is not None and len(inputs) % 2 == 0:  # timm mixes pairs
            inputs, mixed = objective.mix(self.mixer, inputs, targets)
        with self._context():
            outputs = self._forward(inputs)
            each = self.loss(outputs.float(), mixed)
        loss = each.sum()
        # The processes' gradients are averaged, but each has only its part of the update's images.
        share = 1 if self.stage.views else self.group.world
        self.scaler.scale(loss * (share / images)).backward()
        self.unread.add(step + 1, loss, outputs, targets)

    def _change_weights(self, update: int) -> None:
        self.scaler.unscale_(self.optimizer)
        if self.recipe.clip:
            trained = [p for group in self.optimizer.param_groups for p in group["params"]]
            torch.nn.utils.clip_grad_norm_(trained, self.recipe.clip)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        if self.ema is not None:
            self.ema.update(self.model, step=update)

    def _seed(self, place: Place) -> None:
        """Dropout, stochastic depth and mixing of this step, whatever was drawn before."""
        stream = place.step + self.group.rank * 1_000_000_007  # other images, other dropout
        seed = sample_seed(self.recipe.seed, STEP_STREAM - place.epoch, stream)
        self.device.seed(seed)
        if self.mixer is not None:
            np.random.seed(seed % 2**32)  # timm draws from numpy's global state

    def _forward_of(self, dropout: float, compiled: bool) -> Callable[[torch.Tensor], torch.Tensor]:
        if self.stage.views:
            return lambda feature: models.head_logits(self.model, feature, dropout)
        network = self.group.wrap(self.model, self.device)
        if compiled:
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
                if compiled is plain or failures.translate(error, self.recipe, "compiling the network"):
                    raise
                print(f"torch.compile failed, going on without: {str(error).splitlines()[0]}", flush=True)
                compiled = plain
                return plain(pixels)

        return forward
