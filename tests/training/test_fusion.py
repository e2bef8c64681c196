"""The CNN-MLP fusion: its size, its roles, a run of it."""

from __future__ import annotations

import pytest
import tiny_runs
import torch

from engine.errors import EnsembleError, WeightsError
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
        fusion.check_members(members, tiny_data.with_table(table))


def test_one_member_is_no_fusion(members, tiny_data):
    with pytest.raises(EnsembleError, match="at least two"):
        fusion.check_members(members[:1], tiny_data)


def test_dropout_draws_do_not_depend_on_what_was_drawn_before(make_run, members):
    details = {"members": [folder.id for folder in members], "epochs": 2}
    one, two = (make_run(kind="fusion", details=details) for _ in range(2))
    fuse(one)
    torch.rand(17)
    fuse(two)
    assert one.best.read_bytes() == two.best.read_bytes()
