"""Estimators against DADApy 0.3.4, which needs numpy < 2, and torchid 0.5.1's path for the CPU.

    make parity          # in the environment of `make bench`

Both on four made sets, five layers of SmolLM2-135M and the 24 manifolds of scikit-dimension, all in
float64; torchid not on the grid. They must agree to 1e-6; on layers torchid given distances of
differences: its own come from products, which massive rows round; with those, to 1e-5, which its
TwoNN misses where a processor multiplies otherwise (4.7e-5 on one with AMX). The k* of ABIDE
alternate at the end, within 5e-3. Where torchid differs it is compared with its definition
written out (benchmarks/torchid_formulas.py). Prints the comparisons that fail, all of them with
--all, and for each estimator how many there were and the largest difference; exits 1 if any fails.
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
from unittest import mock

import numpy as np
import torchid_formulas
from data import hidden_states
from numpy.typing import NDArray
from shapes import sphere

import fastdim
from fastdim import compat, naive
from fastdim.errors import require

Matrix = NDArray[np.float64]

K_MAX = 100
OVERLAP = 30
MANIFOLD_ROWS = 250
BLOCKS = (0, 7, 14, 21, 29)
TORCHID: dict[str, Callable[[Matrix], fastdim.Estimate]] = {
    "TwoNN": lambda x: fastdim.twonn(x, compat="torchid"),
    "MLE": fastdim.levina_bickel,
    "MOM": fastdim.mom,
    "MADA": fastdim.mada,
    "TLE": fastdim.tle,
    "ESS": fastdim.ess,
}
# Where it differs, as simulated by benchmarks/differences.py: steps of 0.001, and counts of pairs
# nearer than one of them, by products.
WRITTEN_OUT: dict[str, tuple[Callable[[Matrix], float], dict[str, int], float]] = {
    "MiND_ML": (torchid_formulas.torchid_mind_of, {"D": 200}, 1e-3),
    "CorrInt": (torchid_formulas.torchid_corrint, {}, 5e-3),
    "FisherS": (torchid_formulas.torchid_fishers, {}, 1e-6),
}
# What its lPCA decides by, as ours is named.
TORCHID_RULES = ("FO", "Fan", "maxgap", "ratio", "participation_ratio", "Kaiser", "broken_stick")


def layers(rows: int, cache: Path) -> dict[str, Matrix]:
    """Distinct rows of five blocks."""
    found = {}
    for block in BLOCKS:
        x = hidden_states(block, 3 * rows, cache).astype(np.float64)
        found[f"block {block}"] = np.unique(x, axis=0)[:rows]
    return found


def manifolds() -> dict[str, Matrix]:
    """The 24 of scikit-dimension."""
    from skdim.datasets import BenchmarkManifolds

    made = BenchmarkManifolds(random_state=0).generate(n=MANIFOLD_ROWS)
    return {name: np.asarray(x, dtype=np.float64) for name, x in made.items()}


def by_differences(x: Any, k: int) -> tuple[Any, Any]:
    """What torchid's search returns, from sums of squared differences in float64."""
    torch = require("torch", "models")
    distances, indices = naive.knn(x.numpy(), k)
    return torch.from_numpy(distances), torch.from_numpy(indices)


def with_torchid(data: dict[str, Matrix]) -> Iterator[tuple[str, float, float, float]]:
    """(what, ours, theirs, tolerance)."""
    torch, torchid = require("torch", "models"), importlib.import_module("torchid.estimators")
    for place, x in data.items():
        tensor = torch.from_numpy(x)
        for name, ours in TORCHID.items():
            value, layer = ours(x).value, place.startswith("block")
            theirs = float(getattr(torchid, name)().fit(tensor).dimension_)
            yield f"torchid {name}, {place}", value, theirs, 1e-5 if layer else 1e-6
            if layer:
                with mock.patch(f"torchid.estimators.{name.lower()}.knn", by_differences):
                    theirs = float(getattr(torchid, name)().fit(tensor).dimension_)
                yield f"torchid {name} by differences, {place}", value, theirs, 1e-6
        for name, (formula, options, tolerance) in WRITTEN_OUT.items():
            theirs = float(getattr(torchid, name)(**options).fit(tensor).dimension_)
            if np.isfinite(theirs):  # its FisherS is nan where all is separable
                yield f"torchid {name} written out, {place}", formula(x), theirs, tolerance
        for rule in TORCHID_RULES:
            theirs = float(torchid.lPCA(ver=rule).fit(tensor).dimension_)
            if rule == "broken_stick":
                theirs -= 1.0  # it counts the first component below the stick, too
            yield f"torchid lPCA {rule}, {place}", lpca(x, rule), theirs, 1e-6


