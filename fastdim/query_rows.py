"""Which rows of a matrix are queries."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastdim.arrays import as_plain, generator
from fastdim.errors import InputError
from fastdim.query_far import in_proportion

Int64 = NDArray[np.int64]


def is_count(queries: Any) -> bool:
    """Whether queries are a number of rows."""
    return isinstance(queries, (int, np.integer)) and not isinstance(queries, bool)


def choose(
    queries: Any, n: int, count: int, seed: int, find_far: Callable[[], Int64] | None = None
) -> tuple[Int64 | None, Int64 | None]:
    """Row numbers to query, None for all: sampled among `count` rows, or given among `n`.

    find_far: gives the far ones among the `count` (`fastdim/query_far.py`), of which a sample has
    their share; they are the second part of the answer, None where nothing was sampled so.
    """
    drawn = generator(seed)
    if queries is None:
        return None, None
    if is_count(queries):
        if queries < 1:
            raise InputError(f"queries must be at least 1, got {queries}")
        if queries >= count:
            return None, None
        plain = np.sort(drawn.choice(count, size=queries, replace=False))
        if find_far is None:
            return plain, None
        far = find_far()
        return in_proportion(plain, far, count, drawn), far
    given = as_plain("queries", queries)
    if given.dtype == np.bool_ and given.shape == (n,):
        given = np.flatnonzero(given)
    if given.ndim != 1 or given.dtype.kind not in "iu" or len(given) == 0:
        raise InputError(
            "queries must be None, a number of rows, an error such as '1%', a non-empty array of "
            f"row numbers, or a boolean mask of {n} rows; got {given.dtype} of shape {given.shape}"
        )
    if int(given.min()) < 0 or int(given.max()) >= n:
        raise InputError(
            f"queries must lie in 0..{n - 1}, got {int(given.min())}..{int(given.max())}"
        )
    return given.astype(np.int64), None
