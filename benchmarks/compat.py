"""What other packages save when they are given our neighbours: results first, then times in turns.

    make compat BENCH_ARGS="--page docs/integrations.md"     # puts the table into the page
    .venv-bench/bin/python benchmarks/compat.py --rows 20000 --columns 50 768 --output FILE.md

Gaussian rows of 10 dimensions in more columns, float32. For each package the same call twice: with
its own search, and with `fastdim.knn` and the line of docs/integrations.md. Our distances are first
compared with a float64 brute force (200 rows, 1e-6), then both results with each other on all
rows; a line that is off prints no time, and the exit status is 1. Times are medians (with the
range) of `--repeats` runs of each in turns, after one run of both on 5,000 rows, which compiles
what is compiled at first use. Every BLAS chooses its kernels for itself.

--clock processor: processor seconds of all threads and of processes that ended, in place of wall
time, for a machine that others use too.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from study_page import fill
from worker import in_child, in_own_environment, processor, today

import fastdim
from fastdim import compat, naive

Matrix = NDArray[np.float32]

CLOCKS: dict[str, Callable[[], float]] = {
    "wall": time.perf_counter,
    "processor": lambda: sum(os.times()[:4]),
}
COMPILED_ROWS = 5000  # UMAP takes another way below 4,096
CHECKED_ROWS = 200
NEW_ROWS = 5000
JUDGED_ROWS = 2000


@dataclass(frozen=True)
class Case:
    """A call with its own search and with ours; how far two results are apart, and may be."""

    name: str
    alone: Callable[[Matrix], Any]
    ours: Callable[[Matrix], Any]
    apart: Callable[[Any, Any], float]
    tolerance: float


def relative(a: Any, b: Any) -> float:
    """Largest relative difference."""
    a, b = np.ravel(a).astype(np.float64), np.ravel(b).astype(np.float64)
    if a.shape != b.shape:
        return float("inf")
    return float((np.abs(a - b) / np.maximum(np.maximum(np.abs(a), np.abs(b)), 1e-12)).max())


def graph_distances(a: Any, b: Any) -> float:
    """Of two CSR graphs, beyond each row itself: theirs may give it a distance of rounding."""
    lists = [graph.data.reshape(graph.shape[0], -1)[:, 1:] for graph in (a, b)]
    return relative(*lists)


def missed(theirs: Any, ours: Any) -> float:
    """Share of our edges that the other graph lacks."""
    return 1.0 - float((theirs > 0).multiply(ours > 0).sum() / (ours > 0).sum())


def cases(threads: int) -> list[Case]:
    """What is compared, with the tolerance of the peer's own search."""
    import skdim.id as ids
    import umap
    from dadapy import Data
    from sklearn import manifold, neighbors

    from fastdim.sklearn import KNeighborsTransformer

    def gride(**data: Any) -> Any:
        return Data(maxk=64, n_jobs=threads, **data).return_id_scaling_gride(range_max=64)[0]

    def graph(x: Matrix, **options: Any) -> Any:
        made = umap.UMAP(n_neighbors=15, transform_mode="graph", n_jobs=threads, **options)
        return made.fit(x).graph_

    def embedded(x: Matrix, given: Any, **options: Any) -> float:
        """How far the places of the first rows keep neighbours; on one thread, as seeds demand."""
        placed = umap.UMAP(random_state=0, n_jobs=1, **options).fit_transform(given)
        return float(manifold.trustworthiness(x[:JUDGED_ROWS], placed[:JUDGED_ROWS]))

    def new_rows(x: Matrix, step: Any) -> Any:
        size = min(NEW_ROWS, len(x) // 4)
        return step.fit(x[size:]).transform(x[:size])

    def theirs(k: int) -> Any:
        return neighbors.KNeighborsTransformer(n_neighbors=k, n_jobs=threads)

    def mine(k: int) -> Any:
        return KNeighborsTransformer(n_neighbors=k, n_jobs=threads)

    def near(x: Matrix, k: int) -> fastdim.Neighbors:
        return fastdim.knn(x, k, threads=threads)

    return [
        Case(
            "skdim.id.MLE, 20 neighbours",
            lambda x: ids.MLE().fit(x, n_jobs=threads).dimension_,
            lambda x: (
                ids.MLE().fit(x, precomputed_knn_arrays=compat.to_skdim(near(x, 20))).dimension_
            ),
            relative,
            1e-3,
        ),
        Case(
            "skdim.id.MOM, 100 neighbours",
            lambda x: ids.MOM().fit(x, n_jobs=threads).dimension_,
            lambda x: (
                ids.MOM().fit(x, precomputed_knn_arrays=compat.to_skdim(near(x, 100))).dimension_
            ),
            relative,
            1e-3,
        ),
        Case(
            "DADApy Gride to 64 neighbours",
            lambda x: gride(coordinates=x),
            lambda x: gride(distances=compat.to_dadapy(near(x, 64))),
            relative,
            1e-3,
        ),
        Case(
            "scikit-learn, graph of 15 neighbours",
            lambda x: theirs(15).fit_transform(x),
            lambda x: mine(15).fit_transform(x),
            graph_distances,
            1e-3,
        ),
        Case(
            "scikit-learn, graph of 91 (TSNE, perplexity 30)",
            lambda x: theirs(91).fit_transform(x),
            lambda x: mine(91).fit_transform(x),
            graph_distances,
            1e-3,
        ),
        Case(
            "scikit-learn, 15 neighbours of new rows",
            lambda x: new_rows(x, theirs(15)),
            lambda x: new_rows(x, mine(15)),
            graph_distances,
            1e-3,
        ),
        Case(
            "UMAP, graph of 15 (own: approximate)",
            graph,
            lambda x: graph(x, precomputed_knn=compat.to_umap(near(x, 14))),
            missed,
            0.1,
        ),
        Case(
            "UMAP, whole embedding (apart: trustworthiness)",
            lambda x: embedded(x, x, n_neighbors=15),
            lambda x: embedded(
                x,
                KNeighborsTransformer(n_neighbors=14, symmetric=True, n_jobs=threads).fit_transform(
                    x
                ),
                n_neighbors=15,
                metric="precomputed",
            ),
            relative,
            0.05,
        ),
    ]


def gaussian(rows: int, columns: int) -> Matrix:
    """Rows of 10 dimensions in `columns` columns."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((rows, 10)) @ rng.standard_normal((10, columns))
    return np.asarray(x, dtype=np.float32)


def check_neighbors(x: Matrix) -> None:
    """Stop unless our distances are those of a float64 brute force."""
    chosen = np.random.default_rng(1).choice(len(x), CHECKED_ROWS, replace=False)
    error = relative(fastdim.knn(x, 91).distances[chosen], naive.knn(x, 91, chosen)[0])
    if error > 1e-6:
        raise SystemExit(f"fastdim.knn differs from float64 by {error:.1e}: nothing is timed")


def in_turns(
    case: Case, x: Matrix, repeats: int, clock: Callable[[], float]
) -> tuple[list[float], list[float], float]:
    """Seconds alone and with our neighbours, and how far the results are apart at most."""
    times: tuple[list[float], list[float]] = ([], [])
    worst = 0.0
    for _ in range(repeats):
        results = []
        for place, call in enumerate((case.alone, case.ours)):
            start = clock()
            results.append(call(x))
            times[place].append(clock() - start)
        worst = max(worst, case.apart(*results))
    return times[0], times[1], worst


def shown(seconds: list[float]) -> str:
    """Median and range."""
    middle = statistics.median(seconds)
    return f"{middle:.2f} ({min(seconds):.2f}-{max(seconds):.2f})"


def main(arguments: list[str] | None = None) -> int:
    """Check, measure, print and write the table; 1 if a result is off."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=20000)
    parser.add_argument("--columns", type=int, nargs="+", default=[50, 768])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--clock", choices=CLOCKS, default="wall")
    parser.add_argument("--only", nargs="*", help="parts of names")
    parser.add_argument("--output", type=Path)
    parser.add_argument("--page", type=Path, help="whose place for the table is filled")
    options = parser.parse_args(arguments)
    clock = CLOCKS[options.clock]
    unit = "Seconds" if options.clock == "wall" else "Processor seconds"
    lines = [
        f"{processor()}, {options.threads} threads, fastdim {fastdim.__version__}, {today()}. "
        f"{unit}, median (range) of {options.repeats} in turns, our search included.",
        "",
        "| call | rows | columns | its own search | our neighbours | saved | results apart |",
        "|---|---|---|---|---|---|---|",
    ]
    print("\n".join(lines))
    wrong = 0
    warnings.simplefilter("ignore")  # of the packages, at import and at work
    for columns in options.columns:
        x = gaussian(options.rows, columns)
        check_neighbors(x)
        for case in cases(options.threads):
            if options.only and not any(part in case.name for part in options.only):
                continue
            in_turns(case, x[:COMPILED_ROWS], 1, clock)
            alone, ours, apart = in_turns(case, x, options.repeats, clock)
            start = f"| {case.name} | {options.rows:,} | {columns} |"
            if apart > case.tolerance:
                wrong += 1
                line = f"{start} | | WRONG | {apart:.1e} |"
            else:
                saved = statistics.median(alone) - statistics.median(ours)
                line = f"{start} {shown(alone)} | {shown(ours)} | {saved:.1f} | {apart:.1e} |"
            print(line, flush=True)
            lines.append(line)
    if options.output:
        options.output.write_text("\n".join(lines) + "\n")
    if options.page:
        page = fill(options.page.read_text("utf-8"), {"compat": "\n".join(lines)})
        options.page.write_text(page, "utf-8")
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main() if in_child() else in_own_environment())
