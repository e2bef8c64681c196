"""Imports, pooled folds and ensembles as runs; what a member was trained on is never scored."""

import numpy as np
import pandas as pd
import pytest

from engine.analysis.predictions import probabilities
from engine.errors import PredictionsError, RunError
from engine.runs import ensembles, results
from engine.runs.folder import locate

NAMES = [
    f"SOB_{kind}-14-{case}-{power}-001.png"
    for kind, case in (("B_A", 100), ("B_F", 101), ("M_DC", 200), ("M_LC", 201))
    for power in (40, 100)
]


def write_csv(path, **columns):
    pd.DataFrame(columns).to_csv(path, index=False)
    return path


def test_two_columns_are_enough_for_an_import(tmp_path):
    source = write_csv(tmp_path / "p.csv", image_id=NAMES, prob_malignant=np.linspace(0, 1, 8))
    folder = results.import_predictions([source], "theirs", tmp_path / "runs")
    table = folder.predictions("test")
    assert folder.state() == "completed"
    assert table["label"].tolist() == ["benign"] * 4 + ["malignant"] * 4
    assert table["case"].iloc[0] == "14-100"
    assert set(table["magnification"]) == {"40X", "100X"}
    assert np.allclose(table["prob_benign"] + table["prob_malignant"], 1)
    middle = table.iloc[3]
    assert middle["logit_malignant"] == pytest.approx(
        np.log(middle["prob_malignant"] / middle["prob_benign"])
    )
    assert table["logit_malignant"].iloc[0] == pytest.approx(np.log(1e-6 / (1 - 1e-6)))
    assert folder.audit()["level"] == "unknown"


