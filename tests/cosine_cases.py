"""Sets for cosine statistics, and what those of every engine hold against the reference."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import gaussian, in_dtype, token_like

from fastdim import CosineStats, Rows, cosine_stats, naive


def with_zero_rows(n: int) -> np.ndarray:
    x = gaussian(n, 10)
    x[[3, 50, n - 1]] = 0.0
    return x


def awkward(n: int, zero: int, distinct: int) -> dict[str, np.ndarray]:
    """Sets of n rows; of `zero` rows, three of them zero; of `distinct` rows three times."""
    return {
        "massive rows": token_like(n),
        "offset 1e4": gaussian(n, 8) + 1e4,
        "zero rows": with_zero_rows(zero),
        "duplicates": np.repeat(gaussian(distinct, 5), 3, axis=0),
        "two rows": gaussian(2, 3),
        "tiny": gaussian(n, 9) * 1e-25,
    }


def check(found: CosineStats, rows: Rows, case: str) -> None:
    """Assert that the statistics of all pairs equal those of the reference."""
    expected = naive.cosine_stats(rows)
    for name in ("mean", "second_moment", "std", "min", "max"):
        assert getattr(found, name) == pytest.approx(getattr(expected, name), abs=1e-9)
    assert found.std == pytest.approx(expected.std, rel=1e-5, abs=1e-12)
    assert (float(found.mean_estimate), float(found.std_estimate)) == (found.mean, found.std)
    used = rows.n - expected.n_zero_rows
    assert (found.n_rows, found.n_zero_rows) == (rows.n, expected.n_zero_rows)
    assert (found.n_pairs, found.pairs, found.band) == (used * (used - 1) // 2, "all", 0.0)
    np.testing.assert_array_equal(found.edges, expected.edges)
    assert found.histogram.dtype == np.int64
    assert found.histogram.sum() == found.n_pairs
    if case != "duplicates":  # cosines of 1 to the last bit may lie on either side of an edge
        np.testing.assert_array_equal(found.histogram, expected.histogram)


DEVICE_CASES = {
    "one tile": gaussian(63, 8),
    "three tiles": gaussian(130, 65),
    "wide": gaussian(20, 300),
    **awkward(140, 70, 40),
}


def check_device(case: str, backend: str, name: str) -> None:
    """Assert that a device engine finds what the reference does, with the CPU's errors."""
    rows = in_dtype(DEVICE_CASES[case], "float32")
    found, cpu = cosine_stats(rows, backend=backend), cosine_stats(rows)
    check(found, rows, case)
    for estimate in ("mean_estimate", "std_estimate"):
        ours, theirs = getattr(found, estimate), getattr(cpu, estimate)
        assert ours.stderr == pytest.approx(theirs.stderr, rel=1e-5, abs=1e-10)
        assert ours.lower == pytest.approx(theirs.lower, rel=1e-5, abs=1e-8)
    assert (found.backend, found.arithmetic) == (name, "float64")


def check_device_dtype(dtype: str, backend: str) -> None:
    """Assert the same of another number type, of bins of an odd number, and of groups."""
    rows = in_dtype(gaussian(90, 12).clip(-3, 3) * 20000, dtype)
    groups = np.arange(90) // 4
    found = cosine_stats(rows, bins=37, groups=groups, backend=backend)
    expected, cpu = naive.cosine_stats(rows, bins=37), cosine_stats(rows, bins=37, groups=groups)
    assert found.mean == pytest.approx(expected.mean, abs=1e-9)
    assert found.mean_estimate.stderr == pytest.approx(cpu.mean_estimate.stderr, rel=1e-9)
    np.testing.assert_array_equal(found.histogram, expected.histogram)


def check_parallel_rows(backend: str) -> None:
    """Assert that the spread of nearly parallel rows does not cancel."""
    x = 1.0 + 1e-5 * gaussian(80, 30)
    found = cosine_stats(x, backend=backend)
    assert found.std < 1e-9
    assert found.std == pytest.approx(cosine_stats(x).std, rel=1e-4)
