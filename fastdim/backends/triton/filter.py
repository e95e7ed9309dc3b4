"""Kernels of the filter: tiles of queries x rows on the tensor cores, and who survives.

`search.py` derives the bound. Both kernels form p = h_y + a.b in float32 for every pair, rows being
zero-padded to whole tiles with h = BEYOND, so that no tail needs a mask of its own.
"""

import triton
import triton.language as tl

from . import tiles

BEYOND = tl.constexpr(tiles.BEYOND)


@triton.jit
def tile_scores(
    queries,
    tile,
    packed,
    start,
    width,
    BLOCK_QUERIES: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_COLUMNS: tl.constexpr,
    UPCAST: tl.constexpr,
):
    """p (BLOCK_QUERIES, BLOCK_ROWS) of rows numbered `queries` against the rows of a tile.

    The sums start from h: the tensor core adds it for nothing.
    """
    inner = tl.arange(0, BLOCK_COLUMNS)
    lane = tl.arange(0, BLOCK_ROWS)
    first = tl.cast(tile, tl.int64) * BLOCK_ROWS
    left = packed + queries.to(tl.int64)[:, None] * width + inner[None, :]
    right = packed + first * width + lane.to(tl.int64)[None, :] * width + inner[:, None]
    h = tl.load(start + first + lane)
    products = tl.broadcast_to(h[None, :], [BLOCK_QUERIES, BLOCK_ROWS])
    for c in range(0, width, BLOCK_COLUMNS):
        a = tl.load(left + c)
        b = tl.load(right + c)
        if UPCAST:  # the interpreter multiplies bfloat16 as bit patterns
            a = a.to(tl.float32)
            b = b.to(tl.float32)
        products = tl.dot(a, b, products)
    return products


@triton.jit
def knn_filter(
    queries,
    packed,
    start,
    scores,
    found,
    left_out,
    m,
    width,
    tiles,
    splits,
    KEEP: tl.constexpr,
    BLOCK_QUERIES: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_COLUMNS: tl.constexpr,
    UPCAST: tl.constexpr,
):
    """The KEEP largest p of each query over every `splits`-th tile of rows, the query left out.

    queries (m,) int32 row numbers. scores, found (m, splits, KEEP): p and its row, -inf and -1
    where there are fewer; no order. left_out (m, splits): what was not kept is at most this.
    """
    place = tl.program_id(0) * BLOCK_QUERIES + tl.arange(0, BLOCK_QUERIES)
    split = tl.program_id(1)
    query = tl.load(queries + place, mask=place < m, other=0)
    slot = tl.arange(0, KEEP)
    lane = tl.arange(0, BLOCK_ROWS)
    kept = tl.full([BLOCK_QUERIES, KEEP], BEYOND, tl.float32)
    kept_row = tl.full([BLOCK_QUERIES, KEEP], -1, tl.int32)
    for tile in range(split, tiles, splits):
        column = tile * BLOCK_ROWS + lane
        score = tile_scores(
            query, tile, packed, start, width, BLOCK_QUERIES, BLOCK_ROWS, BLOCK_COLUMNS, UPCAST
        )
        score = tl.where(column[None, :] == query[:, None], float("-inf"), score)
        lowest = tl.min(kept, axis=1)
        best = tl.max(score, axis=1)
        waiting = tl.max((best > lowest).to(tl.int32), axis=0)
        # One test a tile; a round moves the best of every query that still has one to insert.
        while waiting > 0:
            at = tl.argmax(score, axis=1)
            worst = tl.argmin(kept, axis=1)
            here = (slot[None, :] == worst[:, None]) & (best > lowest)[:, None]
            kept = tl.where(here, best[:, None], kept)
            kept_row = tl.where(here, (tile * BLOCK_ROWS + at)[:, None], kept_row)
            score = tl.where(lane[None, :] == at[:, None], float("-inf"), score)
            lowest = tl.min(kept, axis=1)
            best = tl.max(score, axis=1)
            waiting = tl.max((best > lowest).to(tl.int32), axis=0)
    base = place.to(tl.int64) * splits + split
    at = base[:, None] * KEEP + slot[None, :]
    tl.store(scores + at, kept, mask=(place < m)[:, None])
    tl.store(found + at, kept_row, mask=(place < m)[:, None])
    tl.store(left_out + base, tl.min(kept, axis=1), mask=place < m)


