"""Equality of neighbour lists up to ties."""

from __future__ import annotations

import numpy as np


def assert_quasi_equal(
    distances: np.ndarray,
    indices: np.ndarray,
    expected: np.ndarray,
    values: np.ndarray,
    queries: np.ndarray | None = None,
    rtol: float = 1e-6,
) -> None:
    """The lists are right up to ties: any neighbour may stand in for one equally far.

    distances, indices (m, k) are judged; expected (m, k) are the true distances, values (n, d) the
    float64 rows. Distances agree within rtol, each index names another row, once, at that distance.
    """
    chosen = np.arange(len(values)) if queries is None else queries
    assert distances.shape == indices.shape == expected.shape
    np.testing.assert_allclose(distances, expected, rtol=rtol, atol=0.0)
    assert (np.diff(distances, axis=1) >= 0).all(), "distances do not ascend"
    assert ((indices >= 0) & (indices < len(values))).all(), "an index is out of range"
    assert (indices != chosen[:, None]).all(), "a row is its own neighbour"
    ordered = np.sort(indices, axis=1)
    assert (ordered[:, 1:] != ordered[:, :-1]).all(), "a neighbour is listed twice"
    difference = values[indices] - values[chosen][:, None, :]
    named = np.sqrt(np.square(difference).sum(axis=2))
    np.testing.assert_allclose(named, expected, rtol=rtol, atol=0.0, err_msg="a farther row")
