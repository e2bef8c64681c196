"""Wilson's interval of a proportion. Reference: Wilson, JASA 22:209, 1927."""

from __future__ import annotations

from statistics import NormalDist

import numpy as np


def wilson(k: int, n: int, level: float = 0.95) -> tuple[float, float]:
    """Wilson's interval of a proportion k / n; nan where n is 0."""
    if n == 0:
        return float("nan"), float("nan")
    z = NormalDist().inv_cdf((1 + level) / 2)
    centre = (k + z * z / 2) / (n + z * z)
    half = z / (n + z * z) * np.sqrt(k * (n - k) / n + z * z / 4)
    return float(max(centre - half, 0)), float(min(centre + half, 1))
