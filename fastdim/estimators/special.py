"""Special functions and quantiles that numpy lacks."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np


def log_bessel0(x: float) -> float:
    """log I_0(x) for x >= 0, I_0 the modified Bessel function of the first kind."""
    return x + math.log(_scaled(x)[0])


def mean_resultant(x: float) -> float:
    """I_1(x) / I_0(x) for x >= 0: the mean cosine of the von Mises law of concentration x."""
    zero, one = _scaled(x)
    return one / zero


@lru_cache(maxsize=64)
def _scaled(x: float) -> tuple[float, float]:
    """exp(-x) I_0(x) and exp(-x) I_1(x) by the trapezoid rule, exact to rounding when periodic."""
    count = 64 + 16 * math.ceil(math.sqrt(x))
    angle = np.arange(0.5, count) * (math.pi / count)
    weight = np.exp(-2.0 * x * np.sin(angle / 2.0) ** 2)
    return float(weight.mean()), float((weight * np.cos(angle)).mean())


def student_quantile(p: float, degrees: int) -> float:
    """The p-quantile, 0.5 < p < 1, of Student's t with a whole number of degrees of freedom.

    Bisection of the closed form of its distribution function (Abramowitz & Stegun, 26.7.3-4).
    """
    if not 0.5 < p < 1.0 or degrees < 1:
        raise ValueError(f"student_quantile needs 0.5 < p < 1 and degrees >= 1, got {p}, {degrees}")
    low, high = 0.0, math.pi / 2
    for _ in range(60):
        angle = 0.5 * (low + high)
        if 0.5 + 0.5 * _student_central(angle, degrees) < p:
            low = angle
        else:
            high = angle
    return math.sqrt(degrees) * math.tan(0.5 * (low + high))


def _student_central(angle: float, degrees: int) -> float:
    """Probability of |t| < sqrt(degrees) tan(angle)."""
    cosine, odd = math.cos(angle), degrees % 2
    term = total = cosine if odd else 1.0
    for i in range(2 + odd, degrees - 1, 2):
        term *= cosine**2 * (i - 1) / i
        total += term
    if odd:
        return 2.0 / math.pi * (angle + (math.sin(angle) * total if degrees > 1 else 0.0))
    return math.sin(angle) * total
