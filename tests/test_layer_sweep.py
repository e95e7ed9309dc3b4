"""Many layers in one call: CUDA sources on the emulated GPU, recorders of streams and graphs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from conftest import gaussian
from cosine_cases import with_zero_rows
from cuda_cases import Extension, compiled, emulated, use
from host_reads import HostReads
from layer_cases import layers_of, same_cosines
from torch.utils._python_dispatch import TorchDispatchMode

from fastdim import BackendError, InputError, LayerSweep, cosine_stats, knn, naive
from fastdim.backends import cost, cuda, devices, lanes

__all__ = ["emulated"]  # a fixture


@pytest.fixture(scope="module")
def code(tmp_path_factory: pytest.TempPathFactory) -> Extension:
    """Neighbours and cosines: two libraries behind one name."""
    search = Extension(compiled(tmp_path_factory.mktemp("knn"), "library.cpp"))
    cosine = Extension(compiled(tmp_path_factory.mktemp("cosine"), "cosine_library.cpp"))
    return Both(search, cosine)


class Both(Extension):
    def __init__(self, search: Extension, cosine: Extension) -> None:
        super().__init__(search.code)
        self.cosine = cosine
        self.launched: list[tuple[str, tuple[Any, ...]]] = []
        self.recording: list[Callable[[], None]] | None = None

    def run(self, name: str, *arguments: Any) -> None:
        """As on a device: what is recorded does not run."""
        call = super().run if name == "knn" else self.cosine.run
        self.launched.append((name, arguments))
        if self.recording is None:
            call(name, *arguments)
        else:
            self.recording.append(lambda: call(name, *arguments))


@pytest.fixture
def on_device(emulated: Both, tensors_on_gpu: None) -> Both:
    """Tensors count as a GPU's."""
    emulated.launched.clear()
    emulated.recording = None
    return emulated


class Stream:
    def __init__(self, device: Any = None) -> None:
        self.device = device


class Recorder:
    """`torch.cuda` as `lanes` uses it: order of streams, and a graph that can be replayed.

    Torch's operations run while they are recorded, on memory in which nothing was computed, and
    again at each replay, into the same memory, which lives as long as the graph; kernels run at
    replays alone.
    """

    def __init__(self, extension: Both, monkeypatch: pytest.MonkeyPatch) -> None:
        self.extension = extension
        self.main = self.now = Stream()
        self.events: list[tuple[Any, ...]] = []
        self.fails: str | RuntimeError = ""
        self.Stream, self.CUDAGraph = self.new, lambda: Graph(self)
        monkeypatch.setattr(lanes, "_cuda", lambda: self)
        monkeypatch.setattr(lanes, "STREAMLESS", set())

        @contextmanager
        def on_device_of(x: Any, backend: str = "cuda") -> Iterator[int]:
            yield id(self.now)

        monkeypatch.setattr(cuda, "on_device_of", on_device_of)
        run = extension.run

        def noted(name: str, *arguments: Any) -> None:
            self.events.append(("launch", self.now, name))
            run(name, *arguments)

        monkeypatch.setattr(extension, "run", noted)

    def new(self, device: Any) -> Any:
        made = Stream(device)
        made.wait_stream = lambda other: self.events.append(("wait", made, other))  # type: ignore[attr-defined]
        self.main.wait_stream = lambda other: self.events.append(("wait", self.main, other))  # type: ignore[attr-defined]
        return made

    def current_stream(self, device: Any) -> Stream:
        return self.now

    @contextmanager
    def stream(self, stream: Stream) -> Iterator[None]:
        before, self.now = self.now, stream
        yield
        self.now = before

    @contextmanager
    def graph(self, graph: Graph) -> Iterator[None]:
        self.extension.recording = graph.steps
        with Operations(graph.steps, graph.pool):
            yield
        self.extension.recording = None
        if self.fails:
            raise self.fails if isinstance(self.fails, RuntimeError) else RuntimeError(self.fails)


class Graph:
    def __init__(self, owner: Recorder) -> None:
        self.owner = owner
        self.steps: list[Callable[[], None]] = []
        self.pool: list[Any] = []

    def replay(self) -> None:
        self.owner.events.append(("replay", self.owner.now))
        for step in self.steps:
            step()


