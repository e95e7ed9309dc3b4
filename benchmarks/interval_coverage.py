"""How often 95 % intervals of the neighbour-based estimators hold what they are about.

    make coverage          # all of it, tens of minutes on 2 cores
    make coverage BENCH_ARGS="--costly 1000"  # as many sets of the four costly estimators
    .venv/bin/python benchmarks/interval_coverage.py --sets 100 --parts tori --output FILE.md

ideal:    independent rows from each model's own law.
tori:     every row of a uniform set on a flat torus, through the search; the mean over all sets.
curved:   the same on a sphere, a helicoid sheet and a Gaussian, which have curvature or borders.
subsets:  every row of random subsets of a layer's rows; the mean over all subsets.
sampled:  500 query rows against all rows of a layer; the value of all queries. Three tables: drawn
          by a count ("far rows in proportion", the default of `knn` and of sweeps), plainly, and by
          `stratified_queries`.
between:  overlap and imbalance of two layers, every row of a torus; the mean over all sets.
documents: the same with `groups`, documents of rows that lie together.

Factors of the intervals were chosen on other seeds: sets here begin at seed 3,000,000.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import platform
import sys
import time
import zlib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from data import hidden_states
from numpy.typing import NDArray
from shapes import ball, gaussian, sphere, torus
from threadpoolctl import threadpool_limits
from worker import today

import fastdim
from fastdim import InputError, Neighbors

Array = NDArray[np.float64]
Matrix = NDArray[Any]
Values = tuple[float, float, float, float]
Estimator = Callable[[Matrix, Neighbors], Any]

# Of (rows, 50 neighbours); the last six look at rows alone.
ESTIMATORS: dict[str, Estimator] = {
    "twonn": lambda x, r: fastdim.twonn(r),
    "twonn mle": lambda x, r: fastdim.twonn(r, method="mle"),
    "twonn linear": lambda x, r: fastdim.twonn(r, method="linear"),
    "twonn bayes": lambda x, r: fastdim.twonn(r, method="bayes"),
    "twonn ideal": lambda x, r: fastdim.twonn(r, interval="ideal"),
    "gride 1": lambda x, r: fastdim.gride(r),
    "gride 4": lambda x, r: fastdim.gride(r, 4),
    "gride 16": lambda x, r: fastdim.gride(r, 16),
    "gride 1, 5": lambda x, r: fastdim.gride(r, 1, 5),
    "gride 4, 10": lambda x, r: fastdim.gride(r, 4, 10),
    "gride 16, 24": lambda x, r: fastdim.gride(r, 16, 24),
    "gride 4 fisher": lambda x, r: fastdim.gride(r, 4, interval="fisher"),
    "gride 16 jackknife": lambda x, r: fastdim.gride(r, 16, interval="jackknife"),
    "levina_bickel 10": lambda x, r: fastdim.levina_bickel(r, 10),
    "levina_bickel 20": lambda x, r: fastdim.levina_bickel(r, 20),
    "levina_bickel 20 median": lambda x, r: fastdim.levina_bickel(r, 20, average="median"),
    "levina_bickel 20 mean": lambda x, r: fastdim.levina_bickel(r, 20, average="mean"),
    "mom 20": lambda x, r: fastdim.mom(r, 20),
    "mom 20 harmonic": lambda x, r: fastdim.mom(r, 20, average="harmonic"),
    "mom 20 median": lambda x, r: fastdim.mom(r, 20, average="median"),
    "mom 50": lambda x, r: fastdim.mom(r, 50),
    "mada 20": lambda x, r: fastdim.mada(r, 20),
    "mada 20 harmonic": lambda x, r: fastdim.mada(r, 20, average="harmonic"),
    "mada 20 median": lambda x, r: fastdim.mada(r, 20, average="median"),
    "mind_ml 10": lambda x, r: fastdim.mind_ml(r, 10),
    "mind_ml 20": lambda x, r: fastdim.mind_ml(r, 20),
    "tle 20": lambda x, r: fastdim.tle(x, 20, neighbors=r),
    "tle 20 harmonic": lambda x, r: fastdim.tle(x, 20, average="harmonic", neighbors=r),
    "tle 20 median": lambda x, r: fastdim.tle(x, 20, average="median", neighbors=r),
    "ess 30": lambda x, r: fastdim.ess(x, 30, neighbors=r),
    "abide 50": lambda x, r: fastdim.abide(r, 50),
    "corrint 10, 20": lambda x, r: fastdim.corrint(x, 10, 20),
    "geomle": lambda x, r: fastdim.geomle(x),
    "knn_graph": lambda x, r: fastdim.knn_graph(x, draws=2),
    "ph_dimension": lambda x, r: fastdim.ph_dimension(x, draws=2),
    # Balls of its own for each set, as its interval allows for their draw.
    "danco": lambda x, r: fastdim.danco(x, seed=zlib.crc32(np.ascontiguousarray(x).tobytes())),
    "fishers": lambda x, r: fastdim.fishers(x),
}


def gride_at(x: Matrix, near: Neighbors, n1: int) -> Any:
    return fastdim.gride(near, n1)


# Of DEEP neighbours, for the queries of a layer alone.
OF_LAYERS: dict[str, Estimator] = {f"gride {n1}": partial(gride_at, n1=n1) for n1 in (2, 8, 32, 64)}
# These take no sample of queries.
ALL_ROWS = (
    "gride 16 jackknife",
    "abide 50",
    "corrint 10, 20",
    "geomle",
    "knn_graph",
    "ph_dimension",
    "danco",
    "fishers",
)
READS_ROWS = ("tle 20", "tle 20 harmonic", "tle 20 median", "ess 30")
COSTLY = ("geomle", "knn_graph", "ph_dimension", "danco")
FIRST_SEED = 3_000_000
NOTHING = (np.nan,) * 4
PARTS = ("ideal", "tori", "curved", "subsets", "sampled", "between", "documents")
COLUMNS = 50
DEEP = 128
QUERIES = 500
FEWER = 4
LAYERS = (1, 9, 20)
SAMPLED_LAYERS = (0, 1, 4, 9, 19, 20, 28, 29)
DRAWS = {
    "by a count (the default)": "far rows in proportion",
    "plainly": "every sample equally likely",
    "by `stratified_queries`": "evenly over the distance from the center",
}


def helicoid(n: int, d: int, rng: np.random.Generator) -> Array:
    """Rows (n, 3) of a helicoid with borders; d is 2."""
    radius, angle = rng.random(n), 6 * np.pi * rng.random(n)
    return np.column_stack([radius * np.cos(angle), radius * np.sin(angle), 0.1 * angle])


SHAPES: dict[str, tuple[Callable[[int, int, np.random.Generator], Array], int]] = {
    "torus 2": (torus, 2),
    "torus 5": (torus, 5),
    "torus 10": (torus, 10),
    "sphere 5": (sphere, 5),
    "helicoid 2": (helicoid, 2),
    "Gaussian 10": (gaussian, 10),
}

LAYER_PAIRS = ("noise 0.1", "noise 0.5", "half kept")
BETWEEN: dict[str, Callable[..., Any]] = {
    "neighborhood_overlap": partial(fastdim.neighborhood_overlap, threads=1),
    "information_imbalance": partial(fastdim.information_imbalance, threads=1),
}


def layer_pair(kind: str, n: int, d: int, rng: np.random.Generator) -> tuple[Array, Array]:
    """Rows x (n, 2 d) on a flat torus and y, the same rows in another layer."""
    x = torus(n, d, rng)
    if kind == "half kept":
        kept = np.tile(np.arange(d) < (d + 1) // 2, 2)
        return x, np.where(kept, x, torus(n, d, rng))
    return x, x + float(kind.removeprefix("noise ")) * rng.standard_normal(x.shape)


def between_set(seed: int, d: int, rows: int, first: int) -> list[Values]:
    """Value, ends and error of the default overlap and imbalance of each kind of pair."""
    found = []
    for place, kind in enumerate(LAYER_PAIRS):
        x, y = layer_pair(kind, rows, d, np.random.default_rng([first + seed, d, place]))
        found += [measure(x, y) for measure in BETWEEN.values()]
    return [(one.value, one.lower, one.upper, one.stderr) for one in found]


# Rows of a document, and how far they or the steps of a walk spread in each angle.
DOCUMENTS = {"pairs": (2, 0.02), "clumps of 5": (5, 0.15), "walks of 10": (10, 0.1)}


def documents_set(seed: int, d: int, rows: int, first: int) -> list[Values]:
    """Value, ends and error of the default overlap and imbalance of each kind of documents."""
    found = []
    for place, (kind, (size, spread)) in enumerate(DOCUMENTS.items()):
        rng = np.random.default_rng([first + seed, d, place])
        labels = np.arange(rows) // size
        off = spread * rng.standard_normal((labels[-1] + 1, size, d))
        off = off.cumsum(axis=1) if kind.startswith("walks") else off
        angle = 2.0 * np.pi * rng.random((len(off), d))[labels] + off.reshape(-1, d)[:rows]
        x = np.concatenate([np.cos(angle), np.sin(angle)], axis=1)
        y = x + 0.3 * rng.standard_normal(x.shape)
        found += [measure(x, y, groups=labels) for measure in BETWEEN.values()]
    return [(one.value, one.lower, one.upper, one.stderr) for one in found]


def drawn_set(seed: int, shape: str, rows: int, costly: int, first: int) -> list[Values]:
    """Value, ends and error of every estimator on one set of a shape."""
    maker, d = SHAPES[shape]
    x = maker(rows, d, np.random.default_rng([first + seed, d]))
    return measured(x, left_out(seed, costly))


def left_out(seed: int, costly: int) -> tuple[str, ...]:
    """Estimators that are run on the first `costly` sets alone."""
    return COSTLY if seed >= costly else ()


def measured(x: Matrix, without: tuple[str, ...]) -> list[Values]:
    """Value, ends and error of every estimator on every row of x; nan of those left out."""
    near = fastdim.knn(x, COLUMNS, duplicates="collapse", threads=1)
    return [values_of(name, x, near, without) for name in ESTIMATORS]


def values_of(name: str, x: Matrix, near: Neighbors, without: tuple[str, ...]) -> Values:
    """Value, ends and error; nan if left out, minus infinity where the rows are refused."""
    if name in without:
        return NOTHING
    try:
        found = ESTIMATORS[name](x, near)
    except InputError as error:
        print(f"{name} refuses: {error}", flush=True)
        return (-np.inf,) * 4
    return found.value, found.lower, found.upper, found.stderr


@lru_cache(maxsize=1)
def layer_rows(layer: int, pool: int, cache: Path) -> Matrix:
    """A layer's rows, read once a process."""
    return hidden_states(layer, pool, cache)


