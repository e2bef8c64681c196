"""What a worker tells the folder while it works: progress, metrics, the best epoch so far.

The one writer of `status.json` during a run. Writes are throttled, so that reporting every step costs
nothing; a change of phase or epoch is written at once. Progress that cannot be written does not end a
run: results that cannot be written do.
"""

from __future__ import annotations

import errno
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from engine.errors import RunError
from engine.runs import boot
from engine.runs.folder import RunFolder
from engine.runs.resources import Meter
from engine.runs.status import RUNNING, Status

WRITE_EVERY_S = 1.0
# The last word of a run is worth waiting for: somebody may be freeing the disk.
LAST_WORD_TRIES = 6
LAST_WORD_WAIT_S = 0.5


class Reporter:
    """Progress of one run. Only rank 0 of a distributed run has one that writes."""

    def __init__(
        self, folder: RunFolder, *, writes: bool = True, listener: Callable[[Status], None] | None = None
    ):
        self.folder = folder
        self.writes = writes
        self.listener = listener
        self.status = folder.status()
        self.meter = Meter(self.status.slot)
        self._written_at = float("-inf")
        self._began: tuple[float, float] | None = None
        self._first_epoch = self.status.epoch
        self._stop = False
        self._complained = False

    def begin(self, epochs: int) -> None:
        """The worker holds the lock and is about to work."""
        self.status = self.status.moved(
            RUNNING,
            started_at=self.status.started_at or time.time(),
            ended_at=None,
            error=None,
            epochs=epochs,
            worker=boot.identity(),
        )
        self._write(must=True)

    def progress(
        self, phase: str, fraction: float, *, epoch: int = 0, step: int = 0, steps: int = 0, **numbers: Any
    ) -> None:
        """Where the run is.

        Args:
            phase: what is being done, as a person reads it (`Packing images`, `Training`, `Evaluating test`).
            fraction: of the whole run, 0 to 1; the ETA follows from how fast it grew since this worker began.
            epoch: 1 for the first; 0 outside of training.
            step, steps: within the phase.
            numbers: what the run page shows beside it (images_per_s, wait_share, memory_mb, lr, loss ...);
                what the process uses of the machine is added (see `engine.runs.resources.Meter`).
        """
        now = time.monotonic()  # a clock that somebody sets back must not stop the writing for an hour
        if self._began is None:
            self._began = (now, fraction)
        # Not at every new epoch: on cached features they last milliseconds, writing one status as long.
        if phase == self.status.phase and now - self._written_at < WRITE_EVERY_S:
            return
        since, start = self._began
        done = fraction - start
        eta = (now - since) / done * (1 - fraction) if done > 0.005 else None
        self.status = replace(
            self.status.checked_in(),
            phase=phase,
            progress=min(max(float(fraction), 0.0), 1.0),
            epoch=epoch or self.status.epoch,
            step=step,
            steps=steps,
            eta_s=eta,
            numbers={**self.status.numbers, **self.meter.read(), **numbers},
            restarts=0 if epoch > self._first_epoch + 1 else self.status.restarts,
        )
        self._write()

    def metrics(self, row: dict[str, Any]) -> None:
        """One row of `metrics.jsonl`: `epoch`, `split`, then numbers."""
        if self.writes:
            self.folder.append_metrics(row)

    def best(self, metric: str, value: float, epoch: int) -> None:
        """The best epoch so far, by the metric that picks the checkpoint (on validation)."""
        self.status = replace(
            self.status.checked_in(), best={"metric": metric, "value": float(value), "epoch": int(epoch)}
        )
        self._write()

    def stop(self) -> None:
        """What a signal handler calls: sets a flag and nothing else (torchrun delivers signals twice)."""
        self._stop = True

    def stop_requested(self) -> bool:
        """Asked once per step; costs one stat."""
        return self._stop or self.folder.stop_requested()

    def end(self, state: str, error: dict[str, Any] | None = None) -> bool:
        """The last word of a worker: completed, stopped or failed.

        Returns:
            False when it could not be written; the supervisor says it later, from the exit code.
        """
        values: dict[str, Any] = {"ended_at": time.time(), "error": error, "eta_s": None}
        if state == "completed":
            values["progress"] = 1.0
            values["phase"] = ""
        self.status = self.status.moved(state, **values)
        for _ in range(LAST_WORD_TRIES):
            try:
                self._write(must=True)
                return True
            except OSError as trouble:
                if not self.folder.path.is_dir():
                    break
                self._complain(trouble)
                time.sleep(LAST_WORD_WAIT_S)
        return False

    def _write(self, *, must: bool = False) -> None:
        self._written_at = time.monotonic()
        if self.writes:
            try:
                self.folder.write_status(self.status)
                self._complained = False
            except OSError as trouble:
                if must:
                    raise
                self._put_up_with(trouble)
        if self.listener:
            self.listener(self.status)

    def _put_up_with(self, trouble: OSError) -> None:
        """Progress could not be written: training goes on, and the next write tries again."""
        if trouble.errno == errno.ENOENT and not self.folder.path.is_dir():
            raise RunError(
                f"The folder of {self.folder.id} was removed while it was worked on",
                remedy="Start the run anew",
                kind="gone",
            ) from trouble
        self._complain(trouble)

    def _complain(self, trouble: OSError) -> None:
        if not self._complained:
            print(f"The status cannot be written ({trouble.strerror or trouble}); going on.", flush=True)
        self._complained = True
