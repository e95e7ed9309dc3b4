"""Bias and spread of every estimator of intrinsic dimension, one factor at a time.

    make study-estimators          # under 20 minutes on 2 cores; started again, it goes on

Each set of rows is one line a value in .benchmarks/study/values.csv, written as it is found.
study_page.py makes benchmarks/results/study_estimators.csv, docs/study-estimators.md and its
figures of them. Seeds: set number s of a case draws from numpy's default_rng of (s, d, n) alone,
so cases differ in nothing else.
"""

from __future__ import annotations

import argparse
import csv
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from shapes import ball, gaussian, sphere, torus
from study_page import write_page
from threadpoolctl import threadpool_limits

import fastdim
from fastdim import InputError, Neighbors

Array = NDArray[np.float64]
COLUMNS = 100
DIMENSIONS = (2, 5, 10, 20, 50, 100)
WIDE = 64  # columns that noise fills


@dataclass(frozen=True)
class Case:
    """One set of rows: which factor is studied, the generator, d, n, the factor's level, a seed."""

    factor: str
    generator: str
    d: int
    n: int
    level: float
    seed: int

    @property
    def key(self) -> tuple[str, ...]:
        return tuple(str(value) for value in vars(self).values())


# Of (rows, their 100 nearest neighbours). The second group costs many searches or rounds.
FAST: dict[str, Callable[[Array, Neighbors], Any]] = {
    "twonn": lambda x, r: fastdim.twonn(r),
    "gride 4": lambda x, r: fastdim.gride(r, 4),
    "gride 16": lambda x, r: fastdim.gride(r, 16),
    "gride 50": lambda x, r: fastdim.gride(r, 50),
    "levina_bickel": lambda x, r: fastdim.levina_bickel(r),
    "mom": lambda x, r: fastdim.mom(r),
    "mada": lambda x, r: fastdim.mada(r),
    "mind_ml": lambda x, r: fastdim.mind_ml(r),
    "tle": lambda x, r: fastdim.tle(x, neighbors=r),
    "ess": lambda x, r: fastdim.ess(x, neighbors=r),
    "abide": lambda x, r: fastdim.abide(r),
    "lpca": lambda x, r: fastdim.lpca(x, jackknife=0),
}
SLOW: dict[str, Callable[[Array, Neighbors], Any]] = {
    "corrint": lambda x, r: fastdim.corrint(x, threads=1),
    "fishers": lambda x, r: fastdim.fishers(x, threads=1),
    "geomle": lambda x, r: fastdim.geomle(x, threads=1),
    "knn_graph": lambda x, r: fastdim.knn_graph(x, draws=2, threads=1),
    "ph_dimension": lambda x, r: fastdim.ph_dimension(x, draws=2, threads=1),
}
ESTIMATORS = (*FAST, *SLOW, "danco")
SLOW_SEEDS = 2


def cube(n: int, d: int, rng: np.random.Generator) -> Array:
    """Uniform in the unit cube."""
    return rng.random((n, d))


def spirals(n: int, d: int, rng: np.random.Generator) -> Array:
    """Nonlinear embedding of the cube in 2 d columns: coordinates become turns of a spiral."""
    t = rng.random((n, d))
    angle = 2 * np.pi * t
    return np.concatenate([(1 + t) * np.cos(angle), (1 + t) * np.sin(angle)], axis=1)


GENERATORS: dict[str, Callable[[int, int, np.random.Generator], Array]] = {
    "ball": ball,
    "cube": cube,
    "torus": torus,
    "sphere": sphere,
    "Gaussian": gaussian,
    "spirals": spirals,
}


def nearest(x: Array) -> float:
    """Median distance to the nearest neighbour."""
    return float(np.median(fastdim.knn(x, 1, threads=1).distances))


def noisy(x: Array, level: float, rng: np.random.Generator) -> Array:
    """x in 64 columns, plus normal noise whose length is `level` nearest-neighbour distances."""
    wide = np.zeros((len(x), WIDE))
    wide[:, : x.shape[1]] = x
    return np.asarray(wide + level * nearest(x) / np.sqrt(WIDE) * rng.standard_normal(wide.shape))


def copied(x: Array, share: float, rng: np.random.Generator) -> Array:
    """x with a share of its rows replaced by exact copies of others."""
    count = round(share * len(x))
    order = rng.permutation(len(x))
    x[order[:count]] = x[rng.choice(order[count:], count)]
    return x


def nearly_copied(x: Array, share: float, rng: np.random.Generator) -> Array:
    """The same with copies moved by a thousandth of the distance to the nearest neighbour."""
    moved = 1e-3 * nearest(x) / np.sqrt(x.shape[1])
    count = round(share * len(x))
    order = rng.permutation(len(x))
    x[order[:count]] = x[rng.choice(order[count:], count)]
    x[order[:count]] += moved * rng.standard_normal((count, x.shape[1]))
    return x


def dense_corner(x: Array, level: float, rng: np.random.Generator) -> Array:
    """The unit cube with its density falling by exp(level) along each coordinate."""
    return np.asarray(np.log1p(x * np.expm1(level)) / level)


def two_scales(x: Array, level: float, rng: np.random.Generator) -> Array:
    """Half of the rows shrunk by 10^level and moved away."""
    x[::2] = x[::2] * 10.0**-level + 3.0
    return x


