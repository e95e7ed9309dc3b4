"""Sets for cosine statistics, and what those of every engine hold against the reference."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import gaussian, token_like

from fastdim import CosineStats, Rows, naive


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