class Operations(TorchDispatchMode):
    """Torch's operations as steps that write into the memory they wrote into when recorded."""

    def __init__(self, steps: list[Callable[[], None]], pool: list[Any]) -> None:
        super().__init__()
        self.steps, self.pool = steps, pool

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        made = function(*args, **kwargs)
        outputs = [v for v in (made if isinstance(made, (tuple, list)) else [made]) if
                   isinstance(v, torch.Tensor)]  # fmt: skip

        def again() -> None:
            new = function(*args, **kwargs)
            fresh = new if isinstance(new, (tuple, list)) else [new]
            for old, value in zip(outputs, fresh, strict=True):
                if old.data_ptr() != value.data_ptr():
                    old.copy_(value)

        # Held as a graph's own memory is, also what the jobs themselves let go of.
        self.pool.append(made)
        if "empty" not in str(function):
            self.steps.append(again)
        return made


def same_neighbours(
    found: Any, x: torch.Tensor, queries: Any = None, backend: str = "cuda"
) -> None:
    """Assert that a layer's result is that of a call for it alone, bit for bit, and right."""
    alone = knn(x, found.k, queries=queries, backend=backend)
    assert torch.equal(found.distances, alone.distances)
    assert torch.equal(found.indices, alone.indices)
    assert torch.equal(found.queries, alone.queries)
    shared = {key: value for key, value in found.plan.items() if key in alone.plan}
    assert shared == alone.plan
    want, _ = naive.knn(x.numpy(), found.k, found.queries.numpy())
    np.testing.assert_allclose(found.distances.numpy(), want, rtol=1e-6)


