"""The float64 references against other people's code: the truth must not be only our own."""

import numpy as np
import pytest
from conftest import gaussian, in_dtype
from quasi import assert_quasi_equal
from scipy.spatial.distance import cdist, pdist
from sklearn.neighbors import NearestNeighbors

from fastdim import naive


@pytest.mark.parametrize("offset", [0.0, 1e4])
def test_knn_is_sklearns_tree(offset: float) -> None:
    x = gaussian(200, 6) + offset
    distances, indices = naive.knn(x, 4)
    expected, named = NearestNeighbors(algorithm="kd_tree").fit(x).kneighbors(x, 5)
    np.testing.assert_allclose(distances, expected[:, 1:], rtol=1e-9)
    np.testing.assert_array_equal(indices, named[:, 1:])
    some, _ = naive.knn(x, 4, queries=np.array([7, 3]))
    np.testing.assert_array_equal(some, distances[[7, 3]])


def test_knn_ties_go_to_the_smaller_row() -> None:
    x = np.array([[0.0, 0], [1, 0], [0, 1], [-1, 0], [0, 0]])
    distances, indices = naive.knn(x, 4)
    np.testing.assert_array_equal(indices[0], [4, 1, 2, 3])
    np.testing.assert_array_equal(distances[0], [0, 1, 1, 1])
    assert_quasi_equal(distances, indices, np.sort(cdist(x, x), axis=1)[:, 1:], x)


def test_distinct_is_numpys_unique() -> None:
    x = np.array([[1.0, 2], [0, 0], [1, 2], [-0.0, 0], [3, 1]])
    first, inverse = naive.distinct(x)
    np.testing.assert_array_equal(first, [0, 1, 4])
    np.testing.assert_array_equal(inverse, [0, 1, 0, 1, 2])
    many = np.random.default_rng(0).integers(0, 3, size=(300, 4)).astype(np.float32)
    np.testing.assert_array_equal(
        naive.distinct(many)[0], np.sort(np.unique(many, axis=0, return_index=True)[1])
    )


def test_twonn_is_unbiased_on_a_plane() -> None:
    """Independent uniform points on a torus of 2 dimensions: no edge, no curvature."""
    found = []
    for seed in range(8):
        angles = 2 * np.pi * np.random.default_rng(seed).random((500, 2))
        x = np.hstack([np.cos(angles), np.sin(angles)])
        found.append(naive.twonn(np.vstack([x, x[:50]])))
    assert abs(np.mean(found) - 2.0) < 3 * np.std(found) / np.sqrt(len(found)) + 0.02


def test_spectrum_is_numpys_covariance() -> None:
    x = gaussian(80, 5) @ gaussian(5, 5) + 7
    found = naive.spectrum(x)
    values = np.linalg.eigvalsh(np.cov(x.T, bias=True))[::-1]
    np.testing.assert_allclose(found.eigenvalues, values, rtol=1e-10)
    share = values / values.sum()
    assert found.anisotropy == pytest.approx(share[0])
    assert found.participation_ratio == pytest.approx(1 / np.square(share).sum())
    assert found.effective_rank == pytest.approx(np.exp(-(share * np.log(share)).sum()))
    assert found.stable_rank == pytest.approx(1 / share[0])
    assert found.row_share.sum() == pytest.approx(1.0)


def test_cosines_are_scipys() -> None:
    x = gaussian(60, 7) + 1
    cosines = 1 - pdist(x, "cosine")
    found = naive.cosine_stats(np.vstack([x, np.zeros((2, 7))]), bins=10)
    assert found.n_zero_rows == 2
    assert (found.mean, found.std) == pytest.approx((cosines.mean(), cosines.std()))
    assert (found.min, found.max) == pytest.approx((cosines.min(), cosines.max()))
    assert found.second_moment == pytest.approx(np.square(cosines).mean())
    np.testing.assert_array_equal(found.histogram, np.histogram(cosines, 10, (-1, 1))[0])


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_half_precision_is_read_exactly(dtype: str) -> None:
    rows = in_dtype(gaussian(30, 4), dtype)
    values = rows.float64(0, 30)
    np.testing.assert_array_equal(naive.knn(rows)[0], naive.knn(values)[0])
    assert naive.spectrum(rows).anisotropy == naive.spectrum(values).anisotropy
