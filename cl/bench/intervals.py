"""Statistics of alternating measurements."""

import numpy as np


def median_interval(values: list[float], resamples: int = 10_000, level: float = 0.95) -> tuple[float, float, float]:
    """The median and its bootstrap percentile interval: (median, low, high). Seeded."""
    rng = np.random.default_rng(0)
    medians = np.median(rng.choice(values, (resamples, len(values))), axis=1)
    tail = 50 * (1 - level)
    low, high = np.percentile(medians, [tail, 100 - tail])
    return float(np.median(values)), float(low), float(high)
