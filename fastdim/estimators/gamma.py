"""Quantiles of the Gamma distribution, so that exact intervals need no scipy.

Regularized incomplete gamma function by series and continued fraction (Numerical Recipes, 6.2),
with the prefactor in Loader's form ("Fast and accurate computation of binomial probabilities",
2000), which keeps full relative accuracy at shapes of 10^6 where x^a e^-x / Gamma(a) would cancel.
"""

from __future__ import annotations

import math
from statistics import NormalDist

_EPSILON = 1e-17
_TINY = 1e-300


def gamma_quantile(p: float, shape: float) -> float:
    """The p-quantile of Gamma(shape, rate 1); 0 < p < 1, shape > 0. Relative error about 1e-13."""
    if not 0.0 < p < 1.0 or not shape > 0.0:
        raise ValueError(f"gamma_quantile needs 0 < p < 1 and shape > 0, got {p} and {shape}")
    # Wilson & Hilferty (1931): the cube root is close to normal.
    cube = 1.0 - 1.0 / (9.0 * shape) + NormalDist().inv_cdf(p) / (3.0 * math.sqrt(shape))
    x = shape * cube**3 if cube > 0.1 else (p * math.gamma(shape + 1.0)) ** (1.0 / shape)
    low, high = 0.0, math.inf
    for _ in range(200):
        lower, upper = gamma_tails(shape, x)
        # The smaller tail is the accurate one.
        excess = lower - p if p < 0.5 else (1.0 - p) - upper
        if excess > 0.0:
            high = x
        else:
            low = x
        step = excess * x / max(_prefactor(shape, x), _TINY)
        following = x - step
        if not low < following < high:
            following = 2.0 * x if math.isinf(high) else 0.5 * (low + high)
        if abs(following - x) <= 1e-15 * x:
            return following
        x = following
    return x


def gamma_tails(shape: float, x: float) -> tuple[float, float]:
    """P(X <= x) and P(X > x) for X of Gamma(shape, rate 1)."""
    if x <= 0.0:
        return 0.0, 1.0
    if x < shape + 1.0:
        lower = _series(shape, x)
        return lower, 1.0 - lower
    upper = _fraction(shape, x)
    return 1.0 - upper, upper


def _series(a: float, x: float) -> float:
    term = total = 1.0 / a
    count = a
    while term > total * _EPSILON:
        count += 1.0
        term *= x / count
        total += term
    return total * _prefactor(a, x)


def _fraction(a: float, x: float) -> float:
    """Continued fraction of the upper tail by Lentz's method."""
    b = x + 1.0 - a
    c = 1.0 / _TINY
    d = 1.0 / b
    value = d
    i = 0
    while True:
        i += 1
        numerator = -i * (i - a)
        b += 2.0
        d = numerator * d + b
        d = 1.0 / (d if d != 0.0 else _TINY)
        c = b + numerator / c
        c = c if c != 0.0 else _TINY
        change = d * c
        value *= change
        if abs(change - 1.0) < 1e-16:
            return value * _prefactor(a, x)


def _prefactor(a: float, x: float) -> float:
    """x^a e^-x / Gamma(a)."""
    if a < 10.0:
        return math.exp(a * math.log(x) - x - math.lgamma(a))
    relative = (x - a) / a
    return math.sqrt(a / (2.0 * math.pi)) * math.exp(a * _log1p_minus(relative) - _stirling_rest(a))


def _log1p_minus(t: float) -> float:
    """log(1 + t) - t without cancellation near 0."""
    if abs(t) > 0.1:
        return math.log1p(t) - t
    total, power, k = 0.0, -t, 1
    while True:
        power *= -t
        k += 1
        term = -power / k
        total += term
        if abs(term) <= abs(total) * 1e-18:
            return total


def _stirling_rest(a: float) -> float:
    """log Gamma(a) - ((a - 1/2) log a - a + log(2 pi)/2), for a >= 10 (error below 1e-16)."""
    q = 1.0 / (a * a)
    rest = 1 / 12 - q * (
        1 / 360 - q * (1 / 1260 - q * (1 / 1680 - q * (1 / 1188 - q * 691 / 360360)))
    )
    return rest / a
