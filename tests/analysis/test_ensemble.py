"""Vote, mean, search and greedy against scipy, scikit-learn and brute force."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pandas as pd
import pytest

from engine.analysis import ensemble, fitting, metrics, roles, subsets
from engine.analysis.ensemble import Cube, combine, cube
from engine.analysis.fitting import ensemble_predictions, fit, greedy
from engine.analysis.predictions import probabilities, validate
from engine.analysis.subsets import search
from engine.errors import EnsembleError, PredictionsError


def member_tables(members: int, seed: int = 0, cases: int = 16, classes: int = 2, folds: int = 0) -> dict:
    """Members' tables over the same images; probabilities of one digit, so that ties are frequent."""
    rng = np.random.default_rng(seed)
    names = ("benign", "malignant") if classes == 2 else tuple(f"c{k}" for k in range(classes))
    case = np.repeat(np.arange(cases), 6)
    true = case % classes
    tables = {}
    for k in range(members):
        raw = rng.gamma(1.0, size=(len(case), classes)) + 0.4 * (true[:, None] == np.arange(classes))
        units = np.floor(10 * raw / raw.sum(axis=1, keepdims=True))
        units[:, 0] = 10 - units[:, 1:].sum(axis=1)
        table = pd.DataFrame(
            {
                "image_id": [f"{c}-{i}.png" for i, c in enumerate(case)],
                "case": [f"14-{c}" for c in case],
                "label": np.array(names)[true],
                **{f"prob_{name}": units[:, j] / 10 for j, name in enumerate(names)},
            }
        )
        if folds:
            table["fold"] = case // classes % folds
        tables[f"m{k}"] = validate(table)
    return tables


def literal_vote(probs: np.ndarray, tie_rule: str) -> tuple[np.ndarray, int]:
    """Image by image, in words: most votes, ties by mean probability or by the lowest label."""
    decisions, ties = [], 0
    for image in range(probs.shape[1]):
        counts = np.bincount(np.round(probs[:, image], 12).argmax(axis=1), minlength=probs.shape[2])
        leaders = np.flatnonzero(counts == counts.max())
        ties += len(leaders) > 1
        mean = np.round(probs[:, image].mean(axis=0), 12)
        decisions.append(
            max(leaders, key=lambda c: mean[c]) if tie_rule == "mean-probability" else leaders[0]
        )
    return np.array(decisions), ties


@pytest.mark.parametrize("members", [1, 2, 3, 4, 5, 6])
@pytest.mark.parametrize("classes", [2, 4])
def test_vote_and_mean_equal_scipy_and_a_literal_count(members, classes):
    from scipy import stats

    source = cube(member_tables(members, members, classes=classes))
    mean = combine(source, "mean")
    assert mean.probabilities == pytest.approx(source.probs.mean(axis=0))
    study = combine(source, "vote", tie_rule="lowest-label")
    assert (study.decisions == stats.mode(source.probs.argmax(axis=2), axis=0).mode).all()
    ours = combine(source, "vote")
    decisions, ties = literal_vote(source.probs, "mean-probability")
    assert (ours.decisions == decisions).all()
    assert ours.ties == study.ties == ties
    assert ties > 0 or members % 2 == 1


def test_a_stored_vote_reads_back_as_it_was_decided():
    table, answer, _ = ensemble_predictions(member_tables(4), "vote")
    assert answer.ties > 0
    values = probabilities(table)
    assert (values.argmax(axis=1) == answer.decisions).all()
    assert values.sum(axis=1) == pytest.approx(1)
    assert (
        np.abs(values[~answer.tied] * 4 - np.round(values[~answer.tied] * 4)).max() < 1e-9
    )  # shares of votes


def test_weighted_mean_and_vote_equal_scikit_learn():
    from sklearn.ensemble import VotingClassifier

    source, weights = cube(member_tables(3, 5)), [3.0, 1.0, 1.0]
    soft = combine(source, "mean", weights)
    assert soft.probabilities == pytest.approx(np.average(source.probs, axis=0, weights=weights))
    hard = VotingClassifier([(name, None) for name in source.ids], weights=weights)
    named = source.probs.argmax(axis=2).T
    expected = [np.argmax(np.bincount(row, weights=hard.weights)) for row in named]
    assert (combine(source, "vote", weights).decisions == expected).all()


