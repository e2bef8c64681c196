"""What a measurement answers, and what a failed one says."""

import json
import math

import pytest

from dashboard import measure
from engine.errors import TrainingError


def test_an_answer_is_read_from_the_last_line():
    record = {
        "estimate": {
            "seconds": 61.5,
            "memory_mb": 900.0,
            "seconds_per_epoch": 1,
            "images_per_s": 3,
            "source": "4 steps on cpu",
        }
    }
    found = measure.read(0, f"a warning\n{json.dumps(record)}\n", "")
    assert math.isclose(found.seconds, 61.5)
    assert found.source == "a measurement, 4 steps on cpu"


@pytest.mark.parametrize(("code", "out", "err"), [(1, "", "Killed"), (0, "", ""), (0, "not json", "x")])
def test_without_an_answer_it_is_said_what_came_instead(code, out, err):
    with pytest.raises(TrainingError, match="The measurement failed"):
        measure.read(code, out, err)


def test_an_error_of_training_is_handed_on():
    record = {"error": {"message": "The device ran out of memory.", "remedy": "Halve the batch"}}
    with pytest.raises(TrainingError, match=r"out of memory.*Halve the batch"):
        measure.read(0, json.dumps(record), "")
