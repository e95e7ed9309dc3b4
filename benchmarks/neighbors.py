"""Exact neighbours against FAISS flat and others, case by case: time, memory, what the search did.

    python benchmarks/neighbors.py --cases blocks,k32,queries --output benchmarks/results

Validates first: the distances of 100 rows against float64 sums of squared differences. Everything
counts: grouping equal rows, centering, axes, order, search. Programs take turns. With --output the
lines are kept in a JSON file named for the processor, a case measured anew replaces its old line,
and a table and the growth of time with the rows as a picture are made of it.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import data
import numpy as np
import tables
from neighbors_peers import OTHERS, OtherBlas
from numpy.typing import NDArray
from paired import in_turns
from peers import Distances, faiss_flat
from worker import commit, device, fastest_core

import fastdim
from fastdim import naive

CHECKED = 100
TOLERANCE = 1e-6
CASES = ("blocks", "k32", "queries", "isotropic", "duplicates", "wide", "growth", "peers")
# Kernels of FAISS's BLAS for the second peer: its fastest on processors without AVX-512.
OTHER_CORE = "Haswell"
# 0-based blocks whose outputs are the published "blocks" 1, 10, 20 and 29, counted from 1.
BLOCKS = (0, 9, 19, 28)
GROWTH = (12_500, 25_000, 100_000, 200_000)
PLAN = (
    "strategy", "arithmetic", "axes_first", "axes", "pairs_rough", "second", "pairs_second",
    "pairs_refined",
)  # fmt: skip


@dataclass
class Case:
    """One matrix and one question; programs return (distances, plan or None).

    searched: the rows of x among which is searched, all or the distinct ones.
    """

    name: str
    x: data.Matrix
    k: int
    queries: NDArray[np.int64] | None
    searched: data.Matrix
    programs: dict[str, Callable[[], tuple[Distances, dict[str, Any] | None]]]


def ours(x: Any, k: int, options: dict[str, Any]) -> tuple[Distances, dict[str, Any]]:
    """fastdim.knn."""
    found = fastdim.knn(x, k, **options)
    return found.distances, found.plan


def without_plan(search: Callable[..., Distances], *arguments: Any) -> tuple[Distances, None]:
    """Another program's search."""
    return search(*arguments), None


def make_case_of(
    name: str,
    x: data.Matrix,
    threads: int,
    k: int = 2,
    queries: NDArray[np.int64] | None = None,
    duplicates: str = "keep",
    prepared: bool = False,
    others: bool = False,
    other_blas: OtherBlas | None = None,
) -> Case:
    """fastdim and faiss.knn; `prepared` adds the search on prepared rows, `others` more peers.

    other_blas: faiss.knn with other kernels of its BLAS.
    """
    options = {"queries": queries, "duplicates": duplicates, "threads": threads}
    searched = x
    if duplicates == "collapse":
        searched = np.ascontiguousarray(x[np.sort(np.unique(x, axis=0, return_index=True)[1])])
    programs: dict[str, Callable[[], Any]] = {"fastdim": partial(ours, x, k, options)}
    if prepared:
        ready = fastdim.prepare(x, k=k, threads=threads)
        programs["fastdim, prepared"] = partial(ours, ready, k, options)
    asked = searched if queries is None else np.ascontiguousarray(searched[queries])
    programs["faiss.knn"] = partial(without_plan, faiss_flat, searched, k, threads, asked)
    if other_blas is not None:
        other_blas.load(searched, asked)
        programs[tables.OTHER_BLAS] = partial(without_plan, other_blas.search, k)
    if others:
        for peer, run in OTHERS.items():
            programs[peer] = partial(without_plan, run, x, k, threads)
    return Case(name, x, k, queries, searched, programs)


