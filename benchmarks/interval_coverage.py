"""How often 95 % intervals of the neighbour-based estimators hold what they are about.

    make coverage          # all of it, about 20 minutes on 2 cores
    .venv/bin/python benchmarks/interval_coverage.py --sets 100 --parts tori --output FILE.md

ideal:    independent rows from each model's own law; the true d.
tori:     every row of a uniform set on a flat torus, through the search; the mean over all sets.
curved:   the same on a sphere, a helicoid sheet and a Gaussian, which have curvature or borders.
subsets:  every row of random subsets of a layer's rows; the mean over all subsets.
sampled:  500 query rows against all rows of a layer; the value of all queries.
"""

from __future__ import annotations

import argparse
import dataclasses
import platform
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from datetime import datetime, timezone
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from data import hidden_states
from numpy.typing import NDArray
from shapes import gaussian, sphere, torus

import fastdim
from fastdim import Neighbors

Array = NDArray[np.float64]
Matrix = NDArray[Any]
Estimator = Callable[[Matrix, Neighbors], Any]

# Of (rows, 50 neighbours): a search of its own is made by corrint alone.
ESTIMATORS: dict[str, Estimator] = {
    "twonn": lambda x, r: fastdim.twonn(r),
    "twonn mle": lambda x, r: fastdim.twonn(r, method="mle"),
    "twonn linear": lambda x, r: fastdim.twonn(r, method="linear"),
    "twonn bayes": lambda x, r: fastdim.twonn(r, method="bayes"),
    "twonn ideal": lambda x, r: fastdim.twonn(r, interval="ideal"),
    "gride 1": lambda x, r: fastdim.gride(r),
    "gride 4": lambda x, r: fastdim.gride(r, 4),
    "gride 16": lambda x, r: fastdim.gride(r, 16),
    "gride 4 fisher": lambda x, r: fastdim.gride(r, 4, interval="fisher"),
    "levina_bickel 10": lambda x, r: fastdim.levina_bickel(r, 10),
    "levina_bickel 20": lambda x, r: fastdim.levina_bickel(r, 20),
    "levina_bickel 20 median": lambda x, r: fastdim.levina_bickel(r, 20, average="median"),
    "mom 20": lambda x, r: fastdim.mom(r, 20),
    "mom 50": lambda x, r: fastdim.mom(r, 50),
    "mada 20": lambda x, r: fastdim.mada(r, 20),
    "mind_ml 10": lambda x, r: fastdim.mind_ml(r, 10),
    "mind_ml 20": lambda x, r: fastdim.mind_ml(r, 20),
    "tle 20": lambda x, r: fastdim.tle(x, 20, neighbors=r),
    "ess 30": lambda x, r: fastdim.ess(x, 30, neighbors=r),
    "abide 50": lambda x, r: fastdim.abide(r, 50),
    "corrint 10, 20": lambda x, r: fastdim.corrint(x, 10, 20),
}
ALL_ROWS = ("abide 50", "corrint 10, 20")  # these take no sample of queries
COLUMNS = 50
QUERIES = 500
LAYERS: tuple[int | None, ...] = (20, 9, None)


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


def drawn_set(seed: int, shape: str, rows: int) -> list[tuple[float, float, float, float]]:
    """Value, ends and error of every estimator on one set of a shape."""
    maker, d = SHAPES[shape]
    return measured(maker(rows, d, np.random.default_rng([seed, d])))


def measured(x: Matrix) -> list[tuple[float, float, float, float]]:
    """Value, ends and error of every estimator on every row of x."""
    near = fastdim.knn(x, COLUMNS, duplicates="collapse", threads=1)
    found = [estimator(x, near) for estimator in ESTIMATORS.values()]
    return [(e.value, e.lower, e.upper, e.stderr) for e in found]


@lru_cache(maxsize=1)
def layer_rows(layer: int | None, pool: int, cache: Path) -> Matrix:
    """A layer's rows, read once a process."""
    return hidden_states(layer, pool, cache)


def subset(seed: int, layer: int | None, rows: int, pool: int, cache: Path) -> Any:
    """The same on a random subset of a layer's rows."""
    x = layer_rows(layer, pool, cache)
    return measured(x[np.random.default_rng(seed).permutation(pool)[:rows]])


def sampled(seed: int, layer: int | None, pool: int, cache: Path) -> Any:
    """The same of sampled queries; nan of estimators that take every row."""
    x = layer_rows(layer, pool, cache)
    near = fastdim.knn(x, COLUMNS, queries=QUERIES, seed=seed, duplicates="collapse", threads=1)
    nothing = (np.nan,) * 4
    return [
        nothing if name in ALL_ROWS else tuple(getattr(estimator(x, near), part) for part in PARTS)
        for name, estimator in ESTIMATORS.items()
    ]


PARTS = ("value", "lower", "upper", "stderr")


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