def test_geometric_mean_by_hand():
    probs = np.array([[[0.2, 0.8]], [[0.5, 0.5]]])
    expected = np.sqrt([0.2 * 0.5, 0.8 * 0.5])
    assert combine(probs, "geometric").probabilities[0] == pytest.approx(expected / expected.sum())


def test_rank_mean_by_hand():
    """Benign decisions share 0 to 1/2 by rank, malignant ones 1/2 to 1; equal probabilities share a rank."""
    positive = np.array([[0.1, 0.3, 0.3, 0.6, 0.9], [0.8, 0.2, 0.4, 0.7, 0.9]])
    probs = np.stack([1 - positive, positive], axis=2)
    one = [1 / 12, 1 / 3, 1 / 3, 0.625, 0.875]
    two = [0.75, 0.125, 0.375, 7 / 12, 11 / 12]
    assert combine(probs[:1], "rank").probabilities[:, 1] == pytest.approx(one)
    assert combine(probs[1:], "rank").probabilities[:, 1] == pytest.approx(two)
    assert combine(probs, "rank").probabilities[:, 1] == pytest.approx((np.array(one) + two) / 2)
    several = np.array([[[0.2, 0.3, 0.5], [0.6, 0.3, 0.1]]])
    ranks = np.array([[0.25, 0.5, 0.75], [0.75, 0.5, 0.25]])
    assert combine(several, "rank").probabilities == pytest.approx(ranks / 1.5)


@pytest.mark.parametrize("method", [name for name in ensemble.METHODS if name != "rank"])
def test_what_is_said_of_an_image_does_not_depend_on_the_others(method):
    source = cube(member_tables(3))
    fitted = fit(method, source)
    whole = combine(source, method, fitted=fitted)
    alone = combine(source.take(np.arange(5, 9)), method, fitted=fitted)
    assert np.allclose(alone.probabilities, whole.probabilities[5:9], atol=1e-11)


def test_rank_mean_of_one_member_keeps_its_decisions_and_order():
    source = cube(member_tables(1))
    ranked = combine(source, "rank").probabilities
    assert (ranked.argmax(axis=1) == source.probs[0].argmax(axis=1)).all()
    order = np.argsort(source.probs[0, :, 1], kind="stable")
    assert (np.diff(ranked[order, 1]) >= -1e-12).all()


def test_temperature_finds_the_heat_that_was_applied():
    rng = np.random.default_rng(0)
    true = rng.integers(0, 2, 4000)
    margin = rng.normal(0, 2, 4000)
    true = (rng.random(4000) < 1 / (1 + np.exp(-margin))).astype(int)
    overconfident = np.stack([np.zeros(4000), 3 * margin], axis=1)
    assert fitting.fit_temperature(overconfident, true) == pytest.approx(3, rel=0.1)


def test_stacking_beats_a_useless_member_and_survives_json():
    tables = member_tables(3, 1, cases=40)
    source = cube(tables)
    learned = fit("stacking", source)
    again = ensemble.Fitted.from_record(learned.as_record())
    first = combine(source, "stacking", fitted=learned).probabilities
    assert combine(source, "stacking", fitted=again).probabilities == pytest.approx(first)
    from sklearn.linear_model import LogisticRegression

    margins = (source.logits[:, :, 1] - source.logits[:, :, 0]).T
    scaled = (margins - margins.mean(axis=0)) / margins.std(axis=0)
    model = LogisticRegression(class_weight="balanced", max_iter=1000).fit(scaled, source.true)
    assert first == pytest.approx(model.predict_proba(scaled), abs=1e-6)


def test_stacking_knows_more_than_two_classes():
    source = cube(member_tables(3, 1, cases=30, classes=3))
    answer = combine(source, "stacking", fitted=fit("stacking", source))
    assert answer.probabilities.shape == (len(source.true), 3)
    assert (answer.decisions == source.true).mean() > 1 / 3


