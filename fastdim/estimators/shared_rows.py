"""Standard error of a mean of local values, each of which other rows have a part in.

The mean over query rows of a value f_i that depends on a row and on its neighbours. The variance of
a function of independent rows is a sum of parts V_m of m rows each (Hoeffding, Ann. Math. Stat.
19:293, 1948). What s rows add together beyond what fewer of them add (the function with all less
that without one, plus that without two, ...) holds every part they belong to: squares of it summed
over sets of s rows are J_s = sum_m C(m, s) V_m on average, J_1 that of a jackknife (Efron & Stein,
Ann. Stat. 9:586, 1981), so that

    V = J_1 - J_2 + J_3 - ..., in which every V_m is once.

f_i vanishes without row i: what a set adds to it, the set and i add, too. So squares of a single
f_i cancel from one J to the next but for those of f_i itself, and what J_2, ... tell is X_s, the
products of values of different rows, by neighbours that these share.

Where f_i is, but for less, a sum over rows, g_i + sum_j w_ij, single rows and pairs are all: J_1 is
of totals, a row's own value less the mean plus the sum over i of w_ij, J_2 of w_ij + w_ji. Sparse w
have means of no weight beside their squares.

The rank of one neighbour is no such sum: without the nearest row the next one takes its place, and
rows near each other have that in common, too, and the one after it. X_s falls slowly with s while
signs alternate: sums are taken to s = 4, the last X_s by half, midway between two sums. Pairs alone
miss a tenth of the variance on a plane with little noise, and most of that is still missed: of the
spread (1,000 sets, known within 0.02) the error is 0.95 instead of 0.93 on a square with noise of
0.02 and 300 rows, 0.96 instead of 0.95 on a torus of 2 with noise of 0.1 and 300 rows, 0.98 instead
of 0.95 with 1,000. Only sets of the s nearest rows in x count: what q_1 and a row j add together
that is nearer in y than one of q_1 and q_2, but not than both, is left out, as are larger such
sets. By full enumeration J_2 is 2 to 8 % smaller for it and J_3 6 to 16 % (36 and 100 rows), which
mends most of it: V differs by 2 to 4 % on average of 8 sets of 30 rows, in a single set by more.

Documents stand for rows where there are groups. What their rows add to values of their own is gone
with these. Of two rows q_1, q_2 of one foreign document q_2 stands in for q_1 in J_1, as if one
were away after the other, and sets with such a pair are left out of J_2, J_3 and J_4: J_1 of ranks
is 0.95 to 1.11 times that of documents really removed, with three neighbours to 1.22 times (90 to
200 rows). An overlap's edge counts by its mean and for one row at a time, and a document may be
many of k neighbours: where its rows lie together the error is 0.71 to 1.04 of the spread, least in
2 dimensions (600 and 1,000 rows, k = 30).
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


# Of a rank r, r - 1 rows are nearer. Their part of J_2 falls as 1/r: above this it is left out.
FEW = 32
# Rows that are known, nearest first, where one neighbour is asked for: X_s up to s = CHAIN - 1.
CHAIN = 5


@dataclass(frozen=True)
class Ranks:
    """Ranks in y (m, c) of neighbours in x: k, and those that would stand in for them if known.

    row[p] is nearer in y than one of the k neighbours of the query at place[p], whose rank is at
    most FEW; often (n,): how often each row is nearer than one of a larger rank, of queries of
    other documents where there are groups.
    """

    ranks: Numbers
    place: Numbers
    row: Numbers
    often: Numbers


@dataclass(frozen=True)
class Part:
    """What row `row[p]` adds to the local value of the query at place `place[p]`; a pair may come
    more than once. everywhere (n,): what each row adds besides to the sum of all local values, of
    other documents where there are groups.

    chain (m, s), together (m, s): rows, of which the first j + 1 add together[i, j] to the value of
    the query at place i beyond what fewer of them add; the first alone is in `added`, too."""

    place: Numbers
    row: Numbers
    added: Array
    everywhere: Array | None = None
    chain: Numbers | None = None
    together: Array | None = None


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
    whole: Array = np.asarray(np.bincount(unit[near.queries], own, n), dtype=np.float64)
    alone = float(np.square(whole).sum())
    if not math.isfinite(plain) or alone == 0.0:
        return plain
    total, more = _totals(whole, near, part, labels)
    variance = float(np.square(total).sum()) + more - _higher_orders(part, unit[near.queries], unit)
    return plain * math.sqrt(max(1.0, variance / alone))


def _totals(own: Array, near: Neighbors, part: Part, labels: Numbers | None) -> tuple[Array, float]:
    """What each unit takes away with it, less the mean: `own` (n,) and what it moves in others.

    A document's own values are gone whole: what its rows add to these is in them. Second: squares
    of totals of rows that stand for themselves without being known. All squares together are J_1.
    """
    n = near.n_points
    unit, added = np.arange(n), part.added
    if labels is not None:
        unit = labels
        added = np.where(labels[near.queries[part.place]] == labels[part.row], 0.0, added)
    moved = np.asarray(np.bincount(part.row, added, n), dtype=np.float64)
    if part.everywhere is not None:
        moved += part.everywhere
    there, count = _searched(near, part)
    mean = float(moved.sum()) / count
    total = own + np.bincount(unit[there], moved[there] - mean, n)
    return total, (count - len(there)) * mean**2


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


def _higher_orders(part: Part, of: Numbers, unit: Numbers) -> float:
    """What comes off J_1: J_2, or J_2 - J_3 + A_3 + X_4 / 2 where chains of rows are known, A_s the
    squares of what s rows add to a single f_i.

    of (m,), unit (n,): units of the queries and of all rows. In the values' unit, squared.
    """
    alone, values = np.column_stack([of[part.place], unit[part.row]]), part.added
    if part.chain is None or part.together is None:
        return _of_sets(alone, values)
    rows = unit[part.chain]
    # A document's rows are away with it already.
    foreign = [(rows[:, : s + 1] != of[:, None]).all(axis=1) for s in range(rows.shape[1])]
    total, sign = 0.0, 1.0
    for s in range(1, rows.shape[1]):
        taken = foreign[s]
        more, added = rows[taken, : s + 1], part.together[taken, s]
        found = _of_sets(np.concatenate([alone, more]), np.concatenate([values, added]))
        own = np.column_stack([of[taken], more])
        if s + 1 < rows.shape[1]:
            total += sign * found
        else:
            # X_s = J_s less squares of single f_i, with i among the rows of the set and without.
            single = _of_sets(alone, values, True)
            total += sign * 0.5 * (found + single - _of_sets(own, added, True))
        alone, values, sign = own, added, -sign
    return total


def _of_sets(sets: Numbers, values: Array, apart: bool = False) -> float:
    """Sum over sets of different units (p, s) of the square of all their values (p,).

    apart: the first unit is whose values they are, and sums are of its own for the rest as a set.
    """
    start = 1 if apart else 0
    sets = sets.copy()
    sets[:, start:].sort(axis=1)
    taken = (sets[:, start + 1 :] != sets[:, start:-1]).all(axis=1)
    sets, values = sets[taken], values[taken]
    if len(sets) == 0:
        return 0.0
    order = np.lexsort(sets.T)
    sets = sets[order]
    first = np.concatenate([[True], (sets[1:] != sets[:-1]).any(axis=1)])
    return float(np.square(np.add.reduceat(values[order], np.flatnonzero(first))).sum())


def overlap_part(a: Numbers, b: Numbers, in_b: NDArray[np.bool_], in_a: NDArray[np.bool_]) -> Part:
    """What rows add to overlaps of the lists a and b (m, k), nearest first, a[i, j] also in b, ...

    One row more in a ball adds it to the overlap, 1/k where it is in both, and pushes the k-th out,
    which was common with the probability at the edge. That is the share of k-th neighbours which
    are common, of all queries, in proportion to each query's overlap: then what rows add to one
    query comes to about nothing, and regions that differ in overlap do not pass for dependence.
    A row in both balls pushes out the k-th of both, which are one where they are the same row.
    """
    m, k = a.shape
    overlap = in_b.mean(axis=1)
    level = np.minimum(overlap / max(float(overlap.mean()), 1.0 / (m * k)), k)
    edge_a = np.minimum(level * in_b[:, -1].mean(), 1.0)[:, None]
    edge_b = np.minimum(level * in_a[:, -1].mean(), 1.0)[:, None]
    same = np.minimum(level * np.mean(a[:, -1] == b[:, -1]), 1.0)[:, None]
    place = np.broadcast_to(np.arange(m)[:, None], (m, k))
    alone = ~in_a
    added_a = np.where(in_b, 1.0 - edge_a - edge_b + same, -edge_a)
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
        following = ranks[:, k : k + 1] - (ranks[:, :k] < ranks[:, k : k + 1])
        added = (ranks[:, :k] - following).astype(np.float64)
    else:
        added = np.zeros((m, k))
    chained = k == 1 and ranks.shape[1] == CHAIN
    return Part(
        place=np.concatenate([np.repeat(np.arange(m), k), found.place]),
        row=np.concatenate([near.indices[:, :k].ravel(), found.row]),
        added=np.concatenate([added.ravel(), np.ones(len(found.row))]) / k,
        everywhere=found.often / k,
        chain=near.indices[:, : CHAIN - 1] if chained else None,
        together=_together(ranks) if chained else None,
    )


def _together(ranks: Numbers) -> Array:
    """What the nearest 1, 2, ... rows in x add to the rank of the first, all beyond what fewer add.

    With some of q_1, ..., q_s away the first of the others is ranked. Each of these counts in the
    sum of all signs but without all s, or s - 1, nearest ones, so that it comes to the difference
    of g_s and g_s+1, of q_s and q_s+1 among rows without those before them; and to one where q_s is
    nearer in y than q_s-1, which either of them moves, and both together.
    """
    among = ranks.copy()
    for place in range(1, ranks.shape[1]):
        among[:, place] -= (ranks[:, :place] < ranks[:, place : place + 1]).sum(axis=1)
    together = (among[:, :-1] - among[:, 1:]).astype(np.float64)
    together[:, 1:] -= ranks[:, 1:-1] < ranks[:, :-2]
    together[:, 1::2] *= -1.0
    return together
