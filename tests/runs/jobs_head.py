"""A Ray head's Jobs API as it behaves in 2.60, with faults to switch on; its jobs are real processes."""

from __future__ import annotations

import json
import shlex
import subprocess
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pretend
import pytest

from engine.runs.executors import jobs, local, ray
from engine.runs.executors.jobs import Cluster, connect

TOKEN = "a-token"


class Head:
    """A Ray head as its Jobs API behaves in 2.60, with faults to switch on.

    `auto` runs entrypoints at once as real processes; otherwise jobs stay PENDING until `begin`.
    """

    def __init__(self):
        self.jobs: dict[str, dict] = {}
        self.processes: dict[str, subprocess.Popen] = {}
        self.requests: list[tuple[str, str]] = []
        self.faults: dict[str, object] = {}
        self.auto = True
        self.nodes = {"a": {"CPU": [0.0, 1.0]}, "b": {"CPU": [0.0, 1.0]}}
        head = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_):
                pass

            def do_GET(self):
                head.answer(self, "GET")

            def do_POST(self):
                head.answer(self, "POST")

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

    def close(self):
        self.server.shutdown()
        self.server.server_close()
        for process in self.processes.values():
            if process.poll() is None:
                process.kill()
            process.wait(5)

    # -- what a test does to it --------------------------------------------------------------
    def begin(self, name: str) -> None:
        job = self.jobs[name]
        job["status"] = "RUNNING"
        self.processes[name] = subprocess.Popen(
            ["sh", "-c", job["entrypoint"]],
            cwd=local.ROOT,
            start_new_session=True,
            env={**local.os.environ, **job["runtime_env"]["env_vars"]},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def look(self) -> None:
        """Give ended processes the status that Ray gives them."""
        for name, process in self.processes.items():
            job = self.jobs[name]
            if job["status"] == "RUNNING" and process.poll() is not None:
                good = process.returncode == 0
                job["status"] = "SUCCEEDED" if good else "FAILED"
                job["message"] = (
                    ""
                    if good
                    else f"Job entrypoint command failed with exit code {process.returncode}, last logs: ..."
                )

    # -- what it answers ---------------------------------------------------------------------
    def answer(self, http, method: str) -> None:
        path = http.path
        self.requests.append((method, path))
        body = http.rfile.read(int(http.headers.get("Content-Length") or 0))
        if http.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self.say(http, 401, "Unauthorized: Missing authentication token")
        if fault := self.faults.get(f"{method} {path}") or self.faults.get(method):
            if fault == "drop":
                http.connection.close()
                return None
            if fault == "late":  # done, but the answer is lost
                self.submit(json.loads(body))
                http.connection.close()
                return None
            return self.say(http, *fault)
        if path == "/api/version":
            return self.say(http, 200, {"version": "4", "ray_version": "2.60.0"})
        if path == "/api/cluster_status":
            report = {"loadMetricsReport": {"usageByNode": self.nodes}}
            return self.say(http, 200, {"result": True, "data": {"clusterStatus": report}})
        if method == "POST" and path == "/api/jobs/":
            return self.say(http, *self.submit(json.loads(body)))
        name = path.removeprefix("/api/jobs/").removesuffix("/stop")
        self.look()
        if name not in self.jobs:
            return self.say(http, 404, f"Job {name} does not exist")
        if path.endswith("/stop"):
            if self.jobs[name]["status"] == "RUNNING":  # a pending job stays as it is
                self.processes[name].kill()
                self.jobs[name]["status"] = "STOPPED"
            return self.say(http, 200, {"stopped": True})
        return self.say(http, 200, {"type": "SUBMISSION", "submission_id": name, **self.jobs[name]})

    def submit(self, body: dict) -> tuple[int, object]:
        name = body["submission_id"]
        if name in self.jobs:
            return 500, f"Traceback\nValueError: Job with submission_id {name} already exists."
        self.jobs[name] = {"status": "PENDING", "message": "", **body}
        if self.auto:
            self.begin(name)
        return 200, {"submission_id": name}

    def say(self, http, code: int, what: object) -> None:
        data = (what if isinstance(what, str) else json.dumps(what)).encode()
        http.send_response(code)
        http.send_header("Content-Length", str(len(data)))
        http.end_headers()
        http.wfile.write(data)


@pytest.fixture
def head(machine, monkeypatch):
    monkeypatch.setenv("RAY_AUTH_TOKEN", TOKEN)
    monkeypatch.setattr(ray, "entrypoint", lambda cluster, folder: shlex.join(pretend.worker_command(folder)))
    monkeypatch.setattr(jobs, "TIMEOUT_S", (1.0, 5.0))
    found = Head()
    connect(machine.runs, Cluster(found.address))
    yield found
    found.close()
