"""Soups and test-time augmentation: averaged weights, flips, and what cannot be averaged."""

from __future__ import annotations

import numpy as np
import pytest
import tiny_runs
import torch

from engine.analysis.predictions import logits, probabilities
from engine.errors import EnsembleError
from engine.predict.judge import judge
from engine.runs import derived, joining
from engine.runs.reporter import Reporter
from engine.training import checkpoint, soup
from engine.training.models import load_run_model


def work(folder, job):
    with folder.hold():
        return job(folder, Reporter(folder))


@pytest.fixture(scope="module")
def weights_file(tmp_path_factory):
    """One pretrained start for all members, as a .safetensors file."""
    from engine.training import models

    tiny_runs.register()
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("start") / "start.safetensors"
    network = models.build(tiny_runs.TINY, 2)
    checkpoint.save_weights(path, network.state_dict(), {"mean": [0.5] * 3, "std": [0.5] * 3})
    return path


@pytest.fixture
def members(make_run, weights_file):
    made = [
        make_run(
            training__seed=seed, training__epochs=1, model__pretrained=str(weights_file), name=f"m{seed}"
        )
        for seed in (0, 1)
    ]
    for folder in made:
        tiny_runs.fit(folder)
    return made


def test_a_uniform_soup_holds_the_mean_weights_and_predicts_like_any_run(make_run, members, weights_file):
    details = {"members": [folder.id for folder in members], "recipe": "uniform"}
    made = make_run(kind="soup", details=details, model__pretrained=str(weights_file))
    assert work(made, soup.make_soup) == "completed"
    states = [checkpoint.load_weights(folder.best)[0] for folder in members]
    state, facts = checkpoint.load_weights(made.best)
    assert facts["soup"] == details["members"]
    for name in ("conv_stem.weight", "classifier.weight", "classifier.bias"):
        assert torch.allclose(state[name], (states[0][name] + states[1][name]) / 2, atol=1e-7)
    assert made.predicted_splits() == ("val", "test")
    assert load_run_model(made).run_id == made.id
    images = [made.manifest().root / name for name in made.predictions("test")["image_id"]]
    anew = judge(made, images).table
    assert probabilities(anew) == pytest.approx(probabilities(made.predictions("test")), abs=1e-5)
    assert made.status().best["metric"] == "balanced_accuracy"


def test_statistics_that_differ_are_measured_anew_on_the_training_images(make_run, members, weights_file):
    state, facts = checkpoint.load_weights(members[1].best)
    state = {name: tensor + 5 if name.endswith("running_mean") else tensor for name, tensor in state.items()}
    checkpoint.save_weights(members[1].best, state, facts)
    details = {"members": [folder.id for folder in members]}
    made = make_run(kind="soup", details=details, model__pretrained=str(weights_file))
    work(made, soup.make_soup)
    own = checkpoint.load_weights(made.best)[0]
    first = checkpoint.load_weights(members[0].best)[0]
    name = next(name for name in own if name.endswith("running_mean"))
    halfway = (first[name] + first[name] + 5) / 2
    assert (own[name] - first[name]).abs().max() < (own[name] - halfway).abs().max()


def test_a_greedy_soup_takes_nothing_in_that_makes_validation_worse(make_run, members, weights_file):
    """A member with a head turned around is wrong where the other is right: it stays out."""
    state, facts = checkpoint.load_weights(members[1].best)
    good, _ = checkpoint.load_weights(members[0].best)
    for name in state:
        state[name] = good[name].clone()
    state["classifier.weight"] = -3 * good["classifier.weight"]
    state["classifier.bias"] = -3 * good["classifier.bias"]
    checkpoint.save_weights(members[1].best, state, facts)
    score = {}
    for folder in members:
        images = [folder.manifest().root / name for name in folder.predictions("val")["image_id"]]
        table = judge(folder, images).table
        names = folder.predictions("val")["label"].to_numpy()
        guess = probabilities(table).argmax(1)
        score[folder.id] = np.mean(
            [(guess[names == c] == k).mean() for k, c in enumerate(("benign", "malignant"))]
        )
    details = {"members": [folder.id for folder in members], "recipe": "greedy"}
    made = make_run(kind="soup", details=details, model__pretrained=str(weights_file))
    work(made, soup.make_soup)
    used = checkpoint.load_weights(made.best)[1]["soup"]
    assert used[0] == max(score, key=lambda one: score[one])
    rows = made.metrics()
    assert rows["balanced_accuracy"].iloc[-1] >= max(score.values()) - 1e-9
    if score[members[0].id] != score[members[1].id]:
        assert len(used) == 1


def test_what_has_no_common_start_is_not_averaged(make_run, members, weights_file):
    names = [(folder.name, folder.config()) for folder in members]
    assert "different seeds" in joining.check_same_start(names, ("benign", "malignant"))[0]
    random = [make_run(training__seed=seed).config() for seed in (0, 1)]
    with pytest.raises(EnsembleError, match="different random weights"):
        joining.check_same_start([("a", random[0]), ("b", random[1])], ("benign", "malignant"))
    with pytest.raises(EnsembleError, match="first weights is the same"):
        joining.check_same_start([names[0], ("b", random[0])], ("benign", "malignant"))
    other = names[1][1].changed(model__name="tf_efficientnet_b0")
    with pytest.raises(EnsembleError, match="architecture is the same"):
        joining.check_same_start([names[0], ("b", other)], ("benign", "malignant"))
    with pytest.raises(EnsembleError, match="no such soup"):
        derived.start_soup(members, "x", members[0].runs, recipe="alphabet")


def test_augmented_predictions_are_the_mean_logit_of_the_four_flips(make_run, members):
    made = make_run(kind="tta", details={"members": [members[0].id]})
    assert work(made, soup.predict_flipped) == "completed"
    loaded = load_run_model(members[0])
    table = made.predictions("test")
    from engine.data.images import decode

    pixels = decode(made.manifest().root / table["image_id"].iloc[0])
    from engine.training.evaluate import logits as run_logits

    pixels = loaded.preprocessing.prepare(pixels)[0]
    views = [pixels, pixels[::-1], pixels[:, ::-1], pixels[::-1, ::-1]]
    expected = run_logits(loaded, lambda k: np.ascontiguousarray(views[k]), range(4)).mean(axis=0)
    assert logits(table)[0] == pytest.approx(expected, abs=1e-4)
    assert not (made.path / "best.safetensors").exists()
    assert derived.augmented(made.runs, [members[0].id, members[1].id]) == {members[0].id: made.id}
    assert [one.id for one in derived.with_tta(members[:1], made.runs)] == [made.id]
    with pytest.raises(EnsembleError, match="engine tta"):
        derived.with_tta(members, made.runs)
    anew = judge(made, [made.manifest().root / table["image_id"].iloc[0]]).table
    assert probabilities(anew)[0] == pytest.approx(probabilities(table)[0], abs=1e-5)


def test_a_stop_is_heard(make_run, members):
    made = make_run(kind="tta", details={"members": [members[0].id]})
    with made.hold():
        assert soup.predict_flipped(made, tiny_runs.StopAt(made, 2)) == "stopped"
