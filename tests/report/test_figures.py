"""Figures say what the tables say: cells, clicks, colours, names as text."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from engine.analysis import curves, ensemble, metrics, operating, roles, subsets
from engine.analysis.intervals import Estimate
from engine.analysis.predictions import validate
from engine.report import curve_figures, ensemble_figures, score_figures, theme

CLASSES = ("benign", "malignant")


def small_table(seed: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    true = np.arange(60) // 6 % 2
    p = np.clip(0.5 + 0.3 * (2 * true - 1) + rng.normal(0, 0.3, 60), 0, 1)
    return validate(
        pd.DataFrame(
            {
                "image_id": [str(k) for k in range(60)],
                "case": [f"c{k // 6}" for k in range(60)],
                "label": np.array(CLASSES)[true],
                "prob_benign": 1 - p,
                "prob_malignant": p,
            }
        )
    )


def test_ink_stays_readable_on_every_fill():
    assert theme.readable_on("#5B3E8F") == "#FFFFFF"
    assert theme.readable_on("#F6F4FA") == "#23212B"


def test_long_names_are_cut():
    assert theme.wrapped("word " * 40).endswith("…")
    assert "…" in theme.wrapped("x" * 200)


def test_no_run_has_the_colour_of_a_class_or_of_a_warning():
    taken = {theme.BENIGN, theme.MALIGNANT, theme.ACCENT, theme.LEAKAGE}
    assert not set(theme.RUN_COLOURS) & taken
    assert len(set(theme.RUN_COLOURS)) == len(theme.RUN_COLOURS)


def test_a_forest_shows_dots_bars_and_numbers():
    nan = float("nan")
    rows = [
        score_figures.ForestRow("A", Estimate(0.8, 0.7, 0.9, 0.95, 10, 3, "x")),
        score_figures.ForestRow("B", Estimate(nan, nan, nan, 0.95, 10, 1, "undefined")),
    ]
    fig = score_figures.forest(rows, "Accuracy", line=0.687, line_name="always malignant")
    texts = [note.text for note in fig.layout.annotations]
    assert "0.800 [0.700, 0.900]" in texts
    assert "n/a" in texts
    low, high = fig.layout.xaxis.range
    assert low < 0.687
    assert high > 0.9


@pytest.mark.parametrize("dark", [False, True])
def test_every_figure_is_drawn_in_both_themes(dark):
    table = small_table()
    result = metrics.outcome(table)
    line = lambda rows: [curve_figures.Line("a", "A", rows, "#44AA99")]  # noqa: E731
    cube = ensemble.cube({f"m{k}": small_table(k) for k in range(3)})
    found = subsets.search(cube)
    from engine.analysis import diversity

    audit = roles.audit_roles({"m0": None}, table)
    epochs = pd.DataFrame({"run": ["r"] * 4, "name": ["R"] * 4, "split": ["train", "val"] * 2, "epoch": [1, 1, 2, 2], "loss": [3, 4, 2, 3]})  # fmt: skip
    drawn = [
        curve_figures.roc(
            line(curves.roc(result)), [curve_figures.Point("A", "#44AA99", 0.1, 0.9, 0.8)], dark=dark
        ),
        curve_figures.by_threshold(
            line(operating.threshold_table(table)), "ppv", "PPV", [("#44AA99", 0.4)], dark=dark
        ),
        curve_figures.precision_recall(line(curves.precision_recall(result)), 0.5, dark=dark),
        curve_figures.reliability(line(curves.reliability(result)), dark=dark),
        curve_figures.decision_curve(line(curves.decision_curve(result)), dark=dark),
        curve_figures.risk_coverage(line(curves.risk_coverage(result)), dark=dark),
        curve_figures.learning_curves(epochs, "loss", colours={"r": "#44AA99"}, dark=dark),
        ensemble_figures.agreement_map(diversity.pair_matrix(cube, "kappa"), cube.ids, dark=dark),
        ensemble_figures.accuracy_by_size(diversity.size_points(found), chosen=1, dark=dark),
        ensemble_figures.contributions(
            diversity.shapley(cube),
            "shapley",
            "Shapley",
            {},
            colours=dict.fromkeys(cube.ids, "#44AA99"),
            dark=dark,
        ),
        ensemble_figures.role_map(audit.table, dark=dark),
        score_figures.case_bars(metrics.case_table(table), dark=dark),
    ]
    ink = theme.tone(dark).ink
    for fig in drawn:
        assert fig.data
        assert fig.layout.template.layout.font.color == ink
        fig.to_json()


def test_one_point_per_subset_knows_its_rank():
    cube = ensemble.cube({f"m{k}": small_table(k) for k in range(3)})
    from engine.analysis import diversity

    fig = ensemble_figures.accuracy_by_size(diversity.size_points(subsets.search(cube)))
    ranks = [int(row[0]) for trace in fig.data if trace.customdata is not None for row in trace.customdata]
    assert sorted(ranks) == list(range(1, 15))


@pytest.mark.parametrize(
    ("roles_of_case", "scored", "shown"),
    [
        ("train", True, "leak"),
        ("train", False, "train"),
        ("fused+test", True, "leak"),
        ("fused+test", False, "fused"),
        ("fused", True, "fused"),  # validation, on which a method was fitted, is not its test
        ("val+test", True, "val"),
        ("test", True, "test"),
        ("?", True, "?"),
        ("", True, ""),
    ],
)
def test_a_case_is_drawn_by_its_strongest_role(roles_of_case, scored, shown):
    assert ensemble_figures._strongest(roles_of_case, scored) == shown
