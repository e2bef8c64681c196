"""Aligning, paired differences, tests against references and by brute force."""

from __future__ import annotations

from itertools import product

import numpy as np
import pandas as pd
import pytest

from engine.analysis import comparison, metrics
from engine.analysis.alignment import align
from engine.analysis.comparison import Entry, compare
from engine.analysis.paired import holm, mcnemar, sign_flip
from engine.analysis.predictions import validate
from engine.errors import PredictionsError


def entry_table(seed: int, cases: int = 24, quality: float = 1.0, first: int = 0) -> pd.DataFrame:
    """Images of the same cases for every seed; only the probabilities differ. Half the cases are benign."""
    rng = np.random.default_rng(seed)
    rows = []
    for number in range(first, first + cases):
        for image in range(4 + number % 5):
            true = number % 2
            p = 1 / (1 + np.exp(-(rng.normal(0, 1) + quality * (2 * true - 1))))
            power = ("40X", "100X", "200X", "400X")[image % 4]
            rows.append(
                {
                    "image_id": f"{number}-{image}.png",
                    "case": f"14-{number}",
                    "magnification": power,
                    "label": ("benign", "malignant")[true],
                    "prob_benign": 1 - p,
                    "prob_malignant": p,
                }
            )
    return validate(pd.DataFrame(rows))


def entries(*seeds: int, **options) -> list[Entry]:
    return [Entry(f"run{seed}", f"Run {seed}", entry_table(seed, **options)) for seed in seeds]


def test_only_common_images_are_compared_and_it_says_so():
    first, second = entry_table(0, 10), entry_table(1, 10, first=4).sample(frac=1, random_state=0)
    both = align({"a": first, "b": second})
    assert both.tables["a"]["image_id"].tolist() == both.tables["b"]["image_id"].tolist()
    assert set(both.frame["case"]) == {f"14-{k}" for k in range(4, 10)}
    assert both.dropped["a"] == len(first) - len(both)
    assert "a loses" in both.note
    assert align({"a": first}).note == ""


def test_nothing_in_common_refuses_with_the_reason():
    with pytest.raises(PredictionsError, match="no image in common"):
        align({"a": entry_table(0, 4), "b": entry_table(0, 4, first=50)})


def test_contradicting_labels_and_classes_are_refused():
    table = entry_table(0, 4)
    swapped = table.assign(label=table["label"].map({"benign": "malignant", "malignant": "benign"}))
    with pytest.raises(PredictionsError, match="contradict"):
        align({"a": table, "b": swapped})
    other = table.rename(columns={"prob_benign": "prob_A", "prob_malignant": "prob_F"})
    with pytest.raises(PredictionsError, match="different classes"):
        align({"a": table, "b": other})


def test_what_one_entry_does_not_know_comes_from_the_others():
    table = entry_table(0, 6)
    bare = table.assign(case="", label="", magnification="")
    both = align({"bare": bare, "full": table})
    assert both.tables["bare"]["case"].tolist() == table["case"].tolist()
    assert metrics.score_table(both.tables["bare"], ["accuracy"])["accuracy"][0] > 0


def test_images_tested_in_several_folds_are_matched_by_fold():
    twice = pd.concat([entry_table(0, 4).assign(fold=1), entry_table(1, 4).assign(fold=2)])
    assert len(align({"a": twice, "b": twice.iloc[::-1]})) == len(twice)
    with pytest.raises(PredictionsError, match="more than once"):
        align({"a": twice.assign(fold=1)})


def test_accuracy_and_matrices_agree_with_a_count_by_hand():
    result = compare(entries(0, 1), with_intervals=False)
    table = result.aligned.tables["run0"]
    guess = np.where(table["prob_malignant"] > table["prob_benign"], "malignant", "benign")
    row = result.entries[0]
    assert row.accuracy == float((guess == table["label"]).mean())
    assert list(row.confusion) == ["all", "40X", "100X", "200X", "400X"]
    expected = pd.crosstab(table["label"].to_numpy(), guess).to_numpy()
    assert row.confusion["all"] == expected.tolist()
    parts = np.sum([row.confusion[m] for m in ("40X", "100X", "200X", "400X")], axis=0)
    assert parts.tolist() == row.confusion["all"]
    record = result.as_records()["runs"][0]
    assert record["n"] == len(table)
    assert record["confusion"] == row.confusion


def test_a_paired_difference_is_narrower_than_two_single_intervals_allow():
    """The same model with little noise: unpaired intervals overlap widely, the paired one is tight."""
    base = entry_table(0, 60)
    noise = np.random.default_rng(9).normal(0, 0.02, len(base))
    p = np.clip(base["prob_malignant"] + noise, 0, 1)
    near = base.assign(prob_malignant=p, prob_benign=1 - p)
    result = compare([Entry("a", "a", base), Entry("b", "b", near)], names=["accuracy"])
    width = result.entries[0].scores["accuracy"].high - result.entries[0].scores["accuracy"].low
    gap = result.differences[0].estimate
    assert gap.high - gap.low < 0.5 * width
    assert gap.low <= gap.value <= gap.high


def test_an_entry_against_itself_differs_by_nothing():
    table = entry_table(0)
    result = compare([Entry("a", "a", table), Entry("b", "b", table)])
    for row in result.differences:
        assert row.estimate.value == 0
        assert row.p == 1
        assert row.mcnemar.p == 1


def test_mcnemar_equals_statsmodels():
    from statsmodels.stats.contingency_tables import mcnemar as independent

    rng = np.random.default_rng(0)
    for _ in range(10):
        a, b = rng.random(60) < 0.8, rng.random(60) < 0.7
        table = [[(a & b).sum(), (a & ~b).sum()], [(~a & b).sum(), (~a & ~b).sum()]]
        assert mcnemar(a, b).p == pytest.approx(independent(table, exact=True).pvalue)


