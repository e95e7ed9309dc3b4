"""Leading principal axes of a sample of rows, for the pruned neighbour search.

The search is exact for any basis (csrc/prepare.h); a good one only makes it fast. So a sample of
rows and a few steps of subspace iteration are enough, and nothing here needs a bound.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastdim.arrays import Rows

Float32 = NDArray[np.float32]

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
PIECE_ROWS = 256  # of a product, shared by the threads
CENTER_ROWS = 128  # rows whose median is the centre

# How far the squared length of an axis may be from 1.
UNIT_TOLERANCE = 1e-3

# Rows this many times farther from the median row than the median distance have no say in centre
# and axes: one massive row would turn the first axis to itself.
OUTLIER_FACTOR = 5.0

# A look at few rows before axes are computed: axes through TRIAL_AXES of them, and of the pairs of
# TRIAL_QUERIES with TRIAL_ROWS others those that the axes do not tell apart at TRIAL_REACH of the
# nearest distance. On hidden states of SmolLM2 they are at most 1 %, on the activations inside its
# MLP 17 %, on normal rows all of them; from TRIAL_SHARE on axes are not worth their price.
TRIAL_AXES, TRIAL_QUERIES, TRIAL_ROWS = 192, 48, 512
TRIAL_REACH, TRIAL_SHARE = 0.8, 0.05


class Basis(NamedTuple):
    """center: float64 (d,), near the middle of the rows. axes: float32 (p, d), near orthonormal."""

    center: NDArray[np.float64]
    axes: Float32


def middle(rows: Rows, seed: int = 0) -> Basis:
    """The median of a sample of rows (n, d) column by column, in their units, and no axes."""
    center = _sample(rows, CENTER_ROWS, seed).center
    return Basis(center, np.zeros((0, rows.d), dtype=np.float32))


def principal_axes(rows: Rows, order_only: bool, threads: int = 1, seed: int = 0) -> Basis:
    """Centre and leading principal axes of a sample of rows (n, d), in the units of the rows.

    AXES or MORE_AXES of them, at most d; with order_only ORDER_AXES, for rows that will be searched
    on all their columns. The same for any number of threads, where BLAS has one thread.
    """
    found = _sample(rows, int(np.clip(SAMPLE_VALUES // rows.d, *SAMPLE_ROWS)), seed)
    sample = found.values
    norms = np.sqrt(np.einsum("ij,ij->i", sample, sample))
    inner = norms <= OUTLIER_FACTOR * np.median(norms)
    if not inner.all():
        sample = sample[inner]
    shift = sample.mean(axis=0)
    sample -= shift
    # Without the outliers the scale is another; float32 would flush squares of tiny values.
    sample *= np.float32(_unit(sample))
    d = sample.shape[1]
    wanted = MORE_AXES if rows.n >= MANY_ROWS else AXES
    count = min(ORDER_AXES if order_only else wanted, d, len(sample))
    center = found.center + found.scale * shift.astype(np.float64)
    with ThreadPoolExecutor(threads) as pool:
        return Basis(center, _leading(sample, count, seed, _Products(pool)))


def lacks_structure(rows: Rows, threads: int = 1, seed: int = 0) -> bool:
    """Whether leading axes would leave too many pairs to a neighbour search, by a look at few rows.

    A guess that only decides how long a search takes: see TRIAL_AXES.
    """
    count = TRIAL_AXES + TRIAL_QUERIES + TRIAL_ROWS
    if rows.n < 4 * count:
        return False
    sample = _sample(rows, count, seed).values[np.random.default_rng(seed).permutation(count)]
    norms = np.sqrt(np.einsum("ij,ij->i", sample, sample))
    through = sample[:TRIAL_AXES][norms[:TRIAL_AXES] <= OUTLIER_FACTOR * np.median(norms)]
    through = through - through.mean(axis=0)
    asked, others = sample[TRIAL_AXES : count - TRIAL_ROWS], sample[count - TRIAL_ROWS :]
    values, vectors = np.linalg.eigh(through @ through.T)
    kept = values > 1e-5 * values[-1]
    if not kept.any():
        return False
    turn = vectors[:, kept] / np.sqrt(values[kept])
    with ThreadPoolExecutor(threads) as pool:
        along = _Products(pool).product(sample[TRIAL_AXES:], through.T)
    places = np.split(along @ turn, [TRIAL_QUERIES])
    distance2 = _squares(asked, others)
    rest = [
        np.sqrt(np.maximum(np.einsum("ij,ij->i", x, x) - np.einsum("ij,ij->i", z, z), 0.0))
        for x, z in zip((asked, others), places, strict=True)
    ]
    bound2 = _squares(places[0], places[1]) + np.square(rest[0][:, None] - rest[1])
    reach2 = TRIAL_REACH**2 * distance2.min(axis=1, keepdims=True)
    return float((bound2 <= reach2).mean()) > TRIAL_SHARE


def _squares(x: Float32, y: Float32) -> Float32:
    """Squared distances of the rows of x (m, d) and y (n, d), near enough for a guess."""
    norms = np.einsum("ij,ij->i", x, x)[:, None] + np.einsum("ij,ij->i", y, y)
    return np.asarray(np.maximum(norms - 2.0 * (x @ y.T), 0.0))


class _Sample(NamedTuple):
    """values: float32 (m, d), about `center`, in units of `scale`, at most 1. center: (d,)."""

    values: Float32
    center: NDArray[np.float64]
    scale: float


def _sample(rows: Rows, count: int, seed: int) -> _Sample:
    """Rows drawn without replacement, in order, about their median; all where there are no more.

    Scales are powers of two and the centre comes off before anything is rounded to float32: rows
    far from the origin keep their digits, and nothing overflows.
    """
    taken = rows
    if rows.n > count:
        taken = rows.take(np.sort(np.random.default_rng(seed).choice(rows.n, count, replace=False)))
    given = taken.block(0, taken.n)
    first = _unit(given)
    values = given * given.dtype.type(first)
    # The median by a sort: np.median divides column by column, and takes ten times as long.
    some = np.sort(values[:: max(1, len(values) // CENTER_ROWS)][:CENTER_ROWS], axis=0)
    center = (some[(len(some) - 1) // 2] + some[len(some) // 2]) * values.dtype.type(0.5)
    values -= center
    second = _unit(values)
    values *= values.dtype.type(second)
    return _Sample(
        np.asarray(values, dtype=np.float32),
        center.astype(np.float64) / first,
        1.0 / first / second,
    )


def _unit(values: NDArray[Any]) -> float:
    """A power of two that brings the largest of the values below 1, where their dtype holds it."""
    most = max(float(values.max()), -float(values.min()))
    largest = 120 if values.dtype == np.float32 else 1000
    exponent = int(np.clip(np.frexp(most)[1], -largest, largest)) if most > 0.0 else 0
    return float(np.ldexp(1.0, -exponent))


class _Products:
    """Products of float32 matrices in pieces of PIECE_ROWS, whatever the number of threads."""

    def __init__(self, pool: ThreadPoolExecutor) -> None:
        self._pool = pool

    def product(self, x: Float32, y: Float32) -> Float32:
        """x (m, k) times y (k, n)."""
        out = np.empty((len(x), y.shape[1]), dtype=np.float32)
        self._each([partial(np.matmul, x[rows], y, out[rows]) for rows in _pieces(len(x))])
        return out

    def gram(self, x: Float32) -> Float32:
        """x (m, k) times its own transpose, each pair of pieces once."""
        out = np.empty((len(x), len(x)), dtype=np.float32)

        def pair(rows: slice, columns: slice) -> None:
            out[rows, columns] = x[rows] @ x[columns].T
            if rows != columns:
                out[columns, rows] = out[rows, columns].T

        parts = _pieces(len(x))
        self._each([partial(pair, a, b) for i, a in enumerate(parts) for b in parts[i:]])
        return out

    def _each(self, calls: list[Callable[[], Any]]) -> None:
        for done in [self._pool.submit(call) for call in calls]:
            done.result()


def _pieces(count: int) -> list[slice]:
    return [slice(i, min(i + PIECE_ROWS, count)) for i in range(0, count, PIECE_ROWS)]


def _leading(sample: Float32, count: int, seed: int, products: _Products) -> Float32:
    """Near the first `count` right singular vectors of the sample, longest first (p, d).

    Subspace iteration on the smaller of the two Gram matrices. Where the sample has fewer
    directions than `count` there are so many, but at least one.
    """
    m, d = sample.shape
    product = products.product
    gram = products.gram(sample.T if d <= m else sample)
    start = np.random.default_rng(seed).standard_normal((len(gram), count))
    block = start.astype(np.float32)
    for _ in range(STEPS + 1):
        block = _orthonormal(product(gram, block), product)
    if d > m:
        block = _orthonormal(product(sample.T, block), product)
    block = _orthonormal(block, product)  # twice is enough
    places = product(sample, block)
    _, turn = np.linalg.eigh((places.T @ places).astype(np.float64))
    axes = product(block, turn[:, ::-1].astype(np.float32)).T
    # A short axis would spoil the bound of the search, which pays for what is not orthonormal.
    unit = np.abs(np.einsum("ij,ij->i", axes, axes) - 1.0) < UNIT_TOLERANCE
    return np.ascontiguousarray(axes[unit]) if unit.any() else np.eye(1, d, dtype=np.float32)


def _orthonormal(block: Float32, product: Callable[[Float32, Float32], Float32]) -> Float32:
    """Columns (d, p) that span what those of the block span, orthonormal but for rounding.

    By its p x p Gram matrix: a Householder factorisation of a tall block takes longer than the
    products around it. Directions of which the block has next to nothing stay short.
    """
    gram = (block.T @ block).astype(np.float64)
    scale = 1.0 / np.sqrt(np.maximum(np.diag(gram), np.finfo(np.float32).tiny))
    values, vectors = np.linalg.eigh(gram * scale * scale[:, None])
    values = np.maximum(values, 1e-6 * values[-1] or 1.0)
    turn = scale[:, None] * vectors / np.sqrt(values)
    return product(block, turn.astype(np.float32))
