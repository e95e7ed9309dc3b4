"""Hooks that take what chosen modules read or return, and the bits of it as they go to disk."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from fastdim.errors import InputError
from fastdim.extract.shards import storage_type
from fastdim.extract.store import Site

STORE_DTYPES = ("float16", "bfloat16", "float32", "float64")


def check_store_dtype(name: str | None) -> None:
    """Raise InputError unless rows can be stored in this type; None stands for the model's own."""
    if name is not None and name not in STORE_DTYPES:
        raise InputError(f"store_dtype must be one of {', '.join(STORE_DTYPES)}, got {name}")


@dataclass(frozen=True)
class Tap:
    """Where a tensor is taken: what the module at `path` returns or, with `reads`, is given."""

    site: Site
    path: str
    reads: bool = False


Take = Callable[[Tap, Any, Any], None]


def first_tensor(value: Any) -> Any:
    """The hidden states in what a module took or returned: the first tensor; None without one."""
    import torch

    if isinstance(value, torch.Tensor):
        return value if value.is_floating_point() else None
    if isinstance(value, torch.nn.utils.rnn.PackedSequence):
        return None  # its rows are those of all samples by turns
    if isinstance(value, dict):
        value = tuple(value.values())
    if isinstance(value, (tuple, list)):
        for item in value:
            if isinstance(item, torch.Tensor) and item.is_floating_point():
                return item
    return None


def module_input(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The hidden states a module was called with, by position or by name."""
    given = first_tensor(args)
    return first_tensor(kwargs) if given is None else given


@contextlib.contextmanager
def hooked(model: Any, taps: list[Tap], take: Take) -> Iterator[None]:
    """Call `take(tap, module, tensor or None)` when a tapped module runs; no hook stays behind."""
    handles = []
    try:
        for tap in taps:
            handles.append(_hook(model.get_submodule(tap.path), tap, take))
        yield
    finally:
        for handle in handles:
            handle.remove()


def _hook(module: Any, tap: Tap, take: Take) -> Any:
    def before(module: Any, args: Any, kwargs: Any) -> None:
        take(tap, module, module_input(args, kwargs))

    def after(module: Any, args: Any, output: Any) -> None:
        take(tap, module, first_tensor(output))

    if tap.reads:
        return module.register_forward_pre_hook(before, with_kwargs=True)
    return module.register_forward_hook(after)


def tensor_bits(value: Any, store_dtype: str, site: Site) -> NDArray[Any]:
    """A tensor's values in the stored type, as numpy holds their bits (bfloat16 as uint16).

    Raises InputError where a finite value does not fit the type.
    """
    import torch

    stored = value.to(getattr(torch, store_dtype)).cpu()
    if stored.dtype != value.dtype:
        lost = int((torch.isinf(stored) & ~torch.isinf(value.cpu())).sum())
        if lost:
            wider = "bfloat16" if store_dtype == "float16" else "float64"
            raise InputError(
                f"{site.label}: {lost} values are too large for {store_dtype}; store as {wider}"
            )
    stored = stored.contiguous()
    bits = stored.view(torch.int16) if store_dtype == "bfloat16" else stored
    array: NDArray[Any] = bits.numpy().view(storage_type(store_dtype))
    return array
