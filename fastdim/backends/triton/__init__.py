"""The Triton kernels: neighbours, cosine statistics and row statistics on NVIDIA and AMD GPUs.

Importing this package imports neither triton nor torch; its functions do.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor
    from torch import device as Device


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


def _import() -> None:
    from .packages import packages

    packages()
