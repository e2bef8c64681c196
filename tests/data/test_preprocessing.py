"""One preprocessing for training, prediction and explanation, which its record brings back."""

import json

import numpy as np
import pytest
from test_stain import tissue

from engine.data.images import cut_tiles, resize
from engine.data.preprocessing import NATIVE, Preprocessing
from engine.data.stain import StainNormaliser, fit
from engine.errors import DataError

IMAGE = tissue(3, 1.2)


@pytest.mark.parametrize("geometry", ["square", "letterbox", "tiles"])
@pytest.mark.parametrize("stain", [None, StainNormaliser(fit("macenko", "x.png", tissue(8, 0.5)))])
def test_a_record_brings_back_the_same_pixels(geometry, stain):
    one = Preprocessing(32, geometry, "bilinear", stain)
    again = Preprocessing.from_record(json.loads(json.dumps(one.as_record())))
    assert again.key == one.key
    assert np.array_equal(again.squares(IMAGE), one.squares(IMAGE))
    assert one.squares(IMAGE).shape[1:] == (32, 32, 3)


def test_the_study_resizes_bilinearly_and_others_by_area():
    import cv2

    bilinear = cv2.resize(IMAGE, (16, 16), interpolation=cv2.INTER_LINEAR)
    area = cv2.resize(IMAGE, (16, 16), interpolation=cv2.INTER_AREA)
    assert np.array_equal(Preprocessing(16, interpolation="bilinear").squares(IMAGE)[0], bilinear)
    assert np.array_equal(Preprocessing(16).squares(IMAGE)[0], area)
    with pytest.raises(DataError) as error:
        resize(IMAGE, 16, interpolation="guess")
    assert error.value.kind == "interpolation"


def test_tiles_are_cut_from_native_pixels():
    assert np.array_equal(Preprocessing(32, "tiles").squares(IMAGE), cut_tiles(IMAGE, 32))
    assert NATIVE.key == Preprocessing(32, "tiles", "bilinear").key  # they share a cache


def test_records_from_before_there_was_a_choice_are_by_area():
    assert Preprocessing.from_record({"image_size": 32, "geometry": "square"}) == Preprocessing(32)
