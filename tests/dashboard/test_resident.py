"""Garbage collections leave out what stays for the life of the server, and nothing else."""

import gc
import sys
import types
import weakref

import pytest

from dashboard import resident

pytestmark = pytest.mark.slow  # each collection looks at whatever the tests before have left in this process


@pytest.fixture(autouse=True)
def thawed(monkeypatch):
    monkeypatch.setattr(resident, "_modules", 0)
    yield
    gc.unfreeze()


class Knot:
    """Garbage that only a collection can find."""

    def __init__(self):
        self.me = self


def test_what_is_loaded_is_set_aside_once_and_again_when_many_modules_have_come(monkeypatch):
    assert resident.settle()
    assert gc.get_freeze_count() > 10_000
    assert not resident.settle()
    for index in range(resident.GROWTH):
        monkeypatch.setitem(sys.modules, f"a_module_of_the_test_{index}", types.ModuleType("one"))
    assert resident.settle()
    assert not resident.settle()


def test_garbage_is_found_whether_it_was_there_before_or_comes_later(monkeypatch):
    before = Knot()
    seen = [weakref.ref(before)]
    del before
    resident.settle()
    later = Knot()
    seen.append(weakref.ref(later))
    del later
    gc.collect()
    assert [one() for one in seen] == [None, None]


def test_what_was_set_aside_alive_is_found_when_the_next_modules_come(monkeypatch):
    kept = Knot()
    seen = weakref.ref(kept)
    resident.settle()
    del kept
    monkeypatch.setattr(resident, "_modules", 0)  # as if many had come
    resident.settle()
    assert seen() is None
