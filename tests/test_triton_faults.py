"""Faults planted in the Triton kernels and what launches them: the checks must turn red."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from conftest import gaussian
from filter_cases import cancelling, far_clusters, wide_rows
from triton_cases import (
    check,
    check_far_tiles,
    load,
    shared_storage,
    steps_of_rounding,
    worst_sums,
)

from fastdim import as_rows, naive
from fastdim.backends import devices
from fastdim.backends import triton as proper
from fastdim.backends.lanes import Lanes

__all__ = ["shared_storage", "worst_sums"]  # fixtures


def normal_rows(engine: ModuleType) -> None:
    x = gaussian(384, 6).astype(np.float32)
    rows = x[:260]
    # Padding counts as the mean: what lies behind the rows would be neighbours of the row there.
    middle = np.square(rows - rows.mean(axis=0)).sum(axis=1).argmin()
    x[260:] = x[middle] + np.float32(1e-3)
    check(engine, as_rows(rows))
    for k in (2, 6):  # by places, and by lists; two programs a query
        check(engine, as_rows(rows), k, queries=np.array([3, 77, 250]))


def equal_rows(engine: ModuleType) -> None:
    """Rows that all need the second pass, and some the search in full."""
    x = gaussian(140, 6).astype(np.float32)
    x[:20] = x[0]
    chosen = np.array([0, 15, 90, 139])
    check(engine, as_rows(x), queries=chosen)
    check(engine, as_rows(np.concatenate([x[:1].repeat(270, axis=0), x])), queries=chosen)


def sums(engine: ModuleType) -> None:
    check(engine, cancelling())


def rounding(engine: ModuleType) -> None:
    check(engine, far_clusters(60))


def steps(engine: ModuleType) -> None:
    check(engine, steps_of_rounding(), queries=np.array([503]))


def far_apart(engine: ModuleType) -> None:
    rows = wide_rows(40, 32)
    check(engine, rows)
    search = importlib.import_module(f"{engine.__name__}.search")
    chosen = torch.tensor([39, 0], dtype=torch.int32)
    whole = search.Search(devices.upload(rows, "cpu"), 2)
    search._together([whole.steps(chosen)], Lanes(torch.device("cpu"), 0))
    distances, _ = whole.in_full(chosen)
    np.testing.assert_allclose(distances.numpy(), naive.knn(rows, 2, chosen.numpy())[0], rtol=1e-12)


def cosines(engine: ModuleType) -> None:
    x = gaussian(150, 5)
    unit = engine.unit_rows(devices.upload(as_rows(x), "cpu"))
    found, want = engine.all_pairs(unit, 30), naive.cosine_stats(x, bins=30)
    np.testing.assert_array_equal(found.histogram, want.histogram)
    np.testing.assert_allclose([found.mean, found.low, found.high], [want.mean, want.min, want.max])
    np.testing.assert_allclose(found.variance, want.std**2, rtol=1e-9)


def repeated(engine: ModuleType) -> None:
    x = np.random.default_rng(5).integers(-1, 2, (150, 3)).astype(np.float64)
    x[::2] *= -1.0  # makes -0.0
    first, inverse = engine.distinct(devices.upload(as_rows(x), "cpu"))
    want = naive.distinct(x)
    np.testing.assert_array_equal(first, want[0])
    np.testing.assert_array_equal(inverse, want[1])


def far_tiles(engine: ModuleType) -> None:
    check_far_tiles(engine)


CHECKS = (normal_rows, equal_rows, sums, rounding, steps, far_apart, far_tiles, cosines, repeated)
FAULTS: dict[str, tuple[Callable[[ModuleType], None], str, str]] = {
    "a dropped mask, self": (
        normal_rows,
        "real = (top > 0.5 * BEYOND) & (row != query)",
        "real = top > 0.5 * BEYOND",
    ),
    "a dropped mask, self in the lists": (
        normal_rows,
        'score = tl.where(column[None, :] == query[:, None], float("-inf"), score)',
        "score = score + 0.0",
    ),
    "a dropped mask, self in the second pass": (
        equal_rows,
        "wanted = (score >= limit[:, None]) & (column[None, :] != query[:, None])",
        "wanted = score >= limit[:, None]",
    ),
    "a dropped mask, rows beyond the last": (
        normal_rows,
        "    start[n:] = BEYOND\n",
        "",
    ),
    "a 32-bit index": (
        far_apart,
        "column = tl.load(columns + pair, mask=pair < pairs, other=-1).to(tl.int64)",
        "column = tl.load(columns + pair, mask=pair < pairs, other=-1)",
    ),
    "a 32-bit index in the filter, queries": (
        far_tiles,
        "left = packed + queries.to(tl.int64)[:, None] * width",
        "left = packed + queries[:, None] * width",
    ),
    "a 32-bit index in the filter, rows": (
        far_tiles,
        "first = tl.cast(tile, tl.int64) * BLOCK_ROWS",
        "first = tile * BLOCK_ROWS",
    ),
    "a 32-bit index in full": (
        far_apart,
        "row = tl.program_id(0).to(tl.int64) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)\n    place",
        "row = tl.program_id(0) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)\n    place",
    ),
    "a 32-bit index in rounding": (
        far_apart,
        "    factor = tl.load(scale)\n",
        "    row = row.to(tl.int32)\n    factor = tl.load(scale)\n",
    ),
    "no margin for the sums": (
        sums,
        "margin = (1.5 * width + 2 + marks)",
        "margin = 0 * (1.5 * width + 2 + marks)",
    ),
    "no margin for the rounding": (
        steps,
        "error = sums[0].sqrt()",
        "error = 0 * sums[0].sqrt()",
    ),
    "a lost bound": (
        rounding,
        "tl.store(left_out + base, tl.maximum(lost, tl.max(best, axis=1))",
        'tl.store(left_out + base, tl.maximum(lost, tl.max(best, axis=1)) + float("-inf")',
    ),
    "a lost merge of lists": (
        normal_rows,
        "most, columns = left_out.amax(dim=1), found.flatten(1)",
        "most, columns = left_out.amax(dim=1), found[:, 0]",
    ),
    "a lost merge of counts": (
        equal_rows,
        "to = tl.atomic_add(count + place, more, mask=real)",
        "to = tl.load(count + place, mask=real, other=0) * 0",
    ),
    "a pair counted twice": (
        cosines,
        "pair = (i[:, None] < j[None, :]) & (j < n)[None, :]",
        "pair = (i[:, None] != j[None, :]) & (j < n)[None, :]",
    ),
    "a tail that is not masked": (
        cosines,
        "pair = (i[:, None] < j[None, :]) & (j < n)[None, :]",
        "pair = i[:, None] < j[None, :]",
    ),
    "a bin beyond its edge": (
        cosines,
        "tl.minimum(((cosine + 1.0) * 0.5 * bins).to(tl.int32), bins - 1)",
        "tl.minimum(((cosine + 1.0) * 0.5 * bins + 1.01).to(tl.int32), bins - 1)",
    ),
    "a part of the tiles left out": (
        cosines,
        "for other in range(tile + part, tiles, parts):",
        "for other in range(tile + part, tiles - 1, parts):",
    ),
    "a sign of zero in the hash": (
        repeated,
        "bits = tl.where(value == 0.0, 0.0, value)",
        "bits = value",
    ),
}


@pytest.mark.parametrize("name", [part.__name__ for part in CHECKS])
def test_without_faults_the_same_checks_pass(
    name: str, worst_sums: None, shared_storage: None
) -> None:
    next(part for part in CHECKS if part.__name__ == name)(proper)


@pytest.mark.parametrize("fault", FAULTS)
def test_planted_faults_are_found(
    fault: str, tmp_path: Any, worst_sums: None, shared_storage: None
) -> None:
    find, old, new = FAULTS[fault]
    broken = load(tmp_path, old, new)
    # A wrong address may also end as an error of the interpreter, which is not an AssertionError.
    with pytest.raises((AssertionError, RuntimeError)):
        find(broken)
