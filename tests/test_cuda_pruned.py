"""The pruned CUDA search: its sources on an emulated GPU, by way of the functions that call it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import gaussian, token_like
from cuda_cases import Extension, compiled, emulated, use
from filter_cases import cancelling, far_clusters, wide_range, wide_rows

from fastdim import InputError, Rows, as_rows, knn, naive, twonn
from fastdim.backends import cost, cuda, cuda_pruned, devices

__all__ = ["emulated"]  # a fixture


@pytest.fixture(scope="module")
def code(tmp_path_factory: pytest.TempPathFactory) -> Extension:
    return Extension(compiled(tmp_path_factory.mktemp("pruned"), "library.cpp"))


def check(rows: Rows, k: int = 2, **options: Any) -> tuple[int, int]:
    """Assert the contract against float64; rows searched again in full, and tiles visited."""
    x = devices.upload(rows, "cpu")
    distances, indices, counts = cuda.knn_tensor(x, k, strategy="pruned", **options)
    want, places = naive.knn(rows, k)
    np.testing.assert_allclose(distances.numpy(), want, rtol=1e-12, atol=0)
    np.testing.assert_array_equal(indices.numpy(), places)
    again, _, tiles = counts.tolist()
    return again, tiles


def clusters(count: int, each: int, d: int = 20, seed: int = 3) -> Rows:
    """Groups of rows far from each other, in an order that mixes them."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((count, 1, d)) * 20 + rng.standard_normal((count, each, d))
    return as_rows(x.transpose(1, 0, 2).reshape(-1, d).astype(np.float32))


def test_tiles_of_far_clusters_are_left_out(emulated: Extension) -> None:
    again, tiles = check(clusters(12, 128))
    assert again <= 4
    # Each of 12 rows of tiles meets those of the few clusters that it holds rows of.
    assert tiles <= 50


def test_rows_without_structure_take_every_tile(emulated: Extension) -> None:
    assert check(as_rows(gaussian(700, 130).astype(np.float32)))[1] == 36


def test_the_sets_that_break_a_filter(emulated: Extension) -> None:
    x = gaussian(260, 12).astype(np.float32)
    x[40:60] = x[5]
    check(as_rows(x))
    x = gaussian(260, 20) + 1e4
    x[:, 3] *= 1e3
    check(as_rows(x.astype(np.float32)))
    check(as_rows(gaussian(140, 9) * 1e140))
    check(as_rows(np.random.default_rng(1).integers(0, 3, (300, 3)).astype(np.float32)), k=5)
    check(as_rows(np.zeros((140, 3), dtype=np.float32)))
    for rows in (cancelling(), far_clusters(100), wide_range(75)):
        check(rows)


