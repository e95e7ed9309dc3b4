"""Rows of another matrix looked up among the rows of x: the contract, over every CPU level."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from conftest import gaussian, in_dtype, token_like

import fastdim as fd
from fastdim import InputError, Rows, _core, as_rows, knn, naive
from fastdim.backends import cpu

SIZES = (1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65, 97, 257)
DTYPES = ("float16", "bfloat16", "float32", "float64")


def check(rows: Rows, others: Rows, k: int, **options: Any) -> dict[str, Any]:
    """Compare with the reference: every distance and, up to ties in rounding, every index."""
    expected, _ = naive.knn(rows, k, others=others)
    distances, indices, counts = cpu.lookup(rows, others, k, options.pop("threads", 2), **options)
    np.testing.assert_allclose(distances, expected, rtol=1e-12)
    assert np.all((indices >= 0) & (indices < rows.n))
    assert all(len(set(row)) == k for row in indices.tolist())
    values, points = rows.float64(0, rows.n), others.float64(0, others.n)
    for place in range(others.n):
        named = np.array([math.dist(points[place], values[other]) for other in indices[place]])
        np.testing.assert_allclose(distances[place], named, rtol=1e-12)
    tied = np.diff(distances, axis=1) == 0
    assert np.all(np.diff(distances, axis=1) >= 0)
    assert np.all(np.diff(indices, axis=1)[tied] > 0)
    return counts


@pytest.mark.parametrize("d", SIZES)
def test_sizes(isa: str, d: int) -> None:
    for n in SIZES:
        others = in_dtype(gaussian(SIZES[-1 - SIZES.index(n)], d, seed=1), "float64")
        check(in_dtype(gaussian(n, d), "float64"), others, min(3, n))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("d", [1, 5, 64, 131, 513])
def test_dtypes(isa: str, dtype: str, d: int) -> None:
    check(in_dtype(gaussian(150, d), dtype), in_dtype(gaussian(70, d, seed=1), dtype), 4)


@pytest.mark.parametrize("dtype", DTYPES)
def test_row_stride_leaves_the_padding_alone(isa: str, dtype: str) -> None:
    for d in (1, 7, 33):
        plain = in_dtype(gaussian(60, d), dtype), in_dtype(gaussian(41, d, seed=1), dtype)
        padded = []
        for packed in plain:
            nan = in_dtype(np.full((packed.n, d + 9), np.nan), dtype).data
            nan[:, 4 : 4 + d] = packed.data
            padded.append(Rows(nan[:, 4 : 4 + d], packed.dtype))
        check(padded[0], padded[1], 3)
        for a, b in zip(cpu.lookup(*padded, 3, 2), cpu.lookup(*plain, 3, 2), strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("k", [1, 2, 10, 100])
def test_bit_identical_for_any_threads_and_chunk(isa: str, k: int) -> None:
    rows = in_dtype(np.repeat(gaussian(350, 33), 2, axis=0)[:690], "float32")
    others = in_dtype(np.concatenate([gaussian(90, 33, seed=1), gaussian(350, 33)[:30]]), "float32")
    runs = [
        cpu.lookup(rows, others, k, threads, chunk)[:2]
        for threads in (1, 2, 8)
        for chunk in (0, 7, 4096)
    ]
    for distances, indices in runs[1:]:
        np.testing.assert_array_equal(distances, runs[0][0])
        np.testing.assert_array_equal(indices, runs[0][1])
    check(rows, others, k)


def test_levels_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    rows, others = (in_dtype(gaussian(n, 77), "float32") for n in (500, 300))
    results = []
    for name in _core.supported_levels():
        monkeypatch.setenv("FASTDIM_ISA", name)
        results.append(cpu.lookup(rows, others, 5, 2)[:2])
    for distances, indices in results:
        np.testing.assert_allclose(distances, results[0][0], rtol=1e-13)
        np.testing.assert_array_equal(indices, results[0][1])


def far_apart() -> tuple[np.ndarray, np.ndarray]:
    """References around 0, queries around 1e5 and one a million times as far as the rest."""
    others = gaussian(120, 24, seed=1) + 1e5
    others[50] *= 1e6
    return gaussian(300, 24), others


def massive() -> tuple[np.ndarray, np.ndarray]:
    x = token_like(460, 48)
    return x[:400], x[400:]


def scaled_column() -> tuple[np.ndarray, np.ndarray]:
    x = gaussian(400, 24)
    x[:, 3] *= 1e3
    return x[:300], x[300:]


HARD = {
    "offset 1e6": (gaussian(300, 24) + 1e6, gaussian(90, 24, seed=1) + 1e6),
    "queries far from the references": far_apart(),
    "massive rows": massive(),
    "a column at scale 1e3": scaled_column(),
    "tiny": (gaussian(200, 12) * 1e-30, gaussian(60, 12, seed=1) * 1e-30),
    "tiny references, large queries": (gaussian(200, 12) * 1e-30, gaussian(60, 12, seed=1) * 1e10),
    "large references, tiny queries": (gaussian(200, 12) * 1e10, gaussian(60, 12, seed=1) * 1e-30),
    "one reference": (gaussian(1, 9), gaussian(20, 9, seed=1)),
    "references and queries at 0": (np.zeros((5, 4)), np.zeros((3, 4))),
}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("case", HARD)
def test_accuracy_contract(isa: str, case: str, dtype: str) -> None:
    rows, others = (in_dtype(part, dtype) for part in HARD[case])
    k = min(3, rows.n)
    check(rows, others, k)
    found = knn(rows, k, queries=others)
    assert found.backend == f"cpu-{isa}"
    assert found.distances.dtype == dtype
    expected, _ = naive.knn(rows, k, others=others)
    np.testing.assert_allclose(found.distances, expected, rtol=1e-6)


def test_the_bound_leaves_most_pairs_out(isa: str) -> None:
    rows, others = in_dtype(gaussian(1500, 32), "float32"), in_dtype(gaussian(700, 32), "float32")
    counts = check(rows, others, 2)
    assert counts["pairs_filtered"] == 700 * 1500
    assert counts["pairs_refined"] < 0.05 * counts["pairs_filtered"]


@pytest.mark.parametrize("exponent", [-1000, -300, 300, 600])
def test_power_of_two_scales_move_no_bit(isa: str, exponent: int) -> None:
    x, y = gaussian(120, 19) + 3.0, gaussian(50, 19, seed=1)
    plain = cpu.lookup(in_dtype(x, "float64"), in_dtype(y, "float64"), 3, 2)
    moved = (in_dtype(np.ldexp(part, exponent), "float64") for part in (x, y))
    scaled, indices, _ = cpu.lookup(*moved, 3, 2)
    np.testing.assert_array_equal(np.ldexp(scaled, -exponent), plain[0])
    np.testing.assert_array_equal(indices, plain[1])


@pytest.mark.parametrize("k", [1, 3, 12, 60, 200])
def test_duplicates_and_ties_go_to_the_smaller_number(isa: str, k: int) -> None:
    rng = np.random.default_rng(6)
    rows = in_dtype(rng.integers(0, 3, (200, 3)), "float16")
    others = in_dtype(rng.integers(-1, 4, (80, 3)), "float16")
    distances, indices, _ = cpu.lookup(rows, others, k, 2)
    expected = naive.knn(rows, k, others=others)
    np.testing.assert_array_equal(distances, expected[0])
    np.testing.assert_array_equal(indices, expected[1])


def test_rows_of_x_find_themselves() -> None:
    x = token_like(300, 20)
    found, own = knn(x, 4, queries=x), knn(x, 3)
    np.testing.assert_array_equal(found.indices[:, 0], np.arange(300))
    np.testing.assert_array_equal(found.distances[:, 0], 0.0)
    np.testing.assert_array_equal(found.indices[:, 1:], own.indices)
    np.testing.assert_array_equal(found.distances[:, 1:], own.distances)
    assert (found.foreign, own.foreign) == (True, False)
    np.testing.assert_array_equal(found.queries, np.arange(300))


@pytest.mark.parametrize("kind", [np.asfortranarray, torch.tensor, as_rows])
def test_layout_of_queries_does_not_matter(kind: Any) -> None:
    x, y = token_like(200, 20), token_like(60, 20, seed=4)
    expected, found = knn(x, 3, queries=y), knn(x, 3, queries=kind(y))
    np.testing.assert_allclose(found.distances, naive.knn(x, 3, others=y)[0], rtol=1e-6)
    np.testing.assert_array_equal(found.distances, expected.distances)
    np.testing.assert_array_equal(found.indices, expected.indices)


@pytest.mark.parametrize("strategy", ["auto", "pruned", "full", "tiled"])
def test_prepared_rows(strategy: str) -> None:
    x = np.repeat(token_like(300, 24), 2, axis=0)[:590]
    y = np.concatenate([token_like(40, 24, seed=4), x[:10]])
    prepared = fd.prepare(x, strategy=strategy)
    for duplicates in ("keep", "collapse"):
        plain = knn(x, 3, queries=y, duplicates=duplicates)
        found = knn(prepared, 3, queries=y, duplicates=duplicates)
        np.testing.assert_array_equal(found.distances, plain.distances)
        np.testing.assert_array_equal(found.indices, plain.indices)
        assert found.plan["strategy"] == "tiled"


def test_duplicates_of_the_references() -> None:
    x = gaussian(100, 5)
    x[60:] = x[:40]
    y = np.concatenate([gaussian(20, 5, seed=1), x[:3], x[:3]])
    first, _ = naive.distinct(x)
    expected, indices = naive.knn(x[first], 4, others=y)
    found = knn(x, 4, queries=y, duplicates="collapse")
    assert (found.n_points, found.n_distinct, len(found.queries)) == (100, 60, 26)
    np.testing.assert_allclose(found.distances, expected, rtol=1e-12)
    np.testing.assert_array_equal(found.indices, first[indices])
    kept = knn(x, 4, queries=y)
    np.testing.assert_array_equal(kept.indices, naive.knn(x, 4, others=y)[1])
    assert kept.n_distinct is None
    with pytest.raises(InputError, match="40 of 100 rows equal an earlier row"):
        knn(x, 4, queries=y, duplicates="raise")


@pytest.mark.parametrize(
    ("y", "options", "message"),
    [
        (gaussian(4, 3), {}, "3 columns of float64, and x has 5 of float64"),
        (in_dtype(gaussian(4, 5), "float32"), {}, "5 columns of float32, and x has 5 of float64"),
        (np.full((4, 5), np.nan), {}, "queries holds 20 NaN"),
        (np.zeros((4, 5), dtype=np.int64), {}, "queries has dtype int64"),
        (gaussian(4, 5), {"k": 41}, "at least 41 rows in x, got 40"),
        (gaussian(4, 5), {"k": 21, "duplicates": "collapse"}, "21 distinct rows in x, got 20"),
        (gaussian(4, 5), {"k": 0}, "k must be"),
        (gaussian(4, 5), {"strategy": "pruned"}, "strategy='pruned' searches rows of x"),
    ],
)
def test_what_is_refused(y: Any, options: dict[str, Any], message: str) -> None:
    x = np.repeat(gaussian(20, 5), 2, axis=0)
    with pytest.raises(InputError, match=message):
        knn(x, **{"k": 2, **options}, queries=y)


def test_estimators_refuse_neighbors_of_other_rows() -> None:
    x, y = gaussian(60, 5), gaussian(60, 5, seed=1)
    found = knn(x, 20, queries=y)
    for estimator in (fd.twonn, fd.levina_bickel, fd.gride, fd.mom, fd.abide):
        with pytest.raises(InputError, match="another matrix's rows"):
            estimator(found)
    with pytest.raises(InputError, match="another matrix's rows"):
        fd.neighborhood_overlap(found, found, 5)
    with pytest.raises(InputError, match="row numbers"):
        fd.twonn(x, queries=y)


@pytest.mark.parametrize(("n", "d", "dtype", "k"), [(5, 4, "float32", 6), (5, 4, "float32", 0)])
def test_the_kernel_checks_k(n: int, d: int, dtype: str, k: int) -> None:
    rows = in_dtype(gaussian(n, d), dtype)
    with pytest.raises(ValueError, match="k = "):
        cpu.lookup(rows, rows, k, 1)


@pytest.mark.parametrize(("d", "dtype"), [(3, "float32"), (4, "float64")])
def test_the_kernel_refuses_rows_of_another_kind(d: int, dtype: str) -> None:
    rows = in_dtype(gaussian(5, 4), "float32")
    with pytest.raises(ValueError, match="same columns and type"):
        cpu.lookup(rows, in_dtype(gaussian(5, d), dtype), 2, 1)
