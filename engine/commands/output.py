"""What commands print: one document or a text on stdout, everything else on stderr."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from typing import Any

EXIT_ERROR = 2


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def answer(given: argparse.Namespace, record: Any, text: str) -> None:
    """The result: one JSON document with --json, a text for people otherwise."""
    print(json.dumps(record, indent=1, ensure_ascii=False) if given.json else text, flush=True)


def progress(label: str, unit: str = "image") -> Callable[[int, int], None]:
    """A progress bar on stderr, as a callback (done, total); where stderr is no terminal, a line now and then."""
    from tqdm import tqdm

    if not sys.stderr.isatty():
        return progress_lines(label)

    bar = tqdm(desc=label, unit=unit, file=sys.stderr, leave=False)

    def update(done: int, total: int) -> None:
        bar.total = total
        bar.n = done
        bar.refresh()
        if done >= total:
            bar.close()

    return update


def progress_lines(label: str, every_s: float = 2.0) -> Callable[[int, int], None]:
    """`Hashing: 1,200 of 7,909` every few seconds, for logs and for the page that reads them."""
    said_at = time.monotonic()

    def update(done: int, total: int) -> None:
        nonlocal said_at
        if time.monotonic() - said_at >= every_s:
            said_at = time.monotonic()
            say(f"{label}: {done:,} of {total:,}")

    return update


def table(rows: list[dict[str, Any]]) -> str:
    """Rows as aligned text."""
    import pandas as pd

    return pd.DataFrame(rows).to_string(index=False) if rows else "Nothing here."
