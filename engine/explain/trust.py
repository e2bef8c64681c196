"""Faithfulness over a sample: means with intervals over cases, and the gain over the random control.

Needs no torch: it works on the table of `faithfulness.measure_sample`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from engine.analysis.draws import DRAWS, Clusters, Ratio, draw_weights
from engine.analysis.intervals import Estimate, Resample
from engine.errors import ExplainError

CONTROL = "randomcam"


@dataclass(frozen=True)
class Measure:
    """A number per map: its column, label, whether more (+1) or less (-1) is better (0 = neither), its limits."""

    name: str
    label: str
    better: int
    help: str
    limits: tuple[float, float] = (0.0, 1.0)


MEASURES: tuple[Measure, ...] = (
    Measure(
        "road",
        "ROAD",
        +1,
        "Gap in probability between removing the least and the most relevant pixels, halved.",
        (-0.5, 0.5),
    ),
    Measure(
        "insertion", "Insertion", +1, "Area under the probability while pixels are put onto a blurred image."
    ),
    Measure("deletion", "Deletion", -1, "Area under the probability while pixels are taken away."),
    Measure(
        "glass_share", "Heat on glass", 0, "Share of the map on slide without tissue; compare with its area."
    ),
)


@dataclass(frozen=True)
class Trust:
    """One method, one measure: its mean, and its mean difference to the control at the same images.

    `beats_control`: the whole interval of the difference lies on the better side of 0; None where there is
    no control, no better side, or no interval.
    """

    method: str
    measure: str
    mean: Estimate
    difference: Estimate | None
    beats_control: bool | None


def summarise(table: pd.DataFrame, control: str = CONTROL, draws: int = DRAWS) -> list[Trust]:
    """Each method's measures with 95% intervals that resample whole cases, paired against the control.

    Args:
        table: of `faithfulness.measure_sample`; images without a case are units of their own, and said so.

    Raises:
        ExplainError: the table is empty.
    """
    if table.empty:
        raise ExplainError("No map was measured", remedy="Choose at least one image")
    found = []
    for method in dict.fromkeys(table["method"]):
        own = table[table["method"] == method].set_index("image_id")
        beside = table[table["method"] == control].set_index("image_id").reindex(own.index)
        for measure in MEASURES:
            values = own[measure.name].to_numpy(dtype=float)
            mean = mean_by_case(own, values, draws, limits=measure.limits)
            gap = None
            if method != control and beside[measure.name].notna().any():
                gap = mean_by_case(own, values - beside[measure.name].to_numpy(dtype=float), draws)
            found.append(Trust(str(method), measure.name, mean, gap, _beats(gap, measure.better)))
    return found


def mean_by_case(
    table: pd.DataFrame,
    values: np.ndarray,
    draws: int = DRAWS,
    seed: int = 0,
    limits: tuple[float, float] = (-np.inf, np.inf),
) -> Estimate:
    """Mean over images with an interval over cases.

    Args:
        table: columns `case` and `label`; a row per value.
        values: float, nan where undefined (left out).
        limits: no mean can lie beyond; the interval is cut there.
    """
    kept = np.isfinite(values)
    case = table["case"].astype(str).to_numpy()[kept]
    label = table["label"].astype(str).to_numpy()[kept]
    values = values[kept]
    known = case != ""
    unit_names = np.where(known, case, [f"\0{k}" for k in range(len(case))])
    names, unit = np.unique(unit_names, return_inverse=True)
    stratum, strata = _strata(unit, label, len(names))
    groups = Clusters(unit, stratum, "case" if known.any() else "image")
    sample = Resample(
        groups,
        draw_weights(groups, draws, seed),
        n_images=len(values),
        n_cases=len(set(case[known])),
        class_names=strata,
        extra_warning="" if known.all() else "cases unknown: images were resampled one by one",
    )
    top = np.bincount(unit, weights=values, minlength=len(names))
    count = np.bincount(unit, minlength=len(names)).astype(float)
    return sample.estimate(Ratio(top, count), limits)


def _strata(unit: np.ndarray, label: np.ndarray, units: int) -> tuple[np.ndarray, tuple[str, ...]]:
    """Class of each unit (units,) and the classes' names; all in one where a class has a single unit.

    A class with one case cannot be resampled within itself, and a mean over maps does not need the classes.
    """
    names, index = np.unique(label, return_inverse=True)
    stratum = np.zeros(units, dtype=np.int64)
    stratum[unit] = index
    if np.bincount(stratum, minlength=max(len(names), 1)).min() < 2:
        return np.zeros(units, dtype=np.int64), ("pooled",)
    return stratum, tuple(str(name) or "unlabelled" for name in names)


def _beats(gap: Estimate | None, better: int) -> bool | None:
    if gap is None or not better or not np.isfinite([gap.low, gap.high]).all():
        return None
    return gap.low > 0 if better > 0 else gap.high < 0