@pytest.mark.parametrize("seed", range(3))
def test_greedy_equals_its_definition_by_brute_force(seed):
    source = cube(member_tables(4, seed))
    result = metrics.outcome(validate(next(iter(member_tables(4, seed).values()))))
    bag, best, path = [], None, []
    for _ in range(6):
        options = []
        for k in range(4):
            mean = np.round(source.probs[[*bag, k]].mean(axis=0), 12)
            recall = [(mean.argmax(axis=1) == result.true)[result.true == c].mean() for c in (0, 1)]
            options.append((np.mean(recall), -((mean[:, 1] - result.true) ** 2).mean(), -k))
        pick = max(range(4), key=lambda k: options[k])
        bag.append(pick)
        if best is None or options[pick][:2] > best:
            best, path = options[pick][:2], list(bag)
    found = greedy(source, bags=1, rounds=6)
    assert found.path == tuple(f"m{k}" for k in path)
    assert found.weights == pytest.approx(np.bincount(path, minlength=4) / len(path))
    assert found.score == pytest.approx(best[0])


def test_bagged_greedy_is_seeded_and_sums_to_one():
    source = cube(member_tables(5, 2))
    first, again = greedy(source, seed=3), greedy(source, seed=3)
    assert (first.weights == again.weights).all()
    assert first.weights.sum() == pytest.approx(1)


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("tie_rule", ensemble.TIE_RULES)
def test_search_scores_every_subset_as_combining_it_would(classes, tie_rule, monkeypatch):
    monkeypatch.setattr(subsets, "CHUNK", 700)  # several chunks
    source = cube(member_tables(5, 7, classes=classes))
    found = search(source, tie_rule=tie_rule)
    assert found.tried == 2 * 31
    for rank in range(found.tried):
        part = source.members(found.members(rank))
        answer = combine(part, found.methods[found.method[rank]], tie_rule=tie_rule)
        right = answer.decisions == source.true
        recall = [right[source.true == c].mean() for c in range(classes)]
        assert found.score[rank] == pytest.approx(np.mean(recall), abs=1e-12)
        assert found.ties[rank] == answer.ties
        assert found.brier[rank] == pytest.approx(metrics.brier(source.true, combine(part).probabilities))


def test_search_ranks_by_score_then_fewer_members_then_brier():
    found = search(cube(member_tables(5, 3)))
    keys = [
        (-round(found.score[r], 12), found.subsets[r].sum(), round(found.brier[r], 12))
        for r in range(found.tried)
    ]
    assert keys == sorted(keys)
    record = found.records(1)[0]
    assert set(record) == {"members", "method", "split", "score", "n"}
    assert record["split"] == "val"
    assert search(cube(member_tables(5, 3)), max_size=2).tried == 2 * 15
    assert found.subsets[found.best_of_size(3)].sum() == 3


def test_search_refuses_what_it_cannot_do():
    with pytest.raises(EnsembleError, match="up to 16"):
        search(cube(member_tables(17, cases=2)))
    with pytest.raises(EnsembleError, match="mean and vote"):
        search(cube(member_tables(2)), methods=("stacking",))


def test_searching_noise_is_estimated_as_optimism():
    """Ten members of pure noise: the best of 2,046 combinations looks good, on unseen cases it is chance."""
    case = np.repeat(np.arange(40), 8)
    frame = pd.DataFrame({"image_id": np.arange(320).astype(str), "case": case.astype(str)})
    found = []
    for seed in range(6):
        p = np.random.default_rng(seed).random((10, 320))
        ids, probs = tuple(f"m{k}" for k in range(10)), np.stack([1 - p, p], axis=2)
        noise = Cube(ids, ("benign", "malignant"), probs, np.zeros((10, 320, 2)), case % 2, frame)
        found.append(subsets.search_optimism(noise, repeats=4))
    assert np.mean([one.apparent for one in found]) > 0.55
    assert np.mean([one.nested for one in found]) == pytest.approx(0.5, abs=0.02)
    assert np.mean([one.optimism for one in found]) > 0.05


