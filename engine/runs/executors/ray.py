"""Runs on a Ray cluster, through its Jobs REST API; this program needs no ray.

One job per run. The run folder is shared with the nodes and remains the truth: the worker there is the
same `python -m engine work DIR`, it holds the same lock. What the cluster says only matters where the
folder is silent. Learned from Ray 2.60, and answered here:

- a job is killed 3 s after it was asked to stop, unless RAY_JOB_STOP_WAIT_TIME_S says otherwise in its
  runtime_env;
- stopping a pending job does nothing: the worker looks for STOP before anything else;
- a job that is pending for 15 minutes fails: the queue stays here, and a job is submitted when there is room;
- submitting an id twice answers 500: ask for the job, and take its existence as success;
- the head may be gone while jobs run on: that is "no contact since", never "failed";
- the entrypoint is a shell string: it is joined from an id and the settings with shlex.
"""

from __future__ import annotations

import contextlib
import secrets
import shlex
import shutil
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from engine import files
from engine.errors import EngineError, RunError
from engine.runs.executors import CONTACT_FILE, preflight
from engine.runs.executors.answers import ABSENT, JOB_FAILED, PENDING, RUNNING, UNKNOWN_JOB, Check, Job
from engine.runs.executors.jobs import Cluster, Jobs, cluster_of, token
from engine.runs.folder import ID_PATTERN, RunFolder, lock_is_held, writing
from engine.runs.provenance import provenance
from engine.runs.queue import Entry, Queue, requeue
from engine.runs.status import FAILED, INTERRUPTED, QUEUED, STARTING, STOPPED, UNKNOWN, WORKING, Status

NAME = "ray"
STOP_WAIT_S = 120
"""How long Ray waits between SIGTERM and SIGKILL: a checkpoint has to be written in it."""
LOOK_EVERY_S = 5.0
TELL_EVERY_S = 30.0
PREFLIGHT_S = 90.0
MAX_SLOTS = 256


@dataclass(frozen=True)
class Contact:
    """Whether the cluster answers; `since` is when that began, `at` when it was last asked (seconds since 1970)."""

    ok: bool
    since: float
    message: str = ""
    at: float = 0.0


# -- the executor -----------------------------------------------------------------------------------


def entrypoint(cluster: Cluster, folder: RunFolder) -> str:
    """The shell command of a run: an id that is checked, settings that are quoted.

    Raises:
        RunError: the folder's name is no run id.
    """
    if not ID_PATTERN.fullmatch(folder.id):
        raise RunError("This is no run id", found=folder.id[:80], remedy="Only runs can be executed")
    place = f"{cluster.runs.rstrip('/') or folder.runs.resolve()}/{folder.id}"
    if cluster.processes == 1:
        return shlex.join([cluster.python, "-m", "engine", "work", place])
    words = [place, str(int(cluster.processes)), f"{cluster.cpus:g}", f"{cluster.gpus:g}"]
    return shlex.join([cluster.python, "-m", "engine.runs.executors.ray_train", *words])


def environment(cluster: Cluster) -> dict[str, str]:
    """What the job's runtime_env sets."""
    from engine.runs.executors.local import ROOT

    return {
        "PYTHONPATH": cluster.root or str(ROOT),
        "PYTHONUNBUFFERED": "1",
        "NO_ALBUMENTATIONS_UPDATE": "1",
        "RAY_JOB_STOP_WAIT_TIME_S": str(STOP_WAIT_S),
    }


def submission_of(folder: RunFolder) -> str:
    """The id of a run's next job: a resumed run is another job, a repeated submission is not."""
    attempt = sum(state == QUEUED for state, _ in folder.status().history)
    return f"{folder.id}.{attempt}"


def capacity(runs: Path) -> list[str]:
    """A slot per run that fits on the idle cluster: `ray/0`, `ray/1` ..."""
    cluster = cluster_of(runs)
    return [f"{NAME}/{place}" for place in range(min(Jobs(cluster).room(cluster)[1], MAX_SLOTS))]


