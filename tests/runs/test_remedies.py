"""Failures that other settings cure, and the one act that starts them."""

from __future__ import annotations

import dataclasses

import fabricate
import pytest

from engine.errors import RunError
from engine.runs import catalog, launch, presets
from engine.runs.config import RunConfig
from engine.runs.remedies import remedy
from engine.runs.status import FAILED


def failed(kind: str, **changes):
    return remedy(RunConfig().changed(**changes), {"kind": kind})


def test_memory_exhausted_is_cured_by_half_the_batch_and_twice_the_accumulation():
    found = failed("out_of_memory", training__batch_size=16)
    assert found is not None
    assert (found.config.training.batch_size, found.config.training.accumulate) == (8, 2)
    assert "batch 8, accumulation 2" in found.label
    assert failed("out_of_memory", training__batch_size=1) is None


def test_a_loss_that_is_no_number_is_cured_by_a_tenth_of_the_rate():
    found = failed("nan_loss", training__recipe="modern")
    assert found is not None
    main = presets.PRESETS["modern"].stages[-1]
    assert presets.resolve(found.config).stages[-1].lr == pytest.approx(main.lr / 10)
    assert found.config.training.precision == "fp32"


def test_weights_that_cannot_be_fetched_are_taken_from_a_package_where_there_is_one(monkeypatch):
    monkeypatch.setattr(catalog, "package_installed", lambda record: bool(record.package))
    found = failed("hub", model__name="tf_efficientnet_lite0")
    assert found is not None
    assert found.config.model.pretrained == "offline"
    assert failed("hub", model__name="tf_efficientnet_b0") is None


@pytest.mark.parametrize("kind", ["disk_full", "killed", "internal", "data"])
def test_where_other_settings_are_no_cure_none_are_offered(kind):
    assert failed(kind) is None


@pytest.mark.parametrize("kind", ["loader", "hung"])
def test_a_loader_process_that_died_or_hangs_is_cured_by_none(kind):
    found = failed(kind)
    assert found is not None
    assert found.config.training.workers == 0


@pytest.fixture
def broken(tmp_path):
    root = tmp_path / "data"
    root.mkdir()
    fabricate.write_images(root)
    config = RunConfig(name="too large").changed(data__root=str(root), training__batch_size=4)
    folder = launch.prepare(config, tmp_path / "runs")
    status = folder.status()
    error = {"kind": "out_of_memory", "message": "There is not enough memory.", "remedy": "Less"}
    folder.write_status(dataclasses.replace(status.moved(FAILED), error=error))
    return folder


def test_one_act_starts_the_cured_run_with_the_failed_one_as_its_parent(broken, monkeypatch):
    queued = []
    monkeypatch.setattr(launch, "enqueue", queued.append)
    again = launch.start_remedy(broken)
    assert queued[0].id == again.id
    config = again.config()
    assert (config.parent, config.name) == (broken.id, "too large")
    assert (config.training.batch_size, config.training.accumulate) == (2, 2)
    assert again.record()["split_hash"] == broken.record()["split_hash"]


def test_a_run_without_a_remedy_says_so(broken):
    status = broken.status()
    broken.write_status(dataclasses.replace(status, error={"kind": "disk_full"}))
    with pytest.raises(RunError, match="No other settings"):
        launch.start_remedy(broken)
