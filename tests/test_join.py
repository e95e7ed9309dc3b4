"""Searches over prepared rows where they could lose a neighbour: bases, bounds, blocks, queries.

The contract itself is tested in test_knn.py, over every strategy.
"""

import itertools
from typing import Any

import numpy as np
import pytest
from conftest import AMX, LEVELS, gaussian, in_dtype, token_like
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fastdim import Rows, _core, naive
from fastdim.backends import cpu
from fastdim.backends.basis import Basis
from fastdim.errors import BackendError

# Second levels of a pruned search by the arithmetic of the first. "rough": a level between the two,
# which "further" axes in float32 then follow as well.
SECOND = {
    "float32": ("further",),
    "bfloat16": ("bfloat16", "further"),
    "int8": ("int8", "bfloat16", "rough", "further"),
}

# Level, strategy, arithmetic of the filter, second level and FASTDIM_AMX: all that run here.
# "axes": rows as for a pruned search, of which one by rows reads the first level.
WAYS = [
    (isa, strategy, arithmetic, second, amx)
    for isa in _core.supported_levels()
    for arithmetic in _core.filter_arithmetics(isa)
    for strategy in ("pruned", "full", "direct", "rows")
    for second in {"pruned": SECOND[arithmetic], "rows": ("", "axes")}.get(strategy, ("",))
    if second in ("", "further", "rough", "axes") or second in _core.filter_arithmetics(isa)
    for amx in (AMX if arithmetic == "int8" else ("0",))
]


@pytest.fixture(params=WAYS, ids="-".join)
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> tuple[str, str]:
    """Each strategy and arithmetic at each level, which FASTDIM_ISA forces, and second level."""
    isa, strategy, arithmetic, second, amx = request.param
    monkeypatch.setenv("FASTDIM_ISA", isa)
    monkeypatch.setenv("FASTDIM_AMX", amx)
    if second == "axes":
        monkeypatch.setattr(cpu, "ROWS_PREPARED", "pruned")
    else:
        levels = {"rough": "int8", "further": "float32"}
        monkeypatch.setattr(cpu, "SECOND_LEVEL", levels.get(second, second))
    if second in ("rough", "further") and arithmetic == "int8":
        monkeypatch.setattr(cpu, "FIRST_AXES", 15)
    return strategy, arithmetic


