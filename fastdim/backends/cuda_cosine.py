"""Cosines of pairs of rows by the CUDA kernels, of torch tensors (csrc/cuda/cosine.h)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from fastdim.backends import cuda
from fastdim.backends.pairs import (
    PairStatistics,
    UnitRows,
    directions,
    edges_of,
    fetched_statistics,
)
from fastdim.errors import BackendError, require

if TYPE_CHECKING:
    from torch import Tensor

Int64 = NDArray[np.int64]

# As in csrc/cuda/cosine.h.
TILE, SLICE, MEAN_PARTS, LARGEST_BINS = 64, 16, 128, 8192
# Runs of tiles: equal parts, some for every multiprocessor. The order of sums rests on this number.
RUNS = 4096


def _rows(x: Tensor) -> tuple[int, int, int, int, str]:
    return (x.data_ptr(), *x.shape, x.stride(0), str(x.dtype).removeprefix("torch."))


def norms_of(x: Tensor) -> Tensor:
    """Euclidean norms (n,) float64 of the rows of x (n, d), columns adjacent."""
    torch = require("torch", "torch")
    norms: Tensor = x.new_empty(len(x), dtype=torch.float64)
    with cuda.on_device_of(x) as stream:
        cuda.extension().row_norms(*_rows(x), norms.data_ptr(), stream)
    return norms


def centered(x: Tensor, inverse: Tensor, chosen: Tensor) -> UnitRows:
    """Rows chosen (m,) of x times inverse (n,), less their mean. Waits for nothing."""
    m, d = len(chosen), x.shape[1]
    padded, width = -(-m // TILE) * TILE, -(-d // SLICE) * SLICE
    with cuda.on_device_of(x) as stream:
        parts, mean = inverse.new_empty(MEAN_PARTS * d), inverse.new_empty(d)
        w, slopes = inverse.new_empty((padded, width)), inverse.new_empty(padded)
        center = inverse.new_empty(1)
        cuda.extension().unit_rows(
            *_rows(x), chosen.data_ptr(), m, inverse.data_ptr(), padded, width,
            *(out.data_ptr() for out in (parts, mean, w, slopes, center)), stream,
        )  # fmt: skip
    return UnitRows(x, inverse, chosen, w, slopes, center)


def unit_rows(x: Tensor) -> UnitRows:
    """The unit rows of x (n, d), columns adjacent. InputError where squares vanish in float64."""
    return centered(x, *directions(x, norms_of(x)))


def check_bins(bins: int) -> None:
    """Raise BackendError on more bins than a block's shared memory holds."""
    if bins > LARGEST_BINS:
        raise BackendError(
            f"backend 'cuda' counts up to {LARGEST_BINS} bins, got {bins}: pass fewer, or "
            "backend='cpu'"
        )


def visit(unit: UnitRows, edges: Tensor) -> tuple[Tensor, Tensor]:
    """Moments (runs, 4) and histogram (bins,) int64 of all pairs i < j. Waits for nothing."""
    torch = require("torch", "torch")
    m, bins = len(unit.chosen), len(edges) - 1
    tiles = -(-m // TILE)
    runs = min(RUNS, tiles * (tiles + 1) // 2)
    with cuda.on_device_of(unit.w) as stream:
        moments = unit.w.new_empty((runs, 4))
        histogram = torch.zeros(bins, dtype=torch.int64, device=unit.w.device)
        cuda.extension().cosine_pairs(
            unit.w.data_ptr(), m, unit.w.shape[1], unit.w.stride(0), unit.slopes.data_ptr(),
            unit.center.data_ptr(), edges.data_ptr(), bins, runs, moments.data_ptr(),
            histogram.data_ptr(), stream,
        )  # fmt: skip
    return moments, histogram


def all_pairs(unit: UnitRows, bins: int) -> PairStatistics:
    """Every pair visited once. BackendError on more bins than a block's shared memory holds."""
    check_bins(bins)
    return fetched_statistics(unit, *visit(unit, edges_of(bins, unit.w)))


def cosines_of(unit: UnitRows, left: Tensor, right: Tensor) -> Tensor:
    """Cosines (pairs,) of the unit rows numbered left and right (pairs,). Waits for nothing."""
    with cuda.on_device_of(unit.x) as stream:
        sides = [unit.chosen[numbers] for numbers in (left, right)]
        out = unit.w.new_empty(len(left))
        cuda.extension().pair_cosines(
            *_rows(unit.x), *(side.data_ptr() for side in sides), unit.inverse.data_ptr(),
            len(left), out.data_ptr(), stream,
        )  # fmt: skip
    return out


def some_pairs(unit: UnitRows, left: Int64, right: Int64) -> NDArray[np.float64]:
    """Cosines (pairs,) of the unit rows numbered left and right (pairs,), in host memory."""
    torch = require("torch", "torch")
    sides = [torch.from_numpy(numbers).to(unit.x.device) for numbers in (left, right)]
    found: NDArray[np.float64] = cosines_of(unit, *sides).cpu().numpy()
    return found
