"""backend="faiss-gpu" of tensors on a GPU, FAISS's GPU functions replaced by ones that read memory.

They take what FAISS takes, addresses, and look there: a wrong stride, type, row or stream shows.
They say nothing of how a GPU searches.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import faiss
import numpy as np
import pytest
import torch
from conftest import gaussian, token_like
from host_reads import HostReads
from numpy.typing import NDArray

from fastdim import BackendError, FaissIndex, InputError, knn, naive, twonn
from fastdim.backends import cuda, devices, faiss_device, faiss_index

STREAM = 0x51

Array = NDArray[Any]


def memory(pointer: Any, shape: tuple[int, ...], kind: type) -> Array:
    """The values at an address, not a copy."""
    size = int(np.prod(shape)) * np.dtype(kind).itemsize
    at = (ctypes.c_char * size).from_address(int(pointer))
    return np.frombuffer(at, dtype=kind).reshape(shape)


class Parameters(SimpleNamespace):
    """`faiss.GpuDistanceParams`: an unknown name is an error, as of the real one."""

    def __init__(self) -> None:
        for name in (
            "metric", "k", "dims", "vectors", "vectorsRowMajor", "vectorType", "numVectors",
            "queries", "queriesRowMajor", "queryType", "numQueries", "outDistances", "outIndices",
            "outIndicesType", "device",
        ):  # fmt: skip
            self.__dict__[name] = None

    def __setattr__(self, name: str, value: Any) -> None:
        assert name in self.__dict__, name
        self.__dict__[name] = value


class StandIn:
    """What FAISS has on GPUs, over addresses; what it was given is kept."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.streams: list[tuple[int, int]] = []
        self.at: list[int] = []
        self.trained: list[int] = []
        self.fails = ""
        for name, value in {
            "get_num_gpus": lambda: 1,
            "StandardGpuResources": lambda: self,
            "GpuDistanceParams": Parameters,
            "cast_integer_to_cudastream_t": lambda stream: stream,
            "DistanceDataType_F32": "float32",
            "IndicesDataType_I64": "int64",
            "bfKnn": self.brute_force,
            "GpuIndexIVFFlatConfig": SimpleNamespace,
            "GpuIndexIVFFlat": lambda *a: Inverted(self, *a),
        }.items():
            monkeypatch.setattr(faiss, name, value, raising=False)

    def setDefaultStream(self, device: int, stream: int) -> None:
        self.streams.append((device, stream))

    def brute_force(self, resources: StandIn, p: Parameters) -> None:
        assert resources is self
        assert (p.metric, p.vectorType, p.queryType) == (faiss.METRIC_L2, "float32", "float32")
        assert p.vectorsRowMajor
        assert p.queriesRowMajor
        assert p.outIndicesType == "int64"
        if self.fails:
            raise RuntimeError(self.fails)
        self.at.append(int(p.vectors))
        rows = memory(p.vectors, (p.numVectors, p.dims), np.float32)
        asked = memory(p.queries, (p.numQueries, p.dims), np.float32)
        found, numbers = faiss.knn(asked, rows, p.k)
        memory(p.outDistances, found.shape, np.float32)[:] = found
        memory(p.outIndices, found.shape, np.int64)[:] = numbers


class Inverted:
    """`faiss.GpuIndexIVFFlat` by the index of the same kind in host memory."""

    def __init__(
        self, owner: StandIn, resources: StandIn, d: int, lists: int, metric: int, config: Any
    ) -> None:
        assert resources is owner
        assert config.device == 0
        self.owner, self.d = owner, d
        self.cpu = faiss.IndexIVFFlat(faiss.IndexFlatL2(d), d, lists, metric)
        self.cp = self.cpu.cp

    def train_ex(self, n: int, x: Any, kind: Any) -> None:
        assert kind == faiss.Float32
        self.owner.trained.append(n)
        self.cpu.train(memory(x, (n, self.d), np.float32))

    def add_ex(self, n: int, x: Any, kind: Any) -> None:
        assert kind == faiss.Float32
        self.owner.at.append(int(x))
        self.cpu.add(memory(x, (n, self.d), np.float32))

    def search_ex(self, n: int, x: Any, kind: Any, k: int, distances: Any, found: Any) -> None:
        assert kind == faiss.Float32
        self.cpu.nprobe = self.nprobe
        near, numbers = self.cpu.search(memory(x, (n, self.d), np.float32), k)
        memory(distances, near.shape, np.float32)[:] = near
        memory(found, near.shape, np.int64)[:] = numbers


