"""Files made to execute something: each would leave a marker, and none does."""

from __future__ import annotations

import hashlib
import io
import json
import pickle
import zipfile
from pathlib import Path

import fabricate
import pytest
from payload import EVIL, Payload

from engine.analysis import importing
from engine.errors import EngineError, ShareError, WeightsError
from engine.runs import catalog
from engine.runs.folder import run_folders
from engine.runs.results import import_predictions
from engine.share import bundle


def sealed(path: Path, data: bytes) -> Path:
    """The file and a checksum that fits it: whoever can write the one can write the other."""
    path.write_bytes(data)
    path.with_name(f"{path.name}.sha256").write_text(hashlib.sha256(data).hexdigest())
    return path


def pickles(marker: Path) -> list[bytes]:
    """The payload as a bare pickle, and inside what torch writes."""
    import torch

    held = io.BytesIO()
    torch.save({"epoch": 1, "model": Payload(marker)}, held)
    old = io.BytesIO()
    torch.save({"epoch": 1, "model": Payload(marker)}, old, _use_new_zipfile_serialization=False)
    return [pickle.dumps(Payload(marker)), held.getvalue(), old.getvalue()]


def test_the_payload_works(tmp_path):
    there = tmp_path / "there"
    pickle.loads(pickle.dumps(Payload(there)))
    assert there.exists()


def test_a_malicious_checkpoint_with_a_fitting_checksum_is_not_executed(tmp_path, marker):
    from engine.training import checkpoint

    for data in pickles(marker):
        assert checkpoint.load_state(sealed(tmp_path / "last.ckpt", data)) is None


def test_malicious_weights_are_refused(tmp_path, marker):
    from engine.training import checkpoint

    for data in pickles(marker):
        with pytest.raises(WeightsError):
            checkpoint.load_weights(sealed(tmp_path / "best.safetensors", data))
        with pytest.raises(pickle.UnpicklingError):
            checkpoint.load_foreign(sealed(tmp_path / "pretrained.pth", data))


def test_a_malicious_bundle_is_refused_whole(tmp_path, marker):
    run = fabricate.run(tmp_path / "runs", seed=1)
    good = bundle.write_bundle(run, tmp_path / "run.zip")
    with zipfile.ZipFile(good) as archive:
        held = {name: archive.read(name) for name in archive.namelist()}
    names = [name for name in held if name.startswith("runs/")]
    for number, data in enumerate(pickles(marker)):
        for name in [*names, f"runs/{run.id}/best.safetensors", f"runs/{run.id}/last.ckpt"]:
            changed = dict(held)
            changed[name] = data
            record_name = next(item for item in held if "/" not in item and item.endswith(".json"))
            record = json.loads(held[record_name])
            listed = record.get("files")
            if isinstance(listed, dict):  # a list of files that fits: the checksum does not save anybody
                listed[name] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
                changed[record_name] = json.dumps(record).encode()
            evil = tmp_path / f"evil{number}.zip"
            with zipfile.ZipFile(evil, "w") as archive:
                for entry, content in changed.items():
                    archive.writestr(entry, content)
            with pytest.raises(ShareError):
                bundle.read_bundle(evil, tmp_path / "there")
            assert run_folders(tmp_path / "there") == []


@pytest.mark.parametrize(
    "cell",
    [
        "__import__('pathlib').Path({marker!r}).touch()",
        "=cmd|'/c touch {marker}'!A1",
        "$(touch {marker})",
        "`touch {marker}`",
        "{{{{ ''.__class__ }}}}",
        "@__import__('pathlib').Path({marker!r}).touch()",
        "../../../../etc/passwd",
        "..%252f..%252fetc%252fpasswd",
        EVIL,
    ],
)
def test_a_malicious_table_is_text(tmp_path, marker, cell):
    cell = cell.format(marker=str(marker)) if "{" in cell else cell
    quoted = '"' + cell.replace('"', '""') + '"'
    source = tmp_path / "foreign.csv"
    rows = [f"{quoted},{quoted},{label},{p}" for label, p in (("benign", 0.2), ("malignant", 0.9))]
    rows[1] = rows[1].replace(quoted, '"b.png"', 1)
    source.write_text("image_id,case,label,prob_malignant\n" + "\n".join(rows) + "\n", encoding="utf-8")
    try:
        table = importing.read_foreign([source])
        made = import_predictions([source], cell[:60], tmp_path / "runs")
    except EngineError:
        return
    assert len(table) == 2
    assert made.path.resolve().parent == (tmp_path / "runs").resolve()
    assert {path.name for path in tmp_path.iterdir()} <= {"foreign.csv", "runs"}


@pytest.mark.parametrize(
    "name", ["hf-hub:evil/model", "https://evil.example/model.pth", "../../model", "local-dir:evil"]
)
def test_a_model_from_elsewhere_cannot_be_named(name):
    with pytest.raises(EngineError):
        catalog.find(name)
