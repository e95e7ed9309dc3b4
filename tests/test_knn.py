"""The neighbour kernel's contract, one body over every instruction set level."""

import math
import signal
from functools import cache
from typing import Any

import numpy as np
import pytest
from conftest import gaussian, in_dtype

from fastdim import Rows, _core, as_rows, naive
from fastdim.backends import cpu

SIZES = (1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65, 97, 257)
DTYPES = ("float16", "bfloat16", "float32", "float64")


@pytest.fixture(params=["tiled", "pruned", "full", "full-float32", "rows"], autouse=True)
def strategy(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Each way to leave pairs out, forced at every size."""
    name, _, arithmetic = request.param.partition("-")

    def index(rows: Rows, queries: Any, k: int, threads: int, *_: Any, **__: Any) -> cpu.Index:
        return cpu.Index(rows, k, threads, name, arithmetic)

    monkeypatch.setattr(cpu, "index_for", index)
    return str(request.param)


def check(rows: Rows, k: int, reference: Any = None, **options: Any) -> dict[str, Any]:
    """Compare with the reference: every distance, and every index up to ties."""
    queries = options.pop("queries", None)
    chosen = np.arange(rows.n) if queries is None else queries
    expected = naive.knn(rows, k, queries)[0] if reference is None else reference
    distances, indices, counts = cpu.knn(rows, queries, k, options.pop("threads", 2), **options)
    np.testing.assert_allclose(distances, expected, rtol=1e-12)
    assert np.all(np.diff(distances, axis=1) >= 0)
    assert np.all((indices >= 0) & (indices < rows.n) & (indices != chosen[:, None]))
    assert all(len(set(row)) == k for row in indices.tolist())
    values = rows.float64(0, rows.n)
    for place, query in enumerate(chosen):
        named = np.array([math.dist(values[query], values[other]) for other in indices[place]])
        np.testing.assert_allclose(distances[place], named, rtol=1e-12)
    tied = np.diff(distances, axis=1) == 0
    assert np.all(np.diff(indices, axis=1)[tied] > 0)
    return counts


@cache
def reference_of_size(n: int, d: int) -> np.ndarray:
    return naive.knn(gaussian(n, d), min(3, n - 1))[0]


@pytest.mark.parametrize("d", SIZES)
def test_sizes(isa: str, d: int) -> None:
    for n in SIZES[1:]:
        check(in_dtype(gaussian(n, d), "float64"), min(3, n - 1), reference_of_size(n, d))


@pytest.mark.parametrize("d", [512, 513, 1024, 4096, 16384])
def test_many_columns(isa: str, d: int) -> None:
    check(in_dtype(gaussian(40, d), "float32"), 3)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("d", [1, 5, 64, 131])
def test_dtypes(isa: str, dtype: str, d: int) -> None:
    check(in_dtype(gaussian(150, d), dtype), 4)


@pytest.mark.parametrize("dtype", DTYPES)
def test_row_stride_leaves_the_padding_alone(isa: str, dtype: str) -> None:
    for d in (1, 7, 33, 131):
        packed = in_dtype(gaussian(60, d), dtype)
        nan = in_dtype(np.full((60, d + 9), np.nan), dtype).data
        nan[:, 4 : 4 + d] = packed.data
        padded = Rows(nan[:, 4 : 4 + d], packed.dtype)
        assert padded.row_stride == d + 9
        results = zip(cpu.knn(padded, None, 3, 2), cpu.knn(packed, None, 3, 2), strict=True)
        for a, b in results:
            np.testing.assert_array_equal(a, b)
        check(padded, 3)


@pytest.mark.parametrize("k", [1, 2, 10, 100])
def test_bit_identical_for_any_threads_and_chunk(isa: str, k: int) -> None:
    rows = in_dtype(np.repeat(gaussian(350, 33), 2, axis=0)[:690], "float32")
    runs = [
        cpu.knn(rows, None, k, threads, chunk)[:2]
        for threads in (1, 2, 8)
        for chunk in (0, 7, 4096)
    ]
    for distances, indices in runs[1:]:
        np.testing.assert_array_equal(distances, runs[0][0])
        np.testing.assert_array_equal(indices, runs[0][1])
    np.testing.assert_allclose(runs[0][0], naive.knn(rows, k)[0], rtol=1e-12)


def test_levels_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = in_dtype(gaussian(500, 77), "float32")
    results = []
    for name in _core.supported_levels():
        monkeypatch.setenv("FASTDIM_ISA", name)
        results.append(cpu.knn(rows, None, 5, 2)[:2])
    for distances, indices in results:
        np.testing.assert_allclose(distances, results[0][0], rtol=1e-13)
        np.testing.assert_array_equal(indices, results[0][1])


@pytest.mark.parametrize("k", [1, 17, 64, 299])
def test_large_k_up_to_all_others(isa: str, k: int) -> None:
    check(in_dtype(gaussian(300, 6), "float32"), k)


def test_k_of_2048(isa: str) -> None:
    rows = in_dtype(gaussian(2600, 4), "float32")
    queries = np.arange(0, 2600, 400)
    check(rows, 2048, queries=queries)


def test_chosen_queries_in_any_order_and_repeated(isa: str) -> None:
    x = gaussian(300, 20)
    x[40] = x[3]
    check(in_dtype(x, "float32"), 4, queries=np.array([299, 3, 3, 40, 0, 150]))
    distances, indices, _ = cpu.knn(in_dtype(x, "float32"), np.array([], dtype=np.int64), 4, 2)
    assert distances.shape == indices.shape == (0, 4)


@pytest.mark.parametrize("offset", [1e4, 1e6])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_offset(isa: str, offset: float, dtype: str) -> None:
    counts = check(in_dtype(gaussian(400, 48) + offset, dtype), 2)
    assert counts["pairs_refined"] < 0.2 * counts["pairs_filtered"]


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_massive_rows_spoil_the_bound_of_their_own_pairs_only(isa: str, dtype: str) -> None:
    x = gaussian(1150, 64)
    x[::230, 5] += 1600.0  # norms 200 times the median, all in one direction
    counts = check(in_dtype(x, dtype), 2)
    assert counts["pairs_refined"] < 0.1 * counts["pairs_filtered"]


def test_one_column_at_scale_1000(isa: str) -> None:
    x = gaussian(400, 48)
    x[:, 7] *= 1e3
    check(in_dtype(x, "float32"), 3)


def test_float16_whose_squares_overflow(isa: str) -> None:
    x = gaussian(200, 24) * 2e4
    rows = in_dtype(np.clip(x, -65504, 65504), "float16")
    with np.errstate(over="ignore"):
        assert np.isinf(rows.data * rows.data).any()
    check(rows, 3)


@pytest.mark.parametrize("k", [1, 2, 5, 60])
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_duplicates(isa: str, k: int, dtype: str) -> None:
    rng = np.random.default_rng(3)
    rows = in_dtype(gaussian(48, 24)[rng.integers(0, 48, 600)], dtype)  # 92 % repeated
    check(rows, k)
    distances, indices, counts = cpu.knn(rows, None, k, 2)
    expected = naive.knn(rows, k)
    np.testing.assert_array_equal(distances == 0, expected[0] == 0)
    np.testing.assert_array_equal(indices, expected[1])
    assert counts["pairs_filtered"] <= 48 * 48


def test_signed_zeros_are_equal(isa: str) -> None:
    x = np.zeros((4, 3), dtype=np.float32)
    x[1] = -0.0
    x[3] = 1.0
    distances, indices, _ = cpu.knn(as_rows(x), None, 2, 1)
    np.testing.assert_array_equal(indices, [[1, 2], [0, 2], [0, 1], [0, 1]])
    np.testing.assert_array_equal(distances[:3], 0)


@pytest.mark.parametrize("distinct", [1, 2, 3])
def test_few_distinct_rows(isa: str, distinct: int) -> None:
    x = gaussian(distinct, 9)[np.arange(50) % distinct]
    for k in (1, 2, 30, 49):
        rows = in_dtype(x, "float32")
        _, indices, _ = cpu.knn(rows, None, k, 2)
        np.testing.assert_array_equal(indices, naive.knn(rows, k)[1])
        check(rows, k)


def test_ties_on_a_lattice_go_to_the_smaller_index(isa: str) -> None:
    grid = np.stack(np.meshgrid(*[np.arange(7.0)] * 3), axis=-1).reshape(-1, 3)
    rows = in_dtype(np.random.default_rng(1).permutation(grid), "float32")
    for k in (1, 2, 7, 40):
        distances, indices, _ = cpu.knn(rows, None, k, 2)
        expected = naive.knn(rows, k)
        np.testing.assert_array_equal(distances, expected[0])
        np.testing.assert_array_equal(indices, expected[1])


@pytest.mark.parametrize("k", [1, 3, 12, 60, 199])
def test_ties_between_repeated_rows_go_to_the_smaller_index(isa: str, k: int) -> None:
    rows = in_dtype(np.random.default_rng(6).integers(0, 3, (200, 3)), "float16")
    distances, indices, _ = cpu.knn(rows, None, k, 2)
    expected = naive.knn(rows, k)
    np.testing.assert_array_equal(distances, expected[0])
    np.testing.assert_array_equal(indices, expected[1])


@pytest.mark.parametrize("exponent", [-1000, -600, -300, 300, 600, 1000])
def test_power_of_two_scales_move_no_bit(isa: str, exponent: int) -> None:
    x = gaussian(120, 19) + 3.0
    plain, plain_indices, _ = cpu.knn(in_dtype(x, "float64"), None, 3, 2)
    scaled, indices, counts = cpu.knn(in_dtype(np.ldexp(x, exponent), "float64"), None, 3, 2)
    np.testing.assert_array_equal(np.ldexp(scaled, -exponent), plain)
    np.testing.assert_array_equal(indices, plain_indices)
    assert counts["pairs_refined"] < 0.5 * counts["pairs_filtered"]


@pytest.mark.parametrize(
    ("dtype", "unit"), [("float16", 2.0**-24), ("float32", 2.0**-149), ("float64", 2.0**-1074)]
)
def test_subnormal_rows(isa: str, dtype: str, unit: float) -> None:
    whole = np.random.default_rng(2).integers(-400, 400, (90, 11)).astype(np.float64)
    expected = naive.knn(whole, 2)
    distances, indices, _ = cpu.knn(in_dtype(whole * unit, dtype), None, 2, 2)
    np.testing.assert_array_equal(indices, expected[1])
    # A subnormal float64 distance is itself rounded to a multiple of the unit.
    np.testing.assert_allclose(
        distances / unit, expected[0], rtol=1e-13, atol=0.5 if unit < 1e-300 else 0
    )


@pytest.mark.parametrize("strategy", ["tiled", "full", "pruned", "rows"])
@pytest.mark.parametrize("k", [1, 4])
def test_ties_of_the_smallest_distances(isa: str, strategy: str, k: int) -> None:
    """Rounded to a multiple of 2^-1074 distances tie that do not in exact arithmetic."""
    whole = np.unique(np.random.default_rng(2).integers(0, 40, (500, 3)), axis=0)
    rows = in_dtype(whole * 2.0**-1074, "float64")
    expected = naive.knn(rows, k)
    assert (np.diff(expected[0]) == 0.0).any() or k == 1
    distances, indices, _ = cpu.knn(rows, None, k, 2, strategy=strategy)
    np.testing.assert_array_equal(distances, expected[0])
    np.testing.assert_array_equal(indices, expected[1])


def test_float32_near_its_largest_value(isa: str) -> None:
    x = gaussian(90, 11)
    x *= 3e38 / np.abs(x).max()
    check(in_dtype(x, "float32"), 2)


def test_scales_mixed_in_one_matrix(isa: str) -> None:
    x = gaussian(60, 5)
    x[:20] *= 1e-200
    x[20:40] *= 1e120
    expected = np.array(
        [sorted(math.dist(a, b) for j, b in enumerate(x) if j != i)[:3] for i, a in enumerate(x)]
    )
    distances, _, _ = cpu.knn(in_dtype(x, "float64"), None, 3, 2)
    np.testing.assert_allclose(distances, expected, rtol=1e-12)


def test_points_on_a_line(isa: str) -> None:
    position = np.random.default_rng(4).uniform(-1, 1, (500, 1)) ** 3
    check(in_dtype(position * gaussian(1, 40) + 7.0, "float64"), 2)
    check(in_dtype(np.arange(300.0)[:, None] ** 2, "float32"), 3)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_tight_clusters_far_from_the_mean(isa: str, dtype: str) -> None:
    x = gaussian(300, 16) * 1e-3
    x += np.where(np.arange(300)[:, None] % 2 == 0, 1e6, -1e6) * gaussian(1, 16, seed=9)
    check(in_dtype(x, dtype), 3)


def test_the_bound_leaves_most_pairs_out(isa: str, strategy: str) -> None:
    counts = check(in_dtype(gaussian(1500, 32), "float32"), 2)
    assert counts["isa"] == isa
    by_row = strategy in ("tiled", "rows")
    every = 1500 * 1500 if by_row else 1500 * 1499 // 2
    assert counts["pairs_filtered"] == every
    assert counts["strategy"] == strategy.partition("-")[0]
    # Every neighbour is measured: by row both ways of a pair, else a pair once for its two rows.
    nearest = naive.knn(in_dtype(gaussian(1500, 32), "float32"), 2)[1]
    ways = {(row, other) for row, both in enumerate(nearest.tolist()) for other in both}
    least = len(ways if by_row else {(min(way), max(way)) for way in ways})
    assert least <= counts["pairs_refined"] < 0.03 * counts["pairs_filtered"]


@pytest.mark.parametrize(("n", "k"), [(5, 0), (5, 5), (1, 1), (3, 7), (4, -1)])
def test_k_out_of_range(isa: str, n: int, k: int) -> None:
    rows = in_dtype(gaussian(n, 4), "float32")
    out = np.empty((n, 8)), np.empty((n, 8), dtype=np.int64)
    index = cpu.Index(rows, 1, 1)
    with pytest.raises(ValueError, match="k = "):
        index._index.knn(0, n, k, False, 1, 0, out[0].ctypes.data, out[1].ctypes.data)


@pytest.mark.parametrize("query", [-1, 9])
def test_query_that_is_no_row(isa: str, query: int) -> None:
    with pytest.raises(ValueError, match=f"query {query}"):
        cpu.knn(in_dtype(gaussian(9, 4), "float32"), np.array([0, query]), 2, 1)


def test_interrupt_stops_the_search(isa: str) -> None:
    class Stop(Exception):
        pass

    def stop(signum: int, frame: object) -> None:
        raise Stop

    rows = in_dtype(gaussian(40_000, 256), "float32")
    before = signal.signal(signal.SIGALRM, stop)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.3)
        with pytest.raises(Stop):
            cpu.knn(rows, None, 2, 2)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize("dtype", DTYPES)
def test_distinct(dtype: str) -> None:
    rng = np.random.default_rng(5)
    for d in (1, 3, 8, 33):
        x = rng.integers(-1, 2, (300, d)).astype(np.float64)
        x[rng.integers(0, 300, 60)] *= -1.0  # makes -0.0
        rows = in_dtype(x, dtype)
        expected = naive.distinct(rows)
        for threads in (1, 8):
            first, inverse = cpu.distinct(rows, threads)
            np.testing.assert_array_equal(first, expected[0])
            np.testing.assert_array_equal(inverse, expected[1])


def colliding_rows(base: np.ndarray) -> np.ndarray:
    """A row (8,) float64 that differs from `base` in two elements and has its hash.

    csrc/distinct.cpp hashes elements 0 and 4 one after the other: a change of the first is undone
    by the second, whose bits meet the hash so far.
    """
    start, factor, mask = 0x243F6A8885A308D3, 0x9E3779B97F4A7C15, 2**64 - 1

    def after(first: int) -> int:
        mixed = (start ^ first) * factor & mask
        return mixed ^ mixed >> 29

    bits = [int(word) for word in base.view(np.uint64)]
    for change in range(1, 1000):
        other = list(bits)
        other[0] ^= change
        other[4] ^= after(bits[0]) ^ after(other[0])
        row = np.array(other, dtype=np.uint64).view(np.float64)
        if np.isfinite(row).all() and np.abs(row).max() < 1e100:
            return row
    raise AssertionError("no finite row found")


@pytest.mark.parametrize("threads", [1, 2])
def test_rows_of_one_hash_are_told_apart(threads: int) -> None:
    base = gaussian(1, 8)[0]
    other = colliding_rows(base)
    x = gaussian(700, 8)
    x[[3, 300]], x[[5, 600]] = base, other
    rows = Rows(x, "float64")
    hashes = _core.row_hashes(x.ctypes.data, 700, 8, 8, "float64")
    assert hashes[3] == hashes[5]
    assert (base != other).any()
    first, inverse = cpu.distinct(rows, threads)
    expected = naive.distinct(x)
    np.testing.assert_array_equal(first, expected[0])
    np.testing.assert_array_equal(inverse, expected[1])
