"""From a run folder and image files to maps: stored once, found again, fused for ensembles."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from explain_models import red_finder, with_red_square
from PIL import Image
from safetensors.torch import save_file

from engine.errors import DataError, ExplainError, RunError
from engine.explain import store
from engine.explain.ensemble_map import EnsembleMap, fuse, overlap_matrix
from engine.explain.runs import explain_file, explain_files
from engine.runs import creation
from engine.runs import folder as folders
from engine.runs.config import RunConfig


def make_run(runs_folder: Path, seed: int = 0, **changes) -> folders.RunFolder:
    config = RunConfig().changed(model__name="tf_efficientnet_lite0", model__image_size=224, **changes)
    run = creation.create(runs_folder, config, "test")
    if config.kind == "train":
        save_file({"weight": torch.full((4,), float(seed))}, run.best)
    return run


@pytest.fixture
def image(tmp_path):
    path = tmp_path / "SOB_M_DC-14-2523-100-001.png"
    Image.fromarray(with_red_square(180, 300, 70)).save(path)
    return path


class Models:
    """Hands out the red finder for every run and counts how often it was asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def __call__(self, folder):
        self.asked.append(folder.id)
        model = red_finder()
        with torch.no_grad():
            model.model.head.bias.zero_()
            if folder.config().model.dropout == 0.5:  # members differ: this one takes red for benign
                model.model.head.weight.neg_()
        return model


def test_a_map_is_made_once_and_found_again(tmp_path, image):
    run, load = make_run(tmp_path / "runs"), Models()
    first = explain_file(run, image, layer="act", load=load)
    again = explain_file(run, image, layer="act", load=load)
    assert load.asked == [run.id]
    np.testing.assert_array_equal(first.raw, again.raw)
    np.testing.assert_array_equal(first.heat, again.heat)
    np.testing.assert_array_equal(first.probabilities, again.probabilities)
    assert (again.height, again.width, again.target, again.method) == (460, 700, "malignant", "gradcam")
    assert sum(file.stat().st_size for file in (run.path / "maps").iterdir()) < 5000


@pytest.mark.parametrize(
    "question",
    [
        {"method": "layercam", "layer": "act"},
        {"target": "benign", "layer": "act"},
        {"layer": "conv"},
        {"target": "margin", "layer": "act"},
    ],
)
def test_another_question_is_another_map(tmp_path, image, question):
    run, load = make_run(tmp_path / "runs"), Models()
    explain_file(run, image, layer="act", load=load)
    explain_file(run, image, **question, load=load)
    assert len(load.asked) == 2
    assert len(list((run.path / "maps").iterdir())) == 2


def test_new_weights_or_a_changed_image_make_a_new_map(tmp_path, image):
    run, load = make_run(tmp_path / "runs"), Models()
    explain_file(run, image, layer="act", load=load)
    save_file({"weight": torch.full((5,), 9.0)}, run.best)
    explain_file(run, image, layer="act", load=load)
    Image.fromarray(with_red_square(20, 30, 70, 456)).save(image)
    moved = explain_file(run, image, layer="act", load=load)
    assert len(load.asked) == 3
    assert moved.heat.shape == (456, 700)


