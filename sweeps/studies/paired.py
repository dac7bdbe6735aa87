"""Two methods compared over the same seeds."""

import math
from collections.abc import Mapping


def wilcoxon(one: Mapping[int, float], other: Mapping[int, float]) -> tuple[float, int]:
    """Wilcoxon's signed-rank test of two methods paired by seed, two-sided.

    With n seeds p cannot be below 2 / 2^n: with 5 seeds not below .0625, whatever the difference.

    Args:
        one: seed -> value.
        other: seed -> value of what it is compared with.

    Returns:
        p (1 where all pairs are equal, NaN where there is none), and the number of pairs.
    """
    pairs = [(one[seed], other[seed]) for seed in one if seed in other]
    pairs = [(a, b) for a, b in pairs if math.isfinite(a) and math.isfinite(b)]
    if not pairs:
        return math.nan, 0
    if all(a == b for a, b in pairs):
        return 1.0, len(pairs)
    from scipy import stats

    first, second = zip(*pairs, strict=True)
    return float(stats.wilcoxon(first, second).pvalue), len(pairs)
