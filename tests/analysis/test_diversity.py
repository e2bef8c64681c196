"""Pairwise measures by hand and against references; Shapley by its definition."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pandas as pd
import pytest

from engine.analysis import diversity, subsets
from engine.analysis.ensemble import Cube, combine
from engine.errors import EnsembleError


def noisy_cube(members: int, images: int = 120, seed: int = 0, skill: float = 0.6) -> Cube:
    rng = np.random.default_rng(seed)
    true = np.arange(images) % 2
    margin = rng.normal(0, 1, (members, images)) + skill * (2 * true - 1)
    p = np.round(1 / (1 + np.exp(-margin)), 2)
    frame = pd.DataFrame(
        {"image_id": np.arange(images).astype(str), "case": (np.arange(images) // 6).astype(str)}
    )
    names = tuple(f"m{k}" for k in range(members))
    probs = np.stack([1 - p, p], axis=2)
    return Cube(names, ("benign", "malignant"), probs, np.log(probs.clip(1e-6)), true, frame)


def cube_of_decisions(rows: list[list[int]], true: list[int]) -> Cube:
    """Members that name these classes, each with probability 0.9."""
    named = np.array(rows)
    p = np.where(named == 1, 0.9, 0.1)
    frame = pd.DataFrame({"image_id": [str(k) for k in range(len(true))], "case": ["c"] * len(true)})
    probs = np.stack([1 - p, p], axis=2)
    ids = tuple("abcdef"[: len(rows)])
    return Cube(ids, ("benign", "malignant"), probs, np.log(probs), np.array(true), frame)


def test_pair_measures_of_a_hand_worked_table():
    """Four images, all malignant. a: right right wrong wrong; b: right wrong right wrong -> N11 = N10 = N01 = N00 = 1."""
    row = diversity.pairs(cube_of_decisions([[1, 1, 0, 0], [1, 0, 1, 0]], [1, 1, 1, 1])).iloc[0]
    assert (row.both_right, row.first_only, row.second_only, row.both_wrong) == (1, 1, 1, 1)
    assert row.q == 0
    assert row.disagreement == 0.5
    assert row.double_fault == 0.25
    assert row.kappa == 0
    assert row.few_errors
    # three right together, one error of a alone: Q is undefined only when both products are 0
    row = diversity.pairs(cube_of_decisions([[1, 1, 1, 0], [1, 1, 1, 1]], [1, 1, 1, 1])).iloc[0]
    assert np.isnan(row.q)


def test_kappa_equals_statsmodels_and_q_equals_its_odds_ratio_form():
    from statsmodels.stats.contingency_tables import Table2x2
    from statsmodels.stats.inter_rater import cohens_kappa

    source = noisy_cube(4, 300)
    named, hits = diversity.decisions(source), diversity.right(source)
    for _, row in diversity.pairs(source).iterrows():
        i, j = source.ids.index(row["first"]), source.ids.index(row["second"])
        assert row.kappa == pytest.approx(cohens_kappa(pd.crosstab(named[i], named[j]).to_numpy()).kappa)
        odds = Table2x2(pd.crosstab(hits[i], hits[j]).to_numpy()).oddsratio
        assert row.q == pytest.approx((odds - 1) / (odds + 1))
        assert row.disagreement == pytest.approx((hits[i] != hits[j]).mean())
        assert row.double_fault == pytest.approx((~hits[i] & ~hits[j]).mean())


def test_the_pair_matrix_is_symmetric():
    matrix = diversity.pair_matrix(noisy_cube(4), "disagreement")
    assert np.isnan(np.diag(matrix)).all()
    assert np.nan_to_num(matrix) == pytest.approx(np.nan_to_num(matrix.T))
    with pytest.raises(EnsembleError, match="no such measure"):
        diversity.pair_matrix(noisy_cube(2), "rho")


def test_images_all_miss_are_the_oracles_errors():
    source = cube_of_decisions([[1, 0, 0], [0, 1, 0]], [1, 1, 1])
    assert diversity.oracle_errors(source) == 1
    assert diversity.all_miss(source)["image_id"].tolist() == ["2"]


def test_leave_one_out_is_the_score_without_the_member():
    source = noisy_cube(4)
    table = diversity.leave_one_out(source, "mean").set_index("member")
    rest = combine(source.members(["m0", "m1", "m3"])).decisions == source.true
    without = np.mean([rest[source.true == c].mean() for c in (0, 1)])
    assert table.loc["m2", "without"] == pytest.approx(without)
    assert diversity.leave_one_out(noisy_cube(1)).empty


@pytest.mark.parametrize("method", ["mean", "vote"])
def test_shapley_equals_the_mean_over_all_orders_and_sums_to_the_gain(method):
    source = noisy_cube(4, seed=3)

    def value(names: tuple[str, ...]) -> float:
        if not names:
            return 0.5
        right = combine(source.members(names), method).decisions == source.true
        return float(np.mean([right[source.true == c].mean() for c in (0, 1)]))

    expected = dict.fromkeys(source.ids, 0.0)
    orders = list(permutations(source.ids))
    for order in orders:
        for k, name in enumerate(order):
            before = tuple(n for n in source.ids if n in order[:k])
            after = tuple(n for n in source.ids if n in order[: k + 1])
            expected[name] += (value(after) - value(before)) / len(orders)
    table = diversity.shapley(source, method)
    assert table["shapley"].to_numpy() == pytest.approx([expected[name] for name in source.ids])
    assert table["shapley"].sum() == pytest.approx(table["full"][0] - table["empty"][0])
    assert table["full"][0] == pytest.approx(value(source.ids))


def test_fixed_and_broken_images_balance_the_change_in_errors():
    source = noisy_cube(5)
    answer = combine(source)
    changes = diversity.changed_images(source, answer, "m0")
    fixed, broken = (changes["change"] == "fixed").sum(), (changes["change"] == "broken").sum()
    errors = lambda named: int((named != source.true).sum())  # noqa: E731
    assert fixed - broken == errors(diversity.decisions(source)[0]) - errors(answer.decisions)


def test_one_point_per_subset():
    found = subsets.search(noisy_cube(4))
    points = diversity.size_points(found)
    assert len(points) == 30
    assert points.groupby(["method", "size"]).size().loc["mean"].tolist() == [4, 6, 4, 1]


def test_agreement_counts_members():
    table = diversity.agreement(cube_of_decisions([[1, 1], [1, 0], [1, 0]], [1, 1]))
    assert table["agree"].tolist() == [3, 2]
    assert table["right_share"].tolist() == pytest.approx([1, 1 / 3])
