"""Exact k nearest neighbours of torch tensors: a certified filter, then distances of differences.

Rows are shifted by the mean, scaled by a power of two s and rounded to 16 bits: a for a query x, b
for a row y, with e >= |exact - rounded|. D = s |x - y|, T = s times the k-th smallest distance:

    D <= T  implies  |a - b| <= T + e_x + e_y                           (triangle inequality)
    |a - b|^2 <= (1 + t) (T + e_x)^2 + (1 + 1/t) e_y^2                  (any t > 0; t = 2^-9)
    |a - b|^2  = |a|^2 + |b|^2 - 2 a.b

The kernels form p = h_y + a.b, wrong by at most g (|a| |b| + |h_y|) + w, so with
|a| |b| <= (|a|^2 + |b|^2)/2 a pair can matter only if p >= L_x(T), where

    h_y (1 -+ g) >= ((1 + 1/t) e_y^2 - (1 - g) |b|^2) / 2               (sign against that of h_y)
    L_x(T) = ((1 - g) |a|^2 - (1 + t) (T + e_x)^2) / 2 - w

h_y is rounded up to float32 and L_x down.

Margin g. A tensor core adds L products and the running sum in one step: each term is cut off at the
last bit of the largest (2^-23 of it), the total is cut off to float32. A step errs by (L + 2) 2^-23
of S = |a| |b| + |h_y|, the sum beginning with h_y, and d/L steps with L >= 4 by 1.5 d 2^-23 S. The
number of a tile in the last b bits of p (`filter.py`) changes it by up to 2^b 2^-23 of it. Hence
g = (1.5 d + 1 + 2^b) 2^-23, d padded to whole slices. NVIDIA's units from sm_80 on sum 8
products or more at a time and keep more bits, so there is room for the terms of second order. It is
assumed of every chip that it keeps at least 24 bits. w = d 2^-108 covers products that vanish.

The first pass keeps the best p of each query. Where what it left out lies below L_x(T), T from the
kept, the row is certain. The others go through a second pass that writes every row with p >= L_x(T)
and, where these are more than fit, through all rows in float64. All distances come from one kernel.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import triton
from torch import Tensor

from fastdim.backends.lanes import Lanes
from fastdim.errors import BackendError

from . import filter as filters
from . import refine, rows
from .device import architecture, interpreted, multiprocessors, name
from .launch import column_sums
from .tiles import (
    BEYOND,
    END,
    FILLING,
    LISTS,
    PADDING,
    PLACES_K,
    PLAIN,
    ROOM,
    SPARE,
    filter_launch,
    splits_of,
    tile_of,
)

# Distances (m, k) float64, indices (m, k) int64 and the plan; what yields counts until it has them.
Found = tuple[Tensor, Tensor, dict[str, int | str]]
Steps = Generator[Tensor, int, Found]
SLACK = 2.0**-9
LARGEST_K = 128
# Columns are padded to a multiple of this, a slice of the filter.
SLICE = 64
# Entries of the lists that are held at a time.
HELD = 1 << 25


@dataclass(frozen=True)
class Packed:
    """Rows as the filter reads them, and what bounds need. All on the device.

    values: (padded, width) float16 or bfloat16. start: (padded,) float32, h. norm2: (n,) float64,
    (1 - g) |a|^2 rounded down. error: (n,) float64. factors: (3,) float64, scales of differences.
    """

    values: Tensor
    start: Tensor
    norm2: Tensor
    error: Tensor
    factors: Tensor
    underflow: float

    def limits(self, queries: Tensor, distances: Tensor) -> Tensor:
        """L (m,) float32 for the k-th distance (m,) of each query, rounded down."""
        norm2 = self.norm2[queries]
        reach = distances * self.factors[0] * (1 + 2.0**-40) + self.error[queries]
        far2 = (1 + SLACK) * reach * reach
        low = 0.5 * (norm2 - far2) - self.underflow - 2.0**-45 * (norm2 + far2)
        return _rounded(low, -torch.inf)


def _rounded(value: Tensor, towards: float) -> Tensor:
    """float64 to float32, rounded towards -inf or inf."""
    single = value.to(torch.float32)
    past = single.double() > value if towards < 0 else single.double() < value
    return torch.where(past, torch.nextafter(single, torch.full_like(single, towards)), single)


def pack(x: Tensor, marks: int = 0) -> Generator[Tensor, int, tuple[Packed, bool]]:
    """x as the filter reads it, and whether float16 had to give way to bfloat16.

    marks: mask of the bits of p that hold the number of a tile. As `Search.steps`.
    """
    n, d = x.shape
    total, low, high = column_sums(x)
    mean = total / n
    largest = torch.maximum((high - mean).abs(), (low - mean).abs()).amax()
    # A power of two that brings the largest value to 2^14..2^15, within float16.
    power = torch.where(largest > 0, 15 - torch.frexp(largest).exponent, 0).clamp(-1000, 1000)
    powers = (power.long() + torch.tensor([0, 480, 960], device=x.device)).clamp(max=1020)
    factors = ((powers + 1023) << 52).view(torch.float64)  # exact, unlike torch.ldexp
    width, padded = triton.cdiv(d, SLICE) * SLICE, triton.cdiv(n, PADDING) * PADDING
    sums = x.new_empty((3, padded), dtype=torch.float64)

    def into(dtype: torch.dtype) -> Tensor:
        values = x.new_empty((padded, width), dtype=dtype)
        tile = tile_of("pack_rows", interpreted())
        rows.pack_rows[(triton.cdiv(padded, tile["BLOCK_ROWS"]),)](
            x, mean, factors, values, sums, n, padded, d, width, x.stride(0), **tile, **PLAIN
        )
        return values

    values = into(torch.float16)
    # Rows that float16 rounds worse than 2^-10: where its range does not hold them.
    coarse = (yield (sums[0, :n] > sums[2, :n] * 2.0**-20).sum()) > n // 16
    if coarse:
        values = into(torch.bfloat16)
    margin = (1.5 * width + 2 + marks) * 2.0**-23
    # Sums of d float64 terms and the rounding of y itself, generously.
    error = sums[0].sqrt() * (1 + 2.0**-30) + sums[2].sqrt() * 2.0**-50
    norm2 = (1 - margin) * sums[1] * (1 - 2.0**-30)
    half = 0.5 * ((1 + 1 / SLACK) * error * error - norm2)
    start = _rounded(half + 2 * margin * half.abs(), torch.inf)
    start[n:] = BEYOND
    return Packed(values, start, norm2[:n], error[:n], factors, width * 2.0**-108), coarse


class Search:
    """One search: x (n, d) on its device, columns adjacent; k neighbours."""

    def __init__(self, x: Tensor, k: int, tuned: dict[str, int] | None = None) -> None:
        self.x, self.k, self.n = x, k, len(x)
        if self.n > 2**31 - PADDING:
            raise BackendError(
                f"backend 'triton' numbers rows in 32 bits, and {self.n} rows are more: search "
                "parts of them"
            )
        self.wide = x.dtype == torch.float64
        self.processors = multiprocessors(x)
        self.places = k <= PLACES_K
        where, chip, padded = (
            architecture(x.device),
            name(x),
            triton.cdiv(self.n, PADDING) * PADDING,
        )
        tile, self.options = filter_launch(where, chip, tuned, self.places)
        self.shape = {**tile, "UPCAST": interpreted()}
        self.height = tile["BLOCK_QUERIES"]
        self.tiles = padded // tile["BLOCK_ROWS"]
        second, _ = filter_launch(where, chip, tuned)
        self.second_shape = {**second, "UPCAST": interpreted()}
        self.second_tiles = padded // second["BLOCK_ROWS"]
        self.keep = next((size for size in LISTS if size >= k + 1 + SPARE), LISTS[-1])
        # A list holds its share of a query's neighbours unevenly: twice as many places are wanted.
        self.lists = triton.cdiv(2 * k, self.keep) if k + 1 + SPARE > self.keep else 1
        each = triton.cdiv(self.tiles, self.splits(self.n, self.lists))
        self.low = (1 << (each - 1).bit_length()) - 1 if self.places else 0
        self.room = max(ROOM, triton.next_power_of_2(4 * k))

    def splits(self, m: int, lists: int = 1) -> int:
        """Parts of the rows that programs take, for m queries, each at least `lists` lists."""
        tiles = triton.cdiv(m, self.height)
        return splits_of(tiles, self.tiles, self.processors, lists, END if self.places else FILLING)

    def distances(self, queries: Tensor, columns: Tensor) -> Tensor:
        """Distances (m, c) float64 of rows queries (m,) and columns (m, c); inf where that is -1"""
        m, c = columns.shape
        out = self.x.new_empty((m, c), dtype=torch.float64)
        tile = tile_of("pair_distances", interpreted())
        refine.pair_distances[(triton.cdiv(m * c, tile["BLOCK_PAIRS"]),)](
            self.x, queries, columns, self.packed.factors, out, m * c, c, self.x.shape[1],
            self.x.stride(0), WIDE=self.wide, **tile, **PLAIN,
        )  # fmt: skip
        return out

    def nearest(self, queries: Tensor, columns: Tensor) -> tuple[Tensor, Tensor]:
        """The k nearest of the columns (m, c): distances and row numbers, ties by row number."""
        ordered = columns.sort(dim=1).values
        distances, place = self.distances(queries, ordered).sort(dim=1, stable=True)
        short = max(0, self.k - columns.shape[1])
        distances = torch.nn.functional.pad(distances, (0, short), value=torch.inf)
        found = torch.nn.functional.pad(ordered.gather(1, place).long(), (0, short), value=-1)
        return distances[:, : self.k], found[:, : self.k]

    def first_pass(self, queries: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The k nearest of what the filter keeps, and which queries (m,) are certain."""
        m, keep = len(queries), self.keep
        # A program's tiles must fit the bits that hold their numbers.
        least = triton.cdiv(self.tiles, self.low + 1) if self.places else 1
        splits = self.splits(m, max(self.lists, least))
        scores = self.x.new_empty((m, splits, keep), dtype=torch.float32)
        found = self.x.new_empty((m, splits, keep), dtype=torch.int32)
        left_out = self.x.new_empty((m, splits), dtype=torch.float32)
        kernel = filters.knn_places if self.places else filters.knn_filter
        kernel[(triton.cdiv(m, self.height), splits)](
            queries, self.packed.values, self.packed.start, scores, found, left_out, m,
            self.packed.values.shape[1], self.tiles, splits,
            **({"low": self.low} if self.places else {}), KEEP=keep, **self.shape, **self.options,
        )  # fmt: skip
        most, columns = left_out.amax(dim=1), found.flatten(1)
        count = max(keep, 2 * self.k)
        if columns.shape[1] > count:
            best = scores.flatten(1).topk(count + 1, dim=1)
            most = torch.maximum(most, best.values[:, -1])
            columns = columns.gather(1, best.indices[:, :-1])
        distances, indices = self.nearest(queries, columns)
        limits = self.packed.limits(queries, distances[:, -1])
        return distances, indices, (most < limits) | (most <= 0.5 * BEYOND)

    def second_pass(self, queries: Tensor, bounds: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The k nearest, bounds (m,) on the k-th distance known, and which queries are done."""
        m = len(queries)
        splits = self.splits(m)
        count = torch.zeros(m, dtype=torch.int32, device=self.x.device)
        found = torch.full((m, self.room), -1, dtype=torch.int32, device=self.x.device)
        filters.rows_above[(triton.cdiv(m, self.height), splits)](
            queries, self.packed.values, self.packed.start, self.packed.limits(queries, bounds),
            count, found, m, self.n, self.packed.values.shape[1], self.second_tiles, splits,
            ROOM=self.room, **self.second_shape, **self.options,
        )  # fmt: skip
        distances, indices = self.nearest(queries, found)
        return distances, indices, count <= self.room

    def in_full(self, queries: Tensor) -> tuple[Tensor, Tensor]:
        """The k nearest among all rows, in float64."""
        m = len(queries)
        out = self.x.new_empty((m, self.n), dtype=torch.float64)
        tile = tile_of("all_distances", interpreted())
        grid = (triton.cdiv(self.n, tile["BLOCK_ROWS"]), triton.cdiv(m, tile["BLOCK_QUERIES"]))
        refine.all_distances[grid](
            self.x, queries, self.packed.factors, out, m, self.n, self.x.shape[1],
            self.x.stride(0), WIDE=self.wide, **tile, **PLAIN,
        )  # fmt: skip
        # A few more: sums in another order may tell equal distances apart by a last bit.
        order = out.sort(dim=1, stable=True).indices[:, : min(self.n - 1, self.k + 8)]
        return self.nearest(queries, order.int())

    def steps(self, queries: Tensor) -> Steps:
        """Distances (m, k) float64 and indices (m, k) int64 of rows numbered queries (m,) int32.

        Yields counts on the device, each of which decides what is queued next, and takes their
        values: the one who fetches them waits for the device, and nothing here does.
        """
        m, k, device = len(queries), self.k, self.x.device
        self.packed, self.coarse = yield from pack(self.x, self.low)
        distances = torch.full((m, k), torch.nan, dtype=torch.float64, device=device)
        indices = torch.full((m, k), -1, dtype=torch.int64, device=device)
        certain = torch.zeros(m, dtype=torch.bool, device=device)
        listed = self.keep * self.splits(self.height, self.lists)
        for part in _parts(torch.arange(m, device=device), max(self.height, HELD // listed)):
            distances[part], indices[part], certain[part] = self.first_pass(queries[part])
        again = yield certain.logical_not().sum()
        for part in _parts(_first(certain, again), max(self.height, HELD // self.room)):
            near, found, done = self.second_pass(queries[part], distances[part, -1])
            distances[part] = torch.where(done[:, None], near, distances[part])
            indices[part] = torch.where(done[:, None], found, indices[part])
            certain[part] = done
        rest = (yield certain.logical_not().sum()) if again else 0
        for part in _parts(_first(certain, rest), min(1 << 17, max(1, HELD // self.n))):
            distances[part], indices[part] = self.in_full(queries[part])
        return distances, indices, self.plan(again, rest)

    def plan(self, again: int, in_full: int) -> dict[str, int | str]:
        """What the search did, as `Neighbors.plan` holds it."""
        return {
            "strategy": "full",
            "arithmetic": "bfloat16" if self.coarse else "float16",
            "candidates": self.keep,
            "tiles": self.tiles,
            "queries_searched_again": again,
            "queries_in_full": in_full,
        }


def knn_tensor(
    x: Tensor, k: int, queries: Tensor | None = None, tuned: dict[str, int] | None = None
) -> tuple[Tensor, Tensor, dict[str, int | str]]:
    """Distances (m, k) float64, indices (m, k) int64 on the device of x, and the plan.

    x: (n, d) float16, bfloat16, float32 or float64, finite. queries: (m,) row numbers on the same
    device, None for every row. 1 <= k < n. tuned: see `tiles.filter_launch`. Runs on torch's
    current stream; the host waits two or three times, for what decides on the next step. Raises
    BackendError on k above 128, on 2^31 rows, and when memory runs out.
    """
    return knn_tensors([x], k, queries, tuned)[0]


def knn_tensors(
    xs: Sequence[Tensor],
    k: int,
    queries: Tensor | None = None,
    tuned: dict[str, int] | None = None,
    lanes: Lanes | None = None,
) -> list[Found]:
    """The same of each of several tensors (n, d) of one shape on one device.

    Queued on the streams of `lanes`, on the current one without; the host waits two or three times
    for all of them together.
    """
    if k > LARGEST_K:
        raise BackendError(
            f"backend 'triton' finds up to {LARGEST_K} neighbours, k = {k} was asked for: pass "
            "backend='cpu'"
        )
    first = xs[0]
    if queries is None:
        queries = torch.arange(len(first), device=first.device)
    numbers = queries.to(torch.int32)
    with torch.cuda.device(first.device if first.is_cuda else -1):
        try:
            searches = [Search(_adjacent(x), k, tuned).steps(numbers) for x in xs]
            return _together(searches, lanes or Lanes(first.device, 0))
        except torch.OutOfMemoryError as error:
            raise BackendError(_memory(first, k, len(xs), error)) from None


def _adjacent(x: Tensor) -> Tensor:
    x = x.detach()
    return x if x.stride(1) == 1 or x.shape[1] == 1 else x.contiguous()


def _together(searches: Sequence[Steps], lanes: Lanes) -> list[Found]:
    """Results of searches that go on side by side, their counts fetched at once.

    A search stays on its lane, for what it frees there may be taken by what is queued there next.
    """
    results: list[Found | None] = [None] * len(searches)
    values: list[int | None] = [None] * len(searches)
    while None in results:
        jobs = [
            partial(_advance, search, value, result)
            for search, value, result in zip(searches, values, results, strict=True)
        ]
        came = lanes.run(jobs)
        counts = {number: item for number, item in enumerate(came) if isinstance(item, Tensor)}
        results = [None if isinstance(item, Tensor) else item for item in came]
        if counts:
            fetched = torch.stack(list(counts.values())).tolist()
            for number, value in zip(counts, fetched, strict=True):
                values[number] = value
    return [result for result in results if result is not None]


def _advance(search: Steps, value: int | None, result: Found | None) -> Tensor | Found:
    """What a search yields after a value (None: before any), or its result."""
    if result is not None:
        return result
    try:
        return next(search) if value is None else search.send(value)
    except StopIteration as end:
        found: Found = end.value
        return found


def _first(done: Tensor, count: int) -> Tensor:
    """Numbers (count,) of the rows that are not done, in order, without a wait for how many."""
    return done.to(torch.uint8).argsort(stable=True)[:count]


def _parts(numbers: Tensor, size: int) -> tuple[Tensor, ...]:
    return torch.split(numbers, size) if len(numbers) else ()


def _memory(x: Tensor, k: int, layers: int, error: Any) -> str:
    n, d = x.shape
    each = "" if layers == 1 else f" for each of {layers} layers, all held at once"
    rounded = 2 * n * triton.cdiv(d, SLICE) * SLICE
    return (
        f"backend 'triton' ran out of memory on {x.device}: beyond x it holds {rounded} bytes of "
        f"rounded rows and about {n * (12 * k + 80)} of results and bounds{each}, and up to 1 GiB "
        f"of lists a search ({error}): search fewer rows, free memory, or pass backend='cpu'"
    )
