"""Kernels over the cosines of pairs of rows, in float64 on tensor cores that have it."""

import triton
import triton.language as tl

from .rows import wide_block


@triton.jit
def cosine_tiles(
    rows,
    slopes,
    center,
    edges,
    moments,
    histogram,
    n,
    width,
    tiles,
    parts,
    bins,
    BINS: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_COLUMNS: tl.constexpr,
):
    """Moments, extremes and histogram over pairs i < j of a strip of tiles.

    rows (padded, width) float64: w = unit row - mean of unit rows, zero beyond n. slopes (padded,):
    w . mean. center: s = |mean|^2. A cosine is s + (a_i + a_j + w_i . w_j); nothing cancels.

    moments (tiles, parts, 4): sum and sum of squares of the cosines less s, minimum, maximum.
    histogram (bins,) int64, zero before: counts by edges (bins + 1,), ends clipped, last bin
    closed. Whole numbers are added: any order gives the same counts. BINS: a power of two above
    bins; pairs that are none go to its last place.
    """
    tile = tl.program_id(0)
    part = tl.program_id(1)
    lane = tl.arange(0, BLOCK_ROWS)
    inner = tl.arange(0, BLOCK_COLUMNS)
    i = tile * BLOCK_ROWS + lane
    left = rows + i.to(tl.int64)[:, None] * width + inner[None, :]
    left_slope = tl.load(slopes + i)
    s = tl.load(center)
    total = tl.zeros([BLOCK_ROWS], tl.float64)
    squares = tl.zeros([BLOCK_ROWS], tl.float64)
    low = tl.full([BLOCK_ROWS], float("inf"), tl.float64)
    high = tl.full([BLOCK_ROWS], float("-inf"), tl.float64)
    counts = tl.zeros([BINS], tl.int32)
    for other in range(tile + part, tiles, parts):
        j = other * BLOCK_ROWS + lane
        right = rows + j.to(tl.int64)[None, :] * width + inner[:, None]
        products = tl.zeros([BLOCK_ROWS, BLOCK_ROWS], tl.float64)
        for c in range(0, width, BLOCK_COLUMNS):
            products = tl.dot(tl.load(left + c), tl.load(right + c), products, out_dtype=tl.float64)
        pair = (i[:, None] < j[None, :]) & (j < n)[None, :]
        excess = tl.where(pair, products + left_slope[:, None] + tl.load(slopes + j)[None, :], 0.0)
        total += tl.sum(excess, axis=1)
        squares += tl.sum(excess * excess, axis=1)
        cosine = tl.minimum(tl.maximum(s + excess, -1.0), 1.0)
        low = tl.minimum(low, tl.min(tl.where(pair, cosine, float("inf")), axis=1))
        high = tl.maximum(high, tl.max(tl.where(pair, cosine, float("-inf")), axis=1))
        place = tl.minimum(((cosine + 1.0) * 0.5 * bins).to(tl.int32), bins - 1)
        place -= (cosine < tl.load(edges + place)).to(tl.int32)
        place += ((cosine >= tl.load(edges + place + 1)) & (place < bins - 1)).to(tl.int32)
        place = tl.where(pair, place, BINS - 1)
        counts += tl.histogram(tl.reshape(place, [BLOCK_ROWS * BLOCK_ROWS]), BINS)
    at = moments + (tile.to(tl.int64) * parts + part) * 4
    tl.store(at, tl.sum(total, axis=0))
    tl.store(at + 1, tl.sum(squares, axis=0))
    tl.store(at + 2, tl.min(low, axis=0))
    tl.store(at + 3, tl.max(high, axis=0))
    slot = tl.arange(0, BINS)
    tl.atomic_add(histogram + slot, counts.to(tl.int64), mask=slot < bins)


@triton.jit
def pair_cosines(
    x,
    left,
    right,
    inverse,
    out,
    pairs,
    d,
    row_stride,
    BLOCK_PAIRS: tl.constexpr,
    BLOCK_COLUMNS: tl.constexpr,
):
    """Cosines (pairs,) float64 of rows left[p] and right[p], clipped; inverse (n,): 1 / |row|."""
    pair = tl.program_id(0).to(tl.int64) * BLOCK_PAIRS + tl.arange(0, BLOCK_PAIRS).to(tl.int64)
    real = pair < pairs
    i = tl.load(left + pair, mask=real, other=0)
    j = tl.load(right + pair, mask=real, other=0)
    first = tl.load(inverse + i)[:, None]
    second = tl.load(inverse + j)[:, None]
    total = tl.zeros([BLOCK_PAIRS], tl.float64)
    for start in range(0, d, BLOCK_COLUMNS):
        column = start + tl.arange(0, BLOCK_COLUMNS)
        inside = real[:, None] & (column < d)[None, :]
        a = wide_block(x, i, column, row_stride, inside)
        b = wide_block(x, j, column, row_stride, inside)
        total += tl.sum((a * first) * (b * second), axis=1)
    tl.store(out + pair, tl.minimum(tl.maximum(total, -1.0), 1.0), mask=real)
