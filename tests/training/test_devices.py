"""Device and number format."""

from __future__ import annotations

import pytest
import torch

from engine.errors import ConfigError
from engine.training import device


@pytest.mark.parametrize(
    ("native", "precision", "wanted"),
    [
        (False, "auto", None),
        (True, "auto", torch.bfloat16),
        (False, "bf16", torch.bfloat16),
        (True, "fp32", None),
    ],
)
def test_bf16_is_chosen_only_where_the_cpu_has_it(monkeypatch, native, precision, wanted):
    monkeypatch.setattr(device, "_has_bf16", lambda _: native)
    chosen = device.choose("cpu", precision)
    assert chosen.autocast == wanted
    assert not chosen.scaled


def test_a_gpu_without_bf16_takes_fp16_with_a_scaler(monkeypatch):
    monkeypatch.setattr(device, "_has_bf16", lambda _: False)
    assert device._format(torch.device("cuda"), "auto") == (torch.float16, True)


@pytest.mark.parametrize("name", ["cuda:99", "mps", "tpu", "nonsense"])
def test_a_device_that_is_not_there_is_named(name):
    with pytest.raises(ConfigError):
        device.choose(name)


def test_idle_threads_sleep():
    import os

    assert os.environ["OMP_WAIT_POLICY"]
