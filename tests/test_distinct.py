"""Groups of equal rows that are too wide to be hashed whole at first."""

import numpy as np
import pytest
from conftest import gaussian, in_dtype

from fastdim import Rows, naive
from fastdim.backends import cpu


def check(rows: Rows) -> None:
    expected = naive.distinct(rows)
    for threads in (1, 2):
        first, inverse = cpu.distinct(rows, threads)
        np.testing.assert_array_equal(first, expected[0])
        np.testing.assert_array_equal(inverse, expected[1])


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
@pytest.mark.parametrize("d", [63, 64, 65, 127, 128, 129, 255, 256, 257, 600])
def test_rows_that_differ_in_any_one_column(dtype: str, d: int) -> None:
    x = np.repeat(gaussian(1, d), 2 * d + 20, axis=0)
    x[np.arange(d), np.arange(d)] += 1.0
    x[np.arange(d, 2 * d), np.arange(d)] += 1.0  # each a second time
    check(in_dtype(x, dtype))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_repeated_rows_of_many_columns(dtype: str) -> None:
    x = gaussian(300, 1000)[np.random.default_rng(0).integers(0, 300, 1500)]
    x[:, ::3] *= np.where(np.arange(1500) % 2, 0.0, -0.0)[:, None]  # -0 equals 0
    check(in_dtype(x, dtype))
    check(Rows(np.ascontiguousarray(x, np.float32)[:, :-1], "float32"))


def test_columns_that_are_zero_for_nearly_all() -> None:
    x = np.zeros((600, 900), np.float32)
    rng = np.random.default_rng(1)
    x[rng.integers(0, 600, 500), rng.integers(0, 900, 500)] = 1.0
    check(in_dtype(x, "float32"))


@pytest.mark.parametrize("before", range(0, 16, 3))
@pytest.mark.parametrize(("d", "stride"), [(128, 128), (150, 160), (151, 151)])
def test_rows_that_begin_anywhere_in_a_cache_line(before: int, d: int, stride: int) -> None:
    """Where all rows lie alike the pieces are whole lines, in the first row as in the last."""
    n = 2 * d + 20
    memory = np.full(n * stride + 64, np.nan, np.float32)
    start = -memory.ctypes.data % 64 // 4 + before
    x = np.lib.stride_tricks.as_strided(memory[start:], (n, d), (4 * stride, 4))
    x[:] = gaussian(1, d)
    x[np.arange(d), np.arange(d)] += 1.0
    x[np.arange(d, 2 * d), np.arange(d)] += 1.0
    check(Rows(x, "float32"))
