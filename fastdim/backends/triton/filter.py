"""Kernels of the filter: tiles of queries x rows on the tensor cores, and who survives.

`search.py` derives the bound. Both kernels form p = h_y + a.b in float32 for every pair, rows being
zero-padded to whole tiles with h = -inf, so that no tail needs a mask of its own.
"""

import triton
import triton.language as tl


@triton.jit
def tile_scores(
    queries,
    columns,
    packed,
    start,
    width,
    BLOCK_QUERIES: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_COLUMNS: tl.constexpr,
    UPCAST: tl.constexpr,
):
    """p (BLOCK_QUERIES, BLOCK_ROWS) of rows numbered `queries` against rows numbered `columns`."""
    inner = tl.arange(0, BLOCK_COLUMNS)
    left = packed + queries.to(tl.int64)[:, None] * width + inner[None, :]
    right = packed + columns.to(tl.int64)[None, :] * width + inner[:, None]
    products = tl.zeros([BLOCK_QUERIES, BLOCK_ROWS], tl.float32)
    for c in range(0, width, BLOCK_COLUMNS):
        a = tl.load(left + c)
        b = tl.load(right + c)
        if UPCAST:  # the interpreter multiplies bfloat16 as bit patterns
            a = a.to(tl.float32)
            b = b.to(tl.float32)
        products = tl.dot(a, b, products)
    return products + tl.load(start + columns)[None, :]


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
    kept = tl.full([BLOCK_QUERIES, KEEP], float("-inf"), tl.float32)
    kept_row = tl.full([BLOCK_QUERIES, KEEP], -1, tl.int32)
    for tile in range(split, tiles, splits):
        column = tile * BLOCK_ROWS + lane
        score = tile_scores(
            query, column, packed, start, width, BLOCK_QUERIES, BLOCK_ROWS, BLOCK_COLUMNS, UPCAST
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
            query, column, packed, start, width, BLOCK_QUERIES, BLOCK_ROWS, BLOCK_COLUMNS, UPCAST
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
