"""Confusion matrices as small multiples say what the counts say: cells, clicks, one scale, names as text."""

from __future__ import annotations

import pytest

from engine.report import confusion, theme

CLASSES = ("benign", "malignant")
FIRST = confusion.Row("a", "First", "#44AA99", {"40X": [[8, 2], [1, 9]], "all": [[16, 4], [2, 18]]})
SECOND = confusion.Row("b", "Second", "#CC6677", {"40X": [[5, 5], [0, 10]], "all": [[12, 8], [1, 19]]})


def cells(fig) -> dict[tuple, str]:
    texts, points = fig.data
    return {tuple(data): text for data, text in zip(points.customdata, texts.text, strict=True)}


def fills(fig) -> list[str]:
    return [shape.fillcolor for shape in fig.layout.shapes if shape.layer == "below"]


def test_every_cell_carries_its_count_and_what_a_click_must_know():
    shown = cells(confusion.figure([FIRST, SECOND], ["40X", "all"], CLASSES))
    assert len(shown) == 2 * 2 * 4
    assert shown["a", "40X", "benign", "malignant"] == "2"
    assert shown["b", "all", "malignant", "malignant"] == "19"


def test_percent_and_difference_are_of_the_true_class():
    assert (
        cells(confusion.figure([FIRST], ["40X"], CLASSES, mode="percent"))["a", "40X", "benign", "benign"]
        == "80.0"
    )
    shown = cells(confusion.figure([SECOND], ["40X"], CLASSES, mode="difference", against=FIRST))
    assert shown["b", "40X", "benign", "benign"] == "-30.0"
    assert shown["b", "40X", "malignant", "malignant"] == "+10.0"
    with pytest.raises(ValueError, match="subtracted"):
        confusion.figure([SECOND], ["40X"], CLASSES, mode="difference")
    with pytest.raises(ValueError, match="mode"):
        confusion.figure([SECOND], ["40X"], CLASSES, mode="ratio")


@pytest.mark.parametrize("dark", [False, True])
def test_matrices_of_any_size_share_one_scale(dark):
    found = fills(confusion.figure([FIRST], ["40X", "all"], CLASSES, dark=dark))
    assert found[0] == found[4]  # 8 of 10 and 16 of 20 are the same share, so the same colour
    gaps = fills(confusion.figure([SECOND], ["40X"], CLASSES, mode="difference", against=FIRST, dark=dark))
    assert gaps[0] == (theme.DIVERGING_DARK if dark else theme.DIVERGING)[0][1]  # 25 points or more


def test_a_class_without_images_is_not_applicable():
    row = confusion.Row("a", "a", "#000000", {"all": [[0, 0], [1, 3]]})
    fig = confusion.figure([row], ["all"], CLASSES, mode="percent")
    assert list(fig.data[0].text) == ["n/a", "n/a", "25.0", "75.0"]
    assert any((note.text or "").startswith("n/a · n = 4") for note in fig.layout.annotations)


def test_names_are_text_whoever_chose_them():
    row = confusion.Row("a", "<b>name</b>", "#000000", {"<i>x</i>": [[1, 0], [0, 1]]})
    fig = confusion.figure([row], ["<i>x</i>"], ("<u>one</u>", "two"))
    texts = "".join(note.text for note in fig.layout.annotations)
    assert not any(tag in texts for tag in ("<b>name", "<i>x", "<u>"))


def test_letters_tell_the_classes_apart():
    assert confusion.legend(CLASSES) == "B = benign, M = malignant"
    assert confusion.short_names(("A", "F", "PT", "TA")) == ["A", "F", "PT", "TA"]
    assert confusion.short_names(("lobular", "luminal")) == ["LO", "LU"]


def test_one_slice_that_holds_everything_is_drawn_once():
    assert confusion.columns(["40X", "all"]) == (["all"], {"all": "all (40X)"})
    assert confusion.columns(["0", "all"], {"0": "fold 0"}) == (["all"], {"all": "all (fold 0)"})
    assert confusion.columns(["40X", "100X", "all"]) == (["40X", "100X", "all"], {})
