"""knn(backend="faiss"): recomputed winners, the audit, tuning, the saved index, refusals."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from conftest import gaussian, in_dtype, token_like

import fastdim as fd
from fastdim import BackendError, DependencyError, FaissIndex, InputError, StoreError, knn, naive
from fastdim.backends import faiss_device, faiss_index, faiss_search
from fastdim.backends.faiss_audit import compare, wilson

KINDS = ("flat", "ivf", "hnsw", "nn-descent")


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_returns_true_distances_and_never_the_row_itself(kind: str) -> None:
    x = gaussian(1200, 10).astype(np.float32)
    found = knn(x, 3, backend="faiss", index=kind, threads=2)
    exact = knn(x, 3)
    rows = np.arange(len(x))[:, None]
    assert (found.indices != rows).all()
    assert (found.indices >= 0).all()
    truth = np.linalg.norm(
        x.astype(np.float64)[found.indices] - x.astype(np.float64)[:, None], axis=2
    )
    np.testing.assert_allclose(found.distances, truth, rtol=1e-6)
    assert (np.diff(found.distances, axis=1) >= 0).all()
    assert (found.distances >= exact.distances * (1 - 1e-6)).all()
    assert found.plan["index"] == kind
    assert found.backend == "faiss"
    assert found.audit is not None
    assert found.audit.rows == 500
    assert found.audit.recall >= 0.95


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_flat_equals_the_exact_search(dtype: str) -> None:
    rows = in_dtype(gaussian(400, 20), dtype)
    found, exact = knn(rows, 4, backend="faiss"), knn(rows, 4)
    np.testing.assert_allclose(found.distances, exact.distances, rtol=1e-6)
    assert found.distances.dtype == exact.distances.dtype
    assert (found.indices == exact.indices).mean() > 0.99
    assert found.audit is not None
    assert found.audit.recall_2 == 1.0
    assert found.audit.shift == pytest.approx(0.0, abs=1e-9)


@pytest.mark.parametrize(
    "x",
    [token_like(), gaussian(300, 24) + 1e4, gaussian(200, 12) * 1e-30],
    ids=["massive rows", "offset", "tiny"],
)
def test_float32_inside_faiss_does_not_reach_the_distances(x: np.ndarray) -> None:
    found = knn(x, 2, backend="faiss")
    exact, _ = naive.knn(x, 2)
    np.testing.assert_allclose(found.distances[:, 0], exact[:, 0], rtol=1e-6)


@pytest.mark.parametrize("scale", [2.0**-700, 2.0**-1000])
def test_squares_that_vanish_do_not_make_distances_vanish(scale: float) -> None:
    x = gaussian(200, 12)
    found, exact = knn(x * scale, 2, backend="faiss"), knn(x, 2)
    np.testing.assert_allclose(found.distances / scale, exact.distances, rtol=1e-12)
    np.testing.assert_array_equal(found.indices, exact.indices)


def test_equal_rows() -> None:
    x = gaussian(300, 8)
    x[200:260] = x[:60]
    kept = knn(x, 2, backend="faiss", least_recall=0.0)
    assert (kept.distances[:60, 0] == 0.0).all()
    assert (kept.indices[:60, 0] == np.arange(200, 260)).all()
    assert kept.audit is not None
    assert kept.audit.shift is None  # TwoNN is undefined at distance zero
    collapsed = knn(x, 2, backend="faiss", duplicates="collapse")
    exact = knn(x, 2, duplicates="collapse")
    assert collapsed.n_distinct == 240
    np.testing.assert_array_equal(collapsed.indices, exact.indices)
    assert float(fd.twonn(collapsed)) == pytest.approx(float(fd.twonn(exact)))
    with pytest.raises(InputError, match="60 of 300 rows equal"):
        knn(x, backend="faiss", duplicates="raise")


@pytest.mark.parametrize(
    "x",
    [gaussian(3, 2), np.ones((50, 3), np.float32), gaussian(400, 3) * 1e140, gaussian(90, 1)],
    ids=["three rows", "all equal", "huge", "one column"],
)
def test_extreme_sets_equal_the_exact_search(x: np.ndarray) -> None:
    found, exact = knn(x, 2, backend="faiss"), knn(x, 2)
    np.testing.assert_allclose(found.distances, exact.distances, rtol=1e-6)
    assert (found.indices != np.arange(len(x))[:, None]).all()
    assert found.audit is not None
    assert found.audit.rows == min(len(x), 500)
    assert found.audit.recall == 1.0


def test_queries_and_threads() -> None:
    x = gaussian(500, 6)
    chosen = np.array([7, 3, 3, 499])
    found = knn(x, 2, backend="faiss", queries=chosen)
    np.testing.assert_array_equal(found.queries, chosen)
    np.testing.assert_array_equal(found.indices, knn(x, 2, queries=chosen).indices)
    one, two = (knn(x, 2, backend="faiss", index="ivf", queries=60, threads=t) for t in (1, 2))
    np.testing.assert_array_equal(one.indices, two.indices)
    np.testing.assert_array_equal(one.queries, knn(x, 2, queries=60).queries)
    assert knn(x, 1, backend="faiss").audit is not None
    assert knn(x, 1, backend="faiss").audit.recall_2 is None  # type: ignore[union-attr]


def test_rows_with_too_few_candidates_are_searched_exactly_and_counted() -> None:
    x = gaussian(800, 4)
    index = FaissIndex.build(x, "ivf", lists=20, effort=1)
    found = knn(x, 30, backend="faiss", index=index, least_recall=0.0)
    assert int(found.plan["completed_exactly"]) > 0
    assert np.isfinite(found.distances).all()
    assert (found.indices >= 0).all()


def test_low_recall_raises_unless_told_otherwise_and_can_be_tuned() -> None:
    x = gaussian(3000, 12)
    index = FaissIndex.build(x, "ivf", lists=70, effort=1)
    with pytest.raises(BackendError, match=r"recall 0\.\d+ of 500 rows .* nprobe 1"):
        knn(x, backend="faiss", index=index)
    low = knn(x, backend="faiss", index=index, least_recall=0.0, audit=300)
    assert low.audit is not None
    assert low.audit.rows == 300
    assert low.audit.recall < 0.9
    tuned = knn(x, backend="faiss", index=index, target_recall=0.97)
    assert tuned.audit is not None
    assert tuned.audit.recall > 0.95
    assert 1 < int(tuned.plan["nprobe"]) <= 70
    assert knn(x, backend="faiss", index=index, audit=0).audit is None


def test_out_of_reach_recall_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(faiss_search, "MOST_EFFORT", 1)
    x = gaussian(2000, 16)
    index = FaissIndex.build(x, "hnsw", links=2, construction=2)
    with pytest.raises(BackendError, match=r"target_recall=1 is out of reach"):
        knn(x, backend="faiss", index=index, target_recall=1.0)


def test_the_audits_interval_covers_the_shift_over_all_rows() -> None:
    x = gaussian(3000, 10)
    exact = knn(x).distances.astype(np.float64)
    index = FaissIndex.build(x, "ivf", lists=70, effort=2)
    found = knn(x, backend="faiss", index=index, least_recall=0.0).distances.astype(np.float64)
    whole = compare(found, exact)
    assert whole.shift is not None
    assert abs(whole.shift) > 0.005  # else covering it would be no test
    covered = recalled = 0
    for seed in range(200):
        rows = np.random.default_rng(seed).choice(len(x), 300, replace=False)
        audit = compare(found[rows], exact[rows])
        assert audit.shift_interval is not None
        covered += audit.shift_interval[0] <= whole.shift <= audit.shift_interval[1]
        recalled += audit.recall_1_interval[0] <= whole.recall_1 <= audit.recall_1_interval[1]
    assert covered >= 184  # 0.95 less two standard errors
    assert recalled >= 184


def test_audit_counts_by_hand() -> None:
    exact = np.array([[1.0, 2.0], [1.0, 2.0], [1.0, 2.0], [1.0, 2.0]])
    found = np.array([[1.0, 2.0], [1.0, 3.0], [2.0, 3.0], [3.0, 4.0]])
    audit = compare(found, exact)
    assert (audit.recall_1, audit.recall_2) == (0.5, 0.5)
    assert audit.recall == 0.5
    assert wilson(0.5, 100) == pytest.approx((0.4038, 0.5962), abs=1e-4)
    assert wilson(1.0, 100) == pytest.approx((0.9630, 1.0), abs=1e-4)


def test_sample_without_a_miss_does_not_promise_no_shift() -> None:
    exact = knn(gaussian(400, 5)).distances.astype(np.float64)
    audit = compare(exact, exact)
    assert audit.shift == 0.0
    assert audit.shift_interval is not None
    assert audit.shift_interval[0] < -0.001
    assert audit.shift_interval[1] > 0.001


@pytest.mark.parametrize("kind", KINDS)
def test_saved_index_gives_the_same_neighbours(kind: str, tmp_path: Path) -> None:
    x = gaussian(600, 6).astype(np.float32)
    built = FaissIndex.build(x, kind, effort=None if kind == "flat" else 20)
    built.save(tmp_path / "index")
    loaded = FaissIndex.load(tmp_path / "index")
    assert (loaded.kind, loaded.effort, loaded.parameters) == (kind, built.effort, built.parameters)
    first, second = (knn(x, backend="faiss", index=i, least_recall=0) for i in (built, loaded))
    np.testing.assert_array_equal(first.indices, second.indices)
    np.testing.assert_array_equal(first.distances, second.distances)


def test_index_of_another_data_set_is_refused() -> None:
    x = gaussian(300, 6).astype(np.float32)
    index = FaissIndex.build(x)
    other = x.copy()
    other[150, 3] += 1e-3
    for rows in (other, x[:-1], x.astype(np.float64)):
        with pytest.raises(InputError, match="another data set"):
            knn(rows, backend="faiss", index=index)
    wide = np.zeros((300, 12), np.float32)
    wide[:, :6] = x
    assert knn(wide[:, :6], backend="faiss", index=index).plan["index"] == "flat"  # other strides


@pytest.mark.parametrize("harm", ["cut", "no facts", "other version", "no json", "missing key"])
def test_damaged_index_is_one_clear_error(harm: str, tmp_path: Path) -> None:
    FaissIndex.build(gaussian(200, 4)).save(tmp_path)
    facts, data = tmp_path / "index.json", tmp_path / "index.faiss"
    record = json.loads(facts.read_text())
    if harm == "cut":
        data.write_bytes(data.read_bytes()[:-50])
    elif harm == "no facts":
        facts.unlink()
    elif harm == "no json":
        facts.write_text("{")
    else:
        record["version"] = 99
        if harm == "missing key":
            record = {"version": faiss_index.VERSION, "bytes": record["bytes"]}
        facts.write_text(json.dumps(record))
    with pytest.raises(StoreError, match="save"):
        FaissIndex.load(tmp_path)


def test_size_chooses_the_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    x = gaussian(500, 4)
    assert FaissIndex.build(x).kind == "flat"
    monkeypatch.setattr(faiss_index, "IVF_ROWS", 500)
    built = FaissIndex.build(x)
    assert (built.kind, built.parameters, built.effort) == ("ivf", {"lists": 12}, 12)
    assert knn(x, backend="faiss").plan["index"] == "ivf"


X = gaussian(60, 4)
REFUSED: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"index": "tree"}, InputError, "one of flat, ivf"),
    ({"index": 3}, InputError, "FaissIndex.load"),
    ({"index": "nn-descent"}, InputError, "at least 101 rows"),
    ({"target_recall": 1.5}, InputError, "target_recall must be a share"),
    ({"target_recall": "high"}, InputError, "target_recall must be a share"),
    ({"least_recall": float("nan")}, InputError, "least_recall must be a share"),
    ({"audit": -1}, InputError, "audit must be a whole number"),
    ({"audit": 0, "target_recall": 0.9}, InputError, "without an audit"),
    ({"audit": 0, "target_recall": 0.0, "index": "ivf"}, InputError, "without an audit"),
    ({"strategy": "full"}, InputError, "prepared rows are of the CPU"),
    ({"queries": X[:3]}, BackendError, "another matrix"),
    ({"backend": "faiss-gpu"}, BackendError, "needs a GPU"),
    ({"backend": "cpu", "index": "flat"}, InputError, "index belong to an approximate"),
    ({"k": 60}, InputError, "k = 60"),
]


@pytest.mark.parametrize(("options", "error", "message"), REFUSED, ids=lambda v: str(v)[:40])
def test_refusals(options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        knn(X, **{"backend": "faiss", **options})


class StandIn:
    """What FAISS has on GPUs, here on the CPU: it tells how it was called. It says nothing of how
    a GPU searches.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, cards: int) -> None:
        import faiss

        self.moved: list[Any] = []
        self.probes: list[float] = []
        monkeypatch.setattr(faiss, "get_num_gpus", lambda: cards)
        monkeypatch.setattr(faiss, "GpuMultipleClonerOptions", SimpleNamespace, raising=False)
        monkeypatch.setattr(faiss, "GpuParameterSpace", lambda: self, raising=False)
        monkeypatch.setattr(faiss, "index_cpu_to_all_gpus", self.move)

    def move(self, index: Any, co: Any) -> Any:
        import faiss

        self.moved.append(co)
        return faiss.clone_index(index)

    def set_index_parameter(self, index: Any, name: str, value: float) -> None:
        assert name == "nprobe"
        self.probes.append(value)
        index.nprobe = int(value)