def test_any_order_and_axes_give_the_same_neighbours(
    emulated: Extension, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Axes that are far from orthonormal, of any length, and an order that knows nothing."""
    rows = clusters(12, 100)
    rng = torch.Generator().manual_seed(2)
    for scale in (0.0, 0.1, 1.0, 1e30):
        axes = scale * torch.randn(11, 20, dtype=torch.float64, generator=rng)
        monkeypatch.setattr(cuda, "axes_of", lambda x, axes=axes: axes)
        monkeypatch.setattr(cuda, "order_of", lambda x, axes: torch.randperm(len(x), generator=rng))
        check(rows)


def test_the_same_bits_for_any_order_of_warps(emulated: Extension) -> None:
    x = devices.upload(as_rows(token_like(420, 20)), "cpu")
    first = cuda.knn_tensor(x, 2, strategy="pruned")
    full = cuda.knn_tensor(x, 2)
    for seed in (2, 3):
        emulated.seed(seed)
        other = cuda.knn_tensor(x, 2, strategy="pruned")
        assert all(torch.equal(a, b) for a, b in zip(first, other, strict=True))
    assert torch.equal(first[0], full[0])
    assert torch.equal(first[1], full[1])


def test_knn_asks_for_it(emulated: Extension, tensors_on_gpu: None) -> None:
    """By name alone, of rows on the GPU; and estimators search there too."""
    values = clusters(3, 100).data
    values[50:60] = values[3]
    x = torch.from_numpy(values)
    for duplicates in ("keep", "collapse"):
        found = knn(x, 2, backend="cuda", strategy="pruned", duplicates=duplicates).numpy()
        cpu = knn(values, 2, duplicates=duplicates)
        np.testing.assert_array_equal(found.distances, cpu.distances)
        np.testing.assert_array_equal(found.indices, cpu.indices)
        assert (found.backend, found.plan["strategy"]) == ("cuda-emulated", "pruned")
        assert 0 < int(found.plan["tiles_visited"]) <= 12
    assert float(twonn(x)) == pytest.approx(float(twonn(values)), rel=1e-9)
    with pytest.raises(InputError, match="searches all rows"):
        knn(x, 2, backend="cuda", strategy="pruned", queries=[3])
    with pytest.raises(InputError, match="are of the CPU"):
        knn(x, 2, backend="triton", strategy="pruned")
    with pytest.raises(InputError, match="are of the CPU"):
        knn(values, 2, backend="cuda", strategy="pruned")


def test_each_pair_once_of_a_tensor(emulated: Extension, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same bits as of all pairs; chosen where the model of cost says so."""
    x = devices.upload(as_rows(token_like(300, 20)), "cpu")
    full = cuda.knn_tensor(x, 2)
    half = cuda.knn_tensor(x, 2, strategy="symmetric")
    assert torch.equal(half[0], full[0])
    assert torch.equal(half[1], full[1])
    assert (int(full[2][2]), int(half[2][2])) == (-1, 6)
    for pays in (True, False):
        monkeypatch.setattr(cost, "symmetric_pays", lambda name, n, d, keep, pays=pays: pays)
        *_, plan, name = devices.knn_tensor("cuda", x, None, 2)
        assert name == "cuda-emulated"
        assert plan["strategy"] == ("symmetric" if pays else "full")
        assert plan.get("tiles_visited") == (6 if pays else None)
        chosen = torch.arange(9)
        assert devices.knn_tensor("cuda", x, chosen, 2)[2]["strategy"] == "full"
        assert devices.knn_tensor("cuda", x, None, 2, "full")[2]["strategy"] == "full"
    for options in ({"queries": torch.arange(3)}, {"tile": "large"}):
        with pytest.raises(InputError, match="'symmetric' of backend 'cuda' searches all rows"):
            cuda.knn_tensor(x, 2, strategy="symmetric", **options)
    with pytest.raises(InputError, match="one of full, symmetric, pruned"):
        cuda.knn_tensor(x, 2, strategy="tiled")


def test_axes_and_order() -> None:
    x = torch.from_numpy(clusters(16, 128).data)
    axes = cuda_pruned.axes_of(x)
    assert axes.shape == (20, 20)
    np.testing.assert_allclose(axes @ axes.T, np.eye(20), atol=1e-12)
    order = cuda_pruned.order_of(x, axes)
    np.testing.assert_array_equal(order.sort().values, np.arange(2048))
    spread = x[order].reshape(-1, 128, 20).var(dim=1).mean()
    assert spread < 0.2 * x.reshape(-1, 128, 20).var(dim=1).mean(), "rows of a tile lie together"


def test_what_cannot_be_asked_is_refused(emulated: Extension) -> None:
    x = torch.from_numpy(gaussian(30, 4))
    with pytest.raises(InputError, match="searches all rows in small tiles"):
        cuda.knn_tensor(x, 2, torch.tensor([3]), strategy="pruned")
    with pytest.raises(InputError, match="searches all rows in small tiles"):
        cuda.knn_tensor(x, 2, tile="large", strategy="pruned")
    with pytest.raises(InputError, match="one of full, symmetric, pruned"):
        cuda.knn_tensor(x, 2, strategy="tiled")


def grouped() -> None:
    assert check(clusters(8, 128, 12))[1] <= 32


def structured() -> None:
    """Rows along few directions, with neighbours in tiles that are not next to their own."""
    rng = np.random.default_rng(4)
    x = rng.standard_normal((1000, 3)) @ rng.standard_normal((3, 70))
    check(as_rows((x + 0.02 * rng.standard_normal(x.shape)).astype(np.float32)))


def lengths() -> None:
    """Pairs that only the length of the rest tells apart, or the axes alone, or neither."""
    x = np.repeat(gaussian(450, 3), 2, axis=0)
    x = np.concatenate([x, 1e-3 * gaussian(900, 90, seed=9)], axis=1)
    check(as_rows(np.random.default_rng(0).permutation(x).astype(np.float32)))


def strays(massive: float = 0.0) -> None:
    """Rows whose nearest lies, by a hair, in a tile far off that holds nothing else for them.

    Rows stay in their order: six tiles are a cluster each; two others hold, for each of the six, a
    row near to one of it, a little nearer than any of that tile. Two opposite rows may be massive.
    """
    rng = np.random.default_rng(6)
    centers = rng.standard_normal((10, 20))
    centers *= 5 / np.linalg.norm(centers, axis=1)[:, None]
    x = centers[:, None] + 0.2 * rng.standard_normal((10, 128, 20))
    pure = [naive.knn(tile, 1) for tile in x[:6]]
    for far in (8, 9):
        for tile, (near, _) in enumerate(pure):
            row = (17 * tile + far) % 128
            step = rng.standard_normal(20)
            x[far, tile] = x[tile, row] + 0.999 * near[row] * step / np.linalg.norm(step)
    if massive:
        x[9, 126], x[9, 127] = massive, -massive
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cuda, "order_of", lambda x, axes: torch.arange(len(x)))
        assert check(as_rows(x.reshape(-1, 20)), k=1)[1] < 80


