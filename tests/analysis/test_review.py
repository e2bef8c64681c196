"""Marks are kept with author and time, and what leaves images out says so."""

from __future__ import annotations

import json

import pandas as pd
import pytest

from engine.analysis import review
from engine.errors import PredictionsError


def test_a_mark_is_kept_with_author_and_time(tmp_path):
    made = review.mark(tmp_path, "a.png", "wrong-label", "Ana", "looks benign")
    table = review.marks(tmp_path)
    assert table.loc[0, ["image_id", "kind", "author", "note"]].tolist() == [
        "a.png",
        "wrong-label",
        "Ana",
        "looks benign",
    ]
    assert table.loc[0, "time"] == made.time
    assert made.time.endswith("+00:00")


def test_marks_of_two_people_stand_side_by_side_and_can_be_taken_back(tmp_path):
    review.mark(tmp_path, "a.png", "artefact", "Ana")
    review.mark(tmp_path, "a.png", "artefact", "Ben")
    review.mark(tmp_path, "a.png", "artefact", "Ana", remove=True)
    assert review.marks(tmp_path)["author"].tolist() == ["Ben"]
    assert len(review.history(tmp_path)) == 3


def test_a_torn_line_costs_only_itself(tmp_path):
    review.mark(tmp_path, "a.png", "discuss", "Ana")
    with open(tmp_path / review.FILE, "a") as file:
        file.write('{"image_id": "b.p')
    review.mark(tmp_path, "c.png", "discuss", "Ana")
    assert review.marks(tmp_path)["image_id"].tolist() == ["a.png", "c.png"]


def test_any_text_survives_and_no_cell_runs_in_a_spreadsheet(tmp_path):
    note = '=HYPERLINK("x")\n<script>ü'
    review.mark(tmp_path, "a.png", "discuss", "Ana", note)
    assert review.marks(tmp_path).loc[0, "note"] == note
    assert "'=HYPERLINK" in review.export_csv(tmp_path)
    assert len((tmp_path / review.FILE).read_text().splitlines()) == 1
    json.loads((tmp_path / review.FILE).read_text())


@pytest.mark.parametrize(
    ("kind", "author", "note"),
    [("nonsense", "Ana", ""), ("discuss", " ", ""), ("discuss", "Ana", "x" * 3000)],
)
def test_marks_that_make_no_sense_are_refused(tmp_path, kind, author, note):
    with pytest.raises(PredictionsError):
        review.mark(tmp_path, "a.png", kind, author, note)
    assert review.marks(tmp_path).empty


def test_a_sensitivity_analysis_says_what_it_left_out(tmp_path):
    review.mark(tmp_path, "a", "wrong-label", "Ana")
    review.mark(tmp_path, "b", "discuss", "Ana")
    table = pd.DataFrame({"image_id": ["a", "b", "c"]})
    found = review.without_marked(table, review.marks(tmp_path))
    assert found.excluded == ("a",)
    assert found.predictions["image_id"].tolist() == ["b", "c"]
    assert found.label.startswith("Sensitivity analysis: 1 of 3 images left out")
    with pytest.raises(PredictionsError, match="nothing is left"):
        review.without_marked(table[:1], review.marks(tmp_path))


def test_undo_takes_the_last_step_of_the_same_person_back_and_twice_redoes_it(tmp_path):
    assert review.undo(tmp_path, "Ana") is None
    review.mark(tmp_path, "a", "discuss", "Ana", "look")
    review.mark(tmp_path, "a", "discuss", "Ben")
    review.undo(tmp_path, "Ana")
    assert review.marks(tmp_path)["author"].tolist() == ["Ben"]
    review.undo(tmp_path, "Ana")
    again = review.marks(tmp_path).set_index("author")
    assert again.loc["Ana", "note"] == "look"


def test_flags_name_every_kind_of_an_image_once(tmp_path):
    for who in ("Ana", "Ben"):
        review.mark(tmp_path, "a", "wrong-label", who)
    review.mark(tmp_path, "a", "artefact", "Ben")
    assert review.flags(review.marks(tmp_path)) == {"a": "wrong label, artefact"}
