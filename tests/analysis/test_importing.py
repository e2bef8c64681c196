"""Predictions of other tools: files, column names, splits; the five real ones of the shared folder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from engine.analysis import comparison, ensemble, fitting, importing, metrics, subsets
from engine.analysis.importing import read_foreign
from engine.errors import PredictionsError

SHARED = Path(__file__).resolve().parents[2] / ".." / "shared" / "predictions_40X"
NAMES = ("SOB_B_A-14-22549AB-40-001.png", "SOB_M_DC-14-2523-100-010.png")


def written(folder: Path, text: str, name: str = "p.csv") -> Path:
    target = folder / name
    target.write_text(text)
    return target


def test_one_probability_is_enough_and_the_rest_comes_from_the_name(tmp_path):
    table = read_foreign([written(tmp_path, f"image_id,prob_malignant\n{NAMES[0]},0.2\n{NAMES[1]},0.9\n")])
    first = table.iloc[0]
    assert (first["label"], first["case"], first["magnification"], first["subtype"]) == (
        "benign",
        "14-22549",
        "40X",
        "A",
    )
    assert first["slide"] == "SOB_B_A-14-22549AB"
    assert first["prob_benign"] == pytest.approx(0.8)
    assert table["split"].tolist() == ["test", "test"]
    odds = table["logit_malignant"] - table["logit_benign"]
    assert odds.to_numpy() == pytest.approx(np.log([0.2 / 0.8, 0.9 / 0.1]))


def test_certain_probabilities_get_finite_logits(tmp_path):
    table = read_foreign([written(tmp_path, f"image_id,prob_malignant\n{NAMES[0]},0\n{NAMES[1]},1\n")])
    odds = table["logit_malignant"] - table["logit_benign"]
    assert odds.to_numpy() == pytest.approx([np.log(1e-6 / (1 - 1e-6)), np.log((1 - 1e-6) / 1e-6)])


def test_columns_are_mapped_and_folders_are_cut_off(tmp_path):
    text = f"file;score\nC:\\x\\{NAMES[0]};0.2\n".replace(";", ",")
    table = read_foreign([written(tmp_path, text)], {"file": "image_id", "score": "prob_malignant"})
    assert table["image_id"].tolist() == [NAMES[0]]


def test_several_files_of_one_model_are_put_together(tmp_path):
    parts = [
        written(tmp_path, f"image_id,prob_malignant,fold\n{name},0.4,{k}\n", f"{k}.csv")
        for k, name in enumerate(NAMES)
    ]
    assert read_foreign(parts)["fold"].tolist() == [0, 1]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("image_id,p\na,1\n", "lacks what an import needs"),
        (f"image_id,prob_malignant\n{NAMES[0]},1.4\n", "outside 0 to 1"),
        (f"image_id,prob_malignant\n{NAMES[0]},\n", "missing"),
        (f"image_id,prob_benign,prob_malignant\n{NAMES[0]},0.5,0.9\n", "sum to one"),
        (f"image_id,prob_malignant\n{NAMES[0]},0.4\n{NAMES[0]},0.5\n", "more than once"),
        (f"image_id,prob_malignant,split\n{NAMES[0]},0.4,holdout\n", "splits that are not known"),
        ("image_id,prob_malignant\nscan7.png,0.4\n", "true class is not known"),
        ("image_id,prob_malignant\n", "no rows"),
    ],
)
def test_what_cannot_be_scored_is_refused_with_the_reason(tmp_path, text, reason):
    with pytest.raises(PredictionsError, match=reason):
        read_foreign([written(tmp_path, text)])


@pytest.fixture(scope="module")
def real() -> dict[str, pd.DataFrame]:
    if not SHARED.is_dir():
        pytest.skip("the real predictions of the shared folder are not at hand")
    return {path.stem: read_foreign([path]) for path in sorted(SHARED.glob("*.csv"))}


def part(tables: dict[str, pd.DataFrame], split: str) -> dict[str, pd.DataFrame]:
    return {name: table[table["split"] == split].drop(columns="split") for name, table in tables.items()}


def test_real_cross_validations_are_pooled_over_all_slides(real):
    test = part(real, "test")
    result = comparison.compare(
        [comparison.Entry(k, k, t) for k, t in test.items()],
        names=["accuracy", "balanced_accuracy"],
        draws=500,
    )
    assert (result.n_images, result.n_cases) == (1995, 70)
    assert result.aligned.frame["slide"].nunique() == 82
    assert all(0.70 < entry.accuracy < 0.76 for entry in result.entries)
    for entry in result.entries:
        raw = pd.read_csv(SHARED / f"{entry.id}.csv").query("split == 'test'")
        true = raw["image_id"].str.startswith("SOB_M")
        assert entry.accuracy == ((raw["prob_malignant"] > 0.5) == true).mean()
        assert entry.confusion["all"] == entry.confusion["40X"]
        assert entry.scores["accuracy"].low < entry.accuracy < entry.scores["accuracy"].high
    assert result.baseline["accuracy"] == pytest.approx(1370 / 1995)


def test_real_members_never_saw_a_scored_case_in_their_fold(real):
    """In fold k validation is case fold k + 1, test is case fold k: no case in both."""
    for table in real.values():
        for _, rows in table.groupby("fold"):
            sides = [set(rows.loc[rows["split"] == split, "case"]) for split in ("val", "test")]
            assert not sides[0] & sides[1]


def test_a_real_ensemble_is_searched_on_validation_and_revealed_on_test(real):
    val, test = part(real, "val"), part(real, "test")
    found = subsets.search(ensemble.cube(val))
    assert found.tried == 62
    table, answer, _ = fitting.ensemble_predictions(
        {name: test[name] for name in found.members()}, found.methods[found.method[0]]
    )
    assert len(table) == 1995
    score = metrics.value("balanced_accuracy", metrics.outcome(table))
    assert 0.6 < score < 0.75
    stacked, _, fits = fitting.ensemble_predictions(test, "stacking", validation=val)
    assert set(fits) == {"0", "1", "2", "3", "4"}
    assert len(stacked) == 1995
    assert answer.ties >= 0


def test_columns_of_other_tools_are_recognised_one_per_meaning():
    guessed = importing.guess_mapping(
        ["Filename", "y_true", "y_prob", "Patient ID", "subset", "notes", "prob_x"]
    )
    assert guessed == {
        "Filename": "image_id", "y_true": "label", "y_prob": "prob_malignant", "Patient ID": "case",
        "subset": "split", "prob_x": "prob_x",
    }  # fmt: skip
    assert importing.guess_mapping(["image_id", "path", "score", "prob"]) == {
        "image_id": "image_id",
        "prob": "prob_malignant",
    }


def test_zeros_and_ones_are_classes_unless_the_file_names_say_otherwise(tmp_path):
    names = ["SOB_B_A-14-22549AB-40-001.png", "SOB_M_DC-14-2523-40-001.png"]
    good = pd.DataFrame({"image_id": names, "label": [0, 1], "prob_malignant": [0.2, 0.9]})
    good.to_csv(tmp_path / "good.csv", index=False)
    assert importing.read_foreign([tmp_path / "good.csv"])["label"].tolist() == ["benign", "malignant"]
    good.assign(label=[1, 0]).to_csv(tmp_path / "bad.csv", index=False)
    with pytest.raises(PredictionsError, match="contradict the BreakHis file names"):
        importing.read_foreign([tmp_path / "bad.csv"])


def test_files_of_the_same_images_are_models_of_their_own(tmp_path):
    for name, rows in (("a", ["x", "y"]), ("b", ["y", "z"]), ("c", ["u"])):
        pd.DataFrame({"file": rows, "prob": 0.5}).to_csv(tmp_path / f"{name}.csv", index=False)
    a, b, c = (tmp_path / f"{name}.csv" for name in "abc")
    assert importing.predict_the_same([a, b], {"file": "image_id"})
    assert not importing.predict_the_same([a, c], {"file": "image_id"})


def test_a_mapping_to_one_meaning_twice_is_refused(tmp_path):
    pd.DataFrame({"file": ["x"], "p": [0.5], "q": [0.5]}).to_csv(tmp_path / "a.csv", index=False)
    mapping = {"file": "image_id", "p": "prob_malignant", "q": "prob_malignant"}
    with pytest.raises(PredictionsError, match="taken for the same"):
        importing.read_foreign([tmp_path / "a.csv"], mapping)
