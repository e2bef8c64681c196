"""How members differ, and what each one brings.

Per pair, from the images both have right (N11), both wrong (N00), only the first (N10), only the second
right (N01): Q, disagreement, double fault, kappa. Under 20 errors of either member the counts say more than
the coefficients do.

References: Kuncheva & Whitaker, Machine Learning 51:181, 2003; Shapley, Contributions to the Theory of
Games II, 1953; Ghorbani & Zou, Data Shapley, ICML 2019.
"""

from __future__ import annotations

from math import factorial

import numpy as np
import pandas as pd

from engine.analysis import ensemble, metrics, subsets
from engine.analysis.ensemble import DIGITS, Cube
from engine.errors import EnsembleError

FEW_ERRORS = 20
PAIR_COLUMNS = (
    "first", "second", "both_right", "first_only", "second_only", "both_wrong",
    "disagreement", "q", "kappa", "double_fault", "few_errors",
)  # fmt: skip


def decisions(source: Cube) -> np.ndarray:
    """Class each member names, (members, images); of equal probabilities the lowest label."""
    return np.round(source.probs, DIGITS).argmax(axis=2)


def right(source: Cube) -> np.ndarray:
    """Which labelled images each member has right, bool (members, labelled images)."""
    known = source.true >= 0
    return decisions(source)[:, known] == source.true[known]


def pair_counts(first: np.ndarray, second: np.ndarray) -> tuple[int, int, int, int]:
    """(N11, N10, N01, N00) of two members' right / wrong (images,) bool."""
    return (
        int((first & second).sum()),
        int((first & ~second).sum()),
        int((~first & second).sum()),
        int((~first & ~second).sum()),
    )


def q_statistic(n11: int, n10: int, n01: int, n00: int) -> float:
    """Yule's Q: 1 when members err on the same images, negative when on different ones; nan if undefined."""
    bottom = n11 * n00 + n01 * n10
    return (n11 * n00 - n01 * n10) / bottom if bottom else float("nan")


def cohen_kappa(first: np.ndarray, second: np.ndarray, classes: int) -> float:
    """Agreement of two members' predictions beyond chance; nan where both always say the same class."""
    table = np.bincount(first * classes + second, minlength=classes**2).reshape(classes, classes)
    total = table.sum()
    if not total:
        return float("nan")
    expected = float((table.sum(axis=0) * table.sum(axis=1)).sum()) / total**2
    return (float(np.trace(table)) / total - expected) / (1 - expected) if expected < 1 else float("nan")


def pairs(source: Cube) -> pd.DataFrame:
    """A row per pair of members, columns `PAIR_COLUMNS`; shares are of the labelled images.

    few_errors: one of the two errs on fewer than 20 images, so show the counts, not the coefficients.
    """
    hits, named = right(source), decisions(source)[:, source.true >= 0]
    rows = []
    for i in range(len(source)):
        for j in range(i + 1, len(source)):
            n11, n10, n01, n00 = pair_counts(hits[i], hits[j])
            total = max(n11 + n10 + n01 + n00, 1)
            rows.append(
                {
                    "first": source.ids[i],
                    "second": source.ids[j],
                    "both_right": n11,
                    "first_only": n10,
                    "second_only": n01,
                    "both_wrong": n00,
                    "disagreement": (n10 + n01) / total,
                    "q": q_statistic(n11, n10, n01, n00),
                    "kappa": cohen_kappa(named[i], named[j], len(source.classes)),
                    "double_fault": n00 / total,
                    "few_errors": bool(min(n01 + n00, n10 + n00) < FEW_ERRORS),
                }
            )
    return pd.DataFrame(rows, columns=PAIR_COLUMNS)


def pair_matrix(source: Cube, measure: str, *, counts: bool = False) -> np.ndarray:
    """A measure of `pairs` as a symmetric matrix (members, members), nan on the diagonal.

    counts: disagreement and double fault as numbers of images instead of shares.
    """
    table = pairs(source)
    if counts:
        table = table.assign(
            disagreement=table["first_only"] + table["second_only"], double_fault=table["both_wrong"]
        )
    if measure not in table.columns:
        known = ", ".join(PAIR_COLUMNS[2:-1])
        raise EnsembleError("There is no such measure", found=measure, remedy=f"Use one of {known}")
    matrix = np.full((len(source), len(source)), np.nan)
    rows, columns = np.triu_indices(len(source), 1)
    matrix[rows, columns] = matrix[columns, rows] = table[measure].to_numpy(dtype=float)
    return matrix


