"""What the filters of one layer have in common, computed once and handed to each of them.

Filters that leave out a few rows keep nearly the same set: sums over rows, neighbours and sampled
cosines are computed for all rows and completed for each filter. What a filter gets depends on the
layer, the filters of the run and its options alone, not on which pieces are left to compute.
"""

from __future__ import annotations

import weakref
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from functools import cached_property, partial

import numpy as np
from numpy.typing import NDArray

from fastdim.arrays import Rows
from fastdim.backends.blas import one_blas_thread
from fastdim.cosine import (
    DIRECT_ROWS,
    CosineStats,
    add_pairs,
    cosine_moments,
    draw_pairs,
    pair_cosines,
)
from fastdim.covariance import (
    Decomposition,
    Spectrum,
    covariance_of,
    decompose_sums,
    decomposed_at_once,
    spectrum_of,
)
from fastdim.estimators.twonn import search_pairs
from fastdim.layer import BINS, Job
from fastdim.moments import Sums, near_mean, sums
from fastdim.moments import inverse_norms as inverse_of
from fastdim.neighbors import (
    Distinct,
    Neighbors,
    Prepared,
    find_distinct,
    prepare_rows,
    search,
)
from fastdim.quadratic import PairSums, added, pair_sums
from fastdim.query_far import far_rows, first_in_proportion
from fastdim.sweeps.by_document import ByDocument
from fastdim.sweeps.definition import Definition
from fastdim.sweeps.filters import Filter, Filtered, LayerRows
from fastdim.sweeps.nearest import approximate, two_nearest

Array = NDArray[np.float64]
Int64 = NDArray[np.int64]
Mask = NDArray[np.bool_]

# Neighbours searched among all rows, so that two are left when a filter removes some.
NEIGHBORS = 4

# A filter that keeps fewer of the rows shares no sample: too many draws would be thrown away.
SHARED_SHARE = 0.8

# Fields of CosineStats that come from visiting pairs.
PAIRWISE = (
    *("min", "max", "histogram", "edges", "n_pairs", "pairs", "band"),
    *("backend", "precision", "arithmetic"),
)


