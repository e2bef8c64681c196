"""The bootstrap against slow, literal versions of itself."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from engine.analysis import draws, intervals, metrics
from engine.analysis.predictions import validate
from engine.errors import PredictionsError


def clustered(seed: int = 0, benign: int = 12, malignant: int = 20, classes: int = 2) -> pd.DataFrame:
    """Cases of 4-14 images whose probabilities share a case effect; two digits, so that ties occur."""
    rng = np.random.default_rng(seed)
    rows = []
    names = ("benign", "malignant") if classes == 2 else tuple(f"c{k}" for k in range(classes))
    for number in range(benign + malignant):
        true = (0 if number < benign else 1) if classes == 2 else number % classes
        effect = rng.normal(0, 1)
        for image in range(int(rng.integers(4, 15))):
            raw = np.exp(rng.normal(0, 1, classes) + (np.arange(classes) == true) * (1 + effect))
            units = np.floor(100 * raw / raw.sum())
            units[0] = 100 - units[1:].sum()
            probs = {f"prob_{name}": units[k] / 100 for k, name in enumerate(names)}
            rows.append(
                {"image_id": f"{number}-{image}", "case": f"14-{number}", "label": names[true]} | probs
            )
    return validate(pd.DataFrame(rows))


def repeated(result: metrics.Outcome, unit: np.ndarray, weights: np.ndarray) -> metrics.Outcome:
    """The outcome with every image as often as its unit was drawn, each copy of a case its own case."""
    rows, copies = [], []
    for position, group in enumerate(unit):
        times = int(weights[group])
        rows += [position] * times
        copies += [f"{group}.{copy}" for copy in range(times)]
    codes, names = pd.factorize(np.array(copies), sort=True)
    taken = result.take(np.array(rows))
    return metrics.Outcome(taken.classes, taken.true, taken.probs, taken.guess, codes, tuple(names))


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("name", list(metrics.SCORES))
def test_each_draw_equals_scoring_the_drawn_images_one_by_one(name, classes):
    result = metrics.outcome(clustered(1, classes=classes))
    groups = draws.clusters(result)
    weights = draws.draw_weights(groups, draws=6, seed=3)
    fast = draws.statistic(name, result, groups).at(weights)
    slow = [metrics.value(name, repeated(result, groups.unit, row)) for row in weights]
    assert fast == pytest.approx(np.array(slow), abs=2e-6)


@pytest.mark.parametrize("name", ["auroc", "average_precision", "accuracy", "nll"])
def test_image_level_draws_equal_scoring_the_drawn_images_one_by_one(name, monkeypatch):
    monkeypatch.setattr(draws, "MANY_UNITS", 10)
    result = metrics.outcome(clustered(2))
    groups = draws.clusters(result, "image")
    weights = draws.draw_weights(groups, draws=6, seed=3)
    fast = draws.statistic(name, result, groups).at(weights)
    slow = [metrics.value(name, repeated(result, groups.unit, row)) for row in weights]
    assert fast == pytest.approx(np.array(slow), abs=2e-6)


@pytest.mark.parametrize("name", [n for n in metrics.SCORES if n != "average_precision"])
def test_influence_is_the_derivative_by_each_weight(name):
    result = metrics.outcome(clustered(4))
    groups = draws.clusters(result)
    measure = draws.statistic(name, result, groups)
    weights = draws.draw_weights(groups, 1, 1).astype(float) + 1
    exact = measure.influence(weights)[0]
    step = 1e-5
    moved = weights + step * np.eye(groups.size)
    numeric = (measure.at(moved) - measure.at(weights)) / step
    assert exact == pytest.approx(numeric, abs=1e-4)


def test_draws_keep_the_number_of_cases_of_each_class():
    result = metrics.outcome(clustered(0, 5, 9))
    groups = draws.clusters(result)
    weights = draws.draw_weights(groups, 200, 0)
    assert (weights[:, groups.stratum == 0].sum(axis=1) == 5).all()
    assert (weights[:, groups.stratum == 1].sum(axis=1) == 9).all()


def test_the_same_seed_gives_the_same_interval_and_another_seed_another():
    table = clustered(0)
    first, again = intervals.estimate(table, "auroc"), intervals.estimate(table, "auroc")
    assert first == again
    assert first != intervals.estimate(table, "auroc", seed=1)


def cases_of(*sizes: int) -> draws.Clusters:
    """Units of so many cases per class, an image each."""
    stratum = np.repeat(np.arange(len(sizes)), sizes)
    return draws.Clusters(np.arange(len(stratum)), stratum, "case")


@pytest.mark.parametrize("side", [1, -1])
def test_bca_agrees_with_scipy_on_one_sample(side):
    """Values with a long tail to one side: acceleration moves both ends, and its sign matters."""
    from scipy import stats

    values = side * np.random.default_rng(0).gamma(0.5, size=40)
    groups = cases_of(40)
    measure = draws.Ratio(values, np.ones(40))
    weights = draws.draw_weights(groups, 20000, 0)
    plain = intervals.percentile_interval(measure.at(weights))
    ours = intervals.bca_interval(
        values.mean(), measure.at(weights), measure.at(draws.jackknife_weights(groups)), groups
    )
    theirs = stats.bootstrap((values,), np.mean, n_resamples=20000, method="BCa", rng=1).confidence_interval
    assert ours == pytest.approx(tuple(theirs), abs=0.006)
    assert side * (ours[0] - plain[0]) > 0.008  # what BCa does at all, and to which side
    assert side * (ours[1] - plain[1]) > 0.008


def test_a_jackknife_leaves_one_case_out_and_keeps_the_size_of_its_class():
    weights = draws.jackknife_weights(cases_of(3, 4))
    assert (np.diag(weights) == 0).all()
    assert np.allclose(weights[:, :3].sum(axis=1), 3)
    assert np.allclose(weights[:, 3:].sum(axis=1), 4)
    assert np.unique(weights[0, 1:3]) == [1.5]


def test_the_standard_error_is_that_of_a_stratified_mean():
    """Of a mean over two classes: the classes' own variances of the mean, weighted by their shares."""
    values = np.random.default_rng(3).normal(size=9)
    groups = cases_of(2, 7)
    measure = draws.Ratio(values, np.ones(9))
    ones = np.ones((1, 9))
    found = intervals.standard_errors(measure.influence(ones), ones, groups)[0]
    parts = [values[:2], values[2:]]
    assert found == pytest.approx(np.sqrt(sum((len(x) / 9) ** 2 * x.var(ddof=1) / len(x) for x in parts)))