def submit(folder: RunFolder, slot: str = f"{NAME}/0") -> None:
    """Make the job of a run that is starting; to do it twice is to do it once."""
    cluster = cluster_of(folder.runs)
    alone = cluster.processes == 1  # otherwise Ray Train asks for the resources, and the job only for itself
    Jobs(cluster).submit(
        folder.status().submission or submission_of(folder),
        entrypoint(cluster, folder),
        environment(cluster),
        cpus=cluster.cpus if alone else 0,
        gpus=cluster.gpus if alone else 0,
        metadata={"run": folder.id, "slot": slot},
    )


def state(folder: RunFolder) -> Job:
    """What the cluster says of a run's job; UNKNOWN, with the reason, when it cannot be asked."""
    submission = folder.status().submission
    if not submission:
        return Job(ABSENT)
    try:
        return Jobs(cluster_of(folder.runs)).job(submission)
    except EngineError as error:
        return Job(UNKNOWN_JOB, str(error))


def stop(folder: RunFolder, *, kill: bool = False) -> None:
    """Ask a run on the cluster to stop: through its folder. `kill` asks the cluster to end the job as well.

    Raises:
        RunError: (kill) the cluster cannot be reached; the STOP file is there all the same.
    """
    folder.request_stop()
    submission = folder.status().submission
    if kill and submission:
        Jobs(cluster_of(folder.runs)).stop(submission)


def contact(runs: Path) -> Contact | None:
    """Whether the cluster answered the supervisor lately; None when nobody has asked yet."""
    record = files.read_json(Path(runs) / CONTACT_FILE)
    if record is None:
        return None
    try:
        since = float(record["since"])
        return Contact(
            bool(record["ok"]), since, str(record.get("message") or ""), float(record.get("at") or since)
        )
    except (KeyError, TypeError, ValueError):
        return None


# -- preflight --------------------------------------------------------------------------------------


def problems(runs: Path) -> list[EngineError]:
    """What keeps a run from being sent to the cluster and can be told without asking it: settings, token."""
    try:
        cluster_of(runs)
        token()
    except EngineError as error:
        return [error]
    return []


def check_up(runs: Path, timeout_s: float = PREFLIGHT_S) -> list[Check]:
    """Everything a run on the cluster needs, tried for real: reachable, token, room, the shared folder (a
    question that a job there must answer), its locks seen from here, the same program.

    Returns:
        The checks, in order; those behind the first bad one are left out. `error` kinds are in `found`.
    """
    done: list[Check] = []
    try:
        cluster = cluster_of(runs)
        jobs = Jobs(cluster)
        done.append(Check("reachable", True, f"Ray {jobs.version()} at {jobs.address}"))
        now, total = jobs.room(cluster)
        what = f"{cluster.cpus:g} CPUs, {cluster.gpus:g} GPUs each"
        done.append(Check("room", total > 0, f"{total} runs fit ({what}), {now} of them now"))
        if total > 0:
            done += _ask_a_node(Path(runs), cluster, jobs, timeout_s)
    except EngineError as error:
        done.append(Check(error.kind, False, str(error)))
    return done


def _ask_a_node(runs: Path, cluster: Cluster, jobs: Jobs, timeout_s: float) -> list[Check]:
    nonce = secrets.token_hex(16)
    place = runs.resolve() / f".preflight-{nonce[:12]}"
    there = f"{cluster.runs.rstrip('/') or runs.resolve()}/{place.name}"
    with writing("The shared folder cannot be written"):
        place.mkdir()
        files.write_json(place / preflight.QUESTION, {"nonce": nonce})
    submission = f"preflight-{nonce[:12]}"
    try:
        words = [cluster.python, "-m", "engine.runs.executors.preflight", there]
        jobs.submit(submission, shlex.join(words), environment(cluster), cpus=cluster.cpus, gpus=cluster.gpus)
        return _hear(place, jobs, submission, nonce, timeout_s)
    finally:
        with contextlib.suppress(OSError):
            (place / preflight.DONE).touch()
        with contextlib.suppress(EngineError):
            jobs.stop(submission)
        shutil.rmtree(place, ignore_errors=True)


