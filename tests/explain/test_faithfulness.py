"""Maps that are right score as right, maps that know nothing as chance; intervals go by case."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from explain_models import random_model, red_finder, tissue, with_red_square
from pytorch_grad_cam.metrics.road import NoisyLinearImputer

from engine.errors import ExplainError
from engine.explain import cam, glass, trust
from engine.explain.faithfulness import SampleImage, _impute, _order, faithfulness, measure_sample
from engine.explain.randomisation import TRAINED, likeness, parts, randomisation_check


def strong_finder(size: int = 224, geometry: str = "square"):
    """A red finder sure of itself (the probability has room to fall) that a blurred red does not convince."""
    loaded = red_finder(size, geometry)
    with torch.no_grad():
        loaded.model.head.weight.mul_(30)
        loaded.model.head.bias.zero_()
        loaded.model.conv.bias[0] = -1.5
    return loaded


SLOW = pytest.mark.slow


@pytest.mark.parametrize(
    "mode", ["square", pytest.param("letterbox", marks=SLOW), pytest.param("tiles", marks=SLOW)]
)
def test_a_true_map_is_faithful_and_its_opposite_is_not(mode):
    from dataclasses import replace

    loaded = strong_finder(224, mode)
    image = with_red_square(60, 300, 90, 224, 448) if mode == "tiles" else with_red_square(180, 300, 110)
    found = cam.explain(loaded, [image])[0]
    options = {"fractions": (0.2,), "steps": 4}
    right = faithfulness(loaded, image, found, **options)
    wrong = faithfulness(loaded, image, replace(found, raw=-found.raw), **options)
    assert right.road > 0.1 > -0.1 > wrong.road
    assert right.probability > 0.9
    assert right.deletion_area < wrong.deletion_area
    assert right.insertion_area > wrong.insertion_area
    assert right.deletion[0] == pytest.approx(right.probability)
    assert right.insertion[-1] == pytest.approx(right.probability, abs=1e-5)
    assert found.probability("malignant") == pytest.approx(right.probability, abs=1e-5)


def test_removed_pixels_are_filled_as_pytorch_grad_cam_fills_them():
    torch.manual_seed(0)
    square = torch.randn(3, 24, 24)
    known = torch.rand(24, 24) > 0.4
    ours = _impute(square, known, seed=0)
    theirs = NoisyLinearImputer(noise=0.0)(square, known.float())
    assert torch.equal(ours[:, known], square[:, known])
    gap = (ours - theirs)[:, ~known]
    assert 0.005 < gap.std() < 0.02  # the noise, and nothing else
    assert torch.equal(ours, _impute(square, known, seed=0))


def test_equal_relevance_is_ranked_at_random_not_from_the_top_left():
    loaded = red_finder(64)
    grey = np.full((64, 64, 3), 128, np.uint8)
    order = _order(cam.explain(loaded, [grey])[0], 1, seed=0)
    rows = np.mgrid[:64, :64][0]
    assert abs(np.corrcoef(order[0].ravel(), rows.ravel())[0, 1]) < 0.1
    assert sorted(order.ravel().tolist()) == list(range(64 * 64))


def test_a_map_of_another_image_is_not_measured():
    loaded = strong_finder()
    found = cam.explain(loaded, [tissue(96, 96)])[0]
    with pytest.raises(ExplainError, match="does not belong"):
        faithfulness(loaded, tissue(100, 96), found)


# --- over a sample -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def measured():
    """Twelve images of six cases: the square is somewhere else in each."""
    generator = np.random.default_rng(0)
    sample = [
        SampleImage(
            f"{k}.png",
            with_red_square(*generator.integers(5, 60, 2), 40, 112, 112),
            case=f"case {k // 2}",
            label="malignant" if k % 4 < 2 else "benign",
        )
        for k in range(12)
    ]
    done: list[int] = []
    table = measure_sample(
        strong_finder(112), sample, target="malignant", fractions=(0.3,), steps=3, progress=done.append
    )
    assert done == list(range(1, 13))
    return table


@pytest.mark.slow
def test_the_sample_has_a_row_per_image_and_method(measured):
    assert len(measured) == 24
    assert set(measured["method"]) == {"gradcam", "randomcam"}
    assert measured["glass_area"].between(0, 1).all()


def test_gradcam_is_above_the_random_control_with_an_interval_over_cases(measured):
    found = {(one.method, one.measure): one for one in trust.summarise(measured, draws=400)}
    road = found["gradcam", "road"]
    assert road.mean.n_images == 12
    assert road.mean.n_cases == 6
    assert road.mean.low <= road.mean.value <= road.mean.high
    assert "cases" in road.mean.method
    own = measured[measured["method"] == "gradcam"]["road"].mean()
    control = measured[measured["method"] == "randomcam"]["road"].mean()
    assert road.mean.value == pytest.approx(own)
    assert road.difference.value == pytest.approx(own - control)
    assert road.difference.value > 0.1
    assert found["gradcam", "glass_share"].beats_control is None
    assert found["randomcam", "road"].difference is None


@pytest.mark.parametrize(("gain", "beats"), [(0.2, True), (0.0, False), (-0.2, False)])
def test_a_method_beats_the_control_only_when_its_whole_interval_does(gain, beats):
    generator = np.random.default_rng(0)
    control = pd.DataFrame(
        {
            "image_id": [f"{k}.png" for k in range(60)],
            "case": [f"c{k // 2}" for k in range(60)],
            "label": ["benign", "malignant"] * 30,
            "method": "randomcam",
            **{one.name: generator.normal(0, 0.1, 60) for one in trust.MEASURES},
        }
    )
    own = control.assign(method="gradcam")
    for one in trust.MEASURES:
        own[one.name] = control[one.name] + gain * one.better + generator.normal(0, 0.1, 60)
    found = {(one.method, one.measure): one for one in trust.summarise(pd.concat([own, control]), draws=500)}
    assert found["gradcam", "road"].beats_control is beats
    assert found["gradcam", "deletion"].beats_control is beats


def test_an_interval_by_case_is_wider_than_one_by_image():
    """Images of a case that are copies of each other add no knowledge."""
    generator = np.random.default_rng(1)
    per_case = generator.normal(size=12)
    table = pd.DataFrame({"case": np.repeat([f"c{k}" for k in range(12)], 10), "label": "benign"})
    values = np.repeat(per_case, 10)
    by_case = trust.mean_by_case(table, values)
    by_image = trust.mean_by_case(table.assign(case=""), values)
    assert by_case.value == pytest.approx(by_image.value)
    assert by_case.high - by_case.low > 2 * (by_image.high - by_image.low)
    assert "too narrow" in by_image.warning or "one by one" in by_image.warning


def test_a_class_with_one_case_is_pooled_with_the_others_and_warned_about():
    table = pd.DataFrame({"case": list("aabbccdd"), "label": ["benign"] * 2 + ["malignant"] * 6})
    found = trust.mean_by_case(table, np.arange(8.0))
    assert found.low < found.value < found.high
    assert "4 pooled cases" in found.warning


def test_undefined_values_are_left_out_of_the_mean():
    table = pd.DataFrame({"case": list("aabb"), "label": "benign"})
    assert trust.mean_by_case(table, np.array([1.0, np.nan, 3.0, 5.0])).value == pytest.approx(3.0)


def test_nothing_measured_is_said():
    with pytest.raises(ExplainError, match="No map"):
        trust.summarise(pd.DataFrame())


# --- glass ---------------------------------------------------------------------------------------------


def slide_with_glass(lamp: int = 235) -> np.ndarray:
    """Left half tissue, right half glass lit at `lamp`."""
    image = np.full((200, 300, 3), lamp, np.uint8)
    generator = np.random.default_rng(0)
    image[:, :150] = np.clip(generator.normal((170, 110, 160), 15, (200, 150, 3)), 0, 255)
    return image


@pytest.mark.parametrize("lamp", [210, 235, 252])
def test_glass_is_found_whatever_the_lamp(lamp):
    mask = glass.glass_mask(slide_with_glass(lamp))
    assert mask[:, 160:].mean() > 0.98
    assert mask[:, :140].mean() < 0.01


def test_an_image_without_glass_has_none():
    image = np.clip(np.random.default_rng(0).normal((150, 90, 140), 20, (200, 300, 3)), 0, 255)
    assert glass.glass_mask(image.astype(np.uint8)).mean() < 0.01


def test_heat_on_glass_is_counted_by_heat_not_by_area():
    image = slide_with_glass()
    heat = np.zeros((200, 300), np.float32)
    heat[:, :100], heat[:, 200:] = 3, 1
    found = glass.on_glass(heat, image)
    assert found.share == pytest.approx(0.25, abs=0.01)
    assert found.area == pytest.approx(0.5, abs=0.03)
    assert found.ratio == pytest.approx(0.5, abs=0.05)
    assert np.isnan(glass.on_glass(np.zeros_like(heat), image).share)


# --- parameter randomisation ---------------------------------------------------------------------------


def test_places_without_evidence_do_not_make_two_maps_alike():
    """Two maps, each zero but for ten places of its own: ranks by position would call them alike."""
    drawn = np.random.default_rng(0)
    first, second = np.zeros((2, 10, 10))
    first[0], second[9] = drawn.random(10), drawn.random(10)
    assert likeness(first, second) == pytest.approx(-0.11, abs=0.02)
    assert likeness(first, first) == pytest.approx(1)
    assert np.isnan(likeness(first, np.ones((10, 10))))


@pytest.mark.slow
def test_randomising_the_network_changes_the_map_and_leaves_the_model_alone():
    loaded = random_model("tf_efficientnet_lite0", 160)
    images = [tissue(160, 160, seed=seed) for seed in range(3)]
    before = {name: value.clone() for name, value in loaded.model.state_dict().items()}
    trained = [one.raw for one in cam.explain(loaded, images)]
    done: list[tuple[int, int]] = []
    check = randomisation_check(loaded, images, progress=lambda k, n: done.append((k, n)))
    print([f"{name} {value:.2f}" for name, value in zip(check.parts, check.mean, strict=True)])
    assert check.parts[:2] == (TRAINED, "classifier")
    assert check.parts[-1] == "conv_stem"
    assert done[-1] == (len(check.parts) - 1, len(check.parts) - 1)
    assert (check.correlation[0] == 1).all()
    assert check.left < 0.6
    assert check.mean[1] < 0.95
    for name, value in loaded.model.state_dict().items():
        assert torch.equal(value, before[name])
    for old, now in zip(trained, cam.explain(loaded, images), strict=True):
        np.testing.assert_array_equal(old, now.raw)


def test_parts_are_randomised_from_the_last_to_the_first():
    loaded = red_finder(96)
    assert [name for name, _ in parts(loaded.model)] == ["head", "conv"]  # a part without parameters is none
    check = randomisation_check(loaded, [with_red_square(10, 10, 30, 96, 96)], target="margin")
    assert check.parts == (TRAINED, "head", "conv")
    assert check.correlation.shape == (3, 1)
    b0 = [name for name, _ in parts(random_model("tf_efficientnetv2_b0", 64).model)]
    assert b0[:4] == ["classifier", "bn2", "conv_head", "blocks.5"]
