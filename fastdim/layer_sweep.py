"""Neighbours and cosines of many matrices of one shape on a GPU, queued without a wait."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from fastdim.arrays import generator, whole_number
from fastdim.backends import cost, cuda, cuda_cosine, devices
from fastdim.backends.lanes import Lanes, Recorded
from fastdim.backends.pairs import reduced, squares_by_row, statistics
from fastdim.cosine import CosineStats, check_pairs, draw_pairs, sampled_pairs
from fastdim.cosine_device import finished, stats
from fastdim.errors import BackendError, InputError, require
from fastdim.estimate import check_confidence
from fastdim.neighbors import Neighbors
from fastdim.query_plan import plan_queries

if TYPE_CHECKING:
    from torch import Tensor

Job = Callable[[], "list[Tensor]"]


class LayerSweep:
    """Neighbours and cosines of many matrices of one shape, one call for all of them.

    For the layers of a model, again and again: all are queued on `streams` streams beside the
    current one, and the host waits once, when everything is queued, to fetch what it reports. Each
    layer's numbers are those of `knn` and `cosine_stats` on backend "cuda", bit for bit. Where the
    host would take longer to queue small layers than the device to compute them, their launches are
    recorded as a CUDA graph at the first call and queued at once from then on.

    k, queries, seed: as of `knn`: None, a number of rows, drawn plainly, or row numbers: the same
        in every layer.
    bins, pairs, confidence: as of `cosine_stats`.
    streams: layers that may run side by side; each takes the memory of one search.
    graph: True, False, or "auto" for where launches are predicted to take longer than the work
        (`fastdim/backends/cost.py`; not measured). A graph reads its own copy of the layers.

    Equal rows are kept. A layer with rows of zero waits once more, for its cosines are computed
    without them. Raises InputError on bad values; BackendError without the CUDA extension, a device
    or its memory, or where launches cannot be recorded.
    """

    def __init__(
        self,
        *,
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
        check_confidence(confidence)
        cuda_cosine.check_bins(whole_number("bins", bins, 1))
        check_pairs(pairs)
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
        k, _, chosen, _ = plan_queries(n, self.k, self.queries, None, self.seed)
        numbers = torch.from_numpy(np.arange(n) if chosen is None else chosen).to(device)
        asked = None if chosen is None else numbers
        on = cuda.device(device.index)
        how = cuda.strategy_for(on, n, xs[0].shape[1], k, asked)
        results = self._queue("knn", xs, lambda x: list(cuda.knn_tensor(x, k, asked, strategy=how)))
        kept = (
            results if xs[0].dtype == torch.float64 else [[r[0].float(), *r[1:]] for r in results]
        )
        # The one wait of the host: what the searches did, and whether distances fit their type.
        facts = [torch.cat([r[2], r[0].isfinite().all().long().reshape(1)]) for r in kept]
        counts = torch.stack(facts).cpu().numpy()
        for number, row in enumerate(counts):
            if not row[3]:
                raise InputError(
                    f"distances of layer {number} overflow float32: pass the rows as float64, or "
                    "divide them by a constant"
                )
        tile = on.tile if how == "full" else "small"
        plans = [cuda.plan(on, tile, k + cuda.SPARE, row[:3], how) for row in counts]
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
            for (distances, indices, _), plan in zip(kept, plans, strict=True)
        ]

    def cosine_stats(self, layers: Any) -> list[CosineStats]:
        """`cosine_stats` of each layer, which is given as to `knn`."""
        torch, xs = require("torch", "torch"), as_layers(layers, least_columns=2)
        n, device = len(xs[0]), xs[0].device
        every = torch.arange(n, device=device)
        sample = sampled_pairs(self.pairs, n)
        if sample is None:
            given = [cuda_cosine.edges_of(self.bins, xs[0])]
        else:
            drawn = draw_pairs(generator(self.seed), n, sample)
            given = [torch.from_numpy(side).to(device) for side in drawn]

        def one(x: Tensor) -> list[Tensor]:
            norms = cuda_cosine.norms_of(x)
            # Zero rows are told of at the end; here they only must not divide.
            unit = cuda_cosine.centered(x, 1.0 / norms.masked_fill(norms == 0, 1.0), every)
            held = [(norms == 0).sum(), *squares_by_row(unit), unit.slopes[:n], unit.center]
            if sample is not None:
                return [*held, cuda_cosine.cosines_of(unit, *given)]
            moments, histogram = cuda_cosine.visit(unit, given[0])
            return [*held, reduced(moments), histogram]

        results = self._queue("cosine_stats", xs, one)
        # From here on the host waits.
        fetched = [[part.cpu().numpy() for part in found] for found in results]
        return [self._stats(x, found) for x, found in zip(xs, fetched, strict=True)]

    def _stats(self, x: Tensor, found: list[Any]) -> CosineStats:
        if found[0]:
            return stats(x, "cuda", self.bins, self.pairs, None, self.seed, self.confidence)
        visited = cosines = None
        if len(found) == 7:
            cosines = found[6]
        else:
            visited = statistics(len(x), float(found[5][0]), found[6], found[7])
        done = finished(len(x), found[1:6], visited, cosines, self.bins, self.confidence)
        return replace(
            done, backend=f"cuda-{cuda.device(x.device.index).name}", arithmetic="float64"
        )

    def _queue(
        self,
        operation: str,
        xs: list[Tensor],
        one: Callable[[Tensor], list[Tensor]],
    ) -> list[list[Tensor]]:
        """What `one` makes of each layer, queued; nothing here waits for the device."""
        torch = require("torch", "torch")
        device = xs[0].device
        on = cuda.device(device.index)
        if self._lanes is None or self._lanes.device != device:
            self._lanes = Lanes(device, self.streams)
        with cuda.on_device_of(xs[0]):
            if not self._records(operation, on.name, *xs[0].shape):
                return self._lanes.run([_job(one, x) for x in xs])
            made = self._recorded.get(operation)
            if made is None:
                held = [torch.empty_like(x, memory_format=torch.contiguous_format) for x in xs]
                _copy(xs, held)
                recorded = Recorded(self._lanes, [_job(one, x) for x in held])
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

    def _records(self, operation: str, chip: str, n: int, d: int) -> bool:
        if self.graph == "auto":
            return operation in self._recorded or cost.launches_dominate(chip, n, d, operation)
        return bool(self.graph)

    def _how(self, operation: str, layers: int) -> dict[str, int | str]:
        """What plans say of the sweep."""
        graph = "recorded" if operation in self._recorded else "no"
        return {"layers": layers, "streams": min(self.streams, layers), "graph": graph}


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
