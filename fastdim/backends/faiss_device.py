"""FAISS on tensors that lie on a GPU: it reads and writes device memory, on torch's stream.

As in `faiss_search`, an index only proposes candidates: they are recomputed in float64 and audited,
here by torch and by the exact engine of the device. Rows never pass through host memory, but for
the sample on which FAISS trains inverted lists, which FAISS itself copies there.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from fastdim.backends import cuda, devices, faiss_index
from fastdim.backends.faiss_audit import Audit, compare
from fastdim.backends.faiss_search import (
    AUDIT_ROWS,
    LONGER,
    SHORT,
    SPARE,
    Options,
    check_gpu_width,
    check_recall,
    sample,
    tune,
)
from fastdim.errors import BackendError, InputError, require

if TYPE_CHECKING:
    from torch import Tensor

# Differences of candidates are formed in blocks of about this size, on the device.
BLOCK_BYTES = 1 << 28
# Queries that are searched at a time.
BATCH = 1 << 16


@dataclass(eq=False)
class DeviceIndex:
    """Rows (n, d) of a tensor as FAISS reads them where they lie; "flat" or "ivf".

    values: (n, d) float32, contiguous: rows less their mean, divided by the largest norm, so that a
    common offset, a tiny unit or the range of half precision does not cost digits. effort: nprobe.
    """

    x: Tensor
    values: Tensor
    kind: str
    parameters: dict[str, int]
    resources: Any
    index: Any = None
    effort: int = 0

    @property
    def most_effort(self) -> int:
        """Lists beyond which nprobe finds nothing further, or FAISS takes no more."""
        return min(self.parameters["lists"], faiss_index.GPU_PROBES)

    def set_effort(self, value: int) -> None:
        """Set nprobe, at most `most_effort`."""
        self.effort = self.index.nprobe = min(value, self.most_effort)

    def propose(self, queries: Tensor, width: int) -> Tensor:
        """Row numbers (m, width) int64 of candidates; -1 where there are fewer."""
        torch, faiss = require("torch", "torch"), require("faiss", "faiss-gpu")
        asked = self.values[queries]
        distances = asked.new_empty((len(asked), width))
        found: Tensor = torch.empty((len(asked), width), dtype=torch.int64, device=asked.device)
        with on_stream(self.resources, asked) as device:
            if self.kind == "flat":
                faiss.bfKnn(
                    self.resources, brute_force(self.values, asked, distances, found, device)
                )
            else:
                self.index.search_ex(
                    len(asked), address(faiss, asked), faiss.Float32, width,
                    address(faiss, distances), address(faiss, found),
                )  # fmt: skip
        return found


@contextmanager
def on_stream(resources: Any, x: Tensor) -> Iterator[int]:
    """FAISS works on torch's current stream of the device of x; the number of that device.

    Raises BackendError where FAISS or torch runs out of memory inside, and on what else FAISS tells
    by RuntimeError.
    """
    torch, faiss = require("torch", "torch"), require("faiss", "faiss-gpu")
    with cuda.on_device_of(x, "faiss-gpu") as stream:
        device = x.device.index or 0
        resources.setDefaultStream(device, faiss.cast_integer_to_cudastream_t(stream))
        try:
            yield device
        except (torch.OutOfMemoryError, BackendError):
            raise
        except RuntimeError as error:
            raise BackendError(
                f"FAISS failed on {x.device} with rows of shape {tuple(x.shape)} ({error}): take "
                "fewer rows or queries, or pass backend='auto'"
            ) from error


def address(faiss: Any, x: Tensor) -> Any:
    """The pointer FAISS takes for a contiguous tensor: float32 or int64."""
    torch = require("torch", "torch")
    if not x.is_contiguous():
        raise BackendError(f"FAISS reads contiguous memory, not strides {x.stride()}")
    cast = {
        torch.float32: faiss.cast_integer_to_float_ptr,
        torch.int64: faiss.cast_integer_to_idx_t_ptr,
    }
    return cast[x.dtype](x.data_ptr())


def brute_force(
    values: Tensor, asked: Tensor, distances: Tensor, found: Tensor, device: int
) -> Any:
    """Parameters of FAISS's search of all rows: values (n, d), asked (m, d), outputs (m, c)."""
    faiss = require("faiss", "faiss-gpu")
    one = faiss.GpuDistanceParams()
    one.metric = faiss.METRIC_L2
    one.k, one.dims = found.shape[1], values.shape[1]
    one.vectors, one.numVectors = address(faiss, values), len(values)
    one.queries, one.numQueries = address(faiss, asked), len(asked)
    one.vectorsRowMajor = one.queriesRowMajor = True
    one.vectorType = one.queryType = faiss.DistanceDataType_F32
    one.outDistances, one.outIndices = address(faiss, distances), address(faiss, found)
    one.outIndicesType = faiss.IndicesDataType_I64
    one.device = device
    return one


