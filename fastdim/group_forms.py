"""Quadratic forms of rows summed over documents: what errors clustered by documents need.

The sum of y'Ay over a document is the sum of A_ij G_ij with G = sum of yy': one product of the rows
serves the matrices A of every filter, where forms row by row take a product for each.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastdim.arrays import Rows
from fastdim.backends import cpu

Array = NDArray[np.float64]
Int64 = NDArray[np.int64]

# Rows of a segment, on average, from which on the sums are less work than forms row by row.
SEGMENT_ROWS = 16

# A filter's mean square, over that of all rows: below, squares of its rows would near the end of
# float32's range.
LEAST_SQUARES = 2.0**-80

# What the matrices of one product may take together.
MATRIX_BYTES = 256 << 20


def matrix_bytes(filters: int, d: int) -> int:
    """At most so many for the matrices of d columns: three a filter, and their float32 copy."""
    return 3 * filters * (8 + 2) * d * d


@dataclass(frozen=True, eq=False)
class Segments:
    """Rows cut into sets of one document and one pattern of filters, one set after the other.

    ids: row numbers (m,). ends: (s,) one past the last place of each set. document: (s,) numbers.
    pattern: (s,), bit p for the p-th filter.
    """

    ids: Int64
    ends: Int64
    document: Int64
    pattern: Int64


def segments_of(pattern: Int64, document: Int64) -> Segments:
    """The segments of the rows whose pattern (n,) is not 0. document: (n,) numbers from 0."""
    used = np.flatnonzero(pattern)
    codes = int(pattern.max()) + 1
    key = document[used] * codes + pattern[used]
    order = np.argsort(key, kind="stable")
    key = key[order]
    ends = np.append(np.flatnonzero(np.diff(key)) + 1, len(key))
    first = key[ends - 1]
    return Segments(used[order], ends, first // codes, first % codes)


class Asked(NamedTuple):
    """Of the rows that filter `bit` keeps: their mean (d,), a line (d,), how many symmetric
    matrices, further lines (a, d) and whether the first is asked of every row."""

    bit: int
    mean: Array
    line: Array
    matrices: int
    further: Array
    by_row: bool


class DocumentSums(NamedTuple):
    """Sums over the rows of each of g documents, y being a row less the mean.

    sizes: (g,) rows. line, line_squares: (g,) of y.line and its square. further: (g, a) of y by
    further lines. squares: (g,) of |y|^2. forms: (g, m) of y'Ay. along: (count,) y.line of every
    row, ascending, or (0,). present: (g,) numbers of the documents, ascending.
    """

    sizes: Array
    line: Array
    line_squares: Array
    further: Array
    squares: Array
    forms: Array
    along: Array
    present: Int64


def document_sums(
    rows: Rows,
    shift: Array,
    scale: Array | None,
    segments: Segments,
    asked: Sequence[Asked],
    matrices: Array,
    threads: int,
) -> list[DocumentSums | None]:
    """What is asked of each filter's rows, each times its scale (n,). shift: (d,) near their means.
    matrices: (m, d, d), those of one filter after the other. None for a filter whose rows are so
    much shorter than the longest of all that float32 does not hold both.

    Forms and totals are of rows rounded to float32 about the shift; what `along` and `squares` say
    is float64.
    """
    ids, ends = segments.ids, segments.ends
    starts = np.append(0, ends[:-1])
    lines, lengths = _lines(rows, shift, scale, ids, asked, threads)
    # Rows of about unit length, by a power of two: no product leaves the range of float32.
    mean_square = float(lengths.mean())
    size = 2.0 ** round(np.log2(mean_square) / 2) if mean_square > 0.0 else 1.0
    factors = np.full(rows.n, 1.0 / size) if scale is None else scale / size
    totals, forms = cpu.group_forms(rows, shift / size, ids, factors, ends, matrices, threads)
    totals *= size
    forms *= size * size
    lengths = np.add.reduceat(lengths, starts)
    sizes = np.diff(ends, prepend=0)
    answers: list[DocumentSums | None] = []
    start = 0
    for place, one in enumerate(asked):
        stop = start + one.matrices
        inside = np.flatnonzero(segments.pattern >> one.bit & 1)
        squares = float(lengths[inside].sum()) / max(1, int(sizes[inside].sum()))
        if 0.0 < squares < LEAST_SQUARES * size * size:
            answers.append(None)
            start = stop
            continue
        document = segments.document[inside]  # ascending, as the segments
        first = np.flatnonzero(np.diff(document, prepend=-1))

        def summed(values: Array, inside: Int64 = inside, first: Int64 = first) -> Array:
            return np.asarray(np.add.reduceat(values[inside], first, axis=0))

        moved = one.mean - shift
        turned = matrices[start:stop] @ moved
        along = lines[place] - float(moved @ one.line)
        against = np.concatenate([moved[None], turned, one.further])
        count = summed(sizes).astype(np.float64)
        # Sums of y about the mean in these directions.
        about = summed(totals @ against.T) - count[:, None] * (against @ moved)
        answers.append(
            DocumentSums(
                sizes=count,
                line=summed(np.add.reduceat(along, starts)),
                line_squares=summed(np.add.reduceat(np.square(along), starts)),
                further=about[:, one.matrices + 1 :],
                # What is known is about the shift.
                squares=summed(lengths) - 2.0 * about[:, 0] - count * float(moved @ moved),
                forms=summed(forms[:, start:stop])
                - 2.0 * about[:, 1 : one.matrices + 1]
                - count[:, None] * (turned @ moved),
                along=_ascending(along, segments, inside, rows.n) if one.by_row else np.empty(0),
                present=document[first],
            )
        )
        start = stop
    return answers


def _lines(
    rows: Rows,
    shift: Array,
    scale: Array | None,
    ids: Int64,
    asked: Sequence[Asked],
    threads: int,
) -> tuple[list[Array], Array]:
    """Of each row y about the shift y.line for each line, and |y|^2; in the order of ids."""
    first = asked[0].line
    length = float(np.linalg.norm(first))
    axis = first / length if length > 0.0 else np.eye(1, rows.d)[0]
    others = np.stack([np.zeros(rows.d), *(one.line for one in asked[1:])])[1:]
    none = np.zeros((2, 1))
    found = cpu.row_forms(rows, shift, ids, scale, axis[None], none, others, threads)
    lines = [length * found.first, *np.ascontiguousarray(found.linear.T)]
    return lines, np.square(found.first) + found.rest


def _ascending(values: Array, segments: Segments, inside: Int64, n: int) -> Array:
    """The values of the rows of these segments, in the order of the rows."""
    taken = np.zeros(len(segments.ends), dtype=bool)
    taken[inside] = True
    chosen = np.repeat(taken, np.diff(segments.ends, prepend=0))
    every, there = np.empty(n), np.zeros(n, dtype=bool)
    every[segments.ids[chosen]] = values[chosen]
    there[segments.ids[chosen]] = True
    return every[there]
