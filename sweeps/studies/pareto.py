"""What no other point beats in both size and accuracy."""

import math
from collections.abc import Sequence


def front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Which points are on the Pareto front: no other one is at most as large and at least as good, and better in one of both.

    Args:
        points: (bytes, accuracy); with NaN in it a point is never on the front.

    Returns:
        Places in ``points``, the smallest first; of equal points all.
    """
    known = [i for i, point in enumerate(points) if all(map(math.isfinite, point))]
    kept = [i for i in known if not any(_beats(points[j], points[i]) for j in known)]
    return sorted(kept, key=lambda i: points[i])


def _beats(one: tuple[float, float], other: tuple[float, float]) -> bool:
    return one[0] <= other[0] and one[1] >= other[1] and one != other
