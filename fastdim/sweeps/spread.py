"""One layer whose rows are spread over processes: what its filters share, and their metrics.

Numbers of rows are those of the whole layer. What there is one of for every row (norms, tokens,
neighbours, forms) is on every rank; the rows themselves stay where they were made.
"""

from __future__ import annotations

from concurrent.futures import Future
from dataclasses import dataclass
from functools import cached_property
from typing import cast

import numpy as np
from numpy.typing import NDArray

from fastdim.arrays import Rows
from fastdim.backends import cpu
from fastdim.cosine import DIRECT_ROWS, CosineStats
from fastdim.covariance import Decomposition, Spectrum
from fastdim.distributed import moments
from fastdim.distributed.pairs import add_pairs_together, pair_cosines
from fastdim.distributed.ranks import Ranks
from fastdim.distributed.search import far_rows, search
from fastdim.distributed.shard import Shard, open_shard
from fastdim.estimators.twonn import check_distinct
from fastdim.extract.store import Site, TokenTable
from fastdim.layer import BINS
from fastdim.moments import Sums
from fastdim.neighbors import Distinct, Neighbors
from fastdim.quadratic import PairSums
from fastdim.sweeps.definition import Definition
from fastdim.sweeps.filters import Filter, Filtered, LayerRows
from fastdim.sweeps.pieces import Layer, layer_rows
from fastdim.sweeps.shared import SharedJob, SharedLayer
from fastdim.sweeps.source import Source

Array = NDArray[np.float64]
Int64 = NDArray[np.int64]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Extent:
    """In place of rows that lie elsewhere: how many there are. To read one is a bug."""

    n: int
    d: int


class LayerTogether(Layer):
    """`Layer` of which each rank has some rows."""

    def __init__(
        self, source: Source, site: Site, definition: Definition, threads: int, ranks: Ranks
    ) -> None:
        self.ranks = ranks
        super().__init__(source, site, definition, threads)

    def _share(self, filters: list[Filter], threads: int) -> SharedLayer:
        own = self.ranks.each(lambda: self.source.rows(self.site.layer))
        shard = open_shard(own, self.ranks, min_rows=1, name=self.site.label)
        self.tokens = self.source.tokens(self.site.layer)
        extent = cast(Rows, Extent(shard.n, shard.d))
        layer = layer_rows(extent, shard.norms(), self.tokens)
        return SpreadLayer(shard, layer, filters, self.definition, threads)


def all_tokens(ranks: Ranks, own: TokenTable) -> TokenTable:
    """The tokens of all ranks, from those of each."""
    columns = (own.document, own.position, own.token, own.special)
    return TokenTable(*(ranks.concatenate(column) for column in columns))


