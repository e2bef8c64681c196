"""The packed cache hands out the pixels that decoding would, and is never half there."""

import pickle

import numpy as np
import pandas as pd
import pytest

from engine.data import cache
from engine.data.images import decode, encode_png, resize
from engine.data.manifest import CLASSES, COLUMNS, Manifest
from engine.data.preprocessing import NATIVE, Preprocessing
from engine.errors import DataError

SQUARE = Preprocessing(32)


@pytest.fixture
def manifest(tmp_path) -> Manifest:
    rng = np.random.default_rng(0)
    rows = []
    for number in range(6):
        height = 46 if number % 2 else 45
        name = f"{number}.png"
        (tmp_path / name).write_bytes(encode_png(rng.integers(0, 256, (height, 70, 3), dtype=np.uint8)))
        rows.append((name, name, CLASSES[number % 2], "", f"c{number}", "", ""))
    return Manifest(tmp_path, CLASSES, pd.DataFrame(rows, columns=list(COLUMNS), dtype=str))


@pytest.mark.parametrize(
    "preprocessing",
    [SQUARE, Preprocessing(40, "letterbox", "bilinear"), Preprocessing(32, "square", "bilinear"), NATIVE],
)
def test_packed_pixels_are_the_decoded_pixels(manifest, tmp_path, preprocessing):
    packed = cache.pack(manifest, preprocessing, tmp_path / "cache")
    assert len(packed) == 6
    for row, path in enumerate(manifest.table["path"]):
        expected = decode(manifest.absolute(path))
        if preprocessing.geometry != "tiles":
            how = preprocessing
            expected = resize(expected, how.size, how.geometry, how.interpolation)
        assert np.array_equal(packed[row], expected)


def test_every_interpolation_has_a_cache_of_its_own(manifest, tmp_path):
    area = cache.pack(manifest, SQUARE, tmp_path / "cache")
    bilinear = cache.pack(manifest, Preprocessing(32, "square", "bilinear"), tmp_path / "cache")
    assert area.source != bilinear.source
    assert not np.array_equal(area[0], bilinear[0])


def test_the_order_is_the_manifests_and_one_cache_serves_all_orders(manifest, tmp_path):
    folder = tmp_path / "cache"
    first = cache.pack(manifest, SQUARE, folder)
    reversed_rows = manifest.with_table(manifest.table.iloc[::-1])
    second = cache.pack(reversed_rows, SQUARE, folder)
    assert np.array_equal(first[0], second[5])
    assert len(list(folder.glob("*.pixels"))) == 1


def test_a_cache_travels_to_another_process(manifest, tmp_path):
    packed = cache.pack(manifest, SQUARE, tmp_path / "cache")
    again = pickle.loads(pickle.dumps(packed))
    assert np.array_equal(again[3], packed[3])
    assert not packed[0].flags.writeable


def test_progress_and_reuse(manifest, tmp_path):
    calls = []
    folder = tmp_path / "cache"
    assert not cache.is_packed(manifest, SQUARE, folder)
    cache.pack(manifest, SQUARE, folder, lambda done, total: calls.append((done, total)))
    assert calls[-1] == (6, 6)
    assert cache.is_packed(manifest, SQUARE, folder)
    cache.pack(manifest, SQUARE, folder, lambda done, total: pytest.fail("built twice"))


def test_a_replaced_image_gives_a_new_cache(manifest, tmp_path):
    folder = tmp_path / "cache"
    old = cache.pack(manifest, SQUARE, folder)[0].copy()
    (tmp_path / "0.png").write_bytes(encode_png(np.zeros((50, 70, 3), np.uint8)))
    assert not np.array_equal(cache.pack(manifest, SQUARE, folder)[0], old)


def test_an_unreadable_image_is_named_and_the_rest_is_packed(manifest, tmp_path):
    whole = cache.pack(manifest, SQUARE, tmp_path / "cache")
    (tmp_path / "1.png").write_bytes((tmp_path / "1.png").read_bytes()[:-50])
    (tmp_path / "4.png").write_bytes(b"")
    for _ in range(2):  # when it is built, and when it is opened again
        packed = cache.pack(manifest, SQUARE, tmp_path / "cache")
        assert [(problem.file, problem.kind) for problem in packed.problems] == [
            ("1.png", "truncated"),
            ("4.png", "empty"),
        ]
        assert packed.readable.tolist() == [True, False, True, True, False, True]
        assert all(np.array_equal(packed[row], whole[row]) for row in (0, 2, 3, 5))


def test_where_no_image_can_be_read_nothing_is_left(manifest, tmp_path):
    for number in range(6):
        (tmp_path / f"{number}.png").write_bytes(b"")
    with pytest.raises(DataError) as error:
        cache.pack(manifest, SQUARE, tmp_path / "cache")
    assert "None of the 6 images" in error.value.message
    assert "0.png" in str(error.value.found)
    assert not list((tmp_path / "cache").glob("*.pixels*"))


def test_a_cut_off_cache_is_built_again(manifest, tmp_path):
    folder = tmp_path / "cache"
    good = cache.pack(manifest, SQUARE, folder)[5].copy()
    pixels = next(folder.glob("*.pixels"))
    pixels.write_bytes(pixels.read_bytes()[:-100])
    assert np.array_equal(cache.pack(manifest, SQUARE, folder)[5], good)


def test_a_flipped_bit_in_a_cache_is_noticed_and_it_is_built_again(manifest, tmp_path):
    folder = tmp_path / "cache"
    good = [image.copy() for image in cache.pack(manifest, SQUARE, folder)]
    pixels = next(folder.glob("*.pixels"))
    data = bytearray(pixels.read_bytes())
    for at in (0, len(data) // 2, len(data) - 1):
        data[at] ^= 4
        pixels.write_bytes(data)
        data[at] ^= 4
        again = cache.pack(manifest, SQUARE, folder)
        assert all(np.array_equal(image, whole) for image, whole in zip(again, good, strict=True))


def test_a_full_disk_is_said_beforehand(manifest, tmp_path, monkeypatch):
    monkeypatch.setattr(cache.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 1000})())
    with pytest.raises(DataError) as error:
        cache.pack(manifest, SQUARE, tmp_path / "cache")
    assert error.value.kind == "disk_full"


def test_a_missing_image_is_named(manifest, tmp_path):
    (tmp_path / "2.png").unlink()
    with pytest.raises(DataError) as error:
        cache.pack(manifest, SQUARE, tmp_path / "cache")
    assert error.value.kind == "missing"
    assert "2.png" in error.value.message
