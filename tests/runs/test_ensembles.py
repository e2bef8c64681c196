"""Ensembles as runs: combined, searched, locked before test is seen; what a member was trained on is never scored."""

import numpy as np
import pytest
from test_results import NAMES, write_csv

from engine.analysis import ensemble
from engine.analysis.predictions import probabilities
from engine.errors import EnsembleError, PredictionsError, RunError
from engine.predict.judge import judge
from engine.runs import derived, ensembles, results
from engine.runs.folder import locate, run_folders
from engine.runs.selection import selection_sentence


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


def test_an_ensemble_is_measured_against_its_best_member_on_validation(make_run):
    members = [
        make_run(name=str(seed), seed=seed, skill=skill) for seed, skill in ((1, 0.2), (2, 2.0), (3, 1.0))
    ]
    compared = ensembles.ensemble_runs(members, "vote")
    assert compared.comparison.reference == members[1].id
    kinds = {one["kind"] for one in compared.as_record()["cautions"]}
    assert {"few-cases"} <= kinds
    assert ("ties" in kinds) == bool(compared.extra["ties"])
    assert "Beware: " in compared.as_text()
    (weighed,) = (
        one["message"]
        for one in ensembles.ensemble_runs(members, weights=[0.02, 0.97, 0.01]).extra["cautions"]
        if one["kind"] == "one-weight"
    )
    assert "97%" in weighed


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


def test_a_deleted_member_leaves_the_ensemble_its_predictions(make_run, runs_dir):
    from engine.runs.trash import delete

    members = [make_run(name=str(seed), seed=seed) for seed in range(2)]
    saved = locate(runs_dir, ensembles.ensemble_runs(members, "mean", name="both").as_record()["id"])
    delete(members[0])
    assert len(saved.predictions("test")) > 0
    assert not results.trained_on(saved).known
    with pytest.raises(RunError, match="trash"):
        judge(saved, [saved.path / "config.json"])


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


def test_revealing_a_search_locks_the_best_with_what_was_tried_and_by_whom(make_run, runs_dir):
    members = [make_run(name=str(seed), seed=seed, skill=skill) for seed, skill in enumerate((0.5, 1.5, 1.0))]
    assert not [folder for folder in run_folders(runs_dir) if folder.config().kind == "ensemble"]
    found = ensembles.search_ensembles(members, reveal=True)
    saved = locate(runs_dir, found.as_record()["id"])
    details = saved.config().details
    record = details["selection"]
    assert details["locked"] is True
    assert (record["subsets"], record["methods"], record["tried"]) == (14, ["mean", "vote"], 14)
    assert record["candidates"] == [folder.id for folder in members]
    assert record["locked_by"]
    assert record["locked_at"].startswith("20")
    assert record["seen_before"] == 0
    assert record["optimism"]["tried"] == 14
    assert "14 combinations of 3 runs searched by mean and vote" in selection_sentence(details)
    again = locate(runs_dir, ensembles.search_ensembles(members, reveal=True).as_record()["id"])
    assert again.config().details["selection"]["seen_before"] == 1
    assert "1 ensemble of these runs had shown" in selection_sentence(again.config().details)


def test_what_a_search_found_is_said_even_where_it_is_saved_without_being_revealed(make_run, runs_dir):
    members = [make_run(name=str(seed), seed=seed, skill=skill) for seed, skill in enumerate((0.5, 1.5, 1.0))]
    found = ensembles.search_ensembles(members, name="best of all").as_record()
    details = locate(runs_dir, found["id"]).config().details
    assert found["split"] == "val"
    assert details["locked"] is False
    assert details["selection"]["subsets"] == 14
    assert "14 combinations of 3 runs searched by mean and vote, saved by" in selection_sentence(details)


