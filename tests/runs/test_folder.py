"""The run folder: no way out of it, one worker at a time, files that survive."""

import json

import pytest

from engine import files
from engine.errors import RunError
from engine.runs.config import RunConfig
from engine.runs.creation import create
from engine.runs.folder import locate, run_folders
from engine.runs.status import Status


@pytest.mark.parametrize(
    "hostile",
    ["..", "../runs", "/etc", "", "a\x00b", "20261122-201500-x-3f2a/../..", "%2e%2e%2f", "x" * 5000],
)
def test_no_id_leads_out_of_the_runs_folder(run, hostile):
    with pytest.raises(RunError, match="no run with this id"):
        locate(run.runs, hostile)


def test_a_link_in_the_runs_folder_is_not_a_run(run, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (run.runs / "20261122-201500-link-3f2a").symlink_to(elsewhere)
    with pytest.raises(RunError):
        locate(run.runs, "20261122-201500-link-3f2a")
    assert [folder.id for folder in run_folders(run.runs)] == [run.id]


def test_a_run_is_found_by_id_and_by_its_only_name(run):
    assert locate(run.runs, run.id).id == run.id
    assert locate(run.runs, "first").id == run.id
    create(run.runs, RunConfig(name="first"), "other")
    with pytest.raises(RunError, match="2 runs are named"):
        locate(run.runs, "first")


def test_a_damaged_run_keeps_no_other_from_being_found_by_its_name(run):
    other = create(run.runs, RunConfig(name="damaged"), "other")
    (other.path / "config.json").write_text("{")
    assert locate(run.runs, "first").id == run.id


def test_renaming_keeps_the_id_and_the_configuration(run):
    run.write_label(name="second", tags=["a"])
    assert (run.name, run.label()["tags"], run.config().name) == ("second", ["a"], "first")
    assert locate(run.runs, run.id).name == "second"


def test_a_second_worker_is_refused(run, holder):
    with pytest.raises(RunError, match="already being worked on"), run.hold(wait_s=0.1):
        pass


def test_a_state_is_changed_only_from_where_it_was_seen(run):
    """Compare and swap: of two that resume, the second finds the run queued and changes nothing."""
    run.write_status(Status().moved("failed"))
    assert run.move(("failed",), "queued").state == "queued"
    assert run.move(("failed",), "queued") is None
    with run.hold():
        assert run.move(("queued",), "stopped", wait_s=0.1) is None
    assert run.state() == "queued"


def test_the_last_row_per_epoch_and_split_wins_and_a_torn_line_is_skipped(run):
    run.append_metrics({"epoch": 1, "split": "val", "loss": 2.0})
    run.append_metrics({"epoch": 1, "split": "val", "loss": 1.0, "auroc": float("nan")})
    with open(run.path / "metrics.jsonl", "a") as file:
        file.write('{"epoch": 2, "spl')
    run.append_metrics({"epoch": 2, "split": "val", "loss": 0.5})
    assert run.metrics()["loss"].tolist() == [1.0, 0.5]
    assert json.loads((run.path / "metrics.jsonl").read_text().splitlines()[1])["auroc"] is None


def test_missing_predictions_say_what_is_there(run):
    with pytest.raises(RunError, match="no predictions for test") as caught:
        run.predictions("test")
    assert "queued" in str(caught.value)


def test_a_failed_write_leaves_the_old_file_and_no_litter(tmp_path):
    target = tmp_path / "status.json"
    files.write_json(target, {"state": "running"})

    def fail(file):
        file.write(b'{"state": "co')
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        files.replace_file(target, fail)
    assert files.read_json(target) == {"state": "running"}
    assert [path.name for path in tmp_path.iterdir()] == ["status.json"]


def test_log_tail_starts_at_a_whole_line(run):
    (run.path / "log.txt").write_text("".join(f"line {number}\n" for number in range(10_000)))
    tail = run.log_tail(1000)
    assert tail.startswith("line 9")
    assert tail.endswith("line 9999\n")
    assert len(tail) <= 1000
