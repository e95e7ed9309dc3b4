"""DANCo: norms and angles of neighbourhoods against those of balls of known dimension."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastdim.arrays import Rows, as_rows, generator, whole_number
from fastdim.backends import cpu
from fastdim.estimate import Estimate
from fastdim.estimators import gride
from fastdim.estimators.inputs import estimate_of, rows_and_neighbors, sample_of, widening
from fastdim.estimators.special import digamma, log_bessel0, mean_resultant
from fastdim.estimators.tle import of_neighborhoods
from fastdim.neighbors import Neighbors

Array = NDArray[np.float64]

REPLICATES = 100
# Of `widening`, on the summaries: 1.6 on flat tori of 2, 5 and 10 dimensions with one set of balls.
SHARING = 1.6
# The balls are as many points, drawn once, and err as the rows do.
WITH_BALLS = math.sqrt(2.0)
# Where all angles of a row are equal, as on a line, the concentration would be infinite.
LARGEST_CONCENTRATION = 1e6


@dataclass(frozen=True, eq=False)
class Features:
    """Of each row: log(r_{k+1}/r_1) (m,), direction and concentration of its neighbours' angles."""

    log_mu: Array
    direction: Array
    concentration: Array

    def summary(self, k: int) -> tuple[float, float, float]:
        """Dimension by `mind_ml`, mean direction, mean concentration."""
        d = float(gride.solve(self.log_mu, 1, k + 1)[()])
        return d, float(self.direction.mean()), float(self.concentration.mean())


def danco(
    x: Any,
    k: int = 10,
    *,
    largest: int | None = None,
    neighbors: Neighbors | None = None,
    confidence: float = 0.95,
    seed: int = 0,
    threads: int | None = None,
) -> Estimate:
    """Intrinsic dimension by angle and norm concentration (Ceruti et al., Pattern Recogn. 47,
    2014).

    Per row: rho = r_1 / r_{k+1}, and the von Mises direction nu and concentration tau of the angles
    between its k neighbours. Their likelihood dimension and means are compared with those of as
    many points uniform in balls of 1, 2, ... dimensions (seeded) by Kullback-Leibler divergence;
    the value is where it is least, the balls' means interpolated between whole numbers.

    x: rows (n, d), reduced to distinct rows; k + 1 >= number of distinct rows is refused.
        neighbors: of the same x with at least k + 1 columns, where known. largest: dimensions tried
        at most; None for the columns of x, where a value is cut.
    Directions use the arctangent of two arguments: that of the quotient jumps by pi at right
    angles, which is where angles lie in high dimension.

    Assumes what a ball has: uniform density, flat neighbourhoods, the same share of border. Bias:
    small, since balls of the same n have the same deficit; curvature and noise raise it. Interval:
    100 bootstrap samples of the rows' features, widened for shared neighbours and for the draw of
    the balls; at the largest dimension these lie to one side of the value or are all equal, and
    the interval is too narrow or a point. Cost: a search and O(n k^2 d) for the rows and for each
    ball from 3/4 of the uncorrected dimension up.
    """
    k = whole_number("k", k, 2)
    rows, found = rows_and_neighbors(x, k + 1, "danco", neighbors, None, seed, threads)
    features, balls, value = point(rows, found, k, largest, seed)
    own = np.array(features.summary(k))
    count = len(features.log_mu)
    factor = WITH_BALLS * widening(found, count, SHARING)
    rng = generator(seed)
    drawn = []
    for _ in range(REPLICATES):
        part = rng.integers(0, count, count)
        again = Features(
            features.log_mu[part], features.direction[part], features.concentration[part]
        )
        moved = np.array(again.summary(k))
        _, direction, concentration = own + factor * (moved - own)
        # By its logarithm: of few rows the widened dimension would come out below 0 now and then.
        size = float(own[0] * (moved[0] / own[0]) ** factor)
        drawn.append(balls.closest((size, direction, max(concentration, 0.0)), value))
    stderr = float(np.std(drawn, ddof=1))
    method = f"DANCo, k = {k}"
    return estimate_of(value, stderr, sample_of(found), method, "bootstrap", confidence)


def point(
    rows: Rows, found: Neighbors, k: int, largest: int | None, seed: int
) -> tuple[Features, _Balls, float]:
    """The rows' features, the balls they were compared with, and the dimension."""
    most = rows.d if largest is None else whole_number("largest", largest, 1)
    features = features_of(rows, found, k)
    balls = _Balls(len(found.queries), k, seed, most)
    return features, balls, balls.closest(features.summary(k), None)


