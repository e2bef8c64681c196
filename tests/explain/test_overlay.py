"""Pictures of maps: right pixels, at once, without torch."""

from __future__ import annotations

import subprocess
import sys
import time

import numpy as np
import pytest

from engine.errors import ExplainError
from engine.explain import overlay


@pytest.fixture
def image():
    return np.random.default_rng(0).integers(0, 255, (460, 700, 3), dtype=np.uint8)


@pytest.fixture
def heat():
    rows, columns = np.mgrid[:460, :700]
    return np.exp(-((rows - 100) ** 2 + (columns - 500) ** 2) / 5000).astype(np.float32)


def test_an_even_opacity_mixes_image_and_colours(image, heat):
    np.testing.assert_array_equal(overlay.overlay(image, heat, 0.0, even=True), image)
    np.testing.assert_array_equal(overlay.overlay(image, heat, 1.0, even=True), overlay.colourise(heat))
    half = overlay.overlay(image, heat, 0.5, even=True).astype(float)
    expected = (image.astype(float) + overlay.colourise(heat)) / 2
    assert np.abs(half - expected).max() <= 1


@pytest.mark.parametrize("colour_map", ["inferno", "viridis", "jet", "signed"])
def test_tissue_without_evidence_stays_as_it_is(image, heat, colour_map):
    heat = np.where(heat < 0.1, 0, heat)
    drawn = overlay.overlay(image, heat, 0.7, colour_map)
    np.testing.assert_array_equal(drawn[heat == 0], image[heat == 0])
    darkened = overlay.overlay(image, heat, 0.7, colour_map, even=True)
    assert (darkened[heat == 0] != image[heat == 0]).mean() > 0.9


def test_the_opacity_of_the_colours_follows_the_heat(image):
    heat = np.array([[0.0, 1.0, 2.0, 4.0]], np.float32)
    row = image[:1, :4]
    weights = 0.6 * np.array([0, 0.25, 0.5, 1])[None, :, None]
    expected = row * (1 - weights) + overlay.colourise(heat) * weights
    assert np.abs(overlay.overlay(row, heat, 0.6) - expected).max() <= 1


def test_strength_is_the_share_of_the_scale_and_counts_evidence_against(heat):
    assert overlay.strength(heat).max() == pytest.approx(1)
    assert overlay.strength(heat, scale=(0.0, 4.0)).max() == pytest.approx(0.25)
    np.testing.assert_array_equal(overlay.strength(-heat, "signed"), overlay.strength(heat))
    assert not overlay.strength(np.zeros((4, 4), np.float32)).any()


def test_a_browser_that_lays_the_veil_over_the_image_shows_the_overlay(image, heat):
    """What `synced_view` does with a style is what `overlay` computes."""
    veil = overlay.veil(heat, "viridis").astype(float)
    weights = 0.7 * veil[..., 3:] / 255
    shown = image * (1 - weights) + veil[..., :3] * weights
    assert np.abs(shown - overlay.overlay(image, heat, 0.7, "viridis")).max() <= 1.5


def test_colours_are_the_published_tables():
    """First, middle and last colour of matplotlib's own tables."""
    import matplotlib

    for record in overlay.COLOUR_MAPS:
        if not record.uniform:
            continue
        published = matplotlib.colormaps[record.name](np.arange(256), bytes=True)[:, :3].astype(int)
        assert np.abs(overlay.colours(record.name).astype(int) - published).max() <= 2, record.name


def test_uniform_maps_get_steadily_lighter_and_jet_does_not():
    for record in overlay.COLOUR_MAPS:
        luma = overlay.colours(record.name) @ np.array([0.2126, 0.7152, 0.0722])
        assert (np.diff(luma[::16]) > 0).all() == record.uniform, record.name


def test_a_shared_scale_keeps_strength(heat):
    weak = overlay.colourise(heat * 0.2, scale=overlay.heat_range([heat, heat * 0.2]))
    strong = overlay.colourise(heat, scale=overlay.heat_range([heat, heat * 0.2]))
    assert weak.max() < strong.max()
    np.testing.assert_array_equal(
        overlay.colourise(heat * 0.2), overlay.colourise(heat)
    )  # own scale hides it


def test_a_map_of_zeros_is_the_first_colour_and_has_no_contour(image):
    zero = np.zeros((460, 700), np.float32)
    assert (overlay.colourise(zero) == overlay.colours("inferno")[0]).all()
    assert overlay.contours(zero) == []
    np.testing.assert_array_equal(overlay.overlay(image, zero, 0, contour_top=0.15), image)


def test_the_signed_colours_are_white_at_zero():
    values = np.array([[-2.0, 0.0, 1.0]], np.float32)
    left, middle, right = overlay.colourise(values, "signed")[0].astype(int)
    assert left[2] > left[0]  # blue against
    assert middle.min() > 250
    assert right[0] > right[2]  # orange for


def test_the_contour_encloses_the_hottest_share(heat):
    mask = overlay.top_mask(heat, 0.15)
    assert mask.mean() == pytest.approx(0.15, abs=0.001)
    assert mask[100, 500]
    lines = overlay.contours(heat, 0.15)
    assert len(lines) == 1
    assert lines[0][:, 0].min() < 500 < lines[0][:, 0].max()


def test_a_map_of_another_image_is_refused(image):
    with pytest.raises(ExplainError, match="does not belong"):
        overlay.overlay(image[:456], np.zeros((460, 700), np.float32))


def test_an_unknown_colour_map_is_refused(image, heat):
    with pytest.raises(ExplainError, match="inferno"):
        overlay.overlay(image, heat, colour_map="rainbow")


@pytest.mark.parametrize(
    ("magnification", "microns", "pixels"),
    [("40X", "50 µm", 102), ("100X", "20 µm", 102), ("200X", "10 µm", 102), ("400X", "5 µm", 102)],
)
def test_the_scale_bar_is_as_long_as_it_says(magnification, microns, pixels):
    length, label = overlay.bar_length(700, overlay.MICRONS_PER_PIXEL[magnification])
    assert label == microns
    assert length == pytest.approx(pixels, abs=1)
    drawn = overlay.scale_bar(np.full((460, 700, 3), 200, np.uint8), magnification)
    dark = (drawn.max(axis=2) < 10).sum(axis=1)
    assert dark.max() == length  # the bar itself is the longest dark row


def test_the_label_can_be_read_the_font_has_a_mu():
    font = overlay._font(20)
    assert bytes(font.getmask("µ")) != bytes(font.getmask("\uffff"))  # not the box of a missing letter


def test_without_a_known_magnification_there_is_no_bar(image):
    assert overlay.scale_bar(image, "") is image


def test_a_slider_needs_no_torch_and_answers_at_once():
    code = (
        "import sys, time, numpy as np\n"
        "from engine.explain import overlay, store, methods, ensemble_map, runs\n"
        "assert 'torch' not in sys.modules and 'matplotlib' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=_root())


def test_an_overlay_takes_less_than_150_ms(image, heat):
    overlay.overlay(image, heat)
    started = time.perf_counter()
    for opacity in np.linspace(0, 1, 5):
        overlay.overlay(image, heat, float(opacity), "viridis", contour_top=0.15)
    assert (time.perf_counter() - started) / 5 < 0.15


def _root():
    from pathlib import Path

    return Path(__file__).resolve().parents[2]
