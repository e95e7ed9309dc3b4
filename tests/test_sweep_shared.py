"""What filters share gives each of them what it would find alone."""

import math
from typing import Any

import numpy as np
import pytest
from conftest import in_dtype, token_like
from sweep_cases import settings_of

from fastdim import Rows, measure
from fastdim.layer import Measurement, measure_job
from fastdim.query_far import far_rows
from fastdim.sweeps.filters import FILTERS, LayerRows, apply
from fastdim.sweeps.shared import SharedJob, SharedLayer

N = 900
GROUPS = np.arange(N) // 30


def shared_layer(
    rows: Rows, filters: tuple[str, ...] = tuple(FILTERS), **options: Any
) -> SharedLayer:
    definition = settings_of(filters, **options)
    position, special = np.arange(rows.n) % 30, np.arange(rows.n) % 97 == 5
    layer = LayerRows(rows, rows.norms(), position, special)
    return SharedLayer(layer, [FILTERS[name] for name in filters], definition, 2)


def measured(shared: SharedLayer, name: str) -> Measurement:
    filtered = apply(FILTERS[name], shared.layer, 5.0)
    return measure_job(SharedJob(shared, filtered, GROUPS[filtered.kept]))


def matrix(kind: str) -> Rows:
    x = token_like(N, 24)
    if kind == "duplicates":
        x = x[np.random.default_rng(1).integers(0, 300, N)]
    elif kind == "zero rows":
        x[[4, 400, 401]] = 0.0
    elif kind == "few rows":
        return in_dtype(token_like(N, 950), "float32")
    return in_dtype(x, "float16" if kind == "float16" else "float32")


