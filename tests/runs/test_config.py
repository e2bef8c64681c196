"""Configurations: one help text per field, all problems at once, nothing lost on the way to JSON and back."""

import dataclasses

import pytest

from engine.data.splits import PROTOCOLS as SPLIT_PROTOCOLS
from engine.errors import ConfigError
from engine.runs import catalog, config
from engine.runs.config import RunConfig, options, read_config, value_problems


def test_every_option_explains_itself():
    for group, item in options():
        assert len(item.metadata["help"]) > 15, f"{group.__name__}.{item.name}"
        assert item.metadata["help"].endswith(".")
        assert item.metadata["label"]


def test_protocols_are_those_of_the_splits():
    assert tuple(SPLIT_PROTOCOLS) == config.PROTOCOLS


def test_json_and_back_loses_nothing():
    original = RunConfig(name="ü", details={"members": ["a"]}).changed(
        data__root="/data", data__magnifications=("40X", "100X"), training__lr=1e-4, model__name="resnet50"
    )
    assert RunConfig.from_record(original.to_record()) == original


def test_a_newer_schema_is_refused_and_unknown_keys_are_not():
    record = RunConfig().to_record()
    assert (
        RunConfig.from_record({**record, "later": 1, "data": {**record["data"], "later": 2}}) == RunConfig()
    )
    with pytest.raises(ConfigError, match="newer version"):
        RunConfig.from_record({**record, "schema": 99})


def test_all_problems_are_told_at_once():
    wrong = RunConfig().changed(
        model__name="tf_efficientnet_b9", data__protocol="random", training__epochs=-1, model__image_size=8
    )
    text = " ".join(str(error) for error in value_problems(wrong))
    for word in ("No data set", "not in the catalogue", "Split protocol", "Epochs", "image size"):
        assert word in text


def test_offline_weights_of_an_architecture_without_a_package_name_those_that_have_one():
    (error,) = catalog.model_problems("tf_efficientnet_b0", "offline")
    assert "tf_efficientnet_lite0" in str(error)


def test_hub_names_and_addresses_are_refused():
    for name in ("hf-hub:someone/model", "https://example.org/model.pth", "../model", ""):
        with pytest.raises(ConfigError, match="not in the catalogue"):
            catalog.find(name)


def test_a_family_stands_for_its_five_members():
    assert len(catalog.expand("EfficientNetV1")) == len(catalog.expand("EfficientNetV2")) == 5
    assert catalog.expand("V2-B1") == ("tf_efficientnetv2_b1",)
    assert len(catalog.STUDY) == 10


def test_a_file_that_is_no_configuration_is_named(tmp_path):
    (tmp_path / "config.json").write_text("[1, 2]")
    with pytest.raises(ConfigError, match=r"config\.json"):
        read_config(tmp_path / "config.json")


def test_configurations_cannot_be_changed_in_place():
    with pytest.raises(dataclasses.FrozenInstanceError):
        RunConfig().name = "x"  # type: ignore[misc]
