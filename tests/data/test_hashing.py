"""Fingerprints: the same picture is found however it lies or was saved, and hashing goes on where it stopped."""

import io
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from engine.data import datasets, hashing
from engine.data.audit import audit_images
from engine.data.images import decode, encode_png
from engine.data.manifest import CLASSES, COLUMNS, Manifest


def texture(seed: int, height: int = 92, width: int = 140) -> np.ndarray:
    import cv2

    coarse = np.random.default_rng(seed).integers(0, 256, (height // 6, width // 6, 3), dtype=np.uint8)
    return np.asarray(cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC))


def manifest_of(root: Path, images: dict[str, bytes], **columns) -> Manifest:
    for name, data in images.items():
        (root / name).write_bytes(data)
    rows = [(name, name, CLASSES[n % 2], "", f"c{n}", f"s{n}", "") for n, name in enumerate(images)]
    table = pd.DataFrame(rows, columns=list(COLUMNS), dtype=str).assign(**columns)
    return Manifest(root, CLASSES, table)


def jpeg(image: np.ndarray, quality: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


@pytest.mark.parametrize("number", range(8))
def test_all_eight_positions_are_recognised(number):
    base = texture(0, 128, 128)
    views = [base, base[:, ::-1], base[::-1], base[::-1, ::-1]]
    turned = [view.transpose(1, 0, 2) for view in views]
    view = np.ascontiguousarray((views + turned)[number])
    signs = np.stack([hashing.perceptual_signs(base), hashing.perceptual_signs(view)])
    pairs = hashing.find_pairs(hashing.Hashes(("a", "b"), ("1", "2"), signs, ()))
    assert len(pairs) == 1
    assert pairs[0].distance <= 2
    assert (pairs[0].position == "as it is") == (number == 0)


def test_a_picture_saved_again_is_a_near_duplicate_and_another_is_not():
    base = texture(1, 230, 350)
    darker = (base * 0.8).astype(np.uint8)
    small = np.asarray(Image.fromarray(base).resize((175, 115)))
    signs = [hashing.perceptual_signs(base)]
    signs += [hashing.perceptual_signs(image) for image in (decode(jpeg(base, 40)), darker, small)]
    signs += [hashing.perceptual_signs(texture(seed, 230, 350)) for seed in range(2, 30)]
    names = tuple(str(number) for number in range(len(signs)))
    pairs = hashing.find_pairs(hashing.Hashes(names, names, np.stack(signs), ()))
    assert {(pair.first, pair.second) for pair in pairs} == {(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)}
    assert not any(pair.exact for pair in pairs)


def test_blank_images_match_nothing(tmp_path):
    white = encode_png(np.full((30, 40, 3), 255, np.uint8))
    grey = encode_png(np.full((30, 40, 3), 128, np.uint8))
    hashes = hashing.hash_images(manifest_of(tmp_path, {"a.png": white, "b.png": grey}), tmp_path / "cache")
    assert hashing.find_pairs(hashes) == []


def test_byte_equal_files_are_exact(tmp_path):
    data = encode_png(texture(3))
    hashes = hashing.hash_images(manifest_of(tmp_path, {"a.png": data, "b.png": data}), tmp_path / "cache")
    pairs = hashing.find_pairs(hashes)
    assert [(pair.exact, pair.distance) for pair in pairs] == [(True, 0)]


def test_hashing_goes_on_where_it_stopped(tmp_path, monkeypatch):
    images = {f"{number}.png": encode_png(texture(number)) for number in range(6)}
    manifest = manifest_of(tmp_path, images)
    full = hashing.hash_images(manifest, tmp_path / "one")
    part = manifest.with_table(manifest.table.iloc[:4])
    hashing.hash_images(part, tmp_path / "two")
    store = next((tmp_path / "two").glob("*.jsonl"))
    store.write_text(store.read_text()[:-20])  # the last line torn by an interruption
    decoded = []
    monkeypatch.setattr(hashing, "decode", lambda *given: decoded.append(1) or decode(*given))
    again = hashing.hash_images(manifest, tmp_path / "two")
    assert len(decoded) == 3
    assert again.sha256 == full.sha256
    assert np.array_equal(again.signs, full.signs)


KILLED = """
import os, signal, sys
from pathlib import Path
from engine.data import datasets, hashing

manifest, _ = datasets.inspect(Path(sys.argv[1]))
hashing.hash_images(manifest, Path(sys.argv[2]), lambda done, total: done == 40 and os.kill(os.getpid(), signal.SIGKILL))
"""


@pytest.mark.slow
def test_hashing_that_was_killed_goes_on_where_it_was(tmp_path, monkeypatch):
    data, store = tmp_path / "data", tmp_path / "store"
    for label in CLASSES:
        (data / label).mkdir(parents=True)
        for number in range(30):
            (data / label / f"{label}{number}.png").write_bytes(encode_png(texture(number)))
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run([sys.executable, "-c", KILLED, str(data), str(store)], cwd=root, check=False)
    assert done.returncode == -signal.SIGKILL
    manifest, _ = datasets.inspect(data)
    decoded = []
    monkeypatch.setattr(hashing, "decode", lambda *given: decoded.append(1) or decode(*given))
    again = hashing.hash_images(manifest, store)
    assert len(decoded) == 60 - 32  # what it had written, a portion at a time, is not done again
    assert again.sha256 == hashing.hash_images(manifest, tmp_path / "other").sha256


def test_an_unreadable_image_is_a_problem_not_a_crash(tmp_path):
    manifest = manifest_of(tmp_path, {"a.png": encode_png(texture(0)), "b.png": b"", "c.png": b"junk" * 9})
    hashes = hashing.hash_images(manifest, tmp_path / "cache")
    assert [(problem.file, problem.kind) for problem in hashes.problems] == [
        ("b.png", "empty"),
        ("c.png", "format"),
    ]


def test_the_audit_finds_near_duplicates_across_sides_and_labels(tmp_path):
    base = texture(5)
    images = {
        "a.png": encode_png(base),
        "b.png": jpeg(np.ascontiguousarray(base[:, ::-1]), 60),
        "c.png": encode_png(texture(6)),
    }
    manifest = manifest_of(tmp_path, images, split=["train", "test", "val"])
    report = audit_images(manifest, tmp_path / "cache")
    assert report.level == "leak"
    assert report.shared_cases == {}
    assert report.near_duplicates is not None
    assert [(pair["a"], pair["b"]) for pair in report.near_duplicates] == [("a.png", "b.png")]
    assert report.near_duplicates[0]["position"] == "flipped left to right"
    assert report.label_conflicts == ("a.png and b.png show the same and differ in label.",)
    assert "a.png" in report.as_text()


def test_duplicates_are_reported_by_name(tmp_path):
    data = encode_png(texture(3))
    manifest = manifest_of(tmp_path, {"a.png": data, "b.png": data, "c.png": encode_png(texture(4))})
    found = hashing.find_duplicates(manifest, tmp_path / "cache")
    record = found.as_record()
    assert (record["across_slides"], record["across_labels"], len(record["pairs"])) == (1, 1, 1)
    assert "a.png and b.png" in found.as_text()
    nothing = manifest.with_table(manifest.table.iloc[1:])
    assert hashing.find_duplicates(nothing, tmp_path / "cache").as_text().startswith("0 pairs")
