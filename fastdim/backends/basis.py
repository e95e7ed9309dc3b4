"""Leading principal axes of a sample of rows, for the pruned neighbour search.

The search is exact for any basis (csrc/prepare.h); a good one only makes it fast. So a sample of
rows and a few steps of subspace iteration are enough, and nothing here needs a bound.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastdim.arrays import Rows

# Sampled values; at least and at most this many rows.
SAMPLE_VALUES = 8_000_000
SAMPLE_ROWS = (2048, 4096)

# Axes of the second level: from MANY_ROWS on the larger number, since projecting grows with n and
# what it saves with n^2. Rows of up to DIRECT_COLUMNS are searched on all their columns, and the
# axes only put them in order.
AXES, MORE_AXES, MANY_ROWS = 192, 320, 100_000
DIRECT_COLUMNS = 96
ORDER_AXES = 32

STEPS = 2

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
    """Near the first `count` right singular vectors of the sample, longest first (count, d)."""
    m, d = sample.shape
    gram = sample.T @ sample if d <= m else None

    def apply(block: NDArray[np.float32]) -> NDArray[np.float32]:
        product = gram @ block if gram is not None else sample.T @ (sample @ block)
        return np.asarray(product, dtype=np.float32)

    start = np.random.default_rng(seed).standard_normal((d, count))
    block = np.linalg.qr(apply(start.astype(np.float32)))[0]
    for _ in range(STEPS):
        block = np.linalg.qr(apply(block))[0]
    inner = block.T @ apply(block)
    _, turn = np.linalg.eigh(0.5 * (inner + inner.T).astype(np.float64))
    axes = block.astype(np.float64) @ turn[:, ::-1]
    return np.ascontiguousarray(axes.T, dtype=np.float32)
