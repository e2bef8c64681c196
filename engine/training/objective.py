"""What is minimised and how: loss, optimizer, learning rates, moving average. torch's and timm's own parts."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from timm.data.mixup import Mixup
from timm.optim._param_groups import param_groups_layer_decay
from timm.utils.model_ema import ModelEmaV3
from torch import nn
from torch.nn import functional

from engine.runs.presets import Recipe, Stage, rate_factor

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
FOCAL_GAMMA = 2.0


def loss_per_image(recipe: Recipe, class_counts: np.ndarray, device: torch.device) -> Loss:
    """The loss of each image, (n,), from logits (n, classes) and targets: indices (n,) or shares (n, classes).

    Args:
        class_counts: training images per class; with `class_weights` a class weighs by its inverse, the
            weights averaging one over the training images.
    """
    weights = None
    if recipe.class_weights:
        share = class_counts.sum() / (len(class_counts) * np.maximum(class_counts, 1))
        weights = torch.tensor(share, dtype=torch.float32, device=device)
    # Mixup smooths the targets itself.
    smoothing = 0.0 if recipe.mixup or recipe.cutmix else recipe.label_smoothing

    def loss(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        each = functional.cross_entropy(
            logits, targets, weight=weights, label_smoothing=smoothing, reduction="none"
        )
        if recipe.loss != "focal":
            return each
        shares = targets if targets.ndim == 2 else functional.one_hot(targets, logits.shape[1]).float()
        right = (logits.softmax(1) * shares).sum(1)
        return (1 - right) ** FOCAL_GAMMA * each  # Lin et al., 2017

    return loss


def mixer(recipe: Recipe, classes: int) -> Mixup | None:
    """timm's mixup and cutmix, if the recipe wants them."""
    if not recipe.mixup and not recipe.cutmix:
        return None
    return Mixup(
        mixup_alpha=recipe.mixup,
        cutmix_alpha=recipe.cutmix,
        label_smoothing=recipe.label_smoothing,
        num_classes=classes,
    )


def mix(mixer: Mixup, images: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mixup or cutmix of a batch.

    Args:
        images: uint8 (n, height, width, 3), n even; stays as it is.
        targets: class indices (n,).

    Returns:
        Images of the same kind, and the share of each class, (n, classes).
    """
    # timm cuts out of the last two axes, which must be height and width.
    mixed, shares = mixer(images.permute(0, 3, 1, 2).float(), targets)
    return mixed.round_().to(torch.uint8).permute(0, 2, 3, 1), shares


def optimizer(model: nn.Module, recipe: Recipe, stage: Stage) -> torch.optim.Optimizer:
    """Fused Adam or AdamW over what the stage trains; every group knows its full rate as `initial_lr`."""
    head = {id(p) for p in model.get_classifier().parameters()}  # type: ignore[operator]
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for group in _groups(model, recipe, stage):
        for parameter in group["params"]:
            base = stage.head_lr if id(parameter) in head else stage.lr * group.get("lr_scale", 1.0)
            groups.setdefault((base, group["weight_decay"]), []).append(parameter)
    listed = [
        {"params": params, "lr": base, "initial_lr": base, "weight_decay": decay}
        for (base, decay), params in groups.items()
    ]
    kind = torch.optim.AdamW if recipe.optimizer == "adamw" else torch.optim.Adam
    return kind(listed, lr=stage.lr, eps=recipe.eps, fused=True)


def _groups(model: nn.Module, recipe: Recipe, stage: Stage) -> list[dict]:
    if stage.layer_decay < 1.0:
        return param_groups_layer_decay(model, recipe.weight_decay, layer_decay=stage.layer_decay)
    trained = [p for p in model.parameters() if p.requires_grad]
    return [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": recipe.weight_decay},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]


def set_rates(optimizer: torch.optim.Optimizer, update: int, updates: int, stage: Stage) -> float:
    """Set every group's rate for an update of a stage; returns the head's (the greatest)."""
    factor = rate_factor(update, updates, stage)
    for group in optimizer.param_groups:
        group["lr"] = group["initial_lr"] * factor
    return max(group["lr"] for group in optimizer.param_groups)


class MovingAverage(ModelEmaV3):
    """timm's moving average of the weights, of those that change.

    timm's own lists all tensors of both networks at every update and copies the counters of every BatchNorm: 4 ms
    for an EfficientNetV2-B0, a sixth of a step on a GPU. What is frozen is its own average.
    """

    def __init__(self, model: nn.Module, recipe: Recipe):
        # Warmed up, so that a short run is not stuck at its first weights.
        super().__init__(model, decay=recipe.ema, use_warmup=True)
        theirs, ours = dict(model.named_parameters()), dict(self.module.named_parameters())
        changing = [name for name, parameter in theirs.items() if parameter.requires_grad]
        self._pairs = ([ours[name] for name in changing], [theirs[name] for name in changing])
        # A BatchNorm that goes on counting: its statistics are averaged too, its counter is copied.
        self._counted = (
            [] if recipe.freeze_batchnorm else list(zip(self.module.buffers(), model.buffers(), strict=True))
        )

    def apply_update_(self, model: nn.Module, decay: float) -> None:
        ours: list[torch.Tensor] = [*self._pairs[0]]
        theirs: list[torch.Tensor] = [*self._pairs[1]]
        for mine, other in self._counted:
            if mine.is_floating_point():
                ours.append(mine)
                theirs.append(other)
            else:
                mine.copy_(other)
        self._foreach_lerp_(ours, theirs, weight=1.0 - decay)


def moving_average(model: nn.Module, recipe: Recipe) -> MovingAverage | None:
    """The moving average of a recipe, if it wants one; made when it is settled what is trained."""
    return MovingAverage(model, recipe) if recipe.ema else None