class _Balls:
    """Divergences from balls of growing dimension, each computed when first needed."""

    def __init__(self, count: int, k: int, seed: int, most: int) -> None:
        self.count, self.k, self.seed, self.most = count, k, seed, most

    def divergence(self, own: tuple[float, float, float], d: float) -> float:
        """At a whole d; between two, of the balls' summaries interpolated (concentration by
        logs)."""
        low = math.floor(d)
        ball = ball_summary(self.count, low, self.k, self.seed)
        if d > low:
            above, share = ball_summary(self.count, low + 1, self.k, self.seed), d - low
            size, direction = (ball[i] + share * (above[i] - ball[i]) for i in (0, 1))
            ball = (size, direction, ball[2] * (above[2] / ball[2]) ** share)
        return norm_divergence(own[0], ball[0], self.k) + angle_divergence(own[1:], ball[1:])

    def closest(self, own: tuple[float, float, float], start: float | None) -> float:
        """Dimension of least divergence; from a `start` downhill, else over the whole range."""
        if start is None:
            low = min(self.most, max(1, math.floor(0.75 * own[0])))
            best, rises, d = low, 0, low
            least = self.divergence(own, low)
            # It falls, then rises; several rises in a row are no accident of one ball.
            while d < self.most and rises < 5:
                d += 1
                found = self.divergence(own, d)
                best, least, rises = (d, found, 0) if found < least else (best, least, rises + 1)
        else:
            best = min(max(1, round(start)), self.most)
        while best > 1 and self.divergence(own, best - 1) < self.divergence(own, best):
            best -= 1
        while best < self.most and self.divergence(own, best + 1) < self.divergence(own, best):
            best += 1
        ends = [max(1, best - 1), best, min(best + 1, self.most)]
        candidates = [(self.divergence(own, best), float(best))]
        candidates += [self._between(own, a, b) for a, b in pairwise(ends) if a < b]
        return min(candidates)[1]

    def _between(self, own: tuple[float, float, float], a: float, b: float) -> tuple[float, float]:
        """Least divergence between two whole numbers and where it is, by golden section."""
        share = (math.sqrt(5.0) - 1.0) / 2.0
        left, right = b - share * (b - a), a + share * (b - a)
        at_left, at_right = self.divergence(own, left), self.divergence(own, right)
        for _ in range(30):
            # The better of the two inner points stays one of them.
            if at_left < at_right:
                b, right, at_right = right, left, at_left
                left = b - share * (b - a)
                at_left = self.divergence(own, left)
            else:
                a, left, at_left = left, right, at_right
                right = a + share * (b - a)
                at_right = self.divergence(own, right)
        middle = 0.5 * (a + b)
        return self.divergence(own, middle), middle


@lru_cache(maxsize=512)
def ball_summary(count: int, d: int, k: int, seed: int) -> tuple[float, float, float]:
    """Features' summary of `count` points uniform in the unit ball of d dimensions."""
    rng = np.random.default_rng([seed, d])
    points = rng.standard_normal((count, max(d, 1)))
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    points *= rng.random((count, 1)) ** (1.0 / d)
    if d == 1:
        points = np.column_stack([points, np.zeros(count)])
    rows, found = rows_and_neighbors(as_rows(points), k + 1, "danco", None, None, 0, None)
    return features_of(rows, found, k, cpu.resolve_threads(None)).summary(k)


def features_of(rows: Rows, found: Neighbors, k: int, threads: int = 1) -> Features:
    """Features of every query row."""
    log_mu = np.log(found.distances[:, k] / found.distances[:, 0])
    near = replace(found, indices=found.indices[:, :k])
    upper = np.triu_indices(k, 1)

    def angles(neighborhood: NDArray[Any]) -> Array:
        gram = (neighborhood @ neighborhood.transpose(0, 2, 1)).astype(np.float64)
        norms = np.sqrt(np.einsum("bii->bi", gram))
        cosine = gram[:, upper[0], upper[1]] / (norms[:, upper[0]] * norms[:, upper[1]])
        cosine = np.clip(cosine, -1.0, 1.0)
        sine = np.sqrt(1.0 - cosine**2)
        c, s = cosine.mean(axis=1), sine.mean(axis=1)
        return np.column_stack([np.arctan2(s, c), np.hypot(c, s)])

    found_angles = of_neighborhoods(rows, near, angles, threads)
    return Features(log_mu, found_angles[:, 0], concentration(found_angles[:, 1]))


def concentration(length: Array) -> Array:
    """von Mises concentration of a mean resultant length (Fisher, Circular Data, 1993, 4.41)."""
    low = 2.0 * length + length**3 + 5.0 * length**5 / 6.0
    length = np.minimum(length, 1.0 - 1e-12)
    middle = -0.4 + 1.39 * length + 0.43 / (1.0 - length)
    high = 1.0 / np.maximum(length**3 - 4.0 * length**2 + 3.0 * length, 1e-12)
    found = np.where(length < 0.53, low, np.where(length < 0.85, middle, high))
    return np.asarray(np.clip(found, 0.0, LARGEST_CONCENTRATION))


def norm_divergence(own: float, ball: float, k: int) -> float:
    """Kullback-Leibler divergence between the laws of rho at two dimensions."""
    ratio = ball / own
    harmonic = sum(1.0 / i for i in range(1, k + 1))
    terms = math.fsum(
        (-1.0) ** i * math.comb(k, i) * digamma(1.0 + i / ratio) for i in range(k + 1)
    )
    return harmonic * ratio - math.log(ratio) - (k - 1) * terms


def angle_divergence(own: tuple[float, ...], ball: tuple[float, ...]) -> float:
    """Kullback-Leibler divergence between two von Mises laws (direction, concentration)."""
    change = own[1] - ball[1] * math.cos(own[0] - ball[0])
    return log_bessel0(ball[1]) - log_bessel0(own[1]) + mean_resultant(own[1]) * change
