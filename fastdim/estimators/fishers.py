"""FisherS: dimension from how many points a linear rule cannot separate from another."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastdim.arrays import Rows, real_number, several
from fastdim.backends import cpu
from fastdim.covariance import decompose
from fastdim.errors import InputError
from fastdim.estimate import Estimate
from fastdim.estimators.inputs import Sample, distinct_of, estimate_of, rows_of
from fastdim.moments import VANISHED

Array = NDArray[np.float64]

# 0.60, 0.62, ..., 0.98, to the last bit as in other codes: it decides which of two is nearer.
ALPHAS = tuple(float(alpha) for alpha in np.arange(0.6, 1.0, 0.02))
MANY_PAIRS = 20.0  # of a level, that its share is taken from
# Whitening takes off at most so much of what an even sphere varies by: it is known up to its noise.
MOST_ALONG = 0.95
BLOCK_VALUES = 1 << 20  # cosines that stay in a cache


def fishers(
    x: Any,
    *,
    condition: float = 10.0,
    alphas: Sequence[float] = ALPHAS,
    confidence: float = 0.95,
    threads: int | None = None,
) -> Estimate:
    """Intrinsic dimension by Fisher separability (Albergante et al., IJCNN 2019).

    Rows are centered, reduced to the principal axes with more than 1/condition of the first one's
    variance, whitened, and scaled to norm 1. p(a) is the share of ordered pairs with x.y >= a; on a
    sphere of n dimensions p = (1 - a^2)^((n-1)/2) / (a sqrt(2 pi n)), solved for n by Lambert's W.
    The value is n at the a closest to 0.9 of the largest a with p > 0.

    x: rows (n, d), reduced to distinct rows; k plays no part. alphas: within (0, 1).

    Global: it describes directions, not a neighbourhood. Assumes that whitened rows fill a sphere
    evenly. Bias: cut at the number of axes kept, so `condition` decides on anisotropic rows.
    Interval: influence of the rows on p less what pairs count twice and what whitening fixes, and
    the chance that chooses a, with the axes fixed: where other rows would keep another number of
    axes, as massive rows of a layer make them, it is far too narrow; normal on the log scale.
    Cost: O(n^2 r), r axes kept.

    Raises InputError where every pair is separable at every alpha, or rows coincide with the mean.
    """
    rows = rows_of(x, "fishers")
    levels = np.sort([real_number("each of alphas", a) for a in several("alphas", alphas)])
    if len(levels) == 0 or not ((levels > 0.0) & (levels < 1.0)).all():
        raise InputError(f"alphas must lie strictly between 0 and 1, got {alphas!r}")
    condition = real_number("condition", condition)
    if not condition > 1.0:
        raise InputError(f"condition must be above 1, got {condition!r}")
    workers = cpu.resolve_threads(threads)
    groups = distinct_of(rows, 3, "fishers", workers)
    distinct = rows if len(groups.first) == rows.n else rows.take(groups.first)
    unit = _on_sphere(distinct, condition, workers)
    counts = _counts(unit, levels)
    shares = counts / (distinct.n - 1)
    mean = shares.mean(axis=0)
    if not (mean > 0.0).any():
        raise InputError(
            "every pair of rows is separable at every alpha: the dimension is too high for so few "
            "rows; pass more rows or smaller alphas"
        )
    place = _chosen(levels, mean, int(np.flatnonzero(mean > 0.0)[-1]))
    alpha, p = float(levels[place]), float(mean[place])
    value = sphere_dimension(p, alpha)
    of_share = _variance_of_share(shares[:, place], levels[place:], mean[place:], unit.shape[1])
    of_level = _variance_of_level(levels, mean, place, distinct.n)
    error = math.sqrt((_slope(p, alpha) / p) ** 2 * of_share + of_level)
    sample = Sample(rows.n, distinct.n, distinct.n)
    return estimate_of(value, error, sample, f"FisherS, alpha = {alpha:.2f}", "rows", confidence)


def _chosen(levels: Array, mean: Array, last: int) -> int:
    """The level closest to 0.9 of level number `last`, the largest that a pair reaches."""
    known = np.flatnonzero(mean[: last + 1] > 0.0)
    return int(known[np.abs(levels[known] - 0.9 * levels[last]).argmin()])


def _variance_of_share(shares: Array, levels: Array, mean: Array, axes: int) -> float:
    """Of the share p of ordered pairs of n rows with a cosine of at least levels[0].

    Influences of rows, 2 (share of the row - p) / n, whose squares count what two rows have in
    common from both ends, as a jackknife does: 2 p (1 - p) / n^2 of it is taken off once (Efron &
    Stein, Ann. Stat. 1981). On an even sphere nothing else is left, and whitening fixes the mean
    and the second moments of the rows, that is the parts of p (1 - p) along the first two
    Gegenbauer polynomials of the cosine t, t and t^2 - 1/r of r axes: they come off as well. What
    is left on a sphere is the least that any rows are given. mean: (levels,) of all rows.
    """
    n, p = len(shares), float(mean[0])
    mass = mean - np.append(mean[1:], 0.0)
    # Between two levels cosines lie as they do on an even sphere.
    step = (np.arange(64) + 0.5) / 64
    cosine = levels[:, None] + (np.append(levels[1:], 1.0) - levels)[:, None] * step
    density = (1.0 - np.square(cosine)) ** (0.5 * (axes - 3))
    density /= density.sum(axis=1, keepdims=True)
    along = float(mass @ (cosine * density).sum(axis=1)) ** 2 * axes
    spread = 3.0 / (axes * (axes + 2.0)) - 1.0 / axes**2  # variance of t^2
    if spread > 0.0:
        square = (np.square(cosine) * density).sum(axis=1)
        along += float(mass @ (square - 1.0 / axes)) ** 2 / spread
    pairs = p * (1.0 - p)
    along = min(along, MOST_ALONG * pairs)
    influences = float(np.square(2.0 * (shares - p) / n).sum())
    return max(influences - 2.0 * (pairs + along) / n**2, 2.0 * (pairs - along) / n**2)


def _variance_of_level(levels: Array, mean: Array, place: int, n: int) -> float:
    """Of the value at levels[place], for the largest level that a pair reaches is chance.

    A level of share p is reached with probability 1 - exp(-n (n - 1) p / 2). Beyond the last one of
    20 pairs, p falls by the power of 1 - a^2 that it fell by before. Values of the levels that
    would be taken differ by their noise, too, which is not counted again: pairs that reach one
    level and not the other.
    """
    pairs = 0.5 * n * (n - 1.0)
    many = np.flatnonzero(mean * pairs >= MANY_PAIRS)
    if len(many) == 0:
        many = np.flatnonzero(mean > 0.0)[:1]
    last, before = int(many[-1]), max(0, int(many[-1]) - 3)
    cap = np.log1p(-np.square(levels))
    # Of a level alone, the power of an even sphere.
    power = 0.5 * (sphere_dimension(float(mean[last]), float(levels[last])) - 1.0)
    if before < last:
        power = math.log(float(mean[last] / mean[before])) / float(cap[last] - cap[before])
    beyond = float(mean[last]) * np.exp(power * np.minimum(0.0, cap - cap[last]))
    share = np.where(np.arange(len(levels)) <= last, mean, beyond)
    reached = np.minimum.accumulate(-np.expm1(-pairs * share))
    chance = reached - np.append(reached[1:], 0.0)
    alpha, p = float(levels[place]), float(mean[place])
    value, slope = sphere_dimension(p, alpha), _slope(p, alpha)
    spread = 0.0
    for top in range(int(np.flatnonzero(mean > 0.0)[0]), len(levels)):
        other = _chosen(levels, mean, top)
        moved = sphere_dimension(float(mean[other]), float(levels[other])) - value
        noise = 2.0 * slope * slope / n**2 * abs(1.0 / float(mean[other]) - 1.0 / p)
        spread += float(chance[top]) * (moved * moved - noise)
    return max(0.0, spread)


def _slope(p: float, alpha: float) -> float:
    """Derivative of the dimension by log p."""
    step = 1e-3
    higher, lower = (sphere_dimension(p * math.exp(s), alpha) for s in (step, -step))
    return (higher - lower) / (2.0 * step)


def sphere_dimension(p: float, alpha: float) -> float:
    """n with (1 - a^2)^((n-1)/2) / (a sqrt(2 pi n)) = p."""
    square = alpha * alpha
    w = math.log1p(-square)
    # n = W(z) / -w with W e^W = z, solved as W + log W = log z.
    logarithm = math.log(-w / (2.0 * math.pi * p * p * square * (1.0 - square)))
    found = logarithm if logarithm > 1.0 else math.exp(logarithm) / (1.0 + math.exp(logarithm))
    for _ in range(100):
        step = (logarithm - found - math.log(found)) * found / (1.0 + found)
        found = found + step if found + step > 0.0 else 0.5 * found
        if abs(step) <= 1e-15 * found:
            break
    return found / -w


def _on_sphere(rows: Rows, condition: float, threads: int) -> Array:
    """Whitened scores of norm 1 on the axes kept (n, r)."""
    found = decompose(rows, threads)
    kept = int((found.eigenvalues * condition > found.eigenvalues[0]).sum())
    if not found.eigenvalues[0] > 0.0:
        raise InputError(f"all {rows.n} rows are equal: there is no variance to analyse{VANISHED}")
    if found.by_rows:
        scores = np.ascontiguousarray(found.axes[:, :kept])
    else:
        parts = [(rows.float64(*s) - found.mean) @ found.axes[:kept].T for s in rows.spans()]
        scores = np.concatenate(parts) / np.sqrt(found.eigenvalues[:kept])
    norms = np.sqrt(np.einsum("ij,ij->i", scores, scores))
    if not (norms > 0.0).all():
        raise InputError(
            f"{int((norms == 0.0).sum())} rows lie at the mean, in no direction: drop them"
        )
    return np.asarray(scores / norms[:, None])


def _counts(unit: Array, levels: Array) -> NDArray[np.int64]:
    """Other rows with a cosine of at least each level (n, a).

    Each pair once, by products in float32; where their rounding could carry one over a level, the
    product in float64 decides.
    """
    n, width = len(unit), len(levels) + 1
    small = unit.astype(np.float32)
    # Of a product of r terms of rows of norm 1, each rounded to float32 before: (r + 2) 2^-24.
    margin = (unit.shape[1] + 4) * 2.0**-23
    lowest = np.float32(levels[0] - 2.0 * margin)
    found = np.zeros(n * width, dtype=np.int64)
    waiting: list[NDArray[np.int64]] = []
    held = 0
    size = max(1, BLOCK_VALUES // n)
    step = max(1, BLOCK_VALUES // unit.shape[1])  # pairs whose rows are taken out at a time
    for start in range(0, n, size):
        cosines = small[start : start + size] @ small[start:].T
        # Few pairs reach the lowest level: only those are compared with the rest.
        row, column = np.divmod(np.flatnonzero(cosines >= lowest), n - start)
        later = column > row
        row, column = row[later], column[later]
        near = cosines[row, column].astype(np.float64)
        row, column = row + start, column + start
        reached = np.searchsorted(levels, near - margin, side="right")
        close = np.flatnonzero(reached != np.searchsorted(levels, near + margin, side="right"))
        for at in range(0, len(close), step):
            pair = close[at : at + step]
            exact = np.einsum("ij,ij->i", unit[row[pair]], unit[column[pair]])
            reached[pair] = np.searchsorted(levels, exact, side="right")
        waiting += [row * width + reached, column * width + reached]
        held += 2 * len(row)
        if held > n * width or start + size >= n:
            found += np.bincount(np.concatenate(waiting), minlength=n * width)
            waiting, held = [], 0
    tail = found.reshape(n, width)[:, ::-1].cumsum(axis=1)[:, ::-1]
    return np.ascontiguousarray(tail[:, 1:])
