"""Dimension from how the length of a graph grows with the number of points."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastdim.arrays import Rows, generator, real_number, several, whole_number
from fastdim.backends import cpu
from fastdim.errors import InputError
from fastdim.estimate import Estimate, bounded_exp, check_confidence
from fastdim.estimators.inputs import Sample, distinct_of, estimate_of, first_drawn, rows_of
from fastdim.estimators.special import student_quantile
from fastdim.neighbors import search

Array = NDArray[np.float64]
Int64 = NDArray[np.int64]

LARGEST = 2000
STEPS = 10
DRAWS = 5
# Disjoint blocks that rows are cut into for an error, degrees of freedom that several cuts add up
# to, and rows beyond the smallest subset that each block has.
BLOCKS = 5
DEGREES = 12
ROOM = 40
# Neighbours beyond which every subset is searched by itself.
DEEPEST = 256
# Squared distances held at once.
TREE_VALUES = 1 << 22
# Neighbours of several subsets looked at together: few, so that they stay in a cache.
HELD_NEIGHBORS = 1 << 16


def knn_graph(
    x: Any,
    k: int = 2,
    *,
    gamma: float = 1.0,
    sizes: Sequence[int] | None = None,
    draws: int = DRAWS,
    confidence: float = 0.95,
    seed: int = 0,
    threads: int | None = None,
) -> Estimate:
    """Intrinsic dimension by the length of the k-neighbour graph (Costa & Hero, IEEE TSP 2004).

    L(p) = sum over p points of the sum of |edge|^gamma to the k nearest grows as p^((d - gamma)/d)
    (Carter, Raich & Hero, IEEE TSP 58:650, 2010): d = gamma / (1 - slope of log L on log p) over
    random subsets, each without replacement.

    x: rows (n, d), reduced to distinct rows. sizes: points of a subset, above k; None for 10 from a
    quarter of the rows to all. draws: subsets a size. k >= the smallest size is refused.

    Assumes rows independent of each other. Bias: low at high dimension, where the slope is near 1
    and small errors of it are large; borders add. Interval: the slope in 5 disjoint blocks of the
    rows, cut anew 3 times (fewer blocks below 210 rows, cut more often), whose spread falls as
    1/sqrt of their size; Student's t of 12 degrees on the log scale, nan where the rows do not fill
    two blocks or these tell no dimension. Cost: one search with about 16 n / p
    neighbours at k = 2, more at larger k, p the smallest size (where that is above 256, one a
    subset), then O(sizes x draws) sums; the blocks add as much again at most.
    """
    return _grown(neighbor_graph(x, k, gamma, sizes, draws, seed, threads), confidence)


def neighbor_graph(
    x: Any,
    k: int,
    gamma: float,
    sizes: Sequence[int] | None,
    draws: int,
    seed: int,
    threads: int | None,
) -> GrowingGraph:
    """What `knn_graph` measures, of its arguments; raises InputError on the same."""
    rows, first, count = _distinct(x, "knn_graph", threads)
    k, gamma = whole_number("k", k, 1), _power("gamma", gamma)
    if k + 1 >= count:  # a slope needs two sizes above k
        raise InputError(
            f"knn_graph with k = {k} needs more than {k + 1} distinct rows, got {count}"
        )
    counts = _sizes(sizes, count, max(k + 1, count // 4), count)
    if counts.min() <= k:
        raise InputError(f"knn_graph with k = {k} needs sizes above k, got {counts.tolist()}")
    workers = cpu.resolve_threads(threads)

    def among(blocks: Int64, least: int) -> Callable[[Int64], Array]:
        of_block = [nearest_lengths(rows.take(b), k, gamma, least, workers) for b in blocks]
        return lambda parts: np.stack([f(part) for f, part in zip(of_block, parts, strict=True)])

    method = f"k-neighbour graph, k = {k}"
    growth = _Growth(among, k + 1, whole_number("draws", draws, 2), gamma)
    return GrowingGraph(rows, first, counts, growth, method, seed)


def nearest_lengths(
    rows: Rows, k: int, gamma: float, least: int, threads: int
) -> Callable[[Int64], Array]:
    """Lengths (b,) of the k-neighbour graphs of subsets (b, p >= least) of distinct rows.

    The nearest of a subset are the first of all neighbours that lie in it, so one search serves
    all subsets; rows of whose neighbours too few were drawn are searched for again.
    """
    depth = math.ceil((k + 4.0 * math.sqrt(k) + 8.0) * rows.n / least)
    depth = min(depth, rows.n - 1)
    near = None if depth > DEEPEST else search(rows, depth, None, None, threads, 0)

    def total(edges: NDArray[Any]) -> Array:
        return np.asarray((edges.astype(np.float64) ** gamma).sum(axis=-1))

    def searched(part: Int64, queries: Int64 | None = None) -> float:
        return float(total(search(rows.take(part), k, queries, None, threads, 0).distances.ravel()))

    def lengths(parts: Int64) -> Array:
        if near is None:
            return np.array([searched(part) for part in parts])
        drawn = np.zeros((len(parts), rows.n), dtype=bool)
        np.put_along_axis(drawn, parts, True, axis=1)
        places = near.indices[parts]
        if len(parts) > 1:  # the places of every subset lie behind those of the one before
            places += (np.arange(len(parts)) * rows.n)[:, None, None]
        chosen, full = first_drawn(places.reshape(-1, near.k), drawn.ravel(), k)
        chosen, full = chosen.reshape(places.shape), full.reshape(parts.shape)
        if full.all():
            return total(near.distances[parts][chosen].reshape(len(parts), -1))
        found = np.array([total(near.distances[p][c]) for p, c in zip(parts, chosen, strict=True)])
        for i, part in enumerate(parts):
            left = np.flatnonzero(~full[i])
            if len(left):
                found[i] += searched(part, left)
        return found

    def in_turn(parts: Int64) -> Array:
        at_once = max(1, HELD_NEIGHBORS // (parts.shape[1] * depth))
        spans = range(0, len(parts), at_once)
        return np.concatenate([lengths(parts[start : start + at_once]) for start in spans])

    return in_turn


def ph_dimension(
    x: Any,
    *,
    alpha: float = 1.0,
    sizes: Sequence[int] | None = None,
    draws: int = DRAWS,
    confidence: float = 0.95,
    seed: int = 0,
    threads: int | None = None,
) -> Estimate:
    """Persistent-homology dimension of degree 0 (Schweinhart, Adv. Math. 372:107291, 2020).

    E(p) = sum of |edge|^alpha over the minimum spanning tree of p points, which are the lifetimes
    of components; d = alpha / (1 - slope of log E on log p) over random subsets without
    replacement.

    x: rows (n, d), reduced to distinct rows; k plays no part. sizes: points of a subset; None for
    10 from half to all of the rows, at most 2,000. draws: subsets a size. alpha: below the
    dimension.

    Assumes rows independent of each other, on a set of one dimension above alpha. Bias: low at high
    dimension, where the slope is near 1 and small errors of it are large; borders and noise add.
    Interval: disjoint blocks as `knn_graph`; beyond 2,000 rows the error falls with them no further
    than the draws allow. Cost: O(p^2 d) for each draw of each size p; the blocks come on top.
    """
    return _grown(spanning_trees(x, alpha, sizes, draws, seed, threads), confidence)


def spanning_trees(
    x: Any,
    alpha: float,
    sizes: Sequence[int] | None,
    draws: int,
    seed: int,
    threads: int | None,
) -> GrowingGraph:
    """What `ph_dimension` measures, of its arguments; raises InputError on the same."""
    rows, first, count = _distinct(x, "ph_dimension", threads)
    largest, alpha = min(count, LARGEST), _power("alpha", alpha)
    counts = _sizes(sizes, count, max(2, largest // 2), largest)
    if counts.min() < 2:
        raise InputError(f"ph_dimension needs sizes of at least 2, got {counts.tolist()}")

    def among(blocks: Int64, least: int) -> Callable[[Int64], Array]:
        def lengths(parts: Int64) -> Array:
            count, draws, size = parts.shape
            sets = np.take_along_axis(blocks[:, None], parts, axis=2).reshape(-1, size)
            at_once = max(1, TREE_VALUES // size**2)
            found = []
            for start in range(0, len(sets), at_once):
                some = sets[start : start + at_once]
                points = rows.take(some.ravel()).float64(0, some.size).reshape(*some.shape, -1)
                found.append((tree_edges(points) ** alpha).sum(axis=1))
            return np.concatenate(found).reshape(count, draws)

        return lengths

    growth = _Growth(among, 2, whole_number("draws", draws, 2), alpha, of_slope=True)
    return GrowingGraph(rows, first, counts, growth, "PH0 dimension", seed)


def tree_edges(points: Array) -> Array:
    """Lengths (..., p - 1) of the Euclidean minimum spanning tree of each set (..., p, d) of points
    (Prim, 1957), from differences."""
    sets = points.reshape(-1, *points.shape[-2:])
    count = sets.shape[1]
    centered = sets - sets.mean(axis=1, keepdims=True)
    own = np.einsum("bij,bij->bi", centered, centered)
    # These squares choose the edges; their lengths are taken from differences below.
    gaps = centered @ centered.transpose(0, 2, 1)
    gaps *= -2.0
    gaps += own[:, :, None]
    gaps += own[:, None, :]
    each = np.arange(len(sets))
    nearest = gaps[:, 0].copy()
    parent = np.zeros((len(sets), count), dtype=np.int64)
    inside = np.zeros((len(sets), count), dtype=bool)
    nearest[:, 0], inside[:, 0] = math.inf, True
    edges = np.empty((2, len(sets), count - 1), dtype=np.int64)
    for step in range(count - 1):
        new = nearest.argmin(axis=1)
        edges[0, :, step], edges[1, :, step] = parent[each, new], new
        inside[each, new] = True
        nearest[each, new] = math.inf
        row = gaps[each, new]
        closer = (row < nearest) & ~inside
        np.copyto(nearest, row, where=closer)
        np.copyto(parent, new[:, None], where=closer)
    ends = (np.take_along_axis(sets, part[:, :, None], axis=1) for part in edges)
    lengths = np.sqrt(np.square(next(ends) - next(ends)).sum(axis=2))
    return np.asarray(lengths.reshape(*points.shape[:-2], count - 1))


def _distinct(x: Any, name: str, threads: int | None) -> tuple[Rows, Int64, int]:
    rows = rows_of(x, name)
    first = distinct_of(rows, 8, name, cpu.resolve_threads(threads)).first
    return rows, first, len(first)


def _power(name: str, value: Any) -> float:
    power = real_number(name, value)
    if not 0.0 < power < math.inf:
        raise InputError(f"{name}, the power of edge lengths, must be above 0, got {value!r}")
    return power


def _sizes(sizes: Sequence[int] | None, count: int, least: int, most: int) -> Int64:
    if sizes is None:
        return np.unique(np.geomspace(least, most, STEPS).round().astype(np.int64))
    chosen = sorted({whole_number("each of sizes", size, 1) for size in several("sizes", sizes)})
    if len(chosen) < 2 or chosen[-1] > count:
        raise InputError(
            f"sizes must be at least two numbers of points, none above the {count} distinct rows; "
            f"got {chosen}"
        )
    return np.array(chosen, dtype=np.int64)


@dataclass(frozen=True)
class _Growth:
    """How a graph grows: lengths, the least number of points, draws a size, power of an edge.

    among(blocks, least): of blocks (g, m) of rows a function of subsets (g, draws, p >= least) of
    places in each, to (g, draws).
    of_slope: whether p times the variance of the slope, not that of log value, is the same for few
    points and for many.
    """

    among: Callable[[Int64, int], Callable[[Int64], Array]]
    least: int
    draws: int
    power: float
    of_slope: bool = False

    def slopes(self, blocks: Int64, sizes: Int64, rng: np.random.Generator) -> Array:
        """Slope (g, draws) of log length on log size over subsets of each block (g, m) of rows."""
        count, rows = blocks.shape
        lengths = self.among(blocks, int(sizes[0]))
        drawn = [
            [np.sort(rng.choice(rows, size=size, replace=False)) for size in sizes]
            for _ in range(count * self.draws)
        ]
        with np.errstate(over="ignore", under="ignore"):
            columns = [
                lengths(np.stack(column).reshape(count, self.draws, -1))
                for column in zip(*drawn, strict=True)
            ]
        found = np.stack(columns, axis=2)
        if not ((found > 0.0) & np.isfinite(found)).all():
            raise InputError(
                f"lengths of edges to the power {self.power:g} leave the range of float64: pass a "
                "smaller power, or divide the rows by a constant"
            )
        logs = np.log(found)
        x = np.log(sizes) - np.log(sizes).mean()
        return np.asarray(logs @ x / (x @ x))


@dataclass(frozen=True)
class GrowingGraph:
    """Rows, the first of equal ones, sizes of subsets, how the graph grows, its name, a seed."""

    rows: Rows
    first: Int64
    sizes: Int64
    growth: _Growth
    method: str
    seed: int

    def slopes(self, rng: np.random.Generator) -> Array:
        """Of log length on log size, one a draw."""
        return np.asarray(self.growth.slopes(self.first[None], self.sizes, rng)[0])

    def dimension(self, slopes: Array) -> float:
        """power / (1 - slope), or one clear error."""
        slope = float(slopes.mean())
        if not slope < 1.0:
            raise InputError(
                f"{self.method} grows as fast as the number of points (slope {slope:.3f}): the "
                "dimension is too high for so few rows, or the power is above it; pass more rows "
                "or a smaller power"
            )
        return self.growth.power / (1.0 - slope)

    def value(self) -> float:
        """The value of the estimator, to the bit, without the blocks of its interval."""
        return self.dimension(self.slopes(generator(self.seed)))


def _grown(graph: GrowingGraph, confidence: float) -> Estimate:
    """The value with the error of its slope over blocks."""
    check_confidence(confidence)
    rng = generator(graph.seed)
    slopes = graph.slopes(rng)
    value = graph.dimension(slopes)
    error, degrees = _error(graph.first, graph.sizes, slopes, graph.growth, rng)
    stderr = value * error
    sample = Sample(graph.rows.n, len(graph.first), int(graph.sizes.max()))
    if degrees:
        half = student_quantile(0.5 + 0.5 * confidence, degrees) * error
        ends = value * bounded_exp(-half), value * bounded_exp(half)
    else:
        ends = math.nan, math.nan
    return estimate_of(value, stderr, sample, graph.method, "disjoint blocks", confidence, ends)


def _error(
    first: Int64, sizes: Int64, slopes: Array, growth: _Growth, rng: np.random.Generator
) -> tuple[float, int]:
    """Standard error of log value, and its degrees of freedom; nan and 0 if unknown.

    Of p rows the variance is about v / p, so that of g blocks of p / g rows tells v. For a spanning
    tree that is the variance of the slope (the same error, within a tenth, from 200 and from 1,000
    rows of flat tori), which counts by 1 / (1 - slope) of the value itself: a block lies at a scale
    of its own, often of more dimensions. For the k-neighbour graph, whose slope varies less over
    few rows, it is that of log value = -log(1 - slope) of the blocks. The rows are shuffled and cut
    again for more degrees of freedom: blocks of one cut share no row, and given the rows cuts are
    independent. Where subsets leave rows out, p < n, the draws see rows of their own: the rows'
    part is v / n then, and the draws' the spread between them.
    """
    count, largest = len(first), int(sizes.max())
    blocks = max(2, min(BLOCKS, largest // (growth.least + ROOM)))
    cuts = DEGREES // (blocks - 1)
    size = largest // blocks
    smaller = np.unique(np.maximum(growth.least, sizes * size // largest))
    if len(smaller) < 2:
        return math.nan, 0

    orders = [rng.permutation(first)[: blocks * size].reshape(blocks, size) for _ in range(cuts)]
    means = np.stack([growth.slopes(order, smaller, rng).mean(axis=1) for order in orders])
    here = float(slopes.mean())
    there = here if growth.of_slope else float(means.mean())
    if not there < 1.0:
        return math.nan, 0
    share = largest / count
    variance = float(means.var(axis=1, ddof=1).mean()) / blocks * share / (1.0 - there) ** 2
    rest = (1.0 - share) * float(slopes.var(ddof=1)) / len(slopes) / (1.0 - here) ** 2
    return math.sqrt(variance + rest), cuts * (blocks - 1)
