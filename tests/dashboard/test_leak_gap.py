"""The leakage gap on the page: what the probe said, drawn; what went wrong, said."""

import json

import pytest

from dashboard import leak_gap

RECORD = {
    "verdict": "Leakage is worth 20 points.",
    "scores": [
        {"representation": name, "split": split, "balanced_accuracy": value, "low": value - 0.05, "high": value + 0.04}
        for name, split, value in (("features", "image", 0.88), ("features", "case", 0.68), ("colour", "image", 0.8), ("colour", "case", 0.5))
    ],
    "gaps": [],
}  # fmt: skip


def test_the_figure_puts_both_splits_of_a_representation_on_one_line():
    fig, alt = leak_gap.figure(RECORD)
    assert [trace.name for trace in fig.data] == ["patients on both sides", "patients kept apart"]
    assert list(fig.data[0].y) == list(fig.data[1].y) == ["Pretrained features", "Colour histogram only"]
    assert list(fig.data[1].x) == [0.68, 0.5]
    assert fig.data[0].error_x.array[0] == pytest.approx(0.04)
    assert "Pretrained features, split by case: 0.680 [0.630, 0.720]" in alt


def test_few_cases_are_said_beside_the_number_of_cases():
    few = {"warning": "only 8 benign cases: the interval is rough", "n": 174, "cases": 20}
    record = {**RECORD, "scores": [{**row, **few} for row in RECORD["scores"]], "left_out": ["a.png"]}
    assert leak_gap.counts_of(record) == (
        " n = 174 images, 20 cases. Only 8 benign cases: the interval is rough. 1 image could not be decoded."
    )


def test_a_stored_answer_is_shown_and_belongs_to_the_data_as_it_is(app, said, runs_dir, tmp_path):
    import fabricate

    data = tmp_path / "data"
    fabricate.write_images(data, cases=3, images=1)
    target = leak_gap.answer_file(str(data))
    target.parent.mkdir(parents=True)
    target.write_text(json.dumps(RECORD), encoding="utf-8")
    at = app("dataset", data=str(data), view="Leakage gap")
    assert not at.exception
    assert "Leakage is worth 20 points." in said(at)
    (data / "benign" / "new folder").mkdir()
    assert leak_gap.answer_file(str(data)) != target


def test_without_an_answer_the_gap_can_be_measured_and_nothing_starts_by_itself(
    app, said, tmp_path, monkeypatch
):
    import fabricate

    data = tmp_path / "data"
    fabricate.write_images(data, cases=3, images=1)
    monkeypatch.setattr(leak_gap, "start", lambda *_: pytest.fail("started without being asked"))
    at = app("dataset", data=str(data), view="Leakage gap")
    assert not at.exception
    assert at.button(key="gap").label == "Measure the gap"


def test_a_probe_that_failed_says_why(tmp_path):
    (tmp_path / "x.log").write_text("Traceback\nError: no case is known.\n", encoding="utf-8")
    assert "no case is known" in str(leak_gap.failure(tmp_path / "x.json"))


def test_the_bar_follows_the_probe_phase_by_phase(tmp_path):
    assert leak_gap.progress_of([]) == (0.0, "Starting")
    lines = ["Packing images: 1,200 of 7,909", "Pretrained features: 4,000 of 8,000", "a warning of torch"]
    assert leak_gap.progress_of(lines) == (0.375, "Pretrained features: 4,000 of 8,000")
    assert leak_gap.progress_of([*lines, "Cross-validation: 30 of 30"])[0] == 1.0
    (tmp_path / "x.log").write_text("\n".join(lines), encoding="utf-8")
    assert leak_gap.log_tail(tmp_path / "x.json") == lines


def test_the_counts_are_said_and_chance_is_that_of_the_classes():
    record = {**RECORD, "chance": 1 / 3, "left_out": ["x.png"]}
    record["scores"] = [{**row, "n": 1200, "cases": 20} for row in RECORD["scores"]]
    assert leak_gap.counts_of(record) == " n = 1,200 images, 20 cases. 1 image could not be decoded."
    fig, _ = leak_gap.figure(record)
    assert fig.layout.shapes[0].x0 == pytest.approx(1 / 3)
    assert fig.layout.xaxis.range[0] < 1 / 3
