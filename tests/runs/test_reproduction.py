"""The study once more, exercised on fabricated images with tiny settings: ten real models, six ensembles, the table."""

from __future__ import annotations

import json

import fabricate
import pytest

from engine import cli
from engine.errors import ConfigError
from engine.runs import catalog, launch, reproduction, supervisor, worker
from engine.runs.config import RunConfig
from engine.runs.folder import RunFolder
from engine.runs.listing import summaries
from engine.runs.status import QUEUED


def test_the_ten_models_and_six_ensembles_are_the_published_rows():
    from engine.analysis import study

    assert set(reproduction.rows()) == set(study.published()["model"])
    planned = reproduction.plan(RunConfig(experiment="x").changed(data__protocol="image"))
    assert [one.details["study"] for one in planned] == list(reproduction.NAMES)
    assert [one.model.name for one in planned] == list(catalog.STUDY)


@pytest.fixture
def at_once(monkeypatch):
    """Queued runs are left for the test to work on, in this process."""
    monkeypatch.setattr(supervisor, "ensure", lambda runs: None)


def work_all(runs) -> None:
    """What the supervisor would do, until nothing waits."""
    while waiting := [one for one in summaries(runs) if one.state == QUEUED]:
        for one in reversed(waiting):
            assert worker.work(RunFolder(runs / one.id).path) == worker.EXIT_COMPLETED


@pytest.mark.slow
def test_the_whole_reproduction_on_tiny_settings(at_once, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("BREAKHIS_CACHE", str(tmp_path / "cache"))
    (tmp_path / "data").mkdir()
    fabricate.write_images(tmp_path / "data")
    runs = tmp_path / "runs"
    words = ["reproduce-study", "--data", str(tmp_path / "data"), "--runs", str(runs), "--pretrained", "none"]
    words += ["--magnification", "40X"]
    words += [
        "--epochs",
        "1",
        "--image-size",
        "32",
        "--device",
        "cpu",
        "--precision",
        "fp32",
        "--detach",
        "--json",
    ]
    assert cli.main(words) == 0
    queued = json.loads(capsys.readouterr().out)
    assert (queued["complete"], queued["waiting"]) == (False, 10)
    work_all(runs)
    capsys.readouterr()
    assert cli.main(words) == 0  # called again: nothing new is queued, the table is printed
    found = json.loads(capsys.readouterr().out)
    assert found["complete"]
    assert len(found["rows"]) == len(summaries(runs)) == 16
    assert all(0 <= row["ours"] <= 1 and row["n"] > 0 for row in found["rows"])
    assert len({row["n"] for row in found["rows"]}) == 1  # one and the same test part
    aspects = {row["aspect"]: row["ours"] for row in found["differences"]}
    assert aspects["epochs"] == "1"
    assert aspects["first weights"] == "random"
    assert "has not been made by the authors" in found["note"]
    fusion = next(one for one in summaries(runs) if one.config.kind == "fusion")
    assert fusion.config.details["as_study"]
    with pytest.raises(ConfigError, match="other settings"):
        reproduction.start(
            RunConfig(experiment=reproduction.EXPERIMENT).changed(data__root=str(tmp_path / "data")), runs
        )
    text = reproduction.as_text(runs)
    assert "V2 fusion MLP" in text
    assert "cases" in text


def test_what_ended_early_is_resumed_and_what_is_missing_is_queued(at_once, tmp_path):
    (tmp_path / "data").mkdir()
    fabricate.write_images(tmp_path / "data")
    base = RunConfig(experiment="again").changed(
        data__root=str(tmp_path / "data"), data__protocol="image", model__pretrained="none"
    )
    runs = tmp_path / "runs"
    first = reproduction.plan(base)[3]
    launch.start_all([first], runs)
    (one,) = summaries(runs)
    launch.stop(RunFolder(runs / one.id))
    now = reproduction.start(base, runs)
    assert now.waiting == 10
    assert now.members["V1-B3"].id == one.id
    assert not now.complete
    assert reproduction.table(runs, "again")["n"].sum() == 0
