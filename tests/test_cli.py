"""The command line: one JSON document, one sentence per error, no traceback, every command explained."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from engine import cli
from engine.commands import flags

ROOT = Path(__file__).resolve().parents[1]


def engine(*words, cwd=ROOT, **options) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "engine", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=cwd, **options)


def documented(result: subprocess.CompletedProcess) -> dict:
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


def commands() -> list[str]:
    (action,) = [action for action in cli.parser()._actions if action.dest == "help" or action.choices][1:]
    return list(action.choices)


def test_every_command_explains_itself(capsys):
    for name in commands():
        with pytest.raises(SystemExit) as end:
            cli.main([name, "--help"])
        assert end.value.code == 0
        assert len(capsys.readouterr().out) > 100


def test_underscores_work_like_dashes():
    parser = cli.parser()
    given = parser.parse_args(["train", "--data", "x", "--batch_size", "4", "--image_size", "64"])
    assert (given.batch_size, given.image_size) == (4, 64)


@pytest.mark.parametrize(
    "words",
    [
        ("check", "nowhere"),
        ("show", "20261122-201500-nothing-3f2a"),
        ("stop", "../../etc"),
        ("resume", ""),
        ("compare", "a", "b"),
        ("ensemble", "a", "--method", "mean"),
        ("import", "nowhere.csv", "--name", "x"),
        ("audit", "nowhere.csv"),
        ("predict", "a", "nowhere.png"),
        ("explain", "a", "nowhere.png", "--out", "x.png"),
        ("train", "--data", "nowhere"),
        ("train", "--data", "nowhere", "--model", "tf_efficientnet_b99"),
    ],
)
def test_a_failure_is_a_sentence_and_an_exit_code(words, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code = cli.main([*words, *([] if words[0] in ("check", "audit") else ["--runs", str(tmp_path / "runs")])])
    said = capsys.readouterr()
    assert code != 0
    assert said.out == ""
    assert "Error: " in said.err
    assert "Traceback" not in said.err
    assert said.err.rstrip().endswith(".") or said.err.rstrip().endswith("?")


def test_json_is_exactly_one_document(finished_run, runs_dir, capsys):
    listed = documented(engine("runs", "--runs", runs_dir, "--json"))
    assert [run["id"] for run in listed["runs"]] == [finished_run.id]
    assert cli.main(["show", finished_run.id, "--runs", str(runs_dir), "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert (shown["state"], shown["audit"]["level"]) == ("completed", "clean")
    assert cli.main(["resume", finished_run.id, "--runs", str(runs_dir), "--json"]) == 0
    assert "nothing to resume" in json.loads(capsys.readouterr().out)["message"]


def test_compare_gives_matrices_in_label_order(make_run, runs_dir):
    ids = [make_run(name=str(seed), seed=seed).id for seed in range(2)]
    record = documented(engine("compare", *ids, "--runs", runs_dir, "--json"))
    assert [run["id"] for run in record["runs"]] == ids
    for run in record["runs"]:
        assert set(run["confusion"]) == {"all", "40X", "100X", "200X", "400X"}
        assert run["n"] == sum(map(sum, run["confusion"]["all"]))
        assert 0 <= run["accuracy"] <= 1


def test_delete_and_restore(finished_run, runs_dir, capsys):
    name, where = finished_run.name, ["--runs", str(runs_dir)]
    assert cli.main(["delete", finished_run.id, *where]) == 0
    assert cli.main(["show", finished_run.id, *where]) != 0
    assert "trash" in capsys.readouterr().err
    assert cli.main(["restore", finished_run.id, *where]) == 0
    capsys.readouterr()
    assert cli.main(["show", finished_run.id, *where, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["name"] == name


def test_a_split_of_one_magnification_has_its_hash_and_composition(tmp_path, capsys):
    import fabricate

    fabricate.write_images(tmp_path / "data", cases=6, images=1)
    out = tmp_path / "split.csv"
    words = ["split", str(tmp_path / "data"), "--magnification", "40X,100X", "--out", str(out), "--json"]
    assert cli.main(words) == 0
    record = json.loads(capsys.readouterr().out)
    assert len(record["split_hash"]) == 64
    assert {row["magnification"] for row in record["composition"]} == {"40X", "100X"}
    assert sum(row["images"] for row in record["composition"]) == sum(record["images"].values())
    assert {"label", "subtype", "slides", "cases", "split"} <= set(record["composition"][0])


def test_the_cache_is_listed_and_forgotten(tmp_path, capsys, monkeypatch):
    import fabricate

    monkeypatch.setenv("BREAKHIS_CACHE", str(tmp_path / "cache"))
    fabricate.write_images(tmp_path / "data", cases=3, images=1)
    assert cli.main(["pack", str(tmp_path / "data"), "--image-size", "32", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["problems"] == []
    assert cli.main(["cache", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert [entry["kind"] for entry in listed["entries"]] == ["pixels"]
    assert listed["bytes"] == listed["entries"][0]["bytes"] > 0
    assert cli.main(["cache", "--limit", "0", "--json"]) == 0
    said = capsys.readouterr()
    assert json.loads(said.out)["bytes"] == 0
    assert "Forgot 1 copy" in said.err


@pytest.mark.slow
def test_from_the_sample_to_a_split_and_its_audit(tmp_path):
    assert engine("sample", tmp_path / "sample").returncode == 0
    counts = documented(engine("check", tmp_path / "sample", "--json"))
    assert counts["images"] >= 500
    assert counts["cases"] >= 24
    assert counts["slides"] > counts["cases"]
    for protocol, level, code in (("case", "clean", 0), ("image", "leak", 1)):
        out = tmp_path / f"{protocol}.csv"
        record = documented(
            engine("split", tmp_path / "sample", "--protocol", protocol, "--out", out, "--json")
        )
        assert record["audit"]["level"] == level
        audited = engine("audit", out, "--json")
        assert audited.returncode == code
        assert json.loads(audited.stdout)["level"] == level


def test_a_run_is_forked_with_other_settings_as_its_child(finished_run):
    """`--from` takes a run's settings, flags win, the run is the parent; its checkpoint may give the weights."""
    words = ["start", "--runs", str(finished_run.runs), "--from", finished_run.id, "--data", "elsewhere"]
    given = cli.parser().parse_args([*words, "--epochs", "9", "--from-checkpoint"])
    forked, parent = flags.config(given), finished_run.config()
    assert forked.parent == finished_run.id
    assert (forked.training.epochs, forked.data.root) == (9, "elsewhere")
    assert (forked.training.recipe, forked.model.image_size) == ("quick", parent.model.image_size)
    assert forked.data.fold == parent.data.fold
    assert forked.model.pretrained == str(finished_run.best.resolve())


def test_an_estimate_of_a_run_like_one_that_finished_needs_no_probe(finished_run, capsys, tmp_path):
    import fabricate

    (tmp_path / "data").mkdir()
    fabricate.write_images(tmp_path / "data")
    words = ["estimate", "--runs", str(finished_run.runs), "--from", finished_run.id]
    assert cli.main([*words, "--data", str(tmp_path / "data"), "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)["runs"]
    assert row["source"] == f"scaled from {finished_run.name}"
    assert row["epoch_s"] > 0
