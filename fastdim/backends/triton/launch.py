"""Statistics of rows and of their cosines, on the device of a tensor."""

from __future__ import annotations

import torch
import triton
from torch import Tensor

from fastdim.backends.pairs import (
    PairStatistics,
    UnitRows,
    directions,
    edges_of,
    fetched_statistics,
)
from fastdim.errors import BackendError

from . import cosine, rows
from .device import interpreted, multiprocessors
from .tiles import COSINE, PADDING, PLAIN, tile_of

# Hashes are drawn anew this often if two different rows share one; once is already unlikely.
SEEDS = 8
# More places would spill on gfx942.
LARGEST_BINS = 2047


def column_sums(x: Tensor, factors: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """Sum, minimum and maximum (d,) float64 of each column of x (n, d); the same on every run.

    factors: (n,) float64, one for each row; None for 1.
    """
    n, d = x.shape
    part_rows = max(256, triton.cdiv(n, 256))
    parts = triton.cdiv(n, part_rows)
    out = x.new_empty((parts, 3, d), dtype=torch.float64)
    tile = tile_of("column_parts", interpreted())
    grid = (triton.cdiv(d, tile["BLOCK_COLUMNS"]), parts)
    rows.column_parts[grid](
        x, x if factors is None else factors, out, n, d, x.stride(0), part_rows,
        SCALED=factors is not None, **tile, **PLAIN,
    )  # fmt: skip
    return out[:, 0].sum(dim=0), out[:, 1].amin(dim=0), out[:, 2].amax(dim=0)


def row_statistics(x: Tensor, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Euclidean norm (n,) float64 and 64-bit hash (n,) int64 of each row of x (n, d).

    Equal rows (-0 equals 0) have equal hashes, whatever the dtype that holds the values.
    """
    n, d = x.shape
    norms2 = x.new_empty(n, dtype=torch.float64)
    hashes = x.new_empty(n, dtype=torch.int64)
    tile = tile_of("row_statistics", interpreted())
    rows.row_statistics[(triton.cdiv(n, tile["BLOCK_ROWS"]),)](
        x, norms2, hashes, n, d, x.stride(0), seed, **tile, **PLAIN
    )
    return norms2.sqrt(), hashes


def distinct(x: Tensor) -> tuple[Tensor, Tensor]:
    """First row (g,) of each group of equal rows (-0 equals 0), in order, and each row's (n,).

    By hashes, which are verified: rows that share one are compared value by value.
    """
    n = len(x)
    for seed in range(SEEDS):
        _, hashes = row_statistics(x, seed << 32)
        ordered, order = hashes.sort(stable=True)
        begins = torch.ones(n, dtype=torch.bool, device=x.device)
        begins[1:] = ordered[1:] != ordered[:-1]
        group = begins.cumsum(0) - 1
        first = order[begins]  # the sort is stable: the smallest row number of the group
        same = x.new_empty(n, dtype=torch.int32)
        tile = tile_of("equal_rows", interpreted())
        rows.equal_rows[(triton.cdiv(n, tile["BLOCK_ROWS"]),)](
            x, order, first[group], same, n, x.shape[1], x.stride(0), **tile, **PLAIN
        )
        if bool(same.all()):
            rank = torch.empty_like(first)
            by_row = first.argsort()
            rank[by_row] = torch.arange(len(first), device=x.device)
            inverse = torch.empty_like(order)
            inverse[order] = rank[group]
            return first[by_row], inverse
    raise BackendError(
        f"different rows shared a 64-bit hash with {SEEDS} seeds in turn: pass backend='cpu'"
    )


def scaled(
    x: Tensor, chosen: Tensor, factors: Tensor, shift: Tensor, dtype: torch.dtype = torch.float64
) -> tuple[Tensor, Tensor]:
    """Rows chosen (m,) of x times factors (n,) less shift (d,), and their products with shift.

    The first is (m, d) padded with zeros to whole tiles, of `dtype`; the second (m,) float64.
    """
    m, d = len(chosen), x.shape[1]
    padded, width = triton.cdiv(m, PADDING) * PADDING, triton.cdiv(d, 64) * 64
    out = x.new_empty((padded, width), dtype=dtype)
    slopes = x.new_zeros(padded, dtype=torch.float64)
    tile = tile_of("scaled_rows", interpreted())
    rows.scaled_rows[(triton.cdiv(padded, tile["BLOCK_ROWS"]),)](
        x, chosen, factors, shift, out, slopes, m, padded, d, width, x.stride(0), **tile, **PLAIN
    )
    return out, slopes


def norms_of(x: Tensor) -> Tensor:
    """Euclidean norms (n,) float64 of the rows of x (n, d)."""
    return row_statistics(x)[0]


def centered(x: Tensor, inverse: Tensor, chosen: Tensor) -> UnitRows:
    """Rows chosen (m,) of x times inverse (n,), less their mean. Waits for nothing."""
    mean = column_sums(x, inverse)[0] / len(chosen)
    w, slopes = scaled(x, chosen, inverse, mean)
    return UnitRows(x, inverse, chosen, w, slopes, mean.square().sum().reshape(1))


def unit_rows(x: Tensor) -> UnitRows:
    """The unit rows of x (n, d). InputError where a row's squares vanish in float64."""
    return centered(x, *directions(x, norms_of(x)))


def check_bins(bins: int) -> None:
    """Raise BackendError on more bins than a program holds."""
    if bins > LARGEST_BINS:
        raise BackendError(
            f"backend 'triton' counts up to {LARGEST_BINS} bins, got {bins}: pass fewer, or "
            "backend='cpu'"
        )


def visit(unit: UnitRows, edges: Tensor) -> tuple[Tensor, Tensor]:
    """Moments (tiles, parts, 4) and histogram (bins,) int64 of all pairs i < j, of `edges_of`.

    Waits for nothing.
    """
    m, device, bins = len(unit.chosen), unit.w.device, len(edges) - 1
    tile = tile_of("cosine_tiles", interpreted())
    tiles = triton.cdiv(m, tile["BLOCK_ROWS"])
    parts = min(tiles, max(1, triton.cdiv(8 * multiprocessors(unit.x), tiles)))
    moments = unit.w.new_empty((tiles, parts, 4))
    histogram = torch.zeros(bins, dtype=torch.int64, device=device)
    cosine.cosine_tiles[(tiles, parts)](
        unit.w, unit.slopes, unit.center, edges, moments, histogram, m, unit.w.shape[1], tiles,
        parts, bins, BINS=max(16, triton.next_power_of_2(bins + 1)), **tile, **COSINE,
    )  # fmt: skip
    return moments, histogram


def all_pairs(unit: UnitRows, bins: int) -> PairStatistics:
    """Every pair visited once. BackendError on more bins than a program holds."""
    check_bins(bins)
    return fetched_statistics(unit, *visit(unit, edges_of(bins, unit.w)))


def cosines_of(unit: UnitRows, left: Tensor, right: Tensor) -> Tensor:
    """Cosines (pairs,) float64 of rows left[p] and right[p], counted among those not zero."""
    out = unit.w.new_empty(len(left))
    tile = tile_of("pair_cosines", interpreted())
    cosine.pair_cosines[(triton.cdiv(len(left), tile["BLOCK_PAIRS"]),)](
        unit.x, unit.chosen[left], unit.chosen[right], unit.inverse, out, len(left),
        unit.x.shape[1], unit.x.stride(0), **tile, **PLAIN,
    )  # fmt: skip
    return out
