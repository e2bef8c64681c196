"""When the two files of weights are written."""

from __future__ import annotations

import tiny_runs
import torch

from engine.runs import presets
from engine.training import checkpoint, models
from engine.training.keeping import Keeper


def test_the_best_weights_are_those_of_their_epoch_and_are_written_before_the_state(make_run, monkeypatch):
    folder = make_run()
    keeper = Keeper(folder, presets.resolve(folder.config()), writes=True)
    model = models.build(tiny_runs.TINY, 2)
    models.set_trainable(model, tiny_runs.TINY, "head", True)
    names = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    then = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    keeper.best(model, {"epoch": 1})
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name in names:
                parameter += 1
    assert not folder.best.is_file()

    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as disk:
        disk.setattr(checkpoint, "save_weights", full)
        try:
            keeper.save({"epoch": 2})
        except OSError:
            assert (
                checkpoint.load_state(folder.last) is None
            )  # never a state without the weights it speaks of
    keeper.save({"epoch": 2})
    weights, facts = checkpoint.load_weights(folder.best)
    assert facts == {"epoch": 1}
    assert all(torch.equal(weights[name], tensor) for name, tensor in then.items())
    state = keeper.read()
    assert state is not None
    assert state["epoch"] == 2


def test_only_the_first_process_of_a_group_writes(make_run):
    folder = make_run()
    keeper = Keeper(folder, presets.resolve(folder.config()), writes=False)
    keeper.best(models.build(tiny_runs.TINY, 2), {})
    keeper.save({"epoch": 1})
    assert not folder.best.is_file()
    assert keeper.read() is None
