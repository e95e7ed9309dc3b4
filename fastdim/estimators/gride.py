"""Gride: the ratio of two neighbour distances of any order, by likelihood, scale by scale."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastdim.arrays import generator, one_of, whole_number
from fastdim.errors import InputError
from fastdim.estimate import Estimate, normal_quantile
from fastdim.estimators.inputs import (
    SHARING,
    Sample,
    check_every_row,
    dependent_stderr,
    estimate_of,
    falling,
    neighbors_of,
    sample_of,
)
from fastdim.neighbors import Neighbors

Array = NDArray[np.float64]

INTERVALS = ("robust", "fisher", "bootstrap", "jackknife")
REPLICATES = 500
# Of `dependent_stderr` where n2 = 2 n1: a and b of a + b/d. On flat tori of 2, 5, 10 dimensions the
# factor is 1.9 to 2.0, 1.6 to 1.8 and 1.5 to 1.8 at n1 = 4 and 16.
OCTAVE = (1.6, 0.7)
# Elsewhere, on flat tori of these dimensions, 1,000 sets of 1,000 rows each (600 at d = 1), n1 of 2
# to 64 and n2/n1 of these, by less than a tenth the same for every n1; at d = 1 by up to a quarter.
DIMENSIONS = (1, 2, 5, 10)
RATIOS = (1.0, 1.25, 1.5, 2.0, 2.5, 3.0, 4.0, 8.0, 16.0)
FACTORS = (
    (2.0, 2.6, 2.7, 2.8, 2.4, 2.2, 1.9, 1.55, 1.35),
    (1.1, 1.55, 1.78, 1.95, 1.93, 1.9, 1.77, 1.48, 1.31),
    (1.05, 1.3, 1.5, 1.74, 1.72, 1.75, 1.77, 1.71, 1.57),
    (1.0, 1.27, 1.45, 1.67, 1.68, 1.72, 1.77, 1.78, 1.69),
)
# With n1 = 1, whose first distance many rows share, from n2/n1 = 2 on.
FIRST_FACTORS = (
    (1.62, 1.54, 1.46, 1.37, 1.18, 1.04),
    (1.63, 1.57, 1.51, 1.43, 1.33, 1.21),
    (1.63, 1.66, 1.69, 1.68, 1.68, 1.57),
    (1.6, 1.62, 1.64, 1.64, 1.6, 1.57),
)
LARGEST_SCALE = 1024


def gride(
    x_or_neighbors: Any,
    n1: int = 1,
    n2: int | None = None,
    *,
    interval: str = "robust",
    compat: str | None = None,
    confidence: float = 0.95,
    queries: Any = None,
    seed: int = 0,
    threads: int | None = None,
) -> Estimate:
    """Intrinsic dimension from mu = r_n2 / r_n1 (Denti et al., Sci. Rep. 12:20005, 2022).

    Density f(mu) = d (mu^d - 1)^(n2-n1-1) / (B(n2-n1, n1) mu^((n2-1)d + 1)); the value is the one
    root of N/d + (n2-n1-1) sum(log mu / (1 - mu^-d)) - (n2-1) sum(log mu). (1, 2) is the maximum
    likelihood of TwoNN, N / sum(log mu).

    x_or_neighbors: rows (n, d), reduced to distinct rows before the search, or `Neighbors` with at
        least n2 columns and no zero distance. n2: 2 n1 if None; n2 >= number of distinct rows is
        refused. Equal distances (mu = 1) enter by their limit.
    interval: "robust" (default): sandwich error, the query rows as the sample, neighbours
        dependent. "fisher": observed information N/d^2 + (n2-n1-1) sum(mu^-d (log mu)^2 / (1 -
        mu^-d)^2), for independent ratios. "bootstrap": 500 samples of the model, seeded. Real
        ratios depend on each other through shared neighbours, more so at large n1, and the last two
        are too narrow. "jackknife": each row left out in turn, as a query and as a neighbour, to
        first order; every distinct row must be a query, with n2 + 1 neighbours. Dependence between
        rows is counted twice (Efron & Stein, Ann. Stat. 9:586, 1981): errors of 1.3 to 2.2 times
        the true ones on tori and on hidden states.
        "robust" at 95 % holds its target in 0.93 to 0.97 of uniform sets on tori of 2, 5 and 10
        dimensions, every row a query, at n1 = 1 to 16 and n2 of 1.25 to 16 n1; 0.91 at n1 = 64.
        On hidden states "robust" at 95 % holds its target in 0.93 and more of 200 seeds where
        queries are drawn by a count, at n1 = 1 to 64; where every row is a query and n1 is 4 or 16
        in 0.75-0.88, "jackknife" in 0.94 and more (docs/estimators.md).
    compat: "dadapy" or "skdim": N - 1 in place of N, mu of at least 20 (q95 - q50) + q50 dropped,
        which hides large ratios, and ties dropped ("skdim").

    Assumes a density constant up to the n2-th neighbour. Bias: as TwoNN at (1, 2), low at high
    dimension and finite n; larger scales lose more of it and feel noise less. Cost: one search with
    k = n2, then O(m) a step of Newton.

    Raises InputError on bad arguments and where every ratio is 1.
    """
    n1, n2 = check_orders(n1, n2)
    _check_options(interval, compat)
    deep = n2 + (interval == "jackknife")
    found = neighbors_of(x_or_neighbors, deep, "gride", queries=queries, seed=seed, threads=threads)
    return estimate(found, n1, n2, interval, confidence, seed, compat)


@dataclass(frozen=True, eq=False)
class ScaleCurve:
    """Gride at n1 = 1, 2, 4, ...: orders (s,), their estimates, and the mean distance to n2."""

    n1: NDArray[np.int64]
    estimates: tuple[Estimate, ...]
    distance: Array

    @property
    def values(self) -> Array:
        """The dimensions (s,)."""
        return np.array([found.value for found in self.estimates])


def gride_scales(
    x_or_neighbors: Any,
    largest: int | None = None,
    *,
    interval: str = "robust",
    compat: str | None = None,
    confidence: float = 0.95,
    queries: Any = None,
    seed: int = 0,
    threads: int | None = None,
) -> ScaleCurve:
    """`gride` at n1 = 2^i, n2 = 2^(i+1): a plateau is the dimension, a rise at small scales noise.

    largest: the last n1, a power of two. None: up to 1,024 while 2 n1 neighbours exist. A given
    scale that needs more neighbours than there are is refused. compat: as `gride`, at each scale.
    One search serves all scales (Denti et al., Sci. Rep. 12:20005, 2022). Rows are reduced to
    distinct rows. Assumes at each scale a
    density that is constant up to the n2-th neighbour. Bias and interval of each scale as `gride`.
    Cost: one search with 2 largest neighbours, then O(m) a step of Newton and scale.
    """
    _check_options(interval, compat)
    if largest is not None and whole_number("largest", largest, 1) & (int(largest) - 1):
        raise InputError(f"largest must be a power of two, got {largest}")
    if largest is None:
        if isinstance(x_or_neighbors, Neighbors):
            room = x_or_neighbors.k
        else:
            pair = neighbors_of(x_or_neighbors, 2, "gride_scales", queries=1, threads=threads)
            room = (pair.n_distinct or pair.n_points) - 1
        room -= interval == "jackknife"
        if room < 2:
            raise InputError(
                "gride_scales needs two neighbours a point, three for interval='jackknife': "
                "compute them with a larger k"
            )
        largest = min(LARGEST_SCALE, 1 << (room.bit_length() - 2))
    deep = 2 * largest + (interval == "jackknife")
    found = neighbors_of(
        x_or_neighbors, deep, "gride_scales", queries=queries, seed=seed, threads=threads
    )
    scales = [1 << power for power in range(int(largest).bit_length())]
    return ScaleCurve(
        n1=np.array(scales, dtype=np.int64),
        estimates=tuple(
            estimate(found, n, 2 * n, interval, confidence, seed, compat) for n in scales
        ),
        distance=np.array([found.distances[:, 2 * n - 1].mean() for n in scales]),
    )


def _check_options(interval: str, compat: str | None) -> None:
    one_of("interval", interval, INTERVALS)
    one_of("compat", compat, (None, "skdim", "dadapy"))


def check_orders(n1: int, n2: int | None) -> tuple[int, int]:
    """n1 < n2, n2 = 2 n1 if None; InputError otherwise."""
    first = whole_number("n1", n1, 1)
    return first, whole_number("n2", 2 * first if n2 is None else n2, first + 1)


def estimate(
    found: Neighbors,
    n1: int,
    n2: int,
    interval: str = "robust",
    confidence: float = 0.95,
    seed: int = 0,
    compat: str | None = None,
) -> Estimate:
    """`gride` of neighbours that `neighbors_of` prepared."""
    log_mu = np.log(found.distances[:, n2 - 1] / found.distances[:, n1 - 1])
    sample = sample_of(found)
    less = 0
    if compat is not None:
        log_mu, less = _published(log_mu, compat)
        sample = Sample(sample.n_points, sample.n_distinct, len(log_mu))
        found = dataclasses.replace(found, far=None)  # which ratios were dropped is not known
    if not (log_mu > 0.0).any():
        raise InputError(
            f"neighbours {n1} and {n2} of every point are equally far (all ratios are 1), as on a "
            "grid: the intrinsic dimension is undefined"
        )
    value = float(solve(log_mu, n1, n2, less)[()])
    method = f"Gride({n1}, {n2})" + (f", {compat}" if compat else "")
    score, slope = terms(log_mu, value, n1, n2)
    information = -float(slope.sum())
    if interval == "robust":
        mean = dependent_stderr(score, found, sharing(value, n1, n2))
        stderr = mean * len(log_mu) / information
        return estimate_of(value, stderr, sample, method, interval, confidence)
    if interval == "jackknife":
        if compat is not None:
            raise InputError("interval='jackknife' is of the likelihood: leave compat= out")
        moved = left_out(found, score, value, n1, n2)
        stderr = math.sqrt(float(np.square(moved - moved.mean()).sum())) / information
        return estimate_of(value, stderr, sample, method, interval, confidence)
    if interval == "fisher":
        stderr = 1.0 / math.sqrt(information)
        return estimate_of(value, stderr, sample, method, interval, confidence)
    draws = np.log(bootstrap(len(log_mu), n1, n2, seed))
    # The draws over d do not depend on d: the interval inverts a pivot, its bias removed. Ends from
    # the moments of 500 logarithms vary less than their outer quantiles would.
    half = normal_quantile(confidence) * float(draws.std(ddof=1))
    center = value / math.exp(float(draws.mean()))
    ends = (center / math.exp(half), center * math.exp(half))
    return estimate_of(
        value, value * float(draws.std(ddof=1)), sample, method, interval, confidence, ends
    )


def left_out(found: Neighbors, score: Array, d: float, n1: int, n2: int) -> Array:
    """What the sum of scores at d gains when each row is left out (m,).

    Its own score goes; where it was among the first n1, or n2, neighbours of another row, that
    row's next ones take their places.
    """
    count = check_every_row(found, "interval='jackknife' leaves out")
    logs = np.log(found.distances[:, [n1 - 1, n1, n2]])
    nearer = terms(logs[:, 2] - logs[:, 1], d, n1, n2)[0] - score
    farther = terms(logs[:, 2] - logs[:, 0], d, n1, n2)[0] - score
    place = np.searchsorted(found.queries, found.indices[:, :n2])
    gains = np.repeat(np.column_stack([nearer, farther]), [n1, n2 - n1], axis=1)
    return np.asarray(np.bincount(place.ravel(), gains.ravel(), minlength=count) - score)


def _published(log_mu: Array, compat: str) -> tuple[Array, int]:
    """Ratios that another code keeps, and what it takes off their number.

    Both drop large ratios. skdim drops ties; DADApy counts them, at no length.
    """
    if compat == "skdim":
        log_mu = log_mu[log_mu > 0.0]
    if len(log_mu):
        high, middle = np.percentile(np.exp(log_mu), [95, 50])
        log_mu = log_mu[np.exp(log_mu) < 20.0 * (high - middle) + middle]
    kept = log_mu[log_mu > 0.0]
    return kept, 1 - (len(log_mu) - len(kept))


def sharing(d: float, n1: int, n2: int) -> float:
    """Factor of `dependent_stderr` at dimension d."""
    if (n1, n2) == (1, 2):
        return SHARING  # the interval of `twonn`
    if n2 == 2 * n1 and d >= 2.0:
        return falling(d, *OCTAVE)
    rows = FIRST_FACTORS if n1 == 1 else FACTORS
    ratios = np.log(RATIOS[-len(rows[0]) :])
    # Linear in log(n2/n1) and in 1/d, on either side as at the last of them.
    at = [float(np.interp(math.log(n2 / n1), ratios, row)) for row in rows]
    return float(np.interp(1.0 / d, 1.0 / np.array(DIMENSIONS[::-1]), at[::-1]))


def terms(log_mu: Array, d: float, n1: int, n2: int) -> tuple[Array, Array]:
    """Score of each ratio at d, and its derivative by d, both of the shape of log_mu."""
    more = n2 - n1 - 1
    x = d * log_mu
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        # log mu / (1 - mu^-d), and its derivative; the limits at mu = 1 are 1/d and -1/d^2.
        pull = np.where(x > 0.0, x / -np.expm1(-x), 1.0) / d
        half = np.where(x > 0.0, 0.5 * x / np.sinh(0.5 * x), 1.0)
    score = 1.0 / d + more * pull - (n2 - 1) * log_mu
    return score, -(1.0 + more * half**2) / d**2


def solve(log_mu: Array, n1: int, n2: int, less: int = 0) -> Array:
    """Root of the score over the last axis; `less` is taken from N in N/d."""
    count = log_mu.shape[-1] - less
    total = log_mu.sum(axis=-1)
    if n2 == n1 + 1:
        return np.asarray(count / (n1 * total))
    # Expected log mu is (H_{n2-1} - H_{n1-1}) / d: a start close to the root.
    d = np.asarray(sum(1.0 / j for j in range(n1, n2)) * log_mu.shape[-1] / total)
    for _ in range(100):
        score, slope = terms(log_mu, d[..., None], n1, n2)  # type: ignore[arg-type]
        rise = score.sum(axis=-1) - less / d
        step = rise / -slope.sum(axis=-1)
        # The score is concave in 1/d: a step that would leave the positive axis is halved.
        following = np.where(d + step > 0.25 * d, d + step, 0.25 * d)
        if (np.abs(following - d) <= 1e-14 * d).all():
            return np.asarray(following)
        d = following
    return d


def bootstrap(count: int, n1: int, n2: int, seed: int) -> Array:
    """Estimates of 500 samples of `count` ratios of the model with d = 1 (they scale with d)."""
    rng = generator(seed)
    block = max(1, (1 << 21) // count)
    found = []
    for start in range(0, REPLICATES, block):
        shape = (min(block, REPLICATES - start), count)
        # mu^d = 1 + Gamma(n2 - n1) / Gamma(n1).
        ratio = rng.standard_gamma(n2 - n1, shape) / rng.standard_gamma(n1, shape)
        found.append(solve(np.log1p(ratio), n1, n2))
    return np.concatenate(found)
