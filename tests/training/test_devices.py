"""Device and number format."""

from __future__ import annotations

import contextlib

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


class OnTheWay:
    """A tensor on the processor; what is done with it is written down."""

    is_cuda = False

    def __init__(self, log: list):
        self.log = log

    def to(self, where, non_blocking=False):
        self.log.append(("copied", where, non_blocking))
        return self

    def record_stream(self, stream):
        self.log.append(("kept for", stream))


def test_a_batch_travels_beside_the_step_before_and_the_next_step_waits_for_it(monkeypatch):
    """The order in which a GPU is told: copy on a stream of its own, then let the stream of the steps wait for it."""
    log: list = []

    class Stream:
        def __init__(self, device=None):
            self.name = "side" if device else "steps"

        def __eq__(self, other):
            return self.name == other

        def wait_stream(self, other):
            log.append((self.name, "waits for", other.name))

    @contextlib.contextmanager
    def on(stream):
        log.append(("on", stream.name))
        yield
        log.append(("off", stream.name))

    steps = Stream()
    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "stream", on)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda _: steps)
    gpu = torch.device("cuda:1")
    carry = device.Carrier(device.Device(gpu))
    carry(OnTheWay(log), OnTheWay(log))
    copied, kept = ("copied", gpu, True), ("kept for", "steps")
    side = [("on", "side"), copied, copied, ("off", "side")]
    assert log == [*side, ("steps", "waits for", "side"), kept, kept]


def test_what_is_where_it_is_needed_is_not_carried(monkeypatch):
    pixels = torch.zeros(2)
    assert device.Carrier(device.choose("cpu"))(pixels)[0] is pixels
    monkeypatch.setattr(torch.cuda, "Stream", lambda _: None)
    there = OnTheWay([])
    there.is_cuda = True
    assert device.Carrier(device.Device(torch.device("cuda")))(there) == (there,)
    assert there.log == []


@pytest.mark.parametrize(("name", "made"), [("cuda:1", ["cuda:1"]), ("cuda", []), ("cpu", [])])
def test_a_run_on_the_second_gpu_opens_only_that(monkeypatch, name, made):
    opened = []
    monkeypatch.setattr(torch.cuda, "set_device", lambda chosen: opened.append(str(chosen)))
    device.Device(torch.device(name)).make_current()
    assert opened == made
