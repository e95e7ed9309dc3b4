"""DANCo: norms and angles of neighbourhoods against those of balls of known dimension."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastdim.arrays import Rows, as_rows, generator, whole_number
from fastdim.backends import cpu
from fastdim.estimate import Estimate, bounded_exp, check_confidence, normal_quantile
from fastdim.estimators import gride
from fastdim.estimators.inputs import estimate_of, rows_and_neighbors, sample_of, widening
from fastdim.estimators.special import log_bessel0, mean_resultant
from fastdim.estimators.tle import of_neighborhoods
from fastdim.neighbors import Neighbors

Array = NDArray[np.float64]
Summary = tuple[float, float, float]

# At either end of the interval.
REPLICATES = 60
# Of `widening`, for the direction and the concentration of a summary, and how the last goes along
# with the dimension: about their means on flat tori of 2, 5, 10 dimensions and a ball.
SHARING = (2.0, 2.3)
TOGETHER = 0.5
# Balls beyond the largest dimension that the interval alone looks at.
BEYOND = 5
# Where all angles of a row are equal the concentration is infinite. At the end of a line, whose
# angles are 0, the mean over the rows must not be that of those few: curves looked like discs.
LARGEST_CONCENTRATION = 1e6
LARGEST_ON_A_LINE = 30.0
# Of the mean direction, below which all neighbours are taken to lie on one line.
LINE_SINE = 0.1
# Of means over the law of rho: exact to rounding for any k from 2 to 1e6 and more.
NODES = 256
TAIL = 1e-24


@dataclass(frozen=True, eq=False)
class Features:
    """Of each row: log(r_{k+1}/r_1) (m,), direction and concentration of its neighbours' angles."""

    log_mu: Array
    direction: Array
    concentration: Array

    def summary(self, k: int) -> Summary:
        """Dimension by `mind_ml`, mean direction, mean concentration."""
        d = float(gride.solve(self.log_mu, 1, k + 1)[()])
        return d, float(self.direction.mean()), float(self.concentration.mean())

    def noise(self, k: int, found: Neighbors) -> Array:
        """Square root (3, 3) of the covariance of log dimension, direction and log concentration
        of a summary, by the influence of the rows, widened for shared neighbours."""
        d, direction, concentration = self.summary(k)
        score, slope = gride.terms(self.log_mu, d, 1, k + 1)
        influence = [
            score / (-slope.mean() * d),
            self.direction - direction,
            self.concentration / concentration - 1.0,
        ]
        count = len(self.log_mu)
        factors = (gride.sharing(d, 1, k + 1), *SHARING)
        wide = [widening(found, count, factor) for factor in factors]
        moved = np.stack(influence, axis=1) * wide / math.sqrt(count * max(1, count - 1))
        covariance = moved.T @ moved
        # Rows that share neighbours share errors of both, which rows one by one do not show.
        joint = TOGETHER * math.sqrt(covariance[0, 0] * covariance[2, 2])
        covariance[0, 2] = covariance[2, 0] = joint
        sizes, axes = np.linalg.eigh(covariance)
        return np.asarray(axes * np.sqrt(np.maximum(sizes, 0.0)))


