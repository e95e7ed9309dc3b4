"""knn(): the accuracy contract as a user meets it, queries, duplicates, and refusals."""

from typing import Any

import numpy as np
import pytest
import torch
from conftest import gaussian, in_dtype, token_like
from quasi import assert_quasi_equal

import fastdim as fd
from fastdim import BackendError, InputError, Rows, as_rows, knn, naive


def with_duplicates() -> np.ndarray:
    x = gaussian(200, 16)
    x[50:90] = x[:40]
    x[90:95] = x[0]
    return x


def column_scaled() -> np.ndarray:
    x = gaussian(250, 24)
    x[:, 3] *= 1e3
    return x


CASES = {
    "gaussian": gaussian(300, 40),
    "massive rows": token_like(),
    "offset 1e4": gaussian(250, 24) + 1e4,
    "offset 1e6": gaussian(250, 24) + 1e6,
    "column at scale 1e3": column_scaled(),
    "duplicates": with_duplicates(),
    "tiny": gaussian(200, 12) * 1e-30,
}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("case", CASES)
def test_accuracy_contract(isa: str, case: str, dtype: str) -> None:
    rows = in_dtype(CASES[case], dtype)
    found = knn(rows, k=3)
    assert found.backend == f"cpu-{isa}"
    assert found.distances.dtype == dtype
    assert found.indices.dtype == found.queries.dtype == np.int64
    expected, _ = naive.knn(rows, 3)
    assert_quasi_equal(found.distances, found.indices, expected, rows.float64(0, rows.n))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("scale", [1.0, 20000.0])
def test_half_precision_squares_do_not_overflow(isa: str, dtype: str, scale: float) -> None:
    rows = in_dtype(gaussian(200, 30).clip(-3, 3) * scale, dtype)
    found = knn(rows)
    assert found.distances.dtype == np.float32
    expected, _ = naive.knn(rows, 2)
    assert_quasi_equal(found.distances, found.indices, expected, rows.float64(0, rows.n))


@pytest.mark.parametrize(
    "layout",
    [
        np.asfortranarray,
        lambda x: np.repeat(x, 2, axis=0)[::2],
        lambda x: np.repeat(x, 2, axis=1)[:, ::2],
        torch.tensor,
        as_rows,
    ],
)
def test_layout_does_not_matter(layout: Any) -> None:
    x = token_like(120, 20)
    expected, found = knn(x), knn(layout(x))
    np.testing.assert_array_equal(found.distances, expected.distances)
    np.testing.assert_array_equal(found.indices, expected.indices)


def test_threads_do_not_matter() -> None:
    x = token_like(600, 24)
    one = knn(x, 4, threads=1)
    for threads in (2, 5):
        found = knn(x, 4, threads=threads)
        np.testing.assert_array_equal(found.distances, one.distances)
        np.testing.assert_array_equal(found.indices, one.indices)


def test_queries_give_the_rows_of_the_full_answer() -> None:
    x = token_like(150, 10)
    every = knn(x)
    np.testing.assert_array_equal(every.queries, np.arange(150))
    mask = np.arange(150) % 7 == 3
    for given in ([5, 140, 5, 0], np.array([3], dtype=np.uint8), mask):
        rows = np.flatnonzero(mask) if given is mask else np.asarray(given)
        found = knn(x, queries=given)
        np.testing.assert_array_equal(found.queries, rows)
        np.testing.assert_array_equal(found.distances, every.distances[rows])
        np.testing.assert_array_equal(found.indices, every.indices[rows])


