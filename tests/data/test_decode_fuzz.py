"""600 mutated files through `decode` in a process of its own: an exception of ours, or pixels; never a crash."""

import subprocess
import sys

import pytest

_PROGRAM = """
import io, sys
import numpy as np
from PIL import Image
from engine.data.images import decode
from engine.errors import DataError

rng = np.random.default_rng(0)
picture = rng.integers(0, 256, (40, 60, 3), dtype=np.uint8)

def saved(kind, mode, **options):
    buffer = io.BytesIO()
    Image.fromarray(picture).convert(mode).save(buffer, kind, **options)
    return buffer.getvalue()

seeds = [saved("PNG", mode) for mode in ("RGB", "RGBA", "P", "L", "1")]
seeds += [saved("JPEG", mode) for mode in ("RGB", "CMYK", "L")]
seeds += [saved("TIFF", "RGB", compression=name) for name in ("raw", "tiff_lzw", "tiff_adobe_deflate", "jpeg")]
good = refused = 0
for number in range(600):
    data = bytearray(seeds[number % len(seeds)])
    for _ in range(int(rng.integers(1, 12))):
        kind = rng.integers(4)
        at = int(rng.integers(len(data)))
        if kind == 0:
            data[at] ^= 1 << int(rng.integers(8))
        elif kind == 1:
            data[at] = int(rng.integers(256))
        elif kind == 2:
            del data[at : at + int(rng.integers(1, 40))]
        else:
            data[at:at] = rng.integers(0, 256, int(rng.integers(1, 40)), dtype=np.uint8).tobytes()
        if not data:
            break
    try:
        pixels = decode(bytes(data))
        assert pixels.dtype == np.uint8 and pixels.ndim == 3 and pixels.shape[2] == 3
        good += 1
    except DataError as error:
        assert error.message and error.remedy
        refused += 1
print(good, refused)
"""


@pytest.mark.slow
def test_mutated_files_never_crash_the_decoder():
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", _PROGRAM],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    good, refused = map(int, done.stdout.split())
    assert good + refused == 600
    assert refused > 300
