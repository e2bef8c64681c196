"""What is told to whoever waits."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[int, int], object]
"""`progress(done, total)`, called now and then by everything that takes long."""
