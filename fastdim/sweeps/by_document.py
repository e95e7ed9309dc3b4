"""Errors of a layer under all filters from sums over documents, instead of forms of every row."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from fastdim import moments
from fastdim.backends.blas import one_blas_thread
from fastdim.covariance import (
    Covariance,
    Decomposition,
    Spectrum,
    covariance_of,
    form_weights,
    spectrum_from_sums,
)
from fastdim.group_forms import (
    MATRIX_BYTES,
    SEGMENT_ROWS,
    Asked,
    DocumentSums,
    Segments,
    document_sums,
    matrix_bytes,
    segments_of,
)
from fastdim.quadratic import Added, PairSums, pair_sums_by_document

if TYPE_CHECKING:
    from fastdim.sweeps.shared import SharedLayer

Array = NDArray[np.float64]
Int64 = NDArray[np.int64]
Mask = NDArray[np.bool_]
Key = tuple[bool, bytes]
Summed = tuple[dict[Key, DocumentSums | None], dict[Key, PairSums]]

# Sums of rows in float32 lose up to 4e-6, and 1e-7 as a rule, of what they hold; what lies across
# the first axis must not be less than this share of it, or forms row by row serve.
LEAST_ACROSS = 2.0**-10


class ByDocument:
    """What the filters of a layer need for errors clustered by documents, from two passes: one
    over its rows and one over their directions."""

    def __init__(self, shared: SharedLayer) -> None:
        self.shared = shared
        self._cut: dict[bool, Segments] = {}
        self._sums: dict[bool, Summed] = {}

    @cached_property
    def _document(self) -> Int64:
        """Document of every row, numbered from 0 without gaps."""
        document = self.shared.layer.document
        assert document is not None  # `suits` was asked
        return np.unique(document, return_inverse=True)[1]

    def suits(self, unit: bool) -> bool:
        """Whether sums over documents are less work than forms of the rows, and have room."""
        rows, layer = self.shared.rows, self.shared.layer
        if layer.document is None or rows.n * rows.d**2 <= moments.DIRECT_WORK:
            return False
        if matrix_bytes(len(self.shared.masks), rows.d) > MATRIX_BYTES:
            return False
        cut = self._segments(unit)
        return len(cut.ends) * SEGMENT_ROWS <= len(cut.ids)

    def _segments(self, unit: bool) -> Segments:
        if unit not in self._cut:
            self._cut[unit] = segments_of(self.shared.pattern(unit), self._document)
        return self._cut[unit]

    def spectrum(self, found: Decomposition, kept: Int64, confidence: float) -> Spectrum | None:
        """The spectrum of the rows `kept`; None where sums over documents do not serve.

        found: the decomposition of these rows, or of their directions.
        """
        unit = found.scale is not None
        if not self.suits(unit):
            return None
        sums = self._summed(unit)[0].get(self._key(kept, unit))
        if sums is None:
            return None
        rest = sums.squares - sums.line_squares
        parts = [
            self._spread(values, sums, kept) for values in (sums.line_squares, rest, sums.forms)
        ]
        return spectrum_from_sums(found, sums.along, (parts[0], parts[1], parts[2]), confidence)

    def pairs(self, kept: Int64) -> PairSums | None:
        """`pair_sums` of the directions of the rows `kept`, by document among these."""
        if not self.suits(True):
            return None
        found = self._summed(True)[1].get(self._key(kept, True))
        if found is None or found.documents is None:
            return None
        return found._replace(documents=np.searchsorted(self._among(kept), found.documents))

    def _key(self, kept: Int64, unit: bool) -> Key:
        return self.shared.key(self.shared.mask_of(kept), unit)

    def _among(self, kept: Int64) -> Int64:
        """Documents of the rows `kept`, ascending: the order in which their groups stand."""
        return np.flatnonzero(np.bincount(self._document[kept]))

    def _spread(self, values: Array, sums: DocumentSums, kept: Int64) -> Array:
        """Values (g, ...) of the documents in the sums, 0 for the others among `kept`."""
        there = self._among(kept)
        out = np.zeros((len(there), *values.shape[1:]))
        out[np.searchsorted(there, sums.present)] = values
        return out

    def _summed(self, unit: bool) -> Summed:
        if unit not in self._sums:
            with one_blas_thread():
                self._sums[unit] = self._sum(unit)
        return self._sums[unit]

    def _sum(self, unit: bool) -> Summed:
        """One pass for the spectra and, of directions, the pairs of every filter."""
        shared = self.shared
        spectra = self._decompositions(unit)
        pairs = self._covariances() if unit else {}
        d, count = shared.rows.d, 2 * len(spectra)
        asked: list[Asked] = []
        matrices = np.empty((count + len(pairs), d, d))
        if not len(matrices):
            return {}, {}

        def form(place: int, found: Decomposition) -> None:
            form_matrices(found, matrices[2 * place : 2 * place + 2])

        with ThreadPoolExecutor(shared.threads) as pool:
            list(pool.map(form, range(len(spectra)), [found for _, found in spectra.values()]))
        for bit, found in spectra.values():
            asked.append(Asked(bit, found.mean, found.axes[0], 2, np.zeros((0, d)), True))
        for place, (bit, known) in enumerate(pairs.values(), count):
            matrices[place] = known.gram
            turned = (known.gram @ known.mean)[None]
            asked.append(Asked(bit, known.mean, known.mean, 1, turned, False))
        scale = shared.inverse if unit else None
        cut, shift = self._segments(unit), shared.shift(unit)
        sums = document_sums(shared.rows, shift, scale, cut, asked, matrices, shared.threads)
        of_pairs = zip(pairs.items(), sums[len(spectra) :], strict=True)
        return (
            dict(zip(spectra, sums[: len(spectra)], strict=True)),
            {
                key: _of_pairs(known, found)
                for (key, (_, known)), found in of_pairs
                if found is not None
            },
        )

    def _covariances(self) -> dict[Key, tuple[int, Covariance]]:
        """Of the directions under each filter, by its bit."""
        shared = self.shared
        out: dict[Key, tuple[int, Covariance]] = {}
        for bit, (mask, _) in enumerate(shared.masks):
            key = shared.key(mask, True)
            count = int((mask & (shared.inverse > 0)).sum())
            if key not in out and shared.shares_moments(count):
                out[key] = bit, covariance_of(*shared.added(mask, True))
        return out

    def _decompositions(self, unit: bool) -> dict[Key, tuple[int, Decomposition]]:
        """Those of the filters, by their bits, but of rows that lie along one axis."""
        shared = self.shared
        out: dict[Key, tuple[int, Decomposition]] = {}
        for bit, (mask, normalize) in enumerate(shared.masks):
            key = shared.key(mask, unit)
            if normalize != unit or key in out or not shared.shares_spectrum(int(mask.sum())):
                continue
            try:
                found = shared.decomposition(np.flatnonzero(mask), unit)
            except (np.linalg.LinAlgError, MemoryError):
                continue  # raised to the filter when it asks
            total = float(found.eigenvalues.sum())
            if total - float(found.eigenvalues[0]) > LEAST_ACROSS * total:
                out[key] = bit, found
        return out


def form_matrices(found: Decomposition, out: Array) -> None:
    """Matrices (2, d, d) whose forms are `RowForms.forms`: sums of weights v v' over the axes."""
    for matrix, weights in zip(out, form_weights(found.eigenvalues), strict=True):
        # A product of a matrix with itself is half the work; it takes weights above 0.
        lift = max(0.0, -float(weights.min()))
        lifted = found.axes * np.sqrt(weights + lift)[:, None]
        np.matmul(lifted.T, lifted, out=matrix)
        matrix[np.diag_indices(len(matrix))] -= lift


def _of_pairs(known: Covariance, sums: DocumentSums) -> PairSums:
    added = Added(sums.line, sums.further[:, 0], sums.forms[:, 0])
    return pair_sums_by_document(known, added, sums.line_squares, sums.sizes, sums.present)