def changed(summary: Summary, by: Array) -> Summary:
    """A summary whose log dimension, direction and log concentration move by (3,)."""
    d, direction, concentration = summary
    return d * math.exp(by[0]), direction + float(by[1]), concentration * math.exp(by[2])


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
    angles, which is where angles lie in high dimension. The concentration of a row whose
    neighbours lie on a line counts as 30 at most.

    Assumes what a ball has: uniform density, flat neighbourhoods, the same share of border. Bias:
    small, since balls of the same n have the same deficit; curvature and noise raise it. Interval:
    the comparison repeated 60 times at about either end, the summaries of rows and balls moved by
    their errors, which the rows' influence gives, widened for shared neighbours; normal on the log
    scale. Where the value is cut, balls of up to 5 dimensions more are compared with, and the ends
    are for the mean of cut values. Cost: a search and O(n k^2 d) for the rows and for each ball
    from 3/4 of the uncorrected dimension up.
    """
    k = whole_number("k", k, 2)
    rows, found = rows_and_neighbors(x, k + 1, "danco", neighbors, None, seed, threads)
    features, balls, value = point(rows, found, k, largest, seed)
    method = f"DANCo, k = {k}"
    check_confidence(confidence)
    free, errors = _simulated(features, found, balls, value, generator(seed))
    z = normal_quantile(confidence)
    both = []
    for side, moved in zip((-z, z), errors, strict=True):
        end = free * bounded_exp(side * float(moved.std(ddof=1)))
        # What is cut has the mean of cut values.
        both.append(end - float(np.maximum(end * np.exp(moved) - balls.most, 0.0).mean()))
    stderr = float(np.minimum(free * np.exp(errors), balls.most).std(ddof=1))
    ends = min(both[0], value), max(both[1], value)
    return estimate_of(value, stderr, sample_of(found), method, "simulated balls", confidence, ends)


def _simulated(
    features: Features, found: Neighbors, balls: _Balls, value: float, rng: np.random.Generator
) -> tuple[float, Array]:
    """The dimension as if none were the largest, and errors (2, REPLICATES) of its logarithm where
    it is lower, and higher, by about its error: values stick at whole numbers.

    The rows' summary and those of the balls move at random, each by its own error; the balls
    around a curve through them, as they hold one draw of their errors already.
    """
    own = features.summary(balls.k)
    if value == balls.most:
        balls = replace(balls, most=balls.most + BEYOND)
        value = balls.closest(own, value)
    low = max(1, min(math.floor(0.75 * own[0]), math.floor(value) - 2))
    tried = np.arange(low, math.ceil(value) + BEYOND + 1)
    laws = [balls.law(int(d)) for d in tried]
    curve = smooth(tried, np.array([law[0] for law in laws]))
    roots = np.stack([law[1] for law in laws])
    steps = rng.standard_normal((REPLICATES, len(tried), 3))
    moves = np.einsum("rds,dms->rdm", steps, roots)
    root = features.noise(balls.k, found)
    moved = rng.standard_normal((REPLICATES, 3)) @ root.T
    settings = (balls.count, balls.k, balls.seed, int(tried[-1]), low)
    plain = _Drawn(*settings, curve)
    about = math.sqrt(2.0 * float(root[0] @ root[0]))
    starts = [min(max(low, value * math.exp(by)), int(tried[-1])) for by in (-about, about)]
    errors = np.empty((2, REPLICATES))
    for place in range(REPLICATES):
        drawn = [changed(*pair) for pair in zip(curve, moves[place], strict=True)]
        simulated = _Drawn(*settings, drawn)
        for side, start in enumerate(starts):
            here, there = _logs(plain.between(value)), _logs(plain.between(start))
            shifted = changed(own, there - here + moved[place])
            errors[side, place] = math.log(simulated.closest(shifted, start))
    return value, errors - errors.mean(axis=1, keepdims=True)


def _logs(summary: Summary) -> Array:
    return np.array([math.log(summary[0]), summary[1], math.log(summary[2])])


def smooth(dimensions: NDArray[np.int64], summaries: Array) -> list[Summary]:
    """Summaries (w, 3) of balls by parabolas over log d; as they are on a line and where few."""
    logs = np.log(summaries)
    logs[:, 1] = summaries[:, 1]
    over = dimensions > 1
    if over.sum() > 3:
        x = np.log(dimensions[over])
        curve = np.polynomial.polynomial.polyfit(x, logs[over], 2)
        logs[over] = np.polynomial.polynomial.polyval(x, curve).T
    return [(math.exp(a), float(b), math.exp(c)) for a, b, c in logs]


def point(
    rows: Rows, found: Neighbors, k: int, largest: int | None, seed: int
) -> tuple[Features, _Balls, float]:
    """The rows' features, the balls they were compared with, and the dimension."""
    most = rows.d if largest is None else whole_number("largest", largest, 1)
    features = features_of(rows, found, k)
    balls = _Balls(len(found.queries), k, seed, most)
    return features, balls, balls.closest(features.summary(k), None)


@dataclass(frozen=True)
class _Balls:
    """Divergences from balls of growing dimension, each computed when first needed."""

    count: int
    k: int
    seed: int
    most: int
    least: int = 1

    def law(self, d: int) -> tuple[Summary, Array]:
        """Summary of a ball, and the square root of its covariance as in `Features.noise`."""
        return ball_law(self.count, d, self.k, self.seed)

    def summary(self, d: int) -> Summary:
        return self.law(d)[0]

    def between(self, d: float) -> Summary:
        """At a whole d; between two, the balls' summaries interpolated (concentration by logs)."""
        low = math.floor(d)
        ball = self.summary(low)
        if d > low:
            above, share = self.summary(low + 1), d - low
            size, direction = (ball[i] + share * (above[i] - ball[i]) for i in (0, 1))
            ball = (size, direction, ball[2] * (above[2] / ball[2]) ** share)
        return ball

    def divergence(self, own: Summary, d: float) -> float:
        """From the ball of d dimensions."""
        ball = self.between(d)
        return norm_divergence(own[0], ball[0], self.k) + angle_divergence(own[1:], ball[1:])

    def closest(self, own: Summary, start: float | None) -> float:
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
            best = min(max(self.least, round(start)), self.most)
        while best > self.least and self.divergence(own, best - 1) < self.divergence(own, best):
            best -= 1
        while best < self.most and self.divergence(own, best + 1) < self.divergence(own, best):
            best += 1
        ends = [max(self.least, best - 1), best, min(best + 1, self.most)]
        candidates = [(self.divergence(own, best), float(best))]
        candidates += [self._between(own, a, b) for a, b in pairwise(ends) if a < b]
        return min(candidates)[1]

    def _between(self, own: Summary, a: float, b: float) -> tuple[float, float]:
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


