"""Images unlike the training images are found, those of new patients pass, and the answer is kept with the run."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from engine.data.breakhis import parse_name
from engine.data.images import decode, encode_png
from engine.data.manifest import Manifest
from engine.errors import DataError
from engine.predict import appearance
from engine.predict.appearance import Appearance, fit, look

REAL = Path(__file__).resolve().parents[3] / "shared" / "breakhis"
POWER = {"40X": 1.2, "100X": 3.0}


def tissue(seed: int, case: int, grain: float = 3.0) -> np.ndarray:
    """Purple nuclei on pink, 240 x 160; grain: their size in pixels; every case has a stain of its own."""
    drawn, own = np.random.default_rng(seed), np.random.default_rng(1000 + case)
    field = cv2.GaussianBlur(drawn.normal(size=(160, 240)).astype(np.float32), (0, 0), grain)
    nuclei = np.clip(field / field.std() * 0.5 + 0.4, 0, 1.4)[..., None]
    strength = own.uniform(0.85, 1.15) * drawn.uniform(0.9, 1.1, 3)
    density = (np.array([0.10, 0.45, 0.20]) + nuclei * np.array([0.65, 0.70, 0.30])) * strength
    density += drawn.normal(0, 0.02, (160, 240, 3))
    return np.clip(255 * np.exp(-density), 0, 255).astype(np.uint8)


def bluer(pixels: np.ndarray) -> np.ndarray:
    return np.clip(pixels * np.array([0.6, 0.85, 1.0]), 0, 255).astype(np.uint8)


def zoomed(pixels: np.ndarray, times: int = 4) -> np.ndarray:
    height, width = pixels.shape[:2]
    part = pixels[: height // times, : width // times]
    return cv2.resize(part, (width, height), interpolation=cv2.INTER_LINEAR)


@pytest.fixture(scope="module")
def known() -> Appearance:
    cases = [f"case {seed // 4}" for seed in range(96)]
    looks = [look(tissue(seed, seed // 4)) for seed in range(96)]
    return fit(looks, cases, ["100X"] * 96)


def test_new_patients_pass_and_stain_and_zoom_are_found(known):
    fresh = [tissue(5000 + seed, 100 + seed) for seed in range(40)]
    passed = known.judge([look(one) for one in fresh])
    assert (passed["unlike"] == "").mean() >= 0.85
    for change, word in ((bluer, "stain"), (zoomed, "magnification")):
        found = known.judge([look(change(one)) for one in fresh[:20]])
        assert found["unlike"].str.contains(word).mean() >= 0.95, word


def test_a_magnification_that_was_trained_on_is_familiar():
    powers = [power for power in POWER for _ in range(48)]
    looks = [look(tissue(k, k % 24, POWER[power])) for k, power in enumerate(powers)]
    both = fit(looks, [f"case {k % 24}" for k in range(96)], powers)
    assert set(both.scale) == {"40X", "100X"}
    fine = [look(tissue(900 + k, 50 + k, POWER["40X"])) for k in range(20)]
    assert (both.judge(fine)["unlike"] == "").mean() >= 0.8
    coarse_only = fit(looks[48:], [f"case {k % 24}" for k in range(48)], powers[48:])
    assert coarse_only.judge(fine)["unlike"].str.contains("magnification").all()


def test_limits_are_measured_on_other_patients():
    """One odd patient of four: measured against its own images it would set no limit at all."""
    looks = [look(tissue(k, k // 10)) for k in range(30)] + [look(bluer(tissue(k, 3))) for k in range(30, 40)]
    odd = fit(looks, [f"case {k // 10}" for k in range(40)], [""] * 40)
    plain = fit(looks[:30], [f"case {k // 10}" for k in range(30)], [""] * 30)
    assert odd.stain_limit > 2 * plain.stain_limit


def test_too_few_images_say_so():
    looks = [look(tissue(k, k)) for k in range(10)]
    with pytest.raises(DataError, match="10 images of 10 cases"):
        fit(looks, [str(k) for k in range(10)], [""] * 10)
    with pytest.raises(DataError, match="of 1 cases"):
        fit(looks * 4, ["one"] * 40, [""] * 40)


def test_a_record_comes_back_and_a_damaged_one_is_refused(known):
    record = known.as_record()
    again = Appearance.from_record(record)
    looks = [look(tissue(1, 1))]
    assert again.judge(looks).equals(known.judge(looks))
    for damage in (
        {"schema": 2},
        {"scale": {}},
        {"stain": {**record["stain"], "centre": [1.0]}},
        {"stain": None},
    ):
        with pytest.raises(DataError):
            Appearance.from_record({**record, **damage})


@pytest.mark.slow
def test_it_is_made_once_and_survives_its_images(make_run, tmp_path):
    folder = make_run(data_root=tmp_path / "images")
    manifest = folder.manifest()
    train = manifest.table[manifest.table["split"] == "train"]
    with pytest.raises(DataError, match="not on this machine"):
        appearance.of_run(folder)
    _draw(manifest, train)
    seen: list[tuple[int, int]] = []
    made = appearance.of_run(folder, progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (len(train), len(train))
    assert (made.n_images, made.n_cases) == (len(train), train["case"].nunique())
    for path in train["path"]:
        manifest.absolute(path).unlink()
    again = appearance.of_run(folder)
    assert again.stain_limit == pytest.approx(made.stain_limit)
    (folder.path / appearance.FILE).write_text("{}")
    with pytest.raises(DataError, match="not on this machine"):
        appearance.of_run(folder)


def _draw(manifest: Manifest, rows) -> None:
    cases = sorted(set(rows["case"]))
    for seed, (path, case) in enumerate(zip(rows["path"], rows["case"], strict=True)):
        target = manifest.absolute(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(encode_png(tissue(seed, cases.index(case))[:60, :90]))


@pytest.mark.real
@pytest.mark.slow
@pytest.mark.skipif(not REAL.is_dir(), reason="no real images beside the repository")
def test_on_real_images_a_blue_cast_and_a_zoom_are_found():
    """All images at 100X; every third case is new to the model."""
    rows = [(path, parse_name(path.name)) for path in sorted(REAL.rglob("*.png"))]
    rows = [(decode(path), name) for path, name in rows if name and name.magnification == "100X"]
    cases = sorted({name.case for _, name in rows})
    new = set(cases[::3])
    train = [(pixels, name) for pixels, name in rows if name.case not in new]
    known = fit([look(p) for p, _ in train], [n.case for _, n in train], ["100X"] * len(train))
    held = [pixels for pixels, name in rows if name.case in new]
    flagged = {
        name: (known.judge([look(change(pixels)) for pixels in held])["unlike"] != "").mean()
        for name, change in (("as they are", lambda one: one), ("bluer", bluer), ("zoomed", zoomed))
    }
    print(f"\n{len(held)} real images of {len(new)} new cases, flagged: {flagged}")
    assert flagged["as they are"] <= 0.2
    assert flagged["bluer"] >= 0.8
    assert flagged["zoomed"] >= 0.95
