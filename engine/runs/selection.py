"""How a saved ensemble was found, in words: for the page, the command line and reports."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from engine.wording import signed


def selection_sentence(details: Mapping[str, Any]) -> str:
    """How a saved ensemble was found, in words; empty where that was not recorded."""
    record = details.get("selection")
    if not record:
        return ""
    split = {"val": "validation", "test": "test"}.get(record["chosen_on"], record["chosen_on"])
    ways = []
    if record["subsets"]:
        of = f" of {len(record['candidates'])} runs" if record.get("candidates") else ""
        ways.append(f"{record['subsets']:,} combinations{of} searched by {' and '.join(record['methods'])}")
    if record["looked_at"]:
        ways.append(f"{record['looked_at']:,} looked at")
    text = f"Chosen on {split} after {' and '.join(ways) or 'no search'}"
    kept = "locked" if details.get("locked") else "saved"
    text += f", {kept} by {record['locked_by']} at {record['locked_at']}"
    if record["seen_before"]:
        one = record["seen_before"] == 1
        text += f"; {record['seen_before']:,} ensemble{'' if one else 's'} of these runs had shown {'its' if one else 'their'} test score before"
    if record["optimism"]:
        guess = record["optimism"]
        text += f". Optimism of having searched: {signed(guess['optimism'])} ({guess['apparent']:.3f} as searched, {guess['nested']:.3f} on cases not searched)"
    return text + "."
