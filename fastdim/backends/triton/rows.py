"""Kernels over rows: sums of columns, 16-bit rows with their rounding errors, row statistics.

Every address is 64-bit: row numbers are widened before they meet a stride.
"""

import triton
import triton.language as tl


@triton.jit
def widen(value):
    """A loaded value in float64; 16-bit numbers by way of float32, which holds them."""
    if value.dtype == tl.float64:
        return value
    return value.to(tl.float32).to(tl.float64)


@triton.jit
def wide_block(x, row, column, row_stride, inside):
    """Values (rows, columns) float64 of x at these 64-bit rows and columns, 0 where not inside."""
    at = x + row[:, None] * row_stride + column[None, :]
    return widen(tl.load(at, mask=inside, other=0.0))


@triton.jit
def column_parts(
    x,
    factors,
    out,
    n,
    d,
    row_stride,
    part_rows,
    SCALED: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_COLUMNS: tl.constexpr,
):
    """Sum, minimum and maximum of each column over one part of the rows: out (parts, 3, d).

    Where SCALED, of rows times factors (n,) float64.
    """
    column = tl.program_id(0) * BLOCK_COLUMNS + tl.arange(0, BLOCK_COLUMNS)
    part = tl.program_id(1).to(tl.int64)
    first = part * part_rows
    last = tl.minimum(first + part_rows, n)
    total = tl.zeros([BLOCK_COLUMNS], tl.float64)
    low = tl.full([BLOCK_COLUMNS], float("inf"), tl.float64)
    high = tl.full([BLOCK_COLUMNS], float("-inf"), tl.float64)
    for start in range(first, last, BLOCK_ROWS):
        row = start + tl.arange(0, BLOCK_ROWS).to(tl.int64)
        inside = (row < last)[:, None] & (column < d)[None, :]
        value = wide_block(x, row, column, row_stride, inside)
        if SCALED:
            value *= tl.load(factors + row, mask=row < last, other=0.0)[:, None]
        total += tl.sum(value, axis=0)
        low = tl.minimum(low, tl.min(tl.where(inside, value, float("inf")), axis=0))
        high = tl.maximum(high, tl.max(tl.where(inside, value, float("-inf")), axis=0))
    at = out + part * 3 * d + column
    tl.store(at, total, mask=column < d)
    tl.store(at + d, low, mask=column < d)
    tl.store(at + 2 * d, high, mask=column < d)


@triton.jit
def pack_rows(
    x,
    mean,
    scale,
    packed,
    sums,
    n,
    padded,
    d,
    width,
    row_stride,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_COLUMNS: tl.constexpr,
):
    """y = (x - mean) * scale of every row, rounded to the 16 bits of `packed` (padded, width).

    sums (3, padded) float64: |y - rounded|^2, |rounded|^2, |y|^2. What lies beyond n or d is zero.
    """
    row = tl.program_id(0).to(tl.int64) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS).to(tl.int64)
    factor = tl.load(scale)
    error2 = tl.zeros([BLOCK_ROWS], tl.float64)
    norm2 = tl.zeros([BLOCK_ROWS], tl.float64)
    full2 = tl.zeros([BLOCK_ROWS], tl.float64)
    for start in range(0, width, BLOCK_COLUMNS):
        column = start + tl.arange(0, BLOCK_COLUMNS)
        inside = (row < n)[:, None] & (column < d)[None, :]
        value = wide_block(x, row, column, row_stride, inside)
        shift = tl.load(mean + column, mask=column < d, other=0.0)
        y = tl.where(inside, (value - shift[None, :]) * factor, 0.0)
        rounded = y.to(tl.float32).to(packed.dtype.element_ty)
        place = packed + row[:, None] * width + column[None, :]
        tl.store(place, rounded, mask=(row < padded)[:, None] & (column < width)[None, :])
        back = widen(rounded)
        error2 += tl.sum((y - back) * (y - back), axis=1)
        norm2 += tl.sum(back * back, axis=1)
        full2 += tl.sum(y * y, axis=1)
    tl.store(sums + row, error2, mask=row < padded)
    tl.store(sums + padded + row, norm2, mask=row < padded)
    tl.store(sums + 2 * padded + row, full2, mask=row < padded)