@lru_cache(maxsize=1)
def every_query(layer: int, pool: int, cache: Path) -> Neighbors:
    """DEEP neighbours of all distinct rows of a layer, searched once a process."""
    return fastdim.knn(layer_rows(layer, pool, cache), DEEP, duplicates="collapse", threads=1)


def subset(
    seed: int, layer: int, rows: int, pool: int, cache: Path, costly: int, first: int
) -> list[Values]:
    """The same on a random subset of a layer's rows."""
    x = layer_rows(layer, pool, cache)
    chosen = np.random.default_rng(first + seed).permutation(pool)[:rows]
    return measured(x[chosen], left_out(seed, costly))


def sampled(seed: int, layer: int, pool: int, cache: Path, first: int, draw: str) -> list[Values]:
    """The same of sampled queries; nan of estimators that take every row."""
    x, near = layer_rows(layer, pool, cache), every_query(layer, pool, cache)
    seed += first
    far = None
    if draw == "plainly":
        chosen = np.random.default_rng(seed).permutation(near.queries)[:QUERIES]
    elif draw == "by `stratified_queries`":
        chosen = fastdim.stratified_queries(x, QUERIES, seed=seed, threads=1)
    else:
        drawn = fastdim.knn(x, 1, queries=QUERIES, seed=seed, duplicates="collapse", threads=1)
        chosen, far = drawn.queries, drawn.far
    # A row's neighbours are the same however many queries there are.
    at = np.searchsorted(near.queries, np.sort(chosen))
    part = dataclasses.replace(
        near,
        distances=near.distances[at],
        indices=near.indices[at],
        queries=near.queries[at],
        far=far,
    )
    return [values_of(name, x, part, ALL_ROWS) for name in ESTIMATORS]