def test_only_exactly_the_locked_choice_is_found(make_run, runs_dir):
    members = [make_run(name=str(seed), seed=seed) for seed in range(3)]
    ids = [folder.id for folder in members]
    save = lambda **more: ensembles.save_ensemble(members[:2], "vote", "x", runs_dir, **more)  # noqa: E731
    save()
    save(selection=ensembles.Selection(looked_at=2))
    assert ensembles.locked_run(runs_dir, ids[:2], "vote") == ""
    saved = save(selection=ensembles.Selection(looked_at=2), locked=True)
    find = lambda *given, **more: ensembles.locked_run(runs_dir, *given, **more)  # noqa: E731
    assert find(ids[:2], "vote") == saved.id == find(ids[1::-1], "vote", [3.0, 3.0])
    assert find(ids[:2], "vote", [1.0, 0.5]) == ""
    assert find(ids[:2], "vote", tie_rule="lowest-label") == ""
    assert find(ids[:2], "vote", per_case=True) == ""
    assert find(ids[:2], "mean") == find(ids, "vote") == ""


def test_an_ensemble_per_case_says_the_same_of_all_images_of_a_case(make_run, runs_dir):
    members = [make_run(name=str(seed), seed=seed) for seed in range(2)]
    record = ensembles.ensemble_runs(members, "mean", per_case=True, name="by case").as_record()
    saved = locate(runs_dir, record["id"])
    table = saved.predictions("test")
    assert (table.groupby("case")["prob_malignant"].agg(np.ptp) < 1e-9).all()
    assert saved.config().details["per_case"] is True
    per_case = table.groupby("case").first()
    right = ((per_case["prob_malignant"] > 0.5) == (per_case["label"] == "malignant")).mean()
    own = record["runs"][-1]["scores"]["prr"]
    assert own["value"] == pytest.approx(right)


def test_identical_and_single_members_and_zero_weights_are_handled(make_run):
    one = make_run(name="one")
    alone = ensembles.combine_runs([one])
    assert probabilities(alone.table) == pytest.approx(probabilities(one.predictions("test")), abs=1e-11)
    twin = make_run(name="twin")
    twin.write_predictions("test", one.predictions("test"))
    same = ensembles.combine_runs([one, twin], "vote")
    decided = probabilities(one.predictions("test")).argmax(1)
    assert (probabilities(same.table).argmax(1) == decided).all()
    assert same.combined.ties == 0
    with pytest.raises(EnsembleError, match="not all zero"):
        ensembles.combine_runs([one, twin], "mean", [0.0, 0.0])


def test_members_of_other_classes_are_refused(make_run):
    one, other = make_run(name="one"), make_run(name="other")
    table = other.predictions("test").rename(
        columns={"prob_malignant": "prob_tumour", "logit_malignant": "logit_tumour"}
    )
    other.write_predictions("test", table)
    with pytest.raises(PredictionsError, match="classes"):
        ensembles.combine_runs([one, other])


def test_the_studys_tie_rule_is_a_switch(make_run):
    members = [make_run(name=str(seed), seed=seed, skill=0.3) for seed in range(2)]
    ours = ensembles.combine_runs(members, "vote")
    study = ensembles.combine_runs(members, "vote", tie_rule=ensemble.TIE_RULES[1])
    tied = ours.combined.tied
    assert tied.any()
    assert (study.combined.decisions[tied] == 0).all()
    assert (ours.combined.decisions[tied] == 1).any()


def test_a_fusion_or_soup_that_cannot_be_made_is_refused_before_it_is_queued(make_run, runs_dir):
    one = make_run(name="one")
    before = len(run_folders(runs_dir))
    with pytest.raises(EnsembleError, match="at least two"):
        derived.start_fusion([one], "x", runs_dir)
    other = make_run(name="other", model="tf_efficientnet_lite1", seed=1)
    with pytest.raises(EnsembleError, match="architecture is the same"):
        derived.start_soup([one, other], "x", runs_dir)
    assert len(run_folders(runs_dir)) == before + 1


def test_pooled_folds_are_ensembled_and_only_their_own_fold_counts_as_training(make_run, runs_dir):
    """Every image is in the training part of the other folds; its prediction comes from the fold that left it out."""
    pooled = []
    for seed in range(2):
        folds = [make_run(name=f"{seed}-{fold}", seed=seed, fold=fold) for fold in range(2)]
        pooled.append(results.pool_folds(folds, f"pooled {seed}", runs_dir))
    tested = set(pooled[0].predictions("test")["image_id"])
    made = ensembles.combine_runs(pooled)
    assert made.excluded == 0
    assert set(made.table["image_id"]) == tested
    assert made.audit["level"] == "clean"
