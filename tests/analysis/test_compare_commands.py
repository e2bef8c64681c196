"""import, compare and review on the command line: what the pages do, from a terminal."""

from __future__ import annotations

import json

import pandas as pd
import pytest

from engine import cli
from engine.analysis import intervals, review


@pytest.fixture
def answer(capsys, runs_dir):
    """`answer("compare", ...)`: the command's JSON document."""

    def ask(*words) -> dict:
        code = cli.main([*map(str, words), "--runs", str(runs_dir), "--json"])
        printed = capsys.readouterr()
        assert code == 0, printed.err
        return json.loads(printed.out)

    return ask


@pytest.fixture
def foreign(make_run, tmp_path):
    """Two files of other tools on the same images, under their own column names."""
    for name, seed in (("keras", 1), ("matlab", 2)):
        folder = make_run(name=name, seed=seed)
        parts = [folder.predictions(split).assign(subset=split) for split in ("val", "test")]
        table = pd.concat(parts).rename(columns={"image_id": "file", "prob_malignant": "y_prob"})
        table[["file", "y_prob", "subset"]].to_csv(tmp_path / f"{name}.csv", index=False)
    return tmp_path / "keras.csv", tmp_path / "matlab.csv"


MAPPED = ("--map", "file=image_id", "--map", "y_prob=prob_malignant", "--map", "subset=split")


def test_each_file_becomes_a_model_and_the_two_are_compared(answer, foreign, tmp_path):
    ids = answer("import", *foreign, "--each", *MAPPED)["ids"]
    out = tmp_path / "scores.tex"
    found = answer(
        "compare", *ids, "--reference", ids[1], "--scores", "sensitivity,auroc", "--threshold", "sensitivity:0.9",
        "--by", "subtype", "--out", out,
    )  # fmt: skip
    assert [run["name"] for run in found["runs"]] == ["keras", "matlab"]
    assert found["reference"] == ids[1]
    assert set(found["runs"][0]["scores"]) == {"sensitivity", "auroc"}
    assert {"A", "DC", "all"} <= set(found["runs"][0]["confusion"])
    assert set(found["thresholds"]) == set(ids)
    assert r"keras & " in out.read_text()
    answer("compare", *ids, "--out", tmp_path / "scores.csv")
    assert len(pd.read_csv(tmp_path / "scores.csv")) == 2 * 7


def test_what_is_printed_for_people_warns_and_tells_runs_of_one_name_apart(make_run, runs_dir, capsys):
    first, second = make_run(name="twin", seed=1), make_run(name="twin", seed=2)
    assert cli.main(["compare", first.id, second.id, "--scores", "auroc", "--runs", str(runs_dir)]) == 0
    printed = capsys.readouterr().out
    assert f"twin ({second.id}) minus twin ({first.id}), auroc" in printed
    warning = intervals.estimate(first.predictions("test"), "auroc").warning
    assert warning
    assert printed.count(f"  {warning.capitalize()}.") == 2


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("import", "{file}", "--map", "y_prob"), "two columns"),
        (("import", "{file}", "--map", "nothing=image_id"), "not the columns"),
        (("compare", "{run}", "--threshold", "best"), "no operating point"),
        (("compare", "{run}", "--out", "table.xls"), ".csv or .tex"),
        (("review", "a.png", "--mark", "nonsense"), "no such mark"),
    ],
)
def test_what_makes_no_sense_is_said_in_a_sentence(words, said, foreign, runs_dir, capsys):
    run = next(folder.name for folder in runs_dir.iterdir() if folder.is_dir())
    filled = [word.format(file=foreign[0], run=run) for word in words]
    assert cli.main([*filled, "--runs", str(runs_dir)]) == 2
    assert said in capsys.readouterr().err


def test_a_mark_is_made_listed_undone_and_taken_home(answer, runs_dir, tmp_path):
    found = answer("review", "a.png", "--mark", "artefact", "--note", "fold")["marks"]
    assert found[0]["note"] == "fold"
    assert answer("review", "--undo")["marks"] == []
    assert len(answer("review", "--undo")["marks"]) == 1, "undoing twice is redoing"
    answer("review", "--out", tmp_path / "marks.csv")
    assert list(pd.read_csv(tmp_path / "marks.csv")["kind"]) == ["artefact"]


def test_a_comparison_without_marked_images_says_so_first(finished_run, runs_dir, answer, capsys):
    table = finished_run.predictions("test")
    review.mark(runs_dir, table["image_id"].iloc[0], "wrong-label", "Ana")
    found = answer("compare", finished_run.id, "--without-marked", "wrong-label")
    assert found["n_images"] == len(table) - 1
    assert found["sensitivity"].startswith(f"Sensitivity analysis: 1 of {len(table)} images left out")
    cli.main(["compare", finished_run.id, "--without-marked", "wrong-label", "--runs", str(runs_dir)])
    assert capsys.readouterr().out.startswith("Sensitivity analysis")
