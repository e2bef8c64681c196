"""A runs folder's cluster and the Jobs REST API of its head, through `requests`: no ray is needed here.

The settings are in `.cluster.json` of the runs folder, the token is not: it comes from RAY_AUTH_TOKEN, the
file that RAY_AUTH_TOKEN_PATH names, or ~/.ray/auth_token.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from dataclasses import Field, asdict, dataclass, field, fields
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

from engine import files
from engine.errors import ConfigError, RunError
from engine.runs.executors import CLUSTER_FILE, CONTACT_FILE
from engine.runs.executors.answers import ABSENT, JOB_FAILED, JOB_STOPPED, PENDING, RUNNING, SUCCEEDED, Job
from engine.runs.folder import writing
from engine.share import access

TIMEOUT_S = (3.05, 15.0)
STATES = (PENDING, RUNNING, JOB_STOPPED, SUCCEEDED, JOB_FAILED)


def _setting(default: Any, label: str, flag: str, help_text: str) -> Any:
    """A setting with the words that `--help` and the launch form show."""
    return field(default=default, metadata={"label": label, "flag": flag, "help": help_text})


@dataclass(frozen=True)
class Cluster:
    """How a runs folder reaches its cluster, and what one run gets there."""

    address: str = _setting("", "Address", "--address", "The dashboard of the head: http://head:8265.")
    gpus: float = _setting(0.0, "GPUs", "--gpus", "GPUs of one run, or of each of its processes.")
    cpus: float = _setting(1.0, "CPUs", "--cpus", "CPU cores of one run, or of each of its processes.")
    processes: int = _setting(
        1,
        "Processes per run",
        "--processes",
        "More than one: a run is spread over the nodes by Ray Train, which they then need (requirements-cluster.txt).",
    )
    runs: str = _setting(
        "",
        "Runs folder on the nodes",
        "--node-runs",
        "Where the nodes see this runs folder; the same path unless given.",
    )
    root: str = _setting(
        "",
        "Repository on the nodes",
        "--node-root",
        "Where the nodes see this repository; the same path unless given.",
    )
    python: str = _setting(
        "python",
        "Interpreter on the nodes",
        "--python",
        "The Python on the nodes that has requirements.txt installed.",
    )


def settings() -> Iterator[Field]:
    """The fields of a `Cluster`, each with `label`, `flag` and `help` in its metadata."""
    yield from fields(Cluster)


# -- settings ---------------------------------------------------------------------------------------


def connect(runs: Path, cluster: Cluster) -> None:
    """Connect a runs folder to a cluster (then check it: `executors.ray.check_up`).

    Raises:
        AccessError: whoever asks is no editor.
        ConfigError: the address is none, or there is no token.
        RunError: the settings cannot be written.
    """
    access.require_editor("connect a cluster")
    _check(cluster)
    token()
    with writing("The cluster's settings cannot be written"):
        Path(runs).mkdir(parents=True, exist_ok=True)
        (Path(runs) / CONTACT_FILE).unlink(missing_ok=True)  # what was said of another cluster
        files.write_json(Path(runs) / CLUSTER_FILE, asdict(cluster))


def disconnect(runs: Path) -> None:
    """Forget the cluster; jobs that run there run on."""
    access.require_editor("disconnect a cluster")
    with writing("The cluster's settings cannot be removed"):
        for name in (CLUSTER_FILE, CONTACT_FILE):
            (Path(runs) / name).unlink(missing_ok=True)


def cluster_of(runs: Path) -> Cluster:
    """The cluster of a runs folder.

    Raises:
        ConfigError: it is connected to none, or the settings cannot be read.
    """
    record = files.read_json(Path(runs) / CLUSTER_FILE)
    if record is None:
        raise ConfigError(
            "This runs folder is connected to no cluster",
            found=f"no readable {CLUSTER_FILE} in {runs}",
            remedy="Connect one: `python -m engine cluster --address http://head:8265`",
        )
    known = {item.name: record[item.name] for item in fields(Cluster) if item.name in record}
    try:
        cluster = Cluster(**known)
    except TypeError as error:
        raise ConfigError(
            f"{CLUSTER_FILE} cannot be read", found=str(error), remedy="Give an address"
        ) from error
    _check(cluster)
    return cluster


def _check(cluster: Cluster) -> None:
    parts = urlsplit(str(cluster.address))
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.username:
        raise ConfigError(
            "This is no address of a cluster",
            found=str(cluster.address)[:80],
            remedy="Give http://host:8265, the dashboard of its head",
        )
    for name in ("cpus", "gpus", "processes"):
        value = getattr(cluster, name)
        if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value <= 1024:
            raise ConfigError(
                f"{name} of the cluster is out of range", found=str(value), remedy="Give 0 to 1024"
            )


def token() -> str:
    """The bearer token.

    Raises:
        ConfigError: there is none. A cluster without one runs anybody's code, so it is refused.
    """
    value = os.environ.get("RAY_AUTH_TOKEN", "").strip()
    if not value:
        source = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token")
        with contextlib.suppress(OSError):
            value = source.read_text(encoding="ascii").strip()
    if not value:
        raise ConfigError(
            "There is no token for the cluster",
            found="neither RAY_AUTH_TOKEN nor RAY_AUTH_TOKEN_PATH nor ~/.ray/auth_token",
            remedy="Start the cluster with RAY_AUTH_MODE=token and give its token in RAY_AUTH_TOKEN",
        )
    return value


# -- the Jobs API -----------------------------------------------------------------------------------


class Jobs:
    """The head's REST API. Every method raises RunError: kinds `unreachable`, `token`, `cluster`."""

    def __init__(self, cluster: Cluster):
        self.address = cluster.address.rstrip("/")
        self._headers = {"Authorization": f"Bearer {token()}"}

    def _ask(self, method: str, path: str, body: Any = None) -> tuple[int, str]:
        import requests

        try:
            # Redirects are not followed: they would carry the token to another host.
            answer = requests.request(
                method,
                f"{self.address}{path}",
                json=body,
                headers=self._headers,
                timeout=TIMEOUT_S,
                allow_redirects=False,
            )
        except requests.RequestException as error:
            raise RunError(
                "The cluster does not answer",
                found=f"{self.address}: {type(error).__name__}",
                remedy="See that its head runs and can be reached from here; runs there go on, runs here wait",
                kind="unreachable",
            ) from error
        if answer.status_code in (401, 403):
            raise RunError(
                "The cluster refuses the token",
                found=f"{self.address}: HTTP {answer.status_code}",
                remedy="Give the cluster's own token in RAY_AUTH_TOKEN",
                kind="token",
            )
        return answer.status_code, answer.text

    def _record(self, path: str) -> dict[str, Any]:
        code, text = self._ask("GET", path)
        try:
            record = json.loads(text)
        except ValueError:
            record = None
        if code != 200 or not isinstance(record, dict):
            raise _odd(path, code, text)
        return record

    def version(self) -> str:
        return str(self._record("/api/version").get("ray_version", "unknown"))

    def room(self, cluster: Cluster) -> tuple[int, int]:
        """How many more runs fit now, and how many fit on the idle cluster: whole processes per node."""
        data = self._record("/api/cluster_status").get("data") or {}
        status = data.get("clusterStatus") or {}
        nodes = (status.get("loadMetricsReport") or {}).get("usageByNode") or {}
        wanted = {"CPU": cluster.cpus, "GPU": cluster.gpus}
        now = total = 0
        for usage in nodes.values():
            pairs = [(usage.get(name) or (0.0, 0.0), need) for name, need in wanted.items() if need]
            now += int(min(((have[1] - have[0]) // need for have, need in pairs), default=0))
            total += int(min((have[1] // need for have, need in pairs), default=0))
        return now // max(int(cluster.processes), 1), total // max(int(cluster.processes), 1)

    def submit(
        self,
        submission: str,
        entrypoint: str,
        environment: dict[str, str],
        *,
        cpus: float = 0,
        gpus: float = 0,
        metadata: dict[str, str] | None = None,
    ) -> None:
        """Submit a job; one that is there already under this id counts as submitted."""
        body = {
            "submission_id": submission,
            "entrypoint": entrypoint,
            "entrypoint_num_cpus": cpus,
            "entrypoint_num_gpus": gpus,
            "runtime_env": {"env_vars": environment},
            "metadata": metadata or {},
        }
        try:
            code, text = self._ask("POST", "/api/jobs/", body)
        except RunError as error:
            if error.kind != "unreachable" or self.job(submission).state == ABSENT:
                raise
            return  # the answer was lost, the job was not
        if code != 200 and self.job(submission).state == ABSENT:
            raise _odd("/api/jobs/", code, text)

    def job(self, submission: str) -> Job:
        """What the cluster says of a job; ABSENT when it knows none of this id."""
        path = f"/api/jobs/{quote(submission, safe='')}"
        code, text = self._ask("GET", path)
        if code == 404:
            return Job(ABSENT)
        try:
            record = json.loads(text)
            state = str(record["status"])
        except (ValueError, KeyError, TypeError):
            raise _odd(path, code, text) from None
        if code != 200 or state not in STATES:
            raise _odd(path, code, text)
        return Job(state, str(record.get("message") or ""))

    def stop(self, submission: str) -> None:
        """SIGTERM, STOP_WAIT_S of patience, SIGKILL. A job that is pending stays so: Ray does nothing then."""
        code, text = self._ask("POST", f"/api/jobs/{quote(submission, safe='')}/stop")
        if code not in (200, 404):
            raise _odd("stop", code, text)


def _odd(path: str, code: int, text: str) -> RunError:
    lines = text.strip().splitlines()
    return RunError(
        "The cluster answers something unexpected",
        found=f"HTTP {code} to {path}: {lines[-1][:200] if lines else 'nothing'}",
        remedy="See that the address is the dashboard of a Ray head (port 8265); it is asked again",
        kind="cluster",
    )
