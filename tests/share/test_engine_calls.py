"""A viewer changes nothing, whichever call of the engine they reach; what an editor does is written down."""

from __future__ import annotations

from pathlib import Path

import fabricate
import pytest

from engine.errors import AccessError
from engine.runs import launch, results, trash
from engine.runs.config import RunConfig
from engine.runs.queue import Queue
from engine.share import access


@pytest.fixture
def viewer():
    access.serve(lambda: access.Actor("v@x.org", access.VIEWER, "v@x.org is a viewer here"))
    yield
    access.serve(None)


def snapshot(runs: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(runs)): path.read_bytes() for path in sorted(runs.rglob("*")) if path.is_file()
    }


def test_a_viewer_changes_nothing(tmp_path, request):
    runs = tmp_path / "runs"
    done = fabricate.run(runs, epochs=1)
    queued = fabricate.run(runs, name="waits", state="queued")
    gone = fabricate.run(runs, name="gone", epochs=1)
    trash.delete(gone)
    source = tmp_path / "theirs.csv"
    done.predictions("test").to_csv(source, index=False)
    before = snapshot(runs)
    request.getfixturevalue("viewer")
    calls = {
        "launch": lambda: launch.start(RunConfig().changed(data__root=str(tmp_path)), runs),
        "stop": lambda: launch.stop(queued),
        "kill": lambda: launch.stop(queued, kill=True),
        "resume": lambda: launch.resume(queued),
        "hold": lambda: launch.hold(queued),
        "release": lambda: launch.release(queued),
        "auto_resume": lambda: launch.auto_resume(runs, True),
        "move": lambda: Queue(runs).move(queued.id, 0),
        "prioritize": lambda: Queue(runs).prioritize(queued.id, 1),
        "delete": lambda: trash.delete(done),
        "delete waiting": lambda: launch.delete(queued),
        "restore": lambda: trash.restore(runs, gone.id),
        "empty the trash": lambda: trash.empty_trash(runs),
        "rename": lambda: done.write_label(name="mine"),
        "import": lambda: results.import_predictions([source], "theirs", runs),
        "pool": lambda: results.pool_folds([done], "pooled", runs),
    }
    for name, call in calls.items():
        with pytest.raises(AccessError, match=r"v@x\.org is a viewer here"):
            call()
        after = {path: data for path, data in snapshot(runs).items() if not path.startswith("queue")}
        assert after == {path: data for path, data in before.items() if not path.startswith("queue")}, name


def test_what_an_editor_does_is_written_down(tmp_path):
    runs = tmp_path / "runs"
    run = fabricate.run(runs, epochs=1)
    trash.delete(run)
    trash.restore(runs, run.id)
    trash.delete(run)
    trash.empty_trash(runs)
    rows = access.read_log(runs)
    assert [row["action"] for row in rows] == ["empty trash", "delete", "restore", "delete"]
    assert {row["target"] for row in rows} == {run.id}
    assert {row["role"] for row in rows} == {"editor"}
