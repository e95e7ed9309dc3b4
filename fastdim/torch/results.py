"""The precision of what the functions of tensors return."""

from __future__ import annotations

import torch
from torch import Tensor


def in_input_dtype(value: Tensor, x: Tensor) -> Tensor:
    """A float64 value as float64 for float64 input, as float32 otherwise: half is too coarse."""
    return value if x.dtype == torch.float64 else value.to(torch.float32)