def ideal_neighbors(rows: int, d: float, rng: np.random.Generator) -> Neighbors:
    """Neighbours of independent query rows in a uniform density: r_j^d is a Poisson process."""
    radii = np.cumsum(rng.standard_exponential((rows, COLUMNS)), axis=1) ** (1.0 / d)
    frame = fastdim.knn(np.arange(2.0 * COLUMNS + 2).reshape(-1, 2), 1)
    # A few queries among very many rows, so that none shares a neighbour with another.
    return dataclasses.replace(
        frame,
        distances=radii,
        indices=np.zeros(radii.shape, dtype=np.int64),
        queries=np.arange(rows),
        n_points=1000 * rows,
        n_distinct=1000 * rows,
        duplicates="collapse",
    )


def ideal_neighborhoods(near: Neighbors, d: int, rng: np.random.Generator) -> Any:
    """Rows (m + 30 m, d) and Neighbors with those distances, each query with rows of its own."""
    radii = near.distances[:, :30]
    count, k = radii.shape
    around = rng.standard_normal((count, k, d))
    around *= (radii / np.linalg.norm(around, axis=2))[:, :, None]
    x = np.concatenate([np.zeros((count, d)), around.reshape(-1, d)])
    own = count + np.arange(count * k).reshape(count, k)
    return x, dataclasses.replace(
        near, distances=radii, indices=own, n_points=len(x), n_distinct=None
    )