def test_bootstrap_t_by_hand():
    """Two draws below, one equal, two above; a draw without a spread of its own counts as far out."""
    replicates = np.array([0.3, 0.4, 0.5, 0.6, 0.9])
    errors = np.array([0.1, 0.2, 0.1, 0.1, 0.4])
    ends = intervals.bootstrap_t_interval(0.5, replicates, errors, 0.05, level=0.5)
    assert ends == pytest.approx((0.5 - 1.0 * 0.05, 0.5 + 0.5 * 0.05))  # pivots -2, -0.5, 0, 1, 1
    flat = intervals.bootstrap_t_interval(0.5, replicates, np.array([0.1, 0.2, 0.1, 0.1, 0.0]), 0.05, 0.8)
    assert flat[0] == -np.inf  # 0.9 without a spread
    assert np.isfinite(flat[1])
    same = intervals.bootstrap_t_interval(0.5, np.full(5, 0.5), np.zeros(5), 0.05)
    assert same == (0.5, 0.5)  # no distance is no distance, spread or not
    assert np.isnan(intervals.bootstrap_t_interval(0.5, replicates, errors, 0.0)).all()


@pytest.mark.parametrize(
    ("benign", "method", "warned"),
    [
        (2, "bootstrap-t", "only 2 benign cases: the interval is rough"),
        (9, "bootstrap-t", "only 9 benign cases: the interval is rough"),
        (10, "bootstrap-t", ""),
        (19, "bootstrap-t", ""),
        (20, "percentile", ""),
    ],
)
def test_how_many_cases_make_which_interval(benign, method, warned):
    estimate = intervals.estimate(clustered(3, benign, 30), "balanced_accuracy", draws=300)
    assert estimate.method.startswith(method)
    assert estimate.warning == warned
    assert np.isfinite([estimate.low, estimate.high]).all()


def test_wilson_equals_statsmodels():
    from statsmodels.stats.proportion import proportion_confint

    for k, n in [(0, 5), (3, 7), (7, 7), (41, 82)]:
        assert intervals.wilson(k, n) == pytest.approx(proportion_confint(k, n, method="wilson"), abs=1e-9)
    assert np.isnan(intervals.wilson(0, 0)).all()


def test_patient_diagnosis_says_k_of_n():
    table = clustered(0)
    k, n = metrics.patient_counts(metrics.outcome(table))
    assert intervals.estimate(table, "patient_diagnosis").method == f"Wilson, {k}/{n} patients"


