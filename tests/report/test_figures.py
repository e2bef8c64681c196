"""Figures say what the tables say: cells, clicks, colours, names as text."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from engine.analysis import curves, ensemble, metrics, operating, roles, subsets
from engine.analysis.intervals import Estimate
from engine.analysis.predictions import validate
from engine.report import figures

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
    assert figures.readable_on("#5B3E8F") == "#FFFFFF"
    assert figures.readable_on("#F6F4FA") == "#23212B"


def test_long_names_are_cut():
    assert figures.wrapped("word " * 40).endswith("…")
    assert "…" in figures.wrapped("x" * 200)


def test_a_run_keeps_its_colour_and_no_two_share_one():
    ids = [f"20261122-{k}" for k in range(10)]
    colours = figures.run_colours(ids)
    assert len(set(colours.values())) == 10
    assert figures.run_colours(ids[::-1]) == colours
    taken = {figures.BENIGN, figures.MALIGNANT, figures.ACCENT, figures.LEAKAGE}
    assert not set(figures.RUN_COLOURS) & taken


def test_a_forest_shows_dots_bars_and_numbers():
    nan = float("nan")
    rows = [
        figures.ForestRow("A", Estimate(0.8, 0.7, 0.9, 0.95, 10, 3, "x")),
        figures.ForestRow("B", Estimate(nan, nan, nan, 0.95, 10, 1, "undefined")),
    ]
    fig = figures.forest(rows, "Accuracy", line=0.687, line_name="always malignant")
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
    line = lambda rows: [figures.Line("a", "A", rows, "#44AA99")]  # noqa: E731
    cube = ensemble.cube({f"m{k}": small_table(k) for k in range(3)})
    found = subsets.search(cube)
    from engine.analysis import diversity

    audit = roles.audit_roles({"m0": None}, table)
    epochs = pd.DataFrame({"run": ["r"] * 4, "name": ["R"] * 4, "split": ["train", "val"] * 2, "epoch": [1, 1, 2, 2], "loss": [3, 4, 2, 3]})  # fmt: skip
    drawn = [
        figures.roc(line(curves.roc(result)), [figures.Point("A", "#44AA99", 0.1, 0.9, 0.8)], dark=dark),
        figures.by_threshold(
            line(operating.threshold_table(table)), "ppv", "PPV", [("#44AA99", 0.4)], dark=dark
        ),
        figures.precision_recall(line(curves.precision_recall(result)), 0.5, dark=dark),
        figures.reliability(line(curves.reliability(result)), dark=dark),
        figures.decision_curve(line(curves.decision_curve(result)), dark=dark),
        figures.risk_coverage(line(curves.risk_coverage(result)), dark=dark),
        figures.learning_curves(epochs, "loss", dark=dark),
        figures.agreement_map(diversity.pair_matrix(cube, "kappa"), cube.ids, dark=dark),
        figures.accuracy_by_size(diversity.size_points(found), chosen=1, dark=dark),
        figures.contributions(diversity.shapley(cube), "shapley", "Shapley", {}, dark=dark),
        figures.role_map(audit.table, dark=dark),
        figures.case_bars(metrics.case_table(table), dark=dark),
    ]
    ink = figures.tone(dark).ink
    for fig in drawn:
        assert fig.data
        assert fig.layout.template.layout.font.color == ink
        fig.to_json()


def test_one_point_per_subset_knows_its_rank():
    cube = ensemble.cube({f"m{k}": small_table(k) for k in range(3)})
    from engine.analysis import diversity

    fig = figures.accuracy_by_size(diversity.size_points(subsets.search(cube)))
    ranks = [int(row[0]) for trace in fig.data if trace.customdata is not None for row in trace.customdata]
    assert sorted(ranks) == list(range(1, 15))