def build(x: Tensor, kind: Any, seed: int) -> DeviceIndex:
    """An index of the rows of x (n, d). Raises InputError on kinds that FAISS has on no GPU."""
    n, d = x.shape
    if isinstance(kind, faiss_index.FaissIndex):
        raise InputError(
            "a FaissIndex is one of rows in host memory, and x lies on a GPU: pass index='flat' or "
            "'ivf', or x.cpu()"
        )
    kind = faiss_index.kind_of(kind or "auto", n)
    faiss_index.check_gpu_kind(kind)
    faiss = require("faiss", "faiss-gpu")
    resources = faiss.StandardGpuResources()
    made = DeviceIndex(x, _packed(x), kind, {}, resources)
    if kind == "flat":
        return made
    lists = faiss_index.lists_of(n, None)
    config = faiss.GpuIndexIVFFlatConfig()
    config.device = x.device.index or 0
    made.parameters["lists"] = lists
    size = min(n, 64 * lists)
    chosen = np.sort(np.random.default_rng(seed).choice(n, size, replace=False))
    with on_stream(resources, x):
        made.index = faiss.GpuIndexIVFFlat(resources, d, lists, faiss.METRIC_L2, config)
        made.index.cp.seed = seed + 1
        training = made.values[_numbers(chosen, x)]
        made.index.train_ex(size, address(faiss, training), faiss.Float32)
        made.index.add_ex(n, address(faiss, made.values), faiss.Float32)
    made.set_effort(faiss_index.START["ivf"])
    return made


def knn(
    x: Tensor, queries: Tensor | None, k: int, options: Options, seed: int
) -> tuple[Tensor, Tensor, dict[str, int | str], Audit | None]:
    """As `faiss_search.knn`, of a tensor (n, d) on a GPU: results (m, k) float64 and int64 there.

    Any dtype and row stride that `devices.check_matrix` lets pass: FAISS sees a float32 copy on the
    same device. One GPU, that of x.

    Raises InputError on a kind or k that FAISS has on no GPU; BackendError below the least recall,
    where the wanted recall is out of reach, where FAISS fails, or where the exact engine that
    audits and completes cannot run on the device.
    """
    torch = require("torch", "torch")
    check_gpu_width(k)
    asked = torch.arange(len(x), device=x.device) if queries is None else queries
    engine = devices.choose("auto", x)
    made = build(x, options.index, seed)

    def exact(numbers: Tensor) -> tuple[Tensor, Tensor]:
        return devices.knn_tensor(engine, x, numbers, k)[:2]

    size = AUDIT_ROWS if options.audit is None else options.audit
    if options.target_recall is not None and made.kind != "flat":
        some = asked[_numbers(sample(np.arange(len(asked)), size, [seed, 1]), x)]
        truth = exact(some)[0].cpu().numpy()
        tune(
            made,
            made.most_effort,
            options.target_recall,
            truth,
            lambda: search(made, some, k, exact)[0].cpu().numpy(),
        )
    distances, indices, completed = search(made, asked, k, exact)
    plan: dict[str, int | str] = {"index": made.kind, **made.parameters}
    if made.kind == "ivf":
        plan["nprobe"] = made.effort
    plan.update({"gpus": 1, "candidates": k + 1 + SPARE, "completed_exactly": completed})
    if size == 0:
        return distances, indices, plan, None
    places = _numbers(np.sort(sample(np.arange(len(asked)), size, [seed, 2])), x)
    truth = exact(asked[places])[0].cpu().numpy()
    audit = compare(distances[places].cpu().numpy(), truth)
    check_recall(audit, options, made)
    return distances, indices, plan, audit