@pytest.fixture
def on_gpu(tensors_on_gpu: None, monkeypatch: pytest.MonkeyPatch) -> StandIn:
    """Tensors count as a GPU's; the exact engine there is the float64 reference."""
    monkeypatch.setattr(devices, "_of_device", lambda x, operation: "triton")

    def exact(engine: str, x: torch.Tensor, queries: torch.Tensor, k: int) -> tuple[Any, ...]:
        values = x.double().detach().clone().numpy()
        return tuple(map(torch.from_numpy, naive.knn(values, k, queries.clone().numpy())))

    monkeypatch.setattr(devices, "knn_tensor", exact)

    @contextmanager
    def on_device_of(x: torch.Tensor, backend: str = "cuda") -> Iterator[int]:
        assert backend == "faiss-gpu"
        yield STREAM

    monkeypatch.setattr(cuda, "on_device_of", on_device_of)
    return StandIn(monkeypatch)


def check(x: torch.Tensor, k: int, **options: Any) -> Any:
    """Assert the contract of an index that finds everything; the result."""
    found = knn(x, k, backend="faiss-gpu", **options)
    want, numbers = naive.knn(x.double().numpy(), k, options.get("queries"))
    assert isinstance(found.distances, torch.Tensor)
    assert isinstance(found.indices, torch.Tensor)
    np.testing.assert_allclose(found.distances.numpy(), want, rtol=1e-6)
    np.testing.assert_array_equal(found.indices.numpy(), numbers)
    assert found.backend == "faiss-gpu"
    assert found.plan["gpus"] == 1
    return found


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("layout", ["whole", "rows apart", "columns apart", "columns first"])
def test_dtypes_and_layouts(dtype: torch.dtype, layout: str, on_gpu: StandIn) -> None:
    wide = torch.from_numpy(gaussian(300, 48)).to(dtype)
    x = {
        "whole": wide[:150, :20].contiguous(),
        "rows apart": wide[::2, 5:25],
        "columns apart": wide[:150, 1:41:2],
        "columns first": wide[:150, :20].T.contiguous().T,
    }[layout]
    found = check(x, 3)
    assert found.distances.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert found.audit.recall == 1.0


@pytest.mark.parametrize(
    "x",
    [token_like(150, 30), gaussian(150, 24) + 1e4, gaussian(90, 12) * 1e-300, np.eye(30) * 1e140],
    ids=["massive rows", "offset", "tiny", "huge"],
)
def test_float32_inside_faiss_does_not_reach_the_distances(x: Array, on_gpu: StandIn) -> None:
    scale = 2.0**900 if np.abs(x).max() < 1e-200 else 1.0
    found = knn(torch.from_numpy(x), 2, backend="faiss-gpu", audit=0)
    want = naive.knn(x * scale, 2)[0]
    np.testing.assert_allclose(found.distances.numpy() * scale, want, rtol=1e-6)