def test_each_fold_is_fitted_on_its_own_validation_part_only():
    val, test = member_tables(3, 1, folds=4), member_tables(3, 2, folds=4)
    _, answer, fits = ensemble_predictions(test, "stacking", validation=val)
    assert set(fits) == {"0", "1", "2", "3"}
    spoiled = {name: table.copy() for name, table in val.items()}
    for table in spoiled.values():
        other = (table["fold"] != 0).to_numpy()
        table.loc[other, ["prob_benign", "prob_malignant"]] = [0.5, 0.5]
        table.loc[other, ["logit_benign", "logit_malignant"]] = [0.0, 0.1]
    fold0 = (next(iter(test.values()))["fold"] == 0).to_numpy()
    changed = ensemble_predictions(test, "stacking", validation=spoiled)[1]
    assert (changed.probabilities[fold0] == answer.probabilities[fold0]).all()
    assert (changed.probabilities[~fold0] != answer.probabilities[~fold0]).any()


def test_a_fitted_method_never_learns_from_the_test_images_of_another_fold():
    """With validation missing in one fold, one fit for all folds would meet their test images."""
    val, test = member_tables(3, 1, folds=4), member_tables(3, 2, folds=4)
    fewer = {name: table[table["fold"] != 3] for name, table in val.items()}
    unfolded = {name: table.drop(columns="fold") for name, table in val.items()}
    for validation, said in ((fewer, "validation of 0, 1, 2"), (unfolded, "validation of no fold")):
        with pytest.raises(EnsembleError, match="fold by fold") as error:
            ensemble_predictions(test, "stacking", validation=validation)
        assert said in str(error.value)
    assert len(ensemble_predictions(test, "mean", validation=fewer)[0]) == len(test["m0"])


def test_optimism_counts_every_image_of_unknown_case_as_a_case_of_its_own():
    """Two members that answer by case: the nested score must see as many units as there are."""
    tables = member_tables(2, cases=8)
    for table in tables.values():
        table.loc[table["case"].isin(["14-6", "14-7"]), "case"] = ""
    validation = cube(tables)
    seen = {}

    def spy(case, label, images, folds, generator, _deal=subsets._random_folds):
        seen["images"], seen["cases"] = images, len(np.unique(case))
        return _deal(case, label, images, folds, generator)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(subsets, "_random_folds", spy)
        found = subsets.search_optimism(validation, repeats=1)
    assert seen["cases"] == 6 + 12
    assert sorted(seen["images"]) == [1] * 12 + [6] * 6
    assert found.tried == 6
    assert found.apparent == pytest.approx(search(validation).score[0])
    assert found.optimism == pytest.approx(found.apparent - found.nested)


def test_balanced_accuracy_by_units_weighs_classes_alike():
    right = np.array([[3.0, 1.0, 2.0], [0.0, 4.0, 2.0]])
    found = subsets._weighted_balanced(right, np.array([3.0, 5.0, 4.0]), np.array([0, 1, 1]))
    assert found == pytest.approx([(1 + 3 / 9) / 2, (0 + 6 / 9) / 2])


def test_a_case_of_two_labels_is_searched_or_judged_never_both():
    case = np.repeat(np.arange(12), 2)
    label = np.where(case < 10, case % 2, [0, 1] * 12)  # the last two cases carry both
    for seed in range(20):
        generator = np.random.default_rng(seed)
        group = subsets._random_folds(case, label, np.ones(24), 5, generator)
        assert (group[::2] == group[1::2]).all()
        assert set(group) == set(range(5))


def test_members_must_share_images_and_classes():
    tables = member_tables(2)
    moved = tables["m1"].assign(image_id=lambda t: "x" + t["image_id"])
    with pytest.raises(PredictionsError, match="no image in common"):
        cube({"a": tables["m0"], "b": moved})
    with pytest.raises(EnsembleError, match="needs members"):
        cube({})


@pytest.mark.parametrize("weights", [[0, 0, 0], [1, -1, 1], [1, float("nan"), 1], [1, 1]])
def test_impossible_weights_are_refused(weights):
    with pytest.raises(EnsembleError, match=r"[Ww]eight"):
        combine(cube(member_tables(3)), "mean", weights)


