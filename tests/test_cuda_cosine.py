"""Cosine statistics by the CUDA kernels: their sources on an emulated GPU."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import gaussian, token_like
from cosine_cases import (
    with_zero_rows,
)
from cuda_cases import Extension, compiled, emulated, use
from filter_cases import reserved, wide_rows

from fastdim import BackendError, InputError, Rows, as_rows, cosine_stats, naive
from fastdim.backends import cuda_cosine, devices

__all__ = ["emulated"]  # a fixture


@pytest.fixture(scope="module")
def code(tmp_path_factory: pytest.TempPathFactory) -> Extension:
    return Extension(compiled(tmp_path_factory.mktemp("cosine"), "cosine_library.cpp"))


@pytest.mark.parametrize("bins", [1, 2, 3000, 8192])
def test_any_number_of_bins(bins: int, emulated: Extension) -> None:
    x = gaussian(70, 9)
    found = cosine_stats(x, bins=bins, backend="cuda")
    np.testing.assert_array_equal(found.histogram, naive.cosine_stats(x, bins=bins).histogram)


def test_sampled_pairs_are_those_of_the_cpu(emulated: Extension) -> None:
    x = with_zero_rows(70).astype(np.float32)
    ours, cpu = cosine_stats(x, pairs=500, backend="cuda"), cosine_stats(x, pairs=500)
    np.testing.assert_array_equal(ours.histogram, cpu.histogram)
    assert (ours.min, ours.max) == pytest.approx((cpu.min, cpu.max), abs=1e-12)
    assert (ours.pairs, ours.band) == (cpu.pairs, cpu.band)


def test_the_same_bits_for_any_order_of_warps(emulated: Extension) -> None:
    x = token_like(200)
    first = cosine_stats(x, backend="cuda")
    for seed in (2, 3):
        emulated.seed(seed)
        other = cosine_stats(x, backend="cuda")
        assert (first.mean, first.std, first.min) == (other.mean, other.std, other.min)
        np.testing.assert_array_equal(first.histogram, other.histogram)


def test_every_tile_belongs_to_one_run(emulated: Extension, monkeypatch: Any) -> None:
    """Runs of one tile to all of them, also more than the counts stay in shared memory for."""
    x = gaussian(64 * 12 - 5, 2)
    want = naive.cosine_stats(x)
    for runs in (1, 2, 7, 77, 78):
        monkeypatch.setattr(cuda_cosine, "RUNS", runs)
        found = cosine_stats(x, backend="cuda")
        np.testing.assert_array_equal(found.histogram, want.histogram)
        assert found.mean == pytest.approx(want.mean, abs=1e-12)


def test_bad_input_is_refused(emulated: Extension) -> None:
    x = gaussian(20, 4)
    with pytest.raises(BackendError, match="8192 bins"):
        cosine_stats(x, bins=8193, backend="cuda")
    with pytest.raises(InputError, match="at least two rows that are not zero, got 1 of 5"):
        cosine_stats(np.eye(5)[[0]].repeat(5, axis=0) * np.eye(5)[0][:, None], backend="cuda")
    with pytest.raises(InputError, match="2 columns"):
        cosine_stats(x[:, :1], backend="cuda")
    x[3] *= 1e-200
    with pytest.raises(InputError, match="row 3 is not zero, yet its squares vanish"):
        cosine_stats(x, backend="cuda")
    unit = cuda_cosine.unit_rows(torch.from_numpy(gaussian(9, 4)))
    with pytest.raises(RuntimeError, match="a tile a run"):
        emulated.cosine_pairs(0, 9, 16, 16, *(t.data_ptr() for t in (unit.slopes,) * 3), 8, 2, 0, 0)


def test_without_extension_or_device_the_error_says_what_to_do() -> None:
    with pytest.raises(BackendError, match=r"FASTDIM_CUDA=ON|finds no device|sees no GPU"):
        cosine_stats(gaussian(8, 2), backend="cuda")


def plain(engine: Extension) -> None:
    """Some tiles and slices, one run and several, in three orders of warps."""
    for n, d, runs in ((150, 70, 4096), (330, 20, 2)):
        x = gaussian(n, d)
        for seed in (1, 2, 3):
            engine.seed(seed)
            compare(x, runs)


def compare(x: np.ndarray, runs: int) -> None:
    unit = cuda_cosine.unit_rows(devices.upload(as_rows(x), "cpu"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cuda_cosine, "RUNS", runs)
        found, want = cuda_cosine.all_pairs(unit, 30), naive.cosine_stats(x, bins=30)
    np.testing.assert_array_equal(found.histogram, want.histogram)
    np.testing.assert_allclose([found.mean, found.low, found.high], [want.mean, want.min, want.max])
    np.testing.assert_allclose(found.variance, want.std**2, rtol=1e-9)


def many_tiles(engine: Extension) -> None:
    """One run of 78 tiles, more than the counts stay in shared memory for."""
    engine.seed(1)
    compare(gaussian(64 * 12 - 5, 2), 1)


def far_apart(engine: Extension) -> None:
    """Rows of the input and unit rows at offsets that 32 bits do not hold."""
    rows = wide_rows(80, 0)
    x = devices.upload(rows, "cpu")
    values = rows.data.astype(np.float64)
    unit = cuda_cosine.unit_rows(x)
    directions = values / np.linalg.norm(values, axis=1)[:, None]
    w = directions - directions.mean(axis=0)
    np.testing.assert_allclose(unit.w[:80, :3].numpy(), w, atol=1e-15)
    pairs = cuda_cosine.some_pairs(unit, np.array([79, 0]), np.array([0, 70]))
    ends = [directions[79] @ directions[0], directions[0] @ directions[70]]
    np.testing.assert_allclose(pairs, ends, rtol=1e-13)
    step = 1 << 26
    whole = reserved(4 * 128 * step + 4 * 16).view(np.float64)
    far = np.lib.stride_tricks.as_strided(whole, (128, 16), (step * 8, 8))
    far[:80, :3] = w
    spread = torch.from_numpy(far)
    found = cuda_cosine.all_pairs(
        cuda_cosine.UnitRows(x, unit.inverse, unit.chosen, spread, unit.slopes, unit.center), 30
    )
    want = naive.cosine_stats(Rows(values, "float64"), bins=30)
    np.testing.assert_array_equal(found.histogram, want.histogram)


CHECKS = (plain, many_tiles, far_apart)
FAULTS: dict[str, tuple[Callable[[Extension], None], str, str]] = {
    "a removed barrier": (
        plain,
        "simt::wait<kCosineStages - 2>();\n      simt::sync();",
        "simt::wait<kCosineStages - 2>();",
    ),
    "a removed barrier before the counts": (
        plain,
        "number + 1 == last) {\n      simt::sync();",
        "number + 1 == last) {",
    ),
    "a removed barrier before the sums": (
        plain,
        "simt::sync();\n  if (thread != 0) return;",
        "if (thread != 0) return;",
    ),
    "a copy not waited for": (plain, "simt::wait<kCosineStages - 2>();", ""),
    "swapped fragments": (
        plain,
        "chunk = 2 * step + part_column / 2;",
        "chunk = 2 * step + 1 - part_column / 2 * step;",
    ),
    "a dropped mask, pairs twice": (
        plain,
        "if (row >= column || column >= p.m) continue;",
        "if (row == column || column >= p.m) continue;",
    ),
    "a dropped mask, the tail": (
        plain,
        "if (row >= column || column >= p.m) continue;",
        "if (row >= column) continue;",
    ),
    "a 32-bit index, rows": (
        far_apart,
        "value = decode(data[row * row_stride + c]) * inverse[row]",
        "value = decode(data[static_cast<unsigned>(row * row_stride + c)]) * inverse[row]",
    ),
    "a 32-bit index, norms": (
        far_apart,
        "const double v = decode(data[row * row_stride + c]);\n    square",
        "const double v = decode(data[static_cast<unsigned>(row * row_stride + c)]);\n    square",
    ),
    "a 32-bit index, sums": (
        far_apart,
        "data[chosen[i] * row_stride + column]",
        "data[static_cast<unsigned>(chosen[i] * row_stride + column)]",
    ),
    "a 32-bit index, pairs": (
        far_apart,
        "decode(data[i * row_stride + c]) * first",
        "decode(data[static_cast<unsigned>(i * row_stride + c)]) * first",
    ),
    "a 32-bit index, tiles": (
        far_apart,
        "p.w + from * p.w_stride +",
        "p.w + static_cast<unsigned>(from * p.w_stride) +",
    ),
    "a bin beyond its edge": (
        plain,
        "static_cast<int>((cosine + 1.0) * 0.5 * static_cast<double>(bins))",
        "static_cast<int>((cosine + 1.0) * 0.5 * static_cast<double>(bins) + 1.01)",
    ),
    "a copy of the bins lost": (plain, "copy < copies; ++copy", "copy < 1; ++copy"),
    "counts moved but not cleared": (many_tiles, "counts[copy * bins + b] = 0;", ""),
    "counts moved before the last tile alone": (
        many_tiles,
        "== kFlush - 1 || number + 1 == last)",
        "== kFlush - 1)",
    ),
    "a lost merge of sums": (plain, "(by_warp[0] + by_warp[1]) + (by_warp[2]", "(by_warp[0]"),
    "a tile left out": (plain, "min(run, all % p.runs)", "0 * min(run, all % p.runs)"),
}


@pytest.mark.parametrize("find", CHECKS)
def test_without_faults_the_same_checks_pass(find: Any, emulated: Extension) -> None:
    find(emulated)


@pytest.mark.parametrize("fault", FAULTS)
def test_planted_faults_are_found(
    fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    find, old, new = FAULTS[fault]
    broken = Extension(compiled(tmp_path, "cosine_library.cpp", old, new))
    use(monkeypatch, broken)
    with pytest.raises((AssertionError, RuntimeError)):
        find(broken)