def _hear(place: Path, jobs: Jobs, submission: str, nonce: str, timeout_s: float) -> list[Check]:
    end = time.monotonic() + timeout_s
    answer, job = None, Job(PENDING)
    while answer is None and time.monotonic() < end and job.state in (PENDING, RUNNING):
        time.sleep(0.3)
        job = jobs.job(submission)
        answer = files.read_json(place / preflight.ANSWER)
    if answer is None:
        why = job.message or ("it still waits for room" if job.state == PENDING else "no answer")
        return [Check("shared folder", False, f"job {job.state.lower()}: {why}. Every node must see {place}")]
    good = answer.get("answer") == preflight.answer_to(nonce)
    checks = [Check("shared folder", good, f"answered by {answer.get('host')}" if good else "a wrong answer")]
    held = lock_is_held(place / preflight.LOCK)
    words = "a lock taken there is seen here" if held else "a lock taken there is not seen here"
    checks.append(
        Check("locks", held, words if held else f"{words}: use a file system with locks (NFS 4, say)")
    )
    here, node = provenance(), answer.get("provenance") or {}
    same = here.get("git_commit") == node.get("git_commit") and here["packages"].get("torch") == (
        node.get("packages") or {}
    ).get("torch")
    found = f"commit {str(node.get('git_commit'))[:8]}, torch {(node.get('packages') or {}).get('torch')}"
    checks.append(Check("same program", same, found))
    return checks


# -- the keeper -------------------------------------------------------------------------------------


