"""Special functions of one argument that numpy lacks."""

from __future__ import annotations

import math

import numpy as np


def digamma(x: float) -> float:
    """Derivative of log Gamma at x > 0: recurrence up to 10, then the asymptotic series."""
    total = 0.0
    while x < 10.0:
        total -= 1.0 / x
        x += 1.0
    q = 1.0 / (x * x)
    series = q * (1 / 12 - q * (1 / 120 - q * (1 / 252 - q * (1 / 240 - q * (1 / 132 - q / 47.4)))))
    return total + math.log(x) - 0.5 / x - series


def log_bessel0(x: float) -> float:
    """log I_0(x) for x >= 0, I_0 the modified Bessel function of the first kind."""
    return x + math.log(_scaled(x)[0])


def mean_resultant(x: float) -> float:
    """I_1(x) / I_0(x) for x >= 0: the mean cosine of the von Mises law of concentration x."""
    zero, one = _scaled(x)
    return one / zero


def _scaled(x: float) -> tuple[float, float]:
    """exp(-x) I_0(x) and exp(-x) I_1(x) by the trapezoid rule, exact to rounding when periodic."""
    count = 64 + 16 * math.ceil(math.sqrt(x))
    angle = np.arange(0.5, count) * (math.pi / count)
    weight = np.exp(-2.0 * x * np.sin(angle / 2.0) ** 2)
    return float(weight.mean()), float((weight * np.cos(angle)).mean())
