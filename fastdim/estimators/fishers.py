"""FisherS: dimension from how many points a linear rule cannot separate from another."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastdim.arrays import Rows, real_number, several
from fastdim.backends import cpu
from fastdim.backends.blas import one_blas_thread
from fastdim.covariance import decompose
from fastdim.errors import InputError
from fastdim.estimate import Estimate
from fastdim.estimators.inputs import Sample, distinct_of, estimate_of, rows_of
from fastdim.moments import VANISHED

Array = NDArray[np.float64]

# 0.60, 0.62, ..., 0.98, to the last bit as in other codes: it decides which of two is nearer.
ALPHAS = tuple(float(alpha) for alpha in np.arange(0.6, 1.0, 0.02))
MANY_PAIRS = 20.0  # of a level, that its share is taken from
RARE = 1e-9  # chance of a level that is as none
DRAWN_ROWS = 1024  # rows by which squared cosines are known well enough
ALL_ALIKE = 1e-9  # a variance of squared cosines that is none
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

    x: rows (n, d), reduced to distinct rows; k plays no part. alphas: within (0, 1); the equation
        is that of a^2 n well above 1, and gives more below: on even spheres of 1, 2, 5 and 20
        dimensions 1.45, 1.27, 1.10 and 1.01 times n at a = 0.6, 4.9, 3.2, 1.95 and 1.19 times at
        0.3, and 42, 23, 10 and 3.5 times at 0.1. Take none below 0.6 where n may be small.

    Global: it describes directions, not a neighbourhood. Assumes that whitened rows fill a sphere
    evenly. Bias: cut at the number of axes kept, so `condition` decides on anisotropic rows.
    Interval: influence of the rows on p less what pairs count twice and what whitening fixes, and
    the chance that chooses a, for alphas as close and as even as the default ones: where a wide gap
    follows close ones it is far too wide. With the axes fixed: where other rows would keep another
    number of axes, as massive rows of a layer make them, it is far too narrow. Normal on the log
    scale.
    Cost: O(n^2 r), r axes kept.

    Raises InputError where every pair is separable at every alpha, or rows coincide with the mean.
    """
    of = separability_of(x, condition, alphas, threads)
    spread = _spread_of_squares(of.unit)
    error = math.sqrt(_variance(of.shares, of.levels, of.mean, of.unit.shape[1], spread))
    method = f"FisherS, alpha = {of.alpha:.2f}"
    return estimate_of(of.value, error, of.sample, method, "rows", confidence)


@dataclass(frozen=True, eq=False)
class Separability:
    """Rows on the sphere (n, r), levels, shares of pairs of each row (n, levels) and of all."""

    unit: Array
    levels: Array
    shares: Array
    mean: Array
    alpha: float
    value: float
    sample: Sample


def separability_of(
    x: Any, condition: float, alphas: Sequence[float], threads: int | None
) -> Separability:
    """What `fishers` measures, of its arguments; raises InputError on the same."""
    rows = rows_of(x, "fishers")
    levels = np.unique([real_number("each of alphas", a) for a in several("alphas", alphas)])
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
    sample = Sample(rows.n, distinct.n, distinct.n)
    return Separability(unit, levels, shares, mean, alpha, sphere_dimension(p, alpha), sample)


def _chosen(levels: Array, mean: Array, last: int) -> int:
    """The level closest to 0.9 of level number `last`, the largest that a pair reaches."""
    known = np.flatnonzero(mean[: last + 1] > 0.0)
    return int(known[np.abs(levels[known] - 0.9 * levels[last]).argmin()])


def _variance_of_share(
    shares: Array, levels: Array, mean: Array, axes: int, spread: float
) -> float:
    """Of the share p of ordered pairs of n rows with a cosine of at least levels[0].

    Influences of rows, 2 (share of the row - p) / n, whose squares count what two rows have in
    common from both ends, as a jackknife does: 2 p (1 - p) / n^2 of it is taken off once (Efron &
    Stein, Ann. Stat. 1981). On an even sphere nothing else is left, and whitening fixes the mean
    and the second moments of the rows, that is the parts of p (1 - p) along t and t^2 - 1/r of the
    cosine t and r axes, on a sphere the first two Gegenbauer polynomials: they come off as well.
    What is left is the least that any rows are given. mean: (levels,) of all rows. spread: variance
    of t^2, measured: where rows are on circles, it is up to a quarter above a sphere's, and with
    that one's the error would be too small.
    """
    n, p = len(shares), float(mean[0])
    mass = mean - np.append(mean[1:], 0.0)
    # Between two levels cosines lie as they do on an even sphere.
    step = (np.arange(64) + 0.5) / 64
    cosine = levels[:, None] + (np.append(levels[1:], 1.0) - levels)[:, None] * step
    # Of hundreds of axes no float64 holds the density itself.
    logarithm = 0.5 * (axes - 3) * np.log1p(-np.square(cosine))
    density = np.exp(logarithm - logarithm.max(axis=1, keepdims=True))
    density /= density.sum(axis=1, keepdims=True)
    along = float(mass @ (cosine * density).sum(axis=1)) ** 2 * axes
    if spread > ALL_ALIKE:
        square = (np.square(cosine) * density).sum(axis=1)
        along += float(mass @ (square - 1.0 / axes)) ** 2 / spread
    pairs = p * (1.0 - p)
    along = min(along, MOST_ALONG * pairs)
    influences = float(np.square(2.0 * (shares - p) / n).sum())
    return max(influences - 2.0 * (pairs + along) / n**2, 2.0 * (pairs - along) / n**2)