class SpreadLayer(SharedLayer):
    """`SharedLayer` of rows on several ranks. Collective: all ranks ask for the same."""

    def __init__(
        self,
        shard: Shard,
        layer: LayerRows,
        filters: list[Filter],
        definition: Definition,
        threads: int,
    ) -> None:
        super().__init__(layer, filters, definition, threads)
        self.shard = shard

    @cached_property
    def inverse(self) -> Array:
        return self.shard.inverse(self.layer.norms)

    @cached_property
    def distinct(self) -> Distinct:
        return self.shard.distinct(self.threads)

    @cached_property
    def _distinct_shard(self) -> Shard:
        return self.shard.take(self.distinct.first)

    def _search(self, places: Int64 | None, k: int) -> Neighbors:
        k = min(k, len(self.distinct.first) - 1)
        return search(self._distinct_shard, k, places, None, self.threads, self.definition.seed)

    def _far_places(self) -> Int64:
        return far_rows(self.shard, self.distinct.first, self.threads)

    def job(self, filtered: Filtered, groups: Int64 | None) -> SharedJob:
        return SpreadJob(self, filtered, groups)

    def _near_mean(self, scale: Array | None, ids: Int64) -> Array:
        return moments.near_mean(self.shard, scale, ids)

    def _sums_of(self, shift: Array, ids: Int64 | None, scale: Array | None) -> Sums:
        return moments.sums(self.shard, shift, self.threads, ids, scale)

    def _decompose(self, wanted: list[tuple[Mask, bool]]) -> None:
        """Each on one of the ranks, then the forms of the rows on every rank.

        If one fails, each is tried alone: what fails is raised to those who ask for it.
        """
        missing = {self.key(mask, unit): (mask, unit) for mask, unit in wanted}
        missing = {key: one for key, one in missing.items() if key not in self._decompositions}
        parts = [self.added(mask, unit) for mask, unit in missing.values()]
        together = list(zip(missing, parts, strict=True))
        if not self._decompose_all(together):
            for one in together:
                self._decompose_all([one])

    def _decompose_all(self, wanted: list[tuple[tuple[bool, bytes], moments.Wanted]]) -> bool:
        """Whether all were decomposed, or the failure of the only one was kept."""
        done: list[Future[Decomposition]] = [Future() for _ in wanted]
        try:
            found = moments.decompose(self.shard, [part for _, part in wanted], self.threads)
        except (np.linalg.LinAlgError, MemoryError) as error:  # the same on all ranks
            if len(wanted) > 1:
                return False
            done[0].set_exception(error)
        else:
            for future, one in zip(done, found, strict=True):
                future.set_result(one)
        self._decompositions.update(zip((key for key, _ in wanted), done, strict=True))
        return True

    def _pair_sums_of(self, total: Sums, ids: Int64 | None, scale: Array) -> PairSums:
        return moments.pair_sums(self.shard, total, ids, scale, self.threads)

    def _cosines(self, first: Int64, second: Int64) -> Array:
        return pair_cosines(self.shard, self.inverse, first, second, self.threads)

    def _add_pairs(
        self, found: CosineStats, inverse: Array, wanted: int | str, sample: Array | None
    ) -> CosineStats:
        seed = self.definition.seed
        return add_pairs_together(
            found, self.shard, inverse, BINS, wanted, seed, self.threads, sample
        )


class SpreadJob(SharedJob):
    """`SharedJob` of rows on several ranks."""

    shared: SpreadLayer

    @cached_property
    def shard(self) -> Shard:
        """The rows that the filter keeps, each where it is."""
        whole, kept = self.shared.shard, self.filtered.kept
        if not self.filtered.normalize:
            return whole.take(kept)
        norms = whole.own(self.shared.layer.norms)
        places, threads = whole.places(kept), self.threads
        rows = whole.ranks.each(lambda: cpu.divided(whole.rows, places, norms, threads))
        return whole.with_rows(rows, kept)

    @property
    def rows(self) -> Rows:
        raise AssertionError("rows that are spread over ranks are read through their shard")

    @cached_property
    def distinct(self) -> Distinct:
        return self.shard.distinct(self.threads) if self.filtered.normalize else super().distinct

    @cached_property
    def norms(self) -> Array:
        return self.shard.norms() if self.filtered.normalize else super().norms

    def _neighbors(self) -> Neighbors:
        if not self._apart:
            return super()._neighbors()
        check_distinct(len(self.distinct.first), self.n)
        return search(self.shard, 2, self.queries, self.distinct, self.threads, self.seed)

    @cached_property
    def spectrum(self) -> Spectrum:
        kept = self.filtered.kept
        shard, numbers = self.shared.shard, kept
        known = None
        if self.d < 2 or self.n < max(2, self.d):
            shard, numbers = self.shard, np.arange(self.n)  # normalized where the filter does
        else:
            known = self.shared.decomposition(kept, unit=self.filtered.normalize)
        return moments.spectrum(shard, self.groups, self.confidence, self.threads, known, numbers)

    def _moments(self) -> tuple[CosineStats, Array]:
        shared, kept = self.shared, self.filtered.kept
        known = None
        if int((shared.inverse[kept] > 0).sum()) > max(DIRECT_ROWS, self.d):
            known = shared.pair_sums(kept)
        return moments.moments_of_cosines(
            shared.shard, shared.inverse, self.groups, self.confidence, self.threads, known, kept
        )
