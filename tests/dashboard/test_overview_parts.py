"""What the overview says of results."""

from types import SimpleNamespace

from dashboard.overview_parts import gap_meaning


def between(low: float, high: float) -> SimpleNamespace:
    return SimpleNamespace(low=low, high=high)


def test_a_gap_is_called_one_only_where_intervals_are_apart():
    apart, overlapping = (between(0.9, 0.95), between(0.6, 0.8)), (between(0.5, 0.95), between(0.6, 0.8))
    assert "known patient is worth, not skill" in gap_meaning([overlapping, apart])
    assert "too small" in gap_meaning([overlapping])
