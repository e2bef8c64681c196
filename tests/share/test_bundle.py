"""Bundles: there and back, and everything that must not be let in."""

from __future__ import annotations

import hashlib
import io
import json
import stat
import zipfile
from pathlib import Path

import fabricate
import numpy as np
import pytest

from engine.errors import AccessError, ShareError
from engine.runs.ensembles import ensemble_runs
from engine.runs.folder import RunFolder, run_folders
from engine.share import access, bundle


@pytest.fixture
def trained(tmp_path: Path) -> RunFolder:
    """A finished run with (tiny) weights."""
    from safetensors.numpy import save_file

    folder = fabricate.run(tmp_path / "runs", name="lite0 <b>", epochs=2)
    save_file({"head.weight": np.ones((2, 3), np.float32)}, folder.best)
    (folder.path / "last.ckpt").write_bytes(b"\x80\x04pickle")
    return folder


@pytest.fixture
def zipped(trained: RunFolder, tmp_path: Path) -> Path:
    return bundle.write_bundle(trained, tmp_path / "run.zip")


def repacked(source: Path, target: Path, change) -> Path:
    """The bundle with its files passed through `change(dict) -> dict`, its list of files made again."""
    with zipfile.ZipFile(source) as archive:
        held = {name: archive.read(name) for name in archive.namelist()}
    record = json.loads(held.pop("bundle.json"))
    held = change(held)
    record["files"] = [
        {"path": name, "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        for name, data in held.items()
    ]
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in held.items():
            archive.writestr(name, data)
        archive.writestr("bundle.json", json.dumps(record))
    return target


def refused(source: Path, runs: Path, words: str) -> ShareError:
    with pytest.raises(ShareError, match=words) as caught:
        bundle.read_bundle(source, runs)
    assert run_folders(runs) == []
    assert [path.name for path in runs.iterdir() if path.name != access.LOG] == [], (
        "something was left behind"
    )
    return caught.value


def test_a_run_comes_back_as_it_was(trained, zipped, tmp_path):
    (imported,) = bundle.read_bundle(zipped, tmp_path / "there", data_root="/data")
    assert imported.id == trained.id
    assert imported.name == "lite0 <b>"
    assert imported.state() == "completed"
    assert imported.predictions("test").equals(trained.predictions("test"))
    assert imported.best.read_bytes() == trained.best.read_bytes()
    assert imported.config().data.root == "/data"
    assert imported.audit()["level"] == "clean"
    assert not imported.last.exists()


@pytest.mark.slow
def test_the_weights_of_an_imported_run_load(tmp_path):
    import torch

    from engine.training import checkpoint

    trained = fabricate.run(tmp_path / "runs", epochs=1)
    checkpoint.save_weights(trained.best, {"head.weight": torch.ones(2, 3)}, {})
    target = bundle.write_bundle(trained, tmp_path / "run.zip")
    (imported,) = bundle.read_bundle(target, tmp_path / "there")
    state, _ = checkpoint.load_weights(imported.best)
    assert torch.equal(state["head.weight"], torch.ones(2, 3))


def test_a_bundle_names_no_folder_of_this_machine_and_no_checkpoint(zipped, tmp_path):
    with zipfile.ZipFile(zipped) as archive:
        assert not any("ckpt" in name or "log" in name for name in archive.namelist())
        assert not any(str(tmp_path).encode() in archive.read(name) for name in archive.namelist())
        card = archive.read(next(name for name in archive.namelist() if name.endswith("card.md"))).decode()
    assert "Clean" in card
    assert "<b>" not in card


def test_importing_twice_is_once(zipped, tmp_path):
    first = bundle.read_bundle(zipped, tmp_path / "there")
    assert [run.id for run in bundle.read_bundle(zipped, tmp_path / "there")] == [run.id for run in first]
    assert len(run_folders(tmp_path / "there")) == 1


@pytest.mark.slow
def test_an_ensemble_brings_its_members(tmp_path):
    runs = tmp_path / "runs"
    members = [fabricate.run(runs, name=f"m{seed}", seed=seed, epochs=1) for seed in range(3)]
    ensemble_runs(members, "mean", name="together", runs=runs)
    (saved,) = [run for run in run_folders(runs) if run.config().kind == "ensemble"]
    target = bundle.write_bundle(saved, tmp_path / "ensemble.zip")
    imported = bundle.read_bundle(target, tmp_path / "there")
    assert [run.id for run in imported[:-1]] == [run.id for run in members]
    assert imported[-1].config().details["members"] == [run.id for run in members]
    assert imported[-1].predictions("test").equals(saved.predictions("test"))


def test_a_bundle_cannot_claim_a_clean_split(tmp_path):
    leaking = fabricate.run(tmp_path / "runs", protocol="image", epochs=1)
    source = bundle.write_bundle(leaking, tmp_path / "run.zip")

    def lie(held):
        name = f"runs/{leaking.id}/config.json"
        record = json.loads(held[name])
        record["audit"] = {"level": "clean", "verdict": "Clean: no case is on two sides."}
        return {**held, name: json.dumps(record).encode()}

    (imported,) = bundle.read_bundle(repacked(source, tmp_path / "lie.zip", lie), tmp_path / "there")
    assert imported.audit()["level"] == "leak"


@pytest.mark.parametrize(
    "name",
    [
        "../evil.txt",
        "/etc/cron.d/evil",
        "runs/../../evil.txt",
        "runs\\..\\evil.txt",
        "C:/evil.txt",
        "evil.py",
        "{run}/best.pt",
        "{run}/last.ckpt",
        "{run}/maps/x.npz",
        "{run}/predictions/../../../evil.csv",
        "{run}/.lock",
    ],
)
def test_files_that_do_not_belong_are_refused(trained, zipped, tmp_path, name):
    name = name.format(run=f"runs/{trained.id}")
    evil = repacked(zipped, tmp_path / "evil.zip", lambda held: {**held, name: b"x"})
    refused(evil, tmp_path / "there", "do not belong")
    assert not list(tmp_path.rglob("evil.txt"))


def test_links_are_refused(trained, zipped, tmp_path):
    link = zipfile.ZipInfo(f"runs/{trained.id}/label.json")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(zipped) as archive:
        held = {name: archive.read(name) for name in archive.namelist() if name != link.filename}
    with zipfile.ZipFile(tmp_path / "evil.zip", "w") as archive:
        for name, data in held.items():
            archive.writestr(name, data)
        archive.writestr(link, "/etc/passwd")
    refused(tmp_path / "evil.zip", tmp_path / "there", "link")


def test_a_flipped_byte_is_found(trained, zipped, tmp_path):
    with zipfile.ZipFile(zipped) as archive:
        held = {name: archive.read(name) for name in archive.namelist()}
    name = f"runs/{trained.id}/predictions/test.csv"
    held[name] = held[name][:-3] + b"9" + held[name][-2:]
    with zipfile.ZipFile(tmp_path / "evil.zip", "w") as archive:
        for one, data in held.items():
            archive.writestr(one, data)
    assert refused(tmp_path / "evil.zip", tmp_path / "there", "sha256").kind == "hash"


def test_a_pickle_under_the_name_of_weights_is_refused(trained, zipped, tmp_path):
    name = f"runs/{trained.id}/best.safetensors"
    for data in (b"\x80\x04\x95 os.system", b"PK\x03\x04 a torch zip", b"\x00" * 40, b"", b"{}"):
        evil = repacked(zipped, tmp_path / "evil.zip", lambda held, data=data: {**held, name: data})
        refused(evil, tmp_path / "there", "weights")


def test_bombs_are_refused_before_they_are_unpacked(trained, zipped, tmp_path):
    name = f"runs/{trained.id}/predictions/train.csv"
    evil = repacked(zipped, tmp_path / "evil.zip", lambda held: {**held, name: b"0" * 60_000_000})
    assert evil.stat().st_size < 500_000
    refused(evil, tmp_path / "there", "far more")


def test_a_size_that_lies_is_found(trained, zipped, tmp_path):
    """The central directory says 10 bytes, the data inflate to more."""
    with zipfile.ZipFile(zipped) as archive:
        held = {name: archive.read(name) for name in archive.namelist()}
    record = json.loads(held["bundle.json"])
    record["files"][0]["bytes"] = 10
    held["bundle.json"] = json.dumps(record).encode()
    with zipfile.ZipFile(tmp_path / "evil.zip", "w") as archive:
        for one, data in held.items():
            archive.writestr(one, data)
    refused(tmp_path / "evil.zip", tmp_path / "there", "longer than it says")


def test_a_manifest_cannot_point_outside_its_data(trained, zipped, tmp_path):
    name = f"runs/{trained.id}/manifest.csv"

    def lead_out(held):
        return {**held, name: held[name].replace(b"benign/SOB", b"../../SOB", 1)}

    refused(repacked(zipped, tmp_path / "evil.zip", lead_out), tmp_path / "there", "outside")


@pytest.mark.parametrize(
    "data", [b"", b"<html>", b"MZ\x90\x00", b"PK\x03\x04", b"\x89PNG\r\n\x1a\n", b"PK\x05\x06" + b"\0" * 18]
)
def test_what_is_no_bundle_is_refused(tmp_path, data):
    (tmp_path / "evil.zip").write_bytes(data)
    refused(tmp_path / "evil.zip", tmp_path / "there", "not a bundle")


def test_a_truncated_bundle_is_refused(zipped, tmp_path):
    data = zipped.read_bytes()
    for cut in (10, len(data) // 2, len(data) - 5):
        (tmp_path / "cut.zip").write_bytes(data[:cut])
        refused(tmp_path / "cut.zip", tmp_path / "there", "bundle")


def test_mutated_bundles_never_crash_and_never_leave_anything(zipped, tmp_path):
    data = bytearray(zipped.read_bytes())
    drawn = np.random.default_rng(0)
    for trial in range(60):
        changed = bytearray(data)
        for _ in range(4):
            changed[int(drawn.integers(len(changed)))] = int(drawn.integers(256))
        runs = tmp_path / f"there{trial}"
        try:
            bundle.read_bundle(io.BytesIO(bytes(changed)), runs)  # type: ignore[arg-type]
        except ShareError:
            assert run_folders(runs) == []


def test_a_different_run_of_the_same_id_is_not_overwritten(trained, zipped, tmp_path):
    runs = tmp_path / "there"
    (imported,) = bundle.read_bundle(zipped, runs)
    (imported.path / "predictions" / "test.csv").write_text("mine")
    with pytest.raises(ShareError, match="same id"):
        bundle.read_bundle(zipped, runs)
    assert (imported.path / "predictions" / "test.csv").read_text() == "mine"


def test_a_run_that_has_not_ended_is_not_bundled(tmp_path):
    with fabricate.running(tmp_path / "runs") as folder, pytest.raises(ShareError, match="not ended"):
        bundle.write_bundle(folder, tmp_path / "x.zip")


def test_viewers_may_not_import(zipped, tmp_path):
    access.serve(lambda: access.Actor("v", access.VIEWER, "v is a viewer here"))
    try:
        with pytest.raises(AccessError):
            bundle.read_bundle(zipped, tmp_path / "there")
    finally:
        access.serve(None)
    assert not (tmp_path / "there").exists()


def test_what_training_images_look_like_travels_and_a_forged_one_is_refused(trained, zipped, tmp_path):
    """An imported run warns of unlike images though its training images are elsewhere."""
    import numpy as np

    from engine.predict import appearance

    drawn = np.random.default_rng(0)
    looks = [appearance.Look(drawn.normal(size=6), drawn.normal(size=5)) for _ in range(40)]
    made = appearance.fit(looks, [f"case {k % 8}" for k in range(40)], ["100X"] * 40)
    (trained.path / appearance.FILE).write_text(json.dumps(made.as_record()), encoding="utf-8")
    source = bundle.write_bundle(trained, tmp_path / "with.zip")
    (imported,) = bundle.read_bundle(source, tmp_path / "elsewhere")
    assert appearance.of_run(imported).stain_limit == pytest.approx(made.stain_limit)
    (trained.path / appearance.FILE).write_text('{"schema": 1, "stain": []}', encoding="utf-8")
    forged = bundle.write_bundle(trained, tmp_path / "forged.zip")
    (trained.path / appearance.FILE).unlink()
    with pytest.raises(ShareError, match="cannot be read"):
        bundle.read_bundle(forged, tmp_path / "elsewhere2")