def test_a_damaged_map_is_made_again(tmp_path, image):
    run, load = make_run(tmp_path / "runs"), Models()
    explain_file(run, image, layer="act", load=load)
    stored = next((run.path / "maps").iterdir())
    data = stored.read_bytes()
    for damage in (b"", data[: len(data) // 2], b"nonsense" * 20):
        stored.write_bytes(damage)
        assert explain_file(run, image, layer="act", load=load).raw.shape == (14, 14)
    assert len(load.asked) == 4


def test_maps_can_be_forgotten(tmp_path, image):
    run = make_run(tmp_path / "runs")
    assert store.clear(run) == 0
    explain_file(run, image, layer="act", load=Models())
    assert store.clear(run) == 1
    assert list((run.path / "maps").iterdir()) == []


def test_a_folder_is_explained_in_order_and_a_bad_image_does_not_end_it(tmp_path, image):
    run = make_run(tmp_path / "runs")
    empty, text, gone = tmp_path / "empty.png", tmp_path / "text.png", tmp_path / "gone.png"
    empty.touch()
    text.write_text("no image")
    sources = [image, empty, text, gone, image]
    found = list(explain_files(run, sources, layer="act", load=Models(), batch_size=2))
    assert [source for source, _ in found] == sources
    kinds = [type(one).__name__ for _, one in found]
    assert kinds == ["Explanation", "DataError", "DataError", "DataError", "Explanation"]
    with pytest.raises(DataError, match=r"gone\.png"):
        explain_file(run, gone, layer="act", load=Models())


def test_a_run_without_weights_says_so(tmp_path, image):
    run = make_run(tmp_path / "runs")
    run.best.unlink()
    with pytest.raises(ExplainError, match="weights"):
        explain_file(run, image, layer="act", load=Models())


def test_imported_predictions_have_no_network(tmp_path, image):
    run = make_run(tmp_path / "runs", kind="import")
    with pytest.raises(ExplainError, match="no network"):
        explain_file(run, image, layer="act", load=Models())


def test_questions_are_checked_before_a_model_is_loaded(tmp_path, image):
    run, load = make_run(tmp_path / "runs"), Models()
    for question in ({"target": 7}, {"method": "nothing"}, {"target": "maligne"}):
        with pytest.raises(ExplainError):
            explain_file(run, image, **question, load=load)
    assert load.asked == []


# --- ensembles -----------------------------------------------------------------------------------------


def make_ensemble(tmp_path, weights=(3.0, 1.0)):
    parts = tmp_path / "runs"
    members = [make_run(parts, 1), make_run(parts, 2, model__dropout=0.5)]
    details = {"members": [member.id for member in members], "weights": list(weights), "method": "mean"}
    return make_run(parts, kind="ensemble", details=details), members


def test_an_ensemble_map_is_the_weighted_mean_of_its_members(tmp_path, image):
    ensemble, members = make_ensemble(tmp_path)
    found = explain_file(ensemble, image, layer="act", load=Models())
    assert isinstance(found, EnsembleMap)
    assert found.members == tuple(member.id for member in members)
    first, second = found.explanations
    np.testing.assert_allclose(found.weights, [0.75, 0.25])
    expected = 0.75 * first.heat / first.heat.max() + (
        0.25 * second.heat / second.heat.max() if second.heat.any() else 0
    )
    np.testing.assert_allclose(found.heat, expected, atol=1e-6)
    np.testing.assert_allclose(found.probabilities, 0.75 * first.probabilities + 0.25 * second.probabilities)


def test_an_ensemble_explains_the_class_that_it_predicts(tmp_path, image):
    ensemble, _ = make_ensemble(tmp_path, (1.0, 3.0))
    found = explain_file(ensemble, image, target="predicted", layer="act", load=Models())
    assert found.target == found.predicted
    assert {one.target for one in found.explanations} == {found.predicted}
    assert {one.predicted for one in found.explanations} == {"benign", "malignant"}  # they do disagree


def test_a_deleted_member_is_named(tmp_path, image):
    ensemble, members = make_ensemble(tmp_path)
    import shutil

    shutil.rmtree(members[1].path)
    with pytest.raises(RunError, match="no run with this id"):
        explain_file(ensemble, image, layer="act", load=Models())


def test_a_member_without_weight_is_left_out(tmp_path, image):
    ensemble, members = make_ensemble(tmp_path, (1.0, 0.0))
    found = explain_file(ensemble, image, layer="act", load=Models())
    assert found.members == (members[0].id,)


def test_overlap_is_one_with_itself_and_zero_for_disjoint_maps():
    left, right, nothing = np.zeros((3, 100, 100), np.float32)
    left[:, :15] = 1 + np.random.default_rng(0).random((100, 15))
    right[:, 85:] = 1
    half = np.roll(left, 7, axis=1)
    matrix = overlap_matrix([left, right, half, nothing])
    assert matrix[0, 0] == 1
    assert matrix[0, 1] == 0
    assert matrix[0, 2] == pytest.approx(8 / 15)
    assert np.isnan(matrix[3]).all()
    assert np.isnan(matrix[:, 3]).all()


def test_unrelated_maps_share_about_the_top_share():
    generator = np.random.default_rng(0)
    matrix = overlap_matrix([generator.random((200, 200)).astype(np.float32) for _ in range(2)], 0.15)
    assert matrix[0, 1] == pytest.approx(0.15, abs=0.02)


def test_maps_of_different_questions_are_not_fused(tmp_path, image):
    run = make_run(tmp_path / "runs")
    one = explain_file(run, image, layer="act", load=Models())
    other = explain_file(run, image, layer="act", target="benign", load=Models())
    with pytest.raises(ExplainError, match="do not fit together"):
        fuse([one, other], ["a", "b"])
    with pytest.raises(ExplainError, match="weights"):
        fuse([one, one], ["a", "b"], [0, 0])
    assert fuse([one, one], ["a", "b"]).spread.max() == 0
