"""Full searches for few neighbours: thresholds by scores, pairs that are measured later.

Every answer is compared, bit for bit, with the tiled scan, which knows no such bounds, and with the
reference.
"""

from typing import Any

import numpy as np
import pytest
from conftest import gaussian, in_dtype, token_like

import fastdim as fd
from fastdim import Rows, _core, naive
from fastdim.backends import cpu

# What a full search looks at: rows in order, or as they come; every arithmetic of every level.
WAYS = [
    (isa, strategy, arithmetic)
    for isa in _core.supported_levels()
    for arithmetic in _core.filter_arithmetics(isa)
    for strategy in ("full", "direct")
]


@pytest.fixture(params=WAYS, ids="-".join)
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> tuple[str, str]:
    isa, strategy, arithmetic = request.param
    monkeypatch.setenv("FASTDIM_ISA", isa)
    return strategy, arithmetic


def compare(
    rows: Rows, k: int, way: tuple[str, str], queries: Any = None, threads: int = 2
) -> dict[str, Any]:
    found = cpu.knn(rows, queries, k, threads, 0, *way)
    tiled = cpu.knn(rows, queries, k, 2, strategy="tiled")
    np.testing.assert_array_equal(found[0], tiled[0])
    np.testing.assert_array_equal(found[1], tiled[1])
    some = np.arange(0, rows.n, 7) if queries is None else queries
    places = some if queries is None else slice(None)
    np.testing.assert_allclose(found[0][places], naive.knn(rows, k, some)[0], rtol=1e-12)
    assert found[2]["strategy"] == "full"
    return found[2]


def with_massive_rows(n: int, d: int) -> np.ndarray:
    """One row in fifty 1,000 times as long: errors that are folded into half norms."""
    x = gaussian(n, d)
    x[::50] *= 1e3
    return x


def lattice(n: int, d: int) -> np.ndarray:
    """Many rows equally far: bounds of several pairs are one number."""
    return np.random.default_rng(4).integers(0, 2, (n, d)).astype(float)


SETS = {
    "gaussian": gaussian,
    "token_like": token_like,
    "massive": with_massive_rows,
    "offset": lambda n, d: gaussian(n, d) + 1e5,
    "lattice": lattice,
    "far_column": lambda n, d: np.column_stack([1e4 * (np.arange(n) % 3), gaussian(n, d - 1)]),
    "shells": lambda n, d: gaussian(n, d) * np.geomspace(1e-6, 1e6, n)[:, None],
}


@pytest.mark.parametrize("k", [1, 2, 11])
@pytest.mark.parametrize("name", SETS)
def test_no_neighbor_lies_beyond_its_bound(name: str, k: int, way: tuple[str, str]) -> None:
    rows = in_dtype(SETS[name](1057, 70), "float32")
    compare(rows, k, way)
    compare(rows, k, way, np.arange(0, 1057, 5))


@pytest.mark.parametrize("scale", [1e-310, 3e-308, 1e-200, 1e-30, 1e30, 1e140])
def test_bounds_at_any_scale(scale: float, way: tuple[str, str]) -> None:
    """Subnormal distances keep few bits: bounds of them are widened."""
    x = token_like(600, 40).astype(np.float64)
    with np.errstate(under="ignore"):
        rows = in_dtype(x * scale, "float64")
    compare(rows, 3, way)


def test_distances_of_one_unit_of_the_smallest_numbers(way: tuple[str, str]) -> None:
    least = np.finfo(np.float64).smallest_subnormal
    x = np.unique(np.random.default_rng(2).integers(0, 40, (500, 3)), axis=0)
    rows = in_dtype(least * x, "float64")
    found, expected = cpu.knn(rows, None, 4, 2, 0, *way), naive.knn(rows, 4)
    np.testing.assert_array_equal(found[0], expected[0])
    np.testing.assert_array_equal(found[1], expected[1])


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_other_number_types(dtype: str, way: tuple[str, str]) -> None:
    compare(in_dtype(with_massive_rows(700, 130), dtype), 2, way)


def test_equal_rows(way: tuple[str, str]) -> None:
    x = gaussian(300, 40)[np.random.default_rng(0).integers(0, 300, 900)]
    compare(in_dtype(x, "float32"), 5, way)


@pytest.mark.parametrize("threads", [1, 3])
def test_more_pairs_than_can_wait(threads: int, way: tuple[str, str]) -> None:
    """Beside a column so large int8 sees no other: each half of the rows matters to itself."""
    x = gaussian(1100, 20)
    x[:, 0] = 1e6 * (np.arange(1100) % 2)
    counts = compare(in_dtype(x, "float32"), 2, way, threads=threads)
    if way[1] == "int8":
        assert counts["pairs_refined"] > 1 << 17


def test_pairs_are_measured_when_thresholds_have_fallen(way: tuple[str, str]) -> None:
    """When each was measured at once they were 5 to 7 a row; 2 neighbours are at least 1."""
    counts = compare(in_dtype(gaussian(2000, 64), "float32"), 2, way)
    assert counts["pairs_refined"] < 3.5 * 2000


def test_rows_that_changed_are_refused(isa: str) -> None:
    """Distances that no score allows are of other rows: in place of neighbours, an error."""
    x = gaussian(600, 80).astype(np.float32)
    for factor in (1e-3, 1e3):
        prepared = fd.prepare(x, strategy="full")
        kept = x.copy()
        x *= factor
        with pytest.raises(fd.InputError, match="prepare them again"):
            fd.knn(prepared, 2)
        x[:] = kept
        fd.knn(prepared, 2)


def test_rows_that_left_the_range_come_once(way: tuple[str, str]) -> None:
    """No distance bounds anything then, and pairs that were measured still matter."""
    x = gaussian(600, 20)
    far = np.arange(600) % 10 == 0
    x[far] *= 1e4
    index = cpu.Index(in_dtype(x, "float64"), 3, 2, *way)
    held = index.rows.data
    held[far] = 1e200 * gaussian(60, 20, seed=1)
    found = index.knn(None, 3, 2)[1]
    assert all(len(set(row)) == 3 for row in found.tolist())
