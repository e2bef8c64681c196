"""How much of a run is done."""

from __future__ import annotations

import pytest

from engine.runs import presets
from engine.training.work import Work

PARTS = {"train": range(100), "val": range(20), "test": range(10)}


def work(name: str, epoch: int, squares: int = 1) -> Work:
    return Work.of(presets.find(name), PARTS, squares, epoch)


def test_the_work_of_a_recipe_is_its_steps_its_validations_and_its_predictions():
    # 40 epochs of 100 images at three passes and 20 validated, then 30 predicted.
    assert work("study-as-run", 1).total == 40 * (3 * 100 + 20) + 30
    # Four views of 100 images and 20 validated once; then 20 epochs of next to nothing.
    assert work("quick", 1, squares=6).total == pytest.approx((4 * 100 + 20) * 6 + 20 * 1 + 30 * 6)


def test_a_resumed_run_has_the_epochs_before_behind_it():
    assert work("study-as-run", 1).fraction == 0
    assert work("study-as-run", 11).done == 10 * (3 * 100 + 20)
    first = (4 * 100 + 20) + 10 * 1.0  # the whole first stage of study-as-described
    assert work("study-as-described", 11).done == pytest.approx(first)
    assert work("study-as-described", 13).done == pytest.approx(first + 2 * 320)
