"""What every function of tensors checks, on any device; the search checks by `as_rows` as well."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd import forward_ad

from fastdim.arrays import BLOCK_BYTES, LARGEST_FLOAT64, STORAGE, real_number
from fastdim.errors import InputError


def check_tensor(x: Any, name: str) -> Tensor:
    """x as a dense floating-point tensor, or InputError: what is known without reading values."""
    if not isinstance(x, Tensor):
        raise InputError(
            f"{name} must be a torch tensor, got {type(x).__name__}: pass torch.as_tensor(x), or "
            "use fastdim's own functions, which take arrays"
        )
    if x.layout != torch.strided or x.is_quantized:
        raise InputError(f"{name} is a sparse or quantized tensor: pass a dense one")
    kind = str(x.dtype).removeprefix("torch.")
    if kind not in STORAGE:
        raise InputError(
            f"{name} has dtype {kind}; supported are {', '.join(STORAGE)}: convert it, e.g. "
            f"{name}.float()"
        )
    tensor: Tensor = x
    return tensor


class _Backwards(torch.autograd.Function):
    """Identity that refuses derivatives forwards: custom operators have no rule for them.

    torch would take what comes through those as constant, and the derivative as zero.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        """Nothing to keep: the derivative is one."""

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor) -> Tensor:
        raise InputError(
            "x carries a tangent, and forward-mode derivatives (torch.func.jvp, jacfwd, "
            "torch.autograd.forward_ad) are not defined here: use torch.autograd.grad, or "
            "torch.autograd.functional.jvp, which goes backwards twice"
        )


def differentiable(x: Any) -> Tensor:
    """`check_tensor`, and InputError where x carries a derivative forwards."""
    tensor = check_tensor(x, "x")
    if not torch.compiler.is_compiling():
        passed: Tensor = _Backwards.apply(tensor)  # type: ignore[no-untyped-call]  # torch's
        return passed
    # Functions with a jvp cannot be compiled. Batches of torch.func.vmap hide the tangent here.
    if forward_ad.unpack_dual(tensor).tangent is not None:  # type: ignore[no-untyped-call]
        _Backwards.jvp(None, tensor)
    return tensor


def check_rows(x: Any, name: str, least: int) -> Tensor:
    """A float64 copy of x (n, d): at least `least` rows, 2 columns, and no NaN or Inf.

    Raises InputError on anything else, with the number of rows that cannot be used.
    """
    x = check_tensor(x, name)
    if x.ndim != 2:
        raise InputError(
            f"{name} must be two-dimensional (rows, columns), got shape {tuple(x.shape)}: flatten "
            f"it, e.g. {name}.flatten(0, -2)"
        )
    if x.shape[0] < least or x.shape[1] < 2:
        raise InputError(
            f"{name} needs at least {least} rows and 2 columns, got {x.shape[0]} and {x.shape[1]}"
        )
    check_finite(x, name)
    values: Tensor = x.detach().to(torch.float64, copy=True, memory_format=torch.contiguous_format)
    return values


def check_finite(x: Tensor, name: str) -> None:
    """Raise InputError, with the number of rows, where rows of x (n, d) cannot be used."""
    step = max(1, BLOCK_BYTES // (8 * max(1, x.shape[1])))
    # Written so that NaN counts as bad.
    bad = [
        (~(part.detach().double().abs() <= LARGEST_FLOAT64)).any(dim=1)
        for part in torch.split(x, step)
    ]
    numbers = torch.cat(bad).nonzero()
    if len(numbers):
        raise InputError(
            f"{name} holds {len(numbers)} rows with NaN, infinite or unusably large values (beyond "
            f"{LARGEST_FLOAT64:g}) among {x.shape[0]}, the first is row {int(numbers[0])}: drop "
            "them, or leave them out by a mask where the function takes one"
        )


def select(x: Any, mask: Tensor | None) -> Tensor:
    """Rows (n, d) of x (..., d) whose entry of mask (...) is nonzero; all where mask is None."""
    x = check_tensor(x, "x")
    if x.ndim < 2:
        raise InputError(f"x must have rows and columns (..., d), got shape {tuple(x.shape)}")
    if mask is None:
        every: Tensor = x.flatten(0, -2)
        return every
    if not isinstance(mask, Tensor) or mask.shape != x.shape[:-1]:
        shape = tuple(mask.shape) if isinstance(mask, Tensor) else type(mask).__name__
        raise InputError(
            f"mask must be a tensor with one entry a row, shape {tuple(x.shape[:-1])}; got {shape}"
        )
    kept: Tensor = x[mask.to(device=x.device) != 0]
    return kept


def number(name: str, value: Any) -> float:
    """`real_number`, of tensors and arrays of no dimension too: their one value."""
    if isinstance(value, (Tensor, np.ndarray)) and value.ndim == 0:
        value = value.item()
    return real_number(name, value)
