"""`python tests/load`: ten real browsers on a live server while one run trains, for ten minutes.

Every session goes through the pages as a person does: it clicks in the sidebar, opens a link with its selection
now and then, looks for some seconds, goes on. Of every page view two times are taken:

- the server's, at its WebSocket: from the request to the last element sent (`timed_app`);
- the wait in the browser: from the click until the page is whole (`COMPLETE`), its figures and tables drawn.

Ten people have ten machines; here the ten browsers share the cores with the server and the training, so that the wait
holds their fight for the processor. What one browser's page itself computed for a view stands beside it, and who used
how much of the machine below.

Exit code 1 where a promise is broken: 95 of 100 views of every page within 2 s of the server's time, memory that grows
by less than 10%, a server under one core, a run that trains all the time, no crash and no exception on any page.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import fabricate  # noqa: E402
from live_server import Server, serving  # noqa: E402
from table import Load, View, summary, text  # noqa: E402  # beside this file

from engine.runs import launch, supervisor  # noqa: E402
from engine.runs.folder import locate  # noqa: E402
from engine.runs.status import ACTIVE, RUNNING  # noqa: E402

THINK_S = (4.0, 10.0)
LISTED = ("Overview", "Data set", "Train", "Runs", "Compare", "Ensemble", "Explain", "Predict", "Share")
# The page is whole: the script has ended, its heading stands, nothing is still to come, tables and figures are
# drawn. Read ten times a second and without asking for a layout: ten pages that look at every frame are a load.
LOOK_MS = 100
COMPLETE = """title => {
  const app = document.querySelector('[data-testid="stApp"]');
  if (!app || app.getAttribute('data-test-script-state') !== 'notRunning') return false;
  if (![...document.querySelectorAll('h1')].some(head => head.textContent.trim() === title)) return false;
  if (document.querySelector('[data-testid="stSkeleton"], [data-stale="true"]')) return false;
  const shown = element => element.getClientRects().length > 0;
  const drawn = (name, inside) => [...document.querySelectorAll(`[data-testid="${name}"]`)]
    .every(element => element.querySelector(inside) || !shown(element));
  return drawn('stPlotlyChart', '.main-svg') && drawn('stDataFrame', 'canvas');
}"""


async def session(
    number: int,
    context: Any,
    links: dict[str, str],
    load: Load,
    url: str,
    end: float,
    think_s: tuple[float, float],
) -> None:
    """One person until the time is up."""
    drawn = random.Random(number)
    page = await context.new_page()
    page.set_default_timeout(60_000)
    page.on("crash", lambda _: load.troubles.append(f"session {number}: the page crashed"))
    page.on("pageerror", lambda error: load.troubles.append(f"session {number}: {str(error)[:200]}"))
    meter = await context.new_cdp_session(page)
    await meter.send("Performance.enable")

    async def own_seconds() -> float:
        """Processor time of this page's own process so far."""
        told = await meter.send("Performance.getMetrics")
        return next((one["value"] for one in told["metrics"] if one["name"] == "ProcessTime"), float("nan"))

    await asyncio.sleep(number * 1.5)
    await page.goto(url)
    await page.wait_for_function(COMPLETE, arg="Overview", polling=LOOK_MS)
    title = "Overview"
    while time.monotonic() < end:
        await asyncio.sleep(drawn.uniform(*think_s))
        by_link = drawn.random() < 0.25
        # Never the page that is there: it would be found whole before it has answered.
        title = drawn.choice([name for name in (links if by_link else LISTED) if name != title])
        what = f"{title}, link" if by_link else title
        try:
            used = await own_seconds()
            began = time.monotonic()
            if by_link:
                await page.goto(f"{url}/{links[title]}", wait_until="commit")
            else:
                await page.get_by_test_id("stSidebarNavLink").filter(has_text=title).click()
            await page.wait_for_function(COMPLETE, arg=title, polling=LOOK_MS)
            ended = time.monotonic()
            load.views.append(View(what, str(number), began, ended, await own_seconds() - used))
            if await page.get_by_test_id("stException").count():
                load.troubles.append(f"session {number}: an exception on {what}")
        except Exception as error:
            load.troubles.append(f"session {number}: {what}: {str(error).splitlines()[0][:200]}")


def spent(process: psutil.Process) -> float:
    """Processor seconds of a process so far; 0 where it has ended."""
    try:
        times = process.cpu_times()
    except psutil.Error:
        return 0.0
    return times.user + times.system


def family(process: psutil.Process | None) -> list[psutil.Process]:
    try:
        return [process, *process.children(recursive=True)] if process else []
    except psutil.Error:
        return []


async def sampled(server: psutil.Process, run: Any, browser: psutil.Process, load: Load, end: float) -> None:
    """Every two seconds: the server's memory, everybody's processor time, how far the run has come."""
    worker: psutil.Process | None = None
    used: dict[str, dict[int, float]] = {"server": {}, "training": {}, "browsers": {}, "this test": {}}
    drivers = [psutil.Process(), *(one for one in browser.parents() if one.ppid() == os.getpid())]
    while time.monotonic() < end:
        if run is not None:
            status = run.status()
            if status.state != RUNNING:
                load.troubles.append(f"the run is {status.state}: {status.error}")
                run = None
            else:
                load.progress.append((time.monotonic(), status.progress * status.epochs, status.step))
                if worker is None and status.worker.get("pid"):
                    worker = psutil.Process(int(status.worker["pid"]))
        for name, first in (("server", server), ("training", worker), ("browsers", browser)):
            for process in family(first):
                used[name][process.pid] = max(used[name].get(process.pid, 0.0), spent(process))
        used["this test"] = {process.pid: spent(process) for process in drivers}
        sums = {name: sum(found.values()) for name, found in used.items()}
        machine = psutil.cpu_times()
        sums["machine"] = sum(machine) - machine.idle - getattr(machine, "iowait", 0.0)
        load.samples.append((time.monotonic(), server.memory_info().rss / 2**20, sums))
        await asyncio.sleep(2)


