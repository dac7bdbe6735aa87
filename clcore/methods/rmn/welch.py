"""Welch's t-test of two samples with unequal variances, without scipy.

The p-value is the regularised incomplete beta function I_x(dof / 2, 1 / 2) at x = dof / (dof + t^2), worked out by its continued
fraction (DLMF 8.17.22). On the host: a decision follows at once.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

#: The fraction has converged where a factor is this close to 1; it needs O(sqrt(dof)) factors.
CLOSE, MOST_FACTORS = 1e-15, 10_000
#: Stands for a zero in a denominator (modified Lentz).
TINY = 1e-300


class Welch(NamedTuple):
    """Result of the test.

    Attributes:
        statistic: t, positive where the first sample has the larger mean.
        dof: degrees of freedom by Welch and Satterthwaite.
        p: two-sided p-value, in [0, 1].
    """

    statistic: float
    dof: float
    p: float


def welch(first: Tensor, second: Tensor) -> Welch:
    """Compares the means of two samples, each of shape [n] with n >= 2.

    Samples without any spread are either equal (p = 1) or not (p = 0).
    """
    spread, means = [], []
    for sample in (first, second):
        var, mean = torch.var_mean(sample.double())
        spread.append(float(var) / len(sample))
        means.append(float(mean))
    total, gap = sum(spread), means[0] - means[1]
    if total == 0:
        return Welch(math.copysign(math.inf, gap) if gap else 0.0, float(len(first) + len(second) - 2), 0.0 if gap else 1.0)
    dof = total**2 / (spread[0] ** 2 / (len(first) - 1) + spread[1] ** 2 / (len(second) - 1))
    statistic = gap / math.sqrt(total)
    return Welch(statistic, dof, student_p(statistic, dof))


def student_p(statistic: float, dof: float) -> float:
    """Two-sided p-value of a t statistic, in [0, 1]; ``dof`` > 0."""
    square = statistic * statistic
    return incomplete_beta(dof / 2, 0.5, dof / (dof + square), square / (dof + square))


def incomplete_beta(a: float, b: float, x: float, rest: float) -> float:
    """I_x(a, b), in [0, 1].

    Args:
        a: > 0.
        b: > 0.
        x: in [0, 1].
        rest: 1 - x, given so that it keeps its digits.
    """
    if x <= 0 or rest <= 0:
        return 0.0 if x <= 0 else 1.0
    if x > (a + 1) / (a + b + 2):  # the fraction converges fast on the other side
        return 1 - incomplete_beta(b, a, rest, x)
    factor = a * math.log(x) + b * math.log(rest) + math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b)
    return math.exp(factor) / a / _fraction(a, b, x)


def _fraction(a: float, b: float, x: float) -> float:
    """1 + d1/(1 + d2/(1 + ...)) by Lentz's method."""
    value, above, under = 1.0, 1.0, 0.0
    for n in range(1, MOST_FACTORS):
        step = _term(a, b, x, n)
        under = 1 / _nonzero(1 + step * under)
        above = _nonzero(1 + step / above)
        value *= above * under
        if abs(above * under - 1) < CLOSE:
            break
    return value


def _term(a: float, b: float, x: float, n: int) -> float:
    half = n // 2
    if n % 2:
        return -(a + half) * (a + b + half) * x / ((a + n - 1) * (a + n))
    return half * (b - half) * x / ((a + n - 1) * (a + n))


def _nonzero(value: float) -> float:
    return value if abs(value) > TINY else TINY
