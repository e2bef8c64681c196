"""What a worker writes of its progress, and how often."""

from __future__ import annotations

import fabricate
import pytest

from engine.runs.folder import RunFolder
from engine.runs.reporter import Reporter


@pytest.fixture
def written(tmp_path, monkeypatch):
    folder = fabricate.run(tmp_path, state="queued")
    phases: list[str] = []
    real = RunFolder.write_status
    monkeypatch.setattr(
        RunFolder, "write_status", lambda self, status: (phases.append(status.phase), real(self, status))
    )
    return Reporter(folder), phases


def test_a_status_is_written_once_a_second_and_when_something_else_is_done(written):
    """Not at every epoch on cached features, nor at every pass of a prediction, which belongs to no epoch."""
    report, phases = written
    for epoch in range(1, 50):
        report.progress("Training", 0.5, epoch=epoch, step=1, steps=3)
    for step in range(50):
        report.progress("Predicting val", 0.9, step=step, steps=50)
    assert phases == ["Training", "Predicting val"]
    assert report.status.epoch == 1
