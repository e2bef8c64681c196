"""Batches of pixels: what is drawn, in which order, augmented with which seed.

Order and augmentation are functions of (seed, epoch, image), never of a generator's history: the same with
any number of loader processes, and after any resume. Pixels stay uint8 until they are on the device.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from engine.data import augment
from engine.data.cache import PackedImages
from engine.machine import cores
from engine.training.device import Device

SWITCH_S = 5e-4
"""The thread that pins batches shares the interpreter with the one that launches kernels, and a step on a GPU is
little but launches: by default either may keep the other waiting for 5 ms, a fifth of a step."""


LOADER_TIMEOUT_S = 600.0
"""A loader process that makes no batch for so long hangs (a dead network drive, say): the run fails with that word."""
LOOK_S = 5.0
"""While a batch is awaited it is looked this often whether the loader processes live: where a server has started
them (see `start_method`), no signal tells this process that one was killed."""


@dataclass(frozen=True)
class Batch:
    """One step's images: rows of the training part, and the epoch that seeds their augmentation."""

    epoch: int
    rows: tuple[int, ...]


class TrainingImages(Dataset):
    """Augmented training images by batch.

    Args:
        packed: pixels of the whole manifest.
        rows: which of them are trained on.
        targets: class index of each of `rows`.
    """

    def __init__(
        self,
        packed: PackedImages,
        rows: np.ndarray,
        targets: np.ndarray,
        augmentation: str,
        size: int,
        geometry: str,
        seed: int,
    ):
        self.packed, self.rows, self.targets, self.seed = packed, rows, targets, seed
        self.options = (augmentation, size, geometry)
        self._augmenter: augment.Augmenter | None = None

    def __getstate__(self) -> dict:
        """A loader process builds its own augmenter: the pipeline holds functions that do not travel."""
        return {**self.__dict__, "_augmenter": None}

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """uint8 (n, size, size, 3) and class indices (n,)."""
        if self._augmenter is None:  # built where it is used: a worker process has its own
            self._augmenter = augment.recipe(*self.options)
        images = [
            self._augmenter(
                self.packed[int(self.rows[row])], augment.sample_seed(self.seed, batch.epoch, row)
            )
            for row in batch.rows
        ]
        targets = self.targets[list(batch.rows)]
        return torch.from_numpy(np.stack(images)), torch.from_numpy(targets)


def order(seed: int, epoch: int, strata: np.ndarray, sampling: str) -> np.ndarray:
    """Rows in the order of an epoch.

    Args:
        strata: group (class x magnification) of each row.
        sampling: `shuffle`, every row once; `balanced`, as many draws with every group equally likely.
    """
    generator = np.random.default_rng([seed, epoch])
    if sampling == "shuffle":
        return generator.permutation(len(strata))
    _, inverse, counts = np.unique(strata, return_inverse=True, return_counts=True)
    weights = 1.0 / counts[inverse]
    return generator.choice(len(strata), size=len(strata), replace=True, p=weights / weights.sum())


def batches(rows: np.ndarray, epoch: int, size: int, least: int = 2) -> list[Batch]:
    """An epoch cut into batches; a last batch of fewer than `least` images joins the one before.

    BatchNorm needs two images, and every process of a distributed run at least one.
    """
    cut = [tuple(map(int, rows[start : start + size])) for start in range(0, len(rows), size)]
    if len(cut) > 1 and len(cut[-1]) < least:
        last = cut.pop()
        cut[-1] = (*cut[-1], *last)
    return [Batch(epoch, part) for part in cut]


class Waiting:
    """Iterates over something and counts the seconds spent waiting for it."""

    def __init__(self, source):
        self.source = iter(source)
        self.seconds = 0.0

    def __iter__(self):
        return self

    def __next__(self):
        began = time.perf_counter()
        try:
            return next(self.source)
        finally:
            self.seconds += time.perf_counter() - began


class _Feed:
    """A sampler that can be added to while it is read: what loader processes are to make next.

    `coming` are the batches handed in and not served yet, whether made already or not.
    """

    def __init__(self) -> None:
        self.coming: deque[Batch] = deque()
        self._unread: deque[Batch] = deque()

    def add(self, batches: Iterable[Batch]) -> None:
        for batch in batches:
            self.coming.append(batch)
            self._unread.append(batch)

    def clear(self) -> None:
        self.coming.clear()
        self._unread.clear()

    def __iter__(self) -> _Feed:
        return self

    def __next__(self) -> Batch:
        if not self._unread:
            raise StopIteration
        return self._unread.popleft()


def start_method(device: Device) -> str | None:
    """How loader processes begin; None = as Python does by default.

    A process forked from one that holds a GPU inherits tensors that it must not touch: when Python collects them
    there, CUDA aborts ("initialization error") or hangs. So beside a GPU they come from a clean server process,
    which has imported what they need once.
    """
    if not device.is_cuda:
        return None
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return "spawn"
    # In this order: this module keeps albumentations from calling home, and what the server has imported once costs
    # a loader process neither seconds nor memory of its own.
    multiprocessing.get_context("forkserver").set_forkserver_preload([__name__, "albumentations"])
    return "forkserver"


