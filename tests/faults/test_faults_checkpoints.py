"""Checkpoints: killed, cut and flipped anywhere, and those of earlier versions."""

from __future__ import annotations

import json
import os
import random
import shutil
from pathlib import Path

import pytest
from test_faults_files import POSIX, Shim, full, kill

from engine.errors import ConfigError, WeightsError
from engine.runs import listing
from engine.runs.folder import RunFolder
from engine.runs.queue import FILE, Queue

GOLDEN = Path(__file__).parent / "golden"


@pytest.fixture(scope="module")
def checkpoint():
    return pytest.importorskip("engine.training.checkpoint")


def state(epoch: int) -> dict:
    import torch

    return {"epoch": epoch, "model": {"w": torch.full((64,), float(epoch))}}


def whole(found: dict) -> bool:
    return bool((found["model"]["w"] == float(found["epoch"])).all())


@POSIX
@pytest.mark.slow
@pytest.mark.parametrize("how", ["full", "kill"])
def test_a_checkpoint_broken_at_any_write_leaves_the_old_or_the_new(tmp_path, checkpoint, how, ledger):
    for nth in range(1, 100):
        place = tmp_path / f"{nth}"
        place.mkdir()
        path = place / "last.ckpt"
        checkpoint.save_state(path, state(1))
        checkpoint.save_state(path, state(2))

        def child(nth=nth, path=path):
            shim = Shim(pytest.MonkeyPatch(), nth, kill if how == "kill" else full)
            checkpoint.save_state(path, state(3))
            if shim.count < nth:
                os._exit(7)

        child_pid = os.fork()
        if child_pid == 0:
            try:
                child()
            except BaseException:
                os._exit(1)
            os._exit(0)
        _, status = os.waitpid(child_pid, 0)
        found = checkpoint.load_state(path)
        assert found is not None
        assert found["epoch"] in (2, 3)
        assert whole(found)
        ledger.trials += 1
        checkpoint.save_state(path, state(4))  # what was left behind is in nobody's way
        assert checkpoint.load_state(path)["epoch"] == 4
        if os.WIFEXITED(status) and os.WEXITSTATUS(status) == 7:
            return
    raise AssertionError("a checkpoint of 100 writes?")


def test_a_byte_flipped_anywhere_in_a_checkpoint_is_noticed(tmp_path, checkpoint, ledger):
    """The one before is taken; never the damaged one, never silently a wrong number."""
    path = tmp_path / "last.ckpt"
    checkpoint.save_state(path, state(1))
    checkpoint.save_state(path, state(2))
    good = path.read_bytes()
    draw = random.Random(3)
    for _ in range(80):
        at = draw.randrange(len(good))
        path.write_bytes(good[:at] + bytes([good[at] ^ (1 << draw.randrange(8))]) + good[at + 1 :])
        found = checkpoint.load_state(path)
        assert found["epoch"] == 1
        assert whole(found)
        ledger.trials += 1
    for cut in (0, 1, len(good) // 2, len(good) - 1):
        path.write_bytes(good[:cut])
        assert checkpoint.load_state(path)["epoch"] == 1
        ledger.trials += 1


def test_a_byte_flipped_in_the_best_weights_is_said(tmp_path, checkpoint, ledger):
    import torch

    path = tmp_path / "best.safetensors"
    checkpoint.save_weights(path, {"w": torch.arange(256.0)}, {"epoch": 1})
    good = path.read_bytes()
    draw = random.Random(4)
    for _ in range(80):
        at = draw.randrange(len(good))
        path.write_bytes(good[:at] + bytes([good[at] ^ (1 << draw.randrange(8))]) + good[at + 1 :])
        with pytest.raises(WeightsError, match="damaged") as caught:
            checkpoint.load_weights(path)
        assert "Resume" in caught.value.remedy
        ledger.trials += 1


@pytest.fixture
def old(tmp_path) -> Path:
    """The golden runs folder, as versions before this one have left it."""
    shutil.copytree(GOLDEN / "runs", tmp_path / "runs")
    return tmp_path / "runs"


def test_runs_of_the_first_schema_are_read_whole(old, ledger):
    found = {summary.id: summary for summary in listing.summaries(old)}
    assert {run_id: summary.state for run_id, summary in found.items()} == {
        "20261122-220000-golden_done-0001": "completed",
        "20261122-220100-golden_cut-0002": "interrupted",
        "20261122-220200-golden_wait-0003": "queued",
    }
    done = RunFolder(old / "20261122-220000-golden_done-0001")
    assert done.name == "renamed since"
    assert done.status().executor == "local"
    assert done.metrics()["epoch"].tolist() == [1, 2, 1, 2]
    table = done.predictions("test")
    assert list(table["image_id"]) == ["a.png", "b.png"]
    assert table["prob_malignant"].tolist() == [0.25, 0.75]
    assert done.manifest().table["split"].tolist() == ["train", "val", "test"]
    assert done.audit()["level"] == "clean"
    ledger.look(old, list(found))


def test_a_queue_of_the_first_schema_goes_on(old, ledger):
    with (GOLDEN / "queue.sql").open(encoding="utf-8") as script:
        import sqlite3

        connection = sqlite3.connect(old / FILE)
        connection.executescript(script.read())
        connection.close()
    queue = Queue(old)
    assert [(entry.run_id, entry.held, entry.wants) for entry in queue.entries()] == [
        ("20261122-220200-golden_wait-0003", True, "auto")
    ]
    queue.hold("20261122-220200-golden_wait-0003", False)
    assert queue.claim("cpu/0", ("auto",)) == "20261122-220200-golden_wait-0003"
    assert not (old / f"{FILE}.damaged").exists()
    ledger.look(old, ["20261122-220200-golden_wait-0003"])


def test_a_checkpoint_of_the_first_schema_is_read(old, checkpoint, ledger):
    path = old / "20261122-220100-golden_cut-0002" / "last.ckpt"
    found = checkpoint.load_state(path)
    assert found is not None
    assert found["epoch"] == 2
    assert whole(found)
    weights, facts = checkpoint.load_weights(path.with_name("best.safetensors"))
    assert float(weights["w"].sum()) == 28.0
    assert facts["epoch"] == 2
    ledger.trials += 1


def test_a_run_of_a_newer_schema_is_refused_with_a_sentence_and_hides_no_other(old, ledger):
    source = old / "20261122-220000-golden_done-0001" / "config.json"
    record = json.loads(source.read_text())
    source.write_text(json.dumps({**record, "schema": 99}))
    states = {summary.id: summary.state for summary in listing.summaries(old)}
    assert states["20261122-220000-golden_done-0001"] == "unknown"
    assert len(states) == 3
    ledger.look(old, [])
    ledger.lost = 0  # it is there, and says that it wants a newer version
    with pytest.raises(ConfigError, match="newer version"):
        RunFolder(source.parent).config()
