"""The contact sheet of a batch: the pixels of the run's own preprocessing, drawn by a process of its own."""

import io

import numpy as np
import pytest
from PIL import Image

from dashboard import batch_preview, pixel_preview
from engine.data.images import encode_png
from engine.data.preprocessing import Preprocessing
from engine.data.stain import StainNormaliser, fit
from engine.errors import DataError


def tissue(seed: int) -> np.ndarray:
    """Two stains of random strength per pixel, by Beer-Lambert; fine enough that interpolations differ."""
    strengths = np.random.default_rng(seed).random((92, 140, 2)) * (1.6, 0.3 + seed)
    vectors = np.array([[0.58, 0.74, 0.35], [0.22, 0.83, 0.44]])
    return (240 * np.exp(-strengths @ vectors)).clip(0, 255).astype(np.uint8)


@pytest.mark.slow
def test_a_sheet_shows_interpolation_and_stain_of_the_run_and_names_what_failed(tmp_path):
    image, blank = tissue(1), np.full((92, 140, 3), 250, np.uint8)
    paths = [tmp_path / "image.png", tmp_path / "blank.png"]
    for path, pixels in zip(paths, (image, blank), strict=True):
        path.write_bytes(encode_png(pixels))
    plain = Preprocessing(32, "square", "bilinear")
    seen = Preprocessing(32, "square", "bilinear", StainNormaliser(fit("macenko", "other.png", tissue(0))))
    png, own_colours = batch_preview.sheet(paths, "none", seen.as_record(), 2)
    sheet = np.asarray(Image.open(io.BytesIO(png)))
    assert own_colours == [1]
    step = 32 + batch_preview.GAP
    assert sheet.shape == (2 * step - batch_preview.GAP, 4 * step - batch_preview.GAP, 3)
    cells = [sheet[:32, k * step : k * step + 32] for k in range(4)]
    assert np.array_equal(cells[0], plain.squares(image)[0])
    for cell in cells[1:]:
        assert np.array_equal(cell, seen.squares(image)[0])
    assert not np.array_equal(cells[1], Preprocessing(32, "square", "area", seen.stain).squares(image)[0])
    said = pixel_preview.batch_caption("none", seen, "image", 2, own_colours)
    assert "recoloured by macenko after other.png" in said
    assert "bilinear interpolation" in said
    assert said.endswith("Not normalised, in its own colours: row 2.")


@pytest.mark.slow
def test_an_image_that_is_gone_is_a_sentence(tmp_path):
    with pytest.raises(DataError, match="cannot be drawn"):
        batch_preview.sheet([tmp_path / "gone.png"], "none", Preprocessing(32).as_record(), 1)