def _begin(_: int) -> None:
    """A loader process is one of many: OpenCV's own threads would only get in the others' way. And Ctrl-C or a closed
    terminal reaches it too, but ends only the run, which still needs batches for its last step."""
    import cv2

    cv2.setNumThreads(0)
    for name in ("SIGINT", "SIGHUP"):
        if number := getattr(signal, name, None):
            signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_end_with_the_run, daemon=True).start()


def _end_with_the_run() -> None:
    """End this loader process when the run's process is gone, however it went.

    torch looks whether the process that started it lives, and beside a GPU that is the server, which in turn lives
    as long as its loaders: after a `kill -9` of the run all of them would stay for ever, with the pixels in memory
    and the cache locked.
    """
    run = multiprocessing.parent_process()
    if run is not None:
        run.join()
        os._exit(1)


class Loader:
    """Serves batches in order, in this process or from loader processes that live as long as the run.

    Args:
        images: the training part.
        device: GPUs get pinned memory.
        workers: loader processes; -1 = none on a CPU (it is the same cores that train), up to 12 for a GPU.
    """

    def __init__(self, images: TrainingImages, device: Device, workers: int = -1):
        self.images = images
        if workers < 0:
            workers = min(12, max(1, cores() - 1)) if device.is_cuda else 0
        self.workers = workers
        if workers and device.is_cuda:
            sys.setswitchinterval(SWITCH_S)
        self._feed = _Feed()
        self._stream: Iterator | None = None
        self._loader: DataLoader | None = None
        if workers:
            self._loader = DataLoader(
                images,
                batch_size=None,
                sampler=self._feed,
                num_workers=workers,
                persistent_workers=True,
                pin_memory=device.is_cuda,
                prefetch_factor=4,
                timeout=min(LOOK_S, LOADER_TIMEOUT_S),
                worker_init_fn=_begin,
                multiprocessing_context=start_method(device),
                # torch seeds the processes by a number that it would otherwise draw from the generator of the step at
                # hand: after a resume another step has other dropout.
                generator=torch.Generator(),
            )

    def close(self) -> None:
        """End the loader processes now, not when Python gets to it."""
        self._stream = self._loader = None

    def serve(
        self, wanted: Sequence[Batch], ahead: Sequence[Batch] = ()
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """The batches, in this order.

        Args:
            ahead: what will be asked for next (the next epoch): loader processes go on with it while the caller
                validates, so that no epoch begins with a wait.
        """
        if self._loader is None:
            for batch in wanted:
                yield self.images[batch]
            return
        feed = self._feed
        known = list(feed.coming)
        if self._stream is None or not known or known[: len(wanted)] != list(wanted):
            self._drain()
            feed.add(wanted)
            feed.add(ahead)
            with _naming_how_they_ended(self._stream):
                self._stream = iter(self._loader)
        else:
            feed.add(ahead[len(known) - len(wanted) :])
        for _ in wanted:
            feed.coming.popleft()
            yield self._next(self._stream)

    def _drain(self) -> None:
        """Throw away what is being made and is not wanted any more.

        torch does so itself when its loader begins anew, but there its timeout counts, which is short (`LOOK_S`).
        """
        self._feed.clear()
        if self._stream is not None:
            with contextlib.suppress(StopIteration):
                while True:
                    self._next(self._stream)

    def _next(self, stream: Iterator) -> tuple[torch.Tensor, torch.Tensor]:
        """The batch that comes next.

        Raises:
            RuntimeError: a loader process died, or none came for `LOADER_TIMEOUT_S`.
        """
        end = time.monotonic() + LOADER_TIMEOUT_S
        while True:
            try:
                with _naming_how_they_ended(stream):
                    return next(stream)
            except RuntimeError as error:
                if not str(error).startswith("DataLoader timed out"):
                    raise
                if time.monotonic() >= end:
                    raise RuntimeError(f"DataLoader timed out after {LOADER_TIMEOUT_S:g} seconds") from error


@contextlib.contextmanager
def _naming_how_they_ended(stream: Iterator | None) -> Iterator[None]:
    """Where loader processes are gone, torch names them but not the signal."""
    try:
        yield
    except RuntimeError as error:
        if not str(error).startswith("DataLoader worker"):
            raise
        codes = {getattr(worker, "exitcode", None) for worker in getattr(stream, "_workers", ())}
        names = {-number.value: number.name for number in signal.Signals}
        words = [names.get(code, f"exit code {code}") for code in sorted(code for code in codes if code)]
        raise RuntimeError(f"{error} ({', '.join(words)})" if words else str(error)) from error