def ideal_set(seed: int, d: int, rows: int, costly: int, first: int) -> list[Values]:
    """Value, ends and error of every estimator on what it assumes.

    Those that take every row assume uniform rows without borders, a torus of 3 dimensions, where
    neighbourhoods are flat; danco assumes a ball, and fishers an even sphere after whitening.
    """
    rng = np.random.default_rng([first + seed, rows])
    near = ideal_neighbors(rows, d, rng)
    x, around = ideal_neighborhoods(near, d, rng)
    flat = torus(rows, 3, rng)
    own = {"danco": ball(rows, 5, rng), "fishers": gaussian(rows, 5, rng)}
    every = fastdim.knn(flat, COLUMNS, duplicates="collapse", threads=1)
    found = []
    for name in ESTIMATORS:
        if name in ALL_ROWS:
            rows_given, known = own.get(name, flat), every
        else:
            rows_given, known = x, (around if name in READS_ROWS else near)
        found.append(values_of(name, rows_given, known, left_out(seed, costly)))
    return found


def one_thread() -> None:
    """A process a set: threads within would only wait for each other."""
    os.environ["FASTDIM_NUM_THREADS"] = "1"
    threadpool_limits(1)


def spread(task: Callable[[int], list[Values]], sets: int, workers: int) -> Array:
    """Results (sets, estimators, 4) of seeds 0, 1, ..., by processes."""
    with ProcessPoolExecutor(workers, initializer=one_thread) as pool:
        return np.array(list(pool.map(task, range(sets), chunksize=8)), dtype=np.float64)


def cells(found: Array, truth: Array | None = None) -> list[str]:
    """Of each estimator the share of intervals that hold the truth, or the mean of all values, and
    in brackets the mean error over the spread of the values."""
    lines = []
    for place in range(found.shape[1]):
        run = found[~np.isnan(found[:, place, 0]), place]
        taken = run[np.isfinite(run[:, 0])]
        if len(taken) < 2:
            lines.append("" if not len(run) else f"{len(taken)} of {len(run)} told a value")
            continue
        target = taken[:, 0].mean() if truth is None else truth[place]
        share = ((taken[:, 1] <= target) & (target <= taken[:, 2])).mean()
        ratio = taken[:, 3].mean() / taken[:, 0].std(ddof=1)
        refused = len(run) - len(taken)
        lines.append(
            f"{share:.3f} ({ratio:.2f})" + (f", {refused} of {len(run)} refused" if refused else "")
        )
    return lines


