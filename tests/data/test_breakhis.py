"""The grammar and the layout: any copy is read, anything wrong is named."""

import os
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.data.breakhis import SUBTYPES, find_layout, load_dataset, parse_name, scan, slide_facts
from engine.data.images import encode_png
from engine.errors import DataError

REAL = Path(__file__).resolve().parents[2] / ".." / "shared" / "breakhis"
PIXELS = encode_png(np.full((46, 70, 3), 200, np.uint8))


def put(root: Path, path: str, content: bytes = PIXELS) -> Path:
    target = root / path
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(content)
    return target


def fill(root: Path, prefix: str = "") -> Path:
    for slide in ("SOB_B_A-14-22549AB", "SOB_M_DC-14-2523"):
        subtype = "adenosis" if "_B_" in slide else "ductal_carcinoma"
        label = "benign" if "_B_" in slide else "malignant"
        folder = f"{prefix}histology_slides/breast/{label}/SOB/{subtype}/{slide.replace('-14-', '_14-')}"
        for power in (40, 100):
            for number in (1, 2):
                put(root, f"{folder}/{power}X/{slide}-{power}-{number:03d}.png")
    return root


@given(row=st.sampled_from(slide_facts().to_dict("records")), number=st.integers(1, 999))
def test_the_grammar_reads_every_slide_of_the_release(row, number):
    for magnification in ("40X", "100X", "200X", "400X"):
        name = f"{row['slide']}-{magnification[:-1]}-{number:03d}.png"
        parsed = parse_name(name)
        assert parsed is not None
        assert parsed.slide == row["slide"]
        assert parsed.case == row["case"]
        assert parsed.label == row["label"]
        assert parsed.subtype == row["subtype"]
        assert parsed.magnification == magnification
        assert parsed.sequence == number


@pytest.mark.parametrize(
    "name",
    [
        "",
        "SOB_B_A-14-22549AB-40-001.jpg",
        "SOB_B_A-14-22549AB-50-001.png",
        "SOB_B_A-14-22549ab-40-001.png",
        "SOB_B_DC-14-2523-40-001.png",  # a benign carcinoma
        "SOB_M_A-14-22549AB-40-001.png",
        "SOB_B_A-14-22549AB-40-001.png\n",
        "SOB_B_A-١٤-22549AB-40-001.png",  # digits, but not ASCII
        " SOB_B_A-14-22549AB-40-001.png",
        "SOB_B_A_14-22549AB-40-001.png",
    ],
)
def test_other_names_are_no_breakhis_names(name):
    assert parse_name(name) is None


@given(st.text(max_size=60))
def test_any_text_is_a_name_or_none(text):
    parsed = parse_name(text)
    assert parsed is None or parsed.subtype in SUBTYPES


@pytest.mark.parametrize("prefix", ["", "BreaKHis_v1/", "BreaKHis_v1/BreaKHis_v1/"])
def test_any_copy_gives_the_same_manifest(tmp_path, prefix):
    manifest, inventory = scan(fill(tmp_path, prefix))
    assert inventory.images == 8
    assert inventory.slides == inventory.cases == 2
    assert inventory.counts.loc["benign", "40X"] == 2
    assert inventory.counts.loc["malignant", "400X"] == 0
    assert inventory.problems == ()
    assert inventory.usable
    assert manifest.table["image_id"].is_monotonic_increasing
    assert all(manifest.absolute(path).is_file() for path in manifest.table["path"])


def test_a_folder_inside_and_a_plain_folder_are_read_too(tmp_path):
    fill(tmp_path / "copy")
    assert len(load_dataset(tmp_path / "copy" / "histology_slides" / "breast" / "benign")) == 4
    plain = tmp_path / "plain"
    plain.mkdir()
    for path in (tmp_path / "copy").rglob("*.png"):
        shutil.copy(path, plain)
    assert len(load_dataset(plain)) == 8


def test_problems_are_named_and_the_rest_stays_usable(tmp_path):
    fill(tmp_path)
    first = next(tmp_path.rglob("SOB_B*-40-001.png"))
    folder = first.parent
    (folder / "SOB_B_A-14-22549AB-40-003.png").write_bytes(b"")
    (folder / "SOB_B_A-14-22549AB-40-004.png").write_bytes(PIXELS[:-20])
    (folder / "SOB_B_A-14-22549AB-40-005.png").write_bytes(b"not an image at all, only words")
    (folder / "SOB_M_DC-14-2523-40-009.png").write_bytes(PIXELS)
    (folder / "SOB_B_A-14-22549AB-100-009.png").write_bytes(PIXELS)
    (folder / "SOB_B_A-14-22549CD-40-009.png").write_bytes(PIXELS)
    (folder / "holiday.png").write_bytes(PIXELS)
    put(tmp_path, f"again/{first.name}")
    manifest, inventory = scan(tmp_path)
    kinds = {Path(problem.file).name: problem.kind for problem in inventory.problems}
    assert kinds == {
        "SOB_B_A-14-22549AB-40-003.png": "empty",
        "SOB_B_A-14-22549AB-40-004.png": "truncated",
        "SOB_B_A-14-22549AB-40-005.png": "format",
        "SOB_M_DC-14-2523-40-009.png": "misfiled",
        "SOB_B_A-14-22549AB-100-009.png": "misfiled",
        "SOB_B_A-14-22549CD-40-009.png": "misfiled",
        "holiday.png": "name",
        first.name: "duplicate_name",
    }
    assert len(manifest) == 8
    assert inventory.usable


