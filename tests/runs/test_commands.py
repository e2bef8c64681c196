"""What the command line does with the queue, the cluster, labels and the trash."""

import json
import sys

import pytest

from engine import cli
from engine.runs import commands, launch, supervisor, trash
from engine.runs import folder as contract
from engine.runs.executors import CLUSTER_FILE, CONTACT_FILE
from engine.runs.executors.jobs import Cluster, cluster_of, connect
from engine.runs.queue import Queue


@pytest.fixture
def waiting(machine, monkeypatch):
    """Three runs that wait; nobody starts them."""
    monkeypatch.setattr(supervisor, "ensure", lambda runs: None)
    runs = [machine.run(f"run {number}") for number in range(3)]
    for run in runs:
        launch.enqueue(run)
    return runs


def order(runs_folder):
    return [entry.run_id for entry in Queue(runs_folder).entries()]


def said(capsys, *words):
    """(exit code, JSON on stdout or None, stderr) of a command."""
    code = cli.main([*map(str, words)])
    out = capsys.readouterr()
    return code, json.loads(out.out) if out.out else None, out.err


def test_the_queue_is_shown_and_reordered(machine, waiting, capsys):
    first, second, third = (run.id for run in waiting)
    where = ("--runs", machine.runs, "--json")
    code, record, _ = said(capsys, "queue", third, "--to", 0, *where)
    assert code == 0
    assert [row["id"] for row in record["entries"]] == [third, first, second]
    assert [row["place"] for row in record["entries"]] == [0, 1, 2]
    _, record, _ = said(capsys, "queue", second, "--priority", 5, "--hold", *where)
    assert record["entries"][0]["id"] == second
    assert record["entries"][0]["state"] == "held"
    assert Queue(machine.runs).claim("cpu/0") == third  # what is held stays, whatever its priority
    _, record, _ = said(capsys, "queue", second, "--release", *where)
    assert [row["state"] for row in record["entries"]].count("held") == 0
    assert next(row for row in record["entries"] if row["id"] == third)["state"] == "working"
    text = commands.queue_record(machine.runs)[1]
    assert "cpu/0" in text
    assert "run 2" in text


def test_what_does_not_wait_cannot_be_moved(machine, waiting, capsys):
    run = waiting[0]
    Queue(machine.runs).claim("cpu/0")
    code, record, error = said(capsys, "queue", run.id, "--to", 1, "--runs", machine.runs, "--json")
    assert (code, record) == (2, None)
    assert "does not wait in the queue" in error
    code, _, error = said(capsys, "queue", waiting[1].id, "--runs", machine.runs)
    assert code == 2
    assert "--priority" in error
    code, _, error = said(capsys, "queue", waiting[1].id, "--hold", "--release", "--runs", machine.runs)
    assert "at once" in error
    assert order(machine.runs) == [run.id for run in waiting]


def test_interrupted_runs_can_be_resumed_by_themselves(machine, capsys):
    _, record, _ = said(capsys, "queue", "--auto-resume", "on", "--runs", machine.runs, "--json")
    assert record["auto_resume"] is True
    assert Queue(machine.runs).settings().auto_resume
    _, record, _ = said(capsys, "queue", "--auto-resume", "off", "--runs", machine.runs, "--json")
    assert record["auto_resume"] is False


def test_a_run_is_named_tagged_and_annotated(machine, capsys):
    run = machine.run()
    _, record, _ = said(
        capsys, "label", run.id, "--name", "a = 1", "--tags", "x,y,x", "--notes", "n", "--runs", machine.runs, "--json"
    )  # fmt: skip
    assert record == {"id": run.id, "name": "a = 1", "tags": ["x", "y"], "notes": "n"}
    _, record, _ = said(capsys, "label", run.id, "--tags", "", "--runs", machine.runs, "--json")
    assert (record["name"], record["tags"], record["notes"]) == ("a = 1", [], "n")


