"""The main job in a real browser, on the sample data: make it, train, compare, tick, overlay, share the link."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.browser, pytest.mark.slow]
ROOT = Path(__file__).resolve().parents[2]


def engine(*words: str) -> str:
    command = [sys.executable, "-m", "engine", *words]
    return subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=600
    ).stdout.strip()


def no_error(page) -> None:
    """Streamlit shows uncaught exceptions in a box of its own."""
    assert page.get_by_test_id("stException").count() == 0, page.get_by_test_id(
        "stException"
    ).first.inner_text()


def settled(page) -> None:
    """Wait until the server has nothing more to send."""
    page.wait_for_function(
        "() => !document.querySelector('[data-testid=\"stStatusWidget\"]')", timeout=60_000
    )
    no_error(page)


def test_the_main_job_from_an_empty_folder_to_a_shared_link(server, browser):
    from playwright.sync_api import expect

    context = browser.new_context(viewport={"width": 1400, "height": 1000})
    page = context.new_page()
    page.set_default_timeout(60_000)

    # Nothing is here: one button makes the sample data, the next one trains.
    page.goto(server.url)
    page.get_by_role("button", name="Make the sample data set").click()
    page.get_by_role("button", name="Train the demo model").click(timeout=180_000)

    # The run is watched until it has completed.
    expect(page).to_have_url(re.compile(r"/run\?.*id=\d{8}-\d{6}-tf_efficientnet_lite0-"), timeout=60_000)
    expect(page.get_by_text("Completed").first).to_be_visible(timeout=600_000)
    settled(page)
    first = re.search(r"id=([\w-]+)", page.url).group(1)

    # A second one through the command line, on the same folders: the dashboard finds it.
    data = str(server.sample)
    second = engine(
        "train", "--data", data, "--model", "tf_efficientnet_lite0", "--pretrained", "offline", "--image-size", "96",
        "--recipe", "quick", "--epochs", "2", "--seed", "1", "--name", "Second", "--runs", str(server.runs),
    )  # fmt: skip

    # Compare: both entries, a matrix per magnification.
    page.goto(f"{server.url}/compare?runs={first},{second}")
    expect(page.get_by_text("Confusion matrices").first).to_be_visible()
    settled(page)
    for power in ("40X", "100X", "200X", "400X"):
        expect(page.locator(".js-plotly-plot").get_by_text(power, exact=True).first).to_be_visible()

    # Ensemble: a tick changes the link, and with it everything that follows from it.
    page.goto(f"{server.url}/ensemble?members={first}")
    box = page.get_by_role("checkbox", name=re.compile("Second"))
    expect(box).not_to_be_checked()
    page.locator("label", has=box).click()
    expect(page).to_have_url(re.compile(f"members=({first}(,|%2C){second}|{second}(,|%2C){first})"))
    settled(page)
    link = page.url

    # Explain: an overlay over the image.
    page.goto(f"{server.url}/explain?runs={first}")
    expect(page.get_by_test_id("stImage").first).to_be_visible(timeout=120_000)
    expect(page.get_by_text(re.compile("research use only", re.I)).first).to_be_visible()
    settled(page)
    context.close()

    # The link elsewhere: a second browser shows the same selection.
    other = browser.new_context(viewport={"width": 1400, "height": 1000})
    elsewhere = other.new_page()
    elsewhere.goto(link)
    expect(elsewhere.get_by_role("checkbox", name=re.compile("Second"))).to_be_checked(timeout=60_000)
    expect(elsewhere.get_by_role("checkbox", name=re.compile("Demo"))).to_be_checked()
    no_error(elsewhere)
    other.close()


def test_a_link_to_a_run_that_is_not_here_says_so(server, browser):
    from playwright.sync_api import expect

    page = browser.new_page()
    page.goto(f"{server.url}/run?id=20261122-201500-nothing-3f2a")
    expect(page.get_by_text(re.compile("no run with this id", re.I)).first).to_be_visible(timeout=60_000)
    no_error(page)
    page.close()


def test_a_cold_start_draws_the_overview_in_time(server, browser):
    """Under 5 s on two idle cores; the bound here leaves room for a busy machine."""
    import time

    began = time.monotonic()
    page = browser.new_page()
    page.goto(server.url)
    page.get_by_role("button", name="Make the sample data set").wait_for(timeout=60_000)
    took = time.monotonic() - began
    page.close()
    print(f"\nserver answering to overview drawn: {took:.1f} s")
    assert took < 20
