"""Exports give the same logits as the run."""

from __future__ import annotations

import importlib.util

import pytest
import tiny_runs

from engine.errors import WeightsError
from engine.training import export


@pytest.fixture(scope="module")
def finished(tiny_data, tmp_path_factory):
    tiny_runs.register()
    folder = tiny_runs.make_run(tmp_path_factory.mktemp("finished"), tiny_data, training__epochs=1)
    tiny_runs.fit(folder)
    return folder


@pytest.mark.parametrize("format", ["safetensors", "torchscript"])
def test_an_export_gives_the_logits_of_the_run(finished, tmp_path, format):
    done = export.export_run(finished, tmp_path, format)
    assert done.path.stat().st_size > 1000
    assert done.difference <= export.TOLERANCE
    card = done.card.read_text()
    assert "benign, malignant" in card
    assert "For research only" in card
    assert finished.id in card


@pytest.mark.slow
def test_onnx_gives_the_logits_of_the_run_or_names_its_packages(finished, tmp_path):
    if all(importlib.util.find_spec(name) for name in ("onnx", "onnxscript", "onnxruntime")):
        assert export.export_run(finished, tmp_path, "onnx").difference <= export.TOLERANCE
    else:
        with pytest.raises(WeightsError, match="pip install"):
            export.export_run(finished, tmp_path, "onnx")


def test_an_export_that_differs_is_refused_and_removed(finished, tmp_path, monkeypatch):
    monkeypatch.setattr(export, "TOLERANCE", -1.0)
    with pytest.raises(WeightsError, match="other logits"):
        export.export_run(finished, tmp_path, "torchscript")
    assert not list(tmp_path.iterdir())


def test_a_name_cannot_write_markup_into_the_card(finished, tmp_path):
    finished.write_label(name="<b>[x](http://y)</b>")
    card = export.export_run(finished, tmp_path).card.read_text()
    assert "<b>" not in card
    assert "](" not in card
