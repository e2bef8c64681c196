"""The queue in a real browser: four runs queued, reordered, one stopped and resumed, the browser closed and opened."""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Callable
from pathlib import Path

import fabricate
import psutil
import pytest
from test_main_job import no_error, settled

from engine.runs.folder import RunFolder, run_folders
from engine.runs.queue import Queue

pytestmark = [pytest.mark.browser, pytest.mark.slow]


def until(what: Callable[[], object], timeout_s: float = 90.0) -> None:
    end = time.monotonic() + timeout_s
    while not what():
        assert time.monotonic() < end, "it did not come true in time"
        time.sleep(0.1)


def kill_all(runs: Path) -> None:
    """Workers and supervisors outlive the server: that is what they are for."""
    for pid in psutil.pids():
        with contextlib.suppress(psutil.Error):
            process = psutil.Process(pid)
            words = process.cmdline()
            if "engine" in words and any(str(runs) in word for word in words):
                process.kill()


@pytest.fixture
def images(tmp_path):
    fabricate.write_images(tmp_path / "images")
    return tmp_path / "images"


def waiting(runs: Path) -> list[str]:
    return [RunFolder(runs / entry.run_id).name for entry in Queue(runs).entries() if entry.slot is None]


def states(runs: Path) -> dict[str, str]:
    return {folder.name: folder.state() for folder in run_folders(runs)}


def test_four_runs_are_queued_reordered_stopped_resumed_and_found_again(
    server, another_server, kill_server, browser, images
):
    from playwright.sync_api import expect

    context = browser.new_context(viewport={"width": 1400, "height": 1200})
    page = context.new_page()
    page.set_default_timeout(60_000)
    stack = contextlib.ExitStack()
    try:
        # Four seeds of one model, small and endless: only what this test does ends one. Not `quick`, whose cached
        # features make 500 epochs a matter of seconds.
        page.goto(
            f"{server.url}/train?data={images}&pretrained=none&image_size=32&recipe=study-as-run&epochs=500"
            "&batch_size=8&seed=0,1,2,3&name=job"
        )
        page.get_by_text("I mean it").click()  # at 32 pixels, from random weights: doubtful, and not wrong
        page.get_by_role("button", name="Start 4 runs").click()
        expect(page).to_have_url(re.compile(r"/runs\?"), timeout=60_000)
        settled(page)
        names = [f"job · seed {seed}" for seed in range(4)]
        until(lambda: states(server.runs).get(names[0]) == "running")
        assert waiting(server.runs) == names[1:]
        expect(page.get_by_text("Queue, 3 waiting")).to_be_visible(timeout=60_000)

        # The last one goes first, the next one later.
        ids = {folder.name: folder.id for folder in run_folders(server.runs)}
        page.locator(f".st-key-First_{ids[names[3]]} button").click()
        until(lambda: waiting(server.runs) == [names[3], names[1], names[2]])
        settled(page)
        page.locator(f".st-key-Later_{ids[names[1]]} button").click()
        until(lambda: waiting(server.runs) == [names[3], names[2], names[1]])

        # The one at work is stopped once it has a checkpoint: the one that was moved begins.
        folder = RunFolder(server.runs / ids[names[0]])
        until(lambda: folder.last.is_file())
        page.goto(f"{server.url}/run?id={folder.id}")
        page.get_by_test_id("stMainBlockContainer").get_by_role("button", name="Stop").click()
        expect(page.get_by_text("Stopped").first).to_be_visible(timeout=60_000)
        until(lambda: states(server.runs)[names[3]] == "running")
        epoch = folder.status().epoch
        assert epoch >= 1

        # Resumed, it waits behind the others.
        page.get_by_role("button", name="Resume").click()
        until(lambda: waiting(server.runs) == [names[2], names[1], names[0]])
        no_error(page)
        context.close()

        # Nobody looks, and the server is killed: the run goes on. Then there is a server, and somebody looks.
        at_work = RunFolder(server.runs / ids[names[3]])
        kill_server(server)
        before = at_work.status().epoch
        until(lambda: at_work.status().epoch > before)
        second = stack.enter_context(another_server())
        context = browser.new_context(viewport={"width": 1400, "height": 1200})
        page = context.new_page()
        page.goto(f"{second.url}/runs")
        expect(page.get_by_text("Queue, 3 waiting")).to_be_visible(timeout=60_000)
        settled(page)
        shown = page.locator('[class*="st-key-Later_"]')
        assert [re.search(r"Later_([\w-]+)", shown.nth(row).get_attribute("class") or "").group(1) for row in range(3)] == [
            ids[name] for name in (names[2], names[1], names[0])
        ]  # fmt: skip
        assert states(server.runs) == {
            names[0]: "queued",
            names[1]: "queued",
            names[2]: "queued",
            names[3]: "running",
        }
        assert folder.status().epoch == epoch  # what was done is kept for when its turn comes
    finally:
        context.close()
        stack.close()
        kill_all(server.runs)
