"""Estimators against DADApy 0.3.4, which needs numpy < 2: run in the environment of `make bench`.

    .venv-bench/bin/python benchmarks/estimators_parity.py

Prints one line a comparison and exits 1 if any differs by more than its tolerance.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import sys
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

import fastdim
from fastdim import compat

Matrix = NDArray[np.float64]

K_MAX = 100
OVERLAP = 30


def matrices(rows: int) -> dict[str, Matrix]:
    """A sphere, a cube and a bent image of it, in float64 so that nobody rounds."""
    rng = np.random.default_rng(0)
    sphere = rng.standard_normal((rows, 11))
    sphere /= np.linalg.norm(sphere, axis=1, keepdims=True)
    cube = rng.random((rows, 3)) @ rng.standard_normal((3, 10))
    return {"sphere": sphere, "cube": cube, "bent": np.tanh(cube @ rng.standard_normal((10, 7)))}


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
    rows = parser.parse_args(arguments).rows
    failed = 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of DADApy and of what it imports
        for what, ours, theirs, tolerance in comparisons(matrices(rows)):
            error: Any = abs(ours / theirs - 1.0)
            good = bool(error <= tolerance)
            failed += not good
            print(f"{'ok  ' if good else 'FAIL'} {what:28} {ours:.9f} {theirs:.9f} {error:.1e}")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
