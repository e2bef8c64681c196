"""The loader benchmark measures what it says; its numbers depend on the machine and are not judged here."""

import numpy as np
import pandas as pd
import pytest

from engine.bench import loader
from engine.data.images import encode_png
from engine.data.manifest import CLASSES, COLUMNS, Manifest


@pytest.mark.slow
def test_the_benchmark_reports_every_pipeline(tmp_path):
    rng = np.random.default_rng(0)
    rows = []
    for number in range(8):
        name = f"{number}.png"
        (tmp_path / name).write_bytes(encode_png(rng.integers(0, 256, (460, 700, 3), dtype=np.uint8)))
        rows.append((name, name, CLASSES[number % 2], "", "", "", ""))
    manifest = Manifest(tmp_path, CLASSES, pd.DataFrame(rows, columns=list(COLUMNS), dtype=str))
    records = {record["name"]: record for record in loader.run(manifest, 64, seconds=0.2, rounds=1)}
    assert set(records) == {
        "folder",
        "decode",
        "decode, all cores",
        "augmentation in memory",
        "cache",
        "cache, DataLoader",
        "cache / memory",
        "pack",
        "memory growth",
    }
    assert records["cache"]["ratio"] > 3  # 16 and more at 224 pixels
    assert records["memory growth"]["megabytes"] < 300
    assert f"augmenting {len(manifest):,} images" in records["memory growth"]["help"]
    assert "cache, DataLoader" in loader.as_text(list(records.values()))
