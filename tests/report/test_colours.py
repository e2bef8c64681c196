"""One run, one colour: on the pages, in a report, whoever comes and goes."""

import threading

import pytest

from dashboard import widgets
from engine.report import colours, contents, plots
from engine.report.theme import RUN_COLOURS
from engine.runs import trash


def test_a_run_has_one_colour_on_the_pages_and_in_a_report(make_run, runs_dir):
    runs = [make_run(name=f"run {seed}", seed=seed) for seed in range(4)]
    on_pages = widgets.run_colours()
    trash.delete(runs[0])
    told = contents.collect([runs[3], runs[1]], title="Two of them", pictures=0, draws=50)
    reported = told.colours
    assert reported == {run.id: on_pages[run.id] for run in (runs[3], runs[1])}
    forest = plots.forest(told, told.groups[0]).figure
    drawn = str(forest.to_plotly_json()["data"]).upper()
    assert reported[runs[3].id].upper() in drawn
    assert reported[runs[1].id].upper() in drawn
    curves = plots.learning_curves(told)
    assert curves is not None
    assert {trace.line.color for trace in curves.figure.data} == set(reported.values())


def test_neighbours_never_share_a_colour_before_the_palette_is_used_up(tmp_path):
    ids = [f"run {number:02d}" for number in range(len(RUN_COLOURS))]
    assert len(set(colours.run_colours(tmp_path, ids).values())) == len(RUN_COLOURS)


def test_two_that_deal_at_once_deal_the_same(tmp_path):
    answers: list[dict[str, str]] = []
    ids = [f"run {number:02d}" for number in range(40)]

    def deal(part: list[str]) -> None:
        for run_id in part:
            colours.run_colours(tmp_path, [run_id])

    threads = [threading.Thread(target=deal, args=(ids[start::4],)) for start in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    answers = [colours.run_colours(tmp_path, ids), colours.run_colours(tmp_path, ids[::-1])]
    assert answers[0] == answers[1]
    assert sorted(colours._dealt(tmp_path / colours.FILE).values()) == list(range(40))


def test_a_folder_that_cannot_be_written_deals_the_same_every_time(tmp_path):
    ids = ["b", "a"]
    nowhere = tmp_path / "not there"
    assert colours.run_colours(nowhere, ids) == colours.run_colours(nowhere, ids[::-1])
    assert not nowhere.exists()


def test_lines_stand_out_from_the_dark_theme_and_keep_their_hue():
    import colorsys

    from engine.report import theme

    def hue(colour):
        return colorsys.rgb_to_hsv(*(int(colour[k : k + 2], 16) / 255 for k in (1, 3, 5)))[0]

    for colour in theme.RUN_COLOURS:
        shown = theme.on_dark(colour)
        assert theme.contrast(shown, theme.DARK.paper) >= 3
        assert hue(shown) == pytest.approx(hue(colour), abs=0.02)
    assert theme.on_dark("#44AA99") == "#44AA99"  # only where it must be
    assert theme.contrast(theme.accent(True), theme.DARK.paper) >= 4.5
