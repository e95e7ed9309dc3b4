"""Batches of any kind: how a module is called with one, its mask, its token ids, its hash."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastdim.errors import FastdimError, InputError, ModelError
from fastdim.extract.facts import model_device, tensor_bytes

Forward = Callable[[Any, Any], Any]
Mask = Callable[[Any], Any]

# What a model or a function of the user's raises where a batch is none that it can read.
FAILURES = (TypeError, ValueError, RuntimeError, LookupError, AttributeError)


def call_module(module: Any, batch: Any, forward: Forward | None, number: int) -> None:
    """One forward pass: `forward(module, batch)`, or by the batch's type on the module's device.

    Raises ModelError with the module's own complaint if it cannot run on the batch.
    """
    try:
        if forward is not None:
            forward(module, batch)
            return
        moved = _to_device(batch, model_device(module))
        if isinstance(moved, Mapping):
            module(**moved)
        elif isinstance(moved, (tuple, list)):
            module(*moved)
        else:
            module(moved)
    except FastdimError:
        raise
    except FAILURES as error:
        how = (
            "forward(model, batch) was called"
            if forward is not None
            else "a tensor is passed as model(x), a tuple or list as model(*batch), a mapping as "
            "model(**batch): give forward=lambda model, batch: ... for another call"
        )
        raise ModelError(
            f"{type(module).__name__} does not run on batch {number} "
            f"({type(error).__name__}: {error}); {how}"
        ) from error


def _to_device(value: Any, device: Any) -> Any:
    import torch

    if isinstance(value, torch.Tensor):
        return value.to(device)
    if isinstance(value, np.ndarray):
        return torch.from_numpy(value).to(device)
    if isinstance(value, Mapping):
        return {key: _to_device(item, device) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        items = [_to_device(item, device) for item in value]
        named = hasattr(value, "_fields")
        return type(value)(*items) if named else type(value)(items)
    return value


def batch_sha256(batch: Any, number: int) -> str:
    """Hash of a batch's content, so that a resumed run knows that it reads the same data.

    Raises InputError if the batch holds anything but tensors, arrays, numbers and text.
    """
    digest = hashlib.sha256()
    _digest(batch, digest, number)
    return digest.hexdigest()


def _digest(value: Any, digest: Any, number: int) -> None:
    import torch

    if isinstance(value, (torch.Tensor, np.ndarray)):
        digest.update(f"{tuple(value.shape)} {value.dtype}\0".encode())
        is_tensor = isinstance(value, torch.Tensor)
        digest.update(tensor_bytes(value) if is_tensor else np.ascontiguousarray(value).tobytes())
    elif isinstance(value, Mapping):
        for key in value:
            digest.update(f"{key}\0".encode())
            _digest(value[key], digest, number)
    elif isinstance(value, (tuple, list)):
        digest.update(f"{len(value)} items\0".encode())
        for item in value:
            _digest(item, digest, number)
    elif value is None or isinstance(value, (bool, int, float, complex, str, bytes)):
        digest.update(f"{value!r}\0".encode())
    else:
        raise InputError(
            f"batch {number} holds a {type(value).__name__}: batches are made of tensors, arrays, "
            "numbers and text, in tuples, lists or mappings"
        )


def prefix_of(batch: Any, path: str) -> str:
    """ "decoder_" for a module of the decoder where the batch has ids or states of its own for it.

    Those of an encoder-decoder's encoder may have the same shape, and say nothing about it.
    """
    apart = isinstance(batch, Mapping) and any(key.startswith("decoder_input") for key in batch)
    return "decoder_" if apart and "decoder" in path.split(".") else ""


def token_ids(
    batch: Any, prefix: str, samples: int, places: tuple[int, ...]
) -> NDArray[np.int64] | None:
    """The batch's "input_ids" where they stand on these positions, (samples, positions)."""
    ids = batch.get(f"{prefix}input_ids") if isinstance(batch, Mapping) else None
    if ids is None or tuple(ids.shape) != (samples, *places):
        return None
    return _array(ids).astype(np.int64)


def batch_mask(
    batch: Any, mask: Mask | None, prefix: str, samples: int, places: tuple[int, ...], path: str
) -> NDArray[np.bool_]:
    """The positions that are data and no padding, (samples, positions).

    mask(batch) gives (samples,) or (samples, positions...); without it a batch's "attention_mask"
    counts, but where a sample has one row alone. Raises InputError if the shapes do not fit or the
    function fails.
    """
    shape = (samples, int(np.prod(places, dtype=np.int64)))
    name = "mask(batch)"
    try:
        given = mask(batch) if mask is not None else None
    except FAILURES as error:
        raise InputError(f"{name} fails ({type(error).__name__}: {error})") from error
    if mask is None and isinstance(batch, Mapping):
        key = f"{prefix}attention_mask"
        given, name = batch.get(key), f"the batch's {key}"
        if given is not None and not places and len(given) == samples:
            given = None  # one row a sample, and the mask is about its tokens
    if given is None:
        return np.ones(shape, dtype=bool)
    found = _array(given)
    if found.shape == (samples,):
        return np.repeat(found[:, None] != 0, shape[1], axis=1)
    if found.shape != (samples, *places):
        raise InputError(
            f"{name} has the shape {found.shape}, and {path} gives rows for "
            f"{(samples, *places)} (samples, positions): give mask=lambda batch: ... of that shape,"
            " of one entry a sample, or None for no mask; modules on other positions need a call "
            "of their own"
        )
    return np.asarray(found.reshape(shape) != 0)


def _array(value: Any) -> NDArray[Any]:
    import torch

    if isinstance(value, torch.Tensor):
        plain = value.double() if value.is_floating_point() else value  # numpy has no bfloat16
        return np.asarray(plain.numpy(force=True))
    return np.asarray(value)
