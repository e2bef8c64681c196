"""What is drawn, in which order, with which augmentation."""

from __future__ import annotations

import os
import signal
import time
from collections import Counter

import numpy as np
import psutil
import pytest
import tiny_runs
import torch

from engine.data import cache
from engine.data.preprocessing import Preprocessing
from engine.training import loading
from engine.training.device import Device, choose
from engine.training.loading import Loader, TrainingImages, Waiting, batches, order

STRATA = np.array(["benign/40X"] * 5 + ["malignant/40X"] * 60 + ["malignant/400X"] * 35)


def test_a_shuffle_sees_every_image_once_and_epochs_differ():
    first, second = (order(3, epoch, STRATA, "shuffle") for epoch in (1, 2))
    assert sorted(first) == list(range(100))
    assert first.tolist() != second.tolist()
    assert first.tolist() == order(3, 1, STRATA, "shuffle").tolist()


def test_balanced_sampling_draws_every_group_equally_often():
    drawn = Counter(STRATA[row] for epoch in range(60) for row in order(0, epoch, STRATA, "balanced"))
    assert sum(drawn.values()) == 6000
    for count in drawn.values():  # three groups, 2,000 each; 5 standard deviations are 183
        assert abs(count - 2000) < 183


def test_a_last_batch_too_small_for_batchnorm_joins_the_one_before():
    assert [len(batch.rows) for batch in batches(np.arange(9), 1, 4)] == [4, 5]
    assert [len(batch.rows) for batch in batches(np.arange(10), 1, 4)] == [4, 4, 2]
    assert [len(batch.rows) for batch in batches(np.arange(1), 1, 4)] == [1]


@pytest.fixture
def images(tiny_data):
    packed = cache.pack(tiny_data, Preprocessing(32))
    rows = np.flatnonzero((tiny_data.table["split"] == "train").to_numpy())
    return TrainingImages(packed, rows, np.arange(len(rows)) % 2, "study", 32, "square", seed=5)


def served(loader, wanted):
    return [(pixels.clone(), targets.clone()) for pixels, targets in loader.serve(wanted)]


def test_batches_are_uint8_and_carry_the_classes(images):
    (pixels, targets), *_ = served(Loader(images, choose("cpu"), 0), batches(np.arange(4), 1, 4))
    assert (pixels.dtype, tuple(pixels.shape)) == (torch.uint8, (4, 32, 32, 3))
    assert targets.tolist() == [0, 1, 0, 1]


def test_a_gpu_gets_pinned_memory_from_processes_that_live_on(images):
    loader = Loader(images, Device(torch.device("cuda")), 2)._loader
    assert loader is not None
    assert (loader.pin_memory, loader.persistent_workers, loader.num_workers) == (True, True, 2)
    assert Loader(images, choose("cpu")).workers == 0  # the same cores that train


@pytest.mark.slow
def test_loader_processes_change_no_pixel(images):
    wanted = batches(np.arange(20), 1, 4) + batches(np.arange(20), 2, 4)
    alone = served(Loader(images, choose("cpu"), 0), wanted)
    helped = Loader(images, choose("cpu"), 2)
    for half in (wanted[:5], wanted[5:]):  # the processes live on between epochs
        for (ours, _), (theirs, _) in zip(alone[: len(half)], served(helped, half), strict=True):
            assert torch.equal(ours, theirs)
        alone = alone[len(half) :]


@pytest.mark.slow
def test_loader_processes_of_a_server_change_no_pixel_outlive_ctrl_c_and_are_missed(
    images, from_a_server, monkeypatch
):
    """As beside a GPU, where they inherit nothing: what they need travels, the signals of a terminal do not end
    them, and a killed one is noticed although no signal tells of it."""
    monkeypatch.setattr(loading, "LOOK_S", 0.5)
    first, second, third = (batches(np.arange(20), epoch, 4) for epoch in (1, 2, 3))
    alone = served(Loader(images, choose("cpu"), 0), first + second)  # and now the augmenter is built
    assert images._augmenter is not None
    helped = Loader(images, choose("cpu"), 2)
    made = served(helped, first)
    workers = psutil.Process().children(recursive=True)
    loaders = [psutil.Process(worker.pid) for worker in helped._stream._workers]
    assert all(loader in workers and loader.ppid() != os.getpid() for loader in loaders)
    for loader in loaders:
        loader.send_signal(signal.SIGINT)
        loader.send_signal(signal.SIGHUP)
    made += served(helped, second)
    for (ours, theirs), (same, classes) in zip(alone, made, strict=True):
        assert torch.equal(ours, same)
        assert torch.equal(theirs, classes)
    loaders[1].kill()
    began = time.monotonic()
    with pytest.raises(RuntimeError, match=r"DataLoader worker .* exited unexpectedly.*SIGKILL"):
        served(helped, third)
    assert time.monotonic() - began < 10 < loading.LOADER_TIMEOUT_S
    helped.close()