def test_missing_probabilities_are_named():
    source = cube(member_tables(3))
    source.probs[1, 0, 0] = np.nan
    with pytest.raises(EnsembleError, match="m1"):
        combine(source)


def test_an_image_a_member_was_trained_on_is_never_scored():
    tables = member_tables(2)
    images = tables["m0"]["image_id"]
    manifest = tables["m0"][["image_id", "case"]].assign(split="test")
    leaky = manifest.assign(split=["train" if k < 3 else "test" for k in range(len(images))])
    audit = roles.audit_roles({"m0": manifest, "m1": leaky}, tables["m0"])
    assert audit.excluded == sorted(images[:3])
    assert audit.leaking  # three more images of case 14-0 are scored
    assert audit.seen_cases == {"14-0": ("m1",)}
    assert "3 of 96 images" in audit.sentences[0]
    table, _, _ = ensemble_predictions(tables, "mean", exclude=audit.excluded)
    assert len(table) == len(images) - 3
    assert not set(table["image_id"]) & set(audit.excluded)
    with pytest.raises(EnsembleError, match="No image is left"):
        ensemble_predictions(tables, "mean", exclude=images)


def test_a_clean_audit_and_an_unknown_one_say_so():
    tables = member_tables(2)
    manifest = tables["m0"][["image_id", "case"]].assign(split="test")
    assert roles.audit_roles({"m0": manifest}, tables["m0"]).sentences == [
        "No member has seen a scored case in training"
    ]
    audit = roles.audit_roles({"m0": manifest, "m1": None}, tables["m0"]["image_id"])
    assert audit.unknown == ("m1",)
    assert not audit.leaking
    assert set(audit.table["m1"]) == {"?"}


def test_pooled_folds_are_audited_within_their_fold():
    """In a pooled cross-validation every image is tested once and trained on in the other folds."""
    table = member_tables(1, folds=4)["m0"]
    parts = [
        table[["image_id", "case"]].assign(fold=k, split=np.where(table["fold"] == k, "test", "train"))
        for k in range(4)
    ]
    audit = roles.audit_roles({"m0": pd.concat(parts)}, table)
    assert not audit.excluded
    assert not audit.leaking
    assert set(audit.table["m0"]) == {"train+test"}


def test_folds_that_only_one_side_knows_divide_nothing():
    table = member_tables(1, folds=4)["m0"]
    history = table[["image_id", "case"]].assign(fold=9, split="train")
    assert len(roles.audit_roles({"m0": history}, table.drop(columns="fold")).excluded) == len(table)
    unfolded = history.drop(columns="fold")
    assert len(roles.audit_roles({"m0": unfolded}, table).excluded) == len(table)
    assert not roles.audit_roles({"m0": history}, table).excluded  # trained on in a fold that is not scored


def test_every_member_says_how_many_images_had_which_role():
    table = member_tables(1)["m0"]
    sides = np.array(["train", "val", "test"])[np.arange(len(table)) % 3]
    manifest = table[["image_id", "case"]].assign(split=sides, fused=sides == "val")
    counts = roles.audit_roles({"a": manifest, "b": None}, table).counts.set_index("member")
    assert counts.loc["a", list(roles.ROLES)].tolist() == [32, 32, 32, 32]
    assert counts.loc["b"].isna().all()
    manifest.loc[0, "split"] = "test"
    assert roles.audit_roles({"a": manifest}, table).counts.loc[0, ["train", "test"]].tolist() == [31, 33]


def test_only_what_spoils_a_score_is_serious():
    source = cube(member_tables(4))
    manifest = source.frame[["image_id", "case"]].assign(
        split=["train" if k < 3 else "test" for k in range(len(source.true))]
    )
    audit = roles.audit_roles({"m0": manifest, "m1": None}, source.frame)
    found = roles.cautions(
        source, combine(source, "vote"), audit=audit, gain=(-0.1, -0.2, -0.05), chosen_on="test",
        chosen_cases={"14-0"},
    )  # fmt: skip
    assert {one.kind for one in found if one.serious} == {
        "trained-on-scored", "leakage", "selected-on-test", "worse-than-best",
    }  # fmt: skip
    assert {one.kind for one in found if not one.serious} == {
        "training-unknown", "chosen-on-scored-cases", "few-cases", "ties",
    }  # fmt: skip
    assert "few-cases" in {one.kind for one in roles.cautions(source, combine(source))}
    many = cube(member_tables(2, cases=30))
    assert "few-cases" not in {one.kind for one in roles.cautions(many, combine(many))}


