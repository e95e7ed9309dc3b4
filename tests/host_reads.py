"""What the host fetches from a device, or waits for, while torch code runs."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

aten = torch.ops.aten
# Each ends with the host waiting for the device: values, or sizes that depend on values.
WAITING = {
    aten._local_scalar_dense.default,
    aten.nonzero.default,
    aten.masked_select.default,
    aten.equal.default,
    aten._unique2.default,
    aten.unique_dim.default,
    aten.unique_consecutive.default,
    aten.bincount.default,
    aten.repeat_interleave.Tensor,
}
# Of a tensor in host memory these do nothing that torch dispatches.
FETCHING = {
    torch.Tensor.cpu: "cpu",
    torch.Tensor.numpy: "numpy",
    torch.Tensor.tolist: "tolist",
    torch.Tensor.__array__: "__array__",
}


class HostReads(TorchFunctionMode):
    """Inside: every wait of the host, as (name, shape of what it waits for).

    Tensors of the CPU stand for a device's, so what torch does there to fetch them is listed.
    """

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, tuple[int, ...]]] = []
        self._below = _Dispatched(self.found)

    def __enter__(self) -> Any:
        self._below.__enter__()
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self._below.__exit__(*error)

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if function in FETCHING:
            self.found.append((FETCHING[function], tuple(args[0].shape)))
        return function(*args, **(kwargs or {}))


class _Dispatched(TorchDispatchMode):
    def __init__(self, found: list[tuple[str, tuple[int, ...]]]) -> None:
        super().__init__()
        self.found = found

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if function in WAITING or _by_mask(function, args):
            self.found.append((str(function), tuple(args[0].shape)))
        return function(*args, **(kwargs or {}))


def _by_mask(function: Callable[..., Any], args: Any) -> bool:
    """Whether rows are chosen by a mask, whose true entries torch counts first."""
    if function in (aten.index.Tensor, aten.index_put_.default, aten.index_put.default):
        indices: Iterable[Any] = args[1]
        return any(i is not None and i.dtype in (torch.bool, torch.uint8) for i in indices)
    return False
