"""Compare in a real Chromium: a click opens exactly its images, the link restores everything, keys turn pages and mark."""

from __future__ import annotations

import re

import pytest

from engine.analysis import review
from engine.report import confusion

pytestmark = [pytest.mark.browser, pytest.mark.slow]


@pytest.fixture
def two(make_run):
    return make_run(name="first", seed=1, skill=0.9), make_run(name="second", seed=2, skill=1.4)


def settled(page) -> None:
    """Wait until the server has nothing more to send and no interval is outstanding."""
    page.wait_for_function(
        "() => !document.querySelector('[data-testid=\"stStatusWidget\"]') && !document.querySelector('.bh-wait')"
        " && document.querySelector('.js-plotly-plot')",
        timeout=90_000,
    )
    page.wait_for_timeout(500)
    assert page.get_by_test_id("stException").count() == 0


def shown_images(page) -> list[str]:
    """File names of the images in the gallery, from their text alternatives."""
    found = page.locator("[aria-label^='Histology image'], img[alt^='Histology image']").all()
    texts = [one.get_attribute("aria-label") or one.get_attribute("alt") or "" for one in found]
    return [re.sub(r"^Histology image ([^:]+).*$", r"\1", text) for text in texts]


def click_cell(page, row: int, column: int, true: int, guess: int, parts: int = 5) -> None:
    box = page.locator(".js-plotly-plot").first.bounding_box()
    names, room = confusion.widths(parts, 2)
    step = 2 + confusion.GAP_X
    x = box["x"] + box["width"] * (names + column * step + guess + 0.5) / (names + room)
    high = 2 * confusion.CELL_PX + confusion.GAP_PX
    y = box["y"] + confusion.HEAD_PX + row * high + (true + 0.5) * confusion.CELL_PX
    page.mouse.click(x, y)


def wrong_at_40(folder) -> set[str]:
    table = folder.predictions("test")
    inside = (table["magnification"] == "40X") & (table["label"] == "malignant")
    return set(table.loc[inside & (table["prob_malignant"] < 0.5), "image_id"])


def test_a_click_opens_exactly_its_images_and_the_link_restores_all_of_it_elsewhere(server, two, browser):
    expected = wrong_at_40(two[0])
    assert expected, "the fabricated run has malignant images at 40X that it calls benign"
    page = browser.new_page(viewport={"width": 1400, "height": 1000})
    page.set_default_timeout(60_000)
    page.goto(f"{server.url}/compare?runs={two[0].id},{two[1].id}")
    settled(page)
    click_cell(page, row=0, column=0, true=1, guess=0)
    page.get_by_text("truly malignant, called benign by first").first.wait_for()
    settled(page)
    assert set(shown_images(page)) == expected

    # change what can be changed: numbers, reference, operating point, what is below
    page.get_by_text("Row %", exact=True).click()
    page.wait_for_url("**mode=percent**")
    settled(page)
    page.get_by_text("Threshold", exact=True).first.click()
    page.get_by_text("by Youden's index on validation").click()
    page.keyboard.press("Escape")
    page.get_by_text("locked before these images were looked at").first.wait_for()
    settled(page)
    assert all(part in page.url for part in ("mode=percent", "threshold=youden", "cell=", "runs="))
    here = page.get_by_test_id("stMain").inner_text()
    assert "interval …" not in here

    elsewhere = browser.new_context(viewport={"width": 1400, "height": 1000}).new_page()
    elsewhere.set_default_timeout(60_000)
    elsewhere.goto(page.url)
    elsewhere.get_by_text("truly malignant, called benign by first").first.wait_for()
    settled(elsewhere)
    assert elsewhere.get_by_test_id("stMain").inner_text() == here
    assert shown_images(elsewhere) == shown_images(page)
    elsewhere.context.close()
    page.close()


def drawn(page) -> None:
    """Wait until the page is whole: its shortcuts come with its buttons, after its first texts."""
    page.wait_for_function(
        "() => document.querySelector('[data-testid=\"stApp\"]').dataset.testScriptState === 'notRunning'"
    )
    page.wait_for_timeout(500)


def test_an_image_is_walked_to_and_marked_with_the_keyboard_alone(server, two, browser):
    page = browser.new_page(viewport={"width": 1400, "height": 1000})
    page.set_default_timeout(60_000)
    page.goto(f"{server.url}/compare?runs={two[0].id},{two[1].id}&bucket=every")
    settled(page)
    listed = shown_images(page)
    page.keyboard.press("ArrowRight")  # the next page of the gallery
    page.get_by_text(re.compile(r"16–30 of")).wait_for()
    page.goto(f"{server.url}/image?runs={two[0].id},{two[1].id}&bucket=every&image={listed[0]}")
    page.get_by_text(re.compile(r"^1 of \d+ images")).wait_for()
    drawn(page)
    page.keyboard.press("ArrowRight")
    page.get_by_text(re.compile(r"^2 of \d+ images")).wait_for()
    drawn(page)
    assert f"image={listed[1]}" in page.url
    page.keyboard.press("w")
    page.get_by_text("Take back: wrong label").first.wait_for()
    drawn(page)
    assert review.marks(server.runs)["image_id"].tolist() == [listed[1]]
    page.keyboard.press("Control+z")
    page.get_by_text("Nobody has marked this image").wait_for()
    assert review.marks(server.runs).empty
    page.close()