class Keeper:
    """The supervisor's part for the cluster: submits when there is room, and watches what it submitted."""

    def __init__(self, runs: Path):
        self.runs = Path(runs)
        self.queue = Queue(runs)
        self.busy = True
        self._contact = contact(runs)

    def run(self, ending: threading.Event) -> None:
        """Turn after turn; whatever happens is said and tried again."""
        said = ""
        while not ending.is_set():
            try:
                self.turn()
                said = ""
            except Exception as error:  # this thread must outlive every surprise
                if str(error) != said:
                    said = str(error)
                    print(f"{time.strftime('%F %T')} cluster: {said}", flush=True)
            ending.wait(LOOK_EVERY_S)

    def turn(self) -> None:
        """One look at the queue and, if anything is to be done there, at the cluster."""
        entries = self.queue.entries()
        claimed = [entry for entry in entries if (entry.slot or "").startswith(f"{NAME}/")]
        waiting = [
            entry for entry in entries if entry.slot is None and not entry.held and entry.wants == NAME
        ]
        self.busy = bool(claimed or waiting)
        if not self.busy:
            return
        try:
            cluster = cluster_of(self.runs)
            jobs = Jobs(cluster)
            taken = {entry.slot or "" for entry in claimed if self._still_there(entry, jobs)}
            self._tell(True)
            if waiting:
                self._fill(cluster, jobs, taken)
        except EngineError as error:
            self._tell(False, str(error))
            raise

    def _tell(self, ok: bool, message: str = "") -> None:
        """Write down that there is contact, or since when there is none; when that changes, and now and then."""
        last, now = self._contact, time.time()
        if last and (last.ok, last.message) == (ok, message) and 0 <= now - last.at < TELL_EVERY_S:
            return
        self._contact = Contact(ok, last.since if last and last.ok == ok else now, message, now)
        with contextlib.suppress(OSError):
            files.write_json(self.runs / CONTACT_FILE, asdict(self._contact))

    # -- submitting ---------------------------------------------------------------------------
    def _fill(self, cluster: Cluster, jobs: Jobs, taken: set[str]) -> None:
        """Submit what fits now: a job that has to wait for room would fail after a quarter of an hour."""
        if any(RunFolder(self.runs / run_id).status().state == STARTING for run_id in self._claimed_ids()):
            return  # its resources may not be counted as used yet
        now, total = jobs.room(cluster)
        free = [slot for place in range(min(total, MAX_SLOTS)) if (slot := f"{NAME}/{place}") not in taken]
        for slot in free[:now]:
            run_id = self.queue.claim(slot, (NAME,))
            if run_id is None:
                return
            self._start(RunFolder(self.runs / run_id), slot, jobs)

    def _claimed_ids(self) -> list[str]:
        return [entry.run_id for entry in self.queue.entries() if (entry.slot or "").startswith(f"{NAME}/")]

    def _start(self, folder: RunFolder, slot: str, jobs: Jobs) -> None:
        if folder.stop_requested():
            folder.move((QUEUED,), STOPPED, ended_at=time.time())
        elif moved := folder.move((QUEUED,), STARTING, slot=slot, submission=submission_of(folder)):
            self._submit(folder, moved, jobs)
            return
        self.queue.remove(folder.id)  # withdrawn or deleted meanwhile

    def _submit(self, folder: RunFolder, status: Status, jobs: Jobs) -> None:
        try:
            submit(folder, status.slot)
        except RunError as error:
            if error.kind == "unreachable" and jobs_may_have(jobs, status.submission):
                raise  # it may have been taken: the next turn asks
            if folder.move((STARTING,), QUEUED, slot="", submission=""):
                self.queue.release(folder.id)
            raise

    # -- watching -----------------------------------------------------------------------------
    def _still_there(self, entry: Entry, jobs: Jobs) -> bool:
        """Whether a claimed run still takes its slot; says how it ended where the folder is silent."""
        folder = RunFolder(self.runs / entry.run_id)
        status = folder.status()
        if not folder.path.is_dir():
            self.queue.settle(entry)
            return False
        if status.state == QUEUED:  # claimed by a supervisor that was killed before it submitted
            self.queue.release(entry.run_id)
            return False
        if status.state in WORKING and folder.is_alive():
            return True
        if status.state in WORKING:
            job = jobs.job(status.submission) if status.submission else Job(ABSENT)
            if self._waits_for_worker(folder, job):
                return True
            self._say_how_it_ended(folder, job)
        if folder.status().state == QUEUED:  # put back just now
            return False
        self.queue.settle(entry)
        self._again(folder)
        return False

    def _waits_for_worker(self, folder: RunFolder, job: Job) -> bool:
        """Submitted, and its worker has not taken the lock yet."""
        status = folder.status()
        if status.state != STARTING:
            return folder.is_alive()
        if job.state == ABSENT:  # killed between writing `starting` and submitting
            submit(folder, status.slot)
            return True
        if job.state in (PENDING, RUNNING):
            folder.move((STARTING, UNKNOWN), STARTING)  # checked in: the cluster knows it
            return True
        return folder.is_alive()

    def _say_how_it_ended(self, folder: RunFolder, job: Job) -> None:
        """A job that ended without its worker's last word; written under the run's lock."""
        status = folder.status()
        mine = (STARTING, INTERRUPTED, UNKNOWN)
        asked = folder.stop_requested()
        if asked:
            folder.move(mine, STOPPED, ended_at=time.time(), eta_s=None)
        elif status.state == STARTING and job.state == JOB_FAILED and "failed to start within" in job.message:
            requeue(folder, mine)  # it waited for room for too long: it never began, so it waits on here
        elif status.state == STARTING and job.state == JOB_FAILED and "exit code 4" not in job.message:
            error = {
                "kind": "start",
                "message": f"The worker did not begin on the cluster: {job.message[-400:] or 'no reason given'}",
                "remedy": "Read the log, correct what it names, then resume.",
            }
            folder.move(mine, FAILED, ended_at=time.time(), eta_s=None, error=error)
        else:
            words = f"{job.state.lower()}: {job.message[-300:]}" if job.message else job.state.lower()
            error = {
                "kind": "node_lost",
                "message": f"The worker is gone from the cluster (job {words}).",
                "remedy": "Resume: it continues from its last checkpoint, on any node.",
            }
            folder.move(mine, INTERRUPTED, ended_at=time.time(), eta_s=None, error=error)

    def _again(self, folder: RunFolder) -> None:
        settings, status = self.queue.settings(), folder.status()
        wanted = settings.auto_resume and status.state == INTERRUPTED and not folder.stop_requested()
        if wanted and status.restarts < settings.max_restarts:
            requeue(folder, (INTERRUPTED,), restarts=status.restarts + 1)


def jobs_may_have(jobs: Jobs, submission: str) -> bool:
    """Could a submission whose answer was lost have been taken? True when even that cannot be asked."""
    try:
        return jobs.job(submission).state != ABSENT
    except RunError:
        return True