def test_names_that_faiss_has_on_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """With faiss-gpu its own classes take what is given to them; faiss-cpu has none of them."""
    import faiss

    if not hasattr(faiss, "bfKnn"):
        assert not hasattr(faiss, "GpuDistanceParams")
        assert faiss.get_num_gpus() == 0
        return
    casts = {"f": faiss.cast_integer_to_float_ptr, "i": faiss.cast_integer_to_idx_t_ptr}
    monkeypatch.setattr(
        faiss_device, "address", lambda module, a: casts[a.dtype.kind](a.ctypes.data)
    )
    values, asked = np.zeros((9, 5), np.float32), np.zeros((4, 5), np.float32)
    distances, found = np.zeros((4, 3), np.float32), np.zeros((4, 3), np.int64)
    made = faiss_device.brute_force(values, asked, distances, found, 0)  # type: ignore[arg-type]
    pointers = (made.vectors, made.queries, made.outIndices)
    assert [int(at) for at in pointers] == [a.ctypes.data for a in (values, asked, found)]
    assert (made.numVectors, made.numQueries, made.dims, made.k, made.device) == (9, 4, 5, 3, 0)
    assert made.vectorsRowMajor
    assert made.queriesRowMajor
    faiss.GpuIndexIVFFlatConfig().device = 0
    for name in ("train_ex", "add_ex", "search_ex", "nprobe", "cp"):
        assert hasattr(faiss.GpuIndexIVFFlat, name), name
    faiss.StandardGpuResources().setDefaultStream  # noqa: B018  # exists
    faiss.cast_integer_to_cudastream_t(77)


