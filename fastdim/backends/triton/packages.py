"""The packages that the kernels need."""

from __future__ import annotations

from fastdim.errors import BackendError, DependencyError, require


def packages() -> None:
    """Import triton and torch. BackendError names what to install."""
    try:
        require("triton", "triton")
        require("torch", "torch")
    except DependencyError as error:
        raise BackendError(f"backend 'triton' cannot run: {error}; or pass backend='cpu'") from None
