"""Memory that one layer after another is put into.

What is freed goes back to the system, which clears each page before it gives it out again; where
a virtual machine has handed free pages to its host, that takes ten times as long as filling them.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray


class Reused:
    """`empty` gives the same memory each time: what it gave before is overwritten."""

    def __init__(self) -> None:
        self._bytes = np.empty(0, dtype=np.uint8)

    def empty(self, shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
        """As `numpy.empty`; larger arrays than any before take new memory."""
        kind = np.dtype(dtype)
        size = math.prod(shape) * kind.itemsize
        if size > len(self._bytes):
            self._bytes = np.empty(0, dtype=np.uint8)  # not both at a time
            self._bytes = np.empty(size, dtype=np.uint8)
        return self._bytes[:size].view(kind).reshape(shape)