def ideal_set(seed: int, d: float, rows: int) -> list[tuple[float, ...]]:
    """Value, ends and error of those estimators that read distances alone."""
    near = ideal_neighbors(rows, d, np.random.default_rng([seed, rows]))
    wanted = [name not in (*ALL_ROWS, "tle 20", "ess 30") for name in ESTIMATORS]
    return [
        tuple(getattr(estimator(np.zeros((1, 2)), near), part) for part in PARTS)
        if take
        else (np.nan,) * 4
        for estimator, take in zip(ESTIMATORS.values(), wanted, strict=True)
    ]


def spread(task: Callable[[int], Any], sets: int, workers: int) -> Array:
    """Results (sets, estimators, 4) of seeds 0, 1, ..., by processes."""
    with ProcessPoolExecutor(workers) as pool:
        return np.array(list(pool.map(task, range(sets), chunksize=8)), dtype=np.float64)


def shares(found: Array, truth: Array) -> tuple[Array, Array]:
    """Share of intervals that hold the truth (estimators,), and mean error over the true spread."""
    inside = (found[:, :, 1] <= truth) & (truth <= found[:, :, 2])
    ratio = found[:, :, 3].mean(axis=0) / found[:, :, 0].std(axis=0, ddof=1)
    return np.where(np.isnan(found[0, :, 0]), np.nan, inside.mean(axis=0)), ratio


def columns(options: argparse.Namespace) -> Iterator[tuple[str, str, int, Array, Array]]:
    """Part, title, sets, shares and ratios of each column of the table."""
    run = partial(spread, sets=options.sets, workers=options.workers)
    if "ideal" in options.parts:
        found = run(partial(ideal_set, d=12.0, rows=options.rows))
        # The arithmetic mean of local values is off by a known factor: its own mean is the target.
        yield "ideal", "ideal model", len(found), *shares(found, found[:, :, 0].mean(axis=0))
    for shape in SHAPES:
        part = "tori" if shape.startswith("torus") else "curved"
        if part in options.parts:
            sets = options.sets if part == "tori" else min(options.sets, 300)
            found = spread(
                partial(drawn_set, shape=shape, rows=options.rows), sets, options.workers
            )
            yield part, shape, len(found), *shares(found, found[:, :, 0].mean(axis=0))
    for layer in LAYERS:
        name = "embedding" if layer is None else f"block {layer}"
        if not {"subsets", "sampled"} & set(options.parts):
            continue
        x = hidden_states(layer, options.pool, options.cache)
        if "sampled" in options.parts:
            truth = np.array([value for value, *_ in measured(x)])
            task = partial(sampled, layer=layer, pool=options.pool, cache=options.cache)
            found = spread(task, min(options.sets, 200), options.workers)
            yield "sampled", name, len(found), *shares(found, truth)
        if "subsets" in options.parts:
            task = partial(
                subset, layer=layer, rows=options.rows, pool=options.pool, cache=options.cache
            )
            found = spread(task, min(options.sets, 200), options.workers)
            yield "subsets", name, len(found), *shares(found, found[:, :, 0].mean(axis=0))


def main(arguments: list[str] | None = None) -> int:
    """Measure, print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sets", type=int, default=1000)
    parser.add_argument("--rows", type=int, default=1000)
    parser.add_argument("--pool", type=int, default=8000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument(
        "--parts", nargs="+", default=["ideal", "tori", "curved", "subsets", "sampled"]
    )
    parser.add_argument("--cache", type=Path, default=Path(".benchmarks"))
    parser.add_argument("--output", type=Path)
    options = parser.parse_args(arguments)
    start = time.perf_counter()
    table: dict[str, list[str]] = {name: [] for name in ESTIMATORS}
    titles = []
    for part, title, sets, covered, ratio in columns(options):
        titles.append(f"{title}{', ' + part if part in ('subsets', 'sampled') else ''} ({sets})")
        for name, share, factor in zip(ESTIMATORS, covered, ratio, strict=True):
            table[name].append("" if np.isnan(share) else f"{share:.3f} ({factor:.2f})")
        print(f"{titles[-1]}: {time.perf_counter() - start:.0f} s so far", flush=True)
        for name, cells in table.items():
            print(f"  {name:24s} {cells[-1]}", flush=True)
    today = datetime.now(timezone.utc).date()
    lines = [
        f"{platform.machine()}, fastdim {fastdim.__version__}, numpy {np.__version__}, {today}; "
        f"sets of {options.rows:,} rows, layers of SmolLM2-135M with {options.pool:,} rows. Share "
        "of 95 % intervals that hold the target; in brackets mean stderr over the true spread; in "
        "the head the number of sets.",
        "",
        f"| estimator | {' | '.join(titles)} |",
        f"|---|{'---|' * len(titles)}",
        *(f"| {name} | {' | '.join(cells)} |" for name, cells in table.items()),
    ]
    if options.output is not None:
        options.output.parent.mkdir(parents=True, exist_ok=True)
        options.output.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
