"""knn(memory=...): the result of a search in memory, whatever the tiles."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import gaussian, in_dtype, token_like
from quasi import assert_quasi_equal

import fastdim as fd
from fastdim import BackendError, InputError, Rows, knn, naive
from fastdim.disk import budget


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Limits of kilobytes: nothing counted for the kernels' fixed memory, tiles of a few rows."""
    monkeypatch.setattr(budget, "FIXED", 0)
    monkeypatch.setattr(budget, "LEAST_ROWS", 4)


def grid() -> np.ndarray:
    """Integer places: nearly every distance is a tie, and some rows are equal."""
    return np.random.default_rng(4).integers(0, 4, (350, 4)).astype(np.float32)


def equal_rows() -> np.ndarray:
    x = token_like(600, 20)
    x[300:420] = x[5]
    x[599], x[0], x[1] = x[2], 0.0, -0.0
    return x


CASES = {"tokens": token_like(700, 40), "ties": grid(), "equal rows": equal_rows()}
QUERIES: dict[str, Any] = {
    "all": None,
    "30": 30,
    "most": 300,
    "given": np.array([349, 0, 7, 7, 3, 120]),
    "mask": np.arange(350) % 5 == 0,
}


def same(found: fd.Neighbors, expected: fd.Neighbors) -> None:
    np.testing.assert_array_equal(found.distances, expected.distances)
    np.testing.assert_array_equal(found.indices, expected.indices)
    np.testing.assert_array_equal(found.queries, expected.queries)
    np.testing.assert_array_equal(found.far, expected.far)
    assert (found.n_points, found.n_distinct) == (expected.n_points, expected.n_distinct)
    assert (found.backend, found.duplicates) == (expected.backend, expected.duplicates)
    assert found.distances.dtype == expected.distances.dtype


@pytest.mark.parametrize("memory", [400_000, 900_000, "1GB"])
@pytest.mark.parametrize("duplicates", ["keep", "collapse"])
@pytest.mark.parametrize("queries", QUERIES)
@pytest.mark.parametrize("case", CASES)
def test_equal_to_a_search_in_memory(case: str, queries: str, duplicates: str, memory: Any) -> None:
    x = CASES[case] if queries != "mask" else CASES[case][:350]
    asked = QUERIES[queries]
    for k in (1, 5):
        found = knn(x, k, queries=asked, duplicates=duplicates, memory=memory)
        same(found, knn(x, k, queries=asked, duplicates=duplicates))
        if memory == "1GB":
            assert found.plan["tiles"] == 1
        if memory == 400_000 and duplicates == "keep":
            assert found.plan["tiles"] > 1


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_equal_in_every_dtype_and_level(isa: str, dtype: str) -> None:
    rows = in_dtype(token_like(500, 33) / 16, dtype)
    for queries in (None, 40):
        expected = knn(rows, 3, queries=queries)
        found = knn(rows, 3, queries=queries, memory=500_000)
        assert found.plan["tiles"] > 1
        same(found, expected)
        assert found.backend == f"cpu-{isa}"


def test_against_the_reference() -> None:
    x = token_like(300, 24)
    found = knn(x, 4, memory=300_000)
    assert found.plan["tiles"] > 3
    assert_quasi_equal(found.distances, found.indices, naive.knn(x, 4)[0], x.astype(np.float64))


def test_random_sizes() -> None:
    rng = np.random.default_rng(11)
    several = 0
    for _ in range(40):
        n, d = int(rng.integers(3, 300)), int(rng.integers(1, 60))
        x = rng.integers(-3, 4, (n, d)).astype(rng.choice(["float32", "float64"]))
        k = int(rng.integers(1, min(n, 12)))
        queries = rng.choice(np.array([None, int(rng.integers(1, n + 5))], dtype=object))
        memory = int(rng.integers(100_000, 300_000))
        found = knn(x, k, queries=queries, memory=memory, threads=int(rng.integers(1, 4)))
        same(found, knn(x, k, queries=queries))
        several += found.plan["tiles"] > 1
    assert several > 10


def test_more_neighbours_than_a_tile_has_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    x = gaussian(120, 8)
    monkeypatch.setattr(budget, "plan_search", lambda *_: budget.Plan(10, 5, 0))
    found = knn(x, 30, memory="1MB")
    assert found.plan["tile_rows"] == 5
    same(found, knn(x, 30))


def test_a_query_alone_in_its_tile(monkeypatch: pytest.MonkeyPatch) -> None:
    x = gaussian(11, 3)
    for tile in (1, 5, 10):
        monkeypatch.setattr(budget, "plan_search", lambda *_, t=tile: budget.Plan(t + 1, t, 1))
        for query in (0, 5, 10):
            same(knn(x, 2, queries=[query], memory="1MB"), knn(x, 2, queries=[query]))


