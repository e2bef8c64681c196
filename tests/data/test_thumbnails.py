"""Thumbnails are made once, follow the file, and never stand in the way."""

import io

import numpy as np
import pandas as pd
from PIL import Image

from engine.data import thumbnails
from engine.data.images import encode_png
from engine.data.manifest import CLASSES, COLUMNS, Manifest
from engine.errors import DataError


def test_thumbnails_are_stored_and_follow_the_file(tmp_path, monkeypatch):
    path = tmp_path / "a.png"
    path.write_bytes(encode_png(np.zeros((46, 70, 3), np.uint8)))
    first = thumbnails.thumbnail_jpeg(path, 35, tmp_path / "cache")
    assert Image.open(io.BytesIO(first)).size == (35, 23)
    made = []
    real = thumbnails._made
    monkeypatch.setattr(thumbnails, "_made", lambda *given: made.append(1) or real(*given))
    assert thumbnails.thumbnail_jpeg(path, 35, tmp_path / "cache") == first
    assert made == []
    path.write_bytes(encode_png(np.full((40, 70, 3), 255, np.uint8)))
    assert thumbnails.thumbnail_jpeg(path, 35, tmp_path / "cache") != first
    assert made == [1]


def test_a_page_with_a_broken_image_still_comes(tmp_path):
    (tmp_path / "a.png").write_bytes(encode_png(np.zeros((46, 70, 3), np.uint8)))
    (tmp_path / "b.png").write_bytes(b"")
    rows = [(name, name, "benign", "", "", "", "") for name in ("a.png", "b.png", "gone.png")]
    manifest = Manifest(tmp_path, CLASSES, pd.DataFrame(rows, columns=list(COLUMNS), dtype=str))
    good, empty, gone = thumbnails.thumbnail_page(manifest, [0, 1, 2], 35, tmp_path / "cache")
    assert isinstance(good, bytes)
    assert isinstance(empty, DataError)
    assert isinstance(gone, DataError)
    assert gone.kind == "missing"


def test_a_store_that_cannot_be_written_is_no_obstacle(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(encode_png(np.zeros((46, 70, 3), np.uint8)))
    (tmp_path / "file").write_text("")
    assert thumbnails.thumbnail_jpeg(path, 35, tmp_path / "file")
