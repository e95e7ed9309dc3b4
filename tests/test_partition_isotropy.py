"""The partition function's isotropy and its error, with documents, however many."""

import math
import tracemalloc

import numpy as np
import pytest
from conftest import gaussian

from fastdim import arrays, partition_isotropy


def rows(n: int = 200, d: int = 9) -> np.ndarray:
    """Gaussian with variances 1, 1/2, 1/3, ... and an offset."""
    return gaussian(n, d) / np.sqrt(np.arange(1, d + 1)) + 0.4


def test_partition_isotropy() -> None:
    x = rows()
    axes = np.linalg.eigh(x.T @ x)[1]
    sums = [np.exp(sign * (x @ axis)).sum() for axis in axes.T for sign in (1, -1)]
    found = partition_isotropy(x)
    assert found.value == pytest.approx(min(sums) / max(sums), rel=1e-10)
    assert 0.0 < found.lower < found.value < found.upper <= 1.0
    ring = np.array([[1.0, 0], [-1, 0], [0, 1], [0, -1]])
    assert partition_isotropy(ring).value == pytest.approx(1.0)
    far = partition_isotropy(1e4 * x)
    assert (far.value, far.lower, far.upper) == (0.0, 0.0, 0.0)


@pytest.mark.parametrize("scale", [np.full(6, 0.3), np.linspace(0.5, 0.1, 6)])
@pytest.mark.parametrize("documents", [False, True])
def test_partition_isotropy_knows_that_its_directions_are_chosen(
    scale: np.ndarray, documents: bool
) -> None:
    """With the two directions held fixed the error was up to twice the true one."""
    times = 4 if documents else 1
    groups = np.repeat(np.arange(300), times)
    found = []
    for seed in range(200):
        x = np.random.default_rng([4, seed]).standard_normal((300, 6)) * scale
        found.append(partition_isotropy(np.repeat(x, times, axis=0), groups=groups))
    values = np.array([one.value for one in found])
    ratio = np.mean([one.stderr for one in found]) / values.std(ddof=1)
    assert 0.8 < ratio < 1.25
    inside = [one.lower <= values.mean() <= one.upper for one in found]
    assert np.mean(inside) > 0.92


def test_partition_isotropy_of_one_document_has_no_error() -> None:
    assert math.isnan(partition_isotropy(rows(), groups=["a"] * 200).stderr)


@pytest.mark.parametrize("size", [1, 7, 150])
def test_documents_are_those_of_any_order_and_block(
    monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    x, documents = rows(900), np.arange(900) // size
    found = partition_isotropy(x, groups=documents)
    moved = np.random.default_rng(1).permutation(900)
    for order in (np.arange(900), moved):
        # 40 rows a block: documents begin in one and end in another.
        monkeypatch.setattr(arrays, "BLOCK_BYTES", 40 * 8 * (2 * 9 + 400))
        other = partition_isotropy(x[order], groups=documents[order])
        monkeypatch.undo()
        assert other.value == pytest.approx(found.value, rel=1e-12)
        assert other.stderr == pytest.approx(found.stderr, rel=1e-9)
    if size == 1:
        assert found == partition_isotropy(x)
        dealt = partition_isotropy(x, groups=moved)
        assert dealt.stderr == pytest.approx(found.stderr, rel=0.2)


def test_many_documents_take_the_memory_of_a_block(monkeypatch: pytest.MonkeyPatch) -> None:
    """3.2 kB a document, all of them at once, were 64 MB here and 3 GB for a million."""
    monkeypatch.setattr(arrays, "BLOCK_BYTES", 1 << 20)
    x = gaussian(20_000, 8).astype(np.float32) / 4
    tracemalloc.start()
    partition_isotropy(x, groups=np.random.default_rng(0).permutation(20_000))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 << 20
