"""What a worker tells the folder while it works: progress, metrics, the best epoch so far.

The one writer of `status.json` during a run. Writes are throttled, so that reporting every step costs
nothing; a change of phase or epoch is written at once.
"""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from engine.runs.folder import RUNNING, RunFolder, Status, boot_id

WRITE_EVERY_S = 1.0


class Reporter:
    """Progress of one run. Only rank 0 of a distributed run has one that writes."""

    def __init__(
        self, folder: RunFolder, *, writes: bool = True, listener: Callable[[Status], None] | None = None
    ):
        self.folder = folder
        self.writes = writes
        self.listener = listener
        self.status = folder.status()
        self._written_at = 0.0
        self._began: tuple[float, float] | None = None
        self._stop = False

    def begin(self, epochs: int) -> None:
        """The worker holds the lock and is about to work."""
        self.status = self.status.moved(
            RUNNING,
            started_at=self.status.started_at or time.time(),
            ended_at=None,
            error=None,
            epochs=epochs,
            worker={"pid": os.getpid(), "host": platform.node(), "boot_id": boot_id()},
        )
        self._write()

    def progress(
        self, phase: str, fraction: float, *, epoch: int = 0, step: int = 0, steps: int = 0, **numbers: Any
    ) -> None:
        """Where the run is.

        Args:
            phase: what is being done, as a person reads it (`Packing images`, `Training`, `Evaluating test`).
            fraction: of the whole run, 0 to 1; the ETA follows from how fast it grew since this worker began.
            epoch: 1 for the first; 0 outside of training.
            step, steps: within the phase.
            numbers: what the run page shows beside it (images_per_s, wait_share, memory_mb, lr, loss ...).
        """
        now = time.time()
        if self._began is None:
            self._began = (now, fraction)
        new_phase = phase != self.status.phase or epoch != self.status.epoch
        if not new_phase and now - self._written_at < WRITE_EVERY_S:
            return
        since, start = self._began
        done = fraction - start
        eta = (now - since) / done * (1 - fraction) if done > 0.005 else None
        self.status = replace(
            self.status,
            phase=phase,
            progress=min(max(float(fraction), 0.0), 1.0),
            epoch=epoch or self.status.epoch,
            step=step,
            steps=steps,
            eta_s=eta,
            check_in_at=now,
            numbers={**self.status.numbers, **numbers},
        )
        self._write()

    def metrics(self, row: dict[str, Any]) -> None:
        """One row of `metrics.jsonl`: `epoch`, `split`, then numbers."""
        if self.writes:
            self.folder.append_metrics(row)

    def best(self, metric: str, value: float, epoch: int) -> None:
        """The best epoch so far, by the metric that picks the checkpoint (on validation)."""
        self.status = replace(
            self.status, best={"metric": metric, "value": float(value), "epoch": int(epoch)}
        )
        self._write()

    def stop(self) -> None:
        """What a signal handler calls: sets a flag and nothing else (torchrun delivers signals twice)."""
        self._stop = True

    def stop_requested(self) -> bool:
        """Asked once per step; costs one stat."""
        return self._stop or self.folder.stop_requested()

    def end(self, state: str, error: dict[str, Any] | None = None) -> None:
        """The last word of a worker: completed, stopped or failed."""
        values: dict[str, Any] = {"ended_at": time.time(), "error": error, "eta_s": None}
        if state == "completed":
            values["progress"] = 1.0
            values["phase"] = ""
        self.status = self.status.moved(state, **values)
        self._write()

    def _write(self) -> None:
        self._written_at = time.time()
        if self.writes:
            self.folder.write_status(self.status)
        if self.listener:
            self.listener(self.status)
