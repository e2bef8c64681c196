"""How numbers, times and a person's own text are worded, the same on pages, in reports and on the command line."""

from __future__ import annotations

import math
from datetime import datetime

_MARKDOWN_SIGNS = "\\`*_{}[]()<>#+-.!|~:$"


def escaped(text: object) -> str:
    """Text for places that read Markdown (labels, captions, options): its signs lose their meaning."""
    return "".join(f"\\{sign}" if sign in _MARKDOWN_SIGNS else sign for sign in str(text))


def counted(n: int, noun: str, plural: str = "") -> str:
    """`1 run`, `2 runs`, `1,234 images`."""
    return f"{n:,} {noun if n == 1 else plural or noun + 's'}"


def signed(value: float, low: float | None = None, high: float | None = None, digits: int = 3) -> str:
    """A difference: `+0.065`, `−0.017 [−0.066, +0.023]`, `0.000`; n/a where it is undefined, no interval without bounds."""

    def one(number: float) -> str:
        if not math.isfinite(number):
            return "n/a"
        text = f"{number:+.{digits}f}".replace("-", "−")
        return text[1:] if float(f"{number:.{digits}f}") == 0 else text

    if low is None or high is None or not math.isfinite(low + high):
        return one(value)
    return f"{one(value)} [{one(low)}, {one(high)}]"


def duration(seconds: float | None) -> str:
    """`45 s`, `3 min 20 s`, `2 h 05 min`; `n/a` where it is not known."""
    if seconds is None or not math.isfinite(seconds):
        return "n/a"
    minutes, rest = divmod(round(max(seconds, 0)), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


def when(seconds_since_1970: float | None) -> str:
    """`2026-11-22 20:15`, in this machine's time zone; `n/a` where it is not known."""
    if not seconds_since_1970:
        return "n/a"
    return f"{datetime.fromtimestamp(seconds_since_1970):%Y-%m-%d %H:%M}"
