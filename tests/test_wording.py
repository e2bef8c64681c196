"""Numbers and times are worded alike on pages, in reports and on the command line."""

import pytest

from engine import wording


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.4, "0 s"),
        (59.4, "59 s"),
        (59.6, "1 min 00 s"),
        (185, "3 min 05 s"),
        (3599.7, "1 h 00 min"),
        (7500, "2 h 05 min"),
        (-3, "0 s"),
        (None, "n/a"),
        (float("nan"), "n/a"),
    ],
)
def test_a_duration_is_rounded_once(seconds, words):
    assert wording.duration(seconds) == words


def test_one_is_one():
    assert wording.counted(1, "case") == "1 case"
    assert wording.counted(1234, "image") == "1,234 images"
    assert wording.counted(2, "class", "classes") == "2 classes"


def test_no_sign_of_markdown_keeps_its_meaning():
    text = "*a* [b](c) <i>d</i> `e` $f$ #g :h: ~i~"
    shown = wording.escaped(text)
    assert shown.replace("\\", "") == text
    for position, sign in enumerate(shown):
        if sign in "*[]()<>`$#:~":
            assert shown[position - 1] == "\\"


def test_a_difference_has_its_sign_and_zero_has_none():
    assert wording.signed(0.065, 0.017, 0.115) == "+0.065 [+0.017, +0.115]"
    assert wording.signed(-0.017, -0.066, 0.023) == "−0.017 [−0.066, +0.023]"
    assert wording.signed(-0.0001) == wording.signed(0.0) == "0.000"
    assert wording.signed(-0.15, float("nan"), float("nan")) == "−0.150"
    assert wording.signed(float("nan")) == "n/a"
