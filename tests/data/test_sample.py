"""The sample data set: synthetic, deterministic, in the official grammar, mistaken for BreakHis by nobody."""

import hashlib
from pathlib import Path

import numpy as np
import pytest

from engine.data.breakhis import scan, slide_facts
from engine.data.images import decode, encode_png
from engine.data.sample import is_sample, write_sample
from engine.data.splits import SplitSpec, make_split
from engine.errors import DataError


def digest(root: Path) -> dict[str, str]:
    return {
        path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*.png"))
    }


@pytest.mark.slow
def test_sample_is_deterministic_and_follows_its_seed(tmp_path):
    for name, seed in (("one", 0), ("two", 0), ("three", 1)):
        assert write_sample(tmp_path / name, seed, slides=2, per_magnification=1) == 8
    assert digest(tmp_path / "one") == digest(tmp_path / "two")
    assert digest(tmp_path / "one").keys() == digest(tmp_path / "three").keys()
    assert digest(tmp_path / "one") != digest(tmp_path / "three")


@pytest.mark.slow
def test_sample_reads_as_breakhis_with_cases_that_breakhis_has_not(tmp_path):
    calls = []
    write_sample(tmp_path, slides=3, per_magnification=1, progress=lambda *step: calls.append(step))
    manifest, inventory = scan(tmp_path)
    assert calls[-1] == (12, 12)
    assert inventory.usable
    assert inventory.problems == ()
    assert inventory.slides == 3
    assert inventory.cases == 2  # the first case has two slides
    assert not set(manifest.table["case"]) & set(slide_facts()["case"])
    assert decode(manifest.absolute(manifest.table["path"][0])).shape == (230, 350, 3)
    assert is_sample(tmp_path)
    assert "not BreakHis" in (tmp_path / "README.txt").read_text()


def test_sample_plan_has_what_the_demo_needs(tmp_path, monkeypatch):
    """All 600 files, with the drawing left out."""
    from engine.data import sample

    def pretend(target, slide, seed, per_magnification):
        pixels = encode_png(np.zeros((2, 3, 3), np.uint8))
        for magnification in sample.MAGNIFICATIONS:
            folder = target / slide.folder(magnification)
            folder.mkdir(parents=True)
            for sequence in range(1, per_magnification + 1):
                (folder / slide.name(magnification, sequence)).write_bytes(pixels)
        return 4 * per_magnification

    monkeypatch.setattr(sample, "_write_slide", pretend)
    assert write_sample(tmp_path) == 600
    manifest, inventory = scan(tmp_path)
    assert (inventory.images, inventory.cases, inventory.slides) == (600, 26, 30)
    assert manifest.table["subtype"].nunique() == 8
    assert (inventory.counts > 0).all().all()
    for fold in range(5):
        split = make_split(manifest, SplitSpec("case", fold)).table
        assert split.groupby("case")["split"].nunique().max() == 1


def test_a_folder_with_other_things_is_left_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(DataError) as error:
        write_sample(tmp_path, slides=1)
    assert error.value.kind == "not_empty"
    assert (tmp_path / "thesis.txt").exists()


def test_a_target_that_cannot_be_written_is_a_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError) as error:
        write_sample(tmp_path / "file" / "sample", slides=1)
    assert error.value.kind == "unwritable"
