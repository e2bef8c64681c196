"""Recipes: how a network is fitted, switch by switch. The `note` of each is its lab note.

A recipe is one to two stages; what the user gives beside it (`TrainingConfig`) wins. `resolve` leaves nothing
open: what it returns is what is trained with, and what `config.json` is checked against on a resume.
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import asdict, dataclass, fields, replace

import pandas as pd

from engine.errors import ConfigError
from engine.runs import catalog
from engine.runs.config import RunConfig, TrainingConfig

TRAINABLE = {
    "head": "the last layer only; the backbone keeps its weights and statistics",
    "study": "from the study's first trainable module on (the last 300 Keras layers)",
    "all": "every layer",
}


@dataclass(frozen=True)
class Stage:
    """Epochs fitted in one way.

    Attributes:
        epochs: passes over the training images.
        trainable: one of `TRAINABLE`.
        lr: learning rate of the backbone (of the head, where only the head is trained).
        head_lr: learning rate of the last layer.
        views: where the backbone is frozen, so many augmented views per image have their features computed
            once, and epoch e trains on view e mod views; 0 = pixels through the backbone every epoch.
        warmup_epochs: linear rise from 0 of every learning rate.
        cosine: fall to 0 along a half cosine after the warm-up; otherwise constant.
        layer_decay: factor on the learning rate per layer group away from the head; 1 = none.
    """

    epochs: int
    trainable: str
    lr: float
    head_lr: float
    views: int = 0
    warmup_epochs: float = 0.0
    cosine: bool = False
    layer_decay: float = 1.0


@dataclass(frozen=True)
class Recipe:
    """Everything about a fit but the data, the network and its input.

    Attributes:
        stages: fitted one after the other; each starts a fresh optimizer.
        optimizer: `adam` or `adamw`.
        freeze_batchnorm: statistics and affine parameters of every BatchNorm stay as pretrained.
        sampling: `shuffle` (every image once) or `balanced` (as many draws, with replacement, every class x
            magnification equally often).
        loss: `cross_entropy` or `focal` (gamma 2).
        class_weights: weigh images by the inverse frequency of their class.
        ema: decay of the moving average of the weights that is validated and kept; 0 = none.
        clip: greatest norm of the gradient; 0 = none.
        select: validation score that picks the checkpoint.
        tta: logits averaged over the four flips when a checkpoint is evaluated.
        geometry: the input geometry this recipe was made for (`engine.runs.launch` offers it).
        interpolation: how images are resized, one of `engine.data.images.INTERPOLATIONS`.
    """

    name: str
    label: str
    note: str
    stages: tuple[Stage, ...]
    batch_size: int = 32
    accumulate: int = 1
    optimizer: str = "adam"
    eps: float = 1e-8
    weight_decay: float = 0.0
    freeze_batchnorm: bool = True
    sampling: str = "shuffle"
    augmentation: str = "study"
    loss: str = "cross_entropy"
    label_smoothing: float = 0.0
    class_weights: bool = False
    mixup: float = 0.0
    cutmix: float = 0.0
    ema: float = 0.0
    clip: float = 0.0
    select: str = "balanced_accuracy"
    tta: bool = False
    geometry: str = "square"
    interpolation: str = "area"
    patience: int = 0
    seed: int = 0
    mode: str = "exact"

    @property
    def epochs(self) -> int:
        """Epochs of all stages."""
        return sum(stage.epochs for stage in self.stages)

    @property
    def images_per_update(self) -> int:
        return self.batch_size * self.accumulate

    def stage_of(self, epoch: int) -> tuple[int, Stage]:
        """Position and stage of an epoch; epochs are counted from 1 over all stages."""
        end = 0
        for position, stage in enumerate(self.stages):
            end += stage.epochs
            if epoch <= end:
                return position, stage
        raise IndexError(f"epoch {epoch} of {end}")

    def first_epoch(self, position: int) -> int:
        """The first epoch (from 1) of a stage."""
        return 1 + sum(stage.epochs for stage in self.stages[:position])

    def to_record(self) -> dict:
        """Plain JSON values."""
        return json.loads(json.dumps(asdict(self)))

    def fingerprint(self) -> str:
        """Two recipes that train alike have the same: a checkpoint is continued only by its own recipe."""
        record = {key: value for key, value in self.to_record().items() if key not in ("label", "note")}
        return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()[:16]


_STUDY_MAIN = Stage(epochs=40, trainable="study", lr=1e-4, head_lr=1e-3)

PRESETS: dict[str, Recipe] = {
    recipe.name: recipe
    for recipe in (
        Recipe(
            "study-as-run",
            "The study, as it was run",
            note=(
                "What the notebooks of Scientific Reports 15:21541 (2025) really fitted: one stage, 40 epochs, "
                "Adam with 1e-4 on the backbone and 1e-3 on the head (eps 1e-7, Keras' default), no schedule, "
                "the last 300 Keras layers trainable, every BatchNorm frozen in statistics and affine, dropout "
                "0.3, batch 32, bilinear resize, flips, rotation up to 36 degrees and translation up to 30% with "
                "reflected borders (the study's V1-B2 got none of these by mistake, here it does), the checkpoint of "
                "the best validation accuracy. The study reports 98.8 to 99.6% with "
                "an image-level split, in which every test slide is also in train; with cases kept apart expect "
                "85 to 93%. Not measured here on the full data set."
            ),
            stages=(_STUDY_MAIN,),
            eps=1e-7,
            select="accuracy",
            interpolation="bilinear",
        ),
        Recipe(
            "study-as-described",
            "The study, as its text describes it",
            note=(
                "As study-as-run, but preceded by the stage that the text describes and the notebooks skip: the "
                "head alone, Adam 1e-2, backbone frozen. The text gives no length for it; 10 epochs here, on "
                "cached features of 4 augmented views per image. Then all layers but BatchNorm for 40 epochs."
            ),
            stages=(
                Stage(epochs=10, trainable="head", lr=1e-2, head_lr=1e-2, views=4),
                replace(_STUDY_MAIN, trainable="all"),
            ),
            eps=1e-7,
            select="accuracy",
            interpolation="bilinear",
        ),
        Recipe(
            "modern",
            "Modern fine-tuning",
            note=(
                "AdamW 5e-4 (head 2e-3) with weight decay 0.05, one epoch of warm-up, then a half cosine; "
                "learning rates fall by 0.75 per layer group towards the input; EMA of the weights, label "
                "smoothing 0.1, gradient norm 1; every class x magnification drawn equally often; stain, colour "
                "and geometry jitter; the four flips averaged at evaluation. Made for the geometry tiles: frozen "
                "features of real slides never trained on scored AUC 0.57 squeezed and 0.79 as six native tiles."
            ),
            stages=(
                Stage(
                    epochs=20,
                    trainable="all",
                    lr=5e-4,
                    head_lr=2e-3,
                    warmup_epochs=1.0,
                    cosine=True,
                    layer_decay=0.75,
                ),
            ),
            optimizer="adamw",
            weight_decay=0.05,
            sampling="balanced",
            augmentation="strong",
            label_smoothing=0.1,
            ema=0.998,
            clip=1.0,
            tta=True,
            geometry="tiles",
        ),
        Recipe(
            "quick",
            "Quick look: frozen backbone",
            note=(
                "The head alone on cached features of the frozen ImageNet backbone, 4 augmented views per image, "
                "Adam 1e-2 falling to 0, every class x magnification drawn equally often. Milliseconds per epoch once "
                "the features are there. Sample data, lite0 at 160 pixels, 8 epochs, 40 seeds: validation balanced "
                "accuracy 96.0% with 4 cached views and 96.1% with a new view every epoch. Made for tiles: on 174 "
                "real images of 20 cases (frozen features and logistic regression, five case folds, 8 draws) the "
                "AUC of lite0, lite1 and lite2 was 0.69, 0.57 and 0.58 squeezed, 0.71, 0.75 and 0.62 in tiles of "
                "256; at six times the cost, and for lite0 alone within the noise. A baseline for what fine-tuning must beat."
            ),
            stages=(Stage(epochs=20, trainable="head", lr=1e-2, head_lr=1e-2, views=4, cosine=True),),
            sampling="balanced",
            geometry="tiles",
        ),
    )
}


def find(name: str) -> Recipe:
    """A preset by name.

    Raises:
        ConfigError: there is none of this name.
    """
    if name not in PRESETS:
        raise ConfigError("There is no such recipe", found=name, remedy=f"Choose {', '.join(PRESETS)}")
    return PRESETS[name]


def resolve(config: RunConfig) -> Recipe:
    """The recipe a run trains with: its preset, and on top of it every value the configuration gives.

    `epochs` and `lr` apply to the last stage (the main one); the head keeps its ratio to the backbone. Any
    `Recipe` field may also be given in `config.details["recipe"]`, which wins over everything.

    Raises:
        ConfigError: unknown recipe or option.
    """
    given = config.training
    recipe = find(given.recipe)
    main = recipe.stages[-1]
    if given.lr:
        main = replace(main, lr=given.lr, head_lr=main.head_lr * given.lr / main.lr)
    if given.epochs:
        main = replace(main, epochs=given.epochs)
    if main.views:
        main = replace(main, views=min(main.views, main.epochs))
    extra = {**_given_options(given), **(config.details.get("recipe") or {})}
    unknown = sorted(set(extra) - set(Recipe.__dataclass_fields__) | {"name", "stages"} & set(extra))
    if unknown:
        raise ConfigError(
            "The recipe has no such option",
            found=", ".join(unknown),
            remedy=f"Known are {', '.join(name for name in Recipe.__dataclass_fields__ if name != 'stages')}",
        )
    return replace(
        recipe,
        stages=(*recipe.stages[:-1], main),
        batch_size=given.batch_size or recipe.batch_size,
        accumulate=given.accumulate,
        augmentation=given.augmentation or recipe.augmentation,
        patience=given.patience,
        seed=given.seed,
        mode=given.mode,
        **extra,
    )


def _given_options(given: TrainingConfig) -> dict:
    """The recipe's options that a configuration sets."""
    chosen: dict = {
        item.name: getattr(given, item.name)
        for item in fields(TrainingConfig)
        if item.metadata.get("unset") == -1.0 and getattr(given, item.name) != -1.0
    }
    chosen |= {name: getattr(given, name) for name in ("sampling", "loss") if getattr(given, name)}
    if given.class_weights:
        chosen["class_weights"] = True
    if given.tta:
        chosen["tta"] = given.tta == "on"
    return chosen


