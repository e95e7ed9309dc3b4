"""The Triton kernels: neighbours, cosine statistics and row statistics on NVIDIA and AMD GPUs.

Importing this package imports neither triton nor torch; its functions do.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from fastdim.errors import BackendError, DependencyError, require

if TYPE_CHECKING:
    from torch import Tensor
    from torch import device as Device

    from fastdim.backends.pairs import PairStatistics, UnitRows

Int64 = NDArray[np.int64]


def default_device() -> Device:
    """The device for rows in host memory; BackendError where nothing can run the kernels."""
    _import()
    from . import device

    return device.default_device()


def check_device(of: Device) -> None:
    """Raise BackendError unless the kernels can run on tensors of this device."""
    _import()
    from . import device

    device.check_device(of)


def device_name(x: Tensor) -> str:
    """The name of the device of x, "interpreter" for the CPU."""
    from . import device

    return device.name(x)


def knn_tensor(
    x: Tensor, k: int, queries: Tensor | None = None
) -> tuple[Tensor, Tensor, dict[str, int | str]]:
    """Distances (m, k), indices (m, k) and the plan: see `search.knn_tensor`."""
    _import()
    from . import search

    return search.knn_tensor(x, k, queries)


def unit_rows(x: Tensor) -> UnitRows:
    """Unit rows less their mean, and what cosines need of them: see `launch.unit_rows`."""
    _import()
    from . import launch

    return launch.unit_rows(x)


def all_pairs(unit: UnitRows, bins: int) -> PairStatistics:
    """Moments, extremes and histogram of all pairs: see `launch.all_pairs`."""
    from . import launch

    return launch.all_pairs(unit, bins)


def some_pairs(unit: UnitRows, left: Int64, right: Int64) -> NDArray[np.float64]:
    """Cosines (pairs,) of the unit rows numbered left and right (pairs,)."""
    import torch

    from . import launch

    device = unit.w.device
    pairs = (torch.from_numpy(numbers).to(device) for numbers in (left, right))
    found: NDArray[np.float64] = launch.cosines_of(unit, *pairs).cpu().numpy()
    return found


def distinct(x: Tensor) -> tuple[Int64, Int64]:
    """First row (g,) of each group of equal rows (-0 is 0), in order, and each row's group (n,)."""
    _import()
    from . import launch

    first, inverse = launch.distinct(x)
    return first.cpu().numpy(), inverse.cpu().numpy()


def _import() -> None:
    """Import triton and torch. BackendError names what to install."""
    try:
        require("triton", "triton")
        require("torch", "torch")
    except DependencyError as error:
        raise BackendError(f"backend 'triton' cannot run: {error}; or pass backend='cpu'") from None
