"""Few queries on axes that are known before the search: no neighbour is lost, whatever they are."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from conftest import gaussian, in_dtype, token_like
from sweep_cases import settings_of

from fastdim import Rows, _core, naive
from fastdim.backends import cpu
from fastdim.sweeps.filters import FILTERS, LayerRows, apply
from fastdim.sweeps.shared import SharedLayer


def has_int8(isa: str) -> bool:
    return "int8" in _core.filter_arithmetics(isa)


@pytest.fixture
def tried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sets of any size are prepared, and axes are taken whatever a sample says."""
    for name in ("MIN_ROUNDED", "MIN_PREPARED", "MIN_QUERIES"):
        monkeypatch.setattr(cpu, name, 1)
    monkeypatch.setattr(cpu, "FIRST_AXES", cpu.KNOWN_AXES)


def leading(rows: Rows) -> np.ndarray:
    """Principal axes, longest first, of all but massive rows."""
    x = np.asarray(rows.float64(0, rows.n))
    x = x - np.median(x, axis=0)
    norms = np.linalg.norm(x, axis=1)
    x = x[norms <= 5.0 * np.median(norms)]
    return np.asarray(np.linalg.svd(x / (norms.max() or 1.0))[2])


def search(
    rows: Rows, axes: np.ndarray, queries: Any, k: int, threads: int = 2, **options: Any
) -> tuple[Any, Any, Any]:
    queried = None if queries is None else len(queries)
    index = cpu.Index(rows, k, threads, queries=queried, axes=lambda: axes, **options)
    return index.knn(queries, k, threads)


def compare(
    rows: Rows, axes: np.ndarray, queries: Any, k: int, isa: str, threads: int = 2
) -> dict[str, Any]:
    """Bit for bit the tiled scan and the search without axes, and that is the reference."""
    found = search(rows, axes, queries, k, threads)
    tiled = cpu.knn(rows, queries, k, 2, strategy="tiled")
    direct = cpu.knn(rows, queries, k, 2, strategy="direct")
    for one, other, third in zip(found[:2], tiled[:2], direct[:2], strict=True):
        np.testing.assert_array_equal(one, other)
        np.testing.assert_array_equal(one, third)
    some = np.arange(rows.n)[:7] if queries is None else queries[:7]
    np.testing.assert_allclose(found[0][:7], naive.knn(rows, k, some)[0], rtol=1e-12)
    if has_int8(isa) and found[2]["rows_distinct"] > 1:
        assert found[2]["strategy"] == "pruned"
        assert (found[2]["arithmetic"], found[2]["second"]) == ("int8", "int8")
        assert found[2]["axes"] == min(len(axes), cpu.KNOWN_AXES)
    else:
        assert found[2]["second"] != "int8"
    return dict(found[2])


def few_directions(n: int, d: int) -> np.ndarray:
    """Rows in a space of four dimensions: nothing lies beyond the axes."""
    return np.asarray(gaussian(n, 4) @ gaussian(4, d, seed=1))