@pytest.mark.parametrize("graph", [False, True])
@pytest.mark.parametrize("count", [1, 3])
def test_each_layer_is_as_alone(
    count: int, graph: bool, on_device: Both, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder = Recorder(on_device, monkeypatch) if graph else None
    sweep = LayerSweep(k=3, graph=graph, bins=50, streams=2)
    for seed in (0, 1):  # the second call of a graph is a replay over other values
        xs = layers_of(count, seed=seed)
        for found, x in zip(sweep.knn(xs), xs, strict=True):
            same_neighbours(found, x)
            assert (found.plan["layers"], found.plan["graph"]) == (
                count, "recorded" if graph else "no",
            )  # fmt: skip
        for found, x in zip(sweep.cosine_stats(list(xs)), xs, strict=True):
            same_cosines(found, x, bins=50)
    if recorder is not None:
        assert sum(event[0] == "replay" for event in recorder.events) == 4


def test_results_of_a_graph_are_not_written_over(
    on_device: Both, monkeypatch: pytest.MonkeyPatch
) -> None:
    Recorder(on_device, monkeypatch)
    sweep = LayerSweep(graph=True)
    first = sweep.knn(layers_of(2))
    kept = [found.distances.clone() for found in first]
    sweep.knn(layers_of(2, seed=5))
    for found, before in zip(first, kept, strict=True):
        assert torch.equal(found.distances, before)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_dtypes_strides_and_queries(dtype: torch.dtype, on_device: Both) -> None:
    wide = torch.from_numpy(gaussian(3 * 90, 24)).to(dtype).reshape(3, 90, 24)
    xs = wide[:, ::2, 3:13]
    for options in ({"queries": 20, "seed": 3}, {"queries": np.array([44, 0, 7])}):
        for found, x in zip(LayerSweep(graph=False, **options).knn(xs), xs, strict=True):
            alone = knn(x, 2, backend="cuda", **options)
            assert torch.equal(found.distances, alone.distances)
            assert torch.equal(found.indices, alone.indices)
            assert found.distances.dtype == alone.distances.dtype


def test_sampled_pairs(on_device: Both) -> None:
    xs = layers_of(2)
    for found, x in zip(
        LayerSweep(pairs=300, seed=4, graph=False).cosine_stats(xs), xs, strict=True
    ):
        same_cosines_of_sample = cosine_stats(x, pairs=300, seed=4, backend="cuda")
        np.testing.assert_array_equal(found.histogram, same_cosines_of_sample.histogram)
        assert (found.mean, found.min) == (same_cosines_of_sample.mean, same_cosines_of_sample.min)


def test_a_layer_with_zero_rows_and_one_whose_squares_vanish(on_device: Both) -> None:
    zeros = torch.from_numpy(with_zero_rows(70))
    xs = [torch.from_numpy(gaussian(*zeros.shape)), zeros]
    found = LayerSweep(graph=False).cosine_stats(xs)
    for one, x in zip(found, xs, strict=True):
        alone = cosine_stats(x, backend="cuda")
        assert (one.mean, one.std, one.n_zero_rows) == (alone.mean, alone.std, alone.n_zero_rows)
        np.testing.assert_array_equal(one.histogram, alone.histogram)
    assert found[1].n_zero_rows > 0
    xs[1] = xs[0] * 1e-200
    with pytest.raises(InputError, match="squares vanish"):
        LayerSweep(graph=False).cosine_stats(xs)


@pytest.mark.parametrize("operation", ["knn", "cosine_stats"])
@pytest.mark.parametrize("graph", [False, True])
def test_nothing_waits_until_everything_is_queued(
    operation: str, graph: bool, on_device: Both, monkeypatch: pytest.MonkeyPatch
) -> None:
    if graph:
        Recorder(on_device, monkeypatch)
    sweep = LayerSweep(graph=graph)
    queue = sweep._queue
    reads: list[Any] = []

    def watched(*arguments: Any) -> Any:
        before = len(on_device.launched)
        with HostReads() as inside:
            result = queue(*arguments)
        assert len(on_device.launched) > before
        reads.append(inside.found)
        return result

    monkeypatch.setattr(sweep, "_queue", watched)
    xs = list(layers_of(3))
    call = getattr(sweep, operation)
    with HostReads() as whole:
        call(xs)
    assert reads == [[]]
    # Each layer's values are looked at before; one wait for knn, one array at a time for cosines.
    checks = 3 * len([name for name, _ in _reads_of_check(xs[0])])
    assert len(whole.found) - checks == (2 if operation == "knn" else 3 * 2 * 8 + 0)


def _reads_of_check(x: torch.Tensor) -> list[Any]:
    with HostReads() as reads:
        devices.check_matrix(x, "x")
    return reads.found


def test_host_reads_are_seen() -> None:
    """The counter of the test above counts what it must."""
    x = torch.arange(6.0)
    for wait in (
        lambda: x.sum().item(),
        x.cpu,
        x.numpy,
        x.tolist,
        (x > 2).nonzero,
        lambda: x[x > 2],
        lambda: bool((x > 2).any()),
        lambda: float(x[0]),
        x.unique,
        lambda: x.masked_select(x > 2),
        lambda: x.clone().__setitem__(x > 2, torch.tensor([1.0, 2.0, 3.0])),
    ):
        with HostReads() as reads:
            wait()
        assert reads.found
    with HostReads() as reads:
        x.sum() + x.masked_fill(x > 2, 0.0)[:, None].sort(dim=0).values.square().sum()
    assert reads.found == []


def check_order(events: list[tuple[Any, ...]], main: Stream) -> None:
    """Assert that lanes begin after the current stream, and that it goes on after all of them."""
    used = {event[1] for event in events if event[0] == "launch"}
    assert main not in used
    assert len(used) == 2
    for stream in used:
        launches = [i for i, e in enumerate(events) if e[0] == "launch" and e[1] is stream]
        before = events.index(("wait", stream, main))
        after = events.index(("wait", main, stream))
        assert before < launches[0]
        assert launches[-1] < after


def test_streams_are_forked_and_joined(on_device: Both, monkeypatch: pytest.MonkeyPatch) -> None:
    recorder = Recorder(on_device, monkeypatch)
    LayerSweep(streams=2, graph=False).knn(layers_of(3))
    check_order(recorder.events, recorder.main)
    launches = [event[1] for event in recorder.events if event[0] == "launch"]
    assert launches[0] is launches[2]
    assert launches[0] is not launches[1]
    for lost in (0, len(recorder.events) - 1):  # the first fork, the last join
        broken = recorder.events[:lost] + recorder.events[lost + 1 :]
        with pytest.raises((AssertionError, ValueError)):
            check_order(broken, recorder.main)


def test_a_failing_layer_still_joins(on_device: Both, monkeypatch: pytest.MonkeyPatch) -> None:
    recorder = Recorder(on_device, monkeypatch)

    def fails(name: str, *arguments: Any) -> None:
        raise RuntimeError("launch failed")

    monkeypatch.setattr(on_device, "run", fails)
    with pytest.raises(RuntimeError, match="launch failed"):
        LayerSweep(streams=2, graph=False).knn(layers_of(3))
    joins = [event for event in recorder.events if event[0] == "wait" and event[1] is recorder.main]
    assert len(joins) == 2


def test_graphs_that_cannot_be_recorded_or_do_not_fit(
    on_device: Both, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder = Recorder(on_device, monkeypatch)
    sweep = LayerSweep(graph=True)
    sweep.knn(layers_of(2))
    for other in (layers_of(3), layers_of(2, n=149), layers_of(2).double()):
        with pytest.raises(InputError, match=r"recorded for 2 layers of \(150, 20\) float32"):
            sweep.knn(other)
    recorder.fails = "operation not permitted when stream is capturing"
    with pytest.raises(BackendError, match=r"not permitted .*: pass graph=False"):
        LayerSweep(graph=True).knn(layers_of(2))
    recorder.fails = torch.OutOfMemoryError("no memory left")
    # Of memory `cuda.on_device_of` tells, which the recorder stands for here.
    with pytest.raises(torch.OutOfMemoryError, match="no memory left"):
        LayerSweep(graph=True).knn(layers_of(2))


def test_auto_records_where_launches_dominate(
    on_device: Both, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder = Recorder(on_device, monkeypatch)
    monkeypatch.setattr(cost, "launches_dominate", lambda chip, n, d, operation: n < 100)
    for n, replays in ((90, 1), (120, 0)):
        recorder.events.clear()
        LayerSweep().knn(layers_of(2, n=n))
        assert sum(event[0] == "replay" for event in recorder.events) == replays


def test_launches_dominate_small_layers_alone() -> None:
    for operation in ("knn", "cosine_stats"):
        assert cost.launches_dominate("NVIDIA H100 80GB HBM3", 500, 64, operation)
        assert not cost.launches_dominate("NVIDIA H100 80GB HBM3", 50_000, 576, operation)
        assert not cost.launches_dominate("an unknown chip", 50_000, 576, operation)
    slow, fast = (cost.launches_dominate(c, 4_000, 512, "knn") for c in ("RTX 4090", "B200"))
    assert fast >= slow


def test_refusals(on_device: Both, monkeypatch: pytest.MonkeyPatch) -> None:
    xs = layers_of(2)
    for bad, message in (
        ([], "there is no layer"),
        (5, r"layers must be \(layers, n, d\), or a sequence of \(n, d\), got int"),
        (None, "layers must be"),
        (xs[0], "two dimensions"),
        ([xs[0], xs[1][:, :5]], r"layer 1 is \(150, 5\) float32 on cpu and layer 0 \(150, 20\)"),
        ([xs[0], xs[1].double()], "pass layers of one shape, type and device"),
    ):
        with pytest.raises(InputError, match=message):
            LayerSweep().knn(bad)
    for options, message in (
        ({"graph": "yes"}, "True, False or 'auto'"),
        ({"backend": "cpu"}, "one of auto, cuda, triton, got 'cpu'"),
        ({"backend": "triton", "graph": True}, "graph=True records backend 'cuda'"),
        ({"streams": 0}, "streams must be"),
        ({"bins": 0}, "bins must be"),
        ({"pairs": -1}, "pairs must be"),
        ({"k": 0}, "k must be"),
        ({"confidence": 2.0}, "confidence"),
        ({"confidence": "95%"}, "confidence must lie strictly between 0 and 1, got '95%'"),
    ):
        with pytest.raises(InputError, match=message):
            LayerSweep(**options)
    with pytest.raises(BackendError, match="8192 bins"):
        LayerSweep(bins=9000).cosine_stats(xs)
    with pytest.raises(InputError, match="k = 150 neighbours"):
        LayerSweep(k=150).knn(xs)
    with pytest.raises(InputError, match="at least 2 columns"):
        LayerSweep().cosine_stats(xs[:, :, :1])
    spoilt = xs.clone()
    spoilt[1, 3, 3] = torch.nan
    with pytest.raises(InputError, match="layer 1 holds 1 rows with NaN"):
        LayerSweep().knn(spoilt)
    far = xs / xs.abs().max() * 3e38
    with pytest.raises(InputError, match="distances of layer 1 overflow float32"):
        LayerSweep(graph=False).knn(far)
    with pytest.raises(BackendError, match="layer 0 does not lie on a GPU"):
        LayerSweep().knn(xs.numpy())


def test_without_the_extension_the_error_says_how_to_build_it(
    on_device: Both, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing() -> SimpleNamespace:
        raise BackendError("backend 'cuda' needs the extension fastdim._cuda")

    use(monkeypatch, on_device)
    monkeypatch.setattr(cuda, "extension", missing)
    with pytest.raises(BackendError, match=r"needs the extension"):
        LayerSweep(backend="cuda").knn(layers_of(1))
