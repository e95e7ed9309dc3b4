"""First and second moments of rows in float64, additive over parts of the rows.

Moments are taken about a shift near the mean, so that nothing cancels when the mean is removed: an
entry of the scatter matrix is off by about 500 units of float64 rounding of sum |y_i| |y_j|, y the
shifted rows.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fastdim.arrays import Rows
from fastdim.backends import cpu
from fastdim.errors import InputError

Array = NDArray[np.float64]
Int64 = NDArray[np.int64]

SHIFT_ROWS = 1024

# Behind "are equal" and "are zero": what else leaves no variance.
VANISHED = "; if they are not, their squares vanish in float64: multiply the rows by a constant"

# Up to so many multiplications (rows x columns^2) the forms of rows are computed in float64 by
# numpy; beyond, by a kernel whose products are float32 or int16.
DIRECT_WORK = 1 << 28


@dataclass(frozen=True, eq=False)
class Sums:
    """count, sum (d,) and sum of outer products (d, d) of rows less `shift` (d,)."""

    shift: Array
    count: int
    total: Array
    outer: Array

    def __add__(self, other: Sums) -> Sums:
        """Both parts together; they must share the shift."""
        if other.shift is not self.shift:
            raise ValueError("sums about two different shifts cannot be added")
        return Sums(
            self.shift,
            self.count + other.count,
            self.total + other.total,
            self.outer + other.outer,
        )

    @property
    def mean(self) -> Array:
        """Mean row (d,)."""
        return np.asarray(self.shift + self.total / self.count)

    def scatter(self) -> Array:
        """Sum of outer products of the rows less their mean (d, d)."""
        return np.asarray(self.outer - np.outer(self.total, self.total / self.count))


def inverse_norms(rows: Rows, norms: Array, first: int = 0) -> Array:
    """1/|row| (n,), 0 for a zero row; InputError on a row so small that its squares vanish.

    first: number of the first of the rows, for that message.
    """
    zero = norms == 0.0
    for row in np.flatnonzero(zero).tolist():
        if rows.float64(row, row + 1).any():
            raise InputError(
                f"row {first + row} is not zero, yet its squares vanish in float64: multiply the "
                "rows by a constant"
            )
    return np.divide(1.0, norms, out=np.zeros(rows.n), where=~zero)


def shift_rows(ids: Int64) -> Int64:
    """Those of the rows `ids` that `near_mean` looks at."""
    return ids[:: max(1, len(ids) // SHIFT_ROWS)][:SHIFT_ROWS]


def random_rows(count: int) -> Int64:
    """1,024 of `count` rows for `near_mean`, drawn with a fixed seed (all, if there are fewer).

    Evenly taken rows may share a place in their documents, first tokens above all; drawn ones do
    not: on any rows the mean of 1,024 has an expected squared distance from that of all of at most
    1/1,024 of the variance of a row. A distance of a third of it has a chance of 0.3 % (Markov).
    """
    drawn = np.random.default_rng(0).choice(count, min(count, SHIFT_ROWS), replace=False)
    return np.sort(drawn).astype(np.int64, copy=False)


def near_mean(rows: Rows, scale: Array | None = None, ids: Int64 | None = None) -> Array:
    """A point (d,) near the mean of the scaled rows (all, or `ids`): that of up to 1,024 of them.

    Summed about the first: exact where a column is constant, however large.
    """
    chosen = shift_rows(np.arange(rows.n) if ids is None else ids)
    sample = rows.take(chosen).float64(0, len(chosen))
    if scale is not None:
        sample *= scale[chosen, None]
    return np.asarray(sample[0] + (sample - sample[0]).sum(axis=0) / len(sample))


def sums(
    rows: Rows,
    shift: Array,
    threads: int,
    ids: Int64 | None = None,
    scale: Array | None = None,
    floats: bool = False,
) -> Sums:
    """Moments of scale * x about `shift`, over the rows `ids` or all.

    floats: sums of 64 products in float32 (`cpu.second_moments`).
    """
    total, outer = cpu.second_moments(rows, shift, ids, scale, threads, floats)
    return Sums(shift, rows.n if ids is None else len(ids), total, outer)
