"""Several processes, one run: started by `python -m torch.distributed.run`, one process per GPU.

Rank 0 writes; every decision that ends or changes the run (stop, save, a loss that is no number) is taken
together, so that no rank waits for another that has left. With one process everything here does nothing.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

from engine.errors import ConfigError
from engine.training.device import Device


@dataclass(frozen=True)
class Group:
    """The processes of a run: this one's rank, and how many there are."""

    rank: int = 0
    world: int = 1

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def share(self, rows: Sequence[int]) -> list[int]:
        """This process' part of rows that all processes know."""
        return list(rows[self.rank :: self.world])

    def any(self, *flags: bool) -> tuple[bool, ...]:
        """Each flag, true if it is true in any process."""
        if self.world == 1:
            return flags
        tensor = torch.tensor([int(flag) for flag in flags])
        distributed.all_reduce(tensor, op=distributed.ReduceOp.MAX)
        return tuple(bool(value) for value in tensor.tolist())

    def wait(self) -> None:
        """Until every process is here: what the first has written before is there for all."""
        self.any(False)

    def sum(self, values: np.ndarray) -> np.ndarray:
        """The sum over the processes."""
        if self.world == 1:
            return values
        tensor = torch.tensor(values, dtype=torch.float64)
        distributed.all_reduce(tensor)
        return tensor.numpy()

    def collect(self, values: np.ndarray, total: int) -> np.ndarray:
        """Rows computed by `share` put back in order: (total, ...), each row exactly once, in every process."""
        if self.world == 1:
            return values
        parts: list = [None] * self.world
        distributed.all_gather_object(parts, values)
        whole = np.zeros((total, *values.shape[1:]), dtype=values.dtype)
        for rank, part in enumerate(parts):
            whole[rank :: self.world] = part
        return whole

    def wrap(self, model: nn.Module, device: Device) -> nn.Module:
        """The network for training: gradients averaged over the processes."""
        if self.world == 1:
            return model
        return DistributedDataParallel(
            model,
            device_ids=[device.torch.index] if device.is_cuda else None,
            broadcast_buffers=False,  # BatchNorm is frozen or synchronised
        )

    def synchronise_batchnorm(self, model: nn.Module, device: Device) -> nn.Module:
        """BatchNorm over all processes; needs GPUs (on CPUs each process has its own statistics)."""
        if self.world == 1 or not device.is_cuda:
            return model
        return nn.SyncBatchNorm.convert_sync_batchnorm(model)

    def leave(self) -> None:
        """End of the run."""
        if self.world > 1 and distributed.is_initialized():
            distributed.destroy_process_group()


def join(device: str = "auto") -> Group:
    """The group this process was started in, as torch.distributed.run tells by the environment.

    Args:
        device: the run's, by name.

    Raises:
        ConfigError: more processes on this machine than GPUs.
    """
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1:
        return Group()
    on_gpu = device != "cpu" and torch.cuda.is_available()
    if on_gpu:
        beside, count = int(os.environ.get("LOCAL_WORLD_SIZE", "1")), torch.cuda.device_count()
        if beside > count:
            raise ConfigError(
                "There are fewer GPUs than processes",
                found=f"{beside} processes on this machine; {count} GPUs are visible",
                remedy=f"Start at most {count} process{'' if count == 1 else 'es'}, or take --device cpu",
            )
        # NCCL talks through the current device, which is the first one in every process unless it is told.
        torch.cuda.set_device(local_device(device))
    if not distributed.is_initialized():
        # Gradients travel between the GPUs; what the programs tell each other (stop, save) stays out of them, since
        # asking a GPU for a number makes the program wait for all that it has been given.
        distributed.init_process_group("cpu:gloo,cuda:nccl" if on_gpu else "gloo")
    return Group(distributed.get_rank(), world)


def local_device(name: str) -> str:
    """`cuda:<local rank>` for `auto` or `cuda` in a group of several; otherwise the name as it is."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and name in ("auto", "cuda") and torch.cuda.is_available():
        return f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
    return name
