"""The fault suite's ledger: what every trial lost, tore, or called failed without reason (printed by `fault_table.py`)."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

import pytest

from engine.runs import folder as contract
from engine.runs import status as run_status
from engine.runs.folder import RunFolder

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "runs"))  # the pretended workers live there
from machines import machine  # noqa: F401


@dataclass
class Trial:
    """One row of the table."""

    fault: str
    trials: int = 0
    lost: int = 0
    torn: list[str] = field(default_factory=list)
    false_failed: int = 0

    def look(self, runs: Path, ids: list[str], *, may_fail: bool = False) -> None:
        """Count one trial: every run there and readable, no file torn, none called failed that is not."""
        self.trials += 1
        there = {folder.id: folder for folder in contract.run_folders(runs)}
        self.lost += sum(run_id not in there for run_id in ids)
        for folder in there.values():
            self.torn += torn_files(folder)
            try:
                folder.summary()
            except Exception:
                self.lost += 1
            self.false_failed += not may_fail and folder.state() == run_status.FAILED


def torn_files(folder: RunFolder) -> list[str]:
    """Files that are neither whole nor absent. A last line of metrics.jsonl may be torn: it is skipped."""
    torn = []
    for path in folder.path.glob("*.json"):
        try:
            json.loads(path.read_text(encoding="utf-8"))
        except ValueError:
            torn.append(f"{folder.id}/{path.name}")
    source = folder.path / "metrics.jsonl"
    if source.exists():
        lines = source.read_text(encoding="utf-8").split("\n")
        for line in lines[:-1]:
            if line and not _is_json(line):
                torn.append(f"{folder.id}/metrics.jsonl")
    return torn


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


@pytest.fixture
def ledger(request: pytest.FixtureRequest) -> Iterator[Trial]:
    """A row of the table, named by the test; nothing may be lost, torn or falsely called failed."""
    trial = Trial(request.node.name.removeprefix("test_").replace("_", " "))
    yield trial
    request.node.user_properties.append(("fault", asdict(trial)))  # from here it travels with the report
    assert trial.lost == 0
    assert trial.torn == []
    assert trial.false_failed == 0
