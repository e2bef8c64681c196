"""Freed memory is kept while it is asked for, and given back afterwards."""

from __future__ import annotations

import ctypes
import resource
import sys

import pytest

from engine import allocator
from engine.allocator import kept_memory

BLOCK = 40 << 20
pytestmark = pytest.mark.skipif(allocator._glibc() is None, reason="another C library than glibc")


def faults(rounds: int = 3) -> int:
    """Pages that the system had to provide for blocks of 40 MB, one after the other."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(rounds):
        block = b"\x01" * BLOCK
        del block
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


def resident_mb() -> float:
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * resource.getpagesize() / 2**20


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.slow  # half a second of page faults
def test_freed_blocks_are_used_again_and_given_back_at_the_end():
    usual, at_rest = faults(), resident_mb()
    with kept_memory():
        faults(1)
        with kept_memory():
            pass
        inside = faults()
    assert usual >= 3 * BLOCK // resource.getpagesize()
    assert inside < usual / 10, "an inner block must not end the outer one"
    assert faults() >= usual / 2
    assert resident_mb() < at_rest + BLOCK / 2**20 / 2


def test_an_error_inside_ends_it_and_another_c_library_is_left_alone(monkeypatch):
    with pytest.raises(ValueError, match="inside"), kept_memory():
        raise ValueError("inside")
    assert allocator._depth == 0

    def none(_: object) -> ctypes.CDLL:
        raise OSError("no such library")

    monkeypatch.setattr(ctypes, "CDLL", none)
    with kept_memory():
        assert allocator._depth == 0
