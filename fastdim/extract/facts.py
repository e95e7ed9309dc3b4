"""What a torch module is: number type, device, a hash of its weights; and its mode, kept."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np

from fastdim.errors import InputError, ModelError, require


@contextlib.contextmanager
def evaluating(model: Any) -> Iterator[None]:
    """The model in evaluation mode, and afterwards every module in the mode it was in."""
    before = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in before:
            module.training = training


def model_dtype(model: Any) -> str:
    """Number type of a module's floating-point parameters, as text."""
    for parameter in model.parameters():
        if parameter.is_floating_point():
            return str(parameter.dtype).removeprefix("torch.")
    return "float32"


def multiplied_parameters(model: Any) -> int:
    """Parameters that a pass multiplies: all but tables that tokens or positions are looked up in.

    A mixture of experts multiplies fewer, which is not counted.
    """
    import torch

    tables = [item for item in model.modules() if isinstance(item, torch.nn.Embedding)]
    looked_up = {id(item.weight): int(item.weight.numel()) for item in tables}
    return sum(int(item.numel()) for item in model.parameters()) - sum(looked_up.values())


def model_device(model: Any) -> Any:
    """Where a module takes its input: the device of its first parameter or buffer, the CPU for one
    that has neither, or the device accelerate runs it on where it keeps weights elsewhere.
    """
    import torch

    for tensor in itertools.chain(model.parameters(), model.buffers()):
        if not tensor.is_meta:
            return tensor.device
        hooks = (getattr(module, "_hf_hook", None) for module in model.modules())
        places = (getattr(hook, "execution_device", None) for hook in hooks)
        return torch.device(next((place for place in places if place is not None), "meta"))
    return torch.device("cpu")


def check_weights(model: Any) -> None:
    """Raise ModelError for a model whose weights are not there (torch's device "meta")."""
    if any(item.is_meta for item in itertools.chain(model.parameters(), model.buffers())):
        raise ModelError(
            f"{type(model).__name__} has parameters on the device 'meta', which hold no values: "
            "load its weights first"
        )


def check_length(model: Any, tokens: int) -> None:
    """Raise InputError for a document longer than the model's table of positions.

    Positions that are computed (rotary and the like) have no table, and no end.
    """
    import torch

    limit = getattr(getattr(model, "config", None), "max_position_embeddings", None)
    if not isinstance(limit, int) or tokens <= limit:
        return
    words = model.get_input_embeddings()
    tables = (item for item in model.modules() if isinstance(item, torch.nn.Embedding))
    # OPT keeps two positions more than it counts.
    if any(item is not words and item.num_embeddings in (limit, limit + 2) for item in tables):
        raise InputError(
            f"a document of {tokens:,} tokens is longer than the model can read: it has {limit:,} "
            f"positions; give a --context of at most {limit:,}"
        )


def module_sha256(module: Any) -> str:
    """Hash over the names and values of a module's parameters and buffers."""
    import torch

    digest = hashlib.sha256()
    state = module.state_dict()
    if any(item.is_meta for item in itertools.chain(module.parameters(), module.buffers())):
        if not any(hasattr(item, "_hf_hook") for item in module.modules()):
            check_weights(module)
        # accelerate keeps them in memory or on disk and brings them when they are needed.
        modeling: Any = require("accelerate", "models").utils.modeling
        state = modeling.get_state_dict_offloaded_model(module)
    for key, value in sorted(state.items()):
        if not isinstance(value, torch.Tensor):  # a module's extra state
            digest.update(f"{key} {value!r}\0".encode())
            continue
        digest.update(f"{key} {tuple(value.shape)} {value.dtype}\0".encode())
        digest.update(tensor_bytes(value))
    return digest.hexdigest()


def tensor_bytes(value: Any) -> bytes:
    """The bytes of a tensor of any type, in C order; of one sharded over processes all of them."""
    import torch

    if hasattr(value, "full_tensor"):  # DTensor; collective
        value = value.full_tensor()
    flat = value.detach().cpu().contiguous().view(-1)
    return bytes(np.ascontiguousarray(flat.view(torch.uint8).numpy(force=True)).data)
