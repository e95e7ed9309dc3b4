"""From a module's output of any rank to rows: which axis holds samples, columns, positions."""

from __future__ import annotations

import math
from typing import Any

from fastdim.errors import InputError

SAMPLES, COLUMNS, POSITIONS = "b", "d", "p"

# Rank of a tensor -> axes, where a module says nothing else.
DEFAULTS = {2: "bd", 3: "bpd", 4: "bdpp", 5: "bdppp"}

# torch.nn's modules on (batch, channels, length); those on images are told by their rank.
_CHANNELS_FIRST = (
    "Conv1d", "ConvTranspose1d", "BatchNorm1d", "InstanceNorm1d", "MaxPool1d", "AvgPool1d",
    "AdaptiveAvgPool1d", "AdaptiveMaxPool1d", "GroupNorm",
)  # fmt: skip

# Rank of their tensors; with one axis less they read it as a single sample without its axis.
_RANKS = {
    f"{kind}{dimensions}d": dimensions + 2
    for kind in ("Conv", "ConvTranspose", "MaxPool", "AvgPool", "AdaptiveAvgPool",
                 "AdaptiveMaxPool", "InstanceNorm")
    for dimensions in (1, 2, 3)
}  # fmt: skip

# They carry batch_first; an encoder and a decoder hold the layers that do.
_SEQUENCES = (
    "RNNBase", "MultiheadAttention", "TransformerEncoderLayer", "TransformerDecoderLayer",
    "TransformerEncoder", "TransformerDecoder", "Transformer",
)  # fmt: skip

# What these hold works on each number by itself, but for attention.
_ELEMENTWISE = ("torch.nn.modules.activation", "torch.nn.modules.dropout")


def check_layout(layout: str, path: str) -> str:
    """The layout itself. Raises InputError unless it is one b, one d and any number of p."""
    if not isinstance(layout, str) or sorted(layout.replace(POSITIONS, "")) != [SAMPLES, COLUMNS]:
        raise InputError(
            f"the layout of {path} must name every axis by a letter: one b (samples), one d "
            f"(columns of a row), p for each axis of positions; got {layout!r}"
        )
    return layout


def layout_of(model: Any, module_path: str, reads: bool, rank: int, path: str) -> str:
    """The layout of what the module at `module_path` gives or reads, by types and the rank.

    path: the name for messages. Raises InputError for other ranks.
    """
    from torch import nn

    module_path = _telling(model, module_path, reads)
    module = model.get_submodule(module_path)
    for name, expected in _RANKS.items():
        if rank == expected - 1 and isinstance(module, getattr(nn, name)):
            raise InputError(
                f"{path} ({type(module).__name__}) reads a tensor of {rank} axes as one sample "
                "without an axis of samples: give batches of samples, such as those of a DataLoader"
            )
    if rank in (2, 3):
        names = module_path.split(".") if module_path else []
        parents = [model.get_submodule(".".join(names[:n])) for n in range(len(names) + 1)]
        sequences = tuple(getattr(nn, name) for name in _SEQUENCES)
        if rank == 2 and any(isinstance(item, sequences) for item in parents):
            raise InputError(
                f"{path} ({type(module).__name__}, of a recurrent or attention module) reads a "
                "tensor of 2 axes as one sample without an axis of samples: give batches of samples"
            )
    if rank == 3:
        if isinstance(module, tuple(getattr(nn, name) for name in _CHANNELS_FIRST)):
            return "bdp"
        # Positions come first in torch.nn's recurrent and attention modules, and in what these
        # consist of, unless told otherwise. A module of another kind may turn the axes inside.
        if any(isinstance(item, sequences) and _positions_first(item) for item in parents):
            return "pbd"
    if rank not in DEFAULTS:
        raise InputError(
            f"{path} gives tensors of {rank} axes, which may mean many things: name them with "
            f"layouts={{{path!r}: ...}}, a letter an axis: b samples, d columns, p positions"
        )
    return DEFAULTS[rank]


def _telling(model: Any, path: str, reads: bool) -> str:
    """The module that tells the axes: in nn.Sequential that at its end (or start, if what it reads
    is taken), and before activations and dropout the one they follow.
    """
    from torch import nn

    while True:
        module = model.get_submodule(path)
        if isinstance(module, nn.Sequential) and len(module) > 0:
            names = [name for name, _ in module.named_children()]
            path = f"{path}.{names[0 if reads else -1]}".lstrip(".")
            continue
        parent_path, _, own = path.rpartition(".")
        elementwise = type(module).__module__ in _ELEMENTWISE
        if not own or not elementwise or isinstance(module, nn.MultiheadAttention):
            return path
        parent = model.get_submodule(parent_path)
        names = [name for name, _ in parent.named_children()]
        if not isinstance(parent, nn.Sequential) or own not in names[1:]:
            return path
        # What follows is what the module before returns, also where the input was asked for.
        path, reads = f"{parent_path}.{names[names.index(own) - 1]}".lstrip("."), False


def _positions_first(module: Any) -> bool:
    return any(getattr(item, "batch_first", True) is False for item in module.modules())


def grid_shape(shape: tuple[int, ...], layout: str) -> tuple[int, tuple[int, ...]]:
    """Samples and positions of a tensor of this shape: (B, (P1, P2, ...))."""
    places = tuple(n for n, letter in zip(shape, layout, strict=True) if letter == POSITIONS)
    return shape[layout.index(SAMPLES)], places


def as_samples(value: Any, layout: str) -> Any:
    """A tensor as (samples, positions, columns); positions in C order of their axes. No copy if
    the axes stand so already.
    """
    places = [axis for axis, letter in enumerate(layout) if letter == POSITIONS]
    order = [layout.index(SAMPLES), *places, layout.index(COLUMNS)]
    moved = value.permute(order)
    return moved.reshape(moved.shape[0], math.prod(moved.shape[1:-1]), moved.shape[-1])
