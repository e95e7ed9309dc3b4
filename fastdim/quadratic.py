"""Sums over all pairs of unit rows, from their covariance C and what every row w adds, w'Cw.

C gives the sums themselves; what a row adds is for errors alone. The longest axes of C and the
length of what is left of a row stand for all of C. That is less work than d axes, and needs no
decomposition of C; how far off it is, is measured on some of the rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastdim import moments
from fastdim.arrays import Rows
from fastdim.backends import cpu
from fastdim.backends.blas import one_blas_thread
from fastdim.covariance import Covariance, centered
from fastdim.moments import random_rows

Array = NDArray[np.float64]
Int64 = NDArray[np.int64]

# The first of the axes is taken apart by the kernel, the others come in panels of 32.
FEWEST_AXES = 97
# What the axes leave out, in standard deviations of what the rows add: it may move a standard
# error by about as much where it goes along with the rest, and by its square where it does not.
LEFT_OUT = 5e-3
JUDGED_ROWS = 256
ITERATIONS = 3


class PairSums(NamedTuple):
    """Of the cosines c_ij of unit rows u_i = mean + w_i: s = |mean|^2, total = the sum over i != j
    of (c_ij - their mean)^2, by_row (n,) the same for each i, shift = (1 - s)/(n - 1), slopes
    (n,) = mean.w_i. Where by_row and slopes are summed over documents (g,): sizes (g,) are their
    numbers of rows, documents (g,) their labels."""

    s: float
    total: float
    by_row: Array
    shift: float
    slopes: Array
    sizes: Array | None = None
    documents: Int64 | None = None


@dataclass(frozen=True, eq=False)
class Axes:
    """C as sum of weights_k v_k v_k' + rest (1 - sum of v_k v_k'); vectors (k, d) orthonormal."""

    vectors: Array
    weights: Array
    rest: float


@dataclass(frozen=True, eq=False)
class Added:
    """Of each row w that takes part: slopes w.mean, along w.(C mean), squares w'Cw, each (m,)."""

    slopes: Array
    along: Array
    squares: Array


def joined(parts: Iterable[Added]) -> Added:
    """What rows of several parts add, in their order."""
    columns = zip(*((part.slopes, part.along, part.squares) for part in parts), strict=True)
    return Added(*(np.concatenate(column) for column in columns))


