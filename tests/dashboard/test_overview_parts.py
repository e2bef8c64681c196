"""What the overview says of results."""

from types import SimpleNamespace

from dashboard.overview_parts import gap_meaning


def between(low: float, high: float) -> SimpleNamespace:
    return SimpleNamespace(low=low, high=high)


def test_a_gap_is_called_one_only_where_intervals_are_apart():
    apart, overlapping = (between(0.9, 0.95), between(0.6, 0.8)), (between(0.5, 0.95), between(0.6, 0.8))
    assert "known patient is worth, not skill" in gap_meaning([overlapping, apart])
    assert "too small" in gap_meaning([overlapping])


def test_every_pair_of_runs_has_a_row_of_its_own(make_run):
    from dashboard import overview_parts
    from engine.analysis.intervals import Estimate

    summary = make_run().summary()
    one = Estimate(0.8, 0.7, 0.9, 0.95, 40, 4, "bootstrap-t")
    fig, _ = overview_parts.leak_figure([(summary, summary, one, one)] * 3)
    model = summary.config.model.name
    assert list(fig.data[0].y) == [model, f"{model}, pair 2", f"{model}, pair 3"]
