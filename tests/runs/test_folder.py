"""The run folder: ids, states that only the lock knows, files that survive."""

import json
import multiprocessing
import time

import pytest

from engine import files
from engine.errors import RunError
from engine.runs import folder as contract
from engine.runs.config import RunConfig
from engine.runs.folder import RunFolder, Status, create, locate, new_id, run_folders, summaries


@pytest.fixture
def run(tmp_path) -> RunFolder:
    return create(tmp_path / "runs", RunConfig(name="first"), "tf_efficientnet_lite0")


def test_a_new_run_is_complete_and_queued(run):
    assert run.state() == "queued"
    assert run.config() == RunConfig(name="first")
    assert run.name == "first"
    assert contract.ID_PATTERN.fullmatch(run.id)
    assert run.record()["provenance"]["packages"]["numpy"]


def test_ids_are_safe_whatever_they_are_made_from():
    for text in ("../../etc", "Ünïcode name", "", "a" * 300, "x; rm -rf /", "V2-B0"):
        assert contract.ID_PATTERN.fullmatch(new_id(text))


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


def test_renaming_keeps_the_id_and_the_configuration(run):
    run.write_label(name="second", tags=["a"])
    assert (run.name, run.label()["tags"], run.config().name) == ("second", ["a"], "first")
    assert locate(run.runs, run.id).name == "second"


def _hold(path, ready):
    with RunFolder(path).hold():
        ready.set()
        time.sleep(60)


@pytest.fixture
def holder(run):
    """Another process that holds the run's lock. It waits for nothing: an Event whose waiter was killed
    blocks whoever sets it, for ever."""
    context = multiprocessing.get_context("spawn")
    ready = context.Event()
    process = context.Process(target=_hold, args=(run.path, ready))
    process.start()
    try:
        assert ready.wait(60)
        yield process
    finally:
        process.kill()
        process.join(20)


def test_only_the_lock_says_whether_a_worker_lives(run, holder):
    run.write_status(Status().moved("running"))
    assert run.state() == "running"
    assert all(run.is_alive() for _ in range(50))
    run.request_stop()
    assert run.state() == "stopping"
    holder.kill()
    holder.join()
    assert run.state() == "interrupted"


def test_a_second_worker_is_refused(run, holder):
    with pytest.raises(RunError, match="already being worked on"), run.hold(wait_s=0.1):
        pass


def test_starting_is_believed_only_for_a_while(run, monkeypatch):
    run.write_status(Status().moved("starting"))
    assert run.state() == "starting"
    late = contract._ticks() + contract.START_GRACE_S + 1
    monkeypatch.setattr(contract, "_ticks", lambda: late)
    assert run.state() == "interrupted"


@pytest.mark.parametrize("jump", [-86400.0, 86400.0])
def test_a_clock_that_jumps_changes_no_state(run, monkeypatch, jump):
    """Ages are measured on the clock that nobody sets."""
    run.write_status(Status().moved("starting"))
    now = time.time
    monkeypatch.setattr(contract.time, "time", lambda: now() + jump)
    assert run.state() == "starting"
    with run.hold():
        run.write_status(run.status().moved("running"))
        monkeypatch.setattr(contract.time, "time", now)
        assert run.state() == "running"
        assert not run.summary().stalled


def test_what_began_before_the_machine_restarted_is_interrupted_at_once(run, monkeypatch):
    run.write_status(Status().moved("starting"))
    monkeypatch.setattr(contract, "boot_id", lambda: "another boot")
    assert run.state() == "interrupted"


def test_a_stale_lock_file_is_no_sign_of_life(run):
    (run.path / ".lock").write_text("12345")
    run.write_status(Status().moved("running"))
    assert run.state() == "interrupted"


def test_a_state_is_changed_only_from_where_it_was_seen(run):
    """Compare and swap: of two that resume, the second finds the run queued and changes nothing."""
    run.write_status(Status().moved("failed"))
    assert run.move(("failed",), "queued").state == "queued"
    assert run.move(("failed",), "queued") is None
    with run.hold():
        assert run.move(("queued",), "stopped", wait_s=0.1) is None
    assert run.state() == "queued"


def test_a_run_is_seen_whole_or_not_at_all(run, monkeypatch):
    """Killed while it is made: nothing shows, and what is left is swept later."""

    def killed(self, status):
        raise KeyboardInterrupt

    monkeypatch.setattr(RunFolder, "write_status", killed)
    with pytest.raises(KeyboardInterrupt):
        create(run.runs, RunConfig(name="second"), "x")
    assert [folder.id for folder in run_folders(run.runs)] == [run.id]
    (run.runs / f"{contract.NEW}20261122-201500-x-3f2a").mkdir()
    assert len(summaries(run.runs)) == 1
    assert contract.sweep(run.runs) == 0
    assert contract.sweep(run.runs, older_s=-1) == 1


def test_a_status_replaced_within_one_tick_of_the_clock_is_read_again(run):
    import os

    assert summaries(run.runs)[0].status.epoch == 0
    stat = (run.path / "status.json").stat()
    run.write_status(contract.replace(run.status(), epoch=1))
    os.utime(run.path / "status.json", ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert summaries(run.runs)[0].status.epoch == 1


def test_the_last_row_per_epoch_and_split_wins_and_a_torn_line_is_skipped(run):
    run.append_metrics({"epoch": 1, "split": "val", "loss": 2.0})
    run.append_metrics({"epoch": 1, "split": "val", "loss": 1.0, "auroc": float("nan")})
    with open(run.path / "metrics.jsonl", "a") as file:
        file.write('{"epoch": 2, "spl')
    run.append_metrics({"epoch": 2, "split": "val", "loss": 0.5})
    assert run.metrics()["loss"].tolist() == [1.0, 0.5]
    assert json.loads((run.path / "metrics.jsonl").read_text().splitlines()[1])["auroc"] is None


def test_a_torn_status_is_unknown_and_hides_no_other_run(run):
    other = create(run.runs, RunConfig(name="other"), "x")
    (run.path / "status.json").write_text('{"state": "run')
    states = {summary.id: summary.state for summary in summaries(run.runs)}
    assert states == {run.id: "unknown", other.id: "queued"}


def test_a_damaged_configuration_hides_no_other_run(run):
    other = create(run.runs, RunConfig(name="other"), "x")
    (run.path / "config.json").write_text("{")
    assert {summary.id: summary.state for summary in summaries(run.runs)} == {
        run.id: "unknown",
        other.id: "queued",
    }


def test_summaries_notice_every_change(run):
    assert summaries(run.runs)[0].state == "queued"
    run.write_status(Status().moved("completed"))
    assert summaries(run.runs)[0].state == "completed"
    run.write_label(name="renamed")
    assert summaries(run.runs)[0].name == "renamed"


def test_delete_is_undone_by_restore(run):
    contract.delete(run)
    assert contract.trashed(run.runs) == [run.id]
    with pytest.raises(RunError, match="restore it from the trash"):
        locate(run.runs, run.id)
    contract.restore(run.runs, run.id)
    assert locate(run.runs, run.id).name == "first"


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
