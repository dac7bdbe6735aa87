"""A mean with its 95 % interval, for the few seeds a configuration has."""

from collections.abc import Sequence
from math import isfinite, sqrt
from statistics import fmean, stdev

#: Student's t, 97.5 % quantile, for 1 to 10 degrees of freedom.
_T = (12.7062, 4.3027, 3.1824, 2.7764, 2.5706, 2.4469, 2.3646, 2.3060, 2.2622, 2.2281)
_Z = 1.959964  # the same of the normal distribution


def student(freedom: int) -> float:
    """The 97.5 % quantile of Student's t.

    Args:
        freedom: degrees of freedom, at least 1.
    """
    if freedom <= len(_T):
        return _T[freedom - 1]
    terms = (  # Abramowitz & Stegun 26.7.5; right to 2e-4 from 11 on
        _Z,
        (_Z**3 + _Z) / (4 * freedom),
        (5 * _Z**5 + 16 * _Z**3 + 3 * _Z) / (96 * freedom**2),
        (3 * _Z**7 + 19 * _Z**5 + 17 * _Z**3 - 15 * _Z) / (384 * freedom**3),
    )
    return sum(terms)


def mean_and_half(values: Sequence[float]) -> tuple[float, float]:
    """The mean, and half the width of its 95 % interval.

    Args:
        values: one a seed.

    Returns:
        NaN for the mean where a value is not known or there is none, and for the interval also where there is only one.
    """
    nan = float("nan")
    if not values or not all(map(isfinite, values)):
        return nan, nan
    if len(values) == 1:
        return values[0], nan
    return fmean(values), student(len(values) - 1) * stdev(values) / sqrt(len(values))
