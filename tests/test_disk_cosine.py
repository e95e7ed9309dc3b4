"""cosine_stats(memory=...): the statistics of a call in memory, whatever the tiles."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import gaussian, in_dtype, token_like

from fastdim import BackendError, CosineStats, InputError, cosine_stats
from fastdim.arrays import Rows
from fastdim.disk import angles, budget


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Limits of kilobytes."""
    monkeypatch.setattr(budget, "FIXED", 0)
    monkeypatch.setattr(budget, "LEAST_ROWS", 4)


def limit(n: int, d: int, itemsize: int, tile: int, drawn: int = 0) -> int:
    """The memory that leaves tiles of so many rows."""
    each = d * itemsize + 2 * (-(-d // 64) * 64) + budget.COSINE_ROW
    held = angles.ROW * n + angles.PAIR * drawn + 16 * 200
    return held + 8 * (8 * d * d + 4096 * d) + 2 * tile * each


def same(found: CosineStats, expected: CosineStats) -> None:
    np.testing.assert_array_equal(found.histogram, expected.histogram)
    np.testing.assert_array_equal(found.edges, expected.edges)
    for name in ("min", "max", "n_rows", "n_zero_rows", "n_pairs", "pairs", "band", "backend"):
        assert getattr(found, name) == getattr(expected, name), name
    for name in ("mean", "std", "second_moment"):
        np.testing.assert_allclose(getattr(found, name), getattr(expected, name), rtol=1e-12)
    for name in ("mean_estimate", "std_estimate"):
        one, other = getattr(found, name), getattr(expected, name)
        for part in ("stderr", "lower", "upper"):
            np.testing.assert_allclose(getattr(one, part), getattr(other, part), rtol=1e-6)
        assert (one.n_points, one.n_queries) == (other.n_points, other.n_queries)
        if other.by_group is not None:
            np.testing.assert_allclose(one.by_group, other.by_group, rtol=1e-5, atol=1e-12)


def rows_with_zeros(n: int, d: int) -> np.ndarray:
    x = token_like(n, d)
    x[n // 3 : n // 3 + 40] = x[3]
    x[n // 2] = 0.0
    x[: n // 10] = -x[n // 10 : 2 * (n // 10)]
    return x


@pytest.mark.parametrize("pairs", [None, 500, "all"])
@pytest.mark.parametrize("tile", [1, 2, 5])
@pytest.mark.parametrize("shape", [(900, 24), (300, 80), (1200, 100)])
def test_equal_to_a_call_in_memory(shape: tuple[int, int], tile: int, pairs: Any) -> None:
    n, d = shape
    x = rows_with_zeros(n, d)
    groups = np.arange(n) // 7
    memory = limit(n, d, 4, -(-n // tile) // (2 if tile == 1 else 1) + 1, pairs == 500 and 500)
    found = cosine_stats(x, pairs=pairs, groups=groups, memory=memory, seed=3)
    same(found, cosine_stats(x, pairs=pairs, groups=groups, seed=3))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_equal_in_every_dtype_and_level(isa: str, dtype: str) -> None:
    rows = in_dtype(rows_with_zeros(700, 20) / 64, dtype)
    memory = limit(700, 20, rows.data.itemsize, 200)
    found = cosine_stats(rows, memory=memory)
    same(found, cosine_stats(rows))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_equal_rows_that_tiles_meet_in_another_order(isa: str, dtype: str) -> None:
    """A cosine has the same bits whichever row comes first: counts are taken off each other."""
    rng = np.random.default_rng(0)
    for _ in range(8):
        rows = in_dtype(rng.standard_normal((12, 6))[rng.integers(0, 12, 300)], dtype)
        expected = cosine_stats(rows, pairs="all")
        memory = limit(300, 6, rows.data.itemsize, 20)
        same(cosine_stats(rows, pairs="all", memory=memory), expected)
        turned = cosine_stats(Rows(rows.data[::-1].copy(), dtype), pairs="all")
        assert (turned.min, turned.max) == (expected.min, expected.max)


def test_a_tile_of_zeros_only(monkeypatch: pytest.MonkeyPatch) -> None:
    x = gaussian(800, 8).astype(np.float32)
    x[100:400] = 0.0
    monkeypatch.setattr(budget, "plan_cosines", lambda *_: budget.Plan(200, 100, 0))
    for pairs in ("all", 300):
        same(cosine_stats(x, pairs=pairs, memory="1GB"), cosine_stats(x, pairs=pairs))


def test_leading_axes_of_each_tile_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fastdim.cosine.AXES_PAIRS", 1000)
    x = token_like(1500, 100)
    expected = cosine_stats(x, pairs="all")
    found = cosine_stats(x, pairs="all", memory=limit(1500, 100, 4, 400))
    same(found, expected)


def test_fast_is_exact_on_disk() -> None:
    x = token_like(500, 30)
    found = cosine_stats(x, precision="fast", memory=limit(500, 30, 4, 100))
    assert found.precision == "exact"
    same(found, cosine_stats(x))


def test_bad_values(tmp_path: Path) -> None:
    x = token_like(500, 30)
    x[310, 7] = np.nan
    np.save(tmp_path / "x.npy", x)
    with pytest.raises(InputError) as expected:
        cosine_stats(x)
    with pytest.raises(InputError) as found:
        cosine_stats(tmp_path / "x.npy", memory=limit(500, 30, 4, 100))
    assert str(found.value) == str(expected.value)
    x[310, 7] = 0.0
    x[400] = 1e-200  # vanishes in float32: zero
    y = x.astype(np.float64)
    y[401] = 1e-200
    with pytest.raises(InputError, match="row 401 is not zero, yet"):
        cosine_stats(y, memory=limit(500, 30, 8, 100))
    with pytest.raises(InputError, match="at least two rows that are not zero, got 0 of 9"):
        cosine_stats(np.zeros((9, 3)), memory="1GB")
    with pytest.raises(InputError, match="2 rows and 2 columns, got 9 x 1"):
        cosine_stats(np.ones((9, 1)), memory="1GB")
    with pytest.raises(InputError, match="groups must hold one label a row"):
        cosine_stats(x, groups=[1, 2], memory="1GB")
    with pytest.raises(BackendError, match="does not read tiles"):
        cosine_stats(x, backend="triton", memory="1GB")
    with pytest.raises(InputError, match="pass memory='4GB'"):
        cosine_stats("rows.npy")


def test_the_least_limit_is_said_and_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    x = gaussian(30_000, 16).astype(np.float32)
    with pytest.raises(InputError, match="less than one tile needs") as error:
        cosine_stats(x, pairs=100, memory="1MB")
    least = str(error.value).split("memory='")[1].split("'")[0]
    with pytest.raises(InputError, match="less than one tile needs"):
        cosine_stats(x, pairs=100, memory=f"{int(least[:-2]) - 1}MB")
    same(cosine_stats(x, pairs=100, memory=least), cosine_stats(x, pairs=100))