def columns(options: argparse.Namespace) -> Iterator[tuple[str, int, list[str]]]:
    """Title, sets and cells of each column of the table."""
    run = partial(spread, workers=options.workers)
    few = min(options.sets, 200)
    size = {"rows": options.rows, "costly": options.costly, "first": options.seed}
    fewer = {**size, "costly": options.costly // FEWER}  # where a set costs seconds, or is curved
    if "ideal" in options.parts:
        found = run(partial(ideal_set, d=12, **size), sets=options.sets)
        # The arithmetic mean of local values is off by a known factor: its own mean is the target.
        yield "ideal model", len(found), cells(found)
    for shape in SHAPES:
        part = "tori" if shape.startswith("torus") else "curved"
        if part in options.parts:
            sets = options.sets if part == "tori" else few
            counts = size if part == "tori" else fewer
            found = run(partial(drawn_set, shape=shape, **counts), sets=sets)
            yield shape, len(found), cells(found)
    for layer in options.layers:
        place = {"layer": layer, "pool": options.pool, "cache": options.cache}
        if "subsets" in options.parts:
            hidden_states(layer, options.pool, options.cache)
            found = run(partial(subset, **fewer, **place), sets=few)
            yield f"block {layer}, subsets", len(found), cells(found)


def samples(options: argparse.Namespace) -> Iterator[tuple[str, str, int, list[str]]]:
    """Draw, title, sets and cells of each column of the tables of sampled queries."""
    run = partial(spread, workers=options.workers)
    for layer in options.sampled_layers:
        place = {"layer": layer, "pool": options.pool, "cache": options.cache}
        x, near = layer_rows(**place), every_query(**place)
        truth = np.array([values_of(name, x, near, ALL_ROWS)[0] for name in ESTIMATORS])
        for draw in DRAWS:
            task = partial(sampled, first=options.seed, draw=draw, **place)
            found = run(task, sets=min(options.sets, 200))
            yield draw, f"block {layer}", len(found), cells(found, truth)


def pairs(
    options: argparse.Namespace, of_set: Callable[..., list[Values]]
) -> Iterator[tuple[str, int, list[str]]]:
    """Title, sets and cells of each column of a table of two layers."""
    for d in (2, 5, 10):
        task = partial(of_set, d=d, rows=options.rows, first=options.seed)
        found = spread(task, options.sets, options.workers)
        yield f"torus {d}", len(found), cells(found)


def table_of(
    columns: Iterable[tuple[str, int, list[str]]], start: float, names: Iterable[str] = ESTIMATORS
) -> list[str]:
    """Lines of one table, told while it grows."""
    table: dict[str, list[str]] = {name: [] for name in names}
    titles = []
    for title, sets, column in columns:
        titles.append(f"{title} ({sets})")
        print(f"{titles[-1]}: {time.perf_counter() - start:.0f} s so far", flush=True)
        for name, cell in zip(table, column, strict=True):
            table[name].append(cell)
            print(f"  {name:24s} {cell}", flush=True)
    told = [(name, line) for name, line in table.items() if any(line)]
    return [
        f"| estimator | {' | '.join(titles)} |",
        f"|---|{'---|' * len(titles)}",
        *(f"| {name} | {' | '.join(line)} |" for name, line in told),
    ]


def main(arguments: list[str] | None = None) -> int:
    """Measure, print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sets", type=int, default=1000)
    parser.add_argument("--costly", type=int, default=150, help=f"sets of {', '.join(COSTLY)}")
    parser.add_argument("--rows", type=int, default=1000)
    parser.add_argument("--pool", type=int, default=8000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--parts", nargs="+", default=PARTS, choices=PARTS)
    parser.add_argument("--only", nargs="+", choices=ESTIMATORS, metavar="ESTIMATOR")
    parser.add_argument("--layers", nargs="+", type=int, default=LAYERS, metavar="BLOCK")
    parser.add_argument("--sampled-layers", nargs="+", type=int, default=SAMPLED_LAYERS)
    parser.add_argument("--seed", type=int, default=FIRST_SEED, help="of the first set")
    parser.add_argument("--cache", type=Path, default=Path(".benchmarks"))
    parser.add_argument("--output", type=Path)
    options = parser.parse_args(arguments)
    for name in set(ESTIMATORS) - set(options.only or ESTIMATORS):
        del ESTIMATORS[name]
    start = time.perf_counter()
    lines = [
        f"{platform.machine()}, fastdim {fastdim.__version__}, numpy {np.__version__}, {today()}; "
        f"sets of {options.rows:,} rows, layers of SmolLM2-135M with {options.pool:,} rows. Share "
        "of 95 % intervals that hold the target; in brackets mean stderr over the true spread; in "
        f"the head the number of sets, {options.costly} at most for {', '.join(COSTLY)}, "
        f"{options.costly // FEWER} on layers and curved shapes. Seeds "
        f"from {options.seed:,} on, which served to choose no factor.",
    ]
    if set(options.parts) - {"sampled", "between", "documents"}:
        lines += ["", *table_of(columns(options), start)]
    if "sampled" in options.parts:
        if options.only is None:
            ESTIMATORS.update(OF_LAYERS)
        found = list(samples(options))
        for draw, meaning in DRAWS.items():
            lines += ["", f"{QUERIES} queries of a layer, drawn {draw}: {meaning}.", ""]
            lines += table_of((column[1:] for column in found if column[0] == draw), start)
    if "between" in options.parts:
        names = [f"{name}, {kind}" for kind in LAYER_PAIRS for name in BETWEEN]
        lines += ["", "Two layers, every row a query, with the defaults.", ""]
        lines += table_of(pairs(options, between_set), start, names)
    if "documents" in options.parts:
        names = [f"{name}, {kind}" for kind in DOCUMENTS for name in BETWEEN]
        lines += ["", "Two layers, noise 0.3, documents of rows that lie together.", ""]
        lines += table_of(pairs(options, documents_set), start, names)
    if options.output is not None:
        options.output.parent.mkdir(parents=True, exist_ok=True)
        options.output.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
