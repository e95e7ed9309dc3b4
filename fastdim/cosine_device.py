"""Cosine statistics on a device: the same quantities as `fastdim.cosine`, by GPU kernels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fastdim.arrays import as_groups, as_rows, generator
from fastdim.backends import cuda, cuda_cosine, devices, triton
from fastdim.backends.pairs import PairStatistics, squares_by_row
from fastdim.cosine import (
    CosineStats,
    draw_pairs,
    moments_of,
    sampled_pairs,
    with_all_pairs,
    with_sample,
)
from fastdim.errors import BackendError, InputError
from fastdim.estimate import check_confidence
from fastdim.quadratic import PairSums, deviations_by_row

if TYPE_CHECKING:
    from torch import Tensor


def tensor_for(x: Any, backend: str) -> tuple[Tensor, str] | None:
    """x as a tensor on a GPU and the backend that takes it there, "triton" or "cuda"; else None."""
    tensor = devices.device_tensor(x)
    on = devices.choose(backend, tensor, "cosine_stats")
    if on == "cpu":
        return None
    if on not in ("triton", "cuda"):
        raise BackendError(
            f"backend {on!r} has no cosine statistics: pass backend='triton' or 'cuda', or 'cpu' "
            "for rows in host memory"
        )
    if tensor is None:
        rows = as_rows(x, min_rows=2, min_columns=2)
        device = triton.default_device() if on == "triton" else cuda.torch_device()
        return devices.upload(rows, device), on
    if on == "triton":
        triton.check_device(tensor.device)
    else:
        cuda.device(tensor.device.index)
    if tensor.shape[1] < 2:
        raise InputError(f"x needs at least 2 columns, got {tensor.shape[1]}")
    return tensor, on


def stats(
    x: Tensor,
    on: str,
    bins: int,
    pairs: int | str | None,
    groups: Any,
    seed: int,
    confidence: float,
) -> CosineStats:
    """`cosine_stats` on the device of x by the backend `on`, float64 throughout."""
    engine: Any = triton if on == "triton" else cuda_cosine
    check_confidence(confidence)
    labels = as_groups(groups, len(x))
    group_count = 0 if labels is None else int(labels.max()) + 1
    unit = engine.unit_rows(x)
    count = len(unit.chosen)
    if labels is not None:
        labels = labels[unit.chosen.cpu().numpy()]
    held = [*squares_by_row(unit), unit.slopes[:count], unit.center]
    by_row = [part.cpu().numpy() for part in held]
    sample = sampled_pairs(pairs, count)
    if sample is None:
        visited, cosines = engine.all_pairs(unit, bins), None
    else:
        first, second = draw_pairs(generator(seed), count, sample)
        visited, cosines = None, engine.some_pairs(unit, first, second)
    name = triton.device_name(x) if on == "triton" else cuda.device(x.device.index).name
    found = finished(
        len(x), by_row, visited, cosines, bins, confidence, labels=labels, group_count=group_count
    )
    return replace(found, backend=f"{on}-{name}", arithmetic="float64")


def finished(
    n: int,
    by_row: Sequence[NDArray[np.float64]],
    visited: PairStatistics | None,
    cosines: NDArray[np.float64] | None,
    bins: int,
    confidence: float,
    labels: NDArray[np.int64] | None = None,
    group_count: int = 0,
) -> CosineStats:
    """Statistics of n rows, of which m are not zero, from what a device found.

    by_row: |w_i|^2, w_i'W'W w_i, w_i'W'a and a_i, each (m,), and s (1,). visited: of all pairs; or
    cosines (pairs,) of a sample of them. labels: group (m,) below group_count of each row.
    """
    norms2, squares, along, slopes, center = by_row
    count = len(slopes)
    slope_squares, spread = float(np.square(slopes).sum()), float(norms2.sum()) / count
    deviations = deviations_by_row(squares, along, slopes, slope_squares, spread)
    s, total, shift = float(center[0]), float(deviations.sum()), spread / (count - 1)
    if visited is not None:
        # The pairs themselves say mean and spread better than differences of sums over rows.
        total, shift = visited.variance * count * (count - 1), s - visited.mean
    sums = PairSums(s, total, deviations, shift, slopes)
    found = moments_of(n, count, sums, labels, group_count, confidence)
    if visited is not None:
        return with_all_pairs(found, visited.histogram, visited.low, visited.high)
    assert cosines is not None
    return with_sample(found, cosines, bins)
