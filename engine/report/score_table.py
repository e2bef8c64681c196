"""The score table of a comparison for a spreadsheet (one row per entry and score) and for a paper (LaTeX)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from engine.analysis.comparison import Comparison, PairedDifference
from engine.analysis.metrics import SCORES, score_of
from engine.wording import signed

MAIN = "main analysis"


def difference_bounds(gap: PairedDifference) -> tuple[float, float]:
    """The interval of a difference, no wider than the score allows: bootstrap-t of few cases may run far out."""
    low, high = score_of(gap.score).range
    reach = high - low
    return max(gap.estimate.low, -reach), min(gap.estimate.high, reach)


def rows(
    table: Comparison,
    names: Sequence[str],
    labels: Mapping[str, str] | None = None,
    *,
    points: Mapping[str, str] | None = None,
    analysis: str = "",
) -> pd.DataFrame:
    """One row per entry and score, unrounded.

    Args:
        names: scores, in order. labels: id -> name, the entries' own unless given.
        points: id -> how its operating point was chosen, in words.
        analysis: what every figure must be read with (a sensitivity analysis); `main analysis` where empty.
    """
    gaps = {(gap.id, gap.score): gap for gap in table.differences}
    found = []
    for entry in table.entries:
        for name in names:
            one, gap = entry.scores[name], gaps.get((entry.id, name))
            low, high = difference_bounds(gap) if gap else (None, None)
            found.append(
                {
                    "run": entry.id,
                    "name": (labels or {}).get(entry.id, entry.name),
                    "score": name,
                    "value": one.value,
                    "low": one.low,
                    "high": one.high,
                    "level": one.level,
                    "interval": one.method,
                    "warning": one.warning,
                    "images": entry.n,
                    "cases": entry.n_cases,
                    "baseline": table.baseline.get(name),
                    "reference": gap.reference if gap else "",
                    "difference": gap.estimate.value if gap else None,
                    "difference_low": low,
                    "difference_high": high,
                    "p": gap.p if gap else None,
                    "p_holm": gap.p_holm if gap else None,
                    "comparisons": gap.comparisons if gap else None,
                    "operating_point": (points or {}).get(entry.id, "most probable class"),
                    "analysis": analysis or MAIN,
                }
            )
    return pd.DataFrame(found)


def latex(
    table: Comparison,
    names: Sequence[str],
    labels: Mapping[str, str] | None = None,
    *,
    analysis: str = "",
) -> str:
    """The score table for a paper: booktabs, value with its interval, differences below, n in a comment.

    Names are text: what TeX would read in them is escaped.
    """
    gaps = {(gap.id, gap.score): gap for gap in table.differences}
    lines = []
    for entry in table.entries:
        title = tex((labels or {}).get(entry.id, entry.name))
        lines.append(_row(title, [entry.scores[name].short for name in names]))
        if any((entry.id, name) in gaps for name in names):
            own = [_difference(gaps.get((entry.id, name))) for name in names]
            lines.append(_row(r"\quad difference", own))
    base = [f"{table.baseline[name]:.3f}" if np.isfinite(table.baseline[name]) else "n/a" for name in names]
    methods = sorted({entry.scores[name].method for entry in table.entries for name in names})
    note = f"n = {table.n_images:,} images, {table.n_cases:,} cases; 95% intervals: {'; '.join(methods)}"
    notes = [note, *([analysis] if analysis else [])]
    if table.differences:
        first = (labels or {}).get(table.reference, table.reference)
        notes.append(f"differences: minus {first}, paired; p by sign-flip over cases, Holm")
    head = _row("Entry", [SCORES[name].title for name in names])
    return "\n".join(
        [
            *(f"% {tex(text)}." for text in notes),
            rf"\begin{{tabular}}{{l{'r' * len(names)}}}",
            r"\toprule",
            head,
            r"\midrule",
            *lines,
            r"\midrule",
            _row("Always the larger class", base),
            r"\bottomrule",
            r"\end{tabular}",
            "",
        ]
    )


def _row(title: str, cells: Sequence[str]) -> str:
    return " & ".join([title, *(tex(cell) for cell in cells)]) + r" \\"


def _difference(gap: PairedDifference | None) -> str:
    if gap is None or not np.isfinite(gap.estimate.value):
        return ""
    low, high = difference_bounds(gap)
    return f"{signed(gap.estimate.value, low, high)}, p = {gap.p_holm:.3f}"


def tex(text: str) -> str:
    """Text with LaTeX's signs escaped, on one line."""
    signs = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "\n": " "}
    return "".join(signs.get(sign, f"\\{sign}" if sign in "&%$#_{}" else sign) for sign in text)