def _variance(shares: Array, levels: Array, mean: Array, axes: int, of_squares: float) -> float:
    """Of the value, whose level is chance, for that of the largest cosine is.

    Over the largest levels that pairs may reach, the mean of what the value varies by where that is
    known, and what its means differ by. Which one was reached tells nothing of the error: that of
    the level taken alone would be small where the value is large. Pairs beyond levels are as a
    Poisson process: some of those at the level taken are known to reach the largest one, and none
    to reach beyond. shares (n, levels) of each row, mean (levels,) of all; of_squares: variance of
    squared cosines. Returns a variance of dimensions.
    """
    pairs = 0.5 * len(shares) * (len(shares) - 1.0)
    share = _expected_shares(levels, mean, pairs)
    beyond = np.append(share[1:], 0.0)
    chance = -np.expm1(-pairs * (share - beyond)) * np.exp(-pairs * beyond)
    first = int(np.flatnonzero(mean > 0.0)[0])
    tops = first + np.flatnonzero(chance[first:] > RARE * chance[first:].max())
    places = [_chosen(levels, mean, int(top)) for top in tops]
    # Several largest levels may lead to one that is taken.
    of_logs = {
        place: _variance_of_share(shares[:, place], levels[place:], mean[place:], axes, of_squares)
        / float(mean[place]) ** 2
        for place in set(places)
    }
    # Pairs that reach the top, and no further: their mean, and where one at least is known to.
    reaching = pairs * (share[tops] - beyond[tops])
    known = reaching / -np.expm1(-reaching)
    # By how much mean and variance of all that reach it are more than where nothing is known.
    more, spread = known - pairs * share[tops], known * (1.0 + reaching - known)
    spread -= pairs * share[tops]
    within, value = np.empty(len(tops)), np.empty(len(tops))
    for i, place in enumerate(places):
        p, alpha, expected = float(share[place]), float(levels[place]), pairs * float(share[place])
        slope = _slope(p, alpha)
        value[i] = sphere_dimension(p, alpha) + slope * more[i] / expected
        least = (1.0 - MOST_ALONG) * of_logs[place]
        within[i] = slope**2 * np.maximum(of_logs[place] + spread[i] / expected**2, least)
    weight = chance[tops] / chance[tops].sum()
    return float(weight @ (within + np.square(value - weight @ value)))


def _expected_shares(levels: Array, mean: Array, pairs: float) -> Array:
    """Shares (levels,) of pairs, as a line of the dimension gives them from 4 levels before the
    last on that has 20 pairs; before those, as they are.

    The dimension of a level is the same at all on a sphere, and drifts elsewhere. Pairs that reach
    a level are among those of the one before: what they tell besides has the variance 1/N - 1/N'
    of log p, N of N' pairs, and the drift is the mean that weighs by its inverse.
    """
    many = np.flatnonzero(mean * pairs >= MANY_PAIRS)
    if len(many) == 0:
        many = np.flatnonzero(mean > 0.0)[:1]
    start, last = max(0, int(many[-1]) - 4), int(many[-1])
    used = range(start, last + 1)
    dimension = np.array([sphere_dimension(float(mean[j]), float(levels[j])) for j in used])
    drift = 0.0
    if start < last:
        count, step = mean[start : last + 1] * pairs, np.diff(levels[start : last + 1])
        weight = 1.0 / (1.0 / count[1:] - 1.0 / (count[:-1] + 1.0))  # one more: N may be N'
        drift = float((weight * step) @ np.diff(dimension) / (weight @ np.square(step)))
    line = np.maximum(dimension[0] + drift * (levels - levels[start]), 1.0)
    cap = (1.0 - np.square(levels)) ** (0.5 * (line - 1.0))
    sphere = cap / (levels * np.sqrt(2.0 * math.pi * line))
    return np.minimum.accumulate(np.where(np.arange(len(levels)) <= start, mean, sphere))


def _spread_of_squares(unit: Array) -> float:
    """Variance of the squared cosine of two rows (n, r) of norm 1, of DRAWN_ROWS at most."""
    if len(unit) > DRAWN_ROWS:  # drawn, for rows of texts come in periods
        unit = unit[np.random.default_rng(0).choice(len(unit), DRAWN_ROWS, replace=False)]
    with one_blas_thread():
        square = np.square(unit @ unit.T)
    np.fill_diagonal(square, 0.0)
    pairs = len(unit) * (len(unit) - 1)
    return max(0.0, float(np.square(square).sum()) / pairs - (float(square.sum()) / pairs) ** 2)


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
