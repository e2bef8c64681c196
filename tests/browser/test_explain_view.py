"""The explain page in a real browser: pictures that zoom as one, the keyboard, the link, files."""

from __future__ import annotations

import re
import time

import explained  # beside conftest.py
import pytest
from PIL import Image

pytestmark = [pytest.mark.browser, pytest.mark.slow]

SIZE = (460, 700)


@pytest.fixture
def page(browser):
    made = browser.new_page(viewport={"width": 1400, "height": 1000})
    made.set_default_timeout(60_000)
    yield made
    made.close()


def planes(page) -> list[str]:
    return page.locator(".plane").evaluate_all("all => all.map((one) => one.style.transform)")


def settled(page) -> None:
    page.wait_for_function(
        "() => !document.querySelector('[data-testid=\"stStatusWidget\"]')", timeout=60_000
    )
    assert page.get_by_test_id("stException").count() == 0


def test_two_models_zoom_as_one_by_hand_and_by_keyboard_and_the_link_follows(server, page, tmp_path):
    from playwright.sync_api import expect

    made = [
        explained.run(server.runs, tmp_path / "images", name=name, seed=k, size=SIZE)
        for k, name in enumerate(("First", "Second"))
    ]
    ids = ",".join(run.id for run in made)
    page.goto(f"{server.url}/explain?runs={ids}&contour=15")
    expect(page.locator(".stage")).to_have_count(6, timeout=60_000)
    expect(page.get_by_text(re.compile("research use only", re.I)).first).to_be_visible(timeout=60_000)
    settled(page)

    # Every picture has words, is the whole image at first, and its pixels are those of the file.
    assert all(page.locator(".stage").evaluate_all("all => all.map((one) => one.ariaLabel)"))
    assert page.locator("img.pixels").first.evaluate("one => [one.naturalHeight, one.naturalWidth]") == list(
        SIZE
    )
    assert set(planes(page)) == {"translate(0%, 0%) scale(1)"}
    bar = page.locator(".bar").first.inner_text()

    # A double click zooms all six to the same place; the scale bar is of what is seen now.
    page.locator(".stage").nth(5).dblclick(position={"x": 60, "y": 40})
    zoomed = set(planes(page))
    assert len(zoomed) == 1
    assert "scale(2)" in zoomed.pop()
    assert page.locator(".bar").first.inner_text() != bar
    expect(page).to_have_url(re.compile(r"zoom=2\.00"), timeout=60_000)
    settled(page)

    # Keyboard: + and shifted arrows; a plain arrow is the next image, which starts whole.
    page.locator(".root").focus()
    page.keyboard.press("+")
    page.keyboard.press("Shift+ArrowRight")
    moved = set(planes(page))
    assert len(moved) == 1
    assert "scale(2.5)" in moved.pop()
    expect(page).to_have_url(re.compile(r"zoom=2\.50"), timeout=60_000)
    settled(page)
    link = page.url
    before = page.locator(".stage").first.get_attribute("aria-label")
    began = time.monotonic()
    page.keyboard.press("ArrowRight")
    expect(page.locator(".stage").first).not_to_have_attribute("aria-label", before or "", timeout=60_000)
    print(f"\nfrom the key to the next image's overlays, two stored maps: {time.monotonic() - began:.2f} s")
    settled(page)
    assert set(planes(page)) == {"translate(0%, 0%) scale(1)"}
    expect(page).not_to_have_url(re.compile("zoom="), timeout=60_000)

    # The link elsewhere shows the same part of the same image.
    page.goto(link)
    expect(page.locator(".stage")).to_have_count(6, timeout=60_000)
    assert "scale(2.5)" in planes(page)[0]

    # The overlay as a file, at the image's own pixels.
    page.get_by_text("Files", exact=True).click()
    with page.expect_download() as waiting:
        page.get_by_role("button", name="Overlay (PNG)").first.click()
    with Image.open(waiting.value.path()) as picture:
        assert picture.size == (SIZE[1], SIZE[0])
        assert picture.text["Run"] == made[0].id
