"""Operating points keep their promise where they were chosen, and a rule reads back as it was written."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from test_curves import scored

from engine.analysis import metrics, operating
from engine.analysis.operating import Rule
from engine.analysis.predictions import validate
from engine.errors import PredictionsError


@pytest.mark.parametrize("bound", [0.8, 0.95, 1.0])
def test_an_operating_point_keeps_its_promise_on_validation(bound):
    table = scored(1)
    point = operating.operating_point(table, "sensitivity", bound)
    result = metrics.outcome(table, point.threshold)
    assert metrics.value("sensitivity", result) == pytest.approx(point.sensitivity)
    assert metrics.value("specificity", result) == pytest.approx(point.specificity)
    assert point.sensitivity >= bound
    rows = operating.threshold_table(table, np.linspace(0, 1, 401))
    best = rows.loc[rows["sensitivity"] >= bound, "specificity"].max()
    assert point.specificity == pytest.approx(best)


def test_youden_is_the_greatest_sum():
    table = scored(2)
    point = operating.operating_point(table)
    rows = operating.threshold_table(table, np.linspace(0, 1, 401))
    assert point.sensitivity + point.specificity == pytest.approx(
        (rows["sensitivity"] + rows["specificity"]).max()
    )


def of(benign: list[float], malignant: list[float]) -> pd.DataFrame:
    probs = np.array([*benign, *malignant])
    labels = ["benign"] * len(benign) + ["malignant"] * len(malignant)
    table = pd.DataFrame({"image_id": [str(k) for k in range(len(probs))], "label": labels})
    return validate(table.assign(prob_benign=1 - probs, prob_malignant=probs))


@pytest.mark.parametrize(
    ("benign", "malignant", "rule", "threshold"),
    [
        ([0.2, 0.4], [0.6, 0.8], "youden", 0.5),  # half-way between the two that it parts
        ([0.6, 0.8], [0.2, 0.9], "sensitivity", 0.1),  # every image is called: half the lowest probability
        ([0.9], [0.4, 0.6], "specificity", float(np.nextafter(0.9, 2))),  # none is called: above the highest
    ],
)
def test_where_a_threshold_lies(benign, malignant, rule, threshold):
    assert operating.operating_point(of(benign, malignant), rule, 1.0).threshold == pytest.approx(
        threshold, abs=1e-15
    )


def test_operating_points_need_both_classes_and_a_reachable_bound():
    table = scored()
    with pytest.raises(PredictionsError, match="both classes"):
        operating.operating_point(table[table["label"] == "benign"])
    with pytest.raises(PredictionsError, match="No threshold reaches"):
        operating.operating_point(table, "sensitivity", 1.5)
    nothing = operating.operating_point(table, "specificity", 1.0)
    assert metrics.value("specificity", metrics.outcome(table, nothing.threshold)) == 1


def test_a_threshold_table_adds_up():
    table = scored()
    rows = operating.threshold_table(table)
    assert (rows[["tp", "fn", "fp", "tn"]].sum(axis=1) == len(table)).all()
    at = rows[np.isclose(rows["threshold"], 0.3)].iloc[0]
    assert at["sensitivity"] == metrics.value("sensitivity", metrics.outcome(table, float(at["threshold"])))


def test_a_rule_reads_back_as_it_was_written():
    for rule in (Rule(), Rule("fixed", 0.42), Rule("youden"), Rule("sensitivity", 0.95)):
        assert operating.parse_rule(rule.text) == rule
    for text in ("2", "sensitivity:0.1", "sensitivity:x", "0.4:0.5", "maximum", "youden:3"):
        with pytest.raises(PredictionsError, match="no operating point"):
            operating.parse_rule(text)


def test_a_rule_of_validation_needs_validation():
    table = scored()
    assert operating.threshold_by(Rule(), None) is None
    assert operating.threshold_by(Rule("fixed", 0.3), None) == 0.3
    assert operating.threshold_by(Rule("youden"), table) == operating.operating_point(table).threshold
    with pytest.raises(PredictionsError, match="no validation predictions"):
        operating.threshold_by(Rule("youden"), None)