def test_a_jpeg_named_png_is_used_with_a_remark(tmp_path):
    from io import BytesIO

    from PIL import Image

    fill(tmp_path)
    buffer = BytesIO()
    Image.new("CMYK", (70, 46)).save(buffer, "JPEG")
    next(tmp_path.rglob("*-40-001.png")).write_bytes(buffer.getvalue())
    manifest, inventory = scan(tmp_path)
    assert len(manifest) == 8
    assert {(problem.kind, problem.excluded) for problem in inventory.problems} == {
        ("format", False),
        ("cmyk", False),
    }


def test_odd_names_and_links_in_a_circle_do_no_harm(tmp_path):
    fill(tmp_path)
    (tmp_path / "circle").symlink_to(tmp_path, target_is_directory=True)
    (tmp_path / "self").symlink_to(tmp_path / "self")
    odd = os.fsdecode(os.fsencode(str(tmp_path)) + b"/SOB_\xff.png")
    Path(odd).write_bytes(PIXELS)
    (tmp_path / "\u202egnp.png").write_bytes(PIXELS)
    manifest, inventory = scan(tmp_path)
    assert len(manifest) == 8
    assert {problem.kind for problem in inventory.problems} == {"encoding", "link", "name"}
    for problem in inventory.problems:
        problem.file.encode("utf-8")
        assert "\u202e" not in problem.file


def test_a_folder_that_cannot_be_read_is_named(tmp_path, monkeypatch):
    from engine.data import files

    fill(tmp_path)
    (tmp_path / "locked").mkdir()
    real = os.scandir

    def refuse(path):
        if Path(path).name == "locked":
            raise PermissionError(13, "Permission denied")
        return real(path)

    monkeypatch.setattr(files.os, "scandir", refuse)
    manifest, inventory = scan(tmp_path)
    assert len(manifest) == 8
    assert [(problem.file, problem.kind) for problem in inventory.problems] == [("locked/", "folder")]


def test_one_class_alone_is_not_usable(tmp_path):
    fill(tmp_path)
    _, inventory = scan(tmp_path / "histology_slides" / "breast" / "benign")
    assert not inventory.usable
    assert [problem.kind for problem in inventory.problems] == ["empty_class"]
    assert inventory.as_record()["counts"]["malignant"]["40X"] == 0


def test_folders_without_breakhis_images_say_what_was_found(tmp_path):
    with pytest.raises(DataError) as error:
        scan(tmp_path / "absent")
    assert error.value.kind == "folder_missing"
    with pytest.raises(DataError) as error:
        scan(put(tmp_path, "note.txt"))
    assert error.value.kind == "not_a_folder"
    with pytest.raises(DataError) as error:
        scan(tmp_path)
    assert error.value.kind == "no_images"
    assert "note.txt" in str(error.value.found)
    put(tmp_path, "cat.png")
    with pytest.raises(DataError) as error:
        find_layout(tmp_path)
    assert error.value.kind == "layout"
    assert "cat.png" in str(error.value.found)


def test_a_data_set_of_broken_files_says_so(tmp_path):
    put(tmp_path, "SOB_B_A-14-22549AB-40-001.png", b"")
    with pytest.raises(DataError) as error:
        scan(tmp_path)
    assert error.value.kind == "no_usable_images"


def test_progress_ends_at_the_total(tmp_path):
    calls: list[tuple[int, int]] = []
    scan(fill(tmp_path), lambda done, total: calls.append((done, total)))
    assert calls[-1] == (8, 8)


@pytest.mark.real
@pytest.mark.skipif(not REAL.is_dir(), reason="no real BreakHis images beside the repository")
def test_the_real_images_are_counted():
    manifest, inventory = scan(REAL)
    record = inventory.as_record()
    assert (record["images"], record["slides"], record["cases"]) == (174, 24, 20)
    assert record["problems"] == []
    assert record["counts"]["benign"]["100X"] == 71
    assert len(manifest) == 174


@pytest.mark.slow
def test_all_7909_names_are_checked_in_seconds(tmp_path):
    """A replica of the release in Kaggle's layout: every slide, every number of images; one picture, linked."""
    first = put(tmp_path, ".one.png")
    top = tmp_path / "BreaKHis_v1" / "BreaKHis_v1" / "histology_slides" / "breast"
    for slide in slide_facts().itertuples():
        folder = top / slide.label / "SOB" / SUBTYPES[slide.subtype] / slide.slide.replace("-", "_", 1)
        for power in ("40", "100", "200", "400"):
            (folder / f"{power}X").mkdir(parents=True)
            for number in range(1, getattr(slide, f"images_{power}X") + 1):
                os.link(first, folder / f"{power}X" / f"{slide.slide}-{power}-{number:03d}.png")
    began = time.perf_counter()
    manifest, inventory = scan(tmp_path)
    assert time.perf_counter() - began < 15
    assert len(manifest) == 7909
    assert inventory.problems == ()
    assert inventory.official is not None
    assert inventory.official.complete
