"""Leading principal axes of a sample of rows, for the pruned neighbour search.

The search is exact for any basis (csrc/prepare.h); a good one only makes it fast. So a sample of
rows and a few steps of subspace iteration are enough, and nothing here needs a bound.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastdim.arrays import Rows

# Sampled values; at least and at most this many rows. More rows make better axes: at 20,000 x
# 4,608 columns 1,024 rows instead of 2,048 leave a quarter more pairs to the second level, and save
# more than that costs.
SAMPLE_VALUES = 2_400_000
SAMPLE_ROWS = (1024, 4096)

# Axes of the second level: from MANY_ROWS on the larger number, since projecting grows with n and
# what it saves with n^2. Rows of up to DIRECT_COLUMNS are searched on all their columns, and the
# axes only put them in order.
AXES, MORE_AXES, MANY_ROWS = 192, 320, 100_000
DIRECT_COLUMNS = 96
ORDER_AXES = 32

STEPS = 2

# How far the squared length of an axis may be from 1.
UNIT_TOLERANCE = 1e-3

# Rows this many times farther from the median row than the median distance have no say in centre
# and axes: one massive row would turn the first axis to itself.
OUTLIER_FACTOR = 5.0


class Basis(NamedTuple):
    """center: float64 (d,), near the middle of the rows. axes: float32 (p, d), near orthonormal."""

    center: NDArray[np.float64]
    axes: NDArray[np.float32]


def middle(rows: Rows, seed: int = 0) -> Basis:
    """The median of a sample of rows (n, d) column by column, in their units, and no axes."""
    sample = _sample(rows, seed)
    center = np.median(sample[:: max(1, len(sample) // 512)], axis=0)
    return Basis(np.asarray(center, dtype=np.float64), np.zeros((0, rows.d), dtype=np.float32))


def principal_axes(rows: Rows, order_only: bool, seed: int = 0) -> Basis:
    """Centre and leading principal axes of a sample of rows (n, d), in the units of the rows.

    AXES or MORE_AXES of them, at most d; with order_only ORDER_AXES, for rows that will be searched
    on all their columns.
    """
    sample = _sample(rows, seed)
    scale = float(np.abs(sample).max()) or 1.0
    sample /= scale  # squares of large float64 values would overflow
    center = np.median(sample[:: max(1, len(sample) // 512)], axis=0)
    sample -= center
    norms = np.sqrt(np.einsum("ij,ij->i", sample, sample))
    inner = norms <= OUTLIER_FACTOR * np.median(norms)
    shift = sample[inner].mean(axis=0)
    sample = sample[inner] - shift
    # Without the outliers the scale is another; float32 would flush squares of tiny values.
    sample = (sample / (np.abs(sample).max() or 1.0)).astype(np.float32)
    d = sample.shape[1]
    wanted = MORE_AXES if rows.n >= MANY_ROWS else AXES
    count = min(ORDER_AXES if order_only else wanted, d, len(sample))
    return Basis(np.float64(scale) * (center + shift), _leading(sample, count, seed))


def _sample(rows: Rows, seed: int) -> NDArray[np.float64]:
    """Rows drawn without replacement, float64, a copy."""
    most = int(np.clip(SAMPLE_VALUES // rows.d, *SAMPLE_ROWS))
    if rows.n <= most:
        return rows.float64(0, rows.n)
    chosen = np.sort(np.random.default_rng(seed).choice(rows.n, most, replace=False))
    taken = rows.take(chosen)
    return taken.float64(0, taken.n)


def _leading(sample: NDArray[np.float32], count: int, seed: int) -> NDArray[np.float32]:
    """Near the first `count` right singular vectors of the sample, longest first (p, d).

    Subspace iteration on the smaller of the two Gram matrices. Where the sample has fewer
    directions than `count` there are so many, but at least one.
    """
    m, d = sample.shape
    gram = sample.T @ sample if d <= m else sample @ sample.T
    start = np.random.default_rng(seed).standard_normal((len(gram), count))
    block = start.astype(np.float32)
    for _ in range(STEPS + 1):
        block = _orthonormal(np.asarray(gram @ block, dtype=np.float32))
    if d > m:
        block = _orthonormal(sample.T @ block)
    block = _orthonormal(block)  # twice is enough
    places = sample @ block
    _, turn = np.linalg.eigh((places.T @ places).astype(np.float64))
    axes = (block @ turn[:, ::-1].astype(np.float32)).T
    # A short axis would spoil the bound of the search, which pays for what is not orthonormal.
    unit = np.abs(np.einsum("ij,ij->i", axes, axes) - 1.0) < UNIT_TOLERANCE
    return np.ascontiguousarray(axes[unit]) if unit.any() else np.eye(1, d, dtype=np.float32)


def _orthonormal(block: NDArray[np.float32]) -> NDArray[np.float32]:
    """Columns (d, p) that span what those of the block span, orthonormal but for rounding.

    By its p x p Gram matrix: a Householder factorisation of a tall block takes longer than the
    products around it. Directions of which the block has next to nothing stay short.
    """
    gram = (block.T @ block).astype(np.float64)
    scale = 1.0 / np.sqrt(np.maximum(np.diag(gram), np.finfo(np.float32).tiny))
    values, vectors = np.linalg.eigh(gram * scale * scale[:, None])
    values = np.maximum(values, 1e-6 * values[-1] or 1.0)
    turn = scale[:, None] * vectors / np.sqrt(values)
    return np.asarray(block @ turn.astype(np.float32), dtype=np.float32)
