"""Standard error of a mean of local values, each of which other rows have a part in.

The mean over query rows of a value that depends on a row and on its neighbours. Where it is, but
for less, a sum over pairs of rows, g_i + sum_j w_ij, the variance of independent rows has two parts
(Hoeffding, Ann. Math. Stat. 19:293, 1948): one of single rows and one of pairs,

    V1 = sum_j h_j^2,  V2 = sum over pairs i < j of (w_ij + w_ji)^2.

What row j moves in all, its own value less the mean plus the sum over i of w_ij, holds h_j and what
belongs to pairs. A pair is in the total of both its rows, so squares of totals come to V1 + 2 V2,
as those of a jackknife do (Efron & Stein, Ann. Stat. 9:586, 1981), and V2 is taken off once. Sparse
w have means of no weight beside their squares. Documents stand for rows where there are groups.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fastdim.estimate import clustered_stderr
from fastdim.neighbors import Neighbors

Array = NDArray[np.float64]
Numbers = NDArray[np.int64]


# Of a rank r, r - 1 rows are nearer. Their part of V2 falls as 1/r: above this it is left out.
FEW = 32


@dataclass(frozen=True)
class Ranks:
    """Ranks in y (m, k + 1) of neighbours in x, the next one's in the last column if there is one.

    row[p] is nearer in y than one of the k neighbours of the query at place[p], whose rank is at
    most FEW; often (n,): how often each row is nearer than one of a larger rank.
    """

    ranks: Numbers
    place: Numbers
    row: Numbers
    often: Numbers


@dataclass(frozen=True)
class Part:
    """What row `row[p]` adds to the local value of the query at place `place[p]`; a pair may come
    more than once. everywhere (n,): what each row adds besides to the sum of all local values."""

    place: Numbers
    row: Numbers
    added: Array
    everywhere: Array | None = None


def shared_stderr(local: Array, near: Neighbors, part: Part, labels: Numbers | None) -> float:
    """Standard error of the mean of `local` (m,), never below that of independent queries.

    labels: (n,) documents 0..g-1 of all rows, or None. Of few queries among many rows a row is the
    neighbour of few, and the error is that of independent ones: about the value of all queries.
    """
    n = near.n_points
    own = local - local.mean()
    unit = np.arange(n) if labels is None else labels
    groups = None if labels is None else np.unique(labels[near.queries], return_inverse=True)[1]
    plain = float(clustered_stderr(own, groups))
    total = np.bincount(unit[near.queries], own, n)
    alone = float(np.square(total).sum())
    if not math.isfinite(plain) or alone == 0.0:
        return plain
    moved = np.asarray(np.bincount(part.row, part.added, n), dtype=np.float64)
    if part.everywhere is not None:
        moved += part.everywhere
    there, count = _searched(near, part)
    mean = float(moved.sum()) / count
    total += np.bincount(unit[there], moved[there] - mean, n)
    squares = float(np.square(total).sum()) + (count - len(there)) * mean**2
    pairs = _pairs(unit[near.queries[part.place]], unit[part.row], part.added, n)
    return plain * math.sqrt(max(1.0, (squares - pairs) / alone))


def _searched(near: Neighbors, part: Part) -> tuple[Numbers, int]:
    """Rows that neighbours were sought among, as far as they are known, and how many there are.

    Where equal rows count once the others move nothing, and have no part in the mean.
    """
    if near.duplicates != "collapse" or near.n_distinct is None:
        return np.arange(near.n_points), near.n_points
    known = np.zeros(near.n_points, dtype=bool) if part.everywhere is None else part.everywhere != 0
    known[near.queries] = True
    known[part.row] = True
    rows = np.flatnonzero(known)
    return rows, max(near.n_distinct, len(rows))


def _pairs(of: Numbers, by: Numbers, added: Array, n: int) -> float:
    """Sum over pairs of different units of (w_ij + w_ji)^2: of w_ij^2 + w_ij w_ji over all ij."""
    apart = of != by
    if not apart.any():
        return 0.0
    key = of[apart] * np.int64(n) + by[apart]
    order = np.argsort(key, kind="stable")
    key = key[order]
    first = np.flatnonzero(np.concatenate([[True], key[1:] != key[:-1]]))
    sums = np.add.reduceat(added[apart][order], first)
    key = key[first]
    turned = key % n * n + key // n
    at = np.minimum(np.searchsorted(key, turned), len(key) - 1)
    return float(sums @ (sums + np.where(key[at] == turned, sums[at], 0.0)))


def overlap_part(a: Numbers, b: Numbers, in_b: NDArray[np.bool_], in_a: NDArray[np.bool_]) -> Part:
    """What rows add to overlaps of the lists a and b (m, k), nearest first, a[i, j] also in b, ...

    One row more in a ball adds it to the overlap, 1/k where it is in both, and pushes the k-th out,
    which was common with the probability at the edge. That is the share of k-th neighbours which
    are common, of all queries, in proportion to each query's overlap: then what rows add to one
    query comes to about nothing, and regions that differ in overlap do not pass for dependence.
    """
    m, k = a.shape
    overlap = in_b.mean(axis=1)
    level = np.minimum(overlap / max(float(overlap.mean()), 1.0 / (m * k)), k)
    edge_a = np.minimum(level * in_b[:, -1].mean(), 1.0)[:, None]
    edge_b = np.minimum(level * in_a[:, -1].mean(), 1.0)[:, None]
    place = np.broadcast_to(np.arange(m)[:, None], (m, k))
    alone = ~in_a
    added_a = np.where(in_b, 1.0 - edge_a - edge_b, -edge_a)
    added_b = np.broadcast_to(-edge_b, (m, k))[alone]
    return Part(
        place=np.concatenate([place.ravel(), place[alone]]),
        row=np.concatenate([a.ravel(), b[alone]]),
        added=np.concatenate([added_a.ravel(), added_b]) / k,
    )


def rank_part(near: Neighbors, found: Ranks, k: int) -> Part:
    """What rows add to mean ranks of k neighbours: one to each rank of a row farther in y.

    A neighbour in x stands where the next one would, whose rank falls by one without it if that is
    farther. Where k neighbours are all rows there is no next one, and all ranks are the same.
    """
    ranks, m = found.ranks, len(found.ranks)
    if ranks.shape[1] > k:
        following = ranks[:, k:] - (ranks[:, :k] < ranks[:, k:])
        added = (ranks[:, :k] - following).astype(np.float64)
    else:
        added = np.zeros((m, k))
    return Part(
        place=np.concatenate([np.repeat(np.arange(m), k), found.place]),
        row=np.concatenate([near.indices[:, :k].ravel(), found.row]),
        added=np.concatenate([added.ravel(), np.ones(len(found.row))]) / k,
        everywhere=found.often / k,
    )
