"""The index of runs damaged in every way, while nobody and while everybody uses it: no run lost, no row untrue."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import random
import sys
import time
import types
from dataclasses import replace
from pathlib import Path

import pytest

from engine.bench.runs import make_runs
from engine.runs import database, listing
from engine.runs.folder import RunFolder, run_folders
from engine.runs.index import Index

COUNT = 30


@pytest.fixture
def runs(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("BREAKHIS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(listing, "YOUNG_S", 0.0)
    make_runs(tmp_path / "runs", COUNT, 1)
    time.sleep(0.02)
    return tmp_path / "runs"


def in_a_new_process(runs: Path):
    listing._KNOWN.clear()
    return listing.summaries(runs)


@pytest.mark.slow
def test_an_index_damaged_anywhere_is_made_again_and_nobody_is_lost(runs, ledger):
    before = listing.summaries(runs)
    file = Index().file
    whole = file.read_bytes()
    draw = random.Random(4)
    cases = [whole[:cut] for cut in (0, 1, 50, 100, 1000, len(whole) // 2, len(whole) - 1)]
    for length in (1, 64, 4096):
        for _ in range(8):
            at = draw.randrange(0, len(whole) - length)
            cases.append(whole[:at] + draw.randbytes(length) + whole[at + length :])
    cases += [b"not a database at all", b"\x00" * len(whole), os.urandom(len(whole))]
    for data in cases:
        for part in database.parts(file):
            part.unlink(missing_ok=True)
        file.write_bytes(data)
        assert in_a_new_process(runs) == before
        assert in_a_new_process(runs) == before
        ledger.look(runs, [summary.id for summary in before])
    file.unlink(missing_ok=True)
    in_a_new_process(runs)
    assert len(Index().read(runs)) == COUNT


def _look_often(runs: Path, seconds: float, troubles) -> None:
    """New processes, one after the other: none may show less than what was on disk when it began."""
    listing.YOUNG_S = 0.05
    end = time.monotonic() + seconds
    looks = 0
    while time.monotonic() < end:
        least = {folder.id: folder.status().epoch for folder in run_folders(runs)}
        found = {summary.id: summary.status.epoch for summary in in_a_new_process(runs)}
        stale = [run_id for run_id, epoch in least.items() if found.get(run_id, -1) < epoch]
        if stale:
            troubles.put(f"{len(stale)} rows are stale after {looks} looks: {stale[:3]}")
        looks += 1
    troubles.put(looks)


@pytest.mark.slow
def test_processes_that_look_at_once_while_runs_change_and_the_index_is_damaged(runs, ledger, monkeypatch):
    # What is spawned runs the main module again, and a page test in this process leaves its page there.
    monkeypatch.setitem(sys.modules, "__main__", types.ModuleType("__main__"))
    context = multiprocessing.get_context("spawn")
    troubles = context.Queue()
    people = [context.Process(target=_look_often, args=(runs, 5.0, troubles)) for _ in range(3)]
    for process in people:
        process.start()
    draw, file = random.Random(5), Index().file
    folders = run_folders(runs)
    while any(process.is_alive() for process in people):
        run: RunFolder = draw.choice(folders)
        run.write_status(replace(run.status(), epoch=run.status().epoch + 1))
        if draw.random() < 0.1:
            with contextlib.suppress(OSError), open(file, "rb+") as stream:
                stream.seek(draw.randrange(max(1, os.fstat(stream.fileno()).st_size)))
                stream.write(draw.randbytes(2048))
        if draw.random() < 0.02:
            with contextlib.suppress(OSError):
                file.unlink()
        time.sleep(0.01)
    said = [troubles.get(timeout=60) for _ in people]
    for process in people:
        process.join(20)
    assert all(isinstance(answer, int) and answer > 3 for answer in said), said
    assert {summary.id for summary in in_a_new_process(runs)} == {run.id for run in folders}
    ledger.look(runs, [run.id for run in folders])
