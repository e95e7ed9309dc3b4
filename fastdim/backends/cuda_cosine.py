"""Cosines of pairs of rows by the CUDA kernels, of torch tensors (csrc/cuda/cosine.h)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fastdim.backends import cuda
from fastdim.backends.pairs import PairStatistics, UnitRows, directions, statistics
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


def unit_rows(x: Tensor) -> UnitRows:
    """The unit rows of x (n, d), columns adjacent. InputError where squares vanish in float64."""
    torch = require("torch", "torch")
    extension, (n, d) = cuda.extension(), x.shape
    with cuda.on_device_of(x) as stream:
        norms = x.new_empty(n, dtype=torch.float64)
        extension.row_norms(*_rows(x), norms.data_ptr(), stream)
        inverse, chosen = directions(x, norms)
        m = len(chosen)
        padded, width = -(-m // TILE) * TILE, -(-d // SLICE) * SLICE
        parts, mean = norms.new_empty(MEAN_PARTS * d), norms.new_empty(d)
        w, slopes = norms.new_empty((padded, width)), norms.new_empty(padded)
        center = norms.new_empty(1)
        extension.unit_rows(
            *_rows(x), chosen.data_ptr(), m, inverse.data_ptr(), padded, width,
            *(out.data_ptr() for out in (parts, mean, w, slopes, center)), stream,
        )  # fmt: skip
    return UnitRows(x, inverse, chosen, w, slopes, center)


def all_pairs(unit: UnitRows, bins: int) -> PairStatistics:
    """Every pair visited once. BackendError on more bins than a block's shared memory holds."""
    torch = require("torch", "torch")
    if bins > LARGEST_BINS:
        raise BackendError(
            f"backend 'cuda' counts up to {LARGEST_BINS} bins, got {bins}: pass fewer, or "
            "backend='cpu'"
        )
    m = len(unit.chosen)
    tiles = -(-m // TILE)
    runs = min(RUNS, tiles * (tiles + 1) // 2)
    with cuda.on_device_of(unit.w) as stream:
        edges = torch.from_numpy(np.linspace(-1.0, 1.0, bins + 1)).to(unit.w.device)
        moments = unit.w.new_empty((runs, 4))
        histogram = torch.zeros(bins, dtype=torch.int64, device=unit.w.device)
        cuda.extension().cosine_pairs(
            unit.w.data_ptr(), m, unit.w.shape[1], unit.w.stride(0), unit.slopes.data_ptr(),
            unit.center.data_ptr(), edges.data_ptr(), bins, runs, moments.data_ptr(),
            histogram.data_ptr(), stream,
        )  # fmt: skip
        return statistics(unit, moments, histogram)


def some_pairs(unit: UnitRows, left: Int64, right: Int64) -> NDArray[np.float64]:
    """Cosines (pairs,) of the unit rows numbered left and right (pairs,)."""
    torch = require("torch", "torch")
    with cuda.on_device_of(unit.x) as stream:
        sides: list[Any] = [
            unit.chosen[torch.from_numpy(numbers).to(unit.x.device)] for numbers in (left, right)
        ]
        out = unit.w.new_empty(len(left))
        cuda.extension().pair_cosines(
            *_rows(unit.x), *(side.data_ptr() for side in sides), unit.inverse.data_ptr(),
            len(left), out.data_ptr(), stream,
        )  # fmt: skip
        found: NDArray[np.float64] = out.cpu().numpy()
    return found