def search(made: DeviceIndex, asked: Tensor, k: int, exact: Any) -> tuple[Tensor, Tensor, int]:
    """Distances and row numbers (m, k) by recomputed candidates, and rows completed exactly."""
    torch, x = require("torch", "torch"), made.x
    width = min(len(x), k + 1 + SPARE)
    distances = torch.full((len(asked), k), torch.inf, dtype=torch.float64, device=x.device)
    indices = torch.full((len(asked), k), -1, dtype=torch.int64, device=x.device)
    step = max(1, BLOCK_BYTES // (8 * x.shape[1] * width))
    with cuda.on_device_of(x, "faiss-gpu"):
        for start in range(0, len(asked), BATCH):
            proposed = made.propose(asked[start : start + BATCH], width)
            for at in range(0, len(proposed), step):
                part = slice(start + at, start + at + len(proposed[at : at + step]))
                distances[part], indices[part] = recompute(
                    x, asked[part], proposed[at : at + step], k
                )
    short = (indices[:, k - 1] < 0).nonzero().flatten()
    if len(short):
        distances[short], indices[short] = exact(asked[short])
    return distances, indices, len(short)


def recompute(x: Tensor, asked: Tensor, proposed: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k nearest of the candidates (m, c) by float64 differences; -1 where there are fewer.

    The row itself, -1 and repeated candidates are left out; ties go to the smaller row number.
    """
    torch = require("torch", "torch")
    proposed = proposed.sort(dim=1).values
    bad = (proposed < 0) | (proposed == asked[:, None])
    bad[:, 1:] |= proposed[:, 1:] == proposed[:, :-1]
    differences = x[torch.where(bad, 0, proposed)].double() - x[asked].double()[:, None, :]
    found = differences.square().sum(dim=2).sqrt()
    longer = (differences * LONGER).square().sum(dim=2).sqrt() / LONGER
    found = torch.where(found < SHORT, longer, found).masked_fill(bad, torch.inf)
    distances, order = found.sort(dim=1, stable=True)
    numbers = proposed.masked_fill(bad, -1).gather(1, order)
    room = (0, max(0, k - numbers.shape[1]))
    distances = torch.nn.functional.pad(distances, room, value=torch.inf)
    return distances[:, :k], torch.nn.functional.pad(numbers, room, value=-1)[:, :k]


def _packed(x: Tensor) -> Tensor:
    """`DeviceIndex.values` of x: nothing of it passes through host memory."""
    torch = require("torch", "torch")
    n, d = x.shape
    spans = torch.split(x, max(1, BLOCK_BYTES // (8 * d)))
    with cuda.on_device_of(x, "faiss-gpu"):
        center = x.new_zeros(d, dtype=torch.float64)
        for part in spans:
            center += part.double().sum(dim=0)
        center /= n
        largest = x.new_zeros((), dtype=torch.float64)
        for part in spans:
            block = part.double() - center
            most = block.abs().amax()  # squares of tiny values vanish, those of huge ones overflow
            block /= torch.where(most > 0, most, 1.0)
            largest = torch.maximum(largest, most * block.square().sum(dim=1).amax().sqrt())
        scale = torch.where(largest > 0, largest, 1.0)
        values: Tensor = torch.empty((n, d), dtype=torch.float32, device=x.device)
        start = 0
        for part in spans:
            values[start : start + len(part)] = (part.double() - center) / scale
            start += len(part)
    return values


def _numbers(numbers: Any, x: Tensor) -> Tensor:
    """Row numbers as a tensor on the device of x."""
    tensor: Tensor = require("torch", "torch").from_numpy(numbers).to(x.device)
    return tensor
