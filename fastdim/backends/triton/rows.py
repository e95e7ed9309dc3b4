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
def column_parts(
    x, out, n, d, row_stride, part_rows, BLOCK_ROWS: tl.constexpr, BLOCK_COLUMNS: tl.constexpr
):
    """Sum, minimum and maximum of each column over one part of the rows: out (parts, 3, d)."""
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
        at = x + row[:, None] * row_stride + column[None, :]
        value = widen(tl.load(at, mask=inside, other=0.0))
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
        at = x + row[:, None] * row_stride + column[None, :]
        value = widen(tl.load(at, mask=inside, other=0.0))
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
