"""The CNN-MLP fusion: its size, its roles, a run of it."""

from __future__ import annotations

import numpy as np
import pytest
import tiny_runs
import torch

from engine.analysis.predictions import probabilities
from engine.data.images import decode
from engine.errors import EnsembleError, WeightsError
from engine.explain.runs import explain_file
from engine.predict.judge import judge
from engine.runs import ensembles, joining, results
from engine.runs.reporter import Reporter
from engine.training import fusion
from engine.training.models import load_run_model


@pytest.mark.parametrize(("inputs", "count"), [(7296, 953_122), (6784, 886_562)])
def test_the_mlp_has_the_studys_parameters(inputs, count):
    mlp = fusion.build_mlp(inputs)
    assert sum(parameter.numel() for parameter in mlp.parameters()) == count


def fuse(folder):
    with folder.hold():
        report = Reporter(folder)
        return fusion.train_fusion(folder, report)


@pytest.fixture
def members(make_run):
    folders = [make_run(training__seed=seed, training__epochs=1) for seed in (0, 1)]
    for folder in folders:
        tiny_runs.fit(folder)
    return folders


def test_a_corrected_fusion_is_picked_on_validation_and_predicts_both(make_run, members):
    details = {"members": [folder.id for folder in members], "epochs": 3}
    run = make_run(kind="fusion", details=details)
    assert fuse(run) == "completed"
    assert run.predicted_splits() == ("val", "test")
    assert set(run.metrics()["split"]) == {"train", "val"}
    assert run.status().best["metric"] == "balanced_accuracy"
    images = [run.manifest().root / name for name in run.predictions("test")["image_id"]]
    anew = judge(run, images).table
    assert probabilities(anew) == pytest.approx(probabilities(run.predictions("test")), abs=1e-5)
    assert results.trained_on(run).images == results.trained_on(members[0]).images
    with pytest.raises(WeightsError, match="is a fusion"):
        load_run_model(run)
    weights = run.best.read_bytes()
    assert fuse(run) == "completed"  # on the kept features
    assert run.best.read_bytes() == weights


def test_the_fusion_as_the_study_ran_it_scores_only_test(make_run, members):
    details = {"members": [folder.id for folder in members], "as_study": True}
    run = make_run(kind="fusion", details={**details, "epochs": 2})
    assert fuse(run) == "completed"
    assert run.predicted_splits() == ("test",)
    assert set(run.metrics()["split"]) == {"train", "test"}
    assert run.status().best is None


def test_a_member_trained_on_an_image_to_be_scored_is_refused(make_run, members, tiny_data):
    table = tiny_data.table.copy()
    table.loc[0, "split"] = "test"
    with pytest.raises(EnsembleError, match="trained on images"):
        joining.check_members(members, tiny_data.with_table(table))


def test_one_member_is_no_fusion(members, tiny_data):
    with pytest.raises(EnsembleError, match="at least two"):
        joining.check_members(members[:1], tiny_data)


def test_dropout_draws_do_not_depend_on_what_was_drawn_before(make_run, members):
    details = {"members": [folder.id for folder in members], "epochs": 2}
    one, two = (make_run(kind="fusion", details=details) for _ in range(2))
    fuse(one)
    torch.rand(17)
    fuse(two)
    assert one.best.read_bytes() == two.best.read_bytes()


def test_a_fusion_is_a_member_again_and_the_ensemble_judges_new_images(make_run, members):
    details = {"members": [folder.id for folder in members], "epochs": 2}
    fused = make_run(kind="fusion", details=details)
    fuse(fused)
    saved = ensembles.save_ensemble([fused, members[0]], "mean", "both", fused.runs)
    parts = [folder.predictions("test") for folder in (fused, members[0])]
    mean = np.mean([probabilities(part) for part in parts], axis=0)
    assert probabilities(saved.predictions("test")) == pytest.approx(mean)
    images = [fused.manifest().root / name for name in parts[0]["image_id"]]
    assert probabilities(judge(saved, images).table) == pytest.approx(mean, abs=1e-5)


def test_a_fusions_map_explains_its_own_logit_through_the_mlp(make_run, members):
    """Where the backbone ends in global pooling, activation x gradient of all members sums to the logit's
    first-order change; and the probabilities are the fusion's."""
    fused = make_run(kind="fusion", details={"members": [folder.id for folder in members], "epochs": 2})
    fuse(fused)
    table = fused.predictions("test")
    path = fused.manifest().root / table["image_id"].iloc[0]
    found = explain_file(fused, path, target="malignant")
    assert found.members == tuple(folder.id for folder in members)
    assert found.probabilities == pytest.approx(probabilities(table)[0], abs=1e-5)
    loaded = fusion.load_fusion(fused)
    pixels = [one.preprocessing.prepare(decode(path))[0] for one in loaded.members]
    eyes = [fusion.replace(one, model=fusion.Backbone(one.model).eval()) for one in loaded.members]
    whole = torch.cat(
        [torch.from_numpy(fusion.logits(eye, lambda _: pixels[0], [0])).float() for eye in eyes], 1
    )
    whole.requires_grad_(True)
    loaded.mlp(whole)[0, 1].backward()
    width = whole.shape[1] // 2
    for k, one in enumerate(found.explanations):
        part = slice(k * width, (k + 1) * width)
        expected = float((whole.grad[0, part] * whole.detach()[0, part]).sum())
        assert one.raw.sum() == pytest.approx(expected, abs=1e-4)


def test_a_fusion_whose_member_is_gone_says_so_and_keeps_its_predictions(make_run, members):
    from engine.errors import RunError
    from engine.runs.trash import delete

    fused = make_run(kind="fusion", details={"members": [folder.id for folder in members], "epochs": 1})
    fuse(fused)
    delete(members[1])
    assert len(fused.predictions("test")) > 0
    with pytest.raises(RunError, match="trash"):
        judge(fused, [fused.manifest().root / "test_0.png"])