@dataclass(frozen=True)
class _Drawn(_Balls):
    """Balls of these summaries, of `least` dimensions and more."""

    drawn: Sequence[Summary] = ()

    def summary(self, d: int) -> Summary:
        return self.drawn[d - self.least]


@lru_cache(maxsize=512)
def ball_law(count: int, d: int, k: int, seed: int) -> tuple[Summary, Array]:
    """Features' summary of `count` points uniform in the unit ball of d dimensions, and `noise`."""
    rng = np.random.default_rng([seed, d])
    points = rng.standard_normal((count, max(d, 1)))
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    points *= rng.random((count, 1)) ** (1.0 / d)
    if d == 1:
        points = np.column_stack([points, np.zeros(count)])
    rows, found = rows_and_neighbors(as_rows(points), k + 1, "danco", None, None, 0, None)
    features = features_of(rows, found, k, cpu.resolve_threads(None))
    return features.summary(k), features.noise(k, found)


def features_of(rows: Rows, found: Neighbors, k: int, threads: int = 1) -> Features:
    """Features of every query row."""
    log_mu = np.log(found.distances[:, k] / found.distances[:, 0])
    near = replace(found, indices=found.indices[:, :k])
    upper = np.triu_indices(k, 1)

    def angles(neighborhood: NDArray[Any]) -> Array:
        gram = (neighborhood @ neighborhood.transpose(0, 2, 1)).astype(np.float64)
        norms = np.sqrt(np.einsum("bii->bi", gram))
        cosine = gram[:, upper[0], upper[1]] / (norms[:, upper[0]] * norms[:, upper[1]])
        # In one order, whatever their number: sums along strided rows depend on it.
        cosine = np.clip(np.ascontiguousarray(cosine), -1.0, 1.0)
        sine = np.sqrt(1.0 - cosine**2)
        c, s = cosine.mean(axis=1), sine.mean(axis=1)
        return np.column_stack([np.arctan2(s, c), np.hypot(c, s)])

    direction, length = of_neighborhoods(rows, near, angles, threads).T
    tau = concentration(length)
    on_a_line = np.abs(np.sin(direction)) < LINE_SINE
    tau[on_a_line] = np.minimum(tau[on_a_line], LARGEST_ON_A_LINE)
    return Features(log_mu, direction, tau)


def concentration(length: Array) -> Array:
    """von Mises concentration of a mean resultant length (Fisher, Circular Data, 1993, 4.41)."""
    low = 2.0 * length + length**3 + 5.0 * length**5 / 6.0
    length = np.minimum(length, 1.0 - 1e-12)
    middle = -0.4 + 1.39 * length + 0.43 / (1.0 - length)
    high = 1.0 / np.maximum(length**3 - 4.0 * length**2 + 3.0 * length, 1e-12)
    found = np.where(length < 0.53, low, np.where(length < 0.85, middle, high))
    return np.asarray(np.clip(found, 0.0, LARGEST_CONCENTRATION))


def norm_divergence(own: float, ball: float, k: int) -> float:
    """Kullback-Leibler divergence between the laws of rho at two dimensions: 0 where they agree.

    The density of rho at d dimensions is k d rho^(d-1) (1 - rho^d)^(k-1), so that x = -d log rho of
    the own d has the density k e^-x (1 - e^-x)^(k-1), and at q times its dimensions rho has one
    q e^((1-q) x) ((1 - e^(-q x)) / (1 - e^-x))^(k-1) times as large: the divergence is the mean of
    minus the logarithm of that, an integral of a smooth function over x. Multiplied out (Ceruti et
    al., 2014) it is an alternating sum of binomials of k, whose digits cancel, all from k = 44 on.
    """
    ratio = ball / own
    x, plain, weights = _norm_law(k)
    logs = (ratio - 1.0) * x + (k - 1) * (plain - np.log(-np.expm1(-ratio * x)))
    return float(weights @ logs) - math.log(ratio)


@lru_cache(maxsize=64)
def _norm_law(k: int) -> tuple[Array, Array, Array]:
    """x = -d log rho, log(1 - e^-x) and weights (NODES,) of means over the law of rho.

    The trapezoid rule over log x, where the law falls off fast at either end: it converges as a
    power of e in the number of nodes, and leaves out a chance of TAIL beyond each end.
    """
    low = -math.log1p(-(TAIL ** (1.0 / k)))
    high = -math.log(-math.expm1(math.log1p(-TAIL) / k))
    x = np.exp(np.linspace(math.log(low), math.log(high), NODES))
    plain = np.log(-np.expm1(-x))
    logs = np.log(x) - x + (k - 1) * plain
    weights = np.exp(logs - logs.max())
    return x, plain, weights / weights.sum()


def angle_divergence(own: tuple[float, ...], ball: tuple[float, ...]) -> float:
    """Kullback-Leibler divergence between two von Mises laws (direction, concentration)."""
    change = own[1] - ball[1] * math.cos(own[0] - ball[0])
    return log_bessel0(ball[1]) - log_bessel0(own[1]) + mean_resultant(own[1]) * change