class SharedLayer:
    """One layer under the filters of a run. Each property is computed when first asked for."""

    def __init__(
        self, layer: LayerRows, filters: list[Filter], definition: Definition, threads: int
    ) -> None:
        self.layer = layer
        self.definition = definition
        self.threads = threads
        # Rows that each filter keeps, and whether it divides them by their norms.
        self.masks = [
            (item.keep(layer, definition.outlier_factor), item.normalize) for item in filters
        ]
        self._parts: dict[bool, list[tuple[Int64, Sums]]] = {}
        self._decompositions: dict[tuple[bool, bytes], Future[Decomposition]] = {}
        self._pair_sums: dict[tuple[bool, bytes], PairSums] = {}
        self._histograms: dict[bytes, CosineStats] = {}
        # A reference that does not count: a layer is freed as soon as the next is begun.
        self.by_document = ByDocument(weakref.proxy(self))

    @property
    def rows(self) -> Rows:
        """All rows of the layer."""
        return self.layer.rows

    @cached_property
    def inverse(self) -> Array:
        """1/|row| (n,), 0 for a zero row."""
        return inverse_of(self.rows, self.layer.norms)

    @cached_property
    def distinct(self) -> Distinct:
        """Groups of equal rows among all rows."""
        return find_distinct(self.rows, self.threads)

    @cached_property
    def prepared(self) -> Prepared:
        """All rows, ready to be searched."""
        return self.prepare(self.rows, NEIGHBORS, self.distinct, unit=False)

    def prepare(self, rows: Rows, k: int, groups: Distinct, unit: bool) -> Prepared:
        """Rows of the layer, or their directions, ready to be searched: the axes are known."""
        queries, axes = self.definition.queries, partial(self._axes, unit)
        return prepare_rows(rows, k, queries, "auto", self.threads, groups, axes)

    def _axes(self, unit: bool) -> Array | None:
        """Principal axes of rows that a filter keeps, or of their directions, if it has any."""
        for mask, of in self.masks:
            if of == unit and self.shares_spectrum(int(mask.sum())):
                try:
                    return self.decomposition(np.flatnonzero(mask), unit).axes
                except (np.linalg.LinAlgError, MemoryError):
                    break  # raised to the filter when it asks
        return None

    def decomposition(self, kept: Int64, unit: bool) -> Decomposition:
        """Covariance of the rows `kept`, or of their directions, decomposed.

        Sums are taken over the rows that the same filters keep, and those of a filter added up:
        nothing is subtracted, so a few massive rows cost the other filters no digit.
        """
        mask = self.mask_of(kept)
        asked = self.key(mask, unit)
        if asked not in self._decompositions:
            self._decompose([(mask, unit), *self._ahead()])
        return self._decompositions[asked].result()

    def pair_sums(self, kept: Int64) -> PairSums:
        """`quadratic.pair_sums` of the directions of the rows `kept`."""
        mask = self.mask_of(kept)
        key = self.key(mask, True)
        if key not in self._pair_sums:
            total, ids, scale = self.added(mask, True)
            assert scale is not None  # of directions
            self._pair_sums[key] = self._pair_sums_of(total, ids, scale)
        return self._pair_sums[key]

    def mask_of(self, kept: Int64) -> Mask:
        """Which of all rows are those."""
        mask = np.zeros(self.rows.n, dtype=bool)
        mask[kept] = True
        return mask

    def key(self, mask: Mask, unit: bool) -> tuple[bool, bytes]:
        """Of what is kept for a filter: its rows, as they are or their directions."""
        return unit, (mask & (self.inverse > 0) if unit else mask).tobytes()

    def _ahead(self) -> list[tuple[Mask, bool]]:
        """What the filters of the run will ask for; nothing for too many columns at a time."""
        if decomposed_at_once(self.rows.d) == 1:
            return []
        return [(mask, of) for mask, of in self.masks if self.shares_spectrum(int(mask.sum()))]

    def _decompose(self, wanted: list[tuple[Mask, bool]]) -> None:
        """Side by side, each on one thread; what fails is raised to those who ask for it."""
        workers = min(self.threads, decomposed_at_once(self.rows.d))
        for unit in {unit for _, unit in wanted}:
            self._sums(unit)  # before several threads ask for them

        # The total of one that waits is not held.
        def one(mask: Mask, unit: bool) -> Decomposition:
            return decompose_sums(*self.added(mask, unit))

        with one_blas_thread(), ThreadPoolExecutor(workers) as pool:
            for mask, unit in wanted:
                key = self.key(mask, unit)
                if key in self._decompositions:
                    continue
                self._decompositions[key] = pool.submit(one, mask, unit)

    def added(self, mask: Mask, unit: bool) -> tuple[Sums, Int64 | None, Array | None]:
        """Sums over the rows of a mask, these rows (None: all), and their factors."""
        inside = [part for ids, part in self._sums(unit) if mask[ids[0]]]
        total = inside[0]
        for part in inside[1:]:
            total = total + part
        used = mask & (self.inverse > 0) if unit else mask
        ids = None if used.all() else np.flatnonzero(used)
        return total, ids, self.inverse if unit else None

    def shares_spectrum(self, count: int) -> bool:
        """Whether the spectrum of so many rows comes from sums over them."""
        return self.rows.d >= 2 and count >= max(2, self.rows.d)

    def shares_moments(self, count: int) -> bool:
        """Whether the cosine moments of so many rows that are not zero come from such sums."""
        return count > max(DIRECT_ROWS, self.rows.d)

    def _sums(self, unit: bool) -> list[tuple[Int64, Sums]]:
        """Rows that exactly the same filters keep, and their sums, for each such set."""
        if unit not in self._parts:
            pattern = self.pattern(unit)
            scale = self.inverse if unit else None
            codes, sizes = np.unique(pattern[pattern > 0], return_counts=True)
            members = [np.flatnonzero(pattern == code) for code in codes]
            shift = self._near_mean(scale, members[int(np.argmax(sizes))])
            self._parts[unit] = [
                (ids, self._sums_of(shift, self._all_or(ids), scale)) for ids in members
            ]
        return self._parts[unit]

    def pattern(self, unit: bool) -> Int64:
        """Of each row the filters (bits) that keep it, or its direction; (n,)."""
        pattern = np.zeros(self.rows.n, dtype=np.int64)
        for place, (mask, normalize) in enumerate(self.masks):
            if unit or not normalize:
                pattern |= mask.astype(np.int64) << place
        if unit:
            pattern[self.inverse == 0] = 0
        return pattern

    def shift(self, unit: bool) -> Array:
        """The point (d,) that `added` sums are about."""
        return self._sums(unit)[0][1].shift

    def _all_or(self, ids: Int64) -> Int64 | None:
        return None if len(ids) == self.rows.n else ids

    @cached_property
    def _query_order(self) -> tuple[Int64, float]:
        """Distinct rows in random order, of which a filter queries the first it keeps, and a chance
        that rounds the share of far rows."""
        rng = np.random.default_rng(self.definition.seed)
        return rng.permutation(len(self.distinct.first)), float(rng.random())

    @cached_property
    def _is_far(self) -> Mask:
        """Which distinct rows lie far from all."""
        far = np.zeros(len(self.distinct.first), dtype=bool)
        far[self._far_places()] = True
        return far

    def _far_places(self) -> Int64:
        return far_rows(self.rows, self.distinct.first, self.threads)

    def _queries(self, present: Mask) -> Int64:
        """Groups of equal rows to query among those present, ascending."""
        wanted = self.definition.queries
        if wanted is None or wanted >= int(present.sum()):
            return np.flatnonzero(present)
        order, chance = self._query_order
        order = order[present[order]]
        return np.sort(first_in_proportion(order, self._is_far[order], wanted, chance))

    @cached_property
    def _neighbors(self) -> Neighbors:
        """Neighbours among all distinct rows, by place there, of the queries of every filter."""
        groups = self.distinct
        asked = np.zeros(len(groups.first), dtype=bool)
        for mask, normalize in self.masks:
            if not normalize and self.shares(int(mask.sum())):
                present = np.zeros(len(groups.first), dtype=bool)
                present[groups.inverse[mask]] = True
                asked[self._queries(present)] = True
        places = None if asked.all() else np.flatnonzero(asked)
        return self._search(places, NEIGHBORS)

    def _search(self, places: Int64 | None, k: int) -> Neighbors:
        """Neighbours among the distinct rows, by their places there.

        Those few that a filter takes all first neighbours from are always searched exactly.
        """
        groups = self.distinct
        k = min(k, len(groups.first) - 1)
        rows = None if places is None else groups.first[places]
        if self.definition.backend is not None and k <= NEIGHBORS:
            found = approximate(self.rows, k, rows, self.definition, self.threads)
        else:
            found = search(self.prepared, k, rows, groups, self.threads, self.definition.seed)
        return replace(
            found,
            queries=groups.inverse[found.queries],
            indices=groups.inverse[found.indices],
        )

    def neighbors(self, kept: Int64) -> Neighbors:
        """The two nearest distinct rows among `kept` of each of the filter's queries."""
        groups = self.distinct
        present = np.zeros(len(groups.first), dtype=bool)
        present[groups.inverse[kept]] = True
        found = self._neighbors
        asked = found.queries
        mine = np.isin(asked, self._queries(present))
        distances, indices = two_nearest(found, np.flatnonzero(mine), present)
        # Where fewer than two are left among those found, look at more.
        k = NEIGHBORS
        short = np.flatnonzero(indices[:, 1] < 0)
        while len(short):
            k *= 8
            more = self._search(asked[mine][short], k)
            distances[short], indices[short] = two_nearest(more, np.arange(len(short)), present)
            short = short[indices[short, 1] < 0]
        sampled = int(mine.sum()) < int(present.sum())
        return replace(
            found,
            distances=distances,
            indices=groups.first[indices],
            queries=groups.first[asked[mine]],
            far=groups.first[present & self._is_far] if sampled else None,
            n_points=len(kept),
            n_distinct=int(present.sum()),
            duplicates="collapse",
        )

    def shares(self, count: int) -> bool:
        """Whether a filter that keeps `count` rows takes part in what is sampled for all."""
        return count >= SHARED_SHARE * self.rows.n

    @cached_property
    def _pairs(self) -> tuple[Int64, Int64, Array]:
        """Random pairs of rows and their cosines, enough for every filter that shares them."""
        wanted = self.definition.pairs or 0
        rng = np.random.default_rng(self.definition.seed)
        used = [
            mask & (self.inverse > 0)
            for mask, _ in self.masks
            if self.shares(int((mask & (self.inverse > 0)).sum()))
        ]
        first, second = draw_pairs(rng, self.rows.n, wanted)
        distinct = {mask.tobytes(): mask for mask in used if not mask.all()}.values()
        while any(int((mask[first] & mask[second]).sum()) < wanted for mask in distinct):
            more = draw_pairs(rng, self.rows.n, max(1, wanted // 8))
            first, second = np.append(first, more[0]), np.append(second, more[1])
        return first, second, self._cosines(first, second)

    def add_pairs(self, found: CosineStats, inverse: Array) -> CosineStats:
        """`found` with histogram and extremes: every pair, or the shared sample."""
        definition = self.definition
        used = inverse > 0
        count = int(used.sum())
        wanted: int | str = "all" if definition.pairs is None else definition.pairs
        sample = None
        if wanted == "all":
            key = used.tobytes()
            if key in self._histograms:
                known = self._histograms[key]
                return replace(found, **{name: getattr(known, name) for name in PAIRWISE})
        elif int(wanted) < count * (count - 1) // 2 and self.shares(count):
            first, second, cosines = self._pairs
            inside = slice(None) if used.all() else used[first] & used[second]
            sample = cosines[inside][: int(wanted)]
        result = self._add_pairs(found, inverse, wanted, sample)
        if wanted == "all":
            self._histograms[used.tobytes()] = result
        return result

    def job(self, filtered: Filtered, groups: Int64 | None) -> SharedJob:
        """The metrics of one filter. groups: label of each row it keeps."""
        return SharedJob(self, filtered, groups)

    # What reads rows, so that rows of several processes can be read otherwise.

    def _near_mean(self, scale: Array | None, ids: Int64) -> Array:
        return near_mean(self.rows, scale, ids)

    def _sums_of(self, shift: Array, ids: Int64 | None, scale: Array | None) -> Sums:
        return sums(self.rows, shift, self.threads, ids, scale)

    def _pair_sums_of(self, total: Sums, ids: Int64 | None, scale: Array) -> PairSums:
        known = covariance_of(total, ids, scale)
        return pair_sums(known, added(self.rows, known, self.threads))

    def _cosines(self, first: Int64, second: Int64) -> Array:
        return pair_cosines(self.rows, self.inverse, first, second, self.threads)

    def _add_pairs(
        self, found: CosineStats, inverse: Array, wanted: int | str, sample: Array | None
    ) -> CosineStats:
        seed = self.definition.seed
        return add_pairs(found, self.rows, inverse, BINS, wanted, seed, self.threads, sample)


class SharedJob(Job):
    """The metrics of one filter, taken from what its layer shares where that is possible."""

    def __init__(self, shared: SharedLayer, filtered: Filtered, groups: Int64 | None) -> None:
        definition = shared.definition
        self.shared = shared
        self.filtered = filtered
        self.n, self.d = len(filtered.kept), shared.rows.d
        self.queries = definition.queries
        self.pairs = "all" if definition.pairs is None else definition.pairs
        self.groups = groups
        self.seed = definition.seed
        self.confidence = definition.confidence
        self.threads = shared.threads

    @property
    def rows(self) -> Rows:
        """The filtered rows; most metrics do without this copy."""
        return self.filtered.rows

    @cached_property
    def distinct(self) -> Distinct:
        if self.filtered.normalize:
            return super().distinct
        _, first, inverse = np.unique(
            self.shared.distinct.inverse[self.filtered.kept],
            return_index=True,
            return_inverse=True,
        )
        return Distinct(first, inverse)

    @cached_property
    def norms(self) -> Array:
        if self.filtered.normalize:
            return super().norms
        return self.shared.layer.norms[self.filtered.kept]

    @property
    def _apart(self) -> bool:
        """Whether the neighbours are searched for this filter alone."""
        few = len(self.distinct.first) < 3
        return self.filtered.normalize or not self.shared.shares(self.n) or few

    def _neighbors(self) -> Neighbors:
        if self._apart:
            definition = self.shared.definition
            if len(self.distinct.first) < 3:
                return super()._neighbors()
            if definition.backend is None and self.filtered.normalize:
                unit = self.shared.prepare(self.rows, 2, self.distinct, unit=True)
                return search_pairs(unit, self.queries, self.distinct, self.threads, self.seed)
            if definition.backend is None:
                return super()._neighbors()
            return approximate(self.rows, 2, self.queries, definition, self.threads)
        return self.shared.neighbors(self.filtered.kept)

    def query_rows(self) -> Int64:
        """Row of the layer (m,) that each query of `neighbors` is, the first of its equals."""
        queries = self.neighbors.queries
        return self.filtered.kept[queries] if self._apart else queries

    @cached_property
    def spectrum(self) -> Spectrum:
        if not self.shared.shares_spectrum(self.n):
            return super().spectrum
        shared, kept = self.shared, self.filtered.kept
        known = shared.decomposition(kept, unit=self.filtered.normalize)
        found = None
        if self.groups is not None:
            found = shared.by_document.spectrum(known, kept, self.confidence)
        if found is not None:
            return found
        return spectrum_of(shared.rows, self.groups, self.confidence, self.threads, known)

    def _moments(self) -> tuple[CosineStats, Array]:
        kept = self.filtered.kept
        shared = self.shared
        known = None
        if shared.shares_moments(int((shared.inverse[kept] > 0).sum())):
            if self.groups is not None:
                known = shared.by_document.pairs(kept)
            if known is None:
                known = shared.pair_sums(kept)
        return cosine_moments(
            shared.rows,
            self.groups,
            self.confidence,
            shared.layer.norms,
            self.threads,
            kept,
            known,
        )

    @cached_property
    def cosine(self) -> CosineStats:
        moments, inverse = self.moments
        return self.shared.add_pairs(moments, inverse)