def test_an_estimate_never_stands_alone():
    shown = intervals.Estimate(0.8594, 0.812, 0.901, 0.95, 110, 10, "percentile")
    assert str(shown) == "0.859 [0.812, 0.901] · n = 110 images, 10 cases"
    nothing = intervals.Estimate(float("nan"), float("nan"), float("nan"), 0.95, 12, 1, "undefined")
    assert str(nothing) == "n/a · n = 12 images, 1 case"
    assert nothing.as_record()["value"] is None


def test_few_cases_are_studentised_and_warned_about():
    estimate = intervals.estimate(clustered(0, 4, 11), "balanced_accuracy")
    assert estimate.method.startswith("bootstrap-t")
    assert "only 4 benign cases" in estimate.warning
    many = intervals.estimate(clustered(0, 25, 30), "balanced_accuracy")
    assert many.method.startswith("percentile")
    assert many.warning == ""
    assert intervals.estimate(clustered(0, 4, 11), "average_precision").method.startswith("BCa")


def test_sensitivity_does_not_suffer_from_few_benign_cases():
    estimate = intervals.estimate(clustered(0, 1, 30), "sensitivity")
    assert estimate.warning == ""
    assert estimate.low < estimate.value < estimate.high


def test_one_case_in_a_class_gives_no_interval():
    estimate = intervals.estimate(clustered(0, 1, 30), "balanced_accuracy")
    assert np.isnan(estimate.low)
    assert "only 1 benign case" in estimate.warning
    assert "0." in estimate.short
    assert "[n/a]" in estimate.short


def test_a_rank_score_of_one_case_in_a_class_has_no_interval_either():
    for name in ("auroc", "average_precision", "mcc"):
        assert np.isnan(intervals.estimate(clustered(0, 1, 30), name).low), name


def test_an_end_that_bootstrap_t_throws_out_of_reach_is_taken_from_bca():
    """One bad case among eleven perfect ones: draws without it have no spread, and their pivot is infinite."""
    table = clustered(0, 12, 14)
    table["prob_malignant"] = np.where(table["label"] == "malignant", 0.9, 0.1)
    bad = table["case"] == table.loc[table["label"] == "benign", "case"].iloc[0]
    table.loc[bad, "prob_malignant"] = 0.9
    table["prob_benign"] = 1 - table["prob_malignant"]
    estimate = intervals.estimate(table, "specificity")
    assert 0.5 < estimate.low < estimate.value < estimate.high <= 1


def test_k_of_n_patients_is_naive_about_images_but_not_about_patients():
    naive = intervals.estimates(clustered(0), ["patient_diagnosis", "accuracy"], method="naive", draws=100)
    assert naive["patient_diagnosis"].warning == ""
    assert "too narrow" in naive["accuracy"].warning


def test_unknown_cases_fall_back_to_images_and_say_so():
    table = clustered(0).assign(case="")
    estimate = intervals.estimate(table, "accuracy")
    assert "cases unknown" in estimate.warning
    assert estimate.n_cases == 0
    assert "cases" not in str(estimate)
    assert np.isnan(intervals.estimate(table, "prr").value)


def test_the_naive_interval_is_labelled_and_narrower():
    table = clustered(3, 25, 40)
    naive, honest = (
        intervals.estimate(table, "accuracy", method="naive"),
        intervals.estimate(table, "accuracy"),
    )
    assert "ignores clustering" in naive.method
    assert naive.high - naive.low < honest.high - honest.low


def test_a_score_stays_within_its_range():
    for seed in range(5):
        for name, estimate in intervals.estimates(clustered(seed, 3, 4), list(metrics.SCORES)).items():
            low, high = metrics.SCORES[name].range
            outside = estimate.low < low or estimate.high > high
            assert not outside, name


def test_slices_have_their_own_n():
    table = clustered(0).assign(magnification=lambda t: np.where(np.arange(len(t)) % 2, "40X", "100X"))
    rows = intervals.estimate_table(table, ["accuracy"], by="magnification", draws=100)
    assert rows["slice"].tolist() == ["all", "40X", "100X"]
    assert sum(e.n_images for e in rows["accuracy"].iloc[1:]) == len(table)


def test_an_unknown_method_is_named():
    with pytest.raises(PredictionsError, match="jackknife"):
        intervals.estimate(clustered(0), "accuracy", method="jackknife")


@pytest.mark.parametrize("method", intervals.METHODS)
def test_every_method_makes_an_interval_of_every_score(method):
    names = [
        name for name in metrics.SCORES if name != "prr" or method != "naive"
    ]  # images have no patients' rate
    for name, one in intervals.estimates(clustered(0), names, method=method, draws=200).items():
        assert one.low <= one.value <= one.high, name
        assert one.method != "none"
