"""Unit rows on a device and what is said of their pairs: common to the Triton and CUDA kernels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fastdim.errors import InputError, require

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class UnitRows:
    """Unit rows less their mean, of the rows that are not zero.

    inverse: (n,) float64, 1 / |row|, 0 for zero rows. chosen: (m,) numbers of the others.
    w: (padded, width) float64. slopes: (padded,), a_i = w_i . mean. center: (1,), s = |mean|^2.
    """

    x: Tensor
    inverse: Tensor
    chosen: Tensor
    w: Tensor
    slopes: Tensor
    center: Tensor


@dataclass(frozen=True)
class PairStatistics:
    """Over all pairs i < j: mean and variance of the cosines, extremes, counts (bins,)."""

    mean: float
    variance: float
    low: float
    high: float
    histogram: NDArray[np.int64]


def directions(x: Tensor, norms: Tensor) -> tuple[Tensor, Tensor]:
    """1 / |row| (n,), 0 for zero rows, and the numbers (m,) of the others, at least two.

    norms: (n,) float64. InputError where a row's squares vanish in float64.
    """
    import torch

    zero = norms == 0
    lost = (zero & (x != 0).any(dim=1)).nonzero().flatten()
    if len(lost):
        raise InputError(
            f"row {int(lost[0])} is not zero, yet its squares vanish in float64: multiply the rows "
            "by a constant"
        )
    chosen = zero.logical_not().nonzero().flatten()
    if len(chosen) < 2:
        raise InputError(
            f"cosines need at least two rows that are not zero, got {len(chosen)} of {len(x)}"
        )
    return torch.where(zero, 0.0, 1.0 / norms), chosen


def edges_of(bins: int, on: Tensor) -> Tensor:
    """Edges (bins + 1,) of equal bins over [-1, 1], on the device of a tensor."""
    edges: Tensor = require("torch", "torch").from_numpy(np.linspace(-1.0, 1.0, bins + 1))
    return edges.to(on.device)


def reduced(moments: Tensor) -> Tensor:
    """Of moments (..., 4): sum and sum of squares of c - s, minimum and maximum, (4,) there."""
    import torch

    sums = [moments[..., part].sum() for part in (0, 1)]
    return torch.stack([*sums, moments[..., 2].min(), moments[..., 3].max()])


def statistics(m: int, center: float, values: Any, histogram: NDArray[np.int64]) -> PairStatistics:
    """Of the pairs of m rows. center: s. values: `reduced` moments (4,), in host memory."""
    excess, squares, low, high = (float(value) for value in values)
    count = m * (m - 1) // 2
    mean = excess / count
    return PairStatistics(
        mean=center + mean,
        variance=max(0.0, squares / count - mean * mean),
        low=low,
        high=high,
        histogram=histogram,
    )


def fetched_statistics(unit: UnitRows, moments: Tensor, histogram: Tensor) -> PairStatistics:
    """`statistics` of what lies on a device, for which the host waits."""
    values = reduced(moments).cpu().numpy()
    return statistics(len(unit.chosen), float(unit.center), values, histogram.cpu().numpy())


def squares_by_row(unit: UnitRows) -> tuple[Tensor, Tensor, Tensor]:
    """Of each row i of W (m, d): |w_i|^2, sum_j (w_i.w_j)^2 = w_i'W'W w_i, and w_i'W'a (m,)."""
    w = unit.w[: len(unit.chosen)]
    across = w @ (w.T @ w)
    along = w @ (w.T @ unit.slopes[: len(w)])
    return w.square().sum(dim=1), (across * w).sum(dim=1), along
