"""The cache folder keeps below its limit: the least recently used goes, what is being read stays."""

import os

import numpy as np
import pandas as pd
import pytest

from engine.data import cache, cache_room
from engine.data.images import encode_png
from engine.data.manifest import CLASSES, COLUMNS, Manifest
from engine.data.preprocessing import Preprocessing
from engine.data.thumbnails import thumbnail_jpeg
from engine.errors import ConfigError


@pytest.fixture
def manifest(tmp_path) -> Manifest:
    rows = []
    for number in range(4):
        name = f"{number}.png"
        (tmp_path / name).write_bytes(encode_png(np.full((46, 70, 3), number, np.uint8)))
        rows.append((name, name, CLASSES[number % 2], "", "", "", ""))
    return Manifest(tmp_path, CLASSES, pd.DataFrame(rows, columns=list(COLUMNS), dtype=str))


def packed(manifest, folder, size: int, used_at: float):
    """A cache of 4 x size x size x 3 bytes that was last used at this time."""
    one = cache.pack(manifest, Preprocessing(size), folder)
    os.utime(one.source.with_suffix(".json"), (used_at, used_at))
    return one


def test_the_least_recently_used_goes_first_and_a_sentence_says_so(manifest, tmp_path):
    folder = tmp_path / "cache"
    old, new = packed(manifest, folder, 16, 1000.0).source, packed(manifest, folder, 20, 2000.0).source
    said: list[str] = []
    gone = cache_room.prune(folder, 5000, said.append)
    assert [entry.files[1] for entry in gone] == [old]
    assert new.is_file()
    assert not old.is_file()
    assert not old.with_suffix(".json").is_file()
    assert len(said) == 1
    assert "Forgot 1 copy" in said[0]


def test_using_a_cache_makes_it_recent(manifest, tmp_path):
    folder = tmp_path / "cache"
    first, second = packed(manifest, folder, 16, 1000.0).source, packed(manifest, folder, 20, 2000.0).source
    cache.pack(manifest, Preprocessing(16), folder)
    assert [entry.files[1] for entry in cache_room.entries(folder)] == [second, first]


def test_what_is_being_read_is_never_forgotten(manifest, tmp_path):
    folder = tmp_path / "cache"
    reading = packed(manifest, folder, 16, 1000.0)
    source = reading.source
    assert cache_room.prune(folder, 0) == []
    assert source.is_file()
    del reading
    assert len(cache_room.prune(folder, 0)) == 1
    assert not source.is_file()


def test_packing_keeps_the_folder_below_its_limit(manifest, tmp_path, monkeypatch):
    folder = tmp_path / "cache"
    monkeypatch.setenv("BREAKHIS_CACHE_GB", "0.00001")  # 10,000 bytes
    said: list[str] = []
    for size in (16, 20, 24, 28):  # 3,072 to 9,408 bytes
        cache.pack(manifest, Preprocessing(size), folder, say=said.append)
        assert sum(entry.bytes for entry in cache_room.entries(folder)) <= 10_000
    assert said
    assert cache.is_packed(manifest, Preprocessing(28), folder)
    assert not cache.is_packed(manifest, Preprocessing(16), folder)


def test_a_full_disk_is_relieved_of_old_caches_before_anything_is_refused(manifest, tmp_path, monkeypatch):
    folder = tmp_path / "cache"
    old = packed(manifest, folder, 16, 1000.0).source
    free = type("Usage", (), {"free": cache._SPARE_BYTES + 4000})()
    monkeypatch.setattr(cache.shutil, "disk_usage", lambda path: free)
    monkeypatch.setattr(
        cache_room, "_forget", lambda entry, real=cache_room._forget: _freeing(free, real, entry)
    )
    cache.pack(manifest, Preprocessing(20), folder)  # 4,800 bytes
    assert not old.is_file()


def _freeing(free, forget, entry) -> bool:
    free.free += entry.bytes
    return forget(entry)


def test_thumbnails_and_features_count_too(manifest, tmp_path):
    folder = tmp_path / "cache"
    thumbnail_jpeg(manifest.absolute("0.png"), cache_dir=folder)
    np.save(folder / "features-x.npy", np.zeros(100))
    packed(manifest, folder, 16, 1000.0)
    assert {entry.kind for entry in cache_room.entries(folder)} == {"pixels", "features", "thumbnails"}
    text = cache_room.as_text(folder, cache_room.entries(folder))
    assert f"4 images of {tmp_path}, 16/square/area" in text
    cache_room.prune(folder, 0)
    assert cache_room.entries(folder) == []


@pytest.mark.parametrize("given", ["lots", "-1", "0", "nan", "inf"])
def test_a_limit_that_is_no_size_is_a_sentence(monkeypatch, given):
    monkeypatch.setenv("BREAKHIS_CACHE_GB", given)
    with pytest.raises(ConfigError) as error:
        cache_room.limit_bytes()
    assert given in str(error.value.found)
