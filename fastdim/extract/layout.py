"""From a module's output of any rank to rows: which axis holds samples, columns, positions."""

from __future__ import annotations

from typing import Any

from fastdim.errors import InputError

SAMPLES, COLUMNS, POSITIONS = "b", "d", "p"

# Rank of a tensor -> axes, where a module says nothing else.
DEFAULTS = {2: "bd", 3: "bpd", 4: "bdpp", 5: "bdppp"}

# torch.nn's modules on (batch, channels, length); those on images are told by their rank.
_CHANNELS_FIRST = (
    "Conv1d", "ConvTranspose1d", "BatchNorm1d", "InstanceNorm1d", "MaxPool1d", "AvgPool1d",
    "AdaptiveAvgPool1d", "AdaptiveMaxPool1d",
)  # fmt: skip


def check_layout(layout: str, path: str) -> str:
    """The layout itself. Raises InputError unless it is one b, one d and any number of p."""
    if sorted(layout.replace(POSITIONS, "")) != [SAMPLES, COLUMNS]:
        raise InputError(
            f"the layout of {path} must name every axis by a letter: one b (samples), one d "
            f"(columns of a row), p for each axis of positions; got {layout!r}"
        )
    return layout


def layout_of(module: Any, rank: int, path: str) -> str:
    """The layout of a module's output by its type and rank. Raises InputError for other ranks."""
    from torch import nn

    if rank == 3:
        if isinstance(module, tuple(getattr(nn, name) for name in _CHANNELS_FIRST)):
            return "bdp"
        # torch.nn's recurrent and attention modules: positions come first unless told otherwise.
        if any(getattr(item, "batch_first", True) is False for item in module.modules()):
            return "pbd"
    if rank not in DEFAULTS:
        raise InputError(
            f"{path} gives tensors of {rank} axes, which may mean many things: name them with "
            f"layouts={{{path!r}: ...}}, a letter an axis: b samples, d columns, p positions"
        )
    return DEFAULTS[rank]


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
    return moved.reshape(moved.shape[0], -1, moved.shape[-1])
