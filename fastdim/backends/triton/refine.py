"""Kernels that form distances: float64 sums of squared differences of the rows as given."""

import triton
import triton.language as tl

from .rows import wide_block


@triton.jit
def add_squares(sums, difference, factors, AXIS: tl.constexpr, WIDE: tl.constexpr):
    """Sums of squares at the scale of the filter; where WIDE, also at two larger ones.

    float64 rows may hold distances whose squares vanish at the first scale.
    """
    low, middle, high = sums
    y = difference * tl.load(factors)
    low += tl.sum(y * y, axis=AXIS)
    if WIDE:
        # What is cut off would overflow, and belongs to a sum that is not used.
        size = tl.abs(difference)
        second = tl.load(factors + 1)
        y = tl.minimum(size, 1e144 / second) * second
        middle += tl.sum(y * y, axis=AXIS)
        third = tl.load(factors + 2)
        y = tl.minimum(size, 1e144 / third) * third
        high += tl.sum(y * y, axis=AXIS)
    return low, middle, high


@triton.jit
def distance_of(sums, factors, WIDE: tl.constexpr):
    """The distance, from the first of the sums that has lost nothing (at least 2^-840)."""
    low, middle, high = sums
    found = tl.sqrt(low) / tl.load(factors)
    if WIDE:
        safe = 1.3635e-253
        second = tl.sqrt(middle) / tl.load(factors + 1)
        third = tl.sqrt(high) / tl.load(factors + 2)
        found = tl.where(low >= safe, found, tl.where(middle >= safe, second, third))
    return found


@triton.jit
def pair_distances(
    x,
    queries,
    columns,
    factors,
    out,
    pairs,
    per_query,
    d,
    row_stride,
    BLOCK_PAIRS: tl.constexpr,
    BLOCK_COLUMNS: tl.constexpr,
    WIDE: tl.constexpr,
):
    """Distances (pairs,) of row queries[p // per_query] and row columns[p]; inf where that is -1.

    One order of summation: a pair has the same bits wherever it is computed.
    """
    pair = tl.program_id(0).to(tl.int64) * BLOCK_PAIRS + tl.arange(0, BLOCK_PAIRS).to(tl.int64)
    column = tl.load(columns + pair, mask=pair < pairs, other=-1).to(tl.int64)
    real = column >= 0
    query = tl.load(queries + pair // per_query, mask=real, other=0).to(tl.int64)
    zero = tl.zeros([BLOCK_PAIRS], tl.float64)
    sums = (zero, zero, zero)
    for start in range(0, d, BLOCK_COLUMNS):
        c = start + tl.arange(0, BLOCK_COLUMNS)
        inside = real[:, None] & (c < d)[None, :]
        a = wide_block(x, query, c, row_stride, inside)
        b = wide_block(x, column, c, row_stride, inside)
        sums = add_squares(sums, a - b, factors, 1, WIDE)
    distance = tl.where(real, distance_of(sums, factors, WIDE), float("inf"))
    tl.store(out + pair, distance, mask=pair < pairs)


@triton.jit
def all_distances(
    x,
    queries,
    factors,
    out,
    m,
    n,
    d,
    row_stride,
    BLOCK_QUERIES: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_COLUMNS: tl.constexpr,
    WIDE: tl.constexpr,
):
    """Distances (m, n) of the rows numbered `queries` from every row, inf from themselves."""
    # Only the first number of a grid may pass 65,535.
    row = tl.program_id(0).to(tl.int64) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    place = tl.program_id(1).to(tl.int64) * BLOCK_QUERIES + tl.arange(0, BLOCK_QUERIES)
    query = tl.load(queries + place, mask=place < m, other=0).to(tl.int64)
    zero = tl.zeros([BLOCK_QUERIES, BLOCK_ROWS], tl.float64)
    sums = (zero, zero, zero)
    for start in range(0, d, BLOCK_COLUMNS):
        c = start + tl.arange(0, BLOCK_COLUMNS)
        inside = (c < d)[None, :]
        a = wide_block(x, query, c, row_stride, inside & (place < m)[:, None])
        b = wide_block(x, row, c, row_stride, inside & (row < n)[:, None])
        sums = add_squares(sums, a[:, None, :] - b[None, :, :], factors, 2, WIDE)
    distance = distance_of(sums, factors, WIDE)
    distance = tl.where(query[:, None] == row[None, :], float("inf"), distance)
    at = out + place[:, None] * n + row[None, :]
    tl.store(at, distance, mask=(place < m)[:, None] & (row < n)[None, :])
