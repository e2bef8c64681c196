"""Recipes: what a configuration resolves to, without torch."""

from __future__ import annotations

import math

import pytest

from engine.errors import ConfigError
from engine.runs import presets
from engine.runs.config import RECIPES, RunConfig, TrainingConfig


def resolved(**options) -> presets.Recipe:
    details = options.pop("details", {})
    return presets.resolve(RunConfig(training=TrainingConfig(**options), details=details))


def test_every_recipe_of_the_configuration_is_a_preset_with_a_lab_note():
    assert set(presets.PRESETS) == set(RECIPES)
    assert all(len(recipe.note) > 100 for recipe in presets.PRESETS.values())


def test_study_as_run_is_the_study_switch_by_switch():
    recipe = resolved(recipe="study-as-run")
    (stage,) = recipe.stages
    assert (stage.epochs, stage.trainable, stage.lr, stage.head_lr) == (40, "study", 1e-4, 1e-3)
    assert (stage.cosine, stage.warmup_epochs, stage.views) == (False, 0.0, 0)
    assert (recipe.optimizer, recipe.eps, recipe.batch_size) == ("adam", 1e-7, 32)
    assert (recipe.freeze_batchnorm, recipe.select, recipe.augmentation) == (True, "accuracy", "study")
    assert (recipe.geometry, recipe.sampling, recipe.ema, recipe.tta) == ("square", "shuffle", 0.0, False)


def test_study_as_described_trains_the_head_first():
    recipe = resolved(recipe="study-as-described")
    assert [stage.trainable for stage in recipe.stages] == ["head", "all"]
    assert recipe.stages[0].head_lr == 1e-2
    assert recipe.stage_of(10) == (0, recipe.stages[0])
    assert recipe.stage_of(11) == (1, recipe.stages[1])
    assert recipe.first_epoch(1) == 11


def test_modern_is_made_for_tiles():
    recipe = resolved(recipe="modern")
    assert (recipe.geometry, recipe.optimizer, recipe.sampling, recipe.tta) == (
        "tiles",
        "adamw",
        "balanced",
        True,
    )


def test_a_learning_rate_keeps_the_heads_ratio():
    (stage,) = resolved(recipe="study-as-run", lr=2e-4).stages
    assert stage.head_lr == pytest.approx(2e-3)


def test_epochs_apply_to_the_main_stage():
    recipe = resolved(recipe="study-as-described", epochs=3)
    assert [stage.epochs for stage in recipe.stages] == [10, 3]
    assert recipe.epochs == 13


def test_options_given_beside_a_recipe_win_and_others_stay():
    recipe = resolved(
        recipe="modern",
        loss="focal",
        class_weights=True,
        sampling="shuffle",
        mixup=0.2,
        cutmix=1.0,
        label_smoothing=0.0,
        ema=0.0,
        clip=5.0,
        weight_decay=0.01,
        tta="off",
    )
    assert (recipe.loss, recipe.class_weights, recipe.sampling, recipe.tta) == (
        "focal",
        True,
        "shuffle",
        False,
    )
    assert (recipe.mixup, recipe.cutmix, recipe.label_smoothing, recipe.ema) == (0.2, 1.0, 0.0, 0.0)
    assert (recipe.clip, recipe.weight_decay) == (5.0, 0.01)
    assert recipe.optimizer == "adamw"
    assert resolved(recipe="modern") == presets.resolve(RunConfig(training=TrainingConfig(recipe="modern")))
    assert resolved(recipe="modern").ema == presets.PRESETS["modern"].ema


@pytest.mark.parametrize(
    ("model", "recipe", "given", "seen"),
    [
        ("tf_efficientnet_b0", "study-as-run", ("", 0), ("square", 0)),
        ("tf_efficientnet_b0", "modern", ("", 0), ("tiles", 256)),
        ("tf_efficientnet_b4", "modern", ("", 0), ("tiles", 0)),  # 380 pixels of its own
        ("swin_tiny_patch4_window7_224", "modern", ("", 0), ("tiles", 0)),
        ("tf_efficientnet_b0", "modern", ("square", 0), ("square", 0)),
        ("tf_efficientnet_b0", "quick", ("letterbox", 0), ("letterbox", 0)),
        ("tf_efficientnet_b0", "quick", ("", 160), ("tiles", 160)),
    ],
)
def test_a_launch_says_what_the_network_will_see(model, recipe, given, seen):
    config = RunConfig(training=TrainingConfig(recipe=recipe)).changed(
        model__name=model, model__geometry=given[0], model__image_size=given[1]
    )
    settled = presets.settled(config)
    assert (settled.model.geometry, settled.model.image_size) == seen
    assert presets.settled(settled) == settled


def test_half_the_batch_and_twice_the_accumulation_update_alike():
    config = RunConfig(training=TrainingConfig(batch_size=8, accumulate=2))
    less = presets.relieved(config)
    assert less is not None
    assert (less.training.batch_size, less.training.accumulate) == (4, 4)
    assert presets.resolve(less).images_per_update == presets.resolve(config).images_per_update
    assert presets.relieved(config.changed(training__batch_size=1)) is None


def test_an_unknown_option_is_named():
    with pytest.raises(ConfigError, match="warp"):
        resolved(details={"recipe": {"warp": 9}})


def test_two_recipes_have_one_fingerprint_only_if_they_train_alike():
    assert resolved().fingerprint() == resolved().fingerprint()
    assert resolved().fingerprint() != resolved(lr=2e-4).fingerprint()


def test_the_schedule_rises_then_falls_to_nothing():
    table = presets.schedule_preview(resolved(recipe="modern", epochs=10), updates_per_epoch=20)
    assert len(table) == 200
    assert table["head"].idxmax() in (19, 20)
    assert table["head"].iloc[0] == pytest.approx(2e-3 / 20)
    assert table["head"].iloc[-1] < 1e-5
    assert table["backbone"].max() == pytest.approx(5e-4)


def test_a_frozen_stage_has_no_backbone_rate():
    table = presets.schedule_preview(resolved(recipe="study-as-described", epochs=1), updates_per_epoch=2)
    assert table.loc[table["stage"] == 1, "backbone"].map(math.isnan).all()
    assert (table.loc[table["stage"] == 2, "backbone"] == 1e-4).all()
