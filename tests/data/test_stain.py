"""Stain normalisation: the reference comes from train only, failures fall back and are counted."""

import numpy as np
import pandas as pd
import pytest

from engine.data import cache
from engine.data.images import encode_png
from engine.data.manifest import CLASSES, COLUMNS, Manifest
from engine.data.stain import METHODS, StainNormaliser, choose_reference, preview
from engine.errors import DataError


def tissue(seed: int, eosin: float) -> np.ndarray:
    """Two stains of random strength per pixel, by Beer-Lambert."""
    rng = np.random.default_rng(seed)
    strengths = rng.random((48, 64, 2)) * (1.6, eosin)
    vectors = np.array([[0.58, 0.74, 0.35], [0.22, 0.83, 0.44]])
    return (240 * np.exp(-strengths @ vectors)).clip(0, 255).astype(np.uint8)


@pytest.fixture
def manifest(tmp_path) -> Manifest:
    rows = []
    for number in range(8):
        name = f"{number}.png"
        (tmp_path / name).write_bytes(encode_png(tissue(number, 0.4 + 0.25 * number)))
        rows.append((name, name, CLASSES[number % 2], "", f"c{number}", f"s{number}", ""))
    sides = ["train", "train", "train", "val", "val", "test", "test", "test"]
    table = pd.DataFrame(rows, columns=list(COLUMNS), dtype=str).assign(split=sides)
    return Manifest(tmp_path, CLASSES, table)


@pytest.mark.parametrize("method", list(METHODS))
def test_images_move_towards_the_reference(manifest, method):
    reference = choose_reference(manifest, method)
    normaliser = StainNormaliser(reference)
    shown = preview(manifest, normaliser, 8)
    before = np.stack([image.mean((0, 1)) for _, image, _ in shown])
    after = np.stack([image.mean((0, 1)) for _, _, image in shown])
    assert after.std(0).mean() < 0.5 * before.std(0).mean()
    assert normaliser.as_record() == {
        "method": method,
        "reference": reference.image_id,
        "images": 8,
        "failures": 0,
    }


def test_the_reference_is_a_training_image_whatever_the_seed(manifest):
    train = set(manifest.table.query("split == 'train'")["image_id"])
    assert {choose_reference(manifest, seed=seed).image_id for seed in range(6)} <= train
    assert choose_reference(manifest, seed=3) == choose_reference(manifest, seed=3)


def test_a_blank_image_stays_as_it_is_and_is_counted(manifest):
    normaliser = StainNormaliser(choose_reference(manifest))
    white = np.full((20, 20, 3), 255, np.uint8)
    assert np.array_equal(normaliser(white), white)
    assert normaliser.failures == 1


def test_normalised_pixels_are_packed_under_their_own_key(manifest, tmp_path):
    normaliser = StainNormaliser(choose_reference(manifest))
    packed = cache.pack(
        manifest,
        32,
        "square",
        tmp_path / "cache",
        normalise=normaliser,
        normalise_key=normaliser.reference.key,
    )
    plain = cache.pack(manifest, 32, "square", tmp_path / "cache")
    assert not np.array_equal(packed[7], plain[7])
    assert normaliser.images == 8


def test_without_a_split_there_is_no_reference(manifest):
    with pytest.raises(DataError) as error:
        choose_reference(manifest.with_table(manifest.table.drop(columns="split")))
    assert error.value.kind == "no_split"
    with pytest.raises(DataError) as error:
        choose_reference(manifest, "wishful")
    assert error.value.kind == "stain_method"