@pytest.mark.parametrize("direct", [True, False])
@pytest.mark.parametrize("kind", ["massive", "duplicates", "zero rows", "few rows", "float16"])
def test_every_filter_finds_what_it_finds_alone(
    kind: str, direct: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not direct:
        monkeypatch.setattr("fastdim.moments.DIRECT_WORK", 0)
    rows = matrix(kind)
    shared = shared_layer(rows)
    for name in FILTERS:
        filtered = apply(FILTERS[name], shared.layer, 5.0)
        found = measured(shared, name)
        alone = measure(
            filtered.rows, pairs="all", groups=GROUPS[filtered.kept], seed=3, confidence=0.9
        )
        assert (found.n_rows, found.n_distinct) == (alone.n_rows, alone.n_distinct)
        # Normalized rows are rounded to float32, and the sums for all filters are not.
        close = 1e-6 if name == "normalized" else 1e-9
        for one, other in zip(found.metrics, alone.metrics, strict=True):
            assert (one.name, one.status, one.reason) == (other.name, other.status, other.reason)
            assert one.value == pytest.approx(other.value, rel=close, abs=1e-7, nan_ok=True)
            assert one.stderr == pytest.approx(other.stderr, rel=2e-3, abs=1e-7, nan_ok=True)
            assert (one.n_queries, one.backend) == (other.n_queries, other.backend)
        np.testing.assert_allclose(found.top_rows[1], alone.top_rows[1], rtol=1e-4, atol=1e-6)
        if name != "normalized":
            np.testing.assert_array_equal(found.top_rows[0], alone.top_rows[0])


def test_queries_are_the_same_rows_where_a_filter_keeps_them() -> None:
    shared = shared_layer(matrix("massive"), queries=100, pairs=500)
    chosen = {}
    for name in ("all", "no_special", "no_outliers"):
        kept = apply(FILTERS[name], shared.layer, 5.0).kept
        found = shared.neighbors(kept)
        assert len(found.queries) == 100
        far = np.intersect1d(far_rows(shared.rows, shared.distinct.first), kept)
        np.testing.assert_array_equal(found.far, far)
        share = 100 * len(far) / len(kept)
        assert int(np.isin(found.queries, far).sum()) in (math.floor(share), math.ceil(share))
        assert np.isin(found.queries, kept).all()
        assert np.isin(found.indices, kept).all()
        chosen[name] = set(found.queries.tolist())
        x = shared.rows.float64(0, N)
        for query, near, distance in zip(
            found.queries, found.indices, found.distances, strict=True
        ):
            others = kept[kept != query]
            true = np.sort(np.linalg.norm(x[others] - x[query], axis=1))[:2]
            np.testing.assert_allclose(distance, true, rtol=1e-6)
            np.testing.assert_allclose(np.linalg.norm(x[near] - x[query], axis=1), true, rtol=1e-6)
    assert len(chosen["all"] & chosen["no_outliers"]) >= 95


def test_a_query_whose_neighbours_are_all_removed_looks_further() -> None:
    rng = np.random.default_rng(0)
    x = 3.0 + rng.standard_normal((N, 24))
    x[:60] *= 1000.0  # removed by no_outliers
    far = np.linspace(0, 1, 24)
    x[100] = x[:60].mean(axis=0) / 300.0
    x[:60] = x[100] + 1e-3 * rng.standard_normal((60, 24)) + far * 0
    shared = shared_layer(in_dtype(x, "float64"))
    kept = np.arange(60, N)
    found = shared.neighbors(kept)
    place = int(np.flatnonzero(found.queries == 100)[0])
    true = np.sort(np.linalg.norm(np.delete(x[60:], 40, axis=0) - x[100], axis=1))[:2]
    np.testing.assert_allclose(found.distances[place], true, rtol=1e-6)


def test_what_a_filter_gets_does_not_depend_on_the_order_of_pieces() -> None:
    def values(found: Measurement) -> list[str]:
        return [repr({**vars(metric), "seconds": 0}) for metric in found.metrics]

    rows = matrix("massive")
    first, second = (shared_layer(rows, queries=50, pairs=200) for _ in range(2))
    forward = {name: values(measured(first, name)) for name in FILTERS}
    backward = {name: values(measured(second, name)) for name in reversed(FILTERS)}
    assert forward == backward
    alone = shared_layer(rows, queries=50, pairs=200)
    assert values(measured(alone, "no_outliers")) == forward["no_outliers"]


def test_sampled_pairs_are_pairs_of_kept_rows() -> None:
    shared = shared_layer(matrix("zero rows"), pairs=20_000)
    exact = shared_layer(matrix("zero rows"))
    for name in FILTERS:
        kept = apply(FILTERS[name], shared.layer, 5.0).kept
        job = SharedJob(shared, apply(FILTERS[name], shared.layer, 5.0), None)
        every = SharedJob(exact, apply(FILTERS[name], exact.layer, 5.0), None).cosine
        found = job.cosine
        assert (found.n_pairs, int(found.histogram.sum())) == (20_000, 20_000)
        assert (found.n_rows, found.n_zero_rows) == (len(kept), every.n_zero_rows)
        gap = np.cumsum(found.histogram) / 20_000 - np.cumsum(every.histogram) / every.n_pairs
        assert np.abs(gap).max() <= found.band


def test_a_filter_that_tops_its_pairs_up_takes_no_part_of_the_rows_more_than_others() -> None:
    shared = shared_layer(matrix("float32"), pairs=20_000)
    kept = apply(FILTERS["no_special"], shared.layer, 5.0).kept
    used = np.isin(np.arange(N), kept)
    first, second, _ = shared._pairs
    assert len(first) > 20_000
    taken = np.flatnonzero(used[first] & used[second])[:20_000]
    added = taken[taken >= 20_000]
    assert len(added) > 1_000
    # The smaller of two of n random rows is n/3 on average, with a deviation of n/sqrt(18).
    smaller = np.minimum(first, second)[added]
    assert abs(smaller.mean() - N / 3) < 5 * N / np.sqrt(18 * len(added))


def test_cosines_decompose_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """One decomposition for each set of rows, and one of the directions, where they are asked."""
    decomposed = []
    eigh = np.linalg.eigh

    def counted(matrix: np.ndarray) -> Any:
        if len(matrix) == 24:
            decomposed.append(len(matrix))
        return eigh(matrix)

    monkeypatch.setattr("numpy.linalg.eigh", counted)
    for filters, count in ((tuple(FILTERS), len(FILTERS)), (("all",), 1), (("no_outliers",), 1)):
        decomposed.clear()
        shared = shared_layer(matrix("massive"), filters)
        for name in filters:
            assert all(metric.status == "ok" for metric in measured(shared, name).metrics)
        assert len(decomposed) == count
