"""Cosine statistics on a device: the same quantities as `fastdim.cosine`, by GPU kernels."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from fastdim.arrays import as_groups, as_rows, generator
from fastdim.backends import cuda, cuda_cosine, devices, triton
from fastdim.backends.pairs import squares_by_row
from fastdim.cosine import (
    CosineStats,
    deviations_by_row,
    draw_pairs,
    moments_of,
    sampled_pairs,
    with_all_pairs,
    with_sample,
)
from fastdim.errors import BackendError, InputError
from fastdim.estimate import check_confidence

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
    unit = engine.unit_rows(x)
    chosen = unit.chosen.cpu().numpy()
    count = len(chosen)
    group_count = 0 if labels is None else int(labels.max()) + 1
    if labels is not None:
        labels = labels[chosen]
    norms2, squares, along = (part.cpu().numpy() for part in squares_by_row(unit))
    slopes = unit.slopes[:count].cpu().numpy()
    slope_squares, spread = float(np.square(slopes).sum()), float(norms2.sum()) / count
    by_row = deviations_by_row(squares, along, slopes, slope_squares, spread)
    s, total, shift = float(unit.center), float(by_row.sum()), spread / (count - 1)
    sample = sampled_pairs(pairs, count)
    if sample is None:
        visited = engine.all_pairs(unit, bins)
        # The pairs themselves say mean and spread better than differences of sums over rows.
        total, shift = visited.variance * count * (count - 1), s - visited.mean
    parts = (s, total, by_row, shift, slopes)
    found = moments_of(len(x), count, parts, labels, group_count, confidence)
    if sample is None:
        found = with_all_pairs(found, visited.histogram, visited.low, visited.high)
    else:
        first, second = draw_pairs(generator(seed), count, sample)
        found = with_sample(found, engine.some_pairs(unit, first, second), bins)
    name = triton.device_name(x) if on == "triton" else cuda.device(x.device.index).name
    return replace(found, backend=f"{on}-{name}", arithmetic="float64")
