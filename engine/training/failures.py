"""What can go wrong while training, said as a person needs it: kind, message, remedy."""

from __future__ import annotations

import errno

import torch

from engine.errors import EngineError, TrainingError
from engine.runs.presets import Recipe

_MEMORY_WORDS = ("out of memory", "can't allocate memory", "not enough memory", "cannot allocate memory")


def translate(error: BaseException, recipe: Recipe | None, where: str) -> EngineError | None:
    """The failure behind an exception; None where it is a fault of the program.

    Args:
        where: what was being done (`epoch 3, step 12`).
    """
    if isinstance(error, EngineError):
        return error
    if _is_out_of_memory(error):
        return out_of_memory(recipe, where, str(error))
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return TrainingError(
            "The disk is full",
            found=f"{error.filename or error.strerror}; {where}",
            remedy="Free some space, then resume the run: it continues from its last checkpoint",
            kind="disk_full",
        )
    if isinstance(error, RuntimeError) and "DataLoader timed out" in str(error):
        return TrainingError(
            "A loader process hangs",
            found=f"{str(error).splitlines()[0]}; {where}",
            remedy="Check the disk that the images and the pixel cache lie on, then resume, or start with --workers 0",
            kind="hung",
        )
    if isinstance(error, RuntimeError) and "DataLoader worker" in str(error):
        words = str(error)
        remedy = "Resume with --workers 0, or with fewer loader processes"
        if "SIGBUS" in words or "Bus error" in words:  # a container has 64 MB of shared memory by default
            remedy = "Give the machine more shared memory (docker: --shm-size=2g), or resume with --workers 0"
        elif "SIGKILL" in words:
            remedy += "; the system ends processes like that when memory runs out"
        return TrainingError(
            "A loader process died",
            found=f"{words.splitlines()[0]}; {where}",
            remedy=remedy,
            kind="loader",
        )
    return None


def _is_out_of_memory(error: BaseException) -> bool:
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    if isinstance(error, OSError) and error.errno == errno.ENOMEM:
        return True
    return isinstance(error, RuntimeError) and any(word in str(error).lower() for word in _MEMORY_WORDS)


def out_of_memory(recipe: Recipe | None, where: str, found: str) -> TrainingError:
    """Memory exhausted; the remedy trains the same with half of it."""
    remedy = "Take a smaller batch or image size"
    if recipe and recipe.batch_size > 1:
        half, twice = max(1, recipe.batch_size // 2), recipe.accumulate * 2
        remedy = (
            f"Start it again with --batch-size {half} --accumulate {twice}: the same training in about half "
            "the memory"
        )
    first_line = found.splitlines()[0][:200] if found else "no more memory"
    return TrainingError(
        "There is not enough memory", found=f"{where}: {first_line}", remedy=remedy, kind="out_of_memory"
    )


def not_a_number(epoch: int, step: int) -> TrainingError:
    """The loss is no number any more; the last checkpoint is from before."""
    return TrainingError(
        "The loss became infinite or not a number",
        found=f"epoch {epoch}, step {step}; the checkpoint from before is kept",
        remedy="Start it again with a lower learning rate (a tenth), or with --precision fp32",
        kind="nan_loss",
    )
