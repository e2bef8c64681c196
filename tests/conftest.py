"""Fixtures that every page test shares: run folders without torch, and the app on its own folders.

How the suite is run (README, "How we know") is in `scheduling.py` beside this file.
"""

from __future__ import annotations

import functools
import html
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import fabricate  # beside this file: pytest puts tests/ on the path
import pytest

from engine.runs.folder import RunFolder

pytest_plugins = ("scheduling", "fault_table")

ROOT = Path(__file__).resolve().parent.parent
HOME = ROOT / "dashboard" / "Home.py"
REQUIRED = os.environ.get("REQUIRE_BROWSER") == "1"
QUIET = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


@pytest.fixture
def runs_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty runs folder that the dashboard uses (and no sample data beside it)."""
    folder = tmp_path / "runs"
    folder.mkdir()
    monkeypatch.setenv("DASHBOARD_RUNS", str(folder))
    monkeypatch.setenv("DASHBOARD_SAMPLE", str(tmp_path / "sample_data"))
    monkeypatch.setenv("BREAKHIS_CACHE", str(tmp_path / "cache"))
    return folder


@pytest.fixture
def make_run(runs_dir: Path) -> Callable[..., RunFolder]:
    """`make_run(name=..., protocol="image", state="failed", ...)`: see `fabricate.run`."""

    def make(**values) -> RunFolder:
        return fabricate.run(runs_dir, **values)

    return make


@pytest.fixture
def finished_run(make_run: Callable[..., RunFolder]) -> RunFolder:
    """A completed run with metrics and predictions for val and test, split by case."""
    return make_run()


@pytest.fixture
def leaking_run(make_run: Callable[..., RunFolder]) -> RunFolder:
    """The same under the study's split by image."""
    return make_run(name="image split", protocol="image", seed=1)


@pytest.fixture
def running_run(runs_dir: Path) -> Iterator[RunFolder]:
    """A run whose worker is alive: its lock is held."""
    with fabricate.running(runs_dir, name="still training") as folder:
        yield folder


@pytest.fixture(autouse=True)
def _no_waiting_for_the_disk(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test pulls the plug, so `fsync` in this process only costs time; the fault suite keeps the real one."""
    if not request.node.path.is_relative_to(ROOT / "tests" / "faults"):
        monkeypatch.setattr(os, "fsync", lambda _: None)


@pytest.fixture(scope="session")
def _components_scanned_once() -> None:
    """AppTest makes a runtime per test, and each reads the metadata of every installed package."""
    from streamlit.components.v2 import manifest_scanner

    manifest_scanner.scan_component_manifests = functools.cache(manifest_scanner.scan_component_manifests)


@pytest.fixture
def app(runs_dir: Path, _components_scanned_once: None) -> Callable:
    """`app("runs", id="...")`: that page as AppTest sees it, with these parameters in its URL.

    The overview runs first (AppTest wants the entrypoint before a page), then the page.
    """
    from streamlit.testing.v1 import AppTest

    def open_page(page: str = "overview", /, **params: str) -> AppTest:
        at = AppTest.from_file(str(HOME), default_timeout=30)
        at.run()
        if page != "overview" or params:
            if page != "overview":
                at.switch_page(str(ROOT / "pages" / f"{page}.py"))
            for name, value in params.items():
                at.query_params[name] = value
            at.run()
        return at

    return open_page


@pytest.fixture
def said() -> Callable:
    """`said(at)`: everything a page says, as one text, for `assert "..." in said(at)`."""
    return _said


def _said(at) -> str:
    parts: list[str] = []
    for kind in (
        "markdown",
        "caption",
        "title",
        "header",
        "subheader",
        "error",
        "warning",
        "info",
        "success",
        "text",
        "code",
    ):
        parts += [str(element.value) for element in at.get(kind)]
    for element in at.get("html"):
        body = str(element.proto.body)
        if not body.lstrip().startswith("<style>"):
            parts.append(html.unescape(body))
    return "\n".join(parts).replace("\\", "")


@pytest.fixture(scope="module")
def browser() -> Iterator:
    """Chromium through playwright; without one the test skips with the reason, or fails where it is required.

    Closed after each module: its event loop occupies the main thread while it is open.
    """
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        if REQUIRED:
            pytest.fail("REQUIRE_BROWSER=1, but there is no chromium on the PATH")
        pytest.skip("no Chromium on the PATH (Debian: apt-get install chromium)")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        instance = playwright.chromium.launch(executable_path=chromium, args=list(QUIET))
        yield instance
        instance.close()
