"""Stain normalisation: the reference comes from train only, is recorded as numbers, failures fall back and are counted."""

import json

import numpy as np
import pandas as pd
import pytest

from engine.data import cache
from engine.data.images import decode, encode_png, resize
from engine.data.manifest import CLASSES, COLUMNS, Manifest
from engine.data.preprocessing import Preprocessing
from engine.data.stain import METHODS, Reference, StainNormaliser, choose_reference, fit, preview
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
    before = np.stack([image.mean((0, 1)) for _, image, _, _ in shown])
    after = np.stack([image.mean((0, 1)) for _, _, image, _ in shown])
    assert after.std(0).mean() < 0.5 * before.std(0).mean()
    assert all(worked for *_, worked in shown)
    record = normaliser.as_record()
    assert (record["method"], record["reference"]) == (method, reference.image_id)
    assert (record["images"], record["failures"]) == (8, 0)


def test_the_reference_is_a_training_image_whatever_the_seed(manifest):
    train = set(manifest.table.query("split == 'train'")["image_id"])
    assert {choose_reference(manifest, seed=seed).image_id for seed in range(6)} <= train
    assert choose_reference(manifest, seed=3) == choose_reference(manifest, seed=3)


@pytest.mark.parametrize("method", list(METHODS))
def test_a_recorded_reference_gives_the_same_pixels(manifest, method):
    """Also on another machine, from JSON, when the reference image itself is gone."""
    reference = choose_reference(manifest, method)
    image = tissue(5, 2.0)
    expected, _ = StainNormaliser(reference).normalise(image)
    (manifest.root / reference.image_id).unlink()
    read = Reference.from_record(json.loads(json.dumps(reference.as_record())))
    assert read.key == reference.key
    assert np.array_equal(StainNormaliser(read).normalise(image)[0], expected)
    with pytest.raises(DataError) as error:
        Reference.from_record({"method": method, "numbers": {}})
    assert error.value.kind == "stain_reference"


def test_the_method_gives_what_torchstain_gives(manifest):
    from torchstain.numpy.normalizers import NumpyMacenkoNormalizer, NumpyReinhardNormalizer

    image, target = tissue(1, 0.6), tissue(2, 1.5)
    macenko, reinhard = NumpyMacenkoNormalizer(), NumpyReinhardNormalizer()
    macenko.fit(target)
    reinhard.fit(target)
    expected = {"macenko": macenko.normalize(image, stains=False)[0], "reinhard": reinhard.normalize(image)}
    for method, pixels in expected.items():
        assert np.array_equal(StainNormaliser(fit(method, "x", target)).normalise(image)[0], pixels)


def test_blank_and_nearly_blank_images_stay_as_they_are_and_are_counted(manifest):
    normaliser = StainNormaliser(choose_reference(manifest))
    white = np.full((60, 60, 3), 250, np.uint8)
    speck = white.copy()
    speck[:5, :8] = tissue(0, 1.0)[:5, :8]  # 1% tissue: the percentile that Macenko scales by is glass
    black = np.zeros((60, 60, 3), np.uint8)
    for image in (white, speck, black):
        pixels, worked = normaliser.normalise(image)
        assert not worked
        assert np.array_equal(pixels, image)
    assert (normaliser.images, normaliser.failures) == (3, 3)


def test_an_ordinary_but_blank_training_image_is_passed_over(manifest):
    for number in (0, 1):
        (manifest.root / f"{number}.png").write_bytes(encode_png(np.full((48, 64, 3), 250, np.uint8)))
    assert choose_reference(manifest).image_id == "2.png"
    (manifest.root / "2.png").write_bytes(b"")
    with pytest.raises(DataError) as error:
        choose_reference(manifest)
    assert error.value.kind == "stain_reference"


def test_normalised_pixels_are_packed_under_their_own_key_and_fallbacks_are_named(manifest, tmp_path):
    (tmp_path / "6.png").write_bytes(encode_png(np.full((48, 64, 3), 250, np.uint8)))
    stained = Preprocessing(32, stain=StainNormaliser(choose_reference(manifest)))
    plain = cache.pack(manifest, Preprocessing(32), tmp_path / "cache")
    for _ in range(2):  # when it is built, and when it is opened again
        packed = cache.pack(manifest, stained, tmp_path / "cache")
        assert packed.fallbacks == ("6.png",)
        assert not np.array_equal(packed[7], plain[7])
        assert np.array_equal(packed[6], plain[6])
    assert stained.stain is not None
    expected, _ = stained.stain.normalise(
        decode(tmp_path / "7.png")
    )  # recoloured at native size, then resized
    assert np.array_equal(packed[7], resize(expected, 32))
    other = Preprocessing(32, stain=StainNormaliser(fit("macenko", "other", tissue(9, 2.5))))
    assert len({packed.source, plain.source, cache.pack(manifest, other, tmp_path / "cache").source}) == 3


def test_without_a_split_there_is_no_reference(manifest):
    with pytest.raises(DataError) as error:
        choose_reference(manifest.with_table(manifest.table.drop(columns="split")))
    assert error.value.kind == "no_split"
    with pytest.raises(DataError) as error:
        choose_reference(manifest, "wishful")
    assert error.value.kind == "stain_method"