@pytest.mark.parametrize("cards", [1, 3])
@pytest.mark.parametrize("kind", ["flat", "ivf"])
def test_an_index_is_moved_to_every_gpu(
    kind: str, cards: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = gaussian(900, 6)
    on_cpu = knn(x, backend="faiss", index=kind)
    stand_in = StandIn(monkeypatch, cards)
    found = knn(x, backend="faiss-gpu", index=kind)
    np.testing.assert_array_equal(found.indices, on_cpu.indices)
    np.testing.assert_array_equal(found.distances, on_cpu.distances)
    assert (found.backend, found.plan["gpus"]) == ("faiss-gpu", cards)
    assert [(co.shard, co.useFloat16) for co in stand_in.moved] == [(cards > 1, False)]
    assert stand_in.probes == ([] if kind == "flat" else [on_cpu.plan["nprobe"]])
    assert found.audit == on_cpu.audit


def test_a_gpu_index_is_tuned_where_it_lies(monkeypatch: pytest.MonkeyPatch) -> None:
    x = gaussian(3000, 12)
    stand_in = StandIn(monkeypatch, 1)
    monkeypatch.setattr(faiss_index, "GPU_PROBES", 16)
    index = FaissIndex.build(x, "ivf", lists=60, effort=60)
    found = knn(x, backend="faiss-gpu", index=index, target_recall=0.5, least_recall=0)
    assert stand_in.probes[0] == 16  # the most there
    assert stand_in.probes[1:3] == [1, 2]
    assert found.plan["nprobe"] == stand_in.probes[-1]
    assert index.effort == 60  # the index in host memory is as it was
    with pytest.raises(BackendError, match="out of reach"):
        knn(x, backend="faiss-gpu", index=index, target_recall=1.0)
    assert stand_in.probes[-1] == 16


def test_what_no_gpu_does(monkeypatch: pytest.MonkeyPatch) -> None:
    StandIn(monkeypatch, 1)
    for kind in ("hnsw", "nn-descent"):
        with pytest.raises(InputError, match=f"no '{kind}' index on a GPU"):
            knn(gaussian(200, 4), backend="faiss-gpu", index=kind)
    with pytest.raises(InputError, match="at most 2039"):
        knn(gaussian(2100, 2), 2040, backend="faiss-gpu")


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        ("ivf", {"lists": 9}, "at most 1"),
        ("ivf", {"lists": 0}, "lists must be"),
        ("flat", {"effort": 4}, "leave effort out"),
        ("hnsw", {"effort": 0}, "effort must be"),
        ("hnsw", {"links": 0}, "links must be"),
    ],
)
def test_bad_parameters_of_an_index(kind: str, options: dict[str, int], message: str) -> None:
    with pytest.raises(InputError, match=message):
        FaissIndex.build(X, kind, **options)  # type: ignore[arg-type]


def test_index_of_one_call_is_not_saved(tmp_path: Path) -> None:
    made = faiss_index.build(fd.as_rows(X), "flat", {}, None, 0, 1)
    with pytest.raises(InputError, match=r"FaissIndex\.build"):
        made.save(tmp_path)


def test_without_faiss_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(DependencyError, match=r"fastdim\[faiss\]"):
        knn(X, backend="faiss")
