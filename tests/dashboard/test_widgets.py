"""Text that people wrote stays text; numbers never stand alone; badges say what they mean in words."""

import plotly.graph_objects as go
import pytest

from dashboard import widgets
from engine.report import theme


def test_text_of_people_is_never_html():
    assert widgets.plain("<b>x</b>&\"'") == "&lt;b&gt;x&lt;/b&gt;&amp;&quot;&#x27;"


@pytest.mark.parametrize(
    "text", ["**bold**", "[a](http://x)", "<b>", "`code`", ":red[x]", "# title", "$x$", "a_b_"]
)
def test_text_of_people_is_never_markdown(text):
    escaped = widgets.escaped(text)
    signs = [sign for sign in text if not (sign.isalnum() or sign in "/ ")]
    assert escaped.count("\\") == len(signs)
    assert escaped.replace("\\", "") == text


def test_a_number_comes_with_its_interval_and_its_n():
    assert (
        widgets.with_interval(0.859, 0.812, 0.901, images=110, cases=10)
        == "0.859 [0.812, 0.901] · n = 110 images, 10 cases"
    )
    assert widgets.with_interval(float("nan"), images=1, cases=1) == "n/a · n = 1 image, 1 case"


def test_times_are_said_as_people_say_them():
    assert widgets.ago(1000, now=1010) == "just now"
    assert widgets.ago(1000, now=1000 + 180) == "3 min ago"
    assert widgets.ago(1000, now=1000 + 5 * 3600) == "5 h ago"
    assert widgets.ago(None) == "n/a"
    assert widgets.duration(200) == "3 min 20 s"
    assert widgets.duration(2 * 3600 + 300) == "2 h 05 min"
    assert widgets.duration(None) == "n/a"


def test_leakage_is_red_with_icon_and_words():
    html = widgets.leakage_html({"level": "leak", "verdict": "Leaks: 3 of 20 cases <here>"})
    assert "bh-leak" in html
    assert "warning" in html
    assert "Leaks: 3 of 20 cases &lt;here&gt;" in html
    assert "bh-leak" not in widgets.leakage_html({"level": "clean", "verdict": "Clean: ..."})
    assert "Unknown" in widgets.leakage_html(None)


def test_the_worst_audit_follows_a_result_of_several_runs(finished_run, leaking_run):
    clean, leak = finished_run.summary(), leaking_run.summary()
    assert widgets.leakage_of([clean, clean])["level"] == "clean"
    found = widgets.leakage_of([clean, leak])
    assert found["level"] == "leak"
    assert leak.name in found["verdict"]


def test_every_state_has_an_icon_and_a_word():
    from engine.runs.status import STATES

    assert set(widgets.STATES) == set(STATES)
    for state in STATES:
        assert widgets.state_word(state) in widgets.status_html(state)


def test_a_run_keeps_its_colour_when_others_come_and_go(make_run, runs_dir):
    from engine.runs import trash

    first, second = make_run(name="one"), make_run(name="two", seed=1)
    before = widgets.run_colours()
    third = make_run(name="three", seed=2)
    trash.delete(first)
    after = widgets.run_colours()
    assert after[second.id] == before[second.id]
    assert after[third.id] not in (before[first.id], before[second.id])


def test_every_figure_wears_the_one_template(monkeypatch):
    for dark in (False, True):
        monkeypatch.setattr(widgets, "is_dark", lambda dark=dark: dark)
        fig = widgets.themed(go.Figure())
        assert fig.layout.template.layout.font.color == theme.tone(dark).ink


@pytest.mark.parametrize("name", ["light", "dark"])
def test_words_in_colour_are_readable_on_both_themes(name):
    import tomllib

    config = tomllib.loads((widgets.places.ROOT / ".streamlit/config.toml").read_text(encoding="utf-8"))
    own = config["theme"][name]
    grounds = [own["backgroundColor"], own["secondaryBackgroundColor"], own["sidebar"]["backgroundColor"]]
    for colour in widgets._TONES[name].values():
        assert min(theme.contrast(colour, ground) for ground in grounds) >= 4.5, (name, colour)
    assert theme.contrast("#FFFFFF", own["primaryColor"]) >= 4.5  # the words of a primary button


def test_columns_go_below_each_other_where_the_page_is_narrow():
    rules = widgets._narrow()
    assert rules.count("flex-wrap:wrap") == 2  # a narrow window, and one that the open sidebar makes narrow
    assert '[data-collapsed="false"]' in rules
    assert rules.count("{") == rules.count("}")