def test_rows_stay_on_the_device_and_faiss_reads_them_there(
    on_gpu: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    packed = faiss_device._packed
    made: list[torch.Tensor] = []

    def kept(x: torch.Tensor) -> torch.Tensor:
        made.append(packed(x))
        return made[-1]

    monkeypatch.setattr(faiss_device, "_packed", kept)
    monkeypatch.setattr(faiss_device, "BATCH", 64)
    x = torch.from_numpy(gaussian(200, 33).astype(np.float32))
    for kind, calls in (("flat", 4), ("ivf", 1)):
        made.clear()
        on_gpu.at.clear()
        with HostReads() as reads:
            knn(x, 2, backend="faiss-gpu", index=kind, audit=0)
        assert on_gpu.at == [made[0].data_ptr()] * calls
        assert [shape for _, shape in reads.found if shape and shape[-1] == 33] == []
        assert not any(np.prod(shape) >= x.numel() for _, shape in reads.found)
    with HostReads() as reads:
        x.cpu()
    assert reads.found == [("cpu", (200, 33))], "a copy of the rows would be seen"


def test_the_current_stream(on_gpu: StandIn) -> None:
    knn(torch.from_numpy(gaussian(60, 5)), 2, backend="faiss-gpu", audit=0)
    assert on_gpu.streams == [(0, STREAM)]
    knn(torch.from_numpy(gaussian(60, 5)), 2, backend="faiss-gpu", index="ivf", audit=0)
    assert on_gpu.streams == [(0, STREAM)] * 3, "built and searched"


def test_queries_duplicates_and_the_audit(on_gpu: StandIn) -> None:
    x = gaussian(300, 8)
    x[200:260] = x[:60]
    chosen = np.array([7, 3, 3, 299])
    check(torch.from_numpy(x[:200]), 2, queries=np.array([7, 3, 3, 199]))
    found = knn(torch.from_numpy(x), 2, backend="faiss-gpu", queries=chosen)
    np.testing.assert_array_equal(found.queries, chosen)
    collapsed = knn(torch.from_numpy(x), 2, backend="faiss-gpu", duplicates="collapse")
    exact = knn(x, 2, duplicates="collapse")
    assert collapsed.n_distinct == 240
    np.testing.assert_array_equal(collapsed.indices, exact.indices)
    assert float(twonn(collapsed.numpy())) == pytest.approx(float(twonn(exact)))
    assert collapsed.audit is not None
    assert collapsed.audit.shift == pytest.approx(0.0, abs=1e-9)


def test_inverted_lists(on_gpu: StandIn) -> None:
    x = torch.from_numpy(gaussian(1500, 12))
    low = knn(x, 30, backend="faiss-gpu", index="ivf", queries=80, least_recall=0)
    assert (low.plan["lists"], low.plan["nprobe"]) == (38, 32)
    assert on_gpu.trained == [1500]
    assert low.audit is not None
    tuned = knn(x, 2, backend="faiss-gpu", index="ivf", target_recall=0.6, least_recall=0)
    assert 1 <= int(tuned.plan["nprobe"]) < 32
    assert tuned.audit is not None
    assert tuned.audit.rows == 500


def test_too_few_candidates_are_completed_and_low_recall_raises(
    on_gpu: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(faiss_index.START, "ivf", 1)
    x = torch.from_numpy(gaussian(800, 4))
    found = knn(x, 50, backend="faiss-gpu", index="ivf", audit=0)
    assert int(found.plan["completed_exactly"]) > 0
    short = found.indices.numpy() < 0
    assert not short.any()
    with pytest.raises(BackendError, match=r"recall 0\.\d+ of 500 rows .* nprobe 1"):
        knn(torch.from_numpy(gaussian(2000, 16)), backend="faiss-gpu", index="ivf")
    monkeypatch.setattr(faiss_index, "GPU_PROBES", 1)
    with pytest.raises(BackendError, match="out of reach"):
        knn(x, backend="faiss-gpu", index="ivf", target_recall=1.0)


def test_refusals(on_gpu: StandIn) -> None:
    x = gaussian(120, 4)
    there = torch.from_numpy(x)
    for kind in ("hnsw", "nn-descent"):
        with pytest.raises(InputError, match=f"no '{kind}' index on a GPU"):
            knn(there, backend="faiss-gpu", index=kind)
    with pytest.raises(InputError, match="one of flat, ivf"):
        knn(there, backend="faiss-gpu", index="tree")
    with pytest.raises(InputError, match=r"x lies on a GPU: pass index='flat' or 'ivf', or x\.cpu"):
        knn(there, backend="faiss-gpu", index=FaissIndex.build(x))
    with pytest.raises(InputError, match="at most 2039"):
        knn(torch.zeros(2100, 2), 2040, backend="faiss-gpu")
    with pytest.raises(BackendError, match=r"pass x\.cpu\(\), or backend='faiss-gpu' or 'auto'"):
        knn(there, backend="faiss")
    with pytest.raises(InputError, match="strategy='full' and prepared rows"):
        knn(there, backend="faiss-gpu", strategy="full")
    with pytest.raises(InputError, match="2 rows with NaN"):
        knn(torch.full((2, 3), 7e4).half(), backend="faiss-gpu")


def test_what_faiss_says_is_one_error(on_gpu: StandIn) -> None:
    on_gpu.fails = "out of device memory"
    message = r"FAISS failed on cpu with rows of shape \(50, 3\) \(out of device memory\)"
    with pytest.raises(BackendError, match=message):
        knn(torch.from_numpy(gaussian(50, 3)), backend="faiss-gpu")


def test_only_contiguous_memory_is_pointed_at(on_gpu: StandIn) -> None:
    x = torch.zeros(6, 8)
    with pytest.raises(BackendError, match=r"not strides \(16, 2\)"):
        faiss_device.address(faiss, torch.zeros(6, 16)[:, ::2])
    assert int(faiss_device.address(faiss, x)) == x.data_ptr()


@pytest.mark.parametrize("fault", ["stride", "stream", "host"])
def test_planted_faults_are_seen(
    fault: str, on_gpu: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The checks above turn red on rows read with a wrong stride, another stream, a host copy."""
    if fault == "stride":
        packed = faiss_device._packed
        monkeypatch.setattr(
            faiss_device, "_packed", lambda x: packed(x).repeat_interleave(2, dim=1)[:, ::2]
        )
        monkeypatch.setattr(
            faiss_device, "address", lambda f, x: f.cast_integer_to_float_ptr(x.data_ptr())
            if x.dtype == torch.float32 else f.cast_integer_to_idx_t_ptr(x.data_ptr()),
        )  # fmt: skip
        with pytest.raises(AssertionError):
            check(torch.from_numpy(gaussian(150, 20)), 3, audit=0)
    elif fault == "stream":
        proper = cuda.on_device_of

        @contextmanager
        def other(x: torch.Tensor, backend: str = "cuda") -> Iterator[int]:
            with proper(x, backend):
                yield 0

        monkeypatch.setattr(cuda, "on_device_of", other)
        with pytest.raises(AssertionError):
            test_the_current_stream(on_gpu)
    else:
        packed = faiss_device._packed
        monkeypatch.setattr(
            faiss_device, "_packed", lambda x: torch.from_numpy(packed(x).cpu().numpy().copy())
        )
        with pytest.raises(AssertionError):
            test_rows_stay_on_the_device_and_faiss_reads_them_there(on_gpu, monkeypatch)
