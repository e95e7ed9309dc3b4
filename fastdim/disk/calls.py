"""Which calls are about a matrix on disk, and what they cannot ask for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fastdim.errors import BackendError, InputError


def needs_tiles(x: Any, memory: int | str | None, resume: str | Path | None) -> bool:
    """Whether a call has a limit of memory. Raises InputError on what only such a call takes."""
    if memory is not None:
        return True
    if resume is not None:
        raise InputError("resume belongs to a call with a limit of memory: pass memory='4GB' too")
    items = x if isinstance(x, (list, tuple)) else [x]
    if any(isinstance(item, (str, Path)) for item in items) or hasattr(x, "parts"):
        raise InputError(
            "x lies on disk and is read tile by tile: pass memory='4GB', the limit for that"
        )
    return False


def check_tiles(backend: str, others: bool = False) -> None:
    """Raise on what a call with a limit of memory does not do.

    others: whether the queries are rows of another matrix.
    """
    if backend not in ("auto", "cpu"):
        raise BackendError(
            f"backend {backend!r} does not read tiles from disk: leave memory out, or pass "
            "backend='cpu'"
        )
    if others:
        raise InputError(
            "rows of another matrix are not looked up with a limit of memory: pass row numbers as "
            "queries, or leave memory out"
        )
