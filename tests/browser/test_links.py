"""Every page restores its view from its address, in a browser that has never been there; what is gone is named."""

from __future__ import annotations

import re
from urllib.parse import parse_qs, urlsplit

import fabricate
import pytest

from engine.runs.trash import delete, empty_trash

pytestmark = [pytest.mark.browser, pytest.mark.slow]
ODD = 'Žluťoučký & 100% <b>kůň</b> "№ 1" #2 ?x=1 / 日本 🐎'


def settled(page) -> None:
    page.wait_for_function(
        "() => !document.querySelector('[data-testid=\"stStatusWidget\"]')", timeout=60_000
    )
    assert page.get_by_test_id("stException").count() == 0, page.url


def query(url: str) -> dict[str, list[str]]:
    """The parameters of an address, lists in one piece."""
    return {name: ",".join(values).split(",") for name, values in parse_qs(urlsplit(url).query).items()}


def test_every_page_comes_back_from_its_link_after_runs_were_renamed_and_says_what_was_deleted(
    server, browser
):
    from playwright.sync_api import expect

    data = fabricate.write_images(server.sample, cases=10, images=1)
    runs = [
        fabricate.run(server.runs, name=f"old {seed}", seed=seed, data_root=server.sample)
        for seed in range(2)
    ]
    for run in runs:
        (run.path / "best.safetensors").write_bytes(b"weights")
    one, both = runs[0].id, f"{runs[0].id},{runs[1].id}"
    image = data.table["image_id"].iloc[0]
    links = {
        "overview": "",
        "dataset": f"data={server.sample}&protocol=official&view=Split",
        "runs": "q=100&group=model.name",
        "run": f"id={one}&split=val",
        "compare": f"runs={both}&split=val&mag=100X",
        "ensemble": f"members={both}&method=vote",
        "explain": f"runs={one}&image={image}",
        "image": f"image={image}&runs={both}&split=test&mag=100X",
        "predict": f"run={one}&refer=0.8",
        "shared": f"part=Report&runs={both}",
    }
    # Links that were sent before the runs were renamed.
    for number, run in enumerate(runs):
        run.write_label(name=f"{ODD} {number}")
    first = browser.new_context(viewport={"width": 1400, "height": 1000})
    page = first.new_page()
    page.set_default_timeout(60_000)
    expect.set_options(timeout=60_000)
    shared: dict[str, str] = {}
    for name, text in links.items():
        page.goto(f"{server.url}/{name}?{text}")
        expect(page.get_by_role("button", name=re.compile("^(link )?Share"))).to_be_visible()
        settled(page)
        page.get_by_role("button", name=re.compile("^(link )?Share")).click()
        link = page.get_by_test_id("stPopoverBody").get_by_test_id("stCode").inner_text().strip()
        assert query(link) == query(page.url), name
        wanted = query(f"?{text}")
        kept = {key: value for key, value in query(page.url).items() if key in wanted}
        assert kept == wanted, f"{name}: {page.url}"
        shared[name] = link
        if name in ("run", "compare"):
            assert page.get_by_text(f"{ODD} 0").count() > 0, f"{name} shows the new name as text"
        assert page.locator("b", has_text="kůň").count() == 0, name
    first.close()

    # A second browser, with nothing but the links.
    second = browser.new_context(viewport={"width": 1400, "height": 1000})
    page = second.new_page()
    page.set_default_timeout(60_000)
    expect.set_options(timeout=60_000)
    for name, link in shared.items():
        page.goto(link)
        settled(page)
        expect(page.get_by_role("button", name=re.compile("^(link )?Share"))).to_be_visible()
        assert query(page.url) == query(link), name

    # The first run is deleted for good: every link says what is gone, and shows the rest.
    delete(runs[0])
    empty_trash(server.runs)
    for name in ("run", "compare", "ensemble", "explain", "image", "predict", "shared"):
        page.goto(shared[name])
        expect(page.get_by_text(one).first).to_be_visible()
        settled(page)
    second.close()
