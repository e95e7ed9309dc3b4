"""Arrays as the kernels take them: addresses and sizes. The caller keeps the arrays alive."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fastdim.arrays import Rows

Float64 = NDArray[np.float64]
Int64 = NDArray[np.int64]


def address(array: NDArray[np.generic]) -> int:
    """Of the first element of a C-contiguous array."""
    return int(array.ctypes.data)


def matrix(rows: Rows) -> tuple[int, int, int, int, str]:
    """Address, n, d, row stride and dtype."""
    return address(rows.data), rows.n, rows.d, rows.row_stride, rows.dtype


def moment_arrays(
    ids: Int64 | None, scale: Float64 | None, shift: Float64
) -> tuple[Int64 | None, Float64 | None, Float64]:
    """The arrays as the kernels read them."""
    return (
        None if ids is None else np.ascontiguousarray(ids, dtype=np.int64),
        None if scale is None else np.ascontiguousarray(scale, dtype=np.float64),
        np.ascontiguousarray(shift, dtype=np.float64),
    )


def moment_addresses(
    rows: Rows, ids: Int64 | None, scale: Float64 | None, shift: Float64
) -> tuple[int, int, int, int]:
    """ids, how many, scale, shift; 0 for None."""
    return (
        0 if ids is None else address(ids),
        rows.n if ids is None else len(ids),
        0 if scale is None else address(scale),
        address(shift),
    )
