"""Small timings for pytest-benchmark: `pytest benchmarks --benchmark-autosave`, then compare.

Each checks its answer before it is timed; `make bench` is the comparison with other libraries.
"""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import fastdim
from fastdim import naive

Rows = NDArray[np.float32]


@pytest.fixture(scope="module")
def rows() -> Rows:
    return np.random.default_rng(0).standard_normal((2000, 256), dtype=np.float32)


def test_knn(benchmark: Any, rows: Rows) -> None:
    expected, _ = naive.knn(rows, 2, queries=np.arange(20))
    found = fastdim.knn(rows).distances[:20]
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    benchmark(fastdim.knn, rows)


def test_cosine_stats(benchmark: Any, rows: Rows) -> None:
    assert fastdim.cosine_stats(rows).mean == pytest.approx(naive.cosine_stats(rows).mean, abs=1e-9)
    benchmark(fastdim.cosine_stats, rows)


def test_spectrum(benchmark: Any, rows: Rows) -> None:
    assert fastdim.anisotropy(rows) == pytest.approx(naive.spectrum(rows).anisotropy, rel=1e-9)
    benchmark(fastdim.spectrum, rows)