def test_cautions_name_what_is_wrong():
    source = cube(member_tables(4))
    kinds = lambda **o: {c.kind for c in roles.cautions(source, combine(source, **o.pop("how", {})), **o)}  # noqa: E731
    assert kinds(how={"method": "vote"}) == {"ties", "few-cases"}
    assert "one-weight" in kinds(how={"weights": [9, 1, 0, 0]})
    assert "gain-within-interval" in kinds(gain=(0.01, -0.01, 0.03))
    assert "gain-within-interval" not in kinds(gain=(0.03, 0.01, 0.05))
    assert "worse-than-best" in kinds(gain=(-0.03, -0.05, -0.01))
    assert "worse-than-best" not in kinds(gain=(-0.03, -0.05, 0.01))
    assert "selected-on-test" in kinds(chosen_on="test")
    assert "chosen-on-scored-cases" in kinds(chosen_on="val", chosen_cases={"14-0", "elsewhere"})
    assert "chosen-on-scored-cases" not in kinds(chosen_on="val", chosen_cases={"elsewhere", ""})
    same = cube(dict.fromkeys(("a", "b"), member_tables(1)["m0"]))
    assert "identical" in {c.kind for c in roles.cautions(same, combine(same))}
    one = source.members(["m0"])
    assert "one-member" in {c.kind for c in roles.cautions(one, combine(one))}
    learned = fit("stacking", source)
    answer = combine(source, "stacking", fitted=learned)
    found = roles.cautions(source, answer, chosen_on="val", fitted_on="val")
    assert "fitted-where-chosen" in {c.kind for c in found}


def test_all_subsets_are_all_and_once():
    rows = subsets.all_subsets(5)
    seen = {tuple(np.flatnonzero(row)) for row in rows}
    assert seen == {c for size in range(1, 6) for c in combinations(range(5), size)}


def test_by_case_weighs_magnifications_alike_however_many_images_they_have():
    """Case 1: three images at 40X (0.9, 0.6, 0.3), one at 400X (0.2): (0.6 + 0.2) / 2 = 0.4 for all four."""
    positive = np.array([0.9, 0.6, 0.3, 0.2, 0.7, 0.1])
    table = pd.DataFrame(
        {
            "image_id": [f"{k}.png" for k in range(6)],
            "case": ["1", "1", "1", "1", "2", ""],
            "magnification": ["40X", "40X", "40X", "400X", "40X", "40X"],
            "label": ["malignant", "malignant", "malignant", "malignant", "benign", "benign"],
            "prob_benign": 1 - positive,
            "prob_malignant": positive,
        }
    )
    fused = ensemble.by_case(cube({"m": validate(table)}))
    assert fused.probs[0, :, 1] == pytest.approx([0.4, 0.4, 0.4, 0.4, 0.7, 0.1])
    assert fused.probs.sum(axis=2) == pytest.approx(1)
    again = ensemble.by_case(fused)
    assert again.probs == pytest.approx(fused.probs)
    first, _, _ = ensemble_predictions({"m": validate(table)}, "mean", per_case=True)
    assert first["prob_malignant"].to_numpy() == pytest.approx(fused.probs[0, :, 1])


def test_by_case_keeps_the_folds_of_a_cross_validation_apart():
    table = member_tables(1, folds=2)["m0"]
    table["case"] = "14-1"
    fused = ensemble.by_case(cube({"m": table}))
    for fold in (0, 1):
        rows = (table["fold"] == fold).to_numpy()
        assert np.ptp(fused.probs[0, rows, 1]) == pytest.approx(0, abs=1e-12)
    assert np.ptp(fused.probs[0, :, 1]) > 0
