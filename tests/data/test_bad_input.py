"""Every bad input that the data side promises to survive: named in what `check` reports, never a crash, never a
silent wrong pixel, and the rest of the data set stays usable."""

from __future__ import annotations

import io
import json
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from engine import cli
from engine.data import cache
from engine.data.datasets import inspect
from engine.data.files import Problem
from engine.data.images import decode, encode_png
from engine.data.preprocessing import NATIVE
from engine.errors import DataError

PICTURE = np.random.default_rng(0).integers(0, 256, (46, 70, 3), dtype=np.uint8)
GOOD = encode_png(PICTURE)
BREAKHIS_BAD, BAD = "SOB_B_A-14-22549AB-40-009.png", "odd.png"
"""The name of the odd file in a copy of BreakHis, and elsewhere."""


def saved(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def flipped() -> bytes:
    """One bit of the compressed pixels is another one; the header is whole."""
    data = bytearray(GOOD)
    data[GOOD.index(b"IDAT") + 200] ^= 4
    return bytes(data)


def sixteen_bits() -> bytes:
    return saved(Image.fromarray(np.linspace(0, 65535, 46 * 70).astype(np.uint16).reshape(46, 70)))


def bomb() -> bytes:
    """14,000 x 14,000 pixels in 40 kB."""
    header = struct.pack(">IIBBBBB", 14000, 14000, 8, 2, 0, 0, 0)

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    pixels = zlib.compress(bytes(14000 * 3 + 1), 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def turned() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return saved(Image.fromarray(PICTURE), exif=exif)


def with_alpha() -> bytes:
    return saved(Image.fromarray(np.dstack([PICTURE, np.full((46, 70), 128, np.uint8)])))


LEFT_OUT = {
    "truncated": (GOOD[:-40], "truncated"),
    "zero-byte": (b"", "empty"),
    "bit-flipped": (flipped(), "damaged"),
    "14000x14000 bomb": (bomb(), "too_large"),
    "no image at all": (b"only words, whatever the name says", "format"),
}
USED = {
    "16-bit": (sixteen_bits(), "bits"),
    "palette": (saved(Image.fromarray(PICTURE).quantize(16)), "palette"),
    "alpha": (with_alpha(), "alpha"),
    "CMYK JPEG named .png": (saved(Image.new("CMYK", (70, 46), (9, 90, 0, 5)), "JPEG"), "cmyk"),
    "EXIF-rotated": (turned(), "orientation"),
}


def breakhis_copy(root: Path, bad: bytes) -> Path:
    for slide in ("SOB_B_A-14-22549AB", "SOB_M_DC-14-2523"):
        for number in (1, 2, 3):
            put(root / f"{slide}-40-{number:03d}.png", GOOD)
    put(root / BREAKHIS_BAD, bad)
    return root


def folders(root: Path, bad: bytes) -> Path:
    for label in ("benign", "malignant"):
        for number in (1, 2, 3):
            put(root / label / f"{label}{number}.png", GOOD)
    put(root / "benign" / BAD, bad)
    return root


def csv(root: Path, bad: bytes) -> Path:
    names = [f"{number}.png" for number in range(6)]
    for name in names:
        put(root / name, GOOD)
    put(root / BAD, bad)
    lines = [f"{name},{('benign', 'malignant')[n % 2]},c{n}" for n, name in enumerate(names)]
    put(root / "list.csv", "\n".join(["path,label,case", *lines, f"{BAD},benign,c9"]).encode())
    return root / "list.csv"


def put(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


LAYOUTS = pytest.mark.parametrize("layout", [breakhis_copy, folders, csv], ids=lambda make: make.__name__)


def is_bad(path: str) -> bool:
    return Path(path).name in (BREAKHIS_BAD, BAD)


def named(problems: tuple[Problem, ...]) -> dict[str, bool]:
    """Kinds of the problems of the odd file, and whether it was left out for them."""
    return {problem.kind: problem.excluded for problem in problems if is_bad(problem.file)}


@LAYOUTS
@pytest.mark.parametrize("row", list(LEFT_OUT))
def test_what_cannot_be_used_is_named_and_left_out(tmp_path, row, layout):
    data, kind = LEFT_OUT[row]
    source = layout(tmp_path / "data", data)
    manifest, inventory = inspect(source, verify=True)
    assert named(inventory.problems) == {kind: True}
    assert len(manifest) == inventory.images == 6
    assert inventory.usable
    assert not any(map(is_bad, manifest.table["path"]))
    again, known = inspect(source)  # remembered: a scan of headers alone names it too
    assert named(known.problems) == {kind: True}
    assert len(again) == 6


@LAYOUTS
@pytest.mark.parametrize("row", list(USED))
def test_what_is_odd_but_usable_is_named_and_its_pixels_are_right(tmp_path, row, layout):
    data, kind = USED[row]
    manifest, inventory = inspect(layout(tmp_path / "data", data), verify=True)
    assert named(inventory.problems)[kind] is False
    assert len(manifest) == 7
    packed = cache.pack(manifest, NATIVE, tmp_path / "cache")
    position = list(map(is_bad, manifest.table["path"])).index(True)
    assert np.array_equal(packed[position], decode(data))
    if row == "16-bit":
        assert len(np.unique(packed[position])) == 256  # scaled, not clipped to white
    if row == "EXIF-rotated":
        assert np.array_equal(packed[position], PICTURE)


@LAYOUTS
def test_a_bit_that_flips_after_the_check_is_found_when_packing_and_remembered(tmp_path, layout):
    source = layout(tmp_path / "data", GOOD)
    manifest, _ = inspect(source, verify=True)
    manifest.absolute(manifest.table["path"].iloc[-1]).write_bytes(flipped())
    assert len(inspect(source)[0]) == 7  # headers do not show it
    packed = cache.pack(manifest, NATIVE)
    assert [problem.kind for problem in packed.problems] == ["damaged"]
    left, inventory = inspect(source)
    assert len(left) == 6
    assert [problem.kind for problem in inventory.problems] == ["damaged"]


@LAYOUTS
def test_a_file_that_was_copied_again_is_a_new_file(tmp_path, layout):
    source = layout(tmp_path / "data", flipped())
    assert len(inspect(source, verify=True)[0]) == 6
    bad = next(path for path in (tmp_path / "data").rglob("*.png") if is_bad(path.name))
    bad.write_bytes(GOOD)
    os.utime(bad, (1, 1))
    assert len(inspect(source, verify=True)[0]) == 7


def test_odd_names_and_links_in_a_circle_are_named(tmp_path):
    root = folders(tmp_path / "data", GOOD)
    Path(os.fsdecode(os.fsencode(str(root)) + b"/benign/\xff\xfe.png")).write_bytes(GOOD)
    put(root / "benign" / "\u202egnp.1.png", GOOD)  # reads from right to left
    put(root / "benign" / "\u05d0\u05d1\u05d2.png", GOOD)
    (root / "benign" / "circle").symlink_to(root, target_is_directory=True)
    (root / "malignant" / "self").symlink_to(root / "malignant" / "self")
    manifest, inventory = inspect(root, verify=True)
    assert sorted((problem.file, problem.kind) for problem in inventory.problems) == [
        ("benign/\\udcff\\udcfe.png", "encoding"),
        ("benign/circle/", "link"),
        ("malignant/self", "link"),
    ]
    assert len(manifest) == 9
    assert (cache.pack(manifest, NATIVE).readable).all()
    json.dumps(inventory.as_record(), ensure_ascii=False).encode("utf-8")
    assert "\u202e" not in inventory.as_text()


def test_an_unreadable_folder_and_an_empty_class_are_named(tmp_path, monkeypatch):
    root = folders(tmp_path / "data", GOOD)
    (root / "in situ").mkdir()
    put(root / "malignant" / "locked" / "1.png", GOOD)
    real = os.scandir

    def refuse(path):
        if Path(path).name == "locked":
            raise PermissionError(13, "Permission denied")
        return real(path)

    monkeypatch.setattr("engine.data.files.os.scandir", refuse)
    manifest, inventory = inspect(root, verify=True)
    assert [(problem.file, problem.kind) for problem in inventory.problems] == [
        ("malignant/locked/", "folder"),
        ("in situ", "empty_class"),
    ]
    assert len(manifest) == 7


def test_a_csv_names_duplicate_ids_and_paths_outside_its_root(tmp_path):
    source = csv(tmp_path / "data", GOOD)
    put(tmp_path / "secret.png", GOOD)
    text = source.read_text()
    source.write_text(
        f"{text}\n0.png,malignant,c1\n{tmp_path}/secret.png,benign,c1\n../secret.png,benign,c1\n"
    )
    manifest, inventory = inspect(source, verify=True)
    assert [problem.kind for problem in inventory.problems] == ["duplicate_id", "outside", "outside"]
    assert len(manifest) == 7


def test_check_reports_a_csv_without_its_columns_as_json_and_ends_with_1(tmp_path, capsys):
    put(tmp_path / "list.csv", b"file_path,diagnosed\na.png,benign\n")
    assert cli.main(["check", str(tmp_path / "list.csv"), "--json"]) == 1
    record = json.loads(capsys.readouterr().out)
    assert (record["usable"], record["images"]) == (False, 0)
    assert "lacks the column path and label" in record["problems"][0]["message"]


def test_check_names_all_rows_at_once_and_counts_the_rest(tmp_path, capsys):
    root = breakhis_copy(tmp_path / "data", GOOD)
    rows = {**LEFT_OUT, **USED}
    for number, (data, _) in enumerate(rows.values()):
        put(root / f"SOB_B_A-14-22549AB-100-{number:03d}.png", data)
    assert cli.main(["check", str(root), "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    found = {problem["kind"] for problem in record["problems"]}
    assert {kind for _, kind in rows.values()} <= found
    assert record["images"] == 7 + len(USED)
    assert record["usable"]


def test_two_hundred_problems_are_counted_not_listed_in_the_text(tmp_path):
    root = breakhis_copy(tmp_path / "data", GOOD)
    for number in range(200):
        put(root / f"SOB_B_A-14-22549AB-200-{number:03d}.png", b"")
    _, inventory = inspect(root)
    assert len(inventory.as_record()["problems"]) == 200
    lines = inventory.as_text().splitlines()
    assert len(lines) < 120
    assert "... and 100 more (100 empty); --json names all of them" in lines


@LAYOUTS
def test_a_data_set_of_nothing_but_broken_files_is_one_sentence(tmp_path, layout):
    source = layout(tmp_path / "data", flipped())
    for path in (tmp_path / "data").rglob("*.png"):
        path.write_bytes(flipped())
    with pytest.raises(DataError) as error:
        inspect(source, verify=True)
    assert error.value.kind == "no_usable_images"
