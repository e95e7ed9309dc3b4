"""Cosine statistics over all pairs of rows, without the matrix of pairs.

Mean and second moment follow from sums over rows. With unit rows u_i, their mean ubar,
s = |ubar|^2, w_i = u_i - ubar and a_i = ubar.w_i, a cosine is c_ij = s + a_i + a_j + w_i.w_j:

    mean of c_ij over i != j          = s - (1 - s)/(n - 1)
    sum over all i, j of (c_ij - s)^2 = 2n sum a_i^2 + |W'W|_F^2, the diagonal being n (1 - s)^2

Every term is small when the cosines are close together: nothing cancels, unlike E[c^2] - E[c]^2.
Minimum, maximum and histogram need the pairs: a tiled kernel visits each once, or a sample of pairs
is drawn.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastdim.arrays import Rows, as_groups, as_rows, generator, one_of, whole_number
from fastdim.backends import cpu
from fastdim.backends.blas import one_blas_thread
from fastdim.covariance import covariance_of
from fastdim.disk.calls import check_tiles, needs_tiles
from fastdim.errors import InputError
from fastdim.estimate import (
    Estimate,
    bounded_exp,
    check_confidence,
    clustered_stderr,
    group_sums,
    transformed_interval,
)
from fastdim.moments import inverse_norms, near_mean, sums
from fastdim.quadratic import PairSums, added, pair_sums

Array = NDArray[np.float64]
Int64 = NDArray[np.int64]

# Rows up to which every pair is visited by default, and the pairs sampled beyond it.
ALL_PAIRS_ROWS = 50_000
SAMPLED_PAIRS = 2**20

PRECISIONS = ("exact", "fast")
# Rounding to int16 shifts cosines by about 1e-5, so few pairs change bins of this width or more.
FAST_BINS = 2000

# Axes taken out of rows of integers (int16; int8), the rows they are found from, and the pairs that
# repay the search.
AXES, FAST_AXES = 16, 48
AXES_ROWS = 2048
AXES_PAIRS = 1 << 24

# Up to this many rows the deviations of all pairs are formed one by one.
DIRECT_ROWS = 512


@dataclass(frozen=True, eq=False, repr=False)
class CosineStats:
    """Statistics of the cosines of pairs of rows that are not zero.

    mean, second_moment, std: over all n(n-1)/2 pairs, exact to 1e-9; std has divisor n(n-1)/2.
    min, max, histogram, edges: over `n_pairs` pairs; bins over [-1, 1], cosines clipped, last bin
        closed. With pairs="sampled" they describe the sample: the true minimum may be smaller.
    band: half width, at level `confidence`, of the Dvoretzky-Kiefer-Wolfowitz band around the
        sampled distribution function; 0.0 with pairs="all".
    mean_estimate, std_estimate: mean and std with the uncertainty of the rows as a sample, summed
        within groups; that of std beyond 2^28 multiplications by the longest axes (1e-3 of itself
        off and less on language models' layers, up to 5e-3 where groups differ in what is left).
    backend: what visited the pairs. precision: "exact", the histogram is that of the float64
        cosines; "fast", at most one pair in a hundred is one bin off (min and max are exact).
    arithmetic: of the products that sorted the pairs: "int16", "float32", or "float64".
    """

    mean: float
    std: float
    second_moment: float
    min: float
    max: float
    histogram: Int64
    edges: Array
    n_rows: int
    n_zero_rows: int
    n_pairs: int
    pairs: str
    band: float
    confidence: float
    mean_estimate: Estimate
    std_estimate: Estimate
    backend: str
    precision: str = "exact"
    arithmetic: str = ""

    def __repr__(self) -> str:
        return (
            f"CosineStats(mean={self.mean:.4g}, std={self.std:.4g}, min={self.min:.4g}, "
            f"max={self.max:.4g}, {self.n_pairs:,} pairs ({self.pairs}) of {self.n_rows:,} rows)"
        )

    def quantile(self, q: float) -> float:
        """The q-quantile of the cosines, linear within its bin, inside [min, max]."""
        place, before = self._bin(q)
        inside = (q * self.n_pairs - before) / int(self.histogram[place])
        width = float(self.edges[place + 1] - self.edges[place])
        value = float(self.edges[place]) + width * min(1.0, max(0.0, inside))
        return min(self.max, max(self.min, value))

    def quantile_interval(self, q: float) -> tuple[float, float]:
        """Bounds of the q-quantile over all pairs: the bin's edges, widened by the band.

        It covers binning and the sampling of pairs, not the choice of rows.
        """
        self._bin(q)
        lower, upper = -1.0, 1.0
        if q - self.band >= 0.0:
            lower = float(self.edges[self._bin(q - self.band)[0]])
        if q + self.band <= 1.0:
            upper = float(self.edges[self._bin(q + self.band)[0] + 1])
        if self.pairs == "all":
            return max(self.min, lower), min(self.max, upper)
        return lower, upper

    def _bin(self, q: float) -> tuple[int, int]:
        """Bin that holds the q-quantile, and the pairs in the bins before it."""
        if not 0.0 <= q <= 1.0:
            raise InputError(f"q must lie in [0, 1], got {q!r}")
        cumulative = np.cumsum(self.histogram)
        place = int(np.searchsorted(cumulative, max(q * self.n_pairs, 0.5)))
        place = min(place, int(np.flatnonzero(self.histogram)[-1]))
        return place, int(cumulative[place] - self.histogram[place])


def cosine_stats(
    x: Any,
    *,
    bins: int = 200,
    pairs: int | str | None = None,
    groups: Any = None,
    seed: int = 0,
    confidence: float = 0.95,
    precision: str = "exact",
    threads: int | None = None,
    backend: str = "auto",
    memory: int | str | None = None,
    resume: str | Path | None = None,
) -> CosineStats:
    """Mean, spread, extremes and histogram of the cosines of all pairs of rows of x (n, d).

    Zero rows have no direction: they are counted apart and left out.

    pairs: None visits all pairs up to 50,000 rows and samples 2**20 beyond; "all"; or an int m for
        m independent pairs i < j drawn by `seed` (all of them if there are no more than m).
    groups: (n,) labels, e.g. documents; rows of one group may depend on each other.
    precision: "exact" for the counts of the float64 cosines, except that a cosine within 1e-12 of
        an edge may fall on either side; "fast" tolerates one pair in a hundred one bin off, with
        bins no narrower than 1e-3: products in int8 where a sample of pairs shows that they keep
        more (200 bins, hidden states: 5 to 8 in 1,000), else in int16 (2 in 10,000; `arithmetic`
        says which). Minimum and maximum stay exact. Sampled pairs are exact.
    threads: None for FASTDIM_NUM_THREADS, else all CPUs.
    backend: "cpu"; on a GPU, in float64 whatever `precision`, "triton" for Triton's kernels, up to
        2,047 bins, and "cuda" for the extension `fastdim._cuda`, up to 8,192, with torch for CUDA;
        "auto" for the CPU, and for what can run there where x is a torch tensor or DLPack array on
        a GPU.
    memory, resume: as in `knn`: x may lie on disk and is read in tiles. Counts of "exact", whatever
        `precision`, and extremes are those of a call without; mean and spread agree to 1e-12.

    Raises InputError on bad values, fewer than two rows that are not zero, a single column, or a
    limit of memory below one tile; BackendError on a backend that cannot run; StoreError on damaged
    files, or a folder of another call.
    """
    from fastdim import cosine_device

    bins = whole_number("bins", bins, 1)
    check_pairs(pairs)
    one_of("precision", precision, PRECISIONS)
    if precision == "fast" and bins > FAST_BINS:
        raise InputError(
            f"precision='fast' keeps 99 % of the pairs in their bin up to {FAST_BINS} bins, got "
            f"{bins}: pass fewer bins, or precision='exact'"
        )
    if needs_tiles(x, memory, resume):
        check_tiles(backend)
        from fastdim.disk import angles

        given = (bins, pairs, groups, seed, confidence, threads)
        return angles.cosine_stats(x, *given, memory, resume)
    there = cosine_device.tensor_for(x, backend)
    if there is not None:
        return cosine_device.stats(*there, int(bins), pairs, groups, seed, confidence)
    workers = cpu.resolve_threads(threads)
    rows = as_rows(x, min_rows=2, min_columns=2, threads=workers)
    labels = as_groups(groups, rows.n)
    found, inverse = cosine_moments(rows, labels, confidence, rows.norms(workers), workers)
    return add_pairs(found, rows, inverse, bins, pairs, seed, workers, precision=precision)


def check_pairs(pairs: int | str | None) -> None:
    """Raise InputError unless `pairs` is None, "all" or a positive whole number."""
    whole = isinstance(pairs, (int, np.integer)) and not isinstance(pairs, bool)
    every = pairs is None or (isinstance(pairs, str) and pairs == "all")
    if not (every or (whole and int(pairs) >= 1)):  # type: ignore[arg-type]  # a number, by `whole`
        raise InputError(f"pairs must be None, 'all' or a whole number >= 1, got {pairs!r}")


def cosine_moments(
    rows: Rows,
    groups: Int64 | None,
    confidence: float,
    norms: Array,
    threads: int,
    kept: Int64 | None = None,
    known: PairSums | None = None,
) -> tuple[CosineStats, Array]:
    """Mean and spread over all pairs, and 1/|row| (n,) with 0 for zero rows; no pair is visited.

    kept: row numbers that take part, ascending, None for all; the others get 0 as well. groups: one
    label for each row that takes part. known: `pair_sums` of the unit rows among
    them, where they are known, also by document (with labels of these groups).
    """
    check_confidence(confidence)
    inverse = inverse_norms(rows, norms)
    n = rows.n if kept is None else len(kept)
    if kept is not None:
        inverse[np.setdiff1d(np.arange(rows.n), kept, assume_unique=True)] = 0.0
    used = inverse > 0
    count = int(used.sum())
    if count < 2:
        raise InputError(f"cosines need at least two rows that are not zero, got {count} of {n}")
    if known is None and count <= max(DIRECT_ROWS, rows.d):
        known = sums_of_pairs(rows, inverse, count)
    elif known is None:
        ids = None if used.all() else np.flatnonzero(used)
        unit = sums(rows, near_mean(rows, inverse), threads, ids, inverse)
        covariance = covariance_of(unit, ids, inverse)
        known = pair_sums(covariance, added(rows, covariance, threads))
    labels = known.documents
    if groups is not None and labels is None:
        labels = groups[used if kept is None else used[kept]]
    group_count = 0 if groups is None else int(groups.max()) + 1
    return moments_of(n, count, known, labels, group_count, confidence), inverse


def moments_of(
    n: int,
    count: int,
    found: PairSums,
    groups: Int64 | None,
    group_count: int,
    confidence: float,
) -> CosineStats:
    """Mean and spread with their errors, from the sums over pairs of `count` of n rows.

    groups: label below group_count of each row that takes part, or of each document where the sums
    are by document; None where rows are independent.
    """
    s, total, by_row, shift, slopes, sizes, _ = found
    mean = min(1.0, max(-1.0, s - shift))
    variance = max(0.0, total / (count * (count - 1)))
    std = math.sqrt(variance)
    mean_influence = 2.0 * slopes * count / (count - 1)
    expected = variance if sizes is None else sizes * variance
    std_influence = (by_row / (count - 1) - expected) / std if std > 0 else np.zeros(len(by_row))
    influence = np.stack([mean_influence, std_influence], axis=1)
    labels = None if groups is None else np.unique(groups, return_inverse=True)[1]
    errors = clustered_stderr(influence, labels, count)
    by_group = None if groups is None else group_sums(influence, groups, group_count) / count
    mean_error = float(errors[0]) if abs(mean) < 1.0 else 0.0

    def estimate(place: int, error: float, forward: Any, backward: Any, slope: float) -> Estimate:
        value = (mean, std)[place]
        lower, upper = transformed_interval(value, error, confidence, forward, backward, slope)
        return Estimate(
            value=value,
            lower=lower,
            upper=upper,
            stderr=error,
            n_points=n,
            n_distinct=None,
            n_queries=count,
            method="all pairs, by sums over rows",
            interval="influence function",
            confidence=confidence,
            by_group=None if by_group is None else by_group[:, place],
        )

    # atanh keeps a mean inside (-1, 1), log keeps a spread positive.
    room = max(1.0 - mean * mean, 1e-300)
    return CosineStats(
        mean=mean,
        std=std,
        second_moment=variance + mean**2,
        min=math.nan,
        max=math.nan,
        histogram=np.zeros(0, dtype=np.int64),
        edges=np.zeros(0),
        n_rows=n,
        n_zero_rows=n - count,
        n_pairs=0,
        pairs="",
        band=0.0,
        confidence=confidence,
        mean_estimate=estimate(0, mean_error, math.atanh, math.tanh, 1.0 / room),
        std_estimate=estimate(1, float(errors[1]), math.log, bounded_exp, 1.0 / max(std, 1e-300)),
        backend="",
    )


def add_pairs(
    found: CosineStats,
    rows: Rows,
    inverse: Array,
    bins: int,
    pairs: int | str | None,
    seed: int,
    threads: int,
    sample: Array | None = None,
    precision: str = "exact",
) -> CosineStats:
    """`found` with histogram and extremes, over all pairs or a sample as cosine_stats says.

    sample: cosines of `pairs` independent pairs, where they have been drawn already.
    """
    used = np.flatnonzero(inverse)
    count = sampled_pairs(pairs, len(used))
    if count is None:
        histogram, low, high, arithmetic = visit_pairs(rows, inverse, bins, threads, precision)
        found = with_all_pairs(found, histogram, low, high)
    else:
        cosines = sample
        if cosines is None:
            first, second = draw_pairs(generator(seed), len(used), count)
            cosines = pair_cosines(rows, inverse, used[first], used[second], threads)
        precision, arithmetic = "exact", "float64"
        found = with_sample(found, cosines, bins)
    backend = f"cpu-{cpu.active_isa()}"
    return replace(found, backend=backend, precision=precision, arithmetic=arithmetic)


def sampled_pairs(pairs: int | str | None, rows: int) -> int | None:
    """How many pairs of `rows` rows are drawn, as `cosine_stats` says of `pairs`; None: visit all.

    pairs: as `check_pairs` lets it pass.
    """
    if pairs is None:
        pairs = "all" if rows <= ALL_PAIRS_ROWS else SAMPLED_PAIRS
    return None if pairs == "all" or int(pairs) >= rows * (rows - 1) // 2 else int(pairs)


def bin_edges(bins: int) -> Array:
    """Edges (bins + 1,) of equal bins over [-1, 1]."""
    return np.linspace(-1.0, 1.0, bins + 1)


def with_all_pairs(found: CosineStats, histogram: Int64, low: float, high: float) -> CosineStats:
    """`found` with the histogram (bins,) and the extremes of every pair."""
    count = found.n_rows - found.n_zero_rows
    return replace(
        found,
        min=low,
        max=high,
        histogram=histogram,
        edges=bin_edges(len(histogram)),
        n_pairs=count * (count - 1) // 2,
        pairs="all",
        band=0.0,
    )


def with_sample(found: CosineStats, cosines: Array, bins: int) -> CosineStats:
    """`found` with band, histogram and extremes of the cosines (m,) of independent pairs."""
    edges = bin_edges(bins)
    return replace(
        found,
        min=float(cosines.min()),
        max=float(cosines.max()),
        histogram=np.histogram(cosines, bins=edges)[0].astype(np.int64),
        edges=edges,
        n_pairs=len(cosines),
        pairs="sampled",
        band=math.sqrt(math.log(2.0 / (1.0 - found.confidence)) / (2.0 * len(cosines))),
    )


def draw_pairs(rng: np.random.Generator, n: int, count: int) -> tuple[Int64, Int64]:
    """`count` independent pairs i != j of n >= 2 rows, in random order: any part is a sample."""
    first = rng.integers(0, n, size=count)
    second = rng.integers(0, n - 1, size=count)
    second += second >= first
    return first, second


def pair_cosines(rows: Rows, inverse: Array, first: Int64, second: Int64, threads: int) -> Array:
    """Cosines (count,) of the pairs of rows, in their order. inverse: 1/|row| (n,)."""
    # Visited so that rows are read in turn.
    lower, upper = np.minimum(first, second), np.maximum(first, second)
    # Near in order is enough; numpy sorts 16 bits by counting, ten times faster than 64.
    place = lower if rows.n < 1 << 16 else lower // (rows.n // (1 << 16) + 1)
    order = np.argsort(place.astype(np.uint16), kind="stable")
    cosines = np.empty(len(first))
    cosines[order] = cpu.cosine_pairs(rows, inverse, lower[order], upper[order], threads)
    return cosines


def visit_pairs(
    rows: Rows, inverse: Array, bins: int, threads: int, precision: str
) -> tuple[Int64, float, float, str]:
    """Histogram, extremes and arithmetic of all pairs of the rows whose 1/|row| is not 0."""
    used = np.flatnonzero(inverse)
    every = len(used) * (len(used) - 1) // 2
    worth = every > AXES_PAIRS and rows.d > 4 * AXES and cpu.has_int16()
    wanted = FAST_AXES if precision == "fast" and rows.d > 4 * FAST_AXES else AXES
    axes = leading_axes(rows, inverse, used, wanted) if worth else None
    found = cpu.cosine_histogram(rows, inverse, bins, threads, precision, axes)
    return *found[:3], str(found[3]["arithmetic"])


def leading_axes(rows: Rows, inverse: Array, used: Int64, count: int) -> Array:
    """About the longest axes (count, d) of the unit rows, orthonormal, from up to 2,048 of them.

    Subspace iteration; any orthonormal axes give the same counts, good ones give them sooner.
    """
    chosen = used[:: max(1, len(used) // AXES_ROWS)][:AXES_ROWS]
    unit = rows.take(chosen).float64(0, len(chosen)) * inverse[chosen, None]
    basis = np.random.default_rng(0).standard_normal((rows.d, min(2 * count, count + 16)))
    with one_blas_thread():
        for _ in range(3):
            basis = unit.T @ (unit @ np.linalg.qr(basis)[0])
        basis = np.linalg.qr(basis)[0]
        places = unit @ basis
        turn = np.linalg.eigh(places.T @ places)[1]
    return np.ascontiguousarray((basis @ turn[:, ::-1])[:, :count].T)


def _unit(rows: Rows, inverse: Array, start: int, stop: int) -> Array:
    """Unit rows of the nonzero rows among start..stop."""
    block = rows.float64(start, stop)
    scale = inverse[start:stop, None]
    used = scale[:, 0] > 0
    block *= scale
    return block if used.all() else block[used]


@one_blas_thread()
def sums_of_pairs(rows: Rows, inverse: Array, count: int) -> PairSums:
    """`pair_sums` from the deviation of each pair: few rows, or fewer rows than columns."""
    w = np.concatenate([_unit(rows, inverse, *span) for span in rows.spans()])
    center = w.sum(axis=0) / count
    w -= center
    shift = float(np.einsum("ij,ij->", w, w)) / count / (count - 1)
    slopes = w @ center
    by_row = np.empty(count)
    step = max(1, (1 << 21) // count)
    for start in range(0, count, step):
        stop = min(start + step, count)
        deviation = w[start:stop] @ w.T
        deviation += slopes[start:stop, None] + (slopes + shift)
        deviation[np.arange(stop - start), np.arange(start, stop)] = 0.0
        by_row[start:stop] = np.square(deviation).sum(axis=1)
    return PairSums(float(center @ center), float(by_row.sum()), by_row, shift, slopes)
