"""What a machine has and what a run uses of it: cores, memory, GPUs. Cheap enough to be asked every second."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

MB = 2**20


@dataclass(frozen=True)
class Gpu:
    """A GPU as its driver tells; `index` counts the visible ones, as torch does with PCI order."""

    index: int
    uuid: str
    name: str
    memory_mb: float
    free_mb: float


@contextlib.contextmanager
def _nvml() -> Iterator[Any]:
    """The driver's library, or None: no driver, no package and no GPU all mean the same here."""
    try:
        import pynvml  # pyright: ignore[reportMissingImports]

        pynvml.nvmlInit()
    except Exception:
        yield None
        return
    try:
        yield pynvml
    finally:
        with contextlib.suppress(Exception):
            pynvml.nvmlShutdown()


def gpus() -> list[Gpu]:
    """The GPUs that CUDA_VISIBLE_DEVICES leaves, in its order; empty without a driver."""
    with _nvml() as nvml:
        if nvml is None:
            return []
        found = []
        for position in range(nvml.nvmlDeviceGetCount()):
            try:
                handle = nvml.nvmlDeviceGetHandleByIndex(position)
                memory = nvml.nvmlDeviceGetMemoryInfo(handle)
                uuid, name = (
                    _text(nvml.nvmlDeviceGetUUID(handle)),
                    _text(nvml.nvmlDeviceGetName(handle)),
                )
            except nvml.NVMLError:  # one that fell off the bus must not hide the others
                continue
            found.append(Gpu(position, uuid, name, memory.total / MB, memory.free / MB))
    return _visible(found, os.environ.get("CUDA_VISIBLE_DEVICES"))


def _text(value: str | bytes) -> str:
    return value.decode("utf-8", errors="replace") if isinstance(value, bytes) else value


def _visible(found: list[Gpu], wanted: str | None) -> list[Gpu]:
    """CUDA's rule: indices or (the beginning of) UUIDs, in that order, up to the first that is not there."""
    if wanted is None:
        return found
    chosen: list[Gpu] = []
    for word in (part.strip() for part in wanted.split(",")):
        match = [
            gpu for gpu in found if (word == str(gpu.index) if word.isdigit() else gpu.uuid.startswith(word))
        ]
        if not word or len(match) != 1:
            break
        chosen.append(match[0])
    return [Gpu(place, gpu.uuid, gpu.name, gpu.memory_mb, gpu.free_mb) for place, gpu in enumerate(chosen)]


class Meter:
    """What this process and its children use, since the last look.

    Args:
        slot: `gpu/<uuid>` to measure that GPU too.
    """

    EVERY_S = 2.0

    def __init__(self, slot: str = ""):
        self._uuid = slot.removeprefix("gpu/") if slot.startswith("gpu/") else ""
        self._looked_at = float("-inf")
        self._cpu = 0.0
        self._last: dict[str, float] = {}

    def read(self) -> dict[str, float]:
        """`cpu_share` (0 to 1, of all cores), `ram_mb`, `ram_share` (of the machine's memory, by everybody);
        with a GPU `gpu_share` and `gpu_memory_mb`, `gpu_memory_share`. Empty where nothing can be measured."""
        now = time.monotonic()
        if now - self._looked_at >= self.EVERY_S:
            with contextlib.suppress(Exception):  # numbers for the eye: never a reason to fail
                self._last = {**self._processes(now), **self._gpu()}
            self._looked_at = now
        return self._last

    def _processes(self, now: float) -> dict[str, float]:
        import psutil

        me = psutil.Process()
        cpu = memory = 0.0
        for process in [me, *me.children(recursive=True)]:
            with contextlib.suppress(psutil.Error):
                times = process.cpu_times()
                cpu += times.user + times.system
                memory += process.memory_info().rss
        used = max(0.0, cpu - self._cpu) / max(now - self._looked_at, 1e-9) / (os.cpu_count() or 1)
        first = self._looked_at == float("-inf")
        self._cpu = cpu
        found = {
            "ram_mb": round(memory / MB, 1),
            "ram_share": round(psutil.virtual_memory().percent / 100, 3),
        }
        return found if first else {"cpu_share": round(min(used, 1.0), 3), **found}

    def _gpu(self) -> dict[str, float]:
        if not self._uuid:
            return {}
        with _nvml() as nvml:
            if nvml is None:
                return {}
            handle = nvml.nvmlDeviceGetHandleByUUID(self._uuid)
            memory = nvml.nvmlDeviceGetMemoryInfo(handle)
            return {
                "gpu_share": nvml.nvmlDeviceGetUtilizationRates(handle).gpu / 100,
                "gpu_memory_mb": round(memory.used / MB, 1),
                "gpu_memory_share": round(memory.used / max(memory.total, 1), 3),
            }
