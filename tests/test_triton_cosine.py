"""Cosine statistics and row statistics by the Triton kernels, in Triton's interpreter."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from conftest import gaussian, in_dtype, token_like
from cosine_cases import (
    with_zero_rows,
)
from filter_cases import wide_rows
from triton_cases import shared_storage

from fastdim import BackendError, InputError, cosine_stats, naive, twonn
from fastdim.backends import devices
from fastdim.backends import triton as engine
from fastdim.backends.triton import launch
from fastdim.neighbors import search_tensor

__all__ = ["shared_storage"]  # a fixture


def test_sampled_pairs_are_those_of_the_cpu() -> None:
    x = with_zero_rows(70).astype(np.float32)
    ours, cpu = cosine_stats(x, pairs=500, backend="triton"), cosine_stats(x, pairs=500)
    np.testing.assert_array_equal(ours.histogram, cpu.histogram)
    assert (ours.min, ours.max) == pytest.approx((cpu.min, cpu.max), abs=1e-12)
    assert (ours.pairs, ours.band) == (cpu.pairs, cpu.band)


def test_the_same_bits_on_every_run() -> None:
    x = token_like(140)
    first, second = (cosine_stats(x, backend="triton") for _ in range(2))
    assert (first.mean, first.std, first.min) == (second.mean, second.std, second.min)
    np.testing.assert_array_equal(first.histogram, second.histogram)


def test_bad_input_is_refused() -> None:
    x = gaussian(20, 4)
    with pytest.raises(BackendError, match="2047 bins"):
        cosine_stats(x, bins=2048, backend="triton")
    with pytest.raises(BackendError, match="'faiss' has no cosine statistics"):
        cosine_stats(x, backend="faiss")
    with pytest.raises(BackendError, match="nonsense"):
        cosine_stats(x, backend="nonsense")
    with pytest.raises(InputError, match="at least two rows that are not zero, got 1 of 5"):
        cosine_stats(np.eye(5)[[0]].repeat(5, axis=0) * np.eye(5)[0][:, None], backend="triton")
    x[3] *= 1e-200
    with pytest.raises(InputError, match="row 3 is not zero, yet its squares vanish"):
        cosine_stats(x, backend="triton")


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_distinct_rows(dtype: str) -> None:
    rng = np.random.default_rng(5)
    for d in (1, 3, 70):
        x = rng.integers(-1, 2, (150, d)).astype(np.float64)
        x[rng.integers(0, 150, 60)] *= -1.0  # makes -0.0
        rows = in_dtype(x, dtype)
        expected = naive.distinct(rows)
        tensor = devices.upload(rows, "cpu")
        for backend in ("triton", "cuda"):  # the latter without the extension's help
            first, inverse = devices.distinct(backend, tensor)
            np.testing.assert_array_equal(first, expected[0])
            np.testing.assert_array_equal(inverse, expected[1])


def test_a_shared_hash_is_found_and_drawn_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.from_numpy(np.arange(12.0).reshape(6, 2) // 4)
    proper = launch.row_statistics
    seeds: list[int] = []

    def colliding(x: torch.Tensor, seed: int = 0) -> Any:
        seeds.append(seed)
        norms, hashes = proper(x, seed)
        return norms, hashes if len(seeds) > 2 else hashes * 0

    monkeypatch.setattr(launch, "row_statistics", colliding)
    np.testing.assert_array_equal(engine.distinct(x)[0], [0, 2, 4])
    assert len(seeds) == 3
    monkeypatch.setattr(launch, "row_statistics", lambda x, seed: (None, torch.zeros(6).long()))
    with pytest.raises(BackendError, match="shared a 64-bit hash"):
        engine.distinct(x)


def test_norms_hashes_and_scaled_rows(shared_storage: None) -> None:
    rows = wide_rows(40, 32)  # offsets beyond 31 bits
    x = devices.upload(rows, "cpu")
    values = rows.data.astype(np.float64)
    norms, hashes = launch.row_statistics(x)
    np.testing.assert_allclose(norms.numpy(), np.linalg.norm(values, axis=1), rtol=1e-14)
    assert len(set(hashes.tolist())) == 40
    np.testing.assert_array_equal(hashes.numpy(), launch.row_statistics(x.float())[1].numpy())
    total, low, high = launch.column_sums(x)
    np.testing.assert_allclose(total.numpy(), values.sum(axis=0), rtol=1e-12)
    np.testing.assert_array_equal([low.numpy(), high.numpy()], [values.min(0), values.max(0)])
    assert len(engine.distinct(x)[0]) == 40
    unit = values / norms.numpy()[:, None]
    cosines = engine.some_pairs(engine.unit_rows(x), np.array([39, 0]), np.array([0, 7]))
    np.testing.assert_allclose(cosines, [unit[39] @ unit[0], unit[0] @ unit[7]], rtol=1e-13)
    chosen, mean = torch.tensor([39, 0, 7]), total / 40
    for dtype, tolerance in ((torch.float64, 1e-15), (torch.float32, 1e-6)):
        out, slopes = launch.scaled(x, chosen, 1 / norms, mean, dtype)
        want = values[chosen] / norms.numpy()[chosen, None] - mean.numpy()
        assert out.dtype == dtype
        np.testing.assert_allclose(out[:3, :3].numpy(), want, atol=tolerance)
        assert not out[3:].any()
        assert not out[:, 3:].any()
        np.testing.assert_allclose(slopes[:3].numpy(), want @ mean.numpy(), atol=1e-14)


def test_search_of_a_tensor_returns_tensors() -> None:
    x = gaussian(60, 5).astype(np.float32)
    x[40:50] = x[3]
    tensor = torch.from_numpy(x)
    for duplicates in ("keep", "collapse"):
        found = search_tensor(tensor, 2, torch.tensor([7, 41]), 0, duplicates, "triton")
        assert isinstance(found.indices, torch.Tensor)
        fetched = found.numpy()
        numbers = np.array([7, 41 if duplicates == "keep" else 3])
        np.testing.assert_array_equal(fetched.queries, numbers)
        kept = naive.distinct(x)[0] if duplicates == "collapse" else np.arange(60)
        want, _ = naive.knn(x[kept], 2, np.searchsorted(kept, numbers))
        np.testing.assert_allclose(fetched.distances, want, rtol=1e-6)
        assert fetched.n_distinct == (50 if duplicates == "collapse" else None)
    with pytest.raises(InputError, match="10 of 60 rows equal"):
        search_tensor(tensor, 2, None, 0, "raise", "triton")
    found = search_tensor(tensor, 2, None, 0, "collapse", "triton")
    assert twonn(found).value == pytest.approx(twonn(x).value, rel=1e-6)
    far = torch.tensor([[3e38, 3e38], [-3e38, -3e38], [3e38, -3e38]])
    with pytest.raises(InputError, match="overflow float32"):
        search_tensor(far, 1, None, 0, "keep", "triton")
