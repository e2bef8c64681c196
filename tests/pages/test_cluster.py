"""The cluster on the pages: offered where there is one, and no contact is said as no contact."""

from __future__ import annotations

import json
import time
from dataclasses import replace

import fabricate
import pytest

from dashboard import cluster_parts, launch_form
from engine.runs import boot, launch
from engine.runs import status as run_status
from engine.runs.config import RunConfig
from engine.runs.executors import CLUSTER_FILE, CONTACT_FILE, ray
from engine.runs.executors.answers import Check
from engine.runs.status import Status


@pytest.fixture(scope="module")
def sample(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sample") / "data"
    fabricate.write_images(folder)
    return str(folder)


@pytest.fixture
def cluster(runs_dir, monkeypatch):
    monkeypatch.setenv("RAY_AUTH_TOKEN", "a-token")
    (runs_dir / CLUSTER_FILE).write_text(json.dumps({"address": "http://head:8265", "gpus": 1}))
    return runs_dir


def where(at):
    return next((box for box in at.selectbox if box.label == "Where it runs"), None)


def test_without_a_cluster_nothing_is_offered(app, sample):
    assert where(app("train", data=sample, model="tf_efficientnet_lite0")) is None


def test_with_a_cluster_the_choice_is_in_the_form_in_the_link_and_in_the_command(app, said, sample, cluster):
    at = app("train", data=sample, model="tf_efficientnet_lite0", pretrained="offline", executor="ray")
    assert where(at).value == "ray"
    assert any("--executor ray" in block.value for block in at.code)
    text = said(at)
    assert "1 CPU, 1 GPU for a run." in text
    assert "It has not been asked yet" in text
    assert not next(button for button in at.button if button.label == "Start 1 run").disabled


def test_what_the_form_holds_survives_the_link():
    base = RunConfig()
    draft = replace(launch_form.draft_of(base), executor="ray")
    params = launch_form.to_params(draft, base)
    assert params == {"executor": "ray"}
    assert launch_form.from_params(params, base) == (draft, [])
    assert launch_form.from_params({"executor": "moon"}, base)[1] == ["executor"]


def test_no_contact_is_said_with_the_time_since_when(app, said, sample, cluster):
    contact = {
        "ok": False,
        "since": time.time() - 600,
        "message": "The cluster does not answer.",
        "at": time.time(),
    }
    (cluster / CONTACT_FILE).write_text(json.dumps(contact))
    text = said(app("train", data=sample, model="tf_efficientnet_lite0", executor="ray"))
    assert "No contact since" in text
    assert "The cluster does not answer." in text
    assert "what waits, waits here" in text


def test_without_a_token_the_problem_is_listed_and_blocks(app, said, sample, cluster, monkeypatch, tmp_path):
    monkeypatch.delenv("RAY_AUTH_TOKEN")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "none"))
    at = app("train", data=sample, model="tf_efficientnet_lite0", pretrained="offline", executor="ray")
    assert "There is no token for the cluster" in said(at)
    assert next(button for button in at.button if button.label == "Start 1 run").disabled


def test_the_run_is_started_where_the_form_says(app, sample, cluster, monkeypatch):
    queued = []
    monkeypatch.setattr(launch, "enqueue", queued.append)
    at = app("train", data=sample, pretrained="offline", executor="ray", recipe="quick", batch_size="8")
    next(button for button in at.button if button.label == "Start 1 run").click().run()
    assert not at.exception
    assert [folder.status().executor for folder in queued] == ["ray"]


def test_the_check_is_shown_line_by_line(app, said, sample, cluster, monkeypatch):
    checks = [Check("reachable", True, "Ray 2.60.0"), Check("shared folder", False, "job failed: <b>no</b>")]
    monkeypatch.setattr(ray, "check_up", lambda runs: checks)
    at = app("train", data=sample, model="tf_efficientnet_lite0", executor="ray")
    next(button for button in at.button if button.label == "Check the cluster").click().run()
    text = said(at)
    assert "The head answers: Ray 2.60.0" in text
    assert "Not so:" in text
    assert "Runs cannot be sent there yet." in text
    assert "<b>no</b>" not in cluster_parts.checks_html(cluster_parts.Checked(0.0, "", tuple(checks)))


def test_a_run_nobody_can_ask_about_is_unknown_and_not_failed(app, said, make_run, cluster, monkeypatch):
    run = make_run(state=run_status.QUEUED)
    run.write_status(Status(executor="ray", submission=f"{run.id}.1").moved(run_status.STARTING))
    late = boot.ticks() + run_status.START_GRACE_S + 5
    monkeypatch.setattr(boot, "ticks", lambda: late)
    contact = {"ok": False, "since": time.time() - 60, "message": "The cluster refuses the token."}
    (cluster / CONTACT_FILE).write_text(json.dumps(contact))
    text = said(app("run", id=run.id))
    assert "It has not failed" in text
    assert "The cluster refuses the token." in text
    assert f"job {run.id}.1" in text
