"""Networks: the study's freezing, first weights, failures of the hub."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from engine.errors import WeightsError
from engine.runs import catalog
from engine.training import checkpoint, models

# Trainable parameters of the study's ten models as run, without BatchNorm (from its notebooks).
STUDY_COUNTS = {
    "tf_efficientnet_b0": 3_968_094,
    "tf_efficientnet_b1": 6_445_362,
    "tf_efficientnet_b2": 7_627_908,
    "tf_efficientnet_b3": 10_538_404,
    "tf_efficientnet_b4": 16_826_958,
    "tf_efficientnetv2_b0": 5_800_658,
    "tf_efficientnetv2_b1": 6_774_550,
    "tf_efficientnetv2_b2": 8_506_656,
    "tf_efficientnetv2_b3": 11_942_850,
    "tf_efficientnetv2_s": 17_156_378,
}


@pytest.mark.parametrize("name", STUDY_COUNTS)
def test_study_as_run_trains_as_many_parameters_as_the_study(name):
    record = catalog.find(name)
    with torch.device("meta"):  # shapes only: no memory, no time
        model = models.timm.create_model(record.timm_name, num_classes=2)
    names = models.set_trainable(model, record, "study", freeze_batchnorm=True)
    parameters = dict(model.named_parameters())
    assert sum(parameters[name].numel() for name in names) == STUDY_COUNTS[name]
    assert not any(".bn" in name for name in names)


def test_a_frozen_batchnorm_keeps_statistics_and_affine():
    record = catalog.find("test_efficientnet")
    model = models.build(record, 2)
    models.set_trainable(model, record, "all", freeze_batchnorm=True)
    models.train_mode(model, "all", freeze_batchnorm=True)
    before = {name: value.clone() for name, value in model.state_dict().items() if "bn" in name}
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    model(torch.randn(4, 3, 32, 32)).sum().backward()
    optimizer.step()
    after = model.state_dict()
    assert before
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    assert not torch.equal(models.build(record, 2).conv_stem.weight, after["conv_stem.weight"])


def test_the_head_stage_trains_nothing_but_the_last_layer():
    record = catalog.find("test_efficientnet")
    model = models.build(record, 2)
    names = models.set_trainable(model, record, "head", freeze_batchnorm=True)
    assert names == ["classifier.weight", "classifier.bias"]
    models.train_mode(model, "head", freeze_batchnorm=True)
    assert not model.blocks.training


@pytest.mark.slow
@pytest.mark.parametrize("name", [record.name for record in catalog.ARCHITECTURES if not record.study])
def test_every_architecture_of_the_catalogue_predicts_and_has_its_layers(name):
    record = catalog.find(name)
    size = record.image_size if record.cam_tokens else 64
    model = models.build(record, 2, image_size=size).eval()
    pixels = torch.randn(2, 3, size, size)
    with torch.inference_mode():
        features = models.features(model, pixels)
        assert torch.allclose(model.get_classifier()(features), model(pixels), atol=1e-4)
    assert dict(model.named_modules())[record.cam_layer] is not None


@pytest.mark.slow
def test_offline_weights_classify_a_photograph():
    """lite0's package really holds ImageNet weights in timm's order: flower.jpg is a daisy (class 985)."""
    from sklearn.datasets import load_sample_image

    from engine.data.images import resize

    record = catalog.find("tf_efficientnet_lite0")
    if not catalog.package_installed(record):
        pytest.skip("the package with the weights of lite0 is not installed")
    model = models.timm.create_model(record.timm_name).eval()
    state = models.package_state(record)
    own = model.state_dict()
    model.load_state_dict(dict(zip(own, state.values(), strict=True)))
    photo = resize(load_sample_image("flower.jpg"), 224)
    pixels = models.normalise(torch.from_numpy(photo[None]), (0.5,) * 3, (0.5,) * 3, torch.device("cpu"))
    with torch.inference_mode():
        assert int(model(pixels).argmax()) == 985
    ours = models.build(record, 2, "offline")
    filled = ours.state_dict()
    assert all(
        torch.equal(filled[name], own_value)
        for name, own_value in model.state_dict().items()
        if "classifier" not in name
    )


def test_a_package_of_another_network_is_refused():
    record = catalog.find("test_efficientnet")
    state = {f"x{n}": torch.zeros(3) for n in range(10)}
    with pytest.raises(WeightsError) as caught:
        models.fill_by_position(models.build(record, 2), state, record)
    assert caught.value.kind == "shape"


def test_an_architecture_without_a_package_names_those_that_have_one():
    with pytest.raises(WeightsError, match="tf_efficientnet_lite0"):
        models.build(catalog.find("tf_efficientnet_b0"), 2, "offline")


def test_an_unreachable_hub_names_the_offline_remedy(monkeypatch):
    monkeypatch.setattr(models, "_in_hub_cache", lambda record: False)
    monkeypatch.setattr(models, "_hub_reachable", lambda: False)
    with pytest.raises(WeightsError) as caught:
        models.build(catalog.find("tf_efficientnet_lite0"), 2, "hub")
    assert "--pretrained offline" in caught.value.remedy


def test_weights_of_a_file_are_taken_and_a_head_for_other_classes_is_left_out(tmp_path):
    record = catalog.find("test_efficientnet")
    source = models.build(record, 3)
    path = tmp_path / "own.safetensors"
    checkpoint.save_weights(path, source.state_dict(), {"mean": [0.1] * 3, "std": [0.2] * 3})
    model = models.build(record, 2, str(path))
    assert torch.equal(model.conv_stem.weight, source.conv_stem.weight)
    assert model.classifier.weight.shape == (2, source.classifier.in_features)
    assert models.statistics(model, str(path)) == ((0.1,) * 3, (0.2,) * 3)
    with pytest.raises(WeightsError, match="another network"):
        models.build(dataclasses.replace(record, timm_name="test_resnet.r160_in1k"), 2, str(path))


def test_pixels_are_normalised_as_float_arithmetic_would():
    images = np.random.default_rng(0).integers(0, 256, (2, 5, 5, 3), dtype=np.uint8)
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    result = models.normalise(torch.from_numpy(images), mean, std, torch.device("cpu")).numpy()
    expected = ((images / 255 - np.array(mean)) / np.array(std)).transpose(0, 3, 1, 2)
    assert np.abs(result - expected).max() < 1e-5


def test_pixels_are_normalised_as_torchvision_does():
    from torchvision.transforms.v2 import functional

    pixels = torch.randint(0, 256, (2, 8, 8, 3), dtype=torch.uint8)
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    scaled = functional.to_dtype(pixels.permute(0, 3, 1, 2), torch.float32, scale=True)
    wanted = functional.normalize(scaled, list(mean), list(std))
    assert torch.equal(models.normalise(pixels, mean, std, torch.device("cpu")), wanted)
