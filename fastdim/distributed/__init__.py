"""One matrix of rows spread over the processes of a torch.distributed group.

Rank 0 holds the first rows, rank 1 those after them, and so on; a rank may hold none. Rows stay
where they are but for the time of a search, when they go round from rank to rank. Every function is
collective: all ranks of the group call it with the same options and their own rows. The numbers are
those of the same function of `fastdim` on all rows in one process. See docs/distributed.md.
"""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastdim import covariance, neighbors
from fastdim.arrays import as_groups, as_plain, one_of, whole_number
from fastdim.backends import cpu
from fastdim.cosine import CosineStats, check_pairs
from fastdim.distributed import moments, search
from fastdim.distributed.pairs import add_pairs_together
from fastdim.distributed.ranks import Ranks
from fastdim.distributed.shard import Shard, open_shard
from fastdim.errors import InputError
from fastdim.estimate import check_confidence
from fastdim.neighbors import DUPLICATES, Neighbors

__all__ = ["Ranks", "Shard", "cosine_stats", "knn", "open_shard", "spectrum"]


def knn(
    x: Any,
    k: int = 2,
    *,
    queries: int | str | None = None,
    duplicates: str = "keep",
    everywhere: bool = False,
    threads: int | None = None,
    seed: int = 0,
    group: Any = None,
) -> Neighbors:
    """`fastdim.knn` of the rows of all ranks: the same distances and row numbers, bit for bit.

    x: this rank's rows (n_r, d), n_r >= 0, of one d and number type on all ranks.
    queries: None, m rows drawn from those of all ranks, or an error such as "1%".
    duplicates: "keep", "collapse" or "raise", as in `fastdim.knn`; rows of two ranks are taken as
        equal if they have the same SHA-256.
    everywhere: every rank gets the neighbours of all queries, as estimators take them:
        `fastdim.twonn(knn(x, duplicates="collapse", everywhere=True))`. Else of its own rows alone.
    group: a process group, None for the default one. threads: of this process.

    Row numbers count through the ranks. Raises InputError on every rank where one rank's input
    cannot be used or ranks differ; RankError where another rank is lost.
    """
    ranks, workers = _begin(group, threads, knn=(k, queries, duplicates, seed))
    search.check_queries(queries)
    one_of("duplicates", duplicates, DUPLICATES)
    begun = time.perf_counter()
    shard = open_shard(x, ranks)
    groups = None if duplicates == "keep" else shard.distinct(workers)
    neighbors.check_duplicates(duplicates, groups, shard.n)
    found = search.search(shard, k, queries, groups, workers, seed, duplicates)
    found = replace(found, seconds=time.perf_counter() - begun)
    return found if everywhere else search.own_part(found, shard)


def cosine_stats(
    x: Any,
    *,
    bins: int = 200,
    pairs: int | str | None = None,
    groups: Any = None,
    seed: int = 0,
    confidence: float = 0.95,
    threads: int | None = None,
    group: Any = None,
) -> CosineStats:
    """`fastdim.cosine_stats` (precision "exact") of the rows of all ranks, the same on each.

    x: this rank's rows (n_r, d), n_r >= 0. groups: (n_r,) labels of these rows; one label may be
    found on several ranks. The rest as there. Histogram and extremes are the same bit for bit,
    mean and spread within 1e-12.

    Raises InputError and RankError as `knn`.
    """
    told = (bins, pairs, seed, confidence, groups is None)
    ranks, workers = _begin(group, threads, cosine_stats=told)
    bins = whole_number("bins", bins, 1)
    check_pairs(pairs)
    check_confidence(confidence)
    shard = open_shard(x, ranks, min_columns=2)
    labels = _labels(groups, shard)
    norms = shard.norms()
    found, inverse = moments.moments_of_cosines(
        shard, shard.inverse(norms), labels, confidence, workers
    )
    return add_pairs_together(found, shard, inverse, bins, pairs, seed, workers)


def spectrum(
    x: Any,
    *,
    groups: Any = None,
    confidence: float = 0.95,
    threads: int | None = None,
    group: Any = None,
) -> covariance.Spectrum:
    """`fastdim.spectrum` of the rows of all ranks within 1e-12, the same on each.

    x: this rank's rows (n_r, d), n_r >= 0. groups: (n_r,) labels of these rows. Fewer rows than
    columns go to every rank, and give the same bits. Raises InputError and RankError as `knn`.
    """
    ranks, workers = _begin(group, threads, spectrum=(confidence, groups is None))
    check_confidence(confidence)
    shard = open_shard(x, ranks, min_columns=2)
    return moments.spectrum(shard, _labels(groups, shard), confidence, workers)


def _begin(group: Any, threads: int | None, **options: Any) -> tuple[Ranks, int]:
    """The ranks, once they agree on what is to be done, and the threads of this one."""
    ranks = Ranks(group)
    ranks.agree({name: repr(values) for name, values in options.items()})
    return ranks, ranks.each(lambda: cpu.resolve_threads(threads))


def _labels(groups: Any, shard: Shard) -> NDArray[np.int64] | None:
    if groups is None:
        return None
    ranks = shard.ranks

    def own() -> NDArray[Any]:
        labels = as_plain("groups", groups)
        # Labels of no rows have no type of their own.
        as_groups(labels if shard.rows.n else np.zeros(labels.shape, np.int64), shard.rows.n)
        return labels

    told = [(rank, part) for rank, part in enumerate(ranks.gather(ranks.each(own))) if len(part)]
    # Joined, numbers would become texts, and 1 and "1" one label.
    first, part = told[0]
    other = next((rank for rank, labels in told if not _alike(labels.dtype, part.dtype)), None)
    if other is not None:
        types = {rank: labels.dtype.name for rank, labels in told}
        raise InputError(
            f"the groups of rank {first} are of type {types[first]}, and those of rank {other} "
            f"{types[other]}: give labels of one type on every rank, e.g. groups.astype(str)"
        )
    return as_groups(np.concatenate([labels for _, labels in told]), shard.n)


def _alike(one: np.dtype[Any], other: np.dtype[Any]) -> bool:
    """Whether labels of both types stay what they are in one array."""
    if "int" in one.name and "int" in other.name:
        return np.result_type(one, other).kind in "iu"  # int64 and uint64 become float64
    return one.kind == other.kind
