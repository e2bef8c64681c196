"""The packed cache hands out the pixels that decoding would, and is never half there."""

import pickle

import numpy as np
import pandas as pd
import pytest

from engine.data import cache
from engine.data.images import decode, encode_png, resize
from engine.data.manifest import CLASSES, COLUMNS, Manifest
from engine.errors import DataError


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
    ("size", "geometry"), [(32, "square"), (40, "letterbox"), (None, "tiles"), (32, "tiles")]
)
def test_packed_pixels_are_the_decoded_pixels(manifest, tmp_path, size, geometry):
    packed = cache.pack(manifest, size, geometry, tmp_path / "cache")
    assert len(packed) == 6
    for row, path in enumerate(manifest.table["path"]):
        expected = decode(manifest.absolute(path))
        if geometry != "tiles":
            expected = resize(expected, size, geometry)
        assert np.array_equal(packed[row], expected)


def test_the_order_is_the_manifests_and_one_cache_serves_all_orders(manifest, tmp_path):
    folder = tmp_path / "cache"
    first = cache.pack(manifest, 32, "square", folder)
    reversed_rows = manifest.with_table(manifest.table.iloc[::-1])
    second = cache.pack(reversed_rows, 32, "square", folder)
    assert np.array_equal(first[0], second[5])
    assert len(list(folder.glob("*.pixels"))) == 1


def test_a_cache_travels_to_another_process(manifest, tmp_path):
    packed = cache.pack(manifest, 32, "square", tmp_path / "cache")
    again = pickle.loads(pickle.dumps(packed))
    assert np.array_equal(again[3], packed[3])
    assert not packed[0].flags.writeable


def test_progress_and_reuse(manifest, tmp_path):
    calls = []
    folder = tmp_path / "cache"
    assert not cache.is_packed(manifest, 32, "square", folder)
    cache.pack(manifest, 32, "square", folder, lambda done, total: calls.append((done, total)))
    assert calls[-1] == (6, 6)
    assert cache.is_packed(manifest, 32, "square", folder)
    cache.pack(manifest, 32, "square", folder, lambda done, total: pytest.fail("built twice"))


def test_a_replaced_image_gives_a_new_cache(manifest, tmp_path):
    folder = tmp_path / "cache"
    old = cache.pack(manifest, 32, "square", folder)[0].copy()
    (tmp_path / "0.png").write_bytes(encode_png(np.zeros((50, 70, 3), np.uint8)))
    assert not np.array_equal(cache.pack(manifest, 32, "square", folder)[0], old)


def test_an_unreadable_image_is_named_and_nothing_is_left(manifest, tmp_path):
    (tmp_path / "4.png").write_bytes(b"")
    folder = tmp_path / "cache"
    with pytest.raises(DataError) as error:
        cache.pack(manifest, 32, "square", folder)
    assert "4.png" in error.value.message
    assert not list(folder.glob("*.pixels*"))


def test_a_cut_off_cache_is_built_again(manifest, tmp_path):
    folder = tmp_path / "cache"
    good = cache.pack(manifest, 32, "square", folder)[5].copy()
    pixels = next(folder.glob("*.pixels"))
    pixels.write_bytes(pixels.read_bytes()[:-100])
    assert np.array_equal(cache.pack(manifest, 32, "square", folder)[5], good)


def test_a_full_disk_is_said_beforehand(manifest, tmp_path, monkeypatch):
    monkeypatch.setattr(cache.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 1000})())
    with pytest.raises(DataError) as error:
        cache.pack(manifest, 32, "square", tmp_path / "cache")
    assert error.value.kind == "disk_full"


def test_a_missing_image_is_named(manifest, tmp_path):
    (tmp_path / "2.png").unlink()
    with pytest.raises(DataError) as error:
        cache.pack(manifest, 32, "square", tmp_path / "cache")
    assert error.value.kind == "missing"
    assert "2.png" in error.value.message


def test_normalised_pixels_have_a_cache_of_their_own(manifest, tmp_path):
    folder = tmp_path / "cache"
    plain = cache.pack(manifest, 32, "square", folder)
    inverted = cache.pack(
        manifest, 32, "square", folder, normalise=lambda image: 255 - image, normalise_key="inverted"
    )
    assert not np.array_equal(plain[0], inverted[0])
    assert len(list(folder.glob("*.pixels"))) == 2