def cases(options: argparse.Namespace, other_blas: OtherBlas | None) -> Iterator[Case]:
    """The cases asked for, made one at a time."""
    n, threads = options.rows, options.threads
    make_case = partial(make_case_of, other_blas=other_blas)
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
    if "isotropic" in wanted:
        yield make_case("isotropic Gaussian", data.gauss(n), threads)
    if "duplicates" in wanted:
        x = make("smollm2:embedding")
        yield make_case("layer 0, keep", x, threads)
        yield make_case("layer 0, collapse", x, threads, duplicates="collapse")
    if "wide" in wanted:
        few = min(n, 20_000)
        yield make_case("MLP activations", data.make("mlp:19", few, options.cache), threads)
        for sites in (4, 8):
            parts = [make(f"smollm2:{block}")[:few] for block in range(30 - sites, 30)]
            yield make_case(f"{sites} sites side by side", np.hstack(parts), threads)
    if "peers" in wanted:
        yield make_case("block 20, other programs", make("smollm2:19"), threads, others=True)
    if {"queries", "growth"} & set(wanted):
        x = data.make("smollm2:19", max(n, GROWTH[-1] if n == 50_000 else n), options.cache)
    if "queries" in wanted:
        chosen = np.sort(np.random.default_rng(0).choice(len(x), 2000, replace=False))
        yield make_case("block 20, 2,000 queries", x, threads, queries=chosen, prepared=True)
    if "growth" in wanted:
        for rows in (rows for rows in GROWTH if rows <= len(x)):
            yield make_case(f"{tables.GROWTH_NAME}{rows:,} rows", x[:rows], threads)


def validate(case: Case) -> None:
    """Raise AssertionError if a distance of fastdim is off by more than TOLERANCE."""
    asked = np.arange(len(case.searched)) if case.queries is None else case.queries
    checked = np.random.default_rng(1).choice(len(asked), min(CHECKED, len(asked)), replace=False)
    expected = naive.knn(case.searched, case.k, asked[checked])[0]
    for program, run in case.programs.items():
        if program.startswith("fastdim"):
            np.testing.assert_allclose(run()[0][checked], expected, rtol=TOLERANCE)


def measure(case: Case, repeats: int) -> list[tables.Line]:
    """Seconds and peak memory of every program, in turns."""
    names = [name for name in ("faiss.knn", tables.OTHER_BLAS) if name in case.programs]
    plans: dict[str, Any] = {}

    def distances(program: str) -> Distances:
        found, plans[program] = case.programs[program]()
        return found

    programs: dict[str, Callable[[], Any]] = {
        program: partial(distances, program) for program in case.programs
    }
    lines, _ = in_turns(case.name, case.x, programs, repeats, names, (tables.OTHER_BLAS,))
    for line in lines:
        plan = plans[line.program] or {}
        line.plan = " ".join(str(plan[key]) for key in PLAN if plan.get(key, "") != "")
    return lines


def main() -> None:
    """Print the table; raises AssertionError if fastdim is wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", default=",".join(CASES), help="comma separated; '' for none")
    parser.add_argument("--files", nargs="*", default=[], help=".npy files, each a case of its own")
    parser.add_argument("--rows", type=int, default=50_000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--cache", type=Path, default=Path(".benchmarks"))
    parser.add_argument("--output", type=Path, help="folder of the results kept")
    options = parser.parse_args()
    unknown = set(filter(None, options.cases.split(","))) - set(CASES)
    if unknown:
        parser.error(f"unknown cases {sorted(unknown)}; there are: {', '.join(CASES)}")
    # Read when FAISS loads its BLAS: see worker.environment.
    if core := fastest_core():
        os.environ["OPENBLAS_CORETYPE"] = core
    import faiss  # before anything is timed

    faiss.omp_set_num_threads(options.threads)
    print(f"{device()}; commit {commit()}; {options.threads} threads; {options.repeats} runs each")
    print(tables.HEADER, flush=True)
    other_blas = OtherBlas(OTHER_CORE, options.threads) if core == "SkylakeX" else None
    try:
        for case in cases(options, other_blas):
            validate(case)
            lines = measure(case, options.repeats)
            print("\n".join(map(tables.printed, lines)), flush=True)
            if options.output:
                tables.keep(lines, options.output, device(), options.threads)
    finally:
        if other_blas:
            other_blas.close()


if __name__ == "__main__":
    main()
