"""Two-way analysis of variance on a full grid, the seeds as replicates."""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class Part:
    """One source of variance.

    Attributes:
        name: what it is.
        squares: sum of squares, in the squared unit of the values.
        freedom: degrees of freedom.
        f: mean square over that of the residual; NaN for the residual itself, and where there is none.
        p: probability of so large an F by chance (F distribution); NaN where F is.
        share: of the total sum of squares, in [0, 1]; NaN where nothing varies.
    """

    name: str
    squares: float
    freedom: int
    f: float
    p: float
    share: float


def two_way(values: "np.ndarray", names: tuple[str, str]) -> list[Part]:
    """The parts of the variance: first knob, second knob, their interaction, and what the seeds leave.

    The fixed-effects model ``y_ijk = mean + a_i + b_j + (ab)_ij + e_ijk`` with equal numbers in all cells, for which the
    sums of squares add up to the total. Source: Montgomery, Design and Analysis of Experiments, section 5.3.

    Args:
        values: shape [levels of the first, levels of the second, seeds], all finite; at least two levels each.
        names: of the two knobs.

    Raises:
        ValueError: another shape, or a value that is not finite.
    """
    import numpy as np
    from scipy.stats import f as f_distribution

    if values.ndim != 3 or min(values.shape[:2]) < 2 or not np.isfinite(values).all():
        raise ValueError(f"a full grid of at least 2 x 2 cells is needed, not {values.shape} with gaps")
    a, b, n = values.shape
    mean, cells = values.mean(), values.mean(2)
    first, second = cells.mean(1), cells.mean(0)
    squares = (
        b * n * float(((first - mean) ** 2).sum()),
        a * n * float(((second - mean) ** 2).sum()),
        n * float(((cells - first[:, None] - second[None, :] + mean) ** 2).sum()),
        float(((values - cells[:, :, None]) ** 2).sum()),
    )
    freedoms = (a - 1, b - 1, (a - 1) * (b - 1), a * b * (n - 1))
    total, residual = sum(squares), squares[3] / freedoms[3] if freedoms[3] else 0.0
    parts: list[Part] = []
    for name, square, freedom in zip((*names, f"{names[0]} x {names[1]}", "seed (residual)"), squares, freedoms, strict=True):
        tested = len(parts) < 3 and residual > 0
        f = square / freedom / residual if tested else math.nan
        p = float(f_distribution.sf(f, freedom, freedoms[3])) if tested else math.nan
        parts.append(Part(name, square, freedom, f, p, square / total if total > 0 else math.nan))
    return parts
