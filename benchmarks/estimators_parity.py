"""Estimators against DADApy 0.3.4, which needs numpy < 2, and torchid 0.5.1's path for the CPU.

    make parity          # in the environment of `make bench`

DADApy on four made sets and five layers of SmolLM2-135M, torchid on these but the grid and on the
24 manifolds of scikit-dimension, all in float64. Prints one line a comparison and exits 1 if any
differs by more than its tolerance.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import io
import sys
import warnings
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from data import hidden_states
from numpy.typing import NDArray
from shapes import sphere

import fastdim
from fastdim import compat
from fastdim.errors import require

Matrix = NDArray[np.float64]

K_MAX = 100
OVERLAP = 30
BLOCKS = (0, 7, 14, 21, 29)
TORCHID: dict[str, Callable[[Matrix], fastdim.Estimate]] = {
    "TwoNN": lambda x: fastdim.twonn(x, compat="torchid"),
    "MLE": fastdim.levina_bickel,
    "MOM": fastdim.mom,
    "MADA": fastdim.mada,
    "TLE": fastdim.tle,
    "ESS": fastdim.ess,
}


def layers(rows: int, cache: Path) -> dict[str, Matrix]:
    """Distinct rows of five blocks."""
    found = {}
    for block in BLOCKS:
        x = hidden_states(block, 3 * rows, cache).astype(np.float64)
        found[f"block {block}"] = np.unique(x, axis=0)[:rows]
    return found


def manifolds() -> dict[str, Matrix]:
    """The 24 of scikit-dimension, 250 rows each."""
    from skdim.datasets import BenchmarkManifolds

    made = BenchmarkManifolds(random_state=0).generate(n=250)
    return {name: np.asarray(x, dtype=np.float64) for name, x in made.items()}


def with_torchid(data: dict[str, Matrix]) -> Iterator[tuple[str, float, float, float]]:
    """(what, ours, theirs, tolerance)."""
    torch, torchid = require("torch", "models"), importlib.import_module("torchid.estimators")
    for place, x in data.items():
        tensor = torch.from_numpy(x)
        for name, ours in TORCHID.items():
            theirs = float(getattr(torchid, name)().fit(tensor).dimension_)
            # Its distances come from products, which massive rows round.
            tolerance = 1e-5 if place.startswith("block") else 1e-6
            yield f"torchid {name}, {place}", ours(x).value, theirs, tolerance


def matrices(rows: int) -> dict[str, Matrix]:
    """A sphere, a cube, a bent image of it and a grid, in float64 so that nobody rounds."""
    rng = np.random.default_rng(0)
    round_ = sphere(rows, 10, rng)
    cube = rng.random((rows, 3)) @ rng.standard_normal((3, 10))
    bent = np.tanh(cube @ rng.standard_normal((10, 7)))
    # Ties, which DADApy counts at no length.
    grid = np.unique(rng.integers(0, 12, (rows, 4)).astype(np.float64), axis=0)
    return {"sphere": round_, "cube": cube, "bent": bent, "grid": grid}


def comparisons(data: dict[str, Matrix]) -> Iterator[tuple[str, float, float, float]]:
    """(what, ours, theirs, tolerance)."""
    from dadapy import Data
    from dadapy.metric_comparisons import MetricComparisons

    for name, x in data.items():
        theirs = Data(coordinates=x, maxk=len(x) - 1, verbose=False, n_jobs=1)
        scaling = theirs.return_id_scaling_gride(range_max=256)[0]
        for place, value in enumerate(scaling):
            n1 = 1 << place
            ours = fastdim.gride(x, n1, compat="dadapy").value
            yield f"Gride({n1}, {2 * n1}), {name}", ours, float(value), 1e-6
        for algorithm, method in (("base", "linear"), ("ml", "mle")):
            value = theirs.compute_id_2NN(algorithm=algorithm)[0]
            ours = fastdim.twonn(x, compat="dadapy", method=method).value
            yield f"TwoNN {algorithm}, {name}", ours, float(value), 1e-6
        # Given our neighbours it must say what it says with its own.
        given = Data(distances=compat.to_dadapy(fastdim.knn(x, 512)), maxk=512, verbose=False)
        for place, other in enumerate(given.return_id_scaling_gride(range_max=256)[0]):
            yield (
                f"our neighbours, scale {place}, {name}",
                float(other),
                float(scaling[place]),
                1e-6,
            )
        value = given.compute_id_2NN(algorithm="base")[0]
        other = theirs.compute_id_2NN(algorithm="base")[0]
        yield f"our neighbours, 2NN, {name}", float(value), float(other), 1e-6
        value = theirs.compute_id_2NN_wprior()[0]
        ours = fastdim.twonn(x, compat="dadapy", method="bayes").value
        yield f"TwoNN Bayes, {name}", ours, float(value), 1e-6
        if name == "grid":
            continue  # k* of ties hangs on their rounding
        scale = Data(coordinates=x, maxk=K_MAX, verbose=False, n_jobs=1)
        with contextlib.redirect_stdout(io.StringIO()):
            found = scale.return_ids_kstar_binomial(n_iter=20)
        stars = fastdim.k_star(x, float(found[0][-1]), K_MAX)
        yield f"k*, {name}", float(stars.mean()), float(found[2][-1].mean()), 1e-3
        yield f"ABIDE, {name}", fastdim.abide(x, K_MAX).value, float(found[0][-1]), 5e-3
    x, y = data["cube"], data["bent"]
    both = MetricComparisons(coordinates=x, maxk=len(x) - 1, n_jobs=1)
    ours = fastdim.neighborhood_overlap(x, y, OVERLAP).value
    yield "overlap", ours, float(both.return_data_overlap(coordinates=y, k=OVERLAP)), 1e-6
    there, back = (float(v[0]) for v in both.return_information_imbalace(y, subset_size=len(x)))
    yield "imbalance, cube to bent", fastdim.information_imbalance(x, y).value, there, 1e-6
    yield "imbalance, bent to cube", fastdim.information_imbalance(y, x).value, back, 1e-6


def main(arguments: list[str] | None = None) -> int:
    """Print the comparisons; 1 if one fails."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1000)
    parser.add_argument("--cache", type=Path, default=Path(".benchmarks"))
    options = parser.parse_args(arguments)
    rows = options.rows
    failed = 0
    data = matrices(rows) | layers(rows, options.cache)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of DADApy and of what it imports
        distances_differ = {name: x for name, x in data.items() if name != "grid"} | manifolds()
        both = chain(comparisons(data), with_torchid(distances_differ))
        for what, ours, theirs, tolerance in both:
            error: Any = abs(ours / theirs - 1.0)
            good = bool(error <= tolerance)
            failed += not good
            print(f"{'ok  ' if good else 'FAIL'} {what:32} {ours:.9f} {theirs:.9f} {error:.1e}")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
