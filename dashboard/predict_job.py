"""A prediction at work beside the page: a thread that reports, can be cancelled, and outlives a click elsewhere.

It belongs to the session that began it, like the files that were dropped for it. One prediction works at a
time on a server; the next waits and says so.
"""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import streamlit as st

from dashboard import widgets
from engine.errors import EngineError, TrainingError
from engine.predict import summary
from engine.predict.judge import Judged, Refused, judge
from engine.predict.told import Told
from engine.runs.folder import RunFolder

KEY = "_predict_job"
_ONE = threading.Lock()


@dataclass
class Job:
    """What is being judged. `scratch` holds dropped files and goes with the session."""

    folder: RunFolder
    paths: Sequence[Path]
    told: Told | None = None
    refused: tuple[Refused, ...] = ()
    scratch: tempfile.TemporaryDirectory | None = None
    phase: str = "Waiting for another prediction"
    done: int = 0
    total: int = 0
    began: float = field(default_factory=time.monotonic)
    cancel: threading.Event = field(default_factory=threading.Event)
    judged: Judged | None = None
    scores: Sequence[tuple[str, str]] = ()
    error: EngineError | None = None
    finished: bool = False

    def start(self) -> Job:
        threading.Thread(target=self._work, name="predict", daemon=True).start()
        return self

    def _work(self) -> None:
        try:
            with _ONE:
                self.judged = judge(
                    self.folder,
                    self.paths,
                    told=self.told,
                    progress=self._progress,
                    phase=self._phase,
                    stop=self.cancel.is_set,
                )
            self._phase("Scoring")
            met = summary.met_before(self.folder, self.judged.table)
            self.scores = summary.score_lines(self.judged, met)
        except EngineError as error:
            self.error = error
        except Exception as error:  # the page waits for this thread: it must hear of everything
            self.error = TrainingError(
                "The prediction failed", found=f"{type(error).__name__}: {error}"[:300], remedy="Try again"
            )
        finally:
            self.finished = True

    def _progress(self, done: int, total: int) -> None:
        self.done, self.total = done, total

    def _phase(self, words: str) -> None:
        self.phase, self.done, self.total = words, 0, 0
        self.began = time.monotonic()

    def words(self) -> str:
        """`Judging: 320 of 5,000 images, 31 per second, 2 min 30 s left`."""
        if not self.total:
            return f"{self.phase} ..."
        rate = self.done / max(time.monotonic() - self.began, 1e-3)
        left = widgets.duration((self.total - self.done) / max(rate, 1e-3))
        return f"{self.phase}: {self.done:,} of {self.total:,} images, {rate:.0f} per second, {left} left"


def current() -> Job | None:
    """This session's prediction, at work or done."""
    return st.session_state.get(KEY)


def begin(job: Job) -> None:
    """Start a prediction; one that is still at work is cancelled, what was dropped before is deleted."""
    clear()
    st.session_state[KEY] = job.start()


def clear() -> None:
    before = st.session_state.pop(KEY, None)
    if before is not None:
        before.cancel.set()


@st.fragment(run_every=0.5)
def watch() -> None:
    """Progress and the cancel button; the page is drawn anew when it is done."""
    job = current()
    if job is None or job.finished:
        st.rerun()
    st.progress(min(1.0, job.done / job.total) if job.total else 0.0, job.words())
    if job.cancel.is_set():
        st.caption("Stopping after this batch; what is judged is kept.")
    elif st.button("Cancel", key="predict_cancel", icon=":material/stop_circle:"):
        job.cancel.set()
        st.rerun(scope="fragment")