@triton.jit
def knn_places(
    queries,
    packed,
    start,
    scores,
    found,
    left_out,
    m,
    width,
    tiles,
    splits,
    low,
    KEEP: tl.constexpr,
    BLOCK_QUERIES: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_COLUMNS: tl.constexpr,
    UPCAST: tl.constexpr,
):
    """The same for few neighbours, by another way: KEEP of the largest p, but not any KEEP.

    Nothing is inserted while tiles go by: each place of a tile keeps the largest p that it saw, in
    whose last bits the number of the tile stands (`low`, their mask, below which that number lies).
    So p is wrong by at most low + 1 units in its last place, and of two large p in one place the
    smaller is left out. The KEEP largest are taken out at the end.

    queries (m,) int32 row numbers. scores, found (m, splits, KEEP): p, largest first, and its row,
    -1 where there are fewer or where it is the query itself. left_out (m, splits): what was left
    out is at most this.
    """
    place = tl.program_id(0) * BLOCK_QUERIES + tl.arange(0, BLOCK_QUERIES)
    split = tl.program_id(1)
    query = tl.load(queries + place, mask=place < m, other=0)
    lane = tl.arange(0, BLOCK_ROWS)
    best = tl.full([BLOCK_QUERIES, BLOCK_ROWS], float("-inf"), tl.float32)
    lost = tl.full([BLOCK_QUERIES], float("-inf"), tl.float32)
    for count in range(tl.cdiv(tiles - split, splits)):
        tile = split + count * splits
        score = tile_scores(
            query, tile, packed, start, width, BLOCK_QUERIES, BLOCK_ROWS, BLOCK_COLUMNS, UPCAST
        )
        marked = ((score.to(tl.int32, bitcast=True) & ~low) | count).to(tl.float32, bitcast=True)
        lost = tl.maximum(lost, tl.max(tl.minimum(best, marked), axis=1))
        best = tl.maximum(best, marked)
    base = place.to(tl.int64) * splits + split
    for slot in range(KEEP):
        at = tl.argmax(best, axis=1)
        top = tl.max(best, axis=1)
        number = top.to(tl.int32, bitcast=True) & low
        row = (split + number * splits) * BLOCK_ROWS + at.to(tl.int32)
        # Rows of the padding start from BEYOND, and what was never filled is below it.
        real = (top > 0.5 * BEYOND) & (row != query)
        to = base * KEEP + slot
        tl.store(scores + to, tl.where(real, top, float("-inf")), mask=place < m)
        tl.store(found + to, tl.where(real, row, -1), mask=place < m)
        best = tl.where(lane[None, :] == at[:, None], float("-inf"), best)
    tl.store(left_out + base, tl.maximum(lost, tl.max(best, axis=1)), mask=place < m)


@triton.jit
def rows_above(
    queries,
    packed,
    start,
    limits,
    count,
    found,
    m,
    n,
    width,
    tiles,
    splits,
    ROOM: tl.constexpr,
    BLOCK_QUERIES: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_COLUMNS: tl.constexpr,
    UPCAST: tl.constexpr,
):
    """Every row with p >= limit, the query left out: the second pass, its threshold known.

    limits (m,) float32. count (m,) int32, zero before: rows above. found (m, ROOM): which, in no
    certain order; all of them if count <= ROOM.
    """
    place = tl.program_id(0) * BLOCK_QUERIES + tl.arange(0, BLOCK_QUERIES)
    real = place < m
    query = tl.load(queries + place, mask=real, other=0)
    limit = tl.load(limits + place, mask=real, other=float("inf"))
    lane = tl.arange(0, BLOCK_ROWS)
    for tile in range(tl.program_id(1), tiles, splits):
        column = tile * BLOCK_ROWS + lane
        score = tile_scores(
            query, tile, packed, start, width, BLOCK_QUERIES, BLOCK_ROWS, BLOCK_COLUMNS, UPCAST
        )
        wanted = (score >= limit[:, None]) & (column[None, :] != query[:, None])
        wanted = wanted & (column < n)[None, :] & real[:, None]
        left = wanted.to(tl.int32)
        more = tl.sum(left, axis=1)
        waiting = tl.max(more, axis=0)
        if waiting > 0:
            to = tl.atomic_add(count + place, more, mask=real)
            while waiting > 0:
                at = tl.argmax(left, axis=1)
                write = (tl.max(left, axis=1) > 0) & (to < ROOM)
                tl.store(found + place.to(tl.int64) * ROOM + to, tile * BLOCK_ROWS + at, mask=write)
                left = tl.where(lane[None, :] == at[:, None], 0, left)
                to += 1
                waiting -= 1