def all_miss(source: Cube) -> pd.DataFrame:
    """The labelled images no member has right: what no combination of votes can mend."""
    rows = np.flatnonzero(source.true >= 0)[~right(source).any(axis=0)]
    return source.frame.iloc[rows].reset_index(drop=True)


def oracle_errors(source: Cube) -> int:
    """Errors of an oracle that picks a right member wherever there is one."""
    return len(all_miss(source))


def changed_images(source: Cube, answer: ensemble.Combined, reference: str) -> pd.DataFrame:
    """Images an ensemble mends or breaks against one member: the frame with `change` (fixed, broken)."""
    base = decisions(source)[source.ids.index(reference)] == source.true
    ours = answer.decisions == source.true
    change = np.where(ours & ~base, "fixed", np.where(~ours & base, "broken", ""))
    keep = (change != "") & (source.true >= 0)
    return source.frame[keep].assign(change=change[keep]).reset_index(drop=True)


def _score(source: Cube, method: str, weights: np.ndarray | None, score: str, tie_rule: str) -> float:
    answer = ensemble.combine(source, method, weights, tie_rule=tie_rule)
    result = ensemble.outcomes(source)
    known = source.true >= 0
    return metrics.value(
        score,
        metrics.Outcome(
            result.classes,
            result.true,
            answer.probabilities[known],
            answer.decisions[known],
            result.case,
            result.cases,
        ),
    )


def leave_one_out(
    source: Cube,
    method: str = "mean",
    weights: np.ndarray | None = None,
    *,
    score: str = "balanced_accuracy",
    tie_rule: str = "mean-probability",
) -> pd.DataFrame:
    """What each member adds to the rest: `member, without, effect` (full score - score without it).

    Empty for one member. For methods that need no fitting.
    """
    full = _score(source, method, weights, score, tie_rule)
    rows = []
    for k, name in enumerate(source.ids):
        rest = [other for other in source.ids if other != name]
        own = None if weights is None else np.delete(np.asarray(weights, dtype=float), k)
        if rest and (own is None or own.sum() > 0):
            without = _score(source.members(rest), method, own, score, tie_rule)
            rows.append({"member": name, "without": without, "effect": full - without})
    return pd.DataFrame(rows, columns=["member", "without", "effect"])


def shapley(source: Cube, method: str = "mean", *, tie_rule: str = "mean-probability") -> pd.DataFrame:
    """Each member's exact share of the ensemble's gain over chance: `member, shapley`, and `full`, `empty`.

    Balanced accuracy of all 2^members subsets; the empty one scores 1 / classes (always the same class).
    The values sum to full - empty.

    Raises:
        EnsembleError: more than 16 members, or a method that cannot be searched.
    """
    found = subsets.search(source, (method,), tie_rule=tie_rule)
    members, empty = len(source), 1 / len(source.classes)
    numbers = (found.subsets * (1 << np.arange(members))).sum(axis=1)
    value = np.full(2**members, empty)
    value[numbers] = found.score
    size = np.zeros(2**members, dtype=np.int64)
    size[numbers] = found.subsets.sum(axis=1)
    factor = np.array(
        [factorial(s) * factorial(members - s - 1) / factorial(members) for s in range(members)]
    )
    every = np.arange(2**members)
    shares = []
    for k in range(members):
        without = every[(every >> k) & 1 == 0]
        shares.append(float((factor[size[without]] * (value[without | (1 << k)] - value[without])).sum()))
    return pd.DataFrame({"member": list(source.ids), "shapley": shares}).assign(
        full=float(value[-1]), empty=empty
    )


def size_points(found: subsets.Search, names: dict[str, str] | None = None) -> pd.DataFrame:
    """One point per combination searched: `size, score, method, members, rank`, for the size plot."""
    titles = names or {}
    return pd.DataFrame(
        {
            "size": found.subsets.sum(axis=1),
            "score": found.score,
            "method": np.array(found.methods)[found.method],
            "members": [", ".join(titles.get(m, m) for m in found.members(r)) for r in range(found.tried)],
            "rank": np.arange(1, found.tried + 1),
        }
    )


def agreement(source: Cube) -> pd.DataFrame:
    """Per labelled image how many members name the commonest class: `image_id, agree, share, right_share`.

    right_share: share of members that have it right.
    """
    known = source.true >= 0
    named = decisions(source)[:, known]
    votes = np.stack([(named == k).sum(axis=0) for k in range(len(source.classes))])
    return source.frame[known].assign(
        agree=votes.max(axis=0),
        share=votes.max(axis=0) / len(source),
        right_share=right(source).mean(axis=0),
    )
