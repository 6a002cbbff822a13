"""Intervals: of shares, of means, and of differences between two ways of making the same clips (paired)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

_RESAMPLES = 4000
# Resampling three values knows nothing of a fourth: below this many no difference is called one.
_ENOUGH = 10


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean, share or difference with its interval, and how many clips (or pairs of clips) it stands on."""

    value: float
    low: float
    high: float
    count: int

    @property
    def excludes_zero(self) -> bool:
        """Whether the interval lies on one side of zero, and stands on enough clips for that to say something."""
        return self.count >= _ENOUGH and (self.low > 0 or self.high < 0)

    def as_dict(self) -> dict[str, float | int | list[float]]:
        return {"value": self.value, "interval": [self.low, self.high], "count": self.count}


def wilson_interval(correct: int, count: int, z: float = 1.96) -> tuple[float, float]:
    """The Wilson score interval of a share, by default at 95 % (Wilson 1927); (0, 1) without any trial."""
    if count == 0:
        return 0.0, 1.0
    share = correct / count
    centre = share + z * z / (2 * count)
    spread = z * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    scale = 1 + z * z / count
    return max(0.0, (centre - spread) / scale), min(1.0, (centre + spread) / scale)


def mean_estimate(values: Sequence[float], level: float = 0.95) -> Estimate | None:
    """The mean with its bootstrap percentile interval (Efron 1979), the same for the same values; None without any."""
    if not values:
        return None
    sample = np.asarray(values, dtype=np.float64)
    # In blocks: all resamples of a large set at once would not fit.
    rng = np.random.default_rng(0)
    means = np.concatenate([sample[rng.integers(0, len(sample), (100, len(sample)))].mean(axis=1)
                            for _ in range(_RESAMPLES // 100)])  # fmt: skip
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return Estimate(float(sample.mean()), float(low), float(high), len(sample))


def paired_mean_difference(pairs: Sequence[tuple[float, float]], level: float = 0.95) -> Estimate | None:
    """Mean of second minus first over (first, second) pairs, bootstrapped over the pairs; None without any."""
    return mean_estimate([second - first for first, second in pairs], level)


def paired_share_difference(pairs: Sequence[tuple[bool, bool]], level: float = 0.95) -> Estimate | None:
    """Share of second minus share of first over (first, second) pairs; None without any.

    The adjusted Wald interval of Bonett and Price (2012): one pair more in each kind of disagreement. Unlike the bootstrap
    it does not shrink to a point where the two hardly ever disagree.
    """
    if not pairs:
        return None
    count = len(pairs)
    gained = sum(second and not first for first, second in pairs)
    lost = sum(first and not second for first, second in pairs)
    up, down = (gained + 1) / (count + 2), (lost + 1) / (count + 2)
    spread = NormalDist().inv_cdf((1 + level) / 2) * math.sqrt((up + down - (up - down) ** 2) / (count + 2))
    return Estimate((gained - lost) / count, max(-1.0, up - down - spread), min(1.0, up - down + spread), count)