def settled(config: RunConfig) -> RunConfig:
    """A training configuration with its input written out: the geometry its recipe was made for, where none is
    given, and the size of the tiles, where that is not the architecture's own size.

    What is launched is settled, so that `config.json`, the launch form and the command line say what the
    network will see.

    Raises:
        ConfigError: unknown recipe, option or model.
    """
    if config.kind != "train":
        return config
    geometry = config.model.geometry or resolve(config).geometry
    record = catalog.find(config.model.name)
    size = config.model.image_size or record.input_size(geometry)
    return config.changed(
        model__geometry=geometry,
        model__image_size=config.model.image_size if size == record.image_size else size,
    )


def relieved(config: RunConfig) -> RunConfig | None:
    """The same training in about half the memory: half the batch, twice the accumulation; None at one image."""
    recipe = resolve(config)
    if recipe.batch_size < 2:
        return None
    return config.changed(
        training__batch_size=recipe.batch_size // 2, training__accumulate=recipe.accumulate * 2
    )


def rate_factor(update: int, updates: int, stage: Stage) -> float:
    """What every learning rate of a stage is multiplied with at an update.

    Args:
        update: updates made so far in the stage, 0 for the first.
        updates: of the whole stage.
    """
    warm = round(updates * stage.warmup_epochs / stage.epochs) if stage.epochs else 0
    if update < warm:
        return (update + 1) / warm
    if not stage.cosine:
        return 1.0
    return 0.5 * (1 + math.cos(math.pi * (update - warm) / max(1, updates - warm)))


def schedule_preview(recipe: Recipe, updates_per_epoch: int) -> pd.DataFrame:
    """The learning rates of a recipe as data: one row per update.

    Returns:
        Columns `epoch` (fractional, from 0), `stage` (from 1), `backbone` (nan where it is frozen), `head`.
    """
    rows = []
    done = 0.0
    for position, stage in enumerate(recipe.stages, start=1):
        updates = stage.epochs * updates_per_epoch
        for update in range(updates):
            factor = rate_factor(update, updates, stage)
            backbone = float("nan") if stage.trainable == "head" else stage.lr * factor
            rows.append((done + update / updates_per_epoch, position, backbone, stage.head_lr * factor))
        done += stage.epochs
    return pd.DataFrame(rows, columns=["epoch", "stage", "backbone", "head"])
