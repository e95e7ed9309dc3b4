"""Searches on a device: which backend takes an input, and its results as the same kind of array."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fastdim.arrays import Rows
from fastdim.backends import cuda, faiss_index
from fastdim.errors import BackendError, InputError, require

# What `python -m benchmarks.gpu` found faster on each chip: empty until one has run it.
MEASURED = Path(__file__).with_name("faster.json")

if TYPE_CHECKING:
    from torch import Tensor

Int64 = NDArray[np.int64]
BACKENDS = ("auto", "cpu", "cuda", "triton", *faiss_index.BACKENDS)


def check_backend(backend: str) -> None:
    """Raise BackendError unless a backend has this name."""
    if not isinstance(backend, str) or backend not in BACKENDS:
        raise BackendError(
            f"backend {backend!r} is not available: backends are {', '.join(BACKENDS)}; pass "
            "backend='cpu', or 'auto' to let fastdim choose"
        )


def device_tensor(x: Any, name: str = "x") -> Tensor | None:
    """x (n, d) as a checked torch tensor where it lies on a GPU, None where it does not.

    Takes torch tensors and whatever has `__dlpack__` on a CUDA or ROCm device. Raises InputError on
    a wrong shape, dtype or layout.
    """
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(x, torch.Tensor):
        return check_matrix(x, name) if x.device.type == "cuda" else None
    kinds = (2, 10)  # kDLCUDA, kDLROCM
    if hasattr(x, "__dlpack_device__") and int(x.__dlpack_device__()[0]) in kinds:
        return check_matrix(require("torch", "torch").from_dlpack(x), name)
    return None


def check_matrix(x: Tensor, name: str) -> Tensor:
    """x (n, d) as a dense tensor of a supported dtype, columns adjacent, without NaN or Inf."""
    from fastdim.torch.inputs import check_finite, check_tensor

    x = check_tensor(x, name).detach().resolve_neg()
    if x.ndim != 2 or x.shape[0] < 2 or x.shape[1] < 1:
        raise InputError(
            f"{name} needs two dimensions, at least 2 rows and 1 column; got shape {tuple(x.shape)}"
        )
    check_finite(x, name)
    return x if x.stride(1) == 1 and x.stride(0) >= x.shape[1] else x.contiguous()


def choose(backend: str, x: Tensor | None, operation: str = "knn") -> str:
    """The backend that takes x: a device tensor, or None for rows in host memory.

    "auto" keeps rows where they lie: the CPU for host memory; for a GPU the one that was faster on
    a chip of this name, by the table that `python -m benchmarks.gpu` writes, and where none was
    measured the CUDA extension; Triton where the extension is not built or does not run there.
    operation: "knn" or "cosine_stats". Raises BackendError on "cpu" and "faiss" for a tensor on a
    GPU.
    """
    check_backend(backend)
    if x is None:
        return "cpu" if backend == "auto" else backend
    if backend in ("cpu", "faiss"):
        others = "'auto'" if backend == "cpu" else "'faiss-gpu' or 'auto'"
        raise BackendError(
            f"x lies on {x.device}, and backend={backend!r} reads host memory: pass x.cpu(), or "
            f"backend={others} to search where it lies"
        )
    return _of_device(x, operation) if backend == "auto" else backend


def _of_device(x: Tensor, operation: str) -> str:
    torch = require("torch", "torch")
    if torch.version.hip is not None:
        return "triton"
    try:
        on = cuda.device(x.device.index)
    except BackendError:
        return "triton"
    return faster(on.name, operation)


def faster(chip: str, operation: str) -> str:
    """ "cuda" or "triton": the faster on this chip where both were measured, else "cuda"."""
    table: dict[str, dict[str, str]] = json.loads(MEASURED.read_text(encoding="utf-8"))
    return table.get(chip, {}).get(operation, "cuda")


def upload(rows: Rows, device: Any) -> Tensor:
    """Rows in host memory as a tensor on a device; on the CPU without a copy where it may write."""
    torch = require("torch", "torch")
    data = rows.data.view(np.int16) if rows.dtype == "bfloat16" else rows.data
    if not data.flags.writeable:
        data = data.copy()
    tensor: Tensor = torch.from_numpy(data)
    if rows.dtype == "bfloat16":
        tensor = tensor.view(torch.bfloat16)
    return tensor.to(device)


def knn(
    backend: str, rows: Rows, queries: Int64 | None, k: int
) -> tuple[NDArray[np.float64], Int64, dict[str, int | str], str]:
    """As `fastdim.backends.cpu.knn` on "cuda" or "triton", of rows in host memory; and who did it.

    Raises BackendError where the backend cannot run.
    """
    if backend == "cuda":
        distances, indices, plan = cuda.knn(rows, queries, k)
        return distances, indices, plan, str(plan["isa"])
    from fastdim.backends import triton

    device = triton.default_device()
    x = upload(rows, device)
    chosen = None if queries is None else require("torch", "torch").from_numpy(queries).to(device)
    found, numbers, plan = triton.knn_tensor(x, k, chosen)
    return found.cpu().numpy(), numbers.cpu().numpy(), plan, f"triton-{triton.device_name(x)}"


def knn_tensor(
    backend: str, x: Tensor, queries: Tensor | None, k: int, strategy: str = "auto"
) -> tuple[Tensor, Tensor, dict[str, int | str], str]:
    """The same of a tensor on a device, results on that device.

    strategy: "auto", and for backend "cuda" what `cuda.knn_tensor` knows, of which "auto" is what
    the model of cost chooses.
    """
    if backend == "triton":
        from fastdim.backends import triton

        triton.check_device(x.device)
        distances, indices, plan = triton.knn_tensor(x, k, queries)
        return distances, indices, plan, f"triton-{triton.device_name(x)}"
    on = cuda.device(x.device.index)
    n, d = x.shape
    how = cuda.strategy_for(on, n, d, k, queries) if strategy == "auto" else strategy
    distances, indices, counts = cuda.knn_tensor(x, k, queries, strategy=how)
    tile = on.tile if how == "full" else "small"
    plan = cuda.plan(on, tile, k + cuda.SPARE, counts.cpu().numpy(), how)
    return distances, indices, plan, str(plan["isa"])


def distinct(backend: str, x: Tensor) -> tuple[Int64, Int64]:
    """First row (g,) of each group of equal rows (-0 is 0), in order, and each row's group (n,)."""
    if backend == "triton":
        from fastdim.backends import triton

        triton.check_device(x.device)
        return triton.distinct(x)
    torch = require("torch", "torch")
    _, inverse = torch.unique(x + 0.0, dim=0, return_inverse=True)
    first = torch.full((int(inverse.max()) + 1,), len(x), device=x.device)
    first.scatter_reduce_(0, inverse, torch.arange(len(x), device=x.device), "amin")
    order = first.sort()
    rank = torch.empty_like(order.indices)
    rank[order.indices] = torch.arange(len(first), device=x.device)
    return order.values.cpu().numpy(), rank[inverse].cpu().numpy()
