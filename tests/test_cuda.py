"""The CUDA engine: its sources on an emulated GPU, and on a device where there is one."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import gaussian, token_like
from cuda_cases import DTYPES, TILES, compiled
from filter_cases import cancelling, far_clusters, wide_range, wide_rows

import fastdim
from fastdim import naive
from fastdim.arrays import Rows, as_rows
from fastdim.backends import cuda
from fastdim.errors import BackendError
from fastdim.neighbors import search_tensor

Knn = Callable[..., tuple[np.ndarray, np.ndarray, dict[str, Any]]]


def build(folder: Path, old: str = "", new: str = "") -> Knn:
    """The emulated engine, compiled from a copy of the sources with one text replaced."""
    code = compiled(folder, "library.cpp", old, new)

    def knn(
        rows: Rows,
        queries: np.ndarray | None,
        k: int,
        keep: int = 0,
        tile: str = "small",
        *,
        blocks: int = 3,
        seed: int = 1,
        symmetric: bool = False,
    ) -> tuple[np.ndarray, np.ndarray, dict[str, Any]]:
        code.simt_seed(ctypes.c_ulonglong(seed))
        m = rows.n if queries is None else len(queries)
        distances, indices = np.full((m, k), np.nan), np.full((m, k), -1, dtype=np.int64)
        counts = np.zeros(3, dtype=np.int64)
        big = [ctypes.c_longlong(v) for v in (rows.n, rows.d, rows.row_stride)]
        failed = code.simt_knn(
            ctypes.c_void_p(rows.data.ctypes.data), *big, DTYPES[rows.dtype],
            None if queries is None else ctypes.c_void_p(queries.ctypes.data),
            ctypes.c_longlong(m), ctypes.c_longlong(k), ctypes.c_longlong(keep or k + 6),
            TILES[tile], blocks, None, None, ctypes.c_longlong(0), int(symmetric),
            *(ctypes.c_void_p(a.ctypes.data) for a in (distances, indices, counts)),
        )  # fmt: skip
        if failed:
            raise RuntimeError(code.simt_error().decode())
        return (
            distances,
            indices,
            {
                "queries_searched_again": counts[0],
                "coarse": counts[1],
                "tiles": counts[2],
            },
        )

    return knn


def has_device() -> bool:
    try:
        return cuda.extension().devices()[0] > 0
    except BackendError:
        return False


@pytest.fixture(scope="module")
def emulated(tmp_path_factory: pytest.TempPathFactory) -> Knn:
    return build(tmp_path_factory.mktemp("simt"))


def check(knn: Knn, rows: Rows, k: int = 2, queries: Any = None, **options: Any) -> dict[str, Any]:
    """Assert the contract against float64; the plan."""
    distances, indices, plan = knn(rows, queries, k, **options)
    want, places = naive.knn(rows, k, queries)
    np.testing.assert_allclose(distances, want, rtol=1e-12, atol=0)
    np.testing.assert_array_equal(indices, places)
    return plan


@pytest.mark.parametrize("tile", TILES)
def test_tiles_and_long_lists(emulated, tile):
    check(emulated, as_rows(gaussian(300, 48).astype(np.float32)), k=12, tile=tile)


def test_ends_of_float64(emulated):
    check(emulated, as_rows(gaussian(140, 9) * 1e140))
    x = gaussian(140, 9) * 1e-140
    distances, indices, _ = emulated(as_rows(x), None, 2)
    want, places = naive.knn(x * 2.0**465, 2)
    np.testing.assert_allclose(distances, want * 2.0**-465, rtol=1e-12)
    np.testing.assert_array_equal(indices, places)


def test_equal_rows_and_ties(emulated):
    x = gaussian(260, 12).astype(np.float32)
    x[40:60] = x[5]
    plan = check(emulated, as_rows(x))
    assert plan["queries_searched_again"] >= 20, "more equal rows than candidates are kept"
    check(
        emulated, as_rows(np.random.default_rng(1).integers(0, 3, (200, 3)).astype(np.float32)), k=5
    )


def test_rows_that_only_the_full_search_resolves(emulated):
    assert check(emulated, cancelling())["queries_searched_again"] > 100
    assert check(emulated, far_clusters(100))["queries_searched_again"] > 0


def test_bfloat16_where_the_range_asks_for_it(emulated):
    assert check(emulated, wide_range(75))["coarse"] > 250


@pytest.mark.parametrize("blocks", [1, 2, 5, 40])
def test_any_division_and_order_gives_the_same_bits(emulated, blocks):
    x = as_rows(token_like(420, 20))
    first = emulated(x, None, 2)
    for seed in (2, 3):
        other = emulated(x, None, 2, blocks=blocks, seed=seed)
        np.testing.assert_array_equal(first[0], other[0])
        np.testing.assert_array_equal(first[1], other[1])


def test_each_pair_once_equal_rows_and_ties(emulated):
    x = gaussian(260, 12).astype(np.float32)
    x[40:60] = x[5]
    x[200:230] = x[5]
    check(emulated, as_rows(x), symmetric=True)
    whole = np.random.default_rng(1).integers(0, 3, (300, 3)).astype(np.float32)
    check(emulated, as_rows(whole), k=5, symmetric=True)
    check(emulated, as_rows(np.zeros((140, 3), dtype=np.float32)), symmetric=True)


@pytest.mark.parametrize("blocks", [1, 2, 5, 40])
def test_each_pair_once_gives_the_same_bits(emulated, blocks):
    x = as_rows(token_like(420, 20))
    first = emulated(x, None, 2)
    counts = set()
    for seed in (1, 2, 3):
        other = emulated(x, None, 2, blocks=blocks, seed=seed, symmetric=True)
        np.testing.assert_array_equal(first[0], other[0])
        np.testing.assert_array_equal(first[1], other[1])
        counts.add(other[2]["queries_searched_again"])
        assert other[2]["tiles"] == 10, "four rows of tiles: those on and above the diagonal"
    assert len(counts) == 1


def test_both_sides_are_looked_at(emulated):
    """Rows whose neighbours all lie in tiles before, or all after, are certain without more."""
    x = gaussian(600, 20).astype(np.float32)
    plan = check(emulated, as_rows(x), symmetric=True)
    assert plan["queries_searched_again"] <= 6


def test_offsets_beyond_32_bits(emulated):
    check(emulated, wide_rows(80, 0))


FAULTS = {
    "a removed barrier": (
        "simt::wait<kStages - 2>();\n        simt::sync();",
        "simt::wait<kStages - 2>();",
    ),
    "a copy not waited for": ("simt::wait<kStages - 2>();", ""),
    "swapped fragments": ("left_chunk = lane >> 4;", "left_chunk = (lane >> 4) ^ 1;"),
    "a dropped mask": ("if (column != self) heap", "heap"),
    "a 32-bit index": (
        "return data + i * row_stride;",
        "return data + static_cast<unsigned>(i * row_stride);",
    ),
    "no margin for the sums": ("return 1.5 *", "return 0.0 *"),
    "no margin for the rounding": (
        "const double error = sqrt(error2)",
        "const double error = 0 * sqrt(error2)",
    ),
    "a lost bound": ("left_out = fmaxf(left_out, ", "left_out = fminf(left_out, "),
    "lists of other blocks lost": (
        "owner((in_rest + 1) * column_tiles - 1) - block + 1;",
        "owner((in_rest + 1) * column_tiles - 1) - block + 1 > 1 ? 1 : 1;",
    ),
    "a lost merge": ("        merge();\n        continue;", "        continue;"),
}  # fmt: skip


# The same of the symmetric search, whose checks are `check_both_sides`.
BOTH_SIDES = {
    "a lost merge on the other side": ("        if (tile > 0) {\n", "        if (tile < 0) {\n"),
    "the diagonal offered twice, itself included": (
        "        if (tile > 0) {\n", "        if (tile >= 0) {\n",
    ),
    "the other side's h": ("+ e] + h[part];", "+ e];"),
    "the list of the other side not read": (
        "slots = runs + (lists.other >= 0 ? 1 : 0);", "slots = runs;",
    ),
    "the other side's bound lost": (
        "scores[slot_of(s) * keep * tile_rows + in_tile]);",
        "scores[(s == runs ? slot : slot_of(s)) * keep * tile_rows + in_tile]);",
    ),
    "what a place gives up is lost": ("e >= 0 && key != 0; --e", "e >= keep - 1; --e"),
    "keys of other rows": ("keys + (column0 + 8 * j + e)", "keys + (column0 + 8 * j)"),
}  # fmt: skip


def check_both_sides(knn: Knn) -> None:
    """Sets that need each list of the symmetric search: most rows certain, and certain rightly."""
    for seed in (1, 2):
        for blocks in (1, 20):
            x = as_rows(gaussian(600, 20).astype(np.float32))
            plan = check(knn, x, blocks=blocks, seed=seed, symmetric=True)
            assert plan["queries_searched_again"] <= 6
        check(knn, cancelling(), seed=seed, symmetric=True)
        check(knn, wide_range(75), keep=2, seed=seed, symmetric=True)
        order = np.random.default_rng(3).permutation(400)
        near = gaussian(200, 30)
        pairs = np.concatenate([near, near + 1e-3 * gaussian(200, 30)])[order]
        plan = check(knn, as_rows(pairs.astype(np.float32)), 1, seed=seed, symmetric=True)
        assert plan["queries_searched_again"] <= 4


def check_all(knn: Knn) -> None:
    """Small sets that between them need every part of the kernels, in two orders of warps."""
    for seed in (1, 2):
        for rows in (as_rows(gaussian(300, 130).astype(np.float32)), cancelling()):
            check(knn, rows, blocks=20, seed=seed)
        check(knn, far_clusters(100), seed=seed)
        check(knn, wide_rows(80, 0), seed=seed)
        check(knn, wide_range(75), keep=2, seed=seed)  # no spare candidate hides a wrong order
        check(knn, as_rows(gaussian(600, 20).astype(np.float32)), blocks=1, seed=seed)


def test_without_faults_the_same_checks_pass(emulated):
    check_all(emulated)
    check_both_sides(emulated)


PLANTED = [(check_all, FAULTS, name) for name in FAULTS]
PLANTED += [(check_both_sides, BOTH_SIDES, name) for name in BOTH_SIDES]


@pytest.mark.parametrize(("check", "faults", "name"), PLANTED, ids=[name for *_, name in PLANTED])
def test_planted_faults_are_found(tmp_path, check, faults, name):
    broken = build(tmp_path, *faults[name])
    with pytest.raises((AssertionError, RuntimeError)):
        check(broken)


def test_knn_calls_the_engine(emulated, monkeypatch):
    def as_on_a_device(rows: Rows, queries: Any, k: int) -> Any:
        distances, indices, plan = emulated(rows, queries, k)
        return distances, indices, {"isa": "cuda-H100", **plan}

    monkeypatch.setattr(cuda, "knn", as_on_a_device)
    x = gaussian(90, 7).astype(np.float32)
    x[50:60] = x[3]
    for options in ({}, {"duplicates": "collapse"}, {"queries": 9, "duplicates": "collapse"}):
        ours, cpu = fastdim.knn(x, 3, backend="cuda", **options), fastdim.knn(x, 3, **options)
        assert ours.backend == "cuda-H100"
        np.testing.assert_array_equal(ours.distances, cpu.distances)
        np.testing.assert_array_equal(ours.indices, cpu.indices)
        np.testing.assert_array_equal(ours.queries, cpu.queries)


def test_knn_of_a_tensor_calls_the_engine(monkeypatch):
    """The hand-over alone: tensors of a device cannot be made here."""
    x = torch.from_numpy(gaussian(30, 4))

    def as_on_a_device(x: Any, k: int, queries: Any, strategy: str) -> Any:
        found = naive.knn(x.numpy(), k, queries.numpy())
        return *(torch.from_numpy(part) for part in found), torch.tensor([3, 0, -1])

    monkeypatch.setattr(cuda, "knn_tensor", as_on_a_device)
    monkeypatch.setattr(cuda, "device", lambda number: cuda.Device(0, "H100", 132, 1, "large"))
    found = search_tensor(x, 2, [5, 1], 0, "keep", "cuda")
    assert (found.backend, found.plan["queries_searched_again"]) == ("cuda-H100", 3)
    np.testing.assert_array_equal(found.numpy().distances, naive.knn(x.numpy(), 2, [5, 1])[0])


def test_without_extension_or_device_the_error_says_what_to_do():
    if has_device():
        assert cuda.device().multiprocessors > 0
        return
    with pytest.raises(BackendError, match=r"FASTDIM_CUDA=ON|finds no device"):
        fastdim.knn(gaussian(8, 2), 1, backend="cuda")