def test_sampled_queries_are_seeded_and_unrepeated() -> None:
    x = gaussian(100, 4)
    found, again, other = (knn(x, queries=30, seed=seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(found.queries, again.queries)
    assert len(set(found.queries.tolist())) == 30
    assert set(found.queries.tolist()) != set(other.queries.tolist())
    np.testing.assert_array_equal(found.distances, knn(x).distances[found.queries])
    assert len(knn(x, queries=1000).queries) == 100


def test_collapse_searches_distinct_rows_and_reports_rows_of_x() -> None:
    x = with_duplicates()
    first, inverse = naive.distinct(x)
    expected, indices = naive.knn(x[first], 2)
    found = knn(x, duplicates="collapse")
    assert (found.n_points, found.n_distinct, found.duplicates) == (200, len(first), "collapse")
    np.testing.assert_array_equal(found.queries, first)
    np.testing.assert_array_equal(found.indices, first[indices])
    np.testing.assert_allclose(found.distances, expected, rtol=1e-12)
    some = knn(x, duplicates="collapse", queries=[92, 60, 199])
    np.testing.assert_array_equal(some.queries, [0, 10, 199])
    np.testing.assert_array_equal(some.distances, found.distances[inverse[[0, 10, 199]]])
    sampled = knn(x, duplicates="collapse", queries=50)
    assert set(sampled.queries.tolist()) <= set(first.tolist())


def test_negative_zero_equals_zero() -> None:
    x = np.array([[0.0, 1.0], [-0.0, 1.0], [2.0, 1.0], [3.0, 5.0]], dtype=np.float32)
    assert knn(x, duplicates="collapse").n_distinct == 3


def test_keep_and_raise() -> None:
    x = with_duplicates()
    kept = knn(x, duplicates="keep")
    assert kept.n_distinct is None
    assert (kept.distances[:, 0] == 0.0).sum() == 40 + 40 + 5
    with pytest.raises(InputError, match="45 of 200 rows equal an earlier row"):
        knn(x, duplicates="raise")
    assert knn(x[:50], duplicates="raise").n_distinct == 50


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"k": 0}, "k must be"),
        ({"k": 2.0}, "k must be"),
        ({"k": True}, "k must be"),
        ({"k": 20}, "at least 21 rows, got 20"),
        ({"duplicates": "drop"}, "keep, collapse, raise"),
        ({"queries": 0}, "at least 1"),
        ({"queries": []}, "non-empty"),
        ({"queries": [0.5]}, "row numbers"),
        ({"queries": [[1]]}, "row numbers"),
        ({"queries": True}, "row numbers"),
        ({"queries": [20]}, r"0\.\.19"),
        ({"queries": [-1]}, r"0\.\.19"),
        ({"queries": np.zeros(20, dtype=bool)}, "non-empty"),
        ({"queries": np.ones(19, dtype=bool)}, "boolean mask of 20"),
        ({"threads": 0}, "threads"),
    ],
)
def test_wrong_arguments(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        knn(gaussian(20, 3), **options)


def test_k_counts_distinct_rows_when_collapsing() -> None:
    x = np.repeat(gaussian(4, 3), 5, axis=0)
    assert knn(x, 3, duplicates="collapse").distances.shape == (4, 3)
    with pytest.raises(InputError, match="at least 5 distinct rows, got 4"):
        knn(x, 4, duplicates="collapse")


@pytest.mark.parametrize("backend", ["gpu", "nonsense"])
def test_a_backend_that_is_none_is_refused(backend: str) -> None:
    with pytest.raises(BackendError, match=f"{backend}.*auto, cpu, cuda, triton.*backend='cpu'"):
        knn(gaussian(5, 3), backend=backend)


def test_distances_beyond_float32_are_refused() -> None:
    x = np.array([[3e38, 3e38], [-3e38, -3e38], [3e38, -3e38]], dtype=np.float32)
    with pytest.raises(InputError, match="overflow float32"):
        knn(x, 1)
    assert np.isfinite(knn(x.astype(np.float64), 1).distances).all()


def test_quasi_equality_accepts_ties_only() -> None:
    values = np.array([[0.0], [1.0], [-1.0], [3.0]])
    expected, indices = naive.knn(values, 2)
    assert_quasi_equal(expected, indices, expected, values)
    swapped = indices.copy()
    swapped[0] = [2, 1]  # rows 1 and 2 are equally far from row 0
    assert_quasi_equal(expected, swapped, expected, values)
    for wrong in ([3, 1], [1, 1], [0, 1], [1, 4]):
        swapped[0] = wrong
        with pytest.raises((AssertionError, IndexError)):
            assert_quasi_equal(expected, swapped, expected, values)
    with pytest.raises(AssertionError):
        assert_quasi_equal(expected * 1.00001, indices, expected, values)


def test_bfloat16_rows_from_bits() -> None:
    x = torch.tensor(gaussian(60, 9), dtype=torch.bfloat16)
    bits = x.view(torch.int16).numpy().view(np.uint16)
    np.testing.assert_array_equal(knn(x).distances, knn(Rows(bits, "bfloat16")).distances)


@pytest.mark.parametrize("strategy", ["auto", "pruned", "full", "rows", "tiled"])
def test_prepared_rows_give_the_same_neighbors(strategy: str) -> None:
    x = np.repeat(token_like(300, 24), 2, axis=0)[:590]
    prepared = fd.prepare(x, strategy=strategy)
    assert prepared.strategy == ("tiled" if strategy == "auto" else strategy)
    assert fd.as_rows(prepared) is prepared
    for duplicates in ("keep", "collapse"):
        for queries in (None, 50, np.array([3, 3, 589, 0])):
            plain = fd.knn(x, 3, queries=queries, duplicates=duplicates)
            found = fd.knn(prepared, 3, queries=queries, duplicates=duplicates)
            np.testing.assert_array_equal(found.distances, plain.distances)
            np.testing.assert_array_equal(found.indices, plain.indices)
            np.testing.assert_array_equal(found.queries, plain.queries)
            assert found.n_distinct == plain.n_distinct
            assert found.plan["strategy"] == prepared.strategy
    assert float(fd.twonn(prepared)) == float(fd.twonn(x))


@pytest.mark.parametrize("strategy", ["pruned", "full", "rows", "tiled"])
def test_forced_strategy_is_the_one_recorded(strategy: str) -> None:
    found = fd.knn(token_like(700, 24), 2, strategy=strategy)
    assert found.plan["strategy"] == strategy
    # Each row has two neighbours, and a pair may serve both of its rows.
    assert found.plan["pairs_refined"] >= 700


@pytest.mark.parametrize("strategy", ["pruned", "full", "rows"])
@pytest.mark.parametrize("k", [8, 20, 200])
def test_rows_that_changed_after_they_were_prepared(strategy: str, k: int) -> None:
    """Bounds of other rows hide neighbours: an error, whether lists are heaps or gathered."""
    x = gaussian(600, 80).astype(np.float32)
    x[300:310] = x[:10]
    prepared = fd.prepare(x, k=k, strategy=strategy)
    x[:] = 1e-3 * np.random.default_rng(1).standard_normal(x.shape)
    for duplicates in ("collapse", "keep"):
        with pytest.raises(fd.InputError, match=r"rows have fewer than .* prepare them again"):
            fd.knn(prepared, k, duplicates=duplicates)
    x[:] = np.nan
    with pytest.raises(fd.InputError, match="prepare them again"):
        fd.knn(prepared, k, queries=gaussian(4, 80).astype(np.float32))


@pytest.mark.parametrize("duplicates", ["collapse", "raise"])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_no_unusable_value_hides_among_equal_rows(duplicates: str, dtype: str) -> None:
    """One row of each group is looked at: the first, a later one, one equal to it, one alone."""
    data = in_dtype(with_duplicates(), dtype).data
    value = {"bfloat16": 0x7FC0, "float64": 1e200}.get(dtype, np.nan)
    for row, column in ((0, 3), (60, 15), (94, 0), (199, 7)):
        broken = data.copy()
        broken[row, column] = value
        both = broken.copy()
        both[row - 1] = both[row]
        for rows, count in ((broken, 1), (both, 2)):
            with pytest.raises(InputError, match=f"x holds {count} .*values"):
                knn(Rows(rows, dtype), 2, duplicates=duplicates)


def test_strategies_that_make_no_sense() -> None:
    x = token_like(100, 8)
    known = "auto, pruned, full, rows, tiled"
    with pytest.raises(fd.InputError, match=f"strategy must be one of {known}"):
        fd.knn(x, 2, strategy="fast")
    with pytest.raises(fd.InputError, match="pass it to prepare"):
        fd.knn(fd.prepare(x), 2, strategy="full")
    with pytest.raises(fd.InputError, match="k must be a whole number"):
        fd.prepare(x, k=0)
    with pytest.raises(fd.InputError, match="at least 2 rows"):
        fd.prepare(x[:1])


@pytest.mark.parametrize("call", [fd.knn, fd.twonn, fd.profile, fd.gride, fd.levina_bickel])
def test_ragged_queries_and_seeds_that_are_none(call: Any) -> None:
    x = token_like(100, 8)
    with pytest.raises(fd.InputError, match=r"queries must be one list .* ragged: pass one value"):
        call(x, queries=[[1], [1, 2]])
    for seed in ("a", -1, 1.5, None):
        with pytest.raises(fd.InputError, match=r"seed must be a whole number >= 0, got"):
            call(x, queries=10, seed=seed)


def test_numbers_and_labels_that_numpy_cannot_read() -> None:
    """As it cannot read those on a GPU: tensors without values stand for them."""
    x, away = token_like(100, 8), torch.zeros(100, dtype=torch.int64, device="meta")
    with pytest.raises(fd.InputError, match=r"queries cannot be read by numpy .* in host memory"):
        fd.knn(x, 2, queries=away)
    with pytest.raises(fd.InputError, match="queries cannot be read by numpy"):
        fd.knn(x, 2, queries=torch.zeros(3, requires_grad=True))
    with pytest.raises(fd.InputError, match="groups cannot be read by numpy"):
        fd.spectrum(x, groups=away)


def test_ragged_groups_and_other_seeds() -> None:
    x = token_like(100, 8)
    with pytest.raises(fd.InputError, match="groups must be one list"):
        fd.spectrum(x, groups=[[1], [1, 2]])
    calls: list[Any] = [
        lambda: fd.cosine_stats(x, pairs=100, seed="a"),
        lambda: fd.block_analysis(x, seed="a"),
        lambda: fd.danco(x, seed="a"),
        lambda: fd.ph_dimension(x, seed="a"),
        lambda: fd.geomle(x, k1=5, k2=9, seed="a"),
        lambda: fd.gride(x, interval="bootstrap", seed="a"),
        lambda: fd.lpca(x, rule="parallel", seed="a"),
        lambda: fd.lpca(x, rule="scRMT", seed="a"),
        lambda: fd.stratified_queries(x, 10, seed="a"),
    ]
    for call in calls:
        with pytest.raises(fd.InputError, match="seed must be a whole number"):
            call()
