"""The queue on the runs page: reordered, held, prioritised, cancelled, and looked after."""

import pytest

from engine.runs import launch, supervisor
from engine.runs.queue import Queue


@pytest.fixture
def ensured(monkeypatch):
    """Supervisors asked for; none is started."""
    asked = []
    monkeypatch.setattr(supervisor, "ensure", lambda runs: asked.append(runs))
    return asked


@pytest.fixture
def waiting(make_run, ensured):
    runs = [make_run(name=f"run <{number}>", state="queued", seed=number) for number in range(3)]
    for run in runs:
        launch.enqueue(run)
    ensured.clear()
    return runs


def order(runs_dir):
    return [entry.run_id for entry in Queue(runs_dir).entries()]


def test_a_click_moves_a_run_up_down_and_to_the_front(app, said, waiting, runs_dir):
    first, second, third = (run.id for run in waiting)
    at = app("runs")
    assert "run <1>" in said(at)
    at.button(key=f"Later_{first}").click().run()
    assert order(runs_dir) == [second, first, third]
    at.button(key=f"First_{third}").click().run()
    assert order(runs_dir) == [third, second, first]
    at.button(key=f"Earlier_{first}").click().run()
    assert order(runs_dir) == [third, first, second]
    assert at.button(key=f"Earlier_{third}").disabled
    assert not at.exception


def test_a_held_run_is_released_and_somebody_starts_it(app, said, waiting, runs_dir, ensured):
    at = app("runs")
    for run in waiting:
        at.button(key=f"hold_{run.id}").click().run()
    assert "held back" in said(at)
    ensured.clear()
    app("runs")
    assert ensured == []  # nothing is due
    at.button(key=f"hold_{waiting[1].id}").click().run()
    assert ensured
    assert Queue(runs_dir).claim("cpu/0") == waiting[1].id


def test_a_priority_is_chosen(app, waiting, runs_dir):
    at = app("runs")
    at.selectbox(key=f"priority_{waiting[2].id}_0").set_value(10).run()
    assert Queue(runs_dir).entries()[0].run_id == waiting[2].id
    Queue(runs_dir).prioritize(waiting[0].id, 7)  # the command line's own number
    at = app("runs")
    assert at.selectbox(key=f"priority_{waiting[0].id}_7").options[-1] == "Priority 7"


def test_a_cancelled_run_is_stopped(app, waiting, runs_dir):
    at = app("runs")
    at.button(key=f"cancel_{waiting[0].id}").click().run()
    assert waiting[0].state() == "stopped"
    assert order(runs_dir) == [run.id for run in waiting[1:]]


def test_interrupted_runs_go_on_by_themselves_if_that_is_switched_on(app, make_run, runs_dir, ensured):
    make_run(state="interrupted")
    at = app("runs")
    assert ensured == []
    next(box for box in at.toggle if box.label.startswith("Resume interrupted")).set_value(True).run()
    assert Queue(runs_dir).settings().auto_resume
    assert ensured


def test_a_page_that_is_drawn_sees_that_somebody_looks_after_the_queue(app, waiting, ensured):
    app("runs")
    assert ensured


def test_in_a_read_only_folder_the_queue_is_only_looked_at(app, waiting, ensured, monkeypatch):
    from dashboard import places

    monkeypatch.setattr(places, "read_only_reason", lambda: "The runs folder cannot be written.")
    at = app("runs")
    assert ensured == []
    assert all(
        at.button(key=f"{act}_{run.id}").disabled for run in waiting for act in ("hold", "cancel", "First")
    )
    assert not at.exception


def test_deleting_a_waiting_run_takes_it_out_of_the_queue(waiting, runs_dir, app):
    launch.delete(waiting[0])
    assert order(runs_dir) == [run.id for run in waiting[1:]]
    assert not app("runs").exception


def test_a_queue_that_cannot_be_read_is_a_sentence(app, said, waiting, runs_dir, monkeypatch):
    from engine.errors import RunError

    def broken(self):
        raise RunError("The queue cannot be looked at", found="Input/output error", remedy="See the disk")

    monkeypatch.setattr(Queue, "entries", broken)
    text = said(app("runs"))
    assert "The queue cannot be looked at" in text


def test_a_corrupted_queue_is_rebuilt_and_every_run_is_still_there(app, said, waiting, runs_dir):
    file = next(runs_dir.glob(".queue.sqlite"))
    file.write_bytes(b"not a database" * 100)
    at = app("runs")
    assert not at.exception
    assert "Queue, 3 waiting" in said(at)
    assert set(order(runs_dir)) == {run.id for run in waiting}
