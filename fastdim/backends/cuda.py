"""The CUDA kernels, for `Rows` in host memory and for torch tensors on a device."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastdim.arrays import Rows
from fastdim.backends import cost
from fastdim.backends.cuda_pruned import axes_of, order_of
from fastdim.errors import BackendError, InputError, require

if TYPE_CHECKING:
    from torch import Tensor

Float64 = NDArray[np.float64]
Int64 = NDArray[np.int64]

# Candidates kept a query beyond k: the certificate needs a gap behind the k-th neighbour.
SPARE = 6
# How `knn_tensor` leaves pairs out: not at all; each pair of rows once, both sides updated; tiles
# of rows that leading axes tell apart.
STRATEGIES = ("full", "symmetric", "pruned")
LOWEST_CAPABILITY = (8, 0)
# Kinds of devices whose tensors the kernels read; the tests of the emulated GPU add the CPU's.
DEVICE_TYPES = {"cuda"}


class Device(NamedTuple):
    """A device that can run the kernels, and the tile of the filter that fits it."""

    number: int
    name: str
    multiprocessors: int
    shared_bytes: int
    tile: str

    def blocks(self, tile: str) -> int:
        """Blocks of the filter that run at a time: two a multiprocessor where memory allows."""
        double = 2 * extension().tile_shared_bytes(tile) + 2048 <= self.shared_bytes
        return self.multiprocessors * (2 if double else 1)


def extension() -> ModuleType:
    """The built extension `fastdim._cuda`. Raises BackendError, which says how to build it."""
    try:
        return importlib.import_module("fastdim._cuda")
    except ModuleNotFoundError:
        raise BackendError(
            "backend 'cuda' needs the extension fastdim._cuda, which is not built: with CUDA's "
            'nvcc on the PATH, run  CMAKE_ARGS="-DFASTDIM_CUDA=ON" pip install .  in the sources; '
            "or pass backend='cpu'"
        ) from None


def device(number: int | None = None) -> Device:
    """The device (the current one if None). Raises BackendError unless it can run the kernels."""
    cuda = extension()
    count, why = cuda.devices()
    if count == 0:
        raise BackendError(
            f"backend 'cuda' finds no device ({why or 'none is visible'}): it needs an NVIDIA GPU "
            "of compute capability 8.0 or more and a driver for CUDA 13; or pass backend='cpu'"
        )
    chosen = cuda.current_device() if number is None else number
    found: dict[str, Any] = cuda.properties(chosen)
    if tuple(found["capability"]) < LOWEST_CAPABILITY:
        major, minor = found["capability"]
        raise BackendError(
            f"backend 'cuda' needs compute capability 8.0 or more; {found['name']} has "
            f"{major}.{minor}: pass backend='cpu'"
        )
    fitting = [
        tile
        for tile in ("large", "medium", "small")
        if cuda.tile_shared_bytes(tile) <= found["shared_bytes"]
    ]
    return Device(
        chosen, found["name"], found["multiprocessors"], found["shared_bytes"], fitting[0]
    )


@contextmanager
def on_device_of(x: Tensor, backend: str = "cuda") -> Iterator[int]:
    """The device of x is the current one; the address of torch's current stream there.

    A tensor in host memory is for the emulator of the tests alone, which has no streams. Raises
    BackendError where torch runs out of memory inside.
    """
    torch = require("torch", "torch")
    try:
        if x.is_cuda:
            with torch.cuda.device(x.device):
                yield torch.cuda.current_stream().cuda_stream
        else:
            yield 0
    except torch.OutOfMemoryError as error:
        raise BackendError(
            f"backend {backend!r} ran out of memory on {x.device} with rows of shape "
            f"{tuple(x.shape)} ({error}): take fewer rows or queries, free memory, or pass "
            "backend='cpu'"
        ) from None


def torch_device() -> Any:
    """The current device, for torch. BackendError where the kernels or torch cannot use it."""
    number = device().number
    torch = require("torch", "torch")
    if not torch.cuda.is_available():
        raise BackendError(
            f"backend 'cuda' computes this on torch tensors, and torch {torch.__version__} sees no "
            "GPU: install a CUDA build of torch, or pass backend='cpu'"
        )
    return torch.device("cuda", number)


def knn(
    rows: Rows, queries: Int64 | None, k: int, keep: int | None = None, tile: str | None = None
) -> tuple[Float64, Int64, dict[str, int | str]]:
    """As `fastdim.backends.cpu.knn`, of rows in host memory, on the current device.

    keep: candidates a query, k + 6 if None. tile: "small", "medium" or "large", None for the
    largest that fits the device. Raises BackendError as `device` does.
    """
    on = device()
    cuda = extension()
    m = rows.n if queries is None else len(queries)
    kept, tile = keep or k + SPARE, tile or on.tile
    data = np.ascontiguousarray(rows.data)
    distances, indices = np.full((m, k), np.nan), np.full((m, k), -1, dtype=np.int64)
    counts = np.zeros(3, dtype=np.int64)
    blocks = on.blocks(tile)
    work = cuda.knn_workspace(rows.n, rows.d, queries is not None, m, k, kept, tile, blocks)
    held: list[int] = []

    def take(size: int) -> int:
        held.append(cuda.allocate(size))
        return held[-1]

    def upload(array: NDArray[Any]) -> int:
        at = take(array.nbytes)
        cuda.copy(at, int(array.ctypes.data), array.nbytes, 0)
        return at

    try:
        chosen = 0 if queries is None else upload(np.ascontiguousarray(queries, dtype=np.int64))
        values = upload(data)
        outputs = [upload(array) for array in (distances, indices, counts)]
        cuda.knn(
            values, rows.n, rows.d, rows.d, rows.dtype, chosen, m, k, kept, tile,
            blocks, take(work), *outputs, 0,
        )  # fmt: skip
        for array, at in zip((distances, indices, counts), outputs, strict=True):
            cuda.copy(int(array.ctypes.data), at, array.nbytes, 0)
    except RuntimeError as error:
        raise BackendError(
            f"backend 'cuda' on {on.name}: {error}; it asked for {work + data.nbytes} bytes: "
            "search fewer rows at a time, or pass backend='cpu'"
        ) from None
    finally:
        for at in held:
            cuda.release(at)
    return distances, indices, plan(on, tile, kept, counts)


def plan(
    on: Device, tile: str, keep: int, counts: Int64, strategy: str = "full"
) -> dict[str, int | str]:
    """What the search did, as `Neighbors.plan` holds it."""
    tiles = {} if counts[2] < 0 else {"tiles_visited": int(counts[2])}
    return {
        "strategy": strategy,
        **tiles,
        "isa": f"cuda-{on.name}",
        "tile": tile,
        "candidates": keep,
        "queries_searched_again": int(counts[0]),
        "rows_coarse_in_float16": int(counts[1]),
    }


def knn_tensor(
    x: Any,
    k: int = 2,
    queries: Any = None,
    keep: int | None = None,
    tile: str | None = None,
    strategy: str = "full",
) -> tuple[Any, Any, Any]:
    """Distances (m, k) float64, indices (m, k) int64 and counts (3,) int64 as tensors.

    x: torch tensor (n, d) on a CUDA device, columns adjacent, finite values. queries: int64 tensor
    (m,) of row numbers on the same device, or None for every row. strategy: "full"; "symmetric",
    which multiplies each pair once; or "pruned", which leaves out tiles of rows that a few
    principal axes tell apart; the last two for all rows as queries and with the tile "small".
    Queued on torch's current stream without waiting; counts[0] is the number of queries that were
    searched again in full, counts[2] that of the tiles visited, -1 for all.
    """
    _check_tensor(x, k, queries)
    if strategy not in STRATEGIES:
        raise InputError(
            f"strategy must be one of {', '.join(STRATEGIES)} on backend 'cuda', got {strategy!r}"
        )
    pruned, symmetric = strategy == "pruned", strategy == "symmetric"
    small = pruned or symmetric
    if small and (queries is not None or tile not in (None, "small")):
        raise InputError(
            f"strategy {strategy!r} of backend 'cuda' searches all rows in small tiles: leave "
            "queries and tile out, or pass strategy='full'"
        )
    torch = require("torch", "torch")
    cuda, (n, d) = extension(), x.shape
    with on_device_of(x) as stream:
        on = device(x.device.index)
        m = n if queries is None else len(queries)
        kept, tile = keep or k + SPARE, "small" if small else tile or on.tile
        blocks = on.blocks(tile)
        work = cuda.knn_workspace(
            n, d, queries is not None, m, k, kept, tile, blocks, pruned, symmetric
        )
        held: list[Any] = []  # by this call, until everything is queued
        chosen = order = axes = count = 0
        if queries is not None:
            held.append(queries.contiguous())
            chosen = held[0].data_ptr()
        if pruned:
            held.append(axes_of(x))
            held.append(order_of(x, held[0]))
            axes, order, count = held[0].data_ptr(), held[1].data_ptr(), len(held[0])
        held.append(torch.empty(work, dtype=torch.uint8, device=x.device))
        distances = torch.full((m, k), float("nan"), dtype=torch.float64, device=x.device)
        indices = torch.full((m, k), -1, dtype=torch.int64, device=x.device)
        counts = torch.zeros(3, dtype=torch.int64, device=x.device)
        cuda.knn(
            x.data_ptr(), n, d, x.stride(0), str(x.dtype).removeprefix("torch."), chosen, m, k,
            kept, tile, blocks, held[-1].data_ptr(), distances.data_ptr(), indices.data_ptr(),
            counts.data_ptr(), stream, order, axes, count, symmetric,
        )  # fmt: skip
    return distances, indices, counts


def strategy_for(on: Device, n: int, d: int, k: int, queries: Any) -> str:
    """ "symmetric" where the model of cost says that it pays for all n rows, else "full"."""
    if queries is not None or not cost.symmetric_pays(on.name, n, d, k + SPARE):
        return "full"
    return "symmetric"


def _check_tensor(x: Any, k: int, queries: Any) -> None:
    torch = require("torch", "torch")
    if not isinstance(x, torch.Tensor) or x.device.type not in DEVICE_TYPES:
        raise InputError("knn_tensor needs a torch tensor on a CUDA device")
    known = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
    if x.ndim != 2 or x.dtype not in known or x.stride(1) != 1 or x.stride(0) < x.shape[1]:
        raise InputError(
            f"x must be (rows, columns), float16, bfloat16, float32 or float64, columns adjacent; "
            f"got {x.dtype} of shape {tuple(x.shape)}, strides {x.stride()}: x.contiguous() helps"
        )
    if not 1 <= k < len(x):
        raise InputError(f"k = {k} neighbours need at least {k + 1} rows, got {len(x)}")
    if queries is not None and (queries.device != x.device or queries.dtype != torch.int64):
        raise InputError("queries must be an int64 tensor on the device of x")
