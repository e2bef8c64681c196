"""Where and in which number format a network runs: chosen by what the device has in hardware.

bf16 on a CPU without it is twelve times slower than fp32, channels_last a third faster: what is right on a
GPU is wrong here, so nothing is assumed.
"""

from __future__ import annotations

import os
import resource
import sys
from dataclasses import dataclass

import torch

from engine.errors import ConfigError


@dataclass(frozen=True)
class Device:
    """A device and how to use it.

    Attributes:
        torch: the torch device.
        autocast: number format of the forward pass; None = float32.
        scaled: gradients need a scaler (fp16).
    """

    torch: torch.device
    autocast: torch.dtype | None = None
    scaled: bool = False

    @property
    def is_cuda(self) -> bool:
        return self.torch.type == "cuda"

    def forward_context(self) -> torch.autocast:
        """The autocast of the forward pass; does nothing where the format is float32."""
        return torch.autocast(
            self.torch.type, dtype=self.autocast or torch.bfloat16, enabled=self.autocast is not None
        )

    def name(self) -> str:
        """What people call it."""
        return torch.cuda.get_device_name(self.torch) if self.is_cuda else "cpu"

    def make_current(self) -> None:
        """What names no device means this one from here on: pinned memory would otherwise open the first GPU, too."""
        if self.is_cuda and self.torch.index is not None:
            torch.cuda.set_device(self.torch)

    def synchronise(self) -> None:
        """Wait until the device has done what it was given."""
        if self.is_cuda:
            torch.cuda.synchronize(self.torch)

    def seed(self, seed: int) -> None:
        """Seed the generators that a step draws from: the processor's and this device's.

        `torch.manual_seed` visits every kind of device that torch knows, and where one has not been used yet it
        keeps a stack trace of the call: 0.8 ms a step, half of a step on cached features.
        """
        torch.default_generator.manual_seed(seed)
        if self.is_cuda:
            with torch.cuda.device(self.torch):  # otherwise it would seed the first GPU, whichever this is
                torch.cuda.manual_seed(seed)

    def memory_mb(self) -> float:
        """Memory in use: the peak on the GPU, or what this process has resident."""
        if self.is_cuda:
            return torch.cuda.max_memory_allocated(self.torch) / 2**20
        import psutil

        return psutil.Process().memory_info().rss / 2**20

    def peak_mb(self) -> float:
        """The most memory that this process has used so far: on the GPU, or resident."""
        if self.is_cuda:
            return torch.cuda.max_memory_allocated(self.torch) / 2**20
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak / (2**20 if sys.platform == "darwin" else 2**10)


class Carrier:
    """Brings batches to a device while it works on the ones before.

    On a GPU the copies have a stream of their own: queued behind a step they would begin when that has ended, and
    the next would wait for them.
    """

    def __init__(self, device: Device):
        self._device = device.torch
        self._stream = torch.cuda.Stream(device.torch) if device.is_cuda else None

    def __call__(self, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """The tensors on the device; what is on a GPU already stays where it is.

        Nothing waits: from pinned memory the copy is only queued, and the device's next kernels are queued behind it.
        """
        if self._stream is None or all(tensor.is_cuda for tensor in tensors):
            return tensors
        with torch.cuda.stream(self._stream):
            moved = tuple(tensor.to(self._device, non_blocking=True) for tensor in tensors)
        user = torch.cuda.current_stream(self._device)
        user.wait_stream(self._stream)
        for tensor in moved:
            tensor.record_stream(user)  # its memory must not be handed out again before the step has used it
        return moved


def choose(name: str = "auto", precision: str = "auto") -> Device:
    """The device of a run.

    Args:
        name: `auto` (a GPU if there is one), `cpu`, `cuda` or `cuda:<index>`.
        precision: `auto` (bf16 in hardware; else fp16 on a GPU; else fp32), `fp32`, `bf16` or `fp16`.

    Raises:
        ConfigError: there is no such device.
    """
    name = ("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(
            "Unknown device", found=name, remedy="Give auto, cpu, cuda or cuda:<index>"
        ) from error
    if device.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if (device.index or 0) >= count:
            raise ConfigError(
                "This GPU is not there",
                found=f"{name}; {count} GPUs are visible",
                remedy="Take --device cpu, or auto",
            )
    elif device.type != "cpu":
        raise ConfigError("Unknown device", found=name, remedy="Give auto, cpu, cuda or cuda:<index>")
    return Device(device, *_format(device, precision))


def _format(device: torch.device, precision: str) -> tuple[torch.dtype | None, bool]:
    if precision == "auto":
        half = "fp16" if device.type == "cuda" else "fp32"
        precision = "bf16" if _has_bf16(device) else half
    if precision == "bf16":
        return torch.bfloat16, False
    if precision == "fp16":
        return torch.float16, device.type == "cuda"
    return None, False


def _has_bf16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.cpu._is_avx512_bf16_supported()  # there is no public name for it in torch 2.14


def make_deterministic(exact: bool) -> None:
    """Exact mode: only algorithms that give the same bits again; fast mode: whatever is fastest."""
    if exact:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(exact, warn_only=True)
    # Filling every new tensor finds reads of what was never written; each fill is one more launch on a GPU.
    torch.utils.deterministic.fill_uninitialized_memory = False  # pyright: ignore[reportAttributeAccessIssue]
    torch.backends.cudnn.deterministic = exact
    torch.backends.cudnn.benchmark = not exact