def coarse_strays() -> None:
    """The same where float16 has steps of a tenth of the distances, and bfloat16 serves well."""
    strays(2.0**31)


def far_apart() -> None:
    check(wide_rows(80, 0))


CHECKS = (grouped, structured, lengths, strays, coarse_strays, far_apart)
FAULTS: dict[str, tuple[Callable[[], None], str, str]] = {
    "a removed barrier": (
        grouped,
        "simt::wait<0>();\n    simt::sync();\n    fetch(tile + 1);",
        "simt::wait<0>();\n    fetch(tile + 1);",
    ),
    "a removed barrier in the projection": (
        strays,
        "simt::sync();\n  double* along = left;",
        "double* along = left;",
    ),
    "swapped fragments": (
        strays,
        "((2 * step + right_chunk) ^ (row & 7))",
        "((2 * step + 1 - right_chunk) ^ (row & 7))",
    ),
    "no margin for the rounding": (
        coarse_strays,
        "sqrt(error2) * (1 + 0x1p-30) +\n",
        "0 * sqrt(error2) +\n",
    ),
    "axes taken for orthonormal": (
        strays,
        "const double sigma = sqrt(1 + delta * (1 + delta));",
        "const double sigma = 0.5;",
    ),
    "a 32-bit index": (
        far_apart,
        "return data + i * row_stride;",
        "return data + static_cast<unsigned>(i * row_stride);",
    ),
    "a part of the tiles lost": (structured, "all += there;", "all += there && other < 4;"),
    "lists of other blocks lost": (
        structured,
        "owner(starts[row_tile + 1] - 1) - block + 1, block,",
        "1, block,",
    ),
    "places taken for rows": (
        grouped,
        "const std::int64_t row = ordered ? source.order[column] : column;",
        "const std::int64_t row = column;",
    ),
}  # fmt: skip


@pytest.mark.parametrize("find", CHECKS)
def test_without_faults_the_same_checks_pass(find: Callable[[], None], emulated: Extension) -> None:
    find()


@pytest.mark.parametrize("fault", FAULTS)
def test_planted_faults_are_found(
    fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    find, old, new = FAULTS[fault]
    use(monkeypatch, Extension(compiled(tmp_path, "library.cpp", old, new)))
    with pytest.raises((AssertionError, RuntimeError)):
        find()
