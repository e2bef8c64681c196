"""The launch form: its configuration lives in the URL, doubts are said, seeds are read."""

import pytest

from dashboard import launch_form
from engine.data.audit import audit
from engine.data.splits import SplitSpec, make_split, split_hash
from engine.errors import ConfigError
from engine.runs import forecast, launch
from engine.runs.config import RunConfig
from engine.runs.launch import Prepared


def test_a_configuration_survives_the_url():
    base = RunConfig()
    config = base.changed(
        name="a & b", data__root="/somewhere/else", data__magnifications=("40X", "100X"), data__protocol="official",
        training__epochs=7, training__lr=3e-4, training__compile=True, model__geometry="tiles",
    )  # fmt: skip
    draft = launch_form.Draft(
        config.changed(model__name="tf_efficientnet_b0", data__fold=1, training__seed=4),
        ("tf_efficientnet_b0", "tf_efficientnetv2_s"),
        (1, 3),
        (4, 5, 6),
        rates=(3e-4, 1e-3),
    )
    found, bad = launch_form.from_params(launch_form.to_params(draft, base), base)
    assert bad == []
    assert found == draft


def test_what_is_as_the_base_stays_out_of_the_url():
    assert launch_form.to_params(launch_form.draft_of(RunConfig()), RunConfig()) == {}


def test_values_that_cannot_be_read_are_named_and_change_nothing():
    draft, bad = launch_form.from_params(
        {"epochs": "many", "fold": "2,x", "geometry": "tiles", "unknown": "1"}, RunConfig()
    )
    assert sorted(bad) == ["epochs", "fold"]
    assert draft.config.training.epochs == RunConfig().training.epochs
    assert draft.config.model.geometry == "tiles"


def test_every_field_of_the_form_has_a_parameter_of_its_own():
    params = [param for param, _, _ in launch_form.fields()]
    assert len(params) == len(set(params))
    assert {"data", "model", "protocol", "fold", "seed", "split_seed", "image_size"} <= set(params)


def test_seeds_are_numbers_and_ranges():
    assert launch.parse_numbers("0, 2, 2; 4-6") == (0, 2, 4, 5, 6)
    for text in ("", "a", "1.5", "-3", "0-5000"):
        with pytest.raises(ConfigError):
            launch.parse_numbers(text)


@pytest.fixture
def prepared(tmp_path):
    import fabricate

    def make(protocol: str) -> Prepared:
        split = make_split(fabricate.manifest(tmp_path), SplitSpec(protocol))
        return Prepared(split, audit(split.table), split_hash(split.table), ())

    return make


def test_a_leaking_split_is_a_doubt_and_an_honest_one_is_not(prepared):
    leaking, ready = RunConfig().changed(data__protocol="image"), prepared("image")
    assert "more than one side" in launch_form.doubts(leaking, ready, {0: ready})[0]
    assert launch_form.doubts(RunConfig(), prepared("case"), {0: prepared("case")}) == []


def test_of_several_folds_the_worst_is_said_with_how_many_leak(prepared):
    folds = {0: prepared("case"), 1: prepared("image"), 2: prepared("image")}
    worst = launch_form.worst_audit(folds)
    assert worst["level"] == "leak"
    assert worst["verdict"].startswith("2 of 3 folds leak. Of folds 1, 2 the first: ")
    doubt = launch_form.doubts(RunConfig(), folds[0], folds)[0]
    assert "2 of 3 folds leak" in doubt
    assert launch_form.worst_audit({3: folds[0], 4: folds[0]})["level"] == "clean"


def test_a_batch_larger_than_the_training_part_is_a_doubt(prepared):
    config, ready = RunConfig().changed(training__batch_size=1000), prepared("case")
    assert any(
        "larger than the training part" in text for text in launch_form.doubts(config, ready, {0: ready})
    )


def test_the_cost_of_a_launch_is_a_sum_with_its_sources_and_what_is_not_known():
    guesses = [
        forecast.Forecast(60.0, 500.0, "before"),
        forecast.Forecast(30.0, 800.0, "<b>"),
        forecast.UNKNOWN,
    ]
    text = launch_form.cost_html(guesses)
    assert "about 1 min 30 s one after another, up to 800 MB" in text
    assert "before, &lt;b&gt;" in text
    assert "for 1 of them their time is not known" in text
    assert launch_form.cost_html([forecast.UNKNOWN]).count("its time is not known") == 1


def test_the_link_of_an_uploaded_configuration_opens_the_same_form_elsewhere():
    uploaded = RunConfig().changed(
        model__name="tf_efficientnet_b2", training__epochs=7, data__protocol="official", data__fold=2
    )
    draft = launch_form.draft_of(uploaded)
    params = launch_form.to_params(draft, launch_form.link_base(uploaded, ""))
    assert launch_form.from_params(params, launch_form.first_config("")) == (draft, [])
    from dataclasses import replace

    fork = replace(uploaded, parent="20260101-000000-x-abcd")
    assert launch_form.to_params(launch_form.draft_of(fork), launch_form.link_base(fork, "")) == {}