def test_the_trash_is_listed_and_emptied(machine, waiting, capsys):
    run = waiting[1]
    assert said(capsys, "delete", run.id, "--runs", machine.runs, "--json")[0] == 0
    assert run.id not in order(machine.runs)  # a waiting run that is deleted waits no more
    assert said(capsys, "trash", "--runs", machine.runs, "--json")[1] == {"trash": [run.id], "deleted": 0}
    assert said(capsys, "trash", "--empty", "--runs", machine.runs, "--json")[1] == {
        "trash": [],
        "deleted": 1,
    }
    assert trash.trashed(machine.runs) == []


def test_a_cluster_is_connected_shown_changed_and_forgotten(machine, head, capsys):
    where = ("--runs", machine.runs, "--json")
    _, record, _ = said(capsys, "cluster", "--address", head.address, "--gpus", 2, *where)
    assert (record["cluster"]["gpus"], record["cluster"]["cpus"], record["contact"]) == (2.0, 1.0, None)
    _, record, _ = said(capsys, "cluster", "--processes", 4, *where)
    assert cluster_of(machine.runs) == Cluster(head.address, gpus=2.0, processes=4)
    code, _, error = said(capsys, "cluster", "--address", "head", *where)
    assert code == 2
    assert "no address" in error
    (machine.runs / CONTACT_FILE).write_text('{"ok": false, "since": 1.0}')
    assert said(capsys, "cluster", *where)[1]["contact"]["ok"] is False
    assert said(capsys, "cluster", "--disconnect", *where)[0] == 0
    assert not (machine.runs / CLUSTER_FILE).exists()
    assert not (machine.runs / CONTACT_FILE).exists()
    assert "engine cluster --address" in said(capsys, "cluster", *where)[2]


@pytest.mark.slow
def test_a_check_has_a_node_answer_and_says_how_it_went(machine, head, capsys, monkeypatch):
    connect(machine.runs, Cluster(head.address, python=sys.executable))
    where = ("--runs", machine.runs, "--json")
    record = said(capsys, "cluster", "--check", *where)[1]
    found = {check["name"]: check for check in record["checks"]}
    assert found["shared folder"]["good"]
    assert found["locks"]["good"]
    monkeypatch.setenv("RAY_AUTH_TOKEN", "wrong")
    code, record, _ = said(capsys, "cluster", "--check", *where)
    assert code == 1
    assert (record["good"], record["checks"][-1]["name"]) == (False, "token")


def test_the_local_executor_is_checked_the_same_way(machine):
    from engine.runs import executors

    record, text = commands.checks_record(executors.find("local").check_up(machine.runs))
    assert record["good"]
    assert "can be written" in text
    assert not list(machine.runs.glob(".check-*"))


@pytest.fixture
def images(tmp_path):
    import fabricate

    fabricate.write_images(tmp_path / "images")
    return tmp_path / "images"


def test_one_command_starts_models_folds_and_seeds_on_the_cluster(machine, images, head, capsys, monkeypatch):
    monkeypatch.setattr(supervisor, "ensure", lambda runs: None)
    words = [
        "start",
        "--data",
        images,
        "--model",
        "V1-B0,tf_efficientnet_lite0",
        "--folds",
        "0,2",
        "--seeds",
        "1-2",
    ]
    _, record, _ = said(
        capsys, *words, "--pretrained", "none", "--executor", "ray", "--runs", machine.runs, "--json"
    )
    runs = [contract.locate(machine.runs, run_id) for run_id in record["ids"]]
    assert len(runs) == 8
    assert {run.status().executor for run in runs} == {"ray"}
    assert {entry.wants for entry in Queue(machine.runs).entries()} == {"ray"}
    assert {(run.config().data.fold, run.config().training.seed) for run in runs} == {
        (0, 1),
        (0, 2),
        (2, 1),
        (2, 2),
    }


def test_nothing_is_sent_to_a_cluster_that_is_not_there(machine, images, capsys):
    words = ["start", "--data", images, "--pretrained", "none", "--executor", "ray", "--runs", machine.runs]
    code, record, error = said(capsys, *words)
    assert (code, record) == (2, None)
    assert "connected to no cluster" in error
    assert contract.run_folders(machine.runs) == []