@pytest.mark.slow
def test_loader_processes_that_begin_draw_no_number_of_the_step_at_hand(images):
    wanted = batches(np.arange(4), 1, 4)
    state = torch.get_rng_state()
    helped = Loader(images, choose("cpu"), 1)
    served(helped, wanted)
    helped.close()
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.slow
def test_loader_processes_go_on_with_the_next_epoch_and_survive_another_wish(images):
    """What is made ahead is served when it is asked for, and thrown away when something else is."""
    first, second, other = (batches(np.arange(20), epoch, 4) for epoch in (1, 2, 7))
    alone, helped = Loader(images, choose("cpu"), 0), Loader(images, choose("cpu"), 2)

    def same(wanted, ahead=()):
        made = [(pixels.clone(), targets.clone()) for pixels, targets in helped.serve(wanted, ahead)]
        return all(torch.equal(a, b) for (a, _), (b, _) in zip(made, served(alone, wanted), strict=True))

    assert same(first, ahead=second)
    assert same(second[:3], ahead=second[3:])
    assert same(other)
    source = helped.serve(first)
    next(source)  # left in the middle, as by a stop
    assert same(second)


@pytest.mark.slow
def test_what_is_thrown_away_may_take_longer_than_it_is_looked_whether_processes_live(images, monkeypatch):
    monkeypatch.setattr(loading, "LOOK_S", 0.3)
    real = TrainingImages.__getitem__
    monkeypatch.setattr(
        TrainingImages, "__getitem__", lambda self, batch: (time.sleep(0.2), real(self, batch))[1]
    )
    first, second = (batches(np.arange(20), epoch, 4) for epoch in (1, 2))
    helped = Loader(images, choose("cpu"), 1)
    next(helped.serve(first))  # four more are on their way
    assert len(served(helped, second[:1])) == 1


def test_an_image_is_augmented_alike_in_any_batch_and_anew_every_epoch(images):
    loader = Loader(images, choose("cpu"), 0)
    (one, _), (other, _) = served(loader, batches(np.array([2, 7]), 1, 2) + batches(np.array([7, 3]), 1, 2))
    assert torch.equal(one[1], other[0])
    ((later, _),) = served(loader, batches(np.array([7, 3]), 2, 2))
    assert not torch.equal(later[0], other[0])


def test_evaluation_sees_all_tiles_and_training_one_window(tiny_data):
    image = tiny_data.absolute("val_0.png")
    from engine.data.images import decode

    pixels = decode(image)
    assert Preprocessing(32, "tiles").squares(pixels).shape == (4, 32, 32, 3)
    assert Preprocessing(32).squares(pixels).shape == (1, 32, 32, 3)
    packed = cache.pack(tiny_data, Preprocessing(32, "tiles"))
    part = TrainingImages(packed, np.arange(4), np.zeros(4, dtype=int), "light", 32, "tiles", seed=0)
    ((windows, _),) = served(Loader(part, choose("cpu"), 0), batches(np.arange(4), 1, 4))
    assert tuple(windows.shape) == (4, 32, 32, 3)


def test_waiting_is_counted():
    def slow():
        for number in range(3):
            time.sleep(0.02)
            yield number

    source = Waiting(slow())
    assert list(source) == [0, 1, 2]
    assert source.seconds >= 0.05


def test_the_tiny_network_is_registered():
    from engine.runs import catalog

    assert catalog.find("test_efficientnet") is tiny_runs.TINY
