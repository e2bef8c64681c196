"""`python tests/load` fails where a promise is broken: its table, on sessions made up here."""

from __future__ import annotations

import json

import pytest
from load.table import Load, View, summary, text  # tests/load: pytest puts tests/ on the path


def sessions(
    server_s: float = 0.3, growth: float = 0.0, cores: float = 0.2, trains: bool = True, answers: bool = True
) -> Load:
    """Forty views of two pages by two sessions in 100 seconds."""
    load = Load()
    for index in range(40):
        began = 2.0 * index
        page, who = ("Runs", "0") if index % 2 else ("Compare", "1")
        load.views.append(View(page, who, began, began + 1.5, 0.5))
        if answers:
            took = server_s if page == "Compare" else 0.1
            answer = {"who": who, "auto": False, "bytes": 1000, "messages": 3}
            load.answers.append({**answer, "began": began + 0.1, "ended": began + 0.1 + took})
        # A live part refreshes itself meanwhile: no part of the view.
        load.answers.append(
            {
                "who": who,
                "auto": True,
                "bytes": 9,
                "messages": 1,
                "began": began + 0.5,
                "ended": began + 0.6,
            }
        )
    for second in range(0, 101, 2):
        memory = 200.0 * (1 + (growth if second >= 80 else 0.0))
        names = ("training", "browsers", "this test", "machine")
        sums = {
            "server": cores * second,
            **dict.fromkeys(names, 0.1 * second),
            "machine": 0.9 * second + cores * second,
        }
        load.samples.append((float(second), memory, sums))
        load.progress.append((float(second), second if trains or second < 30 else 30, 1))
    return load


def test_kept_promises_are_kept_and_both_times_stand_in_the_table():
    found = summary(sessions(), 2, 2)
    assert found["kept"]
    compare = next(row for row in found["pages"] if row["page"] == "Compare")
    assert (compare["server_p95_s"], compare["wait_p95_s"], compare["browser_processor_s"]) == (0.3, 1.5, 0.5)
    assert found["refreshes"]["n"] == 40
    assert found["cores"]["everything else"] == pytest.approx(0.6)
    assert found["training"] == {"epochs": 100, "longest_pause_s": 0.0}
    assert json.loads(json.dumps(found)) == found
    assert "over 2 s" not in text(found)


@pytest.mark.parametrize(
    "broken",
    [{"server_s": 2.5}, {"growth": 0.11}, {"cores": 1.05}, {"trains": False}, {"answers": False}],
)
def test_each_broken_promise_is_seen(broken):
    """The server's time of one page, its memory, its share of the machine, a run that stands still, a view without answer."""
    assert not summary(sessions(**broken), 2, 2)["kept"]


def test_a_slow_page_is_not_hidden_by_the_fast_ones():
    load = sessions(server_s=2.5)
    found = summary(load, 2, 2)
    assert [row["page"] for row in found["pages"] if not row["within"]] == ["Compare"]
    assert "over 2 s at the server" in text(found)
