"""What a person hears of a run while its page is open."""

import pytest

from dashboard import run_live
from engine.runs import status as run_status
from engine.runs.status import Status


@pytest.mark.parametrize(
    ("now", "error", "words"),
    [
        ("completed", None, "has completed"),
        ("stopped", None, "has ended: stopped"),
        ("interrupted", None, "has ended: interrupted"),
        ("failed", {"kind": "disk_full", "message": "The disk is full."}, "failed. The disk is full."),
        ("failed", {"kind": "nan_loss", "message": "Found: epoch 3."}, "no number any more"),
        ("stalled", None, "has stalled: no sign"),
    ],
)
def test_an_end_a_failure_a_stall_and_a_loss_that_is_none_are_news(now, error, words):
    text, icon = run_live.notice(now, Status(error=error))
    assert words in text
    assert (icon == "check_circle") is (now == "completed")


@pytest.mark.parametrize("now", run_status.ACTIVE)
def test_what_goes_on_is_no_news(now):
    assert run_live.notice(now, Status())[0] == ""


def test_the_panel_shows_speed_waiting_cpu_memory_and_gpu():
    measured = {
        "images_per_s": 31.44, "wait_share": 0.25, "cpu_share": 0.5, "ram_mb": 812.4, "gpu_share": 0.9, "gpu_memory_mb": 4096.0,
    }  # fmt: skip
    shown = {label: value for _, label, value in run_live.numbers(Status(numbers=measured))}
    assert shown == {
        "Images / s": "31.4", "Data wait": "25%", "CPU": "50%", "Memory": "812 MB",
        "GPU": "90%", "GPU memory": "4,096 MB",
    }  # fmt: skip


def test_no_stand_in_for_a_value_is_shown_as_a_value():
    from dashboard.run_parts import shown
    from engine.runs.config import options

    for _, item in options():
        if not isinstance(item.default, tuple | bool) and item.name not in ("name", "experiment"):
            text = shown(item, item.default)
            assert text not in ("", "-1", "-1.0"), item.name