def test_splits_and_folds_of_an_import_are_kept(tmp_path):
    source = write_csv(
        tmp_path / "p.csv",
        image_id=NAMES * 2,
        prob_malignant=[0.5] * 16,
        split=["validation"] * 8 + ["test"] * 8,
        fold=[1, 2] * 8,
    )
    folder = results.import_predictions([source], "theirs", tmp_path / "runs")
    assert folder.predicted_splits() == ("val", "test")
    assert folder.predictions("val")["fold"].tolist() == [1, 2] * 4


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"image_id": NAMES}, "prob_malignant"),
        ({"name": NAMES, "prob_malignant": [0.5] * 8}, "image_id"),
        ({"image_id": NAMES, "prob_malignant": [1.5] * 8}, "outside 0 to 1"),
        ({"image_id": NAMES, "prob_malignant": ["x"] * 8}, "missing"),
        ({"image_id": NAMES[:1] * 8, "prob_malignant": [0.5] * 8}, "more than once"),
        (
            {"image_id": [f"{n}.png" for n in range(8)], "prob_malignant": [0.5] * 8},
            "true class is not known",
        ),
        (
            {"image_id": NAMES, "prob_malignant": [0.5] * 8, "split": ["later"] * 8},
            "splits that are not known",
        ),
        ({"image_id": NAMES, "prob_benign": [0.5] * 8, "prob_malignant": [0.9] * 8}, "sum to one"),
    ],
)
def test_an_import_that_cannot_be_used_says_why_and_leaves_nothing(tmp_path, columns, words):
    source = write_csv(tmp_path / "p.csv", **columns)
    with pytest.raises(PredictionsError, match=words):
        results.import_predictions([source], "theirs", tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


def test_an_ensemble_is_the_mean_of_its_members_and_a_run_like_any_other(make_run, runs_dir):
    members = [make_run(name=str(seed), seed=seed) for seed in range(3)]
    compared = ensembles.ensemble_runs(members, "mean", name="together")
    record = compared.as_record()
    assert [run["id"] for run in record["runs"]] == [*(member.id for member in members), record["id"]]
    saved = locate(runs_dir, record["id"])
    tables = [member.predictions("test").sort_values("image_id") for member in members]
    mean = np.mean([probabilities(table) for table in tables], axis=0)
    assert np.allclose(probabilities(saved.predictions("test").sort_values("image_id")), mean)
    assert saved.config().details["members"] == [member.id for member in members]
    assert saved.audit()["level"] == "clean"
    again = ensembles.ensemble_runs([saved, members[0]], "vote").as_record()
    assert again["runs"][-1]["n"] == len(tables[0])


def test_without_a_name_nothing_is_saved(make_run, runs_dir):
    members = [make_run(seed=seed) for seed in range(2)]
    before = sorted(path.name for path in runs_dir.iterdir())
    ensembles.ensemble_runs(members, "vote")
    assert sorted(path.name for path in runs_dir.iterdir()) == before


def test_accuracy_in_the_record_is_an_unrounded_fraction_of_its_matrix(make_run):
    members = [make_run(seed=seed) for seed in range(2)]
    for run in ensembles.ensemble_runs(members, "mean").as_record()["runs"]:
        matrix = np.array(run["confusion"]["all"])
        assert run["accuracy"] == np.trace(matrix) / matrix.sum()
        assert (
            matrix.sum()
            == run["n"]
            == sum(np.sum(run["confusion"][power]) for power in ("40X", "100X", "200X", "400X"))
        )


def test_an_image_a_member_was_trained_on_is_never_scored(make_run):
    """Two image-level splits with other seeds: much of the one's test is the other's train."""
    first, second = (make_run(name=str(seed), protocol="image", seed=seed) for seed in (0, 1))
    table = second.manifest().table
    half = set(first.predictions("test")["image_id"].iloc[:10])
    table["split"] = np.where(table["image_id"].isin(half), "train", table["split"])
    table.to_csv(second.path / "manifest.csv", index=False)
    common = set(first.predictions("test")["image_id"]) & set(second.predictions("test")["image_id"])
    made = ensembles.combine_runs([first, second])
    assert made.excluded >= len(half & common) > 0
    assert not set(made.table["image_id"]) & half
    assert made.audit["level"] == "leak"


def test_members_that_share_no_test_image_are_refused_with_the_reason(make_run, tmp_path):
    source = write_csv(tmp_path / "p.csv", image_id=NAMES, prob_malignant=[0.5] * 8)
    other = results.import_predictions([source], "elsewhere", make_run().runs)
    with pytest.raises(PredictionsError, match="no image in common"):
        ensembles.combine_runs([make_run(), other])


def test_a_run_named_twice_is_refused(finished_run):
    with pytest.raises(PredictionsError, match="named twice"):
        results.compare_runs([finished_run, finished_run])


def test_a_deleted_member_leaves_the_ensemble_its_predictions(make_run, runs_dir):
    from engine.runs.folder import delete

    members = [make_run(name=str(seed), seed=seed) for seed in range(2)]
    saved = locate(runs_dir, ensembles.ensemble_runs(members, "mean", name="both").as_record()["id"])
    delete(members[0])
    assert len(saved.predictions("test")) > 0
    assert not results.trained_on(saved).known
    with pytest.raises(RunError, match="trash"):
        results.predict_images(saved, [saved.path / "config.json"])


def test_search_ranks_on_validation_and_covers_test_until_revealed(make_run):
    members = [make_run(name=str(seed), seed=seed, skill=skill) for seed, skill in enumerate((0.5, 1.5, 1.0))]
    covered = ensembles.search_ensembles(members).as_record()
    assert covered["tried"] == len(covered["search"]) == 14
    assert {row["split"] for row in covered["search"]} == {"val"}
    scores = [row["score"] for row in covered["search"]]
    assert scores == sorted(scores, reverse=True)
    assert covered["split"] == "val"
    assert ensembles.search_ensembles(members, reveal=True).as_record()["split"] == "test"


def test_fitted_methods_use_validation_and_refuse_without(make_run, tmp_path):
    members = [make_run(name=str(seed), seed=seed) for seed in range(2)]
    weights = ensembles.ensemble_runs(members, "stacking").as_record()["weights"]
    assert len(weights) == 2
    source = write_csv(tmp_path / "p.csv", image_id=NAMES, prob_malignant=[0.5] * 8)
    lone = results.import_predictions([source], "no validation", members[0].runs)
    with pytest.raises(RunError, match="no predictions for val"):
        ensembles.combine_runs([lone], "stacking")


def test_folds_of_one_model_pool_into_one_entry(make_run, runs_dir):
    runs = [make_run(name=str(seed), seed=seed) for seed in range(2)]
    with pytest.raises(PredictionsError, match="tested the same image"):
        results.pool_folds(runs, "pooled", runs_dir)
    pooled = results.pool_folds(runs[:1], "pooled", runs_dir)
    assert pooled.config().kind == "pooled"
    assert "fold" in pooled.predictions("test").columns