def judged_rows(count: int) -> Int64:
    """Those of `count` rows that `axes_of` looks at, ascending."""
    drawn = random_rows(count)
    judged = min(len(drawn), JUDGED_ROWS)
    return drawn[np.arange(judged) * len(drawn) // judged]


def judged(known: Covariance, take: Callable[[Int64], Rows]) -> Array | None:
    """The rows (m, d) less their mean that `axes_of` looks at; None where there is so little to do
    that all of C is multiplied, in float64.

    take: gives the rows with these numbers, wherever they lie.
    """
    if known.count * len(known.mean) ** 2 <= moments.DIRECT_WORK:
        return None
    places = judged_rows(known.count)
    numbers = places if known.ids is None else known.ids[places]
    sample = take(numbers).float64(0, len(numbers))
    if known.scale is not None:
        sample *= known.scale[numbers, None]
    return np.asarray(sample - known.mean)


def axes_of(known: Covariance, sample: Array | None) -> Axes | None:
    """As many axes as the rows of a sample need; all of them where half of them do not do.

    sample: of `judged`, which only says how many axes there are; None for None.
    """
    if sample is None:
        return None
    gram, size = known.gram, FEWEST_AXES
    with one_blas_thread():
        product = sample @ gram
        exact = np.einsum("ij,ij->i", product, sample)
        slopes = sample @ known.mean
        spread = float(np.std(exact + 2.0 * (product @ known.mean) + np.square(slopes)))
        while 2 * size < len(gram):
            axes = _leading(gram, size)
            places = np.square(sample @ axes.vectors.T)
            left = np.square(sample).sum(axis=1) - places.sum(axis=1)
            if float(np.std(exact - places @ axes.weights - axes.rest * left)) <= LEFT_OUT * spread:
                return axes
            size = 2 * size - 1
        ascending, columns = np.linalg.eigh(gram)
    return Axes(np.ascontiguousarray(columns.T[::-1]), ascending[::-1].copy(), 0.0)


def _leading(gram: Array, size: int) -> Axes:
    """About the longest axes, by subspace iteration; any orthonormal ones are allowed."""
    basis = np.random.default_rng(0).standard_normal((len(gram), size))
    for _ in range(ITERATIONS):
        basis = gram @ np.linalg.qr(basis)[0]
    basis = np.linalg.qr(basis)[0]
    ascending, turn = np.linalg.eigh(basis.T @ gram @ basis)
    weights = ascending[::-1].copy()
    # The mean of the eigenvalues that are left, each with the variance along its axis.
    trace = float(np.trace(gram))
    variance = trace - float(weights.sum())
    squares = float(np.square(gram).sum()) - float(np.square(weights).sum())
    # So little is rounding of the trace, as is squares: their quotient may be any number.
    rounding = len(gram) * np.finfo(np.float64).eps * trace
    rest = max(0.0, squares) / variance if variance > rounding else 0.0
    return Axes(np.ascontiguousarray((basis @ turn[:, ::-1]).T), weights, rest)


@one_blas_thread()
def added_by(rows: Rows, known: Covariance, axes: Axes | None, threads: int) -> Added:
    """Of every row that takes part. axes: of `axes_of`; None for all of C, in float64."""
    lines = np.stack([known.mean, known.gram @ known.mean])
    ids, scale = known.ids, known.scale
    if axes is not None:
        weights = np.stack([axes.weights - axes.rest, np.zeros_like(axes.weights)])
        weights[:, 0] = 0.0
        found = cpu.row_forms(rows, known.mean, ids, scale, axes.vectors, weights, lines, threads)
        squares = axes.weights[0] * np.square(found.first) + found.forms[:, 0]
        squares += axes.rest * found.rest
        return Added(found.linear[:, 0], found.linear[:, 1], squares)
    parts = []
    for w in centered(rows, ids, scale, known.mean):
        along = w @ lines.T
        squares = np.einsum("ij,ij->i", w @ known.gram, w)
        parts.append(Added(along[:, 0], along[:, 1], squares))
    return joined(parts)


def added(rows: Rows, known: Covariance, threads: int) -> Added:
    """`added_by` with the axes that these rows need."""
    return added_by(rows, known, axes_of(known, judged(known, rows.take)), threads)


def pair_sums(known: Covariance, rows: Added) -> PairSums:
    """Of the unit rows with this covariance; rows: what each adds.

    With W'W = scatter of the unit rows, sum_j (w_i.w_j)^2 = w_i'W'W w_i.
    """
    return _pair_sums(known, rows, np.square(rows.slopes), None)


def pair_sums_by_document(
    known: Covariance, rows: Added, slopes_squared: Array, sizes: Array, documents: Int64
) -> PairSums:
    """`pair_sums` from what documents of `sizes` rows (g,) add; slopes_squared: (g,) sums, too."""
    found = _pair_sums(known, rows, slopes_squared, sizes)
    return found._replace(sizes=sizes, documents=documents)


@one_blas_thread()
def _pair_sums(
    known: Covariance, rows: Added, slopes_squared: Array, sizes: Array | None
) -> PairSums:
    count, center = known.count, known.mean
    spread = float(np.trace(known.gram))  # 1 - s, without the subtraction
    shift = spread / (count - 1)
    slope_squares = count * max(0.0, float(center @ (known.gram @ center)))
    total = 2.0 * count * slope_squares + float(np.square(known.gram).sum()) * count**2
    total -= count * spread**2 + count * (count - 1) * shift**2
    by_row = deviations(
        count * rows.squares,
        count * rows.along,
        rows.slopes,
        slopes_squared,
        slope_squares,
        spread,
        count,
        sizes,
    )
    return PairSums(float(center @ center), total, by_row, shift, rows.slopes)


def deviations_by_row(
    squares: Array, along: Array, slopes: Array, slope_squares: float, spread: float
) -> Array:
    """Of each row i, sum over j != i of (c_ij - mean)^2.

    squares: sum_j (w_i.w_j)^2. along: w_i.sum_j a_j w_j. slope_squares: sum of a_j^2.
    """
    squared = np.square(slopes)
    return deviations(squares, along, slopes, squared, slope_squares, spread, len(squares), None)


def deviations(
    squares: Array,
    along: Array,
    slopes: Array,
    slopes_squared: Array,
    slope_squares: float,
    spread: float,
    count: int,
    sizes: Array | None,
) -> Array:
    """`deviations_by_row` of `count` rows; summed over groups of `sizes` rows where all are."""
    shift = spread / (count - 1)
    by_row = squares + 2.0 * along
    size = 1.0 if sizes is None else sizes
    by_row += count * slopes_squared + size * (slope_squares - spread**2)
    by_row += 2.0 * shift * (count * slopes - size * spread) + size * ((count - 1) * shift**2)
    return by_row
