"""Which rows a search asks about, and what its plan says of `queries`."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fastdim.arrays import whole_number
from fastdim.errors import InputError
from fastdim.query_error import is_error, query_count
from fastdim.query_rows import choose, is_count

if TYPE_CHECKING:
    from fastdim.neighbors import Distinct

Int64 = NDArray[np.int64]


def plan_queries(
    n: int,
    k: int,
    queries: Any,
    groups: Distinct | None,
    seed: int,
    find_far: Callable[[Int64 | None], Int64] | None = None,
) -> tuple[int, int, Int64 | None, Int64 | None]:
    """k, the rows (or groups) that are searched, the chosen of them, None for all, and the far.

    find_far: gives the far ones among the rows with these numbers (None: all), as `far_rows`; None
    for a plain sample.
    """
    count = n if groups is None else len(groups.first)
    kind = "rows" if groups is None else "distinct rows"
    k = whole_number("k", k, 1)
    if k >= count:
        raise InputError(f"k = {k} neighbours need at least {k + 1} {kind}, got {count}")
    if is_error(queries):
        queries = query_count(queries, count)
    first = groups.first if groups is not None and count < n else None
    among = None if find_far is None else partial(find_far, first)
    chosen, far = choose(queries, n, count, seed, among)
    if groups is not None and count < n and chosen is not None and not is_count(queries):
        chosen = groups.inverse[chosen]
    return k, count, chosen, far


def stated(queries: Any, count: int, chosen: Int64 | None) -> dict[str, int | str]:
    """What the plan says of queries that were asked for by an error."""
    if not is_error(queries):
        return {}
    return {"query_error": queries.strip(), "queries": count if chosen is None else len(chosen)}
