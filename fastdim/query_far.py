"""Rows far from all others, so that a sample of queries has its share of them.

A few massive rows of a layer can carry a tenth of an estimate. A plain sample of 500 of 8,000 rows
has 1 of 29 such rows, or 4, and misses them all in 15 % of the cases: no interval made of those
queries can know of them. Which rows are far is seen from the rows, before any neighbour is known.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fastdim.arrays import Rows

if TYPE_CHECKING:
    from torch import Tensor

Int64 = NDArray[np.int64]
Mask = NDArray[np.bool_]
Float64 = NDArray[np.float64]

# Far: over so many times the median distance from the center. In SmolLM2's layers 29 of 8,000
# distinct rows or none are; of a Gaussian with 3 or more dimensions below 1 in 3,000.
FAR = 3.0
# The center is the median of each column over so many rows, evenly spaced: massive rows do not move
# it, nor does it depend on where rows lie or on how they are read. Odd, so it holds values of rows.
REFERENCES = 65


def references(count: int) -> Int64:
    """Which of `count` rows the center is taken from, ascending."""
    wanted = min(REFERENCES, count - (count % 2 == 0))
    return np.linspace(0, count - 1, wanted).astype(np.int64)


def center_of(rows: Rows) -> NDArray[Any]:
    """Median (d,) of each column, in the precision of `Rows.block`; an odd number of rows."""
    block = np.sort(rows.block(0, rows.n), axis=0)
    return np.ascontiguousarray(block[rows.n // 2])


def far_places(distances: Float64) -> Int64:
    """Places of the far rows among those whose distances (count,) from the center these are."""
    middle = (len(distances) - 1) // 2
    median = float(np.partition(distances, middle)[middle])
    return np.flatnonzero(distances > FAR * median)


def far_among(
    first: Int64 | None,
    n: int,
    take: Callable[[Int64], Rows],
    from_center_of: Callable[[NDArray[Any]], Float64],
) -> Int64:
    """Places of the far rows among those numbered `first` (None: all n), wherever rows lie.

    take: gives the rows (m, d) with these numbers. from_center_of: distances (n,) of all rows from
    a center (d,).
    """
    numbers = np.arange(n) if first is None else first
    distances = from_center_of(center_of(take(numbers[references(len(numbers))])))
    return far_places(distances if first is None else distances[first])


def far_rows(rows: Rows, first: Int64 | None, threads: int = 1) -> Int64:
    """Places of the far rows among the distinct rows with these numbers (None: all rows)."""
    return far_among(first, rows.n, rows.take, partial(rows.distances_from, threads=threads))


def far_of_tensor(x: Tensor, first: Int64 | None) -> Int64:
    """`far_rows` of a tensor, where it lies."""
    import torch

    count = len(x) if first is None else len(first)
    asked = references(count) if first is None else first[references(count)]
    center = x[torch.from_numpy(asked).to(x.device)].double().median(dim=0).values
    step = max(1, (1 << 26) // (8 * x.shape[1]))
    parts = []
    for start in range(0, len(x), step):
        moved = x[start : start + step].double() - center
        # Squares of tiny values would vanish.
        largest = moved.abs().amax(dim=1, keepdim=True)
        unit = torch.where(largest > 0.0, moved / largest, 0.0)
        parts.append(largest[:, 0] * torch.linalg.vector_norm(unit, dim=1))
    distances: Float64 = torch.cat(parts).cpu().numpy()
    return far_places(distances if first is None else distances[first])


def in_proportion(chosen: Int64, far: Int64, count: int, drawn: np.random.Generator) -> Int64:
    """The plain sample of `count` places with a share of far ones as in all, the rest untouched.

    g far places give floor(m g / count + u) of m, u uniform: each place comes with probability
    m / count as before (stratified sampling in proportion, rounded at random; Cochran, Sampling
    Techniques, 1977, ch. 5).
    """
    if not 0 < len(far) < count:
        return chosen
    wanted = share_of_far(len(chosen), len(far), count, float(drawn.random()))
    is_far = np.zeros(count, dtype=bool)
    is_far[far] = True
    free = np.ones(count, dtype=bool)
    free[chosen] = False
    kept = []
    for group, target in ((is_far, wanted), (~is_far, len(chosen) - wanted)):
        have = chosen[group[chosen]]
        if len(have) > target:
            have = drawn.choice(have, size=target, replace=False)
        more = drawn.choice(np.flatnonzero(group & free), size=target - len(have), replace=False)
        kept += [have, more]
    return np.sort(np.concatenate(kept))


def share_of_far(m: int, far: int, count: int, chance: float) -> int:
    """How many of m queries among `count` rows are far ones; chance: uniform in [0, 1)."""
    # Whole numbers first: m * far / count is whole where it should be.
    return (m * far) // count + int((m * far) % count / count + chance >= 1.0)


def first_in_proportion(order: Int64, far: Mask, m: int, chance: float) -> Int64:
    """Of places in random order (count,) the first m, far ones in proportion, in no order.

    far: (count,) by place of `order`. Two sets with an order in common share most of their samples.
    """
    of_far = share_of_far(m, int(far.sum()), len(order), chance)
    return np.concatenate([order[far][:of_far], order[~far][: m - of_far]])