@triton.jit
def mixed(value):
    """A 64-bit number whose bits all depend on all bits of `value` (Steele et al., SplitMix64)."""
    value = (value ^ (value >> 30)) * 0xBF58476D1CE4E5B9
    value = (value ^ (value >> 27)) * 0x94D049BB133111EB
    return value ^ (value >> 31)


@triton.jit
def row_statistics(
    x,
    norms2,
    hashes,
    n,
    d,
    row_stride,
    seed,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_COLUMNS: tl.constexpr,
):
    """Squared norm (n,) float64 and a 64-bit hash (n,) of each row, equal for equal rows (-0 = 0).

    The hash is the sum over columns of the mixed bits of value and column number.
    """
    row = tl.program_id(0).to(tl.int64) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS).to(tl.int64)
    norm2 = tl.zeros([BLOCK_ROWS], tl.float64)
    total = tl.zeros([BLOCK_ROWS], tl.uint64)
    for start in range(0, d, BLOCK_COLUMNS):
        column = start + tl.arange(0, BLOCK_COLUMNS)
        inside = (row < n)[:, None] & (column < d)[None, :]
        value = wide_block(x, row, column, row_stride, inside)
        norm2 += tl.sum(value * value, axis=1)
        bits = tl.where(value == 0.0, 0.0, value).to(tl.uint64, bitcast=True)
        place = (column.to(tl.int64) + seed).to(tl.uint64)
        bits = mixed(mixed(bits) ^ mixed(place * 0x9E3779B97F4A7C15)[None, :])
        total += tl.sum(tl.where(inside, bits, 0).to(tl.uint64), axis=1)
    tl.store(norms2 + row, norm2, mask=row < n)
    tl.store(hashes + row, total.to(tl.int64, bitcast=True), mask=row < n)


@triton.jit
def equal_rows(
    x,
    left,
    right,
    out,
    pairs,
    d,
    row_stride,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_COLUMNS: tl.constexpr,
):
    """Whether rows left[p] and right[p] hold equal values (-0 = 0): out (pairs,) int32, 0 or 1."""
    pair = tl.program_id(0).to(tl.int64) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS).to(tl.int64)
    real = pair < pairs
    i = tl.load(left + pair, mask=real, other=0)
    j = tl.load(right + pair, mask=real, other=0)
    other = tl.zeros([BLOCK_ROWS], tl.int32)
    for start in range(0, d, BLOCK_COLUMNS):
        column = start + tl.arange(0, BLOCK_COLUMNS)
        inside = real[:, None] & (column < d)[None, :]
        a = wide_block(x, i, column, row_stride, inside)
        b = wide_block(x, j, column, row_stride, inside)
        other += tl.sum((a != b).to(tl.int32), axis=1)
    tl.store(out + pair, (other == 0).to(tl.int32), mask=real)


@triton.jit
def scaled_rows(
    x,
    chosen,
    factors,
    shift,
    out,
    slopes,
    m,
    padded,
    d,
    width,
    row_stride,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_COLUMNS: tl.constexpr,
):
    """out (padded, width) = row chosen[i] * factors[chosen[i]] - shift, zero beyond m and d.

    factors (n,), shift (d,), slopes (m,) float64: products of shift and the new rows. Centering is
    factors of 1, normalization a shift of 0.
    """
    place = tl.program_id(0).to(tl.int64) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS).to(tl.int64)
    real = place < m
    row = tl.load(chosen + place, mask=real, other=0)
    factor = tl.load(factors + row, mask=real, other=0.0)
    slope = tl.zeros([BLOCK_ROWS], tl.float64)
    for start in range(0, width, BLOCK_COLUMNS):
        column = start + tl.arange(0, BLOCK_COLUMNS)
        inside = real[:, None] & (column < d)[None, :]
        value = wide_block(x, row, column, row_stride, inside)
        center = tl.load(shift + column, mask=column < d, other=0.0)[None, :]
        value = tl.where(inside, value * factor[:, None] - center, 0.0)
        slope += tl.sum(value * center, axis=1)
        at = out + place[:, None] * width + column[None, :]
        tl.store(
            at,
            value.to(out.dtype.element_ty),
            mask=(place < padded)[:, None] & (column < width)[None, :],
        )
    tl.store(slopes + place, slope, mask=real)
