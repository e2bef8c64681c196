"""The list of faults (`fault_table.py`): every one has its test, and its sentence is said by the product."""

from __future__ import annotations

import ast
import re
import time
from pathlib import Path

import pytest
from fault_table import FAULTS

from engine.runs import launch, listing
from engine.runs import status as run_status

TESTS = Path(__file__).resolve().parents[1]


def test_every_fault_of_the_list_has_its_test():
    for fault, (file, name, _) in FAULTS.items():
        tree = ast.parse((TESTS / file).read_text(encoding="utf-8"))
        names = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
        assert name in names, f"{fault}: {file} has no {name}"


def test_every_sentence_of_the_list_is_one_that_the_product_says():
    """Each part of a sentence, between the dots where names and numbers go, is a text of the source."""
    said = [
        node.value
        for folder in ("engine", "dashboard", "pages")
        for path in (TESTS.parent / folder).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    ]
    for fault, (_, _, sentence) in FAULTS.items():
        if sentence.startswith("Nothing to say"):
            continue
        for part in re.split(r"\.\.\.|\. ", sentence):
            words = part.strip(" .:")
            assert any(words in text for text in said), f"{fault}: nothing says {words!r}"


@pytest.mark.slow
def test_a_worker_that_hangs_is_said_to_stall_and_can_be_killed(machine, monkeypatch, ledger):
    """As with a loader process that never answers: alive, silent, deaf."""
    run = machine.run(steps=3, step_s=0.01, hang=2)
    launch.enqueue(run)
    machine.until(lambda: len(machine.steps(run)) == 2)
    monkeypatch.setattr(run_status, "STALL_S", 0.5)
    time.sleep(0.8)
    (summary,) = listing.summaries(machine.runs)
    assert (summary.state, summary.stalled) == ("running", True)
    ledger.look(machine.runs, [run.id])
    launch.stop(run)
    time.sleep(0.3)
    assert run.state() == "stopping"  # it does not listen
    assert "was killed" in launch.stop(run, kill=True)
    assert run.state() == "stopped"
    ledger.look(machine.runs, [run.id])
    (run.path / "config.json").write_text((run.path / "config.json").read_text().replace('"hang"', '"hung"'))
    launch.resume(run)
    machine.until_state(run, "completed")
    assert machine.steps(run) in ([1, 2, 3], [1, 2, 2, 3])
