"""What the steps of an epoch add up to, and when it is read."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from engine.errors import TrainingError
from engine.training.distributed import Group
from engine.training.tally import Tally, Unread


def filled(losses) -> Unread:
    unread = Unread()
    for step, loss in enumerate(losses, start=4):
        outputs = torch.tensor([[2.0, 1.0], [0.0, 3.0], [1.0, 0.0]], requires_grad=True)
        unread.add(step, torch.tensor(loss), outputs, torch.tensor([0, 1, 1]))
    return unread


def test_reading_late_adds_up_to_what_reading_at_once_does():
    late, at_once = Tally.of(2), Tally.of(2)
    losses = [0.1, 0.7, 1 / 3]
    unread = filled(losses)
    assert len(unread) == 9
    unread.read_into(late, 1, Group())
    assert len(unread) == 0
    for loss in losses:
        filled([loss]).read_into(at_once, 1, Group())
    assert late.loss == at_once.loss
    assert late.matrix.tolist() == at_once.matrix.tolist() == [[3, 0], [3, 3]]


def test_a_loss_that_is_no_number_is_named_by_its_step_and_the_tally_stays():
    tally = Tally.of(2)
    with pytest.raises(TrainingError, match="epoch 3, step 5"):
        filled([0.5, float("inf"), float("nan")]).read_into(tally, 3, Group())
    assert tally.loss == 0
    assert not tally.matrix.any()


def test_reading_nothing_changes_nothing():
    tally = Tally.of(2)
    Unread().read_into(tally, 1, Group())
    assert tally.loss == 0


def test_a_tally_survives_a_checkpoint():
    tally = Tally(np.array([[3, 1], [0, 4]]), loss=1.5, images=8, seconds=2.0, waiting=0.5)
    again = Tally.from_state(tally.to_state())
    assert again.row() == tally.row()
    assert again.row()["accuracy"] == 7 / 8