def test_strategies_agree() -> None:
    x = token_like(900, 130)
    expected = knn(x, 2)
    for strategy in ("pruned", "full", "rows", "tiled"):
        found = knn(x, 2, strategy=strategy, memory=1_500_000)
        assert found.plan["strategy"] == strategy
        same(found, expected)


def test_an_error_of_queries_is_stated() -> None:
    x = gaussian(900, 6)
    found = knn(x, queries="20%", memory=500_000)
    same(found, knn(x, queries="20%"))
    assert found.plan["query_error"] == "20%"


def test_duplicates_raise_as_in_memory() -> None:
    x = equal_rows()
    with pytest.raises(InputError) as expected:
        knn(x, duplicates="raise")
    with pytest.raises(InputError) as found:
        knn(x, duplicates="raise", memory=400_000)
    assert str(found.value) == str(expected.value)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("queries", [None, 20])
def test_bad_values_are_refused_as_in_memory(tmp_path: Path, bad: float, queries: Any) -> None:
    x = token_like(500, 30)
    x[[310, 480], 7] = bad
    np.save(tmp_path / "a.npy", x[:200])
    np.save(tmp_path / "b.npy", x[200:])
    with pytest.raises(InputError) as expected:
        knn(x)
    for duplicates in ("keep", "collapse"):
        with pytest.raises(InputError) as found:
            knn(tmp_path, queries=queries, duplicates=duplicates, memory=300_000)
        assert str(found.value) == str(expected.value)
    assert "2 NaN or infinite values" in str(expected.value)
    assert "row 310, column 7" in str(expected.value)


def test_an_overflow_is_refused_as_in_memory() -> None:
    x = np.array([[1e38, 0], [-3e38, 0], [3e38, 1]] * 30, dtype=np.float32)
    x[:, 1] = np.arange(90)
    x[1:] = x[1]
    with pytest.raises(InputError, match="overflow float32"):
        knn(x, 89, memory=200_000)


@pytest.mark.parametrize(
    "memory", [0, -1, 1.5, True, "", "GB", "4 gigabytes", "0GB", "-4GB", "4XB", None]
)
def test_a_limit_that_is_none(memory: Any) -> None:
    if memory is None:  # no limit: a path needs one, and so does resume
        with pytest.raises(InputError, match="pass memory='4GB'"):
            knn("rows.npy")
        with pytest.raises(InputError, match="pass memory='4GB'"):
            knn(gaussian(9, 3), resume="folder")
        return
    with pytest.raises(InputError, match="memory must be"):
        knn(gaussian(9, 3), memory=memory)


@pytest.mark.parametrize(
    ("text", "count"), [("4GB", 4 * 10**9), ("1.5 gib", 3 * 2**29), ("7", 0), ("512MiB", 2**29)]
)
def test_the_spelling_of_a_limit(text: str, count: int) -> None:
    if count:
        assert budget.parse_memory(text) == count
    else:
        with pytest.raises(InputError, match="memory must be"):
            budget.parse_memory(text)


@pytest.mark.parametrize("duplicates", ["keep", "collapse"])
def test_the_least_limit_is_said_and_does(monkeypatch: pytest.MonkeyPatch, duplicates: str) -> None:
    monkeypatch.undo()
    x = gaussian(40_000, 16).astype(np.float32)
    with pytest.raises(InputError, match="pass memory='") as error:
        knn(x, queries=50, duplicates=duplicates, memory="1MB")
    least = str(error.value).split("memory='")[1].split("'")[0]
    with pytest.raises(InputError, match="pass memory='"):
        knn(x, queries=50, duplicates=duplicates, memory=f"{int(least[:-2]) - 2}MB")
    found = knn(x, queries=50, duplicates=duplicates, memory=least)
    same(found, knn(x, queries=50, duplicates=duplicates))


def test_what_tiles_do_not_do() -> None:
    x = gaussian(40, 5)
    with pytest.raises(BackendError, match="does not read tiles"):
        knn(x, backend="faiss", memory="1GB")
    with pytest.raises(InputError, match="rows of another matrix"):
        knn(x, queries=gaussian(3, 5), memory="1GB")
    with pytest.raises(InputError, match="strategy must be"):
        knn(x, strategy="fast", memory="1GB")
    with pytest.raises(InputError, match="k = 40"):
        knn(x, 40, memory="1GB")
    with pytest.raises(InputError, match="queries must lie in"):
        knn(x, queries=[40], memory="1GB")
    with pytest.raises(InputError, match="at least 2 rows"):
        knn(x[:1], memory="1GB")


def test_a_prepared_matrix_is_rows_like_others() -> None:
    x = token_like(300, 12)
    same(knn(fd.prepare(x), memory=300_000), knn(x))
    assert isinstance(fd.prepare(x), Rows)
