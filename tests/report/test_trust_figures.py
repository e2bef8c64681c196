"""Figures of trust: what is drawn is what was measured, and the control can be told without colour."""

from __future__ import annotations

import numpy as np

from engine.report import trust_figures
from engine.report.trust_figures import Curve


def test_every_way_of_removing_has_its_panel_with_both_maps():
    x = np.array([0.0, 0.5, 1.0])
    pair = [Curve("Grad-CAM <b>", x, x), Curve("Random", x, 1 - x, control=True)]
    fig = trust_figures.faithfulness({"Deletion": pair, "Insertion": pair})
    assert len(fig.data) == 4
    assert [note.text for note in fig.layout.annotations] == ["Deletion", "Insertion"]
    assert sum(bool(trace.showlegend) for trace in fig.data) == 2  # one legend for all panels
    own, control = fig.data[:2]
    assert own.name == "Grad-CAM &lt;b&gt;"
    np.testing.assert_array_equal(control.y, 1 - x)
    assert (own.line.dash, control.line.dash) == ("solid", "dash")
    assert own.marker.symbol != control.marker.symbol


def test_the_cascade_names_every_part_that_was_randomised():
    steps = ("trained", "classifier", "bn2")
    curve = Curve("Grad-CAM", np.arange(3), np.array([1.0, 0.2, np.nan]))
    fig = trust_figures.randomisation([curve], steps)
    assert tuple(fig.layout.xaxis.ticktext) == steps
    assert tuple(fig.layout.yaxis.range) == (-1.05, 1.05)
    np.testing.assert_array_equal(fig.data[0].y, curve.y)
