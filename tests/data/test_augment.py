"""Augmentation is a pure function of image and seed, and its parts are independent of each other."""

import subprocess
import sys

import albumentations
import numpy as np
import pytest

from engine.data import augment
from engine.data.augment import RECIPES, preview, recipe, sample_seed
from engine.data.preprocessing import Preprocessing
from engine.data.stain import StainNormaliser, fit
from engine.errors import ConfigError
from engine.runs.config import AUGMENTATIONS


@pytest.fixture(scope="module")
def image() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)


def test_the_recipes_are_those_a_run_can_be_configured_with():
    assert tuple(RECIPES) == AUGMENTATIONS


@pytest.mark.parametrize("name", list(RECIPES))
def test_same_seed_same_pixels(image, name):
    one, two = recipe(name, 64), recipe(name, 64)
    results = []
    for seed in range(12):
        first = one(image, seed)
        assert first.dtype == np.uint8
        assert first.shape == (64, 64, 3)
        assert first.flags.c_contiguous
        results.append(first)
    for seed in reversed(range(12)):  # whatever came before
        assert np.array_equal(two(image, seed), results[seed])
    assert name == "none" or len({pixels.tobytes() for pixels in results}) > 4


def test_flips_are_independent_of_each_other_and_lossless(image):
    """albumentations' own seeding would flip both ways together, always."""
    flips = augment.Augmenter(
        "flips", 64, "square", albumentations.Compose([augment._move(albumentations, 0, 0)])
    )
    seen = {flips(image, seed).tobytes() for seed in range(40)}
    expected = {view.tobytes() for view in (image, image[:, ::-1], image[::-1], image[::-1, ::-1])}
    assert seen == expected


def test_a_move_is_what_albumentations_affine_does(image):
    import cv2

    smooth = cv2.GaussianBlur(image, (0, 0), 3)
    matrix = augment._matrix(smooth.shape, (1.0, 1.0), np.deg2rad(30), (0.1, -0.2), 1.2)
    ours = cv2.warpAffine(smooth, matrix, (64, 64), borderMode=cv2.BORDER_REFLECT)
    theirs = albumentations.Affine(
        rotate=(-30, -30),  # it turns the other way round
        scale=(1.2, 1.2),
        translate_percent={"x": (0.1, 0.1), "y": (-0.2, -0.2)},
        border_mode=cv2.BORDER_REFLECT,
        p=1.0,
    )(image=smooth)["image"]
    difference = np.abs(ours.astype(int) - theirs)
    assert difference.mean() < 1.5  # 0 without translation, which they round to whole pixels


def test_both_generators_follow_the_seed(image):
    """`strong` draws from Python's and from numpy's generator."""
    strong = recipe("strong", 64)
    first = [strong(image, seed) for seed in range(30)]
    again = [strong(image, seed) for seed in range(30)]
    assert all(np.array_equal(one, two) for one, two in zip(first, again, strict=True))
    assert len({pixels.tobytes() for pixels in first}) == 30


def test_tiles_are_cut_at_native_resolution(image):
    wide = np.random.default_rng(1).integers(0, 256, (92, 140, 3), dtype=np.uint8)
    tile = recipe("none", 32, "tiles")(wide, 5)
    assert tile.shape == (32, 32, 3)
    views = np.lib.stride_tricks.sliding_window_view(wide, (32, 32, 3))
    assert (views == tile).all(axis=(-1, -2, -3)).any()
    assert recipe("light", 96, "tiles")(image, 0).shape == (96, 96, 3)  # smaller than the tile: reflected


def test_neighbouring_samples_get_unrelated_seeds():
    seeds = {sample_seed(seed, epoch, index) for seed in (0, 1) for epoch in (0, 1) for index in range(100)}
    assert len(seeds) == 400
    assert all(0 <= seed < 2**63 for seed in seeds)


@pytest.mark.parametrize("interpolation", ["area", "bilinear"])
def test_a_preview_shows_the_pixels_that_training_sees(image, interpolation):
    """Interpolation and stain, too: with nothing augmented a version is the prepared image itself."""
    dark = (image // 2).astype(np.uint8)
    stain = StainNormaliser(fit("reinhard", "other.png", dark))
    seen = Preprocessing(32, "square", interpolation, stain)
    shown, normalised = preview(image, "none", seen, n=2)
    assert normalised
    assert np.array_equal(shown, np.stack([seen.squares(image)[0]] * 2))
    assert preview(image, "study", Preprocessing(32, "tiles"), n=3)[0].shape == (3, 32, 32, 3)
    macenko = Preprocessing(32, stain=StainNormaliser(fit("macenko", "other.png", dark)))
    assert not preview(np.full_like(image, 255), "study", macenko, n=1)[1]


def test_unknown_names_are_refused():
    for arguments in (("wild", 64), ("light", 64, "round")):
        with pytest.raises(ConfigError):
            recipe(*arguments)


def test_naming_recipes_does_not_import_albumentations():
    code = (
        "import sys, engine.data.augment; sys.exit('albumentations' in sys.modules or 'torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