async def drive(
    server: Server,
    links: dict[str, str],
    run: Any,
    sessions: int,
    minutes: float,
    think_s: tuple[float, float] = THINK_S,
) -> Load:
    from playwright.async_api import async_playwright

    load = Load()
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        raise SystemExit("There is no Chromium on the PATH (Debian: apt-get install chromium)")
    async with async_playwright() as playwright:
        before = set(family(psutil.Process()))
        browser = await playwright.chromium.launch(
            executable_path=chromium, args=["--no-sandbox", "--disable-gpu", "--mute-audio"]
        )
        started = set(family(psutil.Process())) - before
        root = next(one for one in started if not any(parent in started for parent in one.parents()))
        contexts = [
            # The stopwatch knows a session by the end of its browser's name.
            await browser.new_context(
                viewport={"width": 1400, "height": 1000}, user_agent=f"Mozilla/5.0 Chrome session/{number}"
            )
            for number in range(sessions)
        ]
        first = await contexts[0].new_page()  # a server's very first page imports everything: not a session
        await first.goto(server.url)
        await first.wait_for_function(COMPLETE, arg="Overview", timeout=120_000, polling=LOOK_MS)
        await first.close()
        end = time.monotonic() + 60 * minutes
        await asyncio.gather(
            sampled(psutil.Process(server.process.pid), run, root, load, end),
            *(
                session(n, context, links, load, server.url, end, think_s)
                for n, context in enumerate(contexts)
            ),
        )
        await browser.close()
    if server.process.poll() is not None:
        load.troubles.append("the server ended")
    return load


def engine(*words: str) -> str:
    command = [sys.executable, "-m", "engine", *words]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()


def prepared(place: Path, trains: bool) -> tuple[dict[str, str], str]:
    """A runs folder with twenty results and one run that trains on the sample data; links and the id of the run."""
    runs, sample = place / "runs", place / "sample_data"
    runs.mkdir()
    engine("sample", str(sample))
    made = [
        fabricate.run(runs, name=f"run {seed + 1}", seed=seed, skill=1.2 + seed / 20, data_root=sample)
        for seed in range(20)
    ]
    five = ",".join(run.id for run in made[:5])
    links = {
        "Compare": f"compare?runs={five}",
        "Ensemble": f"ensemble?members={five}",
        "run 3": f"run?id={made[2].id}",
    }
    if not trains:
        return links, ""
    what = ("--data", str(sample), "--name", "still training", "--runs", str(runs))
    # Every layer is trained, so that it keeps all cores busy; a small batch tells of its progress often.
    how = ("--model", "tf_efficientnet_lite0", "--recipe", "study-as-run", "--pretrained", "offline")
    size = ("--image-size", "160", "--batch-size", "8", "--epochs", "1000")
    training = engine("start", *what, *how, *size).split()[-1]
    return {**links, "still training": f"run?id={training}"}, training


def stop(runs: Path, run_id: str) -> None:
    """Stop the run and wait for its worker, which writes a last checkpoint into the folder, and for the supervisor."""
    if locate(runs, run_id).state() in ACTIVE:
        launch.stop(locate(runs, run_id))
    end = time.monotonic() + 60
    while (locate(runs, run_id).is_alive() or supervisor.is_running(runs)) and time.monotonic() < end:
        time.sleep(0.2)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python tests/load", description=__doc__.splitlines()[0])
    parser.add_argument("--sessions", type=int, default=10)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument(
        "--think",
        type=float,
        nargs=2,
        default=THINK_S,
        metavar="S",
        help="shortest and longest look at a page",
    )
    parser.add_argument("--no-training", action="store_true", help="what the pages cost by themselves")
    parser.add_argument("--out", type=Path, help="write the table as JSON")
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # the server and the run end with it
    with tempfile.TemporaryDirectory(prefix="breakhis-load-", ignore_cleanup_errors=True) as place:
        folder = Path(place)
        links, training = prepared(folder, not given.no_training)
        run = locate(folder / "runs", training) if training else None
        try:
            while run is not None and not run.status().epoch:  # the load begins when it trains
                if run.state() not in ACTIVE:
                    raise SystemExit(f"The run does not train: {run.status().error}")
                time.sleep(0.5)
            script, log = str(HERE / "timed_app.py"), folder / "answers.jsonl"
            folders = (folder / "runs", folder / "sample_data", folder / "server.log")
            with serving(*folders, script, LOAD_STOPWATCH=str(log)) as server:
                load = asyncio.run(
                    drive(server, links, run, given.sessions, given.minutes, tuple(given.think))
                )
            load.read_answers(log)
        finally:
            if training:
                stop(folder / "runs", training)
    found: dict[str, Any] = summary(load, given.sessions, given.minutes)
    print(text(found))
    if given.out:
        given.out.write_text(json.dumps(found, indent=1), encoding="utf-8")
    return 0 if found["kept"] else 1


if __name__ == "__main__":
    sys.exit(main())
