"""The ensemble builder in a real browser: tick, search, lock, save, predict."""

from __future__ import annotations

import re

import fabricate
import pytest

from engine.runs.folder import run_folders

pytestmark = [pytest.mark.browser, pytest.mark.slow]


def with_weights(folder) -> None:
    """Random weights of the run's architecture, so that it can judge images; its predictions stay fabricated."""
    import torch

    from engine.data.preprocessing import Preprocessing
    from engine.runs import catalog
    from engine.training import checkpoint, models

    torch.manual_seed(0)
    architecture = catalog.find(folder.config().model.name)
    facts = {
        "architecture": architecture.name,
        "classes": ["benign", "malignant"],
        "mean": [0.5] * 3,
        "std": [0.5] * 3,
        **Preprocessing(64).as_record(),
    }
    checkpoint.save_weights(folder.best, models.build(architecture, 2).state_dict(), facts)


def test_tick_search_lock_save_and_predict(server, browser, tmp_path):
    from playwright.sync_api import expect

    runs = [fabricate.run(server.runs, name=f"run {k}", seed=k, skill=0.8) for k in range(3)]
    for folder in runs:
        with_weights(folder)
    images = fabricate.write_images(tmp_path / "new", cases=1, images=1)
    page = browser.new_page(viewport={"width": 1400, "height": 1000})
    page.set_default_timeout(60_000)
    expect.set_options(timeout=60_000)

    # One member; a tick changes the link and the headline's caption.
    page.goto(f"{server.url}/ensemble?members={runs[0].id}")
    expect(page.get_by_text(re.compile(r"Validation, n = ")).first).to_be_visible()
    page.locator("label", has=page.get_by_role("checkbox", name=re.compile("run 1"))).click()
    expect(page).to_have_url(re.compile(rf"members={runs[0].id}(,|%2C){runs[1].id}"))
    expect(page.get_by_text(re.compile("paired difference to the best member")).first).to_be_visible()

    # Searched: the best of size 2; then a worker could be asked, and test is covered.
    page.get_by_label("Size").first.fill("2")
    page.get_by_label("Size").first.press("Enter")
    page.get_by_role("button", name="Best of").click()
    assert page.get_by_text(re.compile("Balanced accuracy on test")).count() == 0

    # Locked: saved under a name with what was tried, and test is shown.
    page.get_by_role("button", name=re.compile("Lock and reveal test")).first.click()
    expect(page.get_by_label("Name", exact=True)).to_have_count(1)  # that of the last choice is gone
    page.get_by_label("Name", exact=True).fill("best of two")
    page.get_by_test_id("stFormSubmitButton").get_by_role(
        "button", name=re.compile("Lock and reveal test")
    ).click()
    expect(page.get_by_text(re.compile("Locked: best of two")).first).to_be_visible()
    expect(page.get_by_text(re.compile("14 combinations of 3 runs searched")).first).to_be_visible()
    saved = [folder for folder in run_folders(server.runs) if folder.config().kind == "ensemble"]
    assert [folder.name for folder in saved] == ["best of two"]
    assert saved[0].config().details["selection"]["subsets"] == 14

    # It judges new images like any run.
    page.get_by_role("link", name=re.compile("Predict with it")).first.click()
    expect(page).to_have_url(re.compile(f"run={saved[0].id}"))
    page.get_by_test_id("stFileUploaderDropzoneInput").first.set_input_files(
        [str(path) for path in sorted(images.root.rglob("*.png"))[:2]]
    )
    page.get_by_role("button", name="Predict", exact=True).click()
    expect(page.get_by_text(re.compile("By best of two"))).to_be_visible(timeout=120_000)
    expect(page.get_by_text(re.compile(r"2 images: \d benign, \d malignant"))).to_be_visible()
    assert page.get_by_test_id("stException").count() == 0
    page.close()