def lpca(x: Matrix, rule: str) -> float:
    """Value alone: the jackknife would take 21 times as long."""
    return fastdim.lpca(x, rule, jackknife=0).value


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
            yield f"DADApy Gride({n1}, {2 * n1}), {name}", ours, float(value), 1e-6
        for algorithm, method in (("base", "linear"), ("ml", "mle")):
            value = theirs.compute_id_2NN(algorithm=algorithm)[0]
            ours = fastdim.twonn(x, compat="dadapy", method=method).value
            yield f"DADApy TwoNN {algorithm}, {name}", ours, float(value), 1e-6
        # Given our neighbours it must say what it says with its own.
        deep = min(512, len(x) - 1)
        given = Data(distances=compat.to_dadapy(fastdim.knn(x, deep)), maxk=deep, verbose=False)
        for place, other in enumerate(given.return_id_scaling_gride(range_max=256)[0]):
            yield (
                f"DADApy Gride of our neighbours, scale {place}, {name}",
                float(other),
                float(scaling[place]),
                1e-6,
            )
        value = given.compute_id_2NN(algorithm="base")[0]
        other = theirs.compute_id_2NN(algorithm="base")[0]
        yield f"DADApy TwoNN of our neighbours, {name}", float(value), float(other), 1e-6
        value = theirs.compute_id_2NN_wprior()[0]
        ours = fastdim.twonn(x, compat="dadapy", method="bayes").value
        yield f"DADApy TwoNN Bayes, {name}", ours, float(value), 1e-6
        if name == "grid":
            continue  # k* of ties hangs on their rounding
        scale = Data(coordinates=x, maxk=K_MAX, verbose=False, n_jobs=1)
        with contextlib.redirect_stdout(io.StringIO()):
            found = scale.return_ids_kstar_binomial(n_iter=20)
        stars = fastdim.k_star(x, float(found[0][-1]), K_MAX)
        yield f"DADApy k*, {name}", float(stars.mean()), float(found[2][-1].mean()), 1e-3
        yield f"DADApy ABIDE, {name}", fastdim.abide(x, K_MAX).value, float(found[0][-1]), 5e-3
    for name, x, y in pairs(data):
        both = MetricComparisons(coordinates=x, maxk=len(x) - 1, n_jobs=1)
        ours = fastdim.neighborhood_overlap(x, y, OVERLAP).value
        other = float(both.return_data_overlap(coordinates=y, k=OVERLAP))
        yield f"DADApy overlap, {name}", ours, other, 1e-6
        there, back = (float(v[0]) for v in both.return_information_imbalace(y, subset_size=len(x)))
        yield f"DADApy imbalance, {name}", fastdim.information_imbalance(x, y).value, there, 1e-6
        yield (
            f"DADApy imbalance back, {name}",
            fastdim.information_imbalance(y, x).value,
            back,
            1e-6,
        )


def pairs(data: dict[str, Matrix]) -> Iterator[tuple[str, Matrix, Matrix]]:
    """The cube and its bent image; each manifold and half of its columns, at least two."""
    yield "cube and bent", data["cube"], data["bent"]
    for name, x in data.items():
        if len(x) == MANIFOLD_ROWS:
            yield f"{name} and half", x, x[:, : max(2, x.shape[1] // 2)]


def main(arguments: list[str] | None = None) -> int:
    """Print the comparisons; 1 if one fails."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1000)
    parser.add_argument("--cache", type=Path, default=Path(".benchmarks"))
    parser.add_argument("--all", action="store_true", help="print every comparison")
    options = parser.parse_args(arguments)
    rows = options.rows
    failed = 0
    largest: dict[str, list[float]] = {}
    data = matrices(rows) | layers(rows, options.cache) | manifolds()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of DADApy and of what it imports
        distances_differ = {name: x for name, x in data.items() if name != "grid"}
        both = chain(comparisons(data), with_torchid(distances_differ))
        for what, ours, theirs, tolerance in both:
            error: Any = abs(ours - theirs) / abs(theirs) if theirs else abs(ours)
            good = bool(error <= tolerance)
            failed += not good
            largest.setdefault(what.rpartition(", ")[0], []).append(float(error))
            if options.all or not good:
                print(f"{'ok  ' if good else 'FAIL'} {what:42} {ours:.9f} {theirs:.9f} {error:.1e}")
    for name, errors in largest.items():
        print(f"{name:36} {len(errors):3d} compared, at most {max(errors):.1e} apart")
    print(f"{sum(map(len, largest.values()))} comparisons, {failed} failed")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