def nearly_equal(n: int, d: int) -> np.ndarray:
    """Pairs of rows nearer than int16 of the row can tell."""
    x = 30.0 + gaussian(n, d)
    x[1::2] = x[: 2 * (n // 2) : 2] + 1e-6 * gaussian(n // 2, d, seed=2)
    return x


def massive_column(n: int, d: int) -> np.ndarray:
    x = gaussian(n, d)
    x[:, d // 2] = 300.0 * (np.arange(n) % 3)
    return x


SETS: dict[str, Callable[[int, int], np.ndarray]] = {
    "token_like": token_like,
    "far": lambda n, d: token_like(n, d) + 5e4,
    "few_directions": few_directions,
    "nearly_equal": nearly_equal,
    "massive_column": massive_column,
    "duplicates": lambda n, d: token_like(n, d)[np.random.default_rng(1).integers(0, n // 3, n)],
    "isotropic": gaussian,
    "line": lambda n, d: np.arange(float(n))[:, None] ** 2 * gaussian(1, d),
}


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
@pytest.mark.parametrize("name", SETS)
def test_every_set_and_number_type(name: str, dtype: str, isa: str, tried: None) -> None:
    x = SETS[name](1057, 150)
    if dtype == "float16":
        x = x / np.abs(x).max() * 100.0
    rows = in_dtype(x, dtype)
    axes = leading(rows)
    for queries, k in ((np.arange(0, 1057, 9), 3), (None, 2)):
        compare(rows, axes, queries, k, isa)


@pytest.mark.parametrize("d", [1, 2, 15, 16, 17, 63, 65, 126, 127, 128, 129, 257, 600])
def test_widths_around_vectors_and_axes(d: int, isa: str, tried: None) -> None:
    for n in (2, 3, 17, 33, 255, 257, 530):
        rows = in_dtype(token_like(n + 4, d)[:n], "float32")
        compare(rows, leading(rows), np.arange(0, n, 2), min(5, n - 1), isa)


def bases(d: int) -> dict[str, np.ndarray]:
    """Matrices that are no principal axes; their rows are not longer than is allowed."""
    rng = np.random.default_rng(0)
    random = np.linalg.svd(rng.standard_normal((d, d)))[0]
    return {
        "random": random[:30],
        "zero": np.zeros((5, d)),
        "repeated": np.repeat(np.eye(d)[:1], 12, axis=0),
        "near each other": np.eye(d)[:1] + 0.01 * random[:20],
        "long": 1.3 * random[:20],
        "short": 1e-3 * random[:20],
        "one": -np.eye(d)[:1],
    }


@pytest.mark.parametrize("name", bases(40))
def test_no_axes_are_trusted(name: str, isa: str, tried: None) -> None:
    x = gaussian(700, 40) * np.linspace(3, 0.01, 40) + 40.0
    for scale in (1.0, 1e-18, 1e17):
        rows = in_dtype(x * scale, "float32")
        compare(rows, bases(40)[name], np.arange(0, 700, 3), 4, isa)


@pytest.mark.parametrize("scale", [1e-300, 1e-160, 1e150, 1e300])
def test_any_scale(scale: float, isa: str, tried: None) -> None:
    x = token_like(600, 140).astype(np.float64) / 1e4
    rows = in_dtype(x * scale, "float64")
    found = search(rows, leading(in_dtype(x, "float64")), np.arange(0, 600, 5), 3)
    tiled = cpu.knn(rows, np.arange(0, 600, 5), 3, 2, strategy="tiled")
    np.testing.assert_array_equal(found[0], tiled[0])
    np.testing.assert_array_equal(found[1], tiled[1])
    assert (found[2]["second"] == "int8") == has_int8(isa)


def test_rows_that_are_subnormal(isa: str, tried: None) -> None:
    x = token_like(600, 140)
    rows = in_dtype(x * np.float32(1e-42), "float32")
    compare(rows, leading(in_dtype(x, "float32")), np.arange(50), 3, isa)


def test_neighbors_that_the_axes_do_not_see(isa: str, tried: None) -> None:
    # Rows on seven rays: what tells neighbours apart is the length beyond the axes.
    rng = np.random.default_rng(3)
    rays = 10.0 * rng.standard_normal((7, 40)) / np.sqrt(40)
    x = rng.uniform(1, 2, (700, 1)) * rays[rng.integers(0, 7, 700)] + 1e-5 * gaussian(700, 40)
    rows = in_dtype(x, "float32")
    for count in (1, 12):
        compare(rows, np.eye(40)[:count], np.arange(0, 700, 4), 3, isa)


def test_strides_threads_and_groups_move_no_bit(isa: str, tried: None) -> None:
    x = in_dtype(token_like(900, 150), "float32").data
    wide = np.full((900, 170), np.nan, dtype=np.float32)
    wide[:, :150] = x
    for rows in (Rows(x, "float32"), Rows(wide[:, :150], "float32")):
        for threads in (1, 2, 7):
            compare(rows, leading(rows), np.arange(0, 900, 7), 3, isa, threads)
    repeated = Rows(x[np.arange(900) % 400], "float32")
    index = cpu.Index(repeated, 3, 2, queries=50, axes=lambda: leading(repeated))
    plain = cpu.Index(repeated, 3, 2, "tiled")
    queries = np.arange(0, 400, 8)
    for one, other in zip(
        index.knn(queries, 3, 2, by_group=True)[:2],
        plain.knn(queries, 3, 2, by_group=True)[:2],
        strict=True,
    ):
        np.testing.assert_array_equal(one, other)


def bent(n: int, d: int) -> Rows:
    """Rows near a space of twelve dimensions."""
    noise = 0.01 * gaussian(n, d)
    return in_dtype(gaussian(n, 12) @ gaussian(12, d, seed=1) + noise, "float32")


def test_axes_are_taken_where_they_pay(isa: str) -> None:
    def plan(rows: Rows, queries: int | None, **options: Any) -> dict[str, Any]:
        asked = None if queries is None else np.arange(queries)
        return dict(search(rows, leading(rows), asked, 3, **options)[2])

    used = "pruned" if has_int8(isa) else "full"
    there = bent(3000, 600)
    several = len(_core.filter_arithmetics(isa)) > 1
    assert plan(there, 2999)["strategy"] == (used if several else "tiled")
    # All columns of rows that axes do not tell apart, of few columns, or for few queries.
    for rows, queries in ((in_dtype(gaussian(3000, 600), "float32"), 2999), (there, 130)):
        found = plan(rows, queries)
        assert found["strategy"] == ("full" if several else "tiled")
        assert found["axes"] == 600
    narrow = bent(3000, 128)
    assert plan(narrow, 2999)["strategy"] == ("full" if several else "tiled")
    assert plan(there, 2999, strategy="full")["strategy"] == "full"


def test_axes_are_asked_for_where_they_may_serve(isa: str) -> None:
    calls: list[int] = []

    def none() -> None:
        calls.append(1)

    rows = bent(3000, 600)
    for strategy, queries in (("tiled", 2999), ("full", 2999), ("auto", 5), ("auto", 2999)):
        cpu.Index(rows, 3, 2, strategy, queries=queries, axes=none)
    assert calls == ([1] if has_int8(isa) else [])


def test_more_columns_than_int8_sums_hold(isa: str, tried: None) -> None:
    rows = in_dtype(gaussian(40, 65_540), "float32")
    found = search(rows, np.eye(3, 65_540), np.arange(20), 3)
    assert found[2]["second"] != "int8"
    tiled = cpu.knn(rows, np.arange(20), 3, 2, strategy="tiled")
    np.testing.assert_array_equal(found[0], tiled[0])
    np.testing.assert_array_equal(found[1], tiled[1])


@pytest.mark.parametrize("factor", [1.5, 1e30, np.nan])
def test_long_axes_are_refused(factor: float, isa: str, tried: None) -> None:
    rows = in_dtype(gaussian(100, 20), "float32")
    if has_int8(isa):
        with pytest.raises(ValueError, match="an axis has the squared length"):
            search(rows, factor * np.eye(20), np.arange(50), 3)
    else:  # never looked at
        compare(rows, factor * np.eye(20), np.arange(50), 3, isa)


def test_the_kernel_wants_int8_and_axes(isa: str) -> None:
    rows = in_dtype(gaussian(100, 20), "float32")
    index, axes = cpu.Index(rows, 3, 2, "tiled")._index, np.eye(20, dtype=np.float32)
    center = np.zeros(20)
    for count in (0, 20) if not has_int8(isa) else (0,):
        with pytest.raises(ValueError, match="known axes need"):
            index.prepare(
                *(center.ctypes.data, axes.ctypes.data, count, "full", "auto", "", 3),
                *(0, "", 0, 50, 2),
            )


def layer(rows: Rows, queries: int) -> SharedLayer:
    definition = settings_of(queries=queries, pairs=500)
    held = LayerRows(rows, rows.norms(), np.arange(rows.n) % 45, np.arange(rows.n) % 97 == 5)
    return SharedLayer(held, [FILTERS[name] for name in FILTERS], definition, 2)


@pytest.mark.parametrize("kind", ["plain", "zero rows", "duplicates"])
def test_a_sweep_finds_the_same_neighbors_on_its_axes(
    kind: str, isa: str, tried: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = token_like(1200, 150)
    if kind == "zero rows":
        x[[4, 400, 401]] = 0.0
    elif kind == "duplicates":
        x = x[np.random.default_rng(1).integers(0, 700, 1200)]
    rows = in_dtype(x, "float32")
    found = layer(rows, 60)
    plain = layer(rows, 60)
    monkeypatch.setattr(plain, "_axes", lambda unit: None)
    for name in FILTERS:
        one, other = (
            each.job(apply(FILTERS[name], each.layer, 5.0), None).neighbors
            for each in (found, plain)
        )
        for field in ("distances", "indices", "queries", "far"):
            np.testing.assert_array_equal(getattr(one, field), getattr(other, field))
        assert one.plan["strategy"] == ("pruned" if has_int8(isa) else other.plan["strategy"])
        assert other.plan["strategy"] != "pruned"


def test_a_layer_without_axes_is_searched_without(
    tried: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared = layer(in_dtype(token_like(1200, 150), "float32"), 60)

    def failing(kept: Any, unit: bool) -> Any:
        raise np.linalg.LinAlgError("no convergence")

    monkeypatch.setattr(shared, "decomposition", failing)
    assert shared.neighbors(np.arange(1200)).plan["strategy"] != "pruned"
    few = layer(in_dtype(token_like(140, 150), "float32"), 20)  # no covariance from sums
    assert few.neighbors(np.arange(140)).plan["strategy"] != "pruned"
