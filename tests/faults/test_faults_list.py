"""The list: each fault, the test that makes it happen, and what a person is told. Printed with `-rP` or `-s`."""

from __future__ import annotations

import ast
import time
from pathlib import Path

import pytest

from engine.runs import folder as contract
from engine.runs import launch

TESTS = Path(__file__).resolve().parents[1]
# fault -> (file, test, the sentence or what happens instead)
FAULTS = {
    "kill -9 at random moments": (
        "faults/test_faults_files.py",
        "test_kill_at_random_moments",
        "The worker was ended from outside (SIGKILL). Resume: it continues from its last checkpoint.",
    ),
    "kill -9 at every write of a run": (
        "faults/test_faults_files.py",
        "test_a_run_killed_at_any_write_ends_as_if_never_killed",
        "The same, and the run ends as if never killed.",
    ),
    "kill -9 at every write of a checkpoint": (
        "faults/test_faults_checkpoints.py",
        "test_a_checkpoint_broken_at_any_write_leaves_the_old_or_the_new",
        "Nothing to say: the old checkpoint or the new one is whole.",
    ),
    "n-th write, fsync or replace fails": (
        "faults/test_faults_files.py",
        "test_every_write_of_an_action_fails_once",
        "... cannot be written. Found: No space left on device. Free disk space, then try again; nothing was lost.",
    ),
    "full disk (a real one)": (
        "faults/test_faults_files.py",
        "test_a_disk_that_is_really_full",
        "The disk is full: ... Free space, then resume: the last whole checkpoint is kept.",
    ),
    "read-only folder, permission denied": (
        "runs/test_launch.py",
        "test_a_read_only_runs_folder_is_said_in_a_sentence_and_can_be_looked_at",
        "... Found: Permission denied. Results can still be read; to change them, give this user write access.",
    ),
    "torn last line": (
        "faults/test_faults_files.py",
        "test_a_line_torn_anywhere_loses_only_itself",
        "Nothing to say: the epoch is repeated.",
    ),
    "half-written or flipped status": (
        "faults/test_faults_files.py",
        "test_a_status_cut_or_flipped_anywhere_is_unknown_or_right_and_resumes",
        "status.json is missing or cannot be read. Resume: it continues from its last checkpoint.",
    ),
    "flipped byte in a checkpoint": (
        "faults/test_faults_checkpoints.py",
        "test_a_byte_flipped_anywhere_in_a_checkpoint_is_noticed",
        "last.ckpt is damaged. ... Looking for the checkpoint before it.",
    ),
    "flipped byte in the best weights": (
        "faults/test_faults_checkpoints.py",
        "test_a_byte_flipped_in_the_best_weights_is_said",
        "best.safetensors is damaged. ... Resume the run: it continues from the checkpoint before.",
    ),
    "cut-off pixel cache": (
        "data/test_cache.py",
        "test_a_cut_off_cache_is_built_again",
        "Nothing to say: it is built again.",
    ),
    "NaN and infinite numbers": (
        "faults/test_faults_files.py",
        "test_a_number_that_is_none_is_null_in_every_file",
        "The loss became infinite or not a number. ... Start it again with a lower learning rate.",
    ),
    "memory exhausted in a step": (
        "training/test_loop.py",
        "test_memory_exhausted_offers_half_the_batch",
        "There is not enough memory. ... Start it again with --batch-size ... --accumulate ...",
    ),
    "out-of-memory killer": (
        "runs/test_supervisor.py",
        "test_the_out_of_memory_killer_is_named",
        "The system ended the worker because the machine's memory was exhausted (SIGKILL).",
    ),
    "clock jumps": (
        "runs/test_folder.py",
        "test_a_clock_that_jumps_changes_no_state",
        "Nothing to say: ages are measured on a clock that nobody sets.",
    ),
    "reboot": (
        "runs/test_supervisor.py",
        "test_after_a_restart_of_the_machine_tending_starts_interrupted_runs",
        "Interrupted; or it goes on by itself, if that is wanted.",
    ),
    "stale lock": (
        "runs/test_folder.py",
        "test_a_stale_lock_file_is_no_sign_of_life",
        "Interrupted.",
    ),
    "two supervisors": (
        "runs/test_supervisor.py",
        "test_of_two_supervisors_one_leaves",
        "Nothing to say: the second one leaves.",
    ),
    "supervisor killed": (
        "runs/test_supervisor.py",
        "test_a_killed_supervisor_takes_no_worker_with_it_and_the_next_one_takes_over",
        "Nothing to say: workers go on, the next one takes over.",
    ),
    "supervisor and worker killed": (
        "runs/test_supervisor.py",
        "test_killing_both_loses_nothing",
        "Interrupted; what waits, waits.",
    ),
    "two dashboards, a command line and a killer": (
        "faults/test_faults_queue.py",
        "test_two_dashboards_a_command_line_and_a_killer",
        "The run ... has been taken up by somebody else. Nothing needs to be done.",
    ),
    "damaged queue": (
        "faults/test_faults_queue.py",
        "test_a_queue_damaged_anywhere_is_rebuilt_and_nobody_is_lost",
        "Nothing to say: it is rebuilt from the run folders.",
    ),
    "queue rebuilt between claim and start": (
        "runs/test_supervisor.py",
        "test_a_queue_rebuilt_at_the_worst_moment_starts_nothing_twice",
        "Nothing to say: the state under the run's lock fences the second start.",
    ),
    "1,000 runs": (
        "faults/test_faults_queue.py",
        "test_a_thousand_runs_are_listed_within_150_ms",
        "Nothing to say: listed within 150 ms.",
    ),
    "run deleted while it is viewed": (
        "faults/test_faults_files.py",
        "test_a_deleted_run_that_is_still_being_viewed_says_where_it_is",
        "There is no run with this id. ... It was deleted: restore it from the trash.",
    ),
    "older schema": (
        "faults/test_faults_checkpoints.py",
        "test_runs_of_the_first_schema_are_read_whole",
        "Nothing to say: it is read.",
    ),
    "newer schema": (
        "faults/test_faults_checkpoints.py",
        "test_a_run_of_a_newer_schema_is_refused_with_a_sentence_and_hides_no_other",
        "This run was written by a newer version. ... Update this installation.",
    ),
    "mismatching classes": (
        "analysis/test_comparison.py",
        "test_contradicting_labels_and_classes_are_refused",
        "The runs have different classes.",
    ),
    "hung worker or loader": (
        "faults/test_faults_list.py",
        "test_a_worker_that_hangs_is_said_to_stall_and_can_be_killed",
        "No sign for ...: its process lives, but may hang.",
    ),
    "cluster unreachable": (
        "runs/test_ray.py",
        "test_a_head_that_is_gone_while_a_job_runs_is_no_failure",
        "The cluster does not answer. ... runs there go on, runs here wait.",
    ),
    "cluster refuses the token": (
        "runs/test_ray.py",
        "test_a_refused_token_is_said_and_the_run_waits",
        "The cluster refuses the token. ... Give the cluster's own token in RAY_AUTH_TOKEN.",
    ),
}


def test_every_fault_of_the_list_has_its_test():
    width = max(map(len, FAULTS))
    for fault, (file, name, sentence) in FAULTS.items():
        tree = ast.parse((TESTS / file).read_text(encoding="utf-8"))
        names = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
        assert name in names, f"{fault}: {file} has no {name}"
        print(f"{fault:{width}}  {sentence}")


@pytest.mark.slow
def test_a_worker_that_hangs_is_said_to_stall_and_can_be_killed(machine, monkeypatch, ledger):
    """As with a loader process that never answers: alive, silent, deaf."""
    run = machine.run(steps=3, step_s=0.01, hang=2)
    launch.enqueue(run)
    machine.until(lambda: len(machine.steps(run)) == 2)
    monkeypatch.setattr(contract, "STALL_S", 0.5)
    time.sleep(0.8)
    (summary,) = contract.summaries(machine.runs)
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