@pytest.fixture(params=LEVELS, ids="-".join)
def isa(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Each level that FASTDIM_ISA and FASTDIM_AMX can force here."""
    level, amx = request.param
    monkeypatch.setenv("FASTDIM_ISA", level)
    monkeypatch.setenv("FASTDIM_AMX", amx)
    return str(level)


def clusters(n: int, d: int) -> np.ndarray:
    """Tight clusters far from the origin and from each other."""
    rng = np.random.default_rng(7)
    return 1e3 * rng.standard_normal((9, d))[rng.integers(0, 9, n)] + 1e-2 * gaussian(n, d) + 5e4


def few_directions(n: int, d: int) -> np.ndarray:
    """Rows in a space of four dimensions: nothing lies beyond the axes."""
    return gaussian(n, 4) @ gaussian(4, d, seed=1)


def nearly_equal(n: int, d: int) -> np.ndarray:
    """Pairs of rows nearer than bfloat16, or float32 of the row, can tell."""
    x = 30.0 + gaussian(n, d)
    x[1::2] = x[: 2 * (n // 2) : 2] + 1e-6 * gaussian(n // 2, d, seed=2)
    return x


SETS = {
    "token_like": token_like,
    "clusters": clusters,
    "few_directions": few_directions,
    "nearly_equal": nearly_equal,
    "line": lambda n, d: np.arange(float(n))[:, None] ** 2 * gaussian(1, d),
    "sphere": lambda n, d: gaussian(n, d) / np.linalg.norm(gaussian(n, d), axis=1, keepdims=True),
}


def compare(rows: Rows, k: int, found: tuple[Any, Any, Any], queries: Any = None) -> None:
    """Bit for bit the tiled scan, and that is the reference."""
    tiled = cpu.knn(rows, queries, k, 2, strategy="tiled")
    np.testing.assert_array_equal(found[0], tiled[0])
    np.testing.assert_array_equal(found[1], tiled[1])
    np.testing.assert_allclose(found[0], naive.knn(rows, k, queries)[0], rtol=1e-12)


@pytest.mark.parametrize("name", SETS)
def test_adversarial_sets(name: str, way: tuple[str, str]) -> None:
    # Three blocks, the last of one row beyond a whole number of groups.
    rows = in_dtype(SETS[name](1057, 37), "float32")
    compare(rows, 3, cpu.knn(rows, None, 3, 2, 0, *way))


@pytest.mark.parametrize("d", [1, 2, 15, 16, 17, 31, 33, 63, 130, 290])
def test_widths_around_vectors_and_axes(d: int, way: tuple[str, str]) -> None:
    for n in (2, 7, 17, 33, 530):
        rows = in_dtype(token_like(n + 4, d)[:n], "float32")
        k = min(5, n - 1)
        compare(rows, k, cpu.knn(rows, None, k, 2, 0, *way))


def bases(d: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Matrices that are no basis of principal axes."""
    random = rng.standard_normal((20, d))
    return {
        "zero": np.zeros((5, d)),
        "repeated": np.repeat(np.eye(d)[:1], 12, axis=0),
        "long": 3.0 * random,
        "short": 1e-3 * random,
        "skewed": np.eye(d)[:20] + 0.3 * random,
        "one": np.eye(d)[:1],
    }


@pytest.mark.parametrize("name", bases(40, np.random.default_rng(0)))
def test_no_basis_is_trusted(
    monkeypatch: pytest.MonkeyPatch, name: str, way: tuple[str, str]
) -> None:
    d = 40
    axes = bases(d, np.random.default_rng(0))[name].astype(np.float32)
    center = 100.0 * np.random.default_rng(1).standard_normal(d)
    x = gaussian(700, d) * np.linspace(3, 0.01, d) + 40.0
    center = np.clip(center, x.min(), x.max())
    monkeypatch.setattr(cpu, "principal_axes", lambda *of: Basis(center, axes))
    rows = in_dtype(x, "float32")
    found = cpu.knn(rows, None, 4, 2, 0, *way)
    assert way[0] != "pruned" or found[2]["axes"] == len(axes)
    compare(rows, 4, found)


def test_axes_that_leave_the_range_are_refused(isa: str, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = in_dtype(gaussian(50, 8), "float32")
    for factor in (1e3, np.nan):
        basis = Basis(np.zeros(8), (factor * np.eye(8)).astype(np.float32))
        monkeypatch.setattr(cpu, "principal_axes", lambda *of, b=basis: b)
        with pytest.raises(ValueError, match="far from orthonormal"):
            cpu.knn(rows, None, 2, 2, strategy="pruned")


def test_a_few_enormous_rows_do_not_hide_the_axes() -> None:
    # What matters lies in the second half of the columns. The last block of 512 holds few rows
    # besides the enormous ones: only its bounds are loose.
    x = gaussian(2600, 6) @ gaussian(6, 400, seed=1) + 0.01 * gaussian(2600, 400)
    x[:, :200] *= 1e-3
    x[::900] *= 1e30
    rows = in_dtype(x, "float32")
    queries = np.arange(0, 2600, 100)
    counts = cpu.knn(rows, None, 2, 2, strategy="pruned")[2]
    assert counts["pairs_second"] < 0.1 * counts["pairs_filtered"]
    compare(rows, 2, cpu.knn(rows, queries, 2, 2, strategy="pruned"), queries)


@pytest.mark.parametrize("m", [1, 9, 200, 900])
def test_chosen_queries(m: int, way: tuple[str, str]) -> None:
    rows = in_dtype(token_like(1100, 60), "float16")
    queries = np.random.default_rng(m).choice(rows.n, m, replace=m > 500)
    compare(rows, 6, cpu.knn(rows, queries, 6, 2, 0, *way), queries)


def test_few_queries_seek_first_neighbors_among_more_rows(
    isa: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Among 256 in order they would measure 36 pairs a query: rows near them come late."""
    monkeypatch.setattr(cpu, "FIRST_AXES", 63)
    n, m = 40_000, 300
    rows = in_dtype(gaussian(n, 12) @ gaussian(12, 130, seed=1) + 0.1 * gaussian(n, 130), "float32")
    queries = np.sort(np.random.default_rng(0).choice(n, m, replace=False))
    found = cpu.Index(rows, 2, 1, strategy="pruned").knn(queries, 2, 1)
    tiled = cpu.knn(rows, queries, 2, 2, strategy="tiled")
    np.testing.assert_array_equal(found[1], tiled[1])
    assert found[2]["pairs_refined"] < 30 * m


@pytest.mark.parametrize("k", [11, 12, 13, 40, 342])
def test_ties_in_lists_of_either_kind(k: int, way: tuple[str, str]) -> None:
    """From 12 on neighbours are gathered and thinned out; on a lattice many lie equally far."""
    grid = np.stack(np.meshgrid(*[np.arange(7.0)] * 3), axis=-1).reshape(-1, 3)
    rows = in_dtype(np.random.default_rng(1).permutation(grid), "float32")
    expected = naive.knn(rows, k)
    for queries in (None, np.arange(0, 343, 5)):
        distances, indices, _ = cpu.knn(rows, queries, k, 2, 0, *way)
        asked = slice(None) if queries is None else queries
        np.testing.assert_array_equal(distances, expected[0][asked])
        np.testing.assert_array_equal(indices, expected[1][asked])


@pytest.mark.parametrize("k", [1, 64, 65, 511, 1099])
def test_many_neighbors(k: int, way: tuple[str, str]) -> None:
    rows = in_dtype(token_like(1100, 12), "float32")
    compare(rows, k, cpu.knn(rows, None, k, 2, 0, *way))


def test_the_second_level_is_the_one_asked_for(
    request: pytest.FixtureRequest, way: tuple[str, str]
) -> None:
    second, amx = request.node.callspec.params["way"][3:]
    rows = in_dtype(token_like(1057, 250), "float32")
    found = cpu.knn(rows, None, 3, 2, 0, *way)[2]
    named = {"rough": "int8", "further": "float32", "axes": ""}.get(second, second)
    assert found["second"] == named
    assert found["amx"] == (amx == "1")
    between = way == ("pruned", "int8") and found["axes_first"] + 1 < found["axes"]
    assert (found["pairs_rough"] > 0) == between
    if cpu.FIRST_AXES:
        assert between
        assert found["axes_first"] == 15
    if between:
        assert found["pairs_second"] < found["pairs_rough"] < found["pairs_filtered"]


@pytest.mark.parametrize("name", SETS)
def test_second_level_on_further_axes(
    monkeypatch: pytest.MonkeyPatch, name: str, way: tuple[str, str]
) -> None:
    # What processors without bfloat16 and VNNI do, and rows that leave no memory for a copy.
    monkeypatch.setattr(cpu, "SPARE_BYTES", -(1 << 40))
    rows = in_dtype(SETS[name](1057, 250), "float32")
    found = cpu.knn(rows, None, 3, 2, 0, *way)
    compare(rows, 3, found)
    if way[0] == "pruned":
        assert found[2]["second"] == "float32"
        axes = found[2]["axes"]
        # A line has no 192 directions: what rounding adds to its sample is all there is.
        assert found[2]["axes_first"] <= axes <= 192
        assert axes == 192 or name == "line"


@pytest.mark.parametrize("strategy", ["pruned", "rows"])
@pytest.mark.parametrize("name", SETS)
def test_a_look_at_the_first_elements(
    monkeypatch: pytest.MonkeyPatch, isa: str, name: str, strategy: str
) -> None:
    """In int8, 64 of 128 and more elements of the first level before the others."""
    monkeypatch.setattr(cpu, "ROWS_PREPARED", "pruned")
    n = 4057 if "int8" in _core.filter_arithmetics(isa) else 1057  # no head: a few rows will do
    x = SETS[name](n, 250)
    x[::97] *= 1e3  # massive rows: their errors are folded, so that some heads say nothing
    rows = in_dtype(x, "float32")
    for queries, k in ((None, 3), (np.arange(0, n, 5), 14)):
        tiled = cpu.knn(rows, queries, k, 2, strategy="tiled")
        for axes in (127, 150, 191):
            monkeypatch.setattr(cpu, "FIRST_AXES", axes)
            for arithmetic in _core.filter_arithmetics(isa):
                monkeypatch.setattr(cpu, "SECOND_LEVEL", "int8" if arithmetic == "int8" else "")
                found = cpu.knn(rows, queries, k, 2, 0, strategy, arithmetic)
                np.testing.assert_array_equal(found[0], tiled[0])
                np.testing.assert_array_equal(found[1], tiled[1])


def test_threads_move_no_bit(isa: str) -> None:
    rows = in_dtype(token_like(1300, 70), "float32")
    for strategy, threads in itertools.product(("pruned", "full", "rows"), (1, 2, 8)):
        compare(rows, 2, cpu.knn(rows, None, 2, threads, strategy=strategy))
    # So many threads that each task of a search by rows is as small as can be.
    compare(rows, 400, cpu.knn(rows, None, 400, 33, strategy="rows"))


def test_filters_leave_most_pairs_out(way: tuple[str, str]) -> None:
    x = gaussian(3000, 10) @ gaussian(10, 200, seed=1) + 0.05 * gaussian(3000, 200)
    _, _, counts = cpu.knn(in_dtype(x, "float32"), None, 2, 2, 0, *way)
    assert counts["strategy"] == ("full" if way[0] == "direct" else way[0])
    assert counts["arithmetic"] == (way[1] or counts["arithmetic"])
    if way[0] == "rows":
        # Each pair twice, a row with itself, and again where a distance was guessed too small.
        # On axes it is guessed too small more often: what they leave out adds to distances.
        most = 1.02 if cpu.ROWS_PREPARED == "full" else 1.4
        assert 3000**2 <= counts["pairs_filtered"] < most * 3000**2
    else:
        assert counts["pairs_filtered"] == 3000 * 2999 // 2
    assert counts["pairs_refined"] < 0.05 * counts["pairs_filtered"]
    if way[0] == "pruned":
        assert counts["axes_first"] < 200
        assert counts["pairs_refined"] <= counts["pairs_second"] < 0.5 * counts["pairs_filtered"]


@pytest.mark.parametrize("count", [1, 12])
def test_neighbors_that_the_axes_do_not_see(
    monkeypatch: pytest.MonkeyPatch, count: int, way: tuple[str, str]
) -> None:
    # Rows on seven rays, of which the axes see little: what tells neighbours apart is the length
    # beyond them, also where the first level has every axis and the second none of its own.
    d, n = 40, 700
    rng = np.random.default_rng(3)
    rays = 10.0 * rng.standard_normal((7, d)) / np.sqrt(d)
    x = rng.uniform(1, 2, (n, 1)) * rays[rng.integers(0, 7, n)] + 1e-5 * gaussian(n, d)
    axes = np.eye(d, dtype=np.float32)[:count]
    basis = Basis(np.zeros(d), axes)
    monkeypatch.setattr(cpu, "principal_axes", lambda *of: basis)
    rows = in_dtype(x, "float32")
    compare(rows, 3, cpu.knn(rows, None, 3, 2, 0, *way))


def test_a_massive_column_does_not_undo_the_filter(isa: str) -> None:
    # Rounding such rows to int8 moves them farther than their neighbours lie.
    x = gaussian(1500, 200)
    x[:, 7] = 300.0 * (np.arange(1500) % 3)
    rows = in_dtype(x, "float32")
    found = cpu.knn(rows, None, 2, 2, strategy="direct")
    assert found[2]["arithmetic"] != "int8"
    assert found[2]["pairs_refined"] < 0.1 * found[2]["pairs_filtered"]
    compare(rows, 2, found)


def test_massive_rows_do_not_undo_the_filter(isa: str) -> None:
    # As the first tokens of documents: one in a hundred, everywhere among the others.
    x = gaussian(2000, 200)
    x[::100] *= 300.0
    rows = in_dtype(x, "float32")
    found = cpu.knn(rows, None, 2, 2, strategy="direct")
    assert found[2]["pairs_refined"] < 0.1 * found[2]["pairs_filtered"]
    compare(rows, 2, found)


def test_int8_sums_stay_in_range() -> None:
    # Beyond 65,536 columns a sum of products could leave int32: the next arithmetic is taken.
    x = np.ones((64, 70_000), dtype=np.float16)
    x[:, ::2] = -1
    x[np.arange(64), np.arange(64)] = np.arange(64) % 7
    rows = Rows(x, "float16")
    found = cpu.knn(rows, np.arange(3), 2, 2, strategy="direct")
    assert found[2]["arithmetic"] != "int8"
    compare(rows, 2, found, np.arange(3))
    if "int8" in _core.filter_arithmetics(cpu.active_isa()):
        with pytest.raises(ValueError, match="at most 65536 columns"):
            cpu.knn(rows, None, 2, 2, strategy="direct", arithmetic="int8")


def test_structure_decides_the_strategy() -> None:
    n = 1 + int(cpu.DIRECT_PAIRS**0.5)
    flat = in_dtype(gaussian(n, 300), "float32")
    bent = in_dtype(gaussian(n, 12) @ gaussian(12, 300, seed=1) + 0.01 * gaussian(n, 300),
                    "float32")  # fmt: skip
    assert cpu.knn(flat, None, 2, 2)[2]["strategy"] == "full"
    assert cpu.knn(bent, None, 2, 2)[2]["strategy"] == "pruned"
    assert cpu.knn(bent, np.arange(20), 2, 2)[2]["strategy"] == "tiled"
    assert cpu.knn(bent, np.arange(200), 2, 2)[2]["strategy"] == "full"
    assert cpu.knn(bent, np.arange(n - 1), 2, 2)[2]["strategy"] == "pruned"
    # Fewer pairs do not pay for axes and order where rounding them is enough.
    rounded = len(_core.filter_arithmetics(cpu.active_isa())) > 1
    some = Rows(bent.data[:5000], bent.dtype)
    assert cpu.knn(some, None, 2, 2)[2]["strategy"] == ("full" if rounded else "pruned")
    repeated = in_dtype(gaussian(400, 30)[np.arange(6000) % 400], "float32")
    assert cpu.knn(repeated, None, 2, 2)[2]["strategy"] == "tiled"
    small = in_dtype(gaussian(300, 300), "float32")
    assert cpu.knn(small, None, 2, 2)[2]["strategy"] == "tiled"


def test_long_lists_are_searched_by_rows() -> None:
    """Unless it was asked for otherwise; for short lists of many rows each pair once is less."""
    rows = in_dtype(gaussian(5000, 40), "float32")
    if len(_core.filter_arithmetics(cpu.active_isa())) > 1:
        assert cpu.knn(rows, None, 2, 2)[2]["strategy"] == "full"
        assert cpu.knn(rows, None, 100, 2)[2]["strategy"] == "rows"
    assert cpu.knn(rows, None, 100, 2, strategy="full")[2]["strategy"] == "full"
    index = cpu.Index(rows, 2, 2, "direct")
    assert index.knn(np.arange(200), 11, 2)[2]["strategy"] == "full"
    assert index.knn(np.arange(200), 12, 2)[2]["strategy"] == "rows"
    assert cpu.knn(rows, np.arange(4999), 3, 2, strategy="rows")[2]["strategy"] == "rows"


def test_long_lists_on_axes_that_hold_all_are_searched_by_rows(
    isa: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Scores of the first level then are those of all columns; otherwise they guess too near."""
    monkeypatch.setattr(cpu, "DIRECT_PAIRS", 0)
    monkeypatch.setattr(cpu, "MIN_PREPARED", 1000)
    n, d = 1100, 600
    flat = gaussian(n, 6) @ gaussian(6, d, seed=1)
    bent = gaussian(n, d, seed=2) * (1.0 + np.arange(d)) ** -0.7
    # At avx512 rounding all columns costs less than axes that leave so much out.
    cases = ((flat, 60, "rows"), (bent, 12, "pruned"))[: 1 if isa == "avx512" else 2]
    for x, long, expected in cases:
        rows = in_dtype(x, "float32")
        index, asked = cpu.Index(rows, long, 2, "auto", "float32"), np.arange(0, n, 8)
        assert index.strategy == "pruned"
        for k, strategy in ((long, expected), (11, "pruned")):
            found = index.knn(asked, k, 2)
            assert found[2]["strategy"] == strategy
            compare(rows, k, found, asked)


def test_duplicates_do_not_make_long_lists_meet_each_pair_twice(isa: str) -> None:
    """A few equal rows, one group of them larger than k: the distinct rows are searched at once."""
    x = gaussian(1300, 20)
    x[1100:1103], x[1200:] = x[0], x[1]
    rows = in_dtype(x, "float32")
    groups = 1300 - 3 - 100
    for k in (2, 70):
        found = cpu.knn(rows, None, k, 2, strategy="full")
        assert found[2]["rows_distinct"] == groups
        assert found[2]["pairs_filtered"] == groups * (groups - 1) // 2
        compare(rows, k, found)
    # Asked for by rows, the group that fills a list alone is not searched.
    found = cpu.knn(rows, None, 70, 2, strategy="rows", arithmetic="float32")
    assert found[2]["queries_searched"] == groups - 1
    assert found[2]["pairs_filtered"] == groups * (groups - 1)
    compare(rows, 70, found)


def test_arithmetic_of_long_lists_is_chosen_for_two_scans(isa: str) -> None:
    """The sample finds how many rows a long list holds, and that a search by rows scans twice."""
    rows = in_dtype(gaussian(13_000, 10) @ gaussian(10, 50, seed=1), "float32")
    found = cpu.knn(rows, None, 100, 2)
    known = _core.filter_arithmetics(isa)
    cheapest = next(name for name in ("int8", "bfloat16", "float32") if name in known)
    assert found[2]["arithmetic"] == cheapest
    assert cheapest == "float32" or found[2]["strategy"] == "rows"
    sample = np.arange(0, 13_000, 500)
    compare(rows, 100, (found[0][sample], found[1][sample], found[2]), sample)


def test_a_guess_that_was_too_small_is_repaired(isa: str) -> None:
    """Scores of far rows lose more to rounding than the guess allows for: a second scan."""
    rows = in_dtype(SETS["line"](1057, 37), "float32")
    found = cpu.knn(rows, None, 40, 2, 0, "rows", "float32")
    assert 1057**2 < found[2]["pairs_filtered"] < 2 * 1057**2
    compare(rows, 40, found)


def test_lists_that_rounding_does_not_shorten(isa: str) -> None:
    """Beside a column so large no low precision sees the others: thousands are measured at once."""
    x = gaussian(11_000, 6)
    x[:, 0] = 1e6 * (np.arange(11_000) % 2)
    x[::500, 0] = 0.5e6
    rows, queries = in_dtype(x, "float32"), np.arange(0, 11_000, 300)
    for arithmetic in _core.filter_arithmetics(isa):
        found = cpu.knn(rows, queries, 30, 2, 0, "rows", arithmetic)
        assert found[2]["strategy"] == "rows"
        assert found[2]["pairs_refined"] > 4200 * len(queries) * 0.9
        compare(rows, 30, found, queries)


@pytest.mark.parametrize(("arithmetic", "needs"), cpu.NEEDS.items())
def test_arithmetic_that_cannot_run(isa: str, arithmetic: str, needs: str) -> None:
    rows = in_dtype(gaussian(50, 20), "float32")
    if arithmetic in _core.filter_arithmetics(isa):
        counts = cpu.knn(rows, None, 2, 2, strategy="full", arithmetic=arithmetic)[2]
        assert counts["arithmetic"] == arithmetic
    else:
        with pytest.raises(BackendError, match=needs):
            cpu.knn(rows, None, 2, 2, strategy="full", arithmetic=arithmetic)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    n=st.integers(2, 600),
    d=st.integers(1, 120),
    k=st.integers(1, 12),
    dtype=st.sampled_from(["float16", "bfloat16", "float32", "float64"]),
    scale=st.sampled_from([1e-3, 1.0, 50.0]),
    offset=st.sampled_from([0.0, 3.0, 1e3]),
    rank=st.integers(1, 40),
    duplicated=st.booleans(),
    strategy=st.sampled_from(["pruned", "full", "rows"]),
    choice=st.integers(0, 2),
    seed=st.integers(0, 2**32 - 1),
)
def test_any_shape_and_scale(
    isa: str,
    n: int,
    d: int,
    k: int,
    dtype: str,
    scale: float,
    offset: float,
    rank: int,
    duplicated: bool,
    strategy: str,
    choice: int,
    seed: int,
) -> None:
    rng = np.random.default_rng(seed)
    x = scale * rng.standard_normal((n, rank)) @ rng.standard_normal((rank, d)) + offset
    if duplicated:
        x = x[rng.integers(0, n, n)]
    rows = in_dtype(x, dtype)
    k = min(k, n - 1)
    arithmetics = _core.filter_arithmetics(isa)
    arithmetic = arithmetics[choice % len(arithmetics)]
    compare(rows, k, cpu.knn(rows, None, k, 2, 0, strategy, arithmetic))