def test_a_start_with_a_check_starts_nothing_when_it_is_bad(machine, images, head, capsys, monkeypatch):
    monkeypatch.setenv("RAY_AUTH_TOKEN", "wrong")
    words = [
        "start",
        "--check",
        "--data",
        images,
        "--pretrained",
        "none",
        "--executor",
        "ray",
        "--runs",
        machine.runs,
    ]
    code, record, error = said(capsys, *words)
    assert (code, record) == (1, None)
    assert "refuses the token" in error
    assert contract.run_folders(machine.runs) == []


def test_every_problem_of_every_run_is_said_before_the_first_one_starts(machine, images, capsys):
    words = ["start", "--data", images, "--folds", "0,9", "--pretrained", "none", "--runs", machine.runs]
    code, _, error = said(capsys, *words)
    assert code == 2
    assert "no fold 9" in error
    assert contract.run_folders(machine.runs) == []


def test_a_configuration_file_starts_the_same_run_and_flags_win(
    machine, images, capsys, monkeypatch, tmp_path
):
    monkeypatch.setattr(supervisor, "ensure", lambda runs: None)
    words = [
        "--pretrained",
        "none",
        "--recipe",
        "quick",
        "--fold",
        "2",
        "--name",
        "first",
        "--runs",
        machine.runs,
    ]
    _, record, _ = said(capsys, "start", "--data", images, *words, "--json")
    first = contract.locate(machine.runs, record["id"])
    source = first.path / "config.json"
    _, record, _ = said(capsys, "start", "--config", source, "--epochs", 3, "--runs", machine.runs, "--json")
    again = contract.locate(machine.runs, record["id"]).config()
    assert again.changed(name="first", training__epochs=first.config().training.epochs) == first.config()
    assert (again.data.fold, again.training.epochs, again.training.recipe) == (2, 3, "quick")
    (tmp_path / "other.json").write_text("[]")
    code, _, error = said(capsys, "start", "--config", tmp_path / "other.json", "--runs", machine.runs)
    assert code == 2
    assert "is not a configuration" in error


def test_the_command_that_the_form_shows_starts_what_the_form_starts(machine, images, capsys, monkeypatch):
    import shlex

    from engine.runs.config import RunConfig

    monkeypatch.setattr(supervisor, "ensure", lambda runs: None)
    config = RunConfig(name="x y").changed(
        data__root=str(images),
        model__pretrained="none",
        training__recipe="quick",
        data__magnifications=("40X", "100X"),
    )
    several = {"models": ("tf_efficientnet_lite0", "tf_efficientnet_b0"), "folds": (0, 3), "seeds": (1, 5)}
    line = launch.command_line(config, **several)
    words = shlex.split(line)[3:]
    _, record, _ = said(capsys, *words, "--runs", machine.runs, "--json")
    started = [contract.locate(machine.runs, run_id).config() for run_id in record["ids"]]
    meant = launch.plan(config, **several)
    assert [
        (one.model, one.data.fold, one.data.magnifications, one.training, one.name) for one in started
    ] == [(one.model, one.data.fold, one.data.magnifications, one.training, one.name) for one in meant]


def test_a_data_set_is_divided_once_per_fold_and_not_once_per_run():
    from engine.errors import SplitError
    from engine.runs.config import RunConfig

    asked = []

    def of_data(config):
        asked.append(config.data.fold)
        return [SplitError(f"fold {config.data.fold} is bad")] if config.data.fold else []

    base = RunConfig().changed(data__root="/data", model__pretrained="none", training__recipe="quick")
    runs = launch.plan(base, models=["V1-B0", "V1-B1"], folds=(0, 1), seeds=tuple(range(5)))
    found = launch.all_problems(runs, of_data)
    assert asked == [0, 1]
    assert [str(error) for error in found] == ["fold 1 is bad."]
