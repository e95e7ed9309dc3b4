"""The curve closest to given values that rises to one peak and falls after it, and its widths."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def unimodal(values: Array, weights: Array) -> Array:
    """Least-squares fit (L,) that rises up to one place and falls from there on.

    Pooled adjacent violators from both ends (Barlow et al., Statistical Inference under Order
    Restrictions, 1972); the errors of all left and right parts come from one pass each (Stout,
    Comput. Stat. Data Anal. 53:289, 2008).
    """
    left = _rising(values, weights)[1]
    right = _rising(values[::-1], weights[::-1])[1]
    count = len(values)
    totals = [left[k] + right[count - k] for k in range(1, count + 1)]
    peak = 1 + int(np.argmin(totals))
    rising = _rising(values[:peak], weights[:peak])[0]
    falling = _rising(values[peak:][::-1], weights[peak:][::-1])[0][::-1]
    return np.concatenate([rising, falling])


def _rising(values: Array, weights: Array) -> tuple[Array, list[float]]:
    """The rising fit (k,), and the squared error of that to the first 0..k values."""
    errors, total = [0.0], 0.0
    blocks: list[tuple[float, float, float, int]] = []
    for value, weight in zip(values.tolist(), weights.tolist(), strict=True):
        mean, mass, error, size = value, weight, 0.0, 1
        while blocks and blocks[-1][0] >= mean:
            other, its, before, count = blocks.pop()
            total -= before
            error += before + its * mass / (its + mass) * (other - mean) ** 2
            mean = (its * other + mass * mean) / (its + mass)
            mass, size = mass + its, size + count
        blocks.append((mean, mass, error, size))
        total += error
        errors.append(total)
    fit = np.repeat([block[0] for block in blocks], [block[3] for block in blocks])
    return fit.astype(np.float64), errors


def top_level(fit: Array) -> float:
    """Height of the top of a unimodal fit: mean of the upper half of what lies above half height.

    The highest value itself is a spike where a wide top is noisy.
    """
    floor = max(fit[0], fit[-1])
    above = np.sort(fit[fit >= 0.5 * (floor + fit.max())])
    return float(above[len(above) // 2 :].mean())


def stretch(positions: Array, fit: Array, level: float) -> tuple[float, float]:
    """Where a unimodal fit passes `level` of its way from each end to the top, left and right."""
    top = int(np.argmax(fit))
    height = top_level(fit)
    left = _crossing(positions[: top + 1], fit[: top + 1], level, height)
    right = -_crossing(-positions[top:][::-1], fit[top:][::-1], level, height)
    return left, right


def _crossing(positions: Array, fit: Array, level: float, height: float) -> float:
    """Where a rising fit passes the level between its first value and the height."""
    target = min(fit[0] + level * (height - fit[0]), fit[-1])
    after = int(np.searchsorted(fit, target))
    if after == 0:
        return float(positions[0])
    low, high = fit[after - 1], fit[after]
    share = (target - low) / (high - low)
    return float(positions[after - 1] + share * (positions[after] - positions[after - 1]))
