"""What a person waits for: 1,000 runs on one page, ten people who watch one run, every page.

Of several tries of one page the best one counts, since other work on the machine only ever makes a page
slower; of all pages together the 95th percentile does.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import threading
import time
from collections.abc import Iterator
from dataclasses import replace

import fabricate
import numpy as np
import psutil
import pytest
import sessions

from engine.bench.runs import make_runs
from engine.runs.folder import RunFolder

pytestmark = [pytest.mark.browser, pytest.mark.slow]
FIRST_S, AGAIN_S, CORES, ANSWER_S = 1.5, 0.4, 1.0, 1.0
ANSWER_BUSY_S = 2.0  # while something trains on all cores
TRIES = 8
DRAWN = '[data-testid="stDataFrameResizable"][aria-label^="{n} runs"]'


def test_a_thousand_runs_are_drawn_and_redrawn_in_time(server, browser):
    make_runs(server.runs, 1000, 50)
    page = browser.new_page(viewport={"width": 1400, "height": 1000})
    page.goto(f"{server.url}/train")  # Streamlit's own program is loaded: what counts is the page
    page.wait_for_selector("h1", timeout=60_000)

    first: list[float] = []
    while len(first) < TRIES and not (first and min(first) < FIRST_S):
        began = time.perf_counter()
        page.goto(f"{server.url}/runs")
        page.wait_for_selector(f"{DRAWN.format(n=1000)} canvas", timeout=60_000)
        first.append(time.perf_counter() - began)
        page.wait_for_timeout(500)

    again: list[float] = []
    field = page.get_by_test_id("stTextInputField").first
    queries = itertools.cycle(
        [(r"/^bench 3\d$/", 10), (r"/^bench 4\d\d$/", 100), ("/^bench 7$/", 1), (r"/^bench \d\d$/", 90)]
    )
    while len(again) < TRIES and not (again and min(again) < AGAIN_S):
        query, n = next(queries)
        field.fill(query)
        began = time.perf_counter()
        field.press("Enter")
        page.wait_for_selector(f"{DRAWN.format(n=n)} canvas", timeout=20_000)
        again.append(time.perf_counter() - began)
        page.wait_for_timeout(300)
    page.close()
    print(f"1,000 runs: first drawn in {first} s, redrawn in {again} s")
    assert min(first) < FIRST_S, first
    assert min(again) < AGAIN_S, again


@contextlib.contextmanager
def at_work(runs) -> Iterator[RunFolder]:
    """A run whose worker writes every second."""
    ending = threading.Event()

    def write(run: RunFolder) -> None:
        epoch = 51
        while not ending.wait(1.0):
            run.append_metrics(
                {"epoch": epoch, "split": "val", "loss": 0.5, "balanced_accuracy": 0.7, "lr": 1e-3}
            )
            run.write_status(replace(run.status().checked_in(), epoch=epoch))
            epoch += 1

    with fabricate.running(runs, name="watched", epochs=100) as run:
        thread = threading.Thread(target=write, args=(run,))
        thread.start()
        try:
            yield run
        finally:
            ending.set()
            thread.join()


def test_ten_people_who_watch_one_run_keep_the_server_under_one_core(server):
    port = server.url.rsplit(":", 1)[1]
    process = next(child for child in psutil.Process().children() if port in child.cmdline())
    with at_work(server.runs) as run:
        sessions.visits(server.url, [("run", f"id={run.id}")])  # everything is imported
        began, before = time.monotonic(), process.cpu_times()
        found = sessions.visits(server.url, [("run", f"id={run.id}")] * 10, seconds=10.0)
        after, passed = process.cpu_times(), time.monotonic() - began
    share = (after.user + after.system - before.user - before.system) / passed
    answers = [answer for session in found for answer in session.answers]
    print(
        f"ten sessions on one run: {share:.2f} cores of the server, {len(answers)} answers, median {np.median(answers):.2f} s"
    )
    assert not [error for session in found for error in session.errors]
    assert min(len(session.answers) for session in found) >= 2  # each of them was kept up to date
    assert share < CORES


def test_every_page_answers_within_a_second_and_beside_a_training_within_two(server):
    limit = ANSWER_S if psutil.cpu_percent(1.0) < 50 else ANSWER_BUSY_S
    runs = [fabricate.run(server.runs, name=f"run {seed}", seed=seed) for seed in range(4)]
    fabricate.run(server.runs, name="waits", state="interrupted", seed=9)
    images = server.runs.parent / "images"
    fabricate.write_images(images)
    (server.runs / "datasets.json").write_text(json.dumps({"datasets": [str(images)]}))
    several = ",".join(run.id for run in runs)
    pages = [
        ("", ""), ("dataset", f"data={images}"), ("train", f"data={images}&pretrained=offline"), ("runs", ""),
        ("run", f"id={runs[0].id}"), ("compare", f"runs={several}"), ("ensemble", f"members={several}"),
        ("explain", f"runs={runs[0].id}"), ("predict", f"run={runs[0].id}"), ("shared", ""),
    ]  # fmt: skip
    for page in pages:
        sessions.visits(server.url, [page])  # modules are imported and caches are filled once per server
    took: dict[str, list[float]] = {}
    for _ in range(4):
        for page, query in pages:
            (session,) = sessions.visits(server.url, [(page, query)])
            assert not session.errors, (page, session.errors)
            took.setdefault(page, []).append(session.answers[0])
    p95 = float(np.percentile([answer for answers in took.values() for answer in answers], 95))
    print(
        f"server time of a page: p95 {p95:.2f} s; "
        + ", ".join(f"{page or 'overview'} {np.median(found):.2f}" for page, found in took.items())
    )
    assert p95 < limit, took
