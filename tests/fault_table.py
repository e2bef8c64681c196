"""Each fault, the test that makes it happen, and what a person is told; and the table printed after the faults.

Every trial of `tests/faults` counts runs that were lost, files that are torn, and runs called failed without
reason (the `ledger` fixture); the counts travel with the reports, whichever process ran the test.
"""

from __future__ import annotations

# fault -> (file, test, the sentence or what happens instead)
FAULTS = {
    "kill -9 at random moments": (
        "faults/test_faults_files.py",
        "test_kill_at_random_moments",
        "The worker was ended from outside ... Resume: it continues from its last checkpoint.",
    ),
    "kill -9 at every write of a run": (
        "faults/test_faults_files.py",
        "test_a_run_killed_at_any_write_ends_as_if_never_killed",
        "The worker was ended from outside ... Resume: it continues from its last checkpoint.",
    ),
    "kill -9 at every write of a checkpoint": (
        "faults/test_faults_checkpoints.py",
        "test_a_checkpoint_broken_at_any_write_leaves_the_old_or_the_new",
        "Nothing to say: the old checkpoint or the new one is whole.",
    ),
    "n-th write, fsync or replace fails": (
        "faults/test_faults_files.py",
        "test_every_write_of_an_action_fails_once",
        "... cannot be written ... Free disk space, then try again; nothing was lost.",
    ),
    "full disk (a real one)": (
        "faults/test_faults_files.py",
        "test_a_disk_that_is_really_full",
        "The disk is full: ... Free space, then resume: the last whole checkpoint is kept.",
    ),
    "read-only folder, permission denied": (
        "runs/test_launch.py",
        "test_a_read_only_runs_folder_is_said_in_a_sentence_and_can_be_looked_at",
        "... Results can still be read; to change them, give this user write access.",
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
        "... is damaged ... Looking for the checkpoint before it.",
    ),
    "flipped byte in the best weights": (
        "faults/test_faults_checkpoints.py",
        "test_a_byte_flipped_in_the_best_weights_is_said",
        "... is damaged ... Resume the run: it continues from the checkpoint before.",
    ),
    "cut-off pixel cache": (
        "data/test_cache.py",
        "test_a_cut_off_cache_is_built_again",
        "Nothing to say: it is built again.",
    ),
    "flipped bit in a pixel cache": (
        "data/test_cache.py",
        "test_a_flipped_bit_in_a_cache_is_noticed_and_it_is_built_again",
        "Nothing to say: it is built again.",
    ),
    "NaN and infinite numbers": (
        "faults/test_faults_files.py",
        "test_a_number_that_is_none_is_null_in_every_file",
        "The loss became infinite or not a number. ... Start it again with a lower learning rate.",
    ),
    "CUDA out of memory in a step": (
        "faults/test_faults_training.py",
        "test_a_gpu_out_of_memory_offers_the_same_training_in_half_of_it",
        "There is not enough memory. ... Start it again with --batch-size ... --accumulate ...",
    ),
    "memory exhausted in a step": (
        "training/test_loop.py",
        "test_memory_exhausted_offers_half_the_batch",
        "There is not enough memory. ... Start it again with --batch-size ... --accumulate ...",
    ),
    "out-of-memory killer": (
        "runs/test_supervisor.py",
        "test_the_out_of_memory_killer_is_named",
        "The system ended the worker because the machine's memory was exhausted ...",
    ),
    "clock jumps": (
        "runs/test_status.py",
        "test_a_clock_that_jumps_changes_no_state",
        "Nothing to say: ages are measured on a clock that nobody sets.",
    ),
    "reboot": (
        "runs/test_supervisor.py",
        "test_after_a_restart_of_the_machine_tending_starts_interrupted_runs",
        "Interrupted",
    ),
    "stale lock": (
        "runs/test_status.py",
        "test_a_stale_lock_file_is_no_sign_of_life",
        "Interrupted",
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
        "Interrupted",
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
    "damaged index of runs": (
        "faults/test_faults_index.py",
        "test_an_index_damaged_anywhere_is_made_again_and_nobody_is_lost",
        "Nothing to say: it is made again from the run folders.",
    ),
    "index damaged while three processes list": (
        "faults/test_faults_index.py",
        "test_processes_that_look_at_once_while_runs_change_and_the_index_is_damaged",
        "Nothing to say: it is made again, and no row is older than its files.",
    ),
    "locked index, index of another version": (
        "runs/test_index.py",
        "test_another_version_is_thrown_away_and_made_again",
        "Nothing to say: the folders are read.",
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
        "The entries predict different classes",
    ),
    "hung loader": (
        "faults/test_faults_training.py",
        "test_a_hung_loader_is_said_to_stall_can_be_killed_and_resumes",
        "No sign for ...: its process lives, but may hang.",
    ),
    "hung worker": (
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


def pytest_terminal_summary(terminalreporter) -> None:
    """`fault | trials | runs lost | torn files | false "failed"`, whichever process ran the test."""
    everything = [report for group in terminalreporter.stats.values() for report in group]
    reports = [report for report in everything if getattr(report, "when", "") == "teardown"]
    found = {report.nodeid: dict(report.user_properties).get("fault") for report in reports}
    rows = [row for _, row in sorted(found.items()) if row]
    if not rows:
        return
    write = terminalreporter.write_line
    terminalreporter.section("faults")
    width = max(len(row["fault"]) for row in rows)
    write(f"{'fault':{width}}  trials  runs lost  torn files  false failed")
    for row in rows:
        write(
            f"{row['fault']:{width}}  {row['trials']:6}  {row['lost']:9}  {len(row['torn']):10}  {row['false_failed']:12}"
        )
    write(
        f"{'runs lost ' + str(sum(row['lost'] for row in rows)):{width}}  torn files "
        f"{sum(len(row['torn']) for row in rows)}, false failed {sum(row['false_failed'] for row in rows)}, "
        f"in {sum(row['trials'] for row in rows)} trials"
    )
    width = max(map(len, FAULTS))
    terminalreporter.section("what a person is told")
    for fault, (_, _, sentence) in FAULTS.items():
        write(f"{fault:{width}}  {sentence}")
