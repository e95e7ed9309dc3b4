"""Where the Triton kernels can run: a GPU that torch sees, or Triton's interpreter."""

from __future__ import annotations

import torch
import triton
from torch import Tensor
from torch import device as Device

from fastdim.errors import BackendError

from .filter import knn_filter
from .tiles import needed_triton

LOWEST_CAPABILITY = (8, 0)
# Programs that run at a time are counted in these; the interpreter runs one after the other.
INTERPRETED_MULTIPROCESSORS = 2


def interpreted() -> bool:
    """Whether the kernels were made for Triton's interpreter (TRITON_INTERPRET=1 at import)."""
    return not hasattr(knn_filter, "device_caches")


def default_device() -> Device:
    """The device for rows in host memory. Raises BackendError where nothing can run the kernels."""
    if interpreted():
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise BackendError(
            f"backend 'triton' finds no GPU that torch {torch.__version__} can use: it needs a "
            "CUDA or ROCm build of torch, a driver, and an NVIDIA GPU of compute capability 8.0 or "
            "more or an AMD one; TRITON_INTERPRET=1 runs the kernels slowly on the CPU, to check "
            "them; or pass backend='cpu'"
        )
    device = torch.device("cuda", torch.cuda.current_device())
    check_device(device)
    return device


def check_device(device: Device) -> None:
    """Raise BackendError unless the kernels can run on tensors of this device."""
    if device.type == "cpu" and interpreted():
        return
    if device.type != "cuda":
        raise BackendError(
            f"backend 'triton' cannot run on {device}: it needs an NVIDIA or AMD GPU "
            "(TRITON_INTERPRET=1 runs it slowly on the CPU); or pass backend='cpu'"
        )
    if interpreted():
        raise BackendError(
            "TRITON_INTERPRET=1 is set, which is for tensors on the CPU: unset it to use the GPU"
        )
    if torch.version.hip is None and torch.cuda.get_device_capability(device) < LOWEST_CAPABILITY:
        major, minor = torch.cuda.get_device_capability(device)
        raise BackendError(
            f"backend 'triton' needs compute capability 8.0 or more; "
            f"{torch.cuda.get_device_name(device)} has {major}.{minor}: pass backend='cpu'"
        )
    check_version(architecture(device), triton.__version__)


def check_version(on: str, version: str) -> None:
    """Raise BackendError unless this version of triton compiles the kernels for an architecture."""
    needed = needed_triton(on)
    if tuple(int(part) for part in version.split(".")[:2]) < needed:
        wanted = ".".join(map(str, needed))
        raise BackendError(
            f"backend 'triton' needs triton {wanted} or more on {on}, and {version} is installed: "
            f"pip install 'triton>={wanted}', or pass backend='cpu'"
        )


def multiprocessors(x: Tensor) -> int:
    """Multiprocessors of the device of x."""
    if x.device.type == "cpu":
        return INTERPRETED_MULTIPROCESSORS
    return int(torch.cuda.get_device_properties(x.device).multi_processor_count)


def architecture(device: Device) -> str:
    """The target of compilation: "sm_90", "gfx942" and so on; "" in the interpreter."""
    if device.type == "cpu":
        return ""
    if torch.version.hip is not None:
        return str(torch.cuda.get_device_properties(device).gcnArchName).split(":")[0]
    major, minor = torch.cuda.get_device_capability(device)
    return f"sm_{major}{minor}"


def name(x: Tensor) -> str:
    """The name of the device of x, as `Neighbors.backend` holds it."""
    if x.device.type == "cpu":
        return "interpreter"
    return str(torch.cuda.get_device_name(x.device))
