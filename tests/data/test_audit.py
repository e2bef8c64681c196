"""The audit names what leaks, in one sentence that a badge can show."""

import pandas as pd
import pytest

from engine.data.audit import audit
from engine.errors import SplitError


def table(*rows: tuple[str, str, str]) -> pd.DataFrame:
    frame = pd.DataFrame(rows, columns=["case", "slide", "split"])
    return frame.assign(image_id=[f"{number}.png" for number in range(len(frame))])


def test_a_case_on_two_sides_is_named():
    report = audit(
        table(("14-1", "s1", "train"), ("14-1", "s2", "test"), ("14-2", "s3", "val"), ("14-3", "s4", "train"))
    )
    assert report.level == "leak"
    assert not report.clean
    assert report.shared_cases == {"14-1": ("train", "test")}
    assert report.shared_slides == {}
    assert report.leaking_images == {"val": 0, "test": 1}
    assert "1 of 3 cases" in report.verdict
    assert "14-1" in report.verdict


def test_images_that_leak_are_counted_on_the_side_that_judges():
    """Case 1: three images in train, one in val, two in test. Case 2: val and test only."""
    rows = [("1", "a", "train")] * 3 + [("1", "a", "val")] + [("1", "a", "test")] * 2
    rows += [("2", "b", "val")] * 4 + [("2", "b", "test")] * 5 + [("3", "c", "test")] * 7
    report = audit(table(*rows))
    assert report.leaking_images == {"val": 1, "test": 2 + 5}
    assert report.pairs == {"train-val": 1, "train-test": 1, "val-test": 2}
    assert report.verdict.startswith("Leaks: 2 of 3 cases are on more than one side")


def test_no_more_than_three_cases_are_named():
    for count, ending in (
        (1, "among them 0."),
        (3, "among them 0, 1, 2."),
        (4, "among them 0, 1, 2 and 1 more."),
    ):
        rows = [(str(case), f"s{case}", side) for case in range(count) for side in ("train", "test")]
        verdict = audit(table(*rows)).verdict
        assert verdict.endswith(ending)
        assert (" case is " in verdict or "cases is " in verdict) == (count == 1)


def test_twin_images_on_two_sides_leak_even_between_cases():
    clean = table(("1", "a", "train"), ("2", "b", "val"), ("3", "c", "test"))
    twins = pd.DataFrame(
        [{"a": "0.png", "b": "2.png", "distance": 3, "position": "as it is", "exact": False}]
    )
    report = audit(clean, twins)
    assert (audit(clean).level, report.level) == ("clean", "leak")
    assert "0.png and 2.png" in report.verdict
    assert report.near_duplicates is not None
    assert [(one["split_a"], one["split_b"]) for one in report.near_duplicates] == [("train", "test")]
    same_side = audit(clean.assign(split=["test", "val", "test"]), twins)
    assert (same_side.level, same_side.near_duplicates) == ("clean", ())


def test_a_clean_split_says_how_many_cases_it_looked_at():
    report = audit(table(("14-1", "s1", "train"), ("14-2", "s2", "val"), ("14-3", "s3", "test")))
    assert report.clean
    assert report.verdict == "Clean: no case is on two sides (3 cases)."


@pytest.mark.parametrize("sides", [("train", "val"), ("val", "test"), ("train", "test")])
def test_every_pair_of_sides_is_looked_at(sides):
    report = audit(table(("14-1", "s", sides[0]), ("14-1", "s", sides[1])))
    assert report.shared_cases == {"14-1": sides}
    assert report.shared_slides == {"s": sides}
    assert report.pairs[f"{sides[0]}-{sides[1]}"] == 1


def test_unknown_cases_are_never_called_clean():
    assert audit(table(("", "", "train"), ("", "", "test"))).level == "unknown"
    mixed = audit(table(("14-1", "s1", "train"), ("14-2", "s2", "val"), ("", "", "test")))
    assert mixed.level == "unknown"
    assert "1 of 3 images" in mixed.verdict


def test_a_shared_slide_leaks_even_where_cases_are_unknown():
    assert audit(table(("", "s1", "train"), ("", "s1", "test"))).level == "leak"


def test_a_table_without_cases_is_unknown():
    assert audit(pd.DataFrame({"image_id": ["a", "b"], "split": ["train", "test"]})).level == "unknown"


def test_a_table_without_split_is_refused():
    with pytest.raises(SplitError) as error:
        audit(pd.DataFrame({"image_id": ["a"], "case": ["14-1"]}))
    assert error.value.kind == "no_split_column"


def test_the_record_is_plain_json():
    import json

    record = audit(table(("14-1", "s1", "train"), ("14-1", "s1", "test"))).as_record()
    assert json.loads(json.dumps(record)) == record
    assert record["shared_cases"] == {"14-1": ["train", "test"]}


def test_the_same_slide_at_another_magnification_is_counted():
    frame = table(("14-1", "s1", "train"), ("14-1", "s1", "test"), ("14-2", "s2", "test"))
    report = audit(frame.assign(magnification=["40X", "100X", "40X"]))
    assert report.other_magnification == {"val": 0, "test": 1}
    assert "another magnification" in report.as_text()


def test_two_labels_for_one_thing_are_named():
    frame = table(("14-1", "s1", "train"), ("14-1", "s1", "train"), ("14-2", "s2", "test"))
    report = audit(frame.assign(label=["benign", "malignant", "benign"]))
    assert report.label_conflicts == (
        "Slide s1 is filed under the classes benign and malignant.",
        "Case 14-1 is filed under the labels benign and malignant.",
    )


def test_the_case_with_two_subtypes_is_no_conflict_where_one_of_them_is_left():
    frame = table(("14-13412", "a", "train"), ("14-13412", "b", "train")).assign(subtype="DC")
    assert audit(frame).label_conflicts == ()


def test_the_case_with_two_subtypes_is_named():
    frame = table(("14-13412", "a", "train"), ("14-13412", "b", "train")).assign(subtype=["DC", "LC"])
    assert "14-13412 is filed under the subtypes DC and LC" in audit(frame).label_conflicts[0]
