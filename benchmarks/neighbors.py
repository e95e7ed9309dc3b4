"""Exact neighbours against FAISS flat, case by case: time, memory, and what the search did.

    python benchmarks/neighbors.py --rows 50000 --cases blocks,k32,queries,isotropic,duplicates

Validates first: the distances of 100 rows against float64 sums of squared differences. Everything
counts: grouping equal rows, centering, axes, order, search. Programs take turns.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import data
import numpy as np
from compare import commit, device
from numpy.typing import NDArray
from worker import fastest_core

import fastdim

CHECKED = 100
TOLERANCE = 1e-6
CASES = ("blocks", "k32", "queries", "isotropic", "duplicates", "wide")
# 0-based blocks whose outputs are the published "blocks" 1, 10, 20 and 29, counted from 1.
BLOCKS = (0, 9, 19, 28)


@dataclass
class Case:
    """One matrix and one question; programs return (distances, plan or None)."""

    name: str
    x: data.Matrix
    k: int
    queries: NDArray[np.int64] | None
    duplicates: str
    programs: dict[str, Callable[[], tuple[NDArray[Any], dict[str, Any] | None]]]


def ours(x: Any, k: int, options: dict[str, Any]) -> tuple[NDArray[Any], dict[str, Any]]:
    """fastdim.knn."""
    found = fastdim.knn(x, k, **options)
    return found.distances, found.plan


def faiss_flat(x: data.Matrix, queries: data.Matrix, k: int) -> tuple[NDArray[Any], None]:
    """faiss.knn; the row itself comes back as its own nearest, so one more is asked for."""
    import faiss

    squared, _ = faiss.knn(queries, x, k + 1)
    return np.sqrt(np.maximum(squared[:, 1:], 0)), None


def make_case(
    name: str,
    x: data.Matrix,
    threads: int,
    k: int = 2,
    queries: NDArray[np.int64] | None = None,
    duplicates: str = "keep",
    prepared: bool = False,
) -> Case:
    """Both programs of a case; `prepared` adds the search on prepared rows."""
    options = {"queries": queries, "duplicates": duplicates, "threads": threads}
    peer = x
    if duplicates == "collapse":
        peer = np.ascontiguousarray(x[np.sort(np.unique(x, axis=0, return_index=True)[1])])
    programs: dict[str, Callable[[], Any]] = {"fastdim": partial(ours, x, k, options)}
    if prepared:
        ready = fastdim.prepare(x, k=k, threads=threads)
        programs["fastdim, prepared"] = partial(ours, ready, k, options)
    asked = peer if queries is None else np.ascontiguousarray(peer[queries])
    programs["faiss.knn"] = partial(faiss_flat, peer, asked, k)
    return Case(name, x, k, queries, duplicates, programs)


def cases(options: argparse.Namespace) -> Iterator[Case]:
    """The cases asked for, made one at a time."""
    n, threads = options.rows, options.threads
    make = partial(data.make, rows=n, cache=options.cache)
    wanted = options.cases.split(",")
    for path in options.files:
        x = np.load(path)
        yield make_case(f"{Path(path).stem}, {len(x):,} x {x.shape[1]}", x, threads)
    if "blocks" in wanted:
        for block in BLOCKS:
            yield make_case(f"block {block + 1}", make(f"smollm2:{block}"), threads)
    if "k32" in wanted:
        yield make_case("block 20, k = 32", make("smollm2:19"), threads, k=32)
    if "queries" in wanted:
        x = make("smollm2:19")
        chosen = np.sort(np.random.default_rng(0).choice(len(x), 2000, replace=False))
        yield make_case("block 20, 2,000 queries", x, threads, queries=chosen, prepared=True)
    if "isotropic" in wanted:
        yield make_case("isotropic Gaussian", data.gauss(n), threads)
    if "duplicates" in wanted:
        x = make("smollm2:embedding")
        yield make_case("layer 0, keep", x, threads)
        yield make_case("layer 0, collapse", x, threads, duplicates="collapse")
    if "wide" in wanted:
        for sites in (4, 8):
            parts = [make(f"smollm2:{block}") for block in range(30 - sites, 30)]
            x = np.concatenate(parts, axis=1)[:20_000]
            yield make_case(f"{sites} sites side by side", x, threads)


def validate(case: Case) -> None:
    """Raise AssertionError if a distance of fastdim is off by more than TOLERANCE."""
    x = case.x
    if case.duplicates == "collapse":
        x = x[np.sort(np.unique(x, axis=0, return_index=True)[1])]
    asked = np.arange(len(x)) if case.queries is None else case.queries
    checked = np.random.default_rng(1).choice(len(asked), min(CHECKED, len(asked)), replace=False)
    for program, run in case.programs.items():
        if not program.startswith("fastdim"):
            continue
        distances = run()[0]
        for place in checked:
            gaps = x.astype(np.float32) - x[asked[place]]  # exact enough to choose candidates
            near = np.argpartition(np.einsum("ij,ij->i", gaps, gaps), case.k + 8)[: case.k + 9]
            near = near[near != asked[place]]
            exact = x[near].astype(np.float64) - x[asked[place]].astype(np.float64)
            expected = np.sort(np.sqrt(np.einsum("ij,ij->i", exact, exact)))[: case.k]
            np.testing.assert_allclose(distances[place], expected, rtol=TOLERANCE)


def main() -> None:
    """Print the table; raises AssertionError if fastdim is wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", default=",".join(CASES), help="comma separated; '' for none")
    parser.add_argument("--files", nargs="*", default=[], help=".npy files, each a case of its own")
    parser.add_argument("--rows", type=int, default=50_000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--cache", type=Path, default=Path(".benchmarks"))
    options = parser.parse_args()
    unknown = set(filter(None, options.cases.split(","))) - set(CASES)
    if unknown:
        parser.error(f"unknown cases {sorted(unknown)}; there are: {', '.join(CASES)}")
    # Read when FAISS loads its BLAS: see worker.environment.
    if core := fastest_core():
        os.environ["OPENBLAS_CORETYPE"] = core
    import faiss

    faiss.omp_set_num_threads(options.threads)
    print(f"{device()}; commit {commit()}; {options.threads} threads; {options.repeats} runs each")
    print("\n| case | rows | program | median s | range s | faiss.knn / this | plan |")
    print("|---|---|---|---|---|---|---|", flush=True)
    for case in cases(options):
        validate(case)
        seconds: dict[str, list[float]] = {program: [] for program in case.programs}
        plans: dict[str, Any] = {}
        for _ in range(options.repeats):
            for program, run in case.programs.items():
                start = time.perf_counter()
                _, plans[program] = run()
                seconds[program].append(time.perf_counter() - start)
        peer = statistics.median(seconds["faiss.knn"])
        for program, times in seconds.items():
            median, plan = statistics.median(times), plans[program] or {}
            did = " ".join(str(plan[key]) for key in PLAN if key in plan)
            print(
                f"| {case.name} | {len(case.x):,} x {case.x.shape[1]} | {program} | {median:.3f} |"
                f" {min(times):.3f}-{max(times):.3f} | {peer / median:.1f} | {did} |",
                flush=True,
            )


PLAN = ("strategy", "arithmetic", "axes_first", "axes", "pairs_second", "pairs_refined")


if __name__ == "__main__":
    main()