CHANGES: dict[str, Callable[[Array, float, np.random.Generator], Array]] = {
    "noise": noisy,
    "copies": copied,
    "near copies": nearly_copied,
    "gradient": dense_corner,
    "two scales": two_scales,
}


def cases() -> list[Case]:
    """Every set of rows of the study, the costly ones first."""
    found = []
    for generator in GENERATORS:
        found += [Case("d", generator, d, 2000, 0.0, s) for d in DIMENSIONS for s in range(5)]
    for n, seeds in ((500, 10), (2000, 5), (10000, 2), (50000, 2)):
        for d in (2, 5, 10, 20, 50):
            found += [Case("n", "Gaussian", d, n, 0.0, s) for s in range(seeds)]
    for d in (5, 20):
        for level in (0.0, 0.1, 0.3, 1.0, 3.0):
            found += [Case("noise", "cube", d, 2000, level, s) for s in range(5)]
    for level in (0.0, 0.01, 0.1, 0.5):
        found += [Case("copies", "cube", 5, 2000, level, s) for s in range(5)]
    for level in (0.01, 0.05, 0.1, 0.2):
        found += [Case("near copies", "cube", 5, 2000, level, s) for s in range(5)]
    for level in (1.0, 2.0, 4.0):
        found += [Case("gradient", "cube", 5, 2000, level, s) for s in range(5)]
    for level in (1.0, 2.0):
        found += [Case("two scales", "cube", 5, 2000, level, s) for s in range(5)]
    return sorted(found, key=lambda case: -case.n)


def rows_of(case: Case) -> Array:
    """The rows of a case."""
    rng = np.random.default_rng([case.seed, case.d, case.n])
    x = GENERATORS[case.generator](case.n, case.d, rng)
    # The number of columns says nothing about d.
    x = np.pad(x, ((0, 0), (0, max(0, 2 * case.d + 8 - x.shape[1]))))
    return CHANGES[case.factor](x, case.level, rng) if case.factor in CHANGES else x


def estimators_of(case: Case) -> dict[str, Callable[[Array, Neighbors], Any]]:
    """What is run on the case."""
    chosen = dict(FAST)
    if case.seed < SLOW_SEEDS:
        chosen.update(SLOW)
        largest = 2 * case.d + 8
        chosen["danco"] = lambda x, r: fastdim.danco(x, neighbors=r, largest=largest, threads=1)
    return chosen


def values(case: Case) -> dict[str, float]:
    """Value of every estimator that is run on the case; nan where it refuses the rows."""
    found = {}
    with threadpool_limits(1):
        x = rows_of(case)
        near = fastdim.knn(x, COLUMNS, duplicates="collapse", threads=1)
        for name, estimator in estimators_of(case).items():
            try:
                found[name] = float(estimator(x, near))
            except InputError as error:
                print(f"{case}: {name} refuses: {error}", flush=True)
                found[name] = float("nan")
    return found


HEAD = ("factor", "generator", "d", "n", "level", "seed", "estimator", "value")


def whole_cases(path: Path) -> list[dict[str, str]]:
    """Lines of cases that are there with every estimator: a killed run may leave a part of one."""
    if not path.exists():
        return []
    text = path.read_text(encoding="utf-8")
    lines = list(csv.DictReader(text[: text.rfind("\n") + 1].splitlines()))
    found: dict[tuple[str, ...], set[str]] = defaultdict(set)
    for line in lines:
        found[key_of(line)].add(line["estimator"])
    whole = {case.key for case in cases() if found[case.key] == set(estimators_of(case))}
    return [line for line in lines if key_of(line) in whole]


def key_of(line: dict[str, str]) -> tuple[str, ...]:
    """`Case.key` of a line."""
    return tuple(line[name] for name in HEAD[:6])


def run(folder: Path, workers: int) -> list[dict[str, str]]:
    """Compute what is missing; every line."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "values.csv"
    lines = whole_cases(path)
    done = {key_of(line) for line in lines}
    missing = [case for case in cases() if case.key not in done]
    print(f"{len(done)} sets of rows known, {len(missing)} to go", flush=True)
    start = time.perf_counter()
    part = path.with_suffix(".part")  # so that no moment leaves less than there was
    with part.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, HEAD)
        writer.writeheader()
        writer.writerows(lines)
    part.replace(path)
    with path.open("a", encoding="utf-8", newline="") as file, ProcessPoolExecutor(workers) as pool:
        writer = csv.DictWriter(file, HEAD)
        for number, (case, found) in enumerate(
            zip(missing, pool.map(values, missing), strict=True), 1
        ):
            for name, value in found.items():
                line = dict(zip(HEAD, (*case.key, name, repr(value)), strict=True))
                writer.writerow(line)
                lines.append(line)
            file.flush()
            if number % 20 == 0:
                print(f"{number} sets, {time.perf_counter() - start:.0f} s", flush=True)
    print(f"{time.perf_counter() - start:.0f} s in all", flush=True)
    return lines


def main(arguments: list[str] | None = None) -> int:
    """Compute, then write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path(".benchmarks/study"))
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--root", type=Path, default=Path(__file__).resolve().parent.parent)
    options = parser.parse_args(arguments)
    write_page(run(options.folder, options.workers), list(ESTIMATORS), options.root)
    return 0


if __name__ == "__main__":
    sys.exit(main())
