"""The three checks of the explain page, with a real network behind the buttons."""

from __future__ import annotations

import explained  # tests/explained.py
import pytest
from explain_models import random_model

from dashboard import explain_trust, explain_view
from engine.errors import ExplainError

pytestmark = pytest.mark.slow


@pytest.fixture
def open_trust(app, runs_dir, tmp_path, monkeypatch):
    loaded = random_model("tf_efficientnet_lite0", 64)
    monkeypatch.setattr(explain_view, "load", lambda _folder: loaded)
    monkeypatch.setattr(explain_trust, "SAMPLE", 2)
    monkeypatch.setattr(explain_trust, "RANDOMISED", 1)
    folder = explained.run(runs_dir, tmp_path / "images", maps=False)
    return app("explain", runs=folder.id, view="Trust")


def test_this_map_the_sample_and_the_randomised_network_are_drawn_beside_random_weights(open_trust):
    at = open_trust
    assert not at.exception
    assert at.get("plotly_chart") == []
    for button, charts in (("measure_map", 1), ("measure", 1), ("randomise", 2)):
        at.button(key=f"explain_{button}").click().run(timeout=60)
        assert not at.exception
        assert len(at.get("plotly_chart")) == charts
    (table,) = at.dataframe
    assert list(table.value["Measure"].str.partition(" (")[0]) == [
        "ROAD",
        "Insertion",
        "Deletion",
        "Heat on glass",
    ]
    words = " ".join(caption.value for caption in at.caption)
    assert "Random weights (control) keeps" in words.replace("\\", "")
    # Kept: the next run of the page measures nothing again.
    at.run()
    assert len(at.get("plotly_chart")) == 2
    assert [one.key for one in at.button if str(one.key).startswith("explain_measure")] == []


def test_a_checkpoint_that_went_after_the_map_was_made_is_a_sentence(open_trust, said, monkeypatch):
    at = open_trust

    def gone(_folder):
        raise ExplainError("The weights of the run are not there")

    monkeypatch.setattr(explain_view, "load", gone)
    at.button(key="explain_measure").click().run(timeout=60)
    assert not at.exception
    assert "weights of the run are not there" in said(at)
