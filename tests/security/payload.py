"""What hostile input shares: texts that try to be a path, markup or a formula, and a file that must not appear."""

from __future__ import annotations

from pathlib import Path

EVIL = (
    "<img src=x onerror=\"document.title='stolen';window.stolen=1\">"
    "<script>document.title='stolen';window.stolen=1</script>"
)


class Payload:
    """An object whose pickle, when loaded, leaves a file."""

    def __init__(self, marker: Path):
        self.marker = marker

    def __reduce__(self):
        return (Path.touch, (self.marker,))
