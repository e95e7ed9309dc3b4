"""Two representations of the same rows: neighbours kept, information, linear maps, angles.

Row i of x and row i of y stand for the same token. Both have n rows; columns may differ.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastdim.arrays import Rows, as_groups, whole_number
from fastdim.backends import cpu
from fastdim.errors import InputError
from fastdim.estimate import (
    Estimate,
    bounded_exp,
    check_confidence,
    clustered_stderr,
    transformed_interval,
)
from fastdim.estimators.inputs import check_passed, rows_of
from fastdim.estimators.shared_rows import CHAIN, FEW, Ranks, overlap_part, rank_part, shared_stderr
from fastdim.neighbors import Neighbors, search

Array = NDArray[np.float64]

# Of the squares of a row, below which they and products with another row lose digits.
LEAST_SQUARE = 1e-280


def pair_of(x: Any, y: Any, name: str) -> tuple[Rows, Rows]:
    """Both rows, or one clear error where they do not stand for the same tokens."""
    first, second = rows_of(x, name), rows_of(y, name, "y")
    if first.n != second.n:
        raise InputError(
            f"{name} compares row i of x with row i of y: x has {first.n} rows, y {second.n}"
        )
    return first, second


def share_of(
    local: Array,
    method: str,
    confidence: float,
    labels: NDArray[np.int64] | None,
    n_points: int,
    largest: float = 1.0,
    stderr: float | None = None,
) -> Estimate:
    """Mean of values (m,) in 0..largest: normal interval on the logit scale, a point at the
    ends. stderr: of the mean, None for that of independent rows, or documents."""
    check_confidence(confidence)
    value = float(local.mean())
    if stderr is None:
        stderr = float(clustered_stderr(local - value, labels))
    p = min(max(value / largest, 0.0), 1.0)
    lower, upper = transformed_interval(
        p,
        stderr / largest if 0.0 < p < 1.0 else 0.0,
        confidence,
        lambda p: math.log(p / (1.0 - p)),
        lambda z: 1.0 / (1.0 + bounded_exp(-z)),
        1.0 / (p * (1.0 - p)) if 0.0 < p < 1.0 else math.inf,
    )
    return Estimate(
        value=value,
        lower=min(lower * largest, value),
        upper=max(upper * largest, value),
        stderr=stderr,
        n_points=n_points,
        n_distinct=None,
        n_queries=len(local),
        method=method,
        interval="rows",
        confidence=confidence,
    )


def neighborhood_overlap(
    x: Any,
    y: Any,
    k: int = 30,
    *,
    queries: Any = None,
    groups: Any = None,
    confidence: float = 0.95,
    seed: int = 0,
    threads: int | None = None,
) -> Estimate:
    """Share of each row's k nearest neighbours that are the same rows in x and in y.

    Source: Doimo et al., NeurIPS 2020. 1: the same neighbourhoods; k / (n - 1): none in common but
    by chance.

    x, y: rows (n, d) and (n, e), or `Neighbors` of the same queries with at least k columns. Rows
    are searched as they are: an equal row is a neighbour at distance 0, and of more than k of them
    the smaller row numbers are taken. k >= n is refused. queries: of both; a count is drawn in x.
    groups: (n,) documents. Assumes the same tokens in the same order. Bias: k / (n - 1) above 0 by
    chance. Interval: rows, or documents, on the logit scale, each with its part in the overlaps
    of others (`shared_rows`); too narrow for documents whose rows lie together in few
    dimensions (errors down to 0.7 of the true). Cost: two searches.
    """
    k = whole_number("k", k, 1)
    first = _near(x, k, "neighborhood_overlap", queries, seed, threads)
    # A count draws far rows in proportion, and those of y are others: x's queries serve both.
    chosen = queries if queries is None or isinstance(x, Neighbors) else first.queries
    second = _near(y, k, "neighborhood_overlap", chosen, seed, threads, "y")
    _same_queries(first, second)
    a, b = first.indices[:, :k], second.indices[:, :k]
    in_b, in_a = _common(a, b, first.n_points), _common(b, a, first.n_points)
    local = in_b.mean(axis=1)
    part = overlap_part(a, b, in_b, in_a)
    labels = as_groups(groups, first.n_points)
    stderr = shared_stderr(local, first, part, labels)
    method = f"overlap, k = {k}"
    return share_of(local, method, confidence, None, first.n_points, stderr=stderr)


def _common(a: NDArray[np.int64], b: NDArray[np.int64], n: int) -> NDArray[np.bool_]:
    """Which row numbers of a (m, k) stand in the same row of b."""
    # Row offsets keep the numbers of different queries apart.
    offset = np.arange(len(a))[:, None] * np.int64(n)
    return np.isin((a + offset).ravel(), (b + offset).ravel()).reshape(a.shape)


def information_imbalance(
    x: Any,
    y: Any,
    k: int = 1,
    *,
    queries: Any = None,
    groups: Any = None,
    confidence: float = 0.95,
    seed: int = 0,
    threads: int | None = None,
) -> Estimate:
    """How badly distances in x predict those in y: 2/n times the mean rank in y (Glielmo et al.).

    Source: PNAS Nexus 1:pgac039 (2022). For each row, the ranks by distance in y (1 = nearest) of
    its k nearest neighbours in x. About 0: x tells all of y; 1: nothing. Not symmetric: compute
    both directions.

    x, y: rows (n, d) and (n, e), as they are; of equal distances in y the smaller row number ranks
    first. k >= n is refused. groups: (n,) documents. Assumes distances whose order means something
    in both. Bias: none known; ties in x count in y as they fall. Interval: rows, or documents,
    each with its part in the ranks of others (`shared_rows`). Cost: a search in x with k + 1
    neighbours, 5 for k = 1, and O(m n e) in y on a float64 copy of it; `queries=m` looks at m rows.
    """
    rows_x, rows_y = pair_of(x, y, "information_imbalance")
    k = whole_number("k", k, 1)
    # More, which stand in for neighbours that are not there: the error counts on them.
    further = CHAIN if k == 1 and rows_x.n > CHAIN else k + 1
    wanted = further if further < rows_x.n else k
    near = _near(rows_x, wanted, "information_imbalance", queries, seed, threads)
    labels = as_groups(groups, rows_x.n)
    found = _ranks(rows_y, near, k, labels)
    local = found.ranks[:, :k].mean(axis=1)
    scale = 2.0 / rows_y.n
    stderr = scale * shared_stderr(local, near, rank_part(near, found, k), labels)
    method = f"imbalance, k = {k}"
    return share_of(local * scale, method, confidence, None, rows_x.n, largest=2.0, stderr=stderr)


def _ranks(rows: Rows, near: Neighbors, k: int, labels: NDArray[np.int64] | None = None) -> Ranks:
    """Ranks by distance in `rows`, from 1, of each neighbour (m, c) among all other rows.

    labels: (n,) documents; `often` leaves out rows of the query's own.
    Products only tell which rows are nearer beyond doubt; where rounding leaves it open, sums of
    differences decide.
    """
    everything = rows.float64(0, rows.n)
    everything -= everything.mean(axis=0)
    # No square under- or overflows; the factor is a power of two, so no rank depends on it.
    everything = np.ldexp(everything, -int(np.frexp(np.abs(everything).max())[1]))
    own = np.einsum("ij,ij->i", everything, everything)
    doubt = 4.0 * (rows.d + 8) * np.finfo(np.float64).eps
    ranks = np.empty(near.indices.shape, dtype=np.int64)
    often = np.zeros(rows.n, dtype=np.int64)
    place_of, row_of = [np.empty(0, dtype=np.int64)], [np.empty(0, dtype=np.int64)]
    step = max(1, (1 << 21) // rows.n)
    for start in range(0, len(near.queries), step):
        queries = near.queries[start : start + step]
        sums = own[queries][:, None] + own
        least = sums - 2.0 * (everything[queries] @ everything.T)
        sums *= doubt
        largest = least + sums
        least -= sums
        for place in range(near.indices.shape[1]):
            other = near.indices[start : start + step, place]
            reach = _squares(everything, queries, other)
            nearer = largest < reach[:, None]
            row, column = np.divmod(np.flatnonzero(nearer ^ (least <= reach[:, None])), rows.n)
            exact = _squares(everything, queries[row], column)
            tied = (exact == reach[row]) & (column < other[row])
            nearer[row, column] = (exact < reach[row]) | tied
            nearer[np.arange(len(queries)), queries] = False
            rank = 1 + nearer.view(np.uint8).sum(axis=1, dtype=np.int64)
            ranks[start : start + step, place] = rank
            if place < k:
                few = rank <= FEW
                row, column = np.nonzero(nearer[few])
                place_of.append(start + np.flatnonzero(few)[row])
                row_of.append(column)
                many = nearer[~few]
                if labels is not None:
                    many &= labels[queries[~few]][:, None] != labels
                often += many.sum(axis=0)
    return Ranks(ranks, np.concatenate(place_of), np.concatenate(row_of), often)


def _squares(points: Array, a: NDArray[np.int64], b: NDArray[np.int64]) -> Array:
    difference = points[a] - points[b]
    return np.asarray(np.einsum("ij,ij->i", difference, difference))


def angular_distance(
    x: Any,
    y: Any,
    *,
    groups: Any = None,
    confidence: float = 0.95,
) -> Estimate:
    """Mean of arccos(cos(x_i, y_i)) / pi over the rows (Gromov et al., arXiv 2403.17887).

    Between layers that many blocks apart it says which blocks to drop: 0 where they leave every
    direction alone. 1/2: right angles. Assumes that x and y share their axes: same columns needed;
    no centering; a zero row is refused; duplicates count as rows; k plays no part. No bias known.
    Interval: rows, or documents (groups), on the logit scale. Cost: O(n d).
    """
    first, second = pair_of(x, y, "angular_distance")
    local = np.arccos(_cosines(first, second, "angular_distance")) / math.pi
    labels = as_groups(groups, first.n)
    return share_of(local, "angular distance", confidence, labels, first.n)


def block_influence(
    x: Any,
    y: Any,
    *,
    groups: Any = None,
    confidence: float = 0.95,
) -> Estimate:
    """1 - the mean cosine between input x_i and output y_i of a block (Men et al., arXiv
    2403.03853).

    0: the block turns no row; larger: it matters more. Between 0 and 2. Assumes that x and y share
    their axes. No bias known. Duplicates count as rows; k plays no part. Refusals and interval as
    `angular_distance`. Cost: O(n d).
    """
    first, second = pair_of(x, y, "block_influence")
    local = 1.0 - _cosines(first, second, "block_influence")
    labels = as_groups(groups, first.n)
    return share_of(local, "block influence", confidence, labels, first.n, largest=2.0)


def _cosines(first: Rows, second: Rows, name: str) -> Array:
    if first.d != second.d:
        raise InputError(f"{name} needs rows of the same columns, got {first.d} and {second.d}")
    found = np.empty(first.n)
    for start, stop in first.spans():
        a, b = first.float64(start, stop), second.float64(start, stop)
        squares = [np.einsum("ij,ij->i", part, part) for part in (a, b)]
        least = np.minimum(*squares)
        if not (least >= LEAST_SQUARE).all():
            row = int((least < LEAST_SQUARE).argmax())
            if a[row].any() and b[row].any():
                raise InputError(
                    f"row {start + row} is not zero, yet its squares vanish in float64: multiply "
                    "the rows of x and of y by a constant"
                )
            raise InputError(
                f"row {start + row} is zero in x or y and has no direction: drop it from both"
            )
        # The roots one by one: the product of both squares overflows for rows of 1e77.
        lengths = np.sqrt(squares[0]) * np.sqrt(squares[1])
        found[start:stop] = np.einsum("ij,ij->i", a, b) / lengths
    return np.clip(found, -1.0, 1.0)


def _near(
    x: Any,
    k: int,
    name: str,
    queries: Any,
    seed: int,
    threads: int | None,
    argument: str = "x",
) -> Neighbors:
    if isinstance(x, Neighbors):
        return check_passed(x, k, name, queries)
    return search(rows_of(x, name, argument), k, queries, None, cpu.resolve_threads(threads), seed)


def _same_queries(first: Neighbors, second: Neighbors) -> None:
    if first.n_points != second.n_points or not np.array_equal(first.queries, second.queries):
        raise InputError(
            "x and y must hold the same rows in the same order, with the same queries: "
            f"{len(first.queries)} queries of {first.n_points} rows against "
            f"{len(second.queries)} of {second.n_points}"
        )
