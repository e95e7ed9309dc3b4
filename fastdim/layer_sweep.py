"""Neighbours and cosines of many matrices of one shape on a GPU, queued without a wait."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fastdim.arrays import generator, one_of, whole_number
from fastdim.backends import cost, cuda, cuda_cosine, devices, triton
from fastdim.backends.lanes import Lanes, Recorded
from fastdim.backends.pairs import edges_of, reduced, squares_by_row, statistics
from fastdim.cosine import CosineStats, check_pairs, draw_pairs, sampled_pairs
from fastdim.cosine_device import finished, stats
from fastdim.errors import BackendError, InputError, require
from fastdim.estimate import check_confidence
from fastdim.neighbors import Neighbors
from fastdim.query_plan import plan_queries

if TYPE_CHECKING:
    from torch import Tensor

Job = Callable[[], "list[Tensor]"]
Plan = dict[str, int | str]
BACKENDS = ("auto", "cuda", "triton")


class LayerSweep:
    """Neighbours and cosines of many matrices of one shape, one call for all of them.

    For the layers of a model, again and again: all are queued on `streams` streams beside the
    current one, and the host waits once, when everything is queued, to fetch what it reports; on
    backend "triton" two or three times in a search, for what decides on the next step in all
    layers together. Each layer's numbers are those of `knn` and `cosine_stats` on that backend, bit
    for bit. On backend "cuda", where the host would take longer to queue small layers than the
    device to compute them, their launches are recorded as a CUDA graph at the first call and queued
    at once from then on.

    backend: "cuda", "triton", or "auto" for the one that `knn` and `cosine_stats` would take.
    k, queries, seed: as of `knn`: None, a number of rows, or row numbers: the same in every layer.
        A number is drawn plainly, where `knn` draws rows far from all others in proportion: which
        rows these are differs between layers.
    bins, pairs, confidence: as of `cosine_stats`.
    streams: layers that may run side by side; each takes the memory of one search. Beside that,
        backend "triton" holds the rounded rows of all layers (2 bytes an element) until the last
        search is done.
    graph: True, False, or "auto" for where launches are predicted to take longer than the work
        (`fastdim/backends/cost.py`; not measured). A graph reads its own copy of the layers. True
        is of backend "cuda" alone.

    Equal rows are kept. A layer with rows of zero waits once more, for its cosines are computed
    without them. Raises InputError on bad values; BackendError where the backend cannot run, its
    memory does not suffice, or launches cannot be recorded.
    """

    def __init__(
        self,
        *,
        backend: str = "auto",
        k: int = 2,
        queries: Any = None,
        seed: int = 0,
        bins: int = 200,
        pairs: int | str | None = None,
        confidence: float = 0.95,
        streams: int = 4,
        graph: bool | str = "auto",
    ) -> None:
        if graph not in (True, False, "auto"):
            raise InputError(f"graph must be True, False or 'auto', got {graph!r}")
        one_of("backend", backend, BACKENDS)
        if backend == "triton" and graph is True:
            raise InputError(
                "graph=True records backend 'cuda': Triton's search waits for what decides on its "
                "next step; leave graph out, or pass backend='cuda'"
            )
        check_confidence(confidence)
        whole_number("bins", bins, 1)
        check_pairs(pairs)
        self.backend = backend
        self.k, self.queries, self.seed = whole_number("k", k, 1), queries, seed
        self.bins, self.pairs, self.confidence = bins, pairs, confidence
        self.streams, self.graph = whole_number("streams", streams, 1), graph
        self._lanes: Lanes | None = None
        self._recorded: dict[str, tuple[list[Tensor], Recorded[list[Tensor]]]] = {}

    def knn(self, layers: Any) -> list[Neighbors]:
        """`knn` of each layer: x (layers, n, d), or tensors (n, d) of one shape, on one GPU.

        Results are tensors there. Raises InputError as `knn` does, and on layers that differ in
        shape, type or device, or from those of a recorded graph.
        """
        start = time.perf_counter()
        torch, xs = require("torch", "torch"), as_layers(layers)
        n, device = len(xs[0]), xs[0].device
        on = self._backend(xs[0], "knn")
        k, _, chosen, _ = plan_queries(n, self.k, self.queries, None, self.seed)
        numbers = torch.from_numpy(np.arange(n) if chosen is None else chosen).to(device)
        asked = None if chosen is None else numbers
        search = self._by_triton if on == "triton" else self._by_cuda
        results, plans = search(xs, k, asked)
        return [
            Neighbors(
                distances=distances,  # type: ignore[arg-type]  # as Neighbors says
                indices=indices,  # type: ignore[arg-type]
                queries=numbers,
                n_points=n,
                n_distinct=None,
                duplicates="keep",
                backend=str(plan["isa"]),
                plan={**plan, **self._how("knn", len(xs))},
                seconds=(time.perf_counter() - start) / len(xs),
            )
            for (distances, indices), plan in zip(results, plans, strict=True)
        ]

    def _by_cuda(
        self, xs: list[Tensor], k: int, asked: Tensor | None
    ) -> tuple[list[tuple[Tensor, Tensor]], list[Plan]]:
        """Distances in the type they are kept in, and indices, of each layer; the plans.

        InputError where distances do not fit that type.
        """
        torch, on = require("torch", "torch"), cuda.device(xs[0].device.index)
        n, d = xs[0].shape
        how = cuda.strategy_for(on, n, d, k, asked)
        found = self._queue("knn", xs, lambda x: list(cuda.knn_tensor(x, k, asked, strategy=how)))
        kept = [(_kept(distances, xs[0]), indices) for distances, indices, _ in found]
        # The one wait of the host: what the searches did, and whether distances fit their type.
        facts = [
            torch.cat([counts, _fits(distances).reshape(1)])
            for (distances, _), (*_, counts) in zip(kept, found, strict=True)
        ]
        rows = torch.stack(facts).cpu().numpy()
        check_fit(rows[:, 3])
        tile = on.tile if how == "full" else "small"
        return kept, [cuda.plan(on, tile, k + cuda.SPARE, row[:3], how) for row in rows]

    def _by_triton(
        self, xs: list[Tensor], k: int, asked: Tensor | None
    ) -> tuple[list[tuple[Tensor, Tensor]], list[Plan]]:
        """The same by the Triton kernels, whose searches go on side by side."""
        from fastdim.backends.triton import search

        found = search.knn_tensors(xs, k, asked, lanes=self._lanes_of(xs[0]))
        kept = [(_kept(distances, xs[0]), indices) for distances, indices, _ in found]
        fits = require("torch", "torch").stack([_fits(distances) for distances, _ in kept])
        check_fit(fits.cpu().numpy())
        name = f"triton-{triton.device_name(xs[0])}"
        return kept, [{**plan, "isa": name} for *_, plan in found]

    def cosine_stats(self, layers: Any) -> list[CosineStats]:
        """`cosine_stats` of each layer, which is given as to `knn`."""
        torch, xs = require("torch", "torch"), as_layers(layers, least_columns=2)
        n, device = len(xs[0]), xs[0].device
        on = self._backend(xs[0], "cosine_stats")
        engine = cosine_engine(on)
        engine.check_bins(self.bins)
        every = torch.arange(n, device=device)
        sample = sampled_pairs(self.pairs, n)
        if sample is None:
            given = [edges_of(self.bins, xs[0])]
        else:
            drawn = draw_pairs(generator(self.seed), n, sample)
            given = [torch.from_numpy(side).to(device) for side in drawn]

        def one(x: Tensor) -> list[Tensor]:
            norms = engine.norms_of(x)
            # Zero rows are told of at the end; here they only must not divide.
            unit = engine.centered(x, 1.0 / norms.masked_fill(norms == 0, 1.0), every)
            held = [(norms == 0).sum(), *squares_by_row(unit), unit.slopes[:n], unit.center]
            if sample is not None:
                return [*held, engine.cosines_of(unit, *given)]
            moments, histogram = engine.visit(unit, given[0])
            return [*held, reduced(moments), histogram]

        results = self._queue("cosine_stats", xs, one, on)
        # From here on the host waits.
        fetched = [[part.cpu().numpy() for part in found] for found in results]
        return [self._stats(x, found, on) for x, found in zip(xs, fetched, strict=True)]

    def _stats(self, x: Tensor, found: list[Any], on: str) -> CosineStats:
        if found[0]:
            return stats(x, on, self.bins, self.pairs, None, self.seed, self.confidence)
        visited = cosines = None
        if len(found) == 7:
            cosines = found[6]
        else:
            visited = statistics(len(x), float(found[5][0]), found[6], found[7])
        done = finished(len(x), found[1:6], visited, cosines, self.bins, self.confidence)
        name = triton.device_name(x) if on == "triton" else cuda.device(x.device.index).name
        return replace(done, backend=f"{on}-{name}", arithmetic="float64")

    def _backend(self, x: Tensor, operation: str) -> str:
        """The backend of layers like x. Raises BackendError where it cannot run."""
        on = devices.choose(self.backend, x, operation)
        if on == "triton":
            triton.check_device(x.device)
        return on

    def _lanes_of(self, x: Tensor) -> Lanes:
        if self._lanes is None or self._lanes.device != x.device:
            self._lanes = Lanes(x.device, self.streams)
        return self._lanes

    def _queue(
        self,
        operation: str,
        xs: list[Tensor],
        one: Callable[[Tensor], list[Tensor]],
        on: str = "cuda",
    ) -> list[list[Tensor]]:
        """What `one` makes of each layer, queued; nothing here waits for the device."""
        torch = require("torch", "torch")
        lanes = self._lanes_of(xs[0])
        with cuda.on_device_of(xs[0], on):
            if on == "triton" or not self._records(operation, xs[0]):
                return lanes.run([_job(one, x) for x in xs])
            made = self._recorded.get(operation)
            if made is None:
                held = [torch.empty_like(x, memory_format=torch.contiguous_format) for x in xs]
                _copy(xs, held)
                recorded = Recorded(lanes, [_job(one, x) for x in held])
                self._recorded[operation] = made = held, recorded
            held, recorded = made
            if (len(xs), _kind(xs[0])) != (len(held), _kind(held[0])):
                raise InputError(
                    f"the graph was recorded for {len(held)} layers of {_kind(held[0])}, and these "
                    f"are {len(xs)} of {_kind(xs[0])}: make another LayerSweep, or pass graph=False"
                )
            _copy(xs, held)
            # The next replay writes into the same memory.
            return [[part.clone() for part in parts] for parts in recorded.replay()]

    def _records(self, operation: str, x: Tensor) -> bool:
        if self.graph == "auto":
            chip, (n, d) = cuda.device(x.device.index).name, x.shape
            dominate = cost.launches_dominate(chip, n, d, operation)
            return operation in self._recorded or dominate
        return bool(self.graph)

    def _how(self, operation: str, layers: int) -> dict[str, int | str]:
        """What plans say of the sweep."""
        graph = "recorded" if operation in self._recorded else "no"
        return {"layers": layers, "streams": min(self.streams, layers), "graph": graph}


def cosine_engine(backend: str) -> Any:
    """The kernels of cosines, of "cuda" or "triton": `norms_of`, `centered`, `visit` and so on."""
    if backend == "cuda":
        return cuda_cosine
    from fastdim.backends.triton import launch

    return launch


def check_fit(fits: NDArray[np.int64]) -> None:
    """Raise InputError unless the distances of each layer are finite in the type they are kept in.

    fits: (layers,), 0 where they are not.
    """
    if not fits.all():
        raise InputError(
            f"distances of layer {int(fits.argmin())} overflow float32: pass the rows as float64, "
            "or divide them by a constant"
        )


def _kept(distances: Tensor, x: Tensor) -> Tensor:
    return distances if x.dtype == require("torch", "torch").float64 else distances.float()


def _fits(distances: Tensor) -> Tensor:
    return distances.isfinite().all().long()


def as_layers(layers: Any, least_columns: int = 1) -> list[Tensor]:
    """Layers (layers, n, d), or a sequence of (n, d), as checked tensors of one GPU.

    Raises InputError on shapes, types and devices that differ, and as `devices.check_matrix`;
    BackendError on layers in host memory.
    """
    if not isinstance(layers, Iterable):
        raise InputError(
            f"layers must be (layers, n, d), or a sequence of (n, d), got {type(layers).__name__}"
        )
    xs = [devices.device_tensor(layer, f"layer {i}") for i, layer in enumerate(layers)]
    if not xs:
        raise InputError("there is no layer: pass (layers, n, d), or tensors (n, d) of one shape")
    tensors = [x for x in xs if x is not None]
    if len(tensors) < len(xs):
        number = next(i for i, x in enumerate(xs) if x is None)
        raise BackendError(
            f"layer {number} does not lie on a GPU: move it there, or call knn and cosine_stats "
            "layer by layer"
        )
    for number, x in enumerate(tensors):
        if _kind(x) != _kind(tensors[0]):
            raise InputError(
                f"layer {number} is {_kind(x)} and layer 0 {_kind(tensors[0])}: pass layers of one "
                "shape, type and device"
            )
    if tensors[0].shape[1] < least_columns:
        raise InputError(f"layers need at least {least_columns} columns")
    return tensors


def _kind(x: Tensor) -> str:
    return f"{tuple(x.shape)} {str(x.dtype).removeprefix('torch.')} on {x.device}"


def _job(one: Callable[[Tensor], list[Tensor]], x: Tensor) -> Job:
    return lambda: one(x)


def _copy(sources: Sequence[Tensor], targets: Sequence[Tensor]) -> None:
    for source, target in zip(sources, targets, strict=True):
        target.copy_(source)
