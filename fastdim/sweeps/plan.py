"""The plan shown before a run starts: rows, bytes on disk, memory, and about how long."""

from __future__ import annotations

import shutil
import time
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from fastdim.covariance import DECOMPOSED_COPIES, decomposed_at_once
from fastdim.errors import StoreError
from fastdim.group_forms import MATRIX_BYTES, matrix_bytes
from fastdim.plan_work import Cores, forward_operations, forward_seconds, site_analysis
from fastdim.sweeps.filters import FILTERS

BYTES = {"float16": 2, "bfloat16": 2, "float32": 4, "float64": 8}

# Document, position and token id as int64 and the special flag, beside the activations.
TOKEN_BYTES = 25
PIECE_BYTES = 16_000
_PROBE_SIZE, _PROBE_SECONDS = 1024, 0.3


@dataclass(frozen=True)
class Plan:
    """What is left of a run. Times are rough, of an idle machine: from its speed on one product."""

    model: str
    n_sites: int
    n_rows: int
    n_documents: int
    columns: tuple[int, ...]  # d of each site
    filters: tuple[str, ...]
    n_queries: int
    store_dtype: str
    parameters: int  # 0 where no forward pass is left to do
    batch_tokens: int
    disk_bytes: int
    memory_bytes: int
    forward_seconds: float
    analysis_seconds: float

    @property
    def n_pieces(self) -> int:
        """(layer, filter) pairs."""
        return self.n_sites * len(self.filters)


def make_plan(
    *,
    model: str,
    n_rows: int,
    n_documents: int,
    columns: tuple[int, ...],
    filters: tuple[str, ...],
    queries: int | None,
    store_dtype: str,
    parameters: int,
    parameter_bytes: int,
    batch_tokens: int,
    forward_tokens: int,
    extract: bool,
    multiplied: int | None = None,
    blocks: int = 0,
    context: int = 0,
    pairs: int | None = None,
    threads: int = 1,
    speed: float | None = None,
    ranks: int = 1,
) -> Plan:
    """Work out a Plan.

    `forward_tokens`: tokens that still go through the model, more than `n_rows` where documents are
    thinned out; `extract`: whether there are any (else the costs of the forward pass are 0);
    `multiplied`: parameters without embedding tables; `blocks`: those that attend;
    `pairs`: cosines sampled, None for all;
    `speed`: of `threads` cores on a float32 product, None to measure it on all of this machine;
    `ranks`: processes that share the rows, each with so many cores. Disk is of all together, memory
    of one that holds all rows.
    """
    item = BYTES[store_dtype]
    widest = max(columns)
    m = n_rows if queries is None else min(n_rows, queries)
    flops = flops_per_second() if speed is None else speed
    cores = Cores(threads, flops)
    normalized = sum(FILTERS[name].normalize for name in filters)
    every = n_rows * (n_rows - 1) / 2
    drawn = every if pairs is None else min(pairs, every)
    work = sum(
        site_analysis(cores, n_rows, d, m, drawn, len(filters), normalized, ranks, item).seconds
        for d in columns
    )
    forward = forward_operations(
        parameters if multiplied is None else multiplied, forward_tokens, blocks, widest, context
    )
    # The model, one batch of every site, and the intermediate values of one block (about 12 d).
    extraction = (
        parameter_bytes + batch_tokens * (sum(columns) * item + 12 * widest * 4) if extract else 0
    )
    # One layer as stored, its distinct rows, the form they are searched in (at most another copy),
    # a copy in float32 of what a filter changes; norms, neighbour lists; sums (of rows and
    # of directions) and axes of every filter, what is decomposed at a time, and the matrices of
    # the sums over documents.
    matrices = 3 * len(filters)
    matrices += DECOMPOSED_COPIES * min(len(filters), threads, decomposed_at_once(widest))
    analysis = n_rows * widest * (3 * item + 4) + 256 * n_rows + 8 * widest**2 * matrices
    summed = matrix_bytes(len(filters), widest)
    analysis += summed if ranks == 1 and summed <= MATRIX_BYTES else 0
    return Plan(
        model=model,
        n_sites=len(columns),
        n_rows=n_rows,
        n_documents=n_documents,
        columns=columns,
        filters=filters,
        n_queries=m,
        store_dtype=store_dtype,
        parameters=parameters if extract else 0,
        batch_tokens=batch_tokens,
        disk_bytes=n_rows * (sum(columns) * item + TOKEN_BYTES)
        + len(columns) * len(filters) * PIECE_BYTES,
        memory_bytes=max(extraction, analysis),
        forward_seconds=forward_seconds(cores, forward) / ranks if extract else 0.0,
        analysis_seconds=work,
    )


@cache
def flops_per_second() -> float:
    """Speed of this machine on a float32 matrix product: the best within 0.3 s, once a process.

    The first products are slow while threads and clocks start, and those that another program
    disturbs are too: the best of five was from 0.4 to 1 of the speed of the idle machine.
    """
    a = np.ones((_PROBE_SIZE, _PROBE_SIZE), dtype=np.float32)
    best = float("inf")
    end = time.perf_counter() + _PROBE_SECONDS
    while (start := time.perf_counter()) < end:
        a @ a
        best = min(best, time.perf_counter() - start)
    return 2.0 * _PROBE_SIZE**3 / best


def size(n_bytes: float) -> str:
    """Bytes in words: "1.5 GB"."""
    for unit, factor in (("PB", 1e15), ("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if n_bytes >= factor:
            return f"{n_bytes / factor:.1f} {unit}"
    return f"{n_bytes / 1e3:.0f} kB"


def check_space(plan: Plan, folder: Path, already: int = 0) -> None:
    """Raise StoreError if the disk cannot hold what is still to be written.

    `already`: bytes of this run that lie on the disk.
    """
    existing = folder
    while not existing.exists():
        existing = existing.parent
    free = shutil.disk_usage(existing).free
    needed = max(0, plan.disk_bytes - already)
    if needed > free:
        raise StoreError(
            f"{folder} needs {size(needed)} more, and the disk has {size(free)} free."
            " Choose another --output, fewer --layers or --max-tokens, or --store-dtype float16."
        )
