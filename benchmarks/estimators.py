"""Times of neighbour-based estimators beside scikit-dimension's and torchid's, values compared.

    make compare-estimators        # writes benchmarks/results/estimators.md; under 12 minutes
    .venv-bench/bin/python benchmarks/estimators.py --columns 50 --only MLE TLE --output FILE.md

Gaussian rows of 10 dimensions in more columns, float32. Each line: seconds of fastdim (search
included, best of two), of scikit-dimension 0.5.0 (one run; where it takes n_jobs and the first
took under 10 seconds, the better of 1 and 2), of torchid's CPU path (one run), how many times
faster fastdim is, and the values. Where a peer holds all pairs or loops over them in Python the
line has fewer rows, as it says. A value that differs by more than the tolerance of its line prints
no ratio, and the exit status is 1, but where the difference is known (docs/estimators.md).
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from worker import device, today

import fastdim
from fastdim.errors import require
from fastdim.estimators.danco import ball_summary

Matrix = NDArray[np.float32]
TOLERANCE = 5e-3  # float32 rows: scikit-dimension's distances come from products
RANDOM = 0.15  # both draw, or answer in whole numbers
SIZES = [500, 750, 1000, 1500, 2000]


@dataclass(frozen=True)
class Line:
    """The same estimator in three packages.

    jobs: whether scikit-dimension's takes n_jobs. most: rows at most. apart: peers whose value is
    known to be another.
    """

    ours: Callable[[Matrix], Any]
    skdim: Callable[..., Any]
    torchid: Callable[[Any], Any] | None = None
    jobs: bool = True
    most: int | None = None
    tolerance: float = TOLERANCE
    apart: tuple[str, ...] = ()


def fresh_danco(x: Matrix) -> Any:
    """DANCo without the balls that an earlier call has drawn."""
    ball_summary.cache_clear()
    return fastdim.danco(x, largest=15)


def lines_of(torchid: Any) -> dict[str, Line]:
    """Name -> the three."""
    import skdim.id as ids

    def other(name: str, **options: Any) -> Callable[[Any], Any] | None:
        return None if torchid is None else lambda t: getattr(torchid, name)(**options).fit(t)

    graph = {"k": 2, "ps": np.array(SIZES), "M": 5, "gamma": 1}
    return {
        "TwoNN": Line(
            lambda x: fastdim.twonn(x, compat="skdim"),
            lambda x: ids.TwoNN().fit(x),
            other("TwoNN"),
            False,
        ),
        "Gride(4, 8)": Line(
            lambda x: fastdim.gride(x, 4, compat="skdim"),
            lambda x: ids.GRIDE(n1=4).fit(x),
            None,
            False,
        ),
        "MLE": Line(
            fastdim.levina_bickel, lambda x, **jobs: ids.MLE().fit(x, **jobs), other("MLE")
        ),
        "MOM": Line(fastdim.mom, lambda x, **jobs: ids.MOM().fit(x, **jobs), other("MOM")),
        "MADA": Line(
            fastdim.mada, lambda x, **jobs: ids.MADA().fit(x, **jobs), other("MADA"), most=10000
        ),
        "MiND_MLk": Line(
            fastdim.mind_ml,
            lambda x: ids.MiND_ML(D=100).fit(x),
            other("MiND_ML", D=100),
            False,
            apart=("torchid",),  # stops beside the whole number it starts from
        ),
        "TLE": Line(fastdim.tle, lambda x, **jobs: ids.TLE().fit(x, **jobs), other("TLE")),
        "CorrInt": Line(fastdim.corrint, lambda x: ids.CorrInt().fit(x), other("CorrInt"), False),
        "ESS": Line(
            fastdim.ess,
            lambda x, **jobs: ids.ESS(random_state=0).fit(x, **jobs),
            other("ESS"),
            most=200,
        ),
        "KNN": Line(
            lambda x: fastdim.knn_graph(x, sizes=SIZES),
            lambda x: ids.KNN(random_state=0, **graph).fit(x),
            other("KNN", **graph),
            False,
            SIZES[-1],
            RANDOM,
            ("scikit-dimension", "torchid"),  # points drawn repeatedly lie at distance 0
        ),
        "DANCo": Line(
            fresh_danco,
            lambda x: ids.DANCo(D=15, random_state=0).fit(x),
            other("DANCo", D=15, random_state=0),
            False,
            SIZES[-1],
            RANDOM,
            ("torchid",),
        ),
        "lPCA": Line(fastdim.lpca, lambda x: ids.lPCA().fit(x), None, False),
        "FisherS": Line(
            fastdim.fishers, lambda x: ids.FisherS().fit(x), other("FisherS"), False, 5000
        ),
    }


def of_skdim(line: Line, x: Matrix) -> tuple[float, Any]:
    """Seconds and model of scikit-dimension at its best."""
    best, model = timed(line.skdim, x, 1)
    if line.jobs and best < 10.0:
        again, model = timed(lambda rows: line.skdim(rows, n_jobs=2), x, 1)
        best = min(best, again)
    return best, model


def timed(function: Callable[[Matrix], Any], x: Matrix, repeats: int) -> tuple[float, Any]:
    """Best time in seconds and the last result."""
    best, found = float("inf"), None
    for _ in range(repeats):
        start = time.perf_counter()
        found = function(x)
        best = min(best, time.perf_counter() - start)
    return best, found


def compared(name: str, line: Line, x: Matrix) -> tuple[str, bool]:
    """One line of the table, and whether all values agree."""
    mine, value = timed(line.ours, x, 2)
    found: list[tuple[float, float] | None] = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the rows that they drop
        seconds, model = of_skdim(line, x)
        found.append((seconds, float(np.ravel(model.dimension_)[0])))
        if line.torchid is None:
            found.append(None)
        else:
            tensor = require("torch", "models").from_numpy(x)
            seconds, model = timed(line.torchid, tensor, 1)
            found.append((seconds, float(model.dimension_)))
    cells, values, right = [f"{mine:.2f}"], [f"{float(value):.4f}"], True
    for package, peer in zip(("scikit-dimension", "torchid"), found, strict=True):
        if peer is None:
            cells, values = [*cells, "", ""], [*values, ""]
            continue
        good = abs(float(value) / peer[1] - 1.0) <= line.tolerance
        right &= good or package in line.apart
        cells += [f"{peer[0]:.2f}", f"{peer[0] / mine:.1f}" if good else "values differ"]
        values.append(f"{peer[1]:.4f}")
    return f"| {name} | {len(x):,} | {x.shape[1]} | {' | '.join([*cells, *values])} |", right


def main(arguments: list[str] | None = None) -> int:
    """Measure, print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=20000)
    parser.add_argument("--columns", type=int, nargs="+", default=[50, 768])
    parser.add_argument("--only", nargs="*")
    parser.add_argument("--output", type=Path)
    options = parser.parse_args(arguments)
    spec = importlib.util.find_spec("torchid")
    torchid = None if spec is None else importlib.import_module("torchid.estimators")
    known = lines_of(torchid)
    if unknown := set(options.only or ()) - set(known):
        parser.error(f"unknown estimators {sorted(unknown)}; there are: {', '.join(known)}")
    lines = [
        f"{device()}, fastdim {fastdim.__version__}, scikit-dimension "
        f"{version('scikit-dimension')}, torchid "
        f"{'not installed' if torchid is None else version('torchid')}, {today()}. Seconds.",
        "",
        "| estimator | rows | columns | fastdim | scikit-dimension | times faster | torchid "
        "| times faster | ours | scikit-dimension | torchid |",
        f"|{'---|' * 11}",
    ]
    print("\n".join(lines))
    wrong = 0
    for columns in options.columns:
        rng = np.random.default_rng(columns)
        wide = rng.standard_normal((options.rows, 10)) @ rng.standard_normal((10, columns))
        x: Matrix = wide.astype(np.float32)
        for name, line in known.items():
            if options.only and name not in options.only:
                continue
            cells, right = compared(name, line, x[: line.most])
            wrong += not right
            lines.append(cells)
            print(lines[-1], flush=True)
    if options.output is not None:
        options.output.parent.mkdir(parents=True, exist_ok=True)
        options.output.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
