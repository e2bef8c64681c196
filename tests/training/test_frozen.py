"""The frozen stage on cached features, against pixels through the frozen backbone."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import tiny_runs
import torch

from engine.runs import presets
from engine.training import checkpoint, frozen, loop, models
from engine.training.models import load_run_model
from engine.training.steps import Steps


@pytest.fixture
def plainly(monkeypatch):
    """Recipes without cached features: the head trains on pixels through the frozen backbone."""
    real = presets.resolve

    def resolve(config):
        recipe = real(config)
        stages = tuple(dataclasses.replace(stage, views=0) for stage in recipe.stages)
        return dataclasses.replace(recipe, stages=stages)

    return lambda: monkeypatch.setattr(loop.presets, "resolve", resolve)


@pytest.mark.slow
def test_without_augmentation_cached_features_train_as_pixels_do(make_run, plainly):
    """Same order, same dropout draws: the scores must agree within a point, and the logits nearly."""
    options = {
        "training__recipe": "quick",
        "training__augmentation": "none",
        "training__epochs": 6,
        "model__dropout": 0.0,
    }
    cached, pixels = make_run(**options), make_run(**options)
    tiny_runs.fit(cached)
    plainly()
    tiny_runs.fit(pixels)
    one, two = (run.metrics().query("split == 'val'") for run in (cached, pixels))
    assert np.abs(one["balanced_accuracy"].to_numpy() - two["balanced_accuracy"].to_numpy()).max() <= 0.01
    assert np.abs(one["loss"].to_numpy() - two["loss"].to_numpy()).max() < 1e-3
    names = ["logit_benign", "logit_malignant"]
    difference = cached.predictions("test")[names] - pixels.predictions("test")[names]
    assert np.abs(difference.to_numpy()).max() < 1e-2


def test_the_head_on_mean_features_gives_the_mean_of_the_logits(make_run):
    run = make_run(training__epochs=1)
    tiny_runs.fit(run)
    model = load_run_model(run).model
    pixels = torch.rand(6, 3, 32, 32)
    with torch.inference_mode():
        feature = frozen.Backbone(model)(pixels)
        together = models.head_logits(model, feature.mean(0, keepdim=True), 0.0)
        assert torch.allclose(together[0], model(pixels).mean(0), atol=1e-4)


QUICK = {"training__recipe": "quick", "model__geometry": "square", "training__epochs": 8}


class Killed(BaseException):
    """As `kill -9`: nothing is tidied up after it."""


@pytest.fixture
def written(monkeypatch):
    """What is written of a run's weights, in order."""
    names: list[str] = []
    for name in ("save_weights", "save_state"):
        real = getattr(checkpoint, name)
        monkeypatch.setattr(
            checkpoint, name, lambda *given, _name=name, _real=real: (names.append(_name), _real(*given))
        )
    return names


def test_epochs_of_milliseconds_do_not_each_write_the_weights(make_run, written):
    folder = make_run(**QUICK)
    tiny_runs.fit(folder)
    assert written == ["save_weights", "save_state"]  # when the stage ends
    assert len(folder.metrics()) == 16  # though every epoch is judged
    best = folder.metrics().query("split == 'val'").sort_values("balanced_accuracy").iloc[-1]
    assert checkpoint.load_weights(folder.best)[1]["balanced_accuracy"] == best["balanced_accuracy"]


@pytest.mark.parametrize("saved", [(), (3,), (1, 6)], ids=["nothing saved", "one state", "two states"])
def test_killed_between_two_states_the_run_ends_with_the_same_bits(make_run, monkeypatch, saved):
    """The best weights and the state are from the same moment, and what was done since is done again."""
    whole, broken = make_run(**QUICK), make_run(**QUICK)
    tiny_runs.fit(whole)
    fits: list[loop.Fit] = []
    monkeypatch.setattr(loop.Keeper, "is_due", lambda *_: bool(fits) and fits[-1].epoch - 1 in saved)
    real = Steps.update

    def killed(self, source, batches, place, tally):
        if (place.epoch, place.step) == (7, 2):
            raise Killed
        return real(self, source, batches, place, tally)

    began = loop.Fit._train_epoch
    monkeypatch.setattr(loop.Fit, "_train_epoch", lambda self: (fits.append(self), began(self)))
    with monkeypatch.context() as dying:
        dying.setattr(Steps, "update", killed)
        with pytest.raises(Killed):
            tiny_runs.fit(broken)
    assert (checkpoint.load_state(broken.last) or {"epoch": 1})["epoch"] == max(saved, default=0) + 1
    assert broken.best.is_file() == bool(saved)
    assert tiny_runs.fit(broken) == "completed"
    assert tiny_runs.outcome(broken) == tiny_runs.outcome(whole)


def test_a_stop_while_a_resumed_run_computes_its_features_again_loses_nothing(make_run):
    whole, broken = make_run(**QUICK), make_run(**QUICK)
    tiny_runs.fit(whole)
    assert tiny_runs.fit(broken, tiny_runs.StopAt(broken, 60)) == "stopped"
    state = checkpoint.load_state(broken.last)
    assert state is not None
    assert state["step"] > 0
    assert tiny_runs.fit(broken, tiny_runs.StopAt(broken, 4)) == "stopped"
    assert broken.status().phase == "Computing features"
    again = checkpoint.load_state(broken.last)
    assert again is not None
    assert again["optimizer"]["state"].keys() == state["optimizer"]["state"].keys() != set()
    assert tiny_runs.fit(broken) == "completed"
    assert tiny_runs.outcome(broken) == tiny_runs.outcome(whole)


def test_batches_are_gathered_together_and_served_in_order(monkeypatch):
    monkeypatch.setattr(frozen, "GATHERED", 2)
    features = torch.arange(10.0).view(1, 5, 2)
    cached = frozen.CachedFeatures(features, torch.arange(5), features[0])
    wanted = [frozen.Batch(3, rows) for rows in ((4, 0), (1,), (2, 2, 3))]
    for batch, (served, targets) in zip(wanted, cached.serve(wanted), strict=True):
        assert torch.equal(served, features[0, list(batch.rows)])
        assert targets.tolist() == list(batch.rows)
    assert list(cached.serve([])) == []


def test_an_epoch_sees_one_view_per_image_and_the_next_epoch_another():
    features = torch.arange(12).view(2, 3, 2).float()
    cached = frozen.CachedFeatures(features, torch.tensor([0, 1, 0]), features[0])
    (one, targets), *_ = cached.serve([frozen.Batch(1, (0, 2))])
    (two, _), *_ = cached.serve([frozen.Batch(2, (0, 2))])
    assert torch.equal(one, features[1, [0, 2]])
    assert torch.equal(two, features[0, [0, 2]])
    assert targets.tolist() == [0, 0]