def test_holm_equals_statsmodels():
    from statsmodels.stats.multitest import multipletests

    p = [0.01, 0.04, 0.03, 0.2, 0.005]
    assert holm(p) == pytest.approx(multipletests(p, method="holm")[1])
    assert np.isnan(holm([0.01, float("nan")])[1])
    assert holm([0.01, float("nan")])[0] == 0.01
    assert holm([0.6, 0.7]) == [1, 1]


@pytest.mark.parametrize(
    "name", ["accuracy", "balanced_accuracy", "prr", "auroc", "brier", "f1", "average_precision"]
)
def test_exact_sign_flip_equals_exchanging_cases_one_by_one(name):
    both = align({"a": entry_table(0, 6, 2.0), "b": entry_table(1, 6, 0.2)})
    a, b = (metrics.outcome(table) for table in both.tables.values())

    def score(swap) -> float:
        from_b = np.isin(a.case, np.flatnonzero(swap))
        mixed = metrics.Outcome(
            a.classes,
            a.true,
            np.where(from_b[:, None], b.probs, a.probs),
            np.where(from_b, b.guess, a.guess),
            a.case,
            a.cases,
        )
        return metrics.value(name, mixed)

    gaps = [score(np.array(s)) - score(1 - np.array(s)) for s in product([0, 1], repeat=6)]
    expected = np.mean(np.abs(gaps) >= abs(gaps[0]) - 1e-9)
    assert sign_flip(name, a, b) == pytest.approx(expected)


def test_twelve_cases_are_exchanged_in_every_way_and_thirteen_at_random():
    for cases, exact in ((12, True), (13, False)):
        both = align({"a": entry_table(0, cases, 1.0), "b": entry_table(1, cases, 0.5)})
        a, b = (metrics.outcome(table) for table in both.tables.values())
        share = sign_flip("brier", a, b) * 2**cases
        assert (abs(share - round(share)) < 1e-6) == exact


def test_sign_flip_tells_a_real_difference_from_noise():
    good, bad = align({"a": entry_table(0, 60, 2.5), "b": entry_table(1, 60, 0.3)}).tables.values()
    assert sign_flip("accuracy", metrics.outcome(good), metrics.outcome(bad), flips=2000) < 0.01
    one, two = align({"a": entry_table(0, 60), "b": entry_table(1, 60)}).tables.values()
    assert sign_flip("accuracy", metrics.outcome(one), metrics.outcome(two), flips=2000) > 0.05


def test_cases_unknown_to_all_still_compare_at_image_level():
    unknown = [Entry(e.id, e.name, e.predictions.assign(case="")) for e in entries(0, 1, cases=6)]
    result = compare(unknown, names=["accuracy", "prr"])
    assert np.isnan(result.entries[0].scores["prr"].value)
    assert "cases unknown" in result.differences[0].estimate.warning
    assert {row.score for row in result.differences} == {"accuracy"}


def test_the_number_of_comparisons_is_stated():
    result = compare(entries(0, 1, 2, 3, cases=8), names=["accuracy"], draws=200, reference="run2")
    assert {row.reference for row in result.differences} == {"run2"}
    assert {row.comparisons for row in result.differences} == {3}
    assert all(row.p_holm >= row.p for row in result.differences)
    with pytest.raises(PredictionsError, match="not among the entries"):
        compare(entries(0, 1), reference="run7")


def test_seed_spread_stands_apart_from_case_spread():
    spread = comparison.seed_spread({f"s{k}": entry_table(k, 30) for k in range(4)}, "accuracy")
    assert spread.runs == 4
    assert 0 < spread.seed_sd < 0.2
    assert 0 < spread.case_se < 0.2


def test_a_cell_selects_exactly_its_images():
    result = compare(entries(0, 1), with_intervals=False)
    table = comparison.opinions(result.aligned)
    for power, matrix in result.entries[1].confusion.items():
        for i, true in enumerate(("benign", "malignant")):
            for j, guess in enumerate(("benign", "malignant")):
                rows = comparison.select_images(
                    table, entry="run1", true=true, guess=guess, slices={"magnification": power}
                )
                assert len(rows) == matrix[i][j]


def test_buckets_of_errors():
    result = compare(entries(0, 1, 2), with_intervals=False)
    table = comparison.opinions(result.aligned)
    pick = lambda bucket, entry=None: comparison.select_images(table, bucket=bucket, entry=entry)  # noqa: E731
    assert (pick("all-wrong")["n_right"] == 0).all()
    assert len(pick("all-wrong")) + len(pick("disagree")) + (table["n_right"] == 3).sum() == len(table)
    only = pick("only-wrong", "run1")
    assert (~only["right_run1"] & only["right_run0"] & only["right_run2"]).all()
    confident = pick("confident-wrong", "run0")
    assert (confident["confidence_run0"] >= comparison.CONFIDENT).all()
    with pytest.raises(PredictionsError, match="no such bucket"):
        pick("nonsense", "run0")


def test_discordant_images_are_those_mcnemar_counts():
    result = compare(entries(0, 1), with_intervals=True, draws=100, names=["accuracy"])
    rows = comparison.discordant(result.aligned, "run1", "run0")
    test = result.differences[0].mcnemar
    assert (rows["right"] == "run1").sum() == test.first_only
    assert (rows["right"] == "run0").sum() == test.second_only


def test_only_differing_settings_are_listed():
    table = comparison.config_differences(
        {"a": {"model": "b0", "lr": 0.1, "aug": {"flip": True}}, "b": {"model": "b0", "lr": 0.2, "aug": {}}}
    )
    assert table["setting"].tolist() == ["lr", "aug.flip"]
    assert table.loc[1, "b"] == ""
