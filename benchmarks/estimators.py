"""Times of neighbour-based estimators beside scikit-dimension's and torchid's, values compared.

    .venv/bin/python benchmarks/estimators.py --rows 20000 --columns 50 768 --output FILE.md

Gaussian rows of 10 dimensions in more columns. Each line: seconds of fastdim (search included, best
of three), of scikit-dimension 0.5.0 (one run; where it takes n_jobs, the better of 1 and 2 if the
first took under 10 seconds), of torchid on the CPU where it is installed (best of two), how many
times faster fastdim is, and the values. A value that differs by more than the tolerance prints no
ratio, and the exit status is 1. torchid 0.5.1 asks for Python 3.13 but runs on 3.11:

    pip install --no-deps --ignore-requires-python torchid==0.5.1 torchmetrics lightning-utilities
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import os
import platform
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import fastdim
from fastdim.errors import require

Matrix = NDArray[np.float32]
TOLERANCE = 5e-3  # float32 rows: scikit-dimension's distances come from products


@dataclass(frozen=True)
class Line:
    """The same estimator in three packages; jobs: whether scikit-dimension's takes n_jobs."""

    ours: Callable[[Matrix], Any]
    skdim: Callable[..., Any]
    torchid: Callable[[Any], Any] | None = None
    jobs: bool = True


def lines_of(torchid: Any) -> dict[str, Line]:
    """Name -> the three."""
    import skdim.id as ids

    def other(name: str, **options: Any) -> Callable[[Any], Any] | None:
        return None if torchid is None else lambda t: getattr(torchid, name)(**options).fit(t)

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
        "MADA": Line(fastdim.mada, lambda x, **jobs: ids.MADA().fit(x, **jobs), other("MADA")),
        "MiND_MLk": Line(
            fastdim.mind_ml,
            lambda x: ids.MiND_ML(D=100).fit(x),
            other("MiND_ML", D=100),
            False,
        ),
        "TLE": Line(fastdim.tle, lambda x, **jobs: ids.TLE().fit(x, **jobs), other("TLE")),
        "CorrInt": Line(fastdim.corrint, lambda x: ids.CorrInt().fit(x), other("CorrInt"), False),
        "FisherS": Line(fastdim.fishers, lambda x: ids.FisherS().fit(x), other("FisherS"), False),
        "ESS": Line(
            fastdim.ess, lambda x, **jobs: ids.ESS(random_state=0).fit(x, **jobs), other("ESS")
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


def main(arguments: list[str] | None = None) -> int:
    """Measure, print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=20000)
    parser.add_argument("--columns", type=int, nargs="+", default=[50, 768])
    parser.add_argument("--only", nargs="*")
    parser.add_argument("--output", type=Path)
    options = parser.parse_args(arguments)
    today = datetime.now(timezone.utc).date()
    spec = importlib.util.find_spec("torchid")
    torchid = None if spec is None else importlib.import_module("torchid.estimators")
    lines = [
        f"{platform.processor() or platform.machine()}, {os.cpu_count()} CPUs, fastdim "
        f"{fastdim.__version__}, scikit-dimension 0.5.0, torchid "
        f"{'not installed' if torchid is None else version('torchid')}, {today}. Seconds.",
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
        for name, line in lines_of(torchid).items():
            if options.only and name not in options.only:
                continue
            mine, value = timed(line.ours, x, 3)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # scikit-dimension's, of the rows it drops
                other, model = of_skdim(line, x)
                found = [(other, float(np.ravel(model.dimension_)[0]))]
                if line.torchid is not None:
                    tensor = require("torch", "models").from_numpy(x)
                    other, model = timed(line.torchid, tensor, 2)
                    found.append((other, float(model.dimension_)))
            cells = []
            for seconds, expected in found:
                good = abs(float(value) / expected - 1.0) <= TOLERANCE
                wrong += not good
                cells += [f"{seconds:.2f}", f"{seconds / mine:.1f}" if good else "values differ"]
            values = [f"{float(value):.4f}", *(f"{expected:.4f}" for _, expected in found)]
            if len(found) == 1:
                cells, values = [*cells, "", ""], [*values, ""]
            lines.append(
                f"| {name} | {options.rows} | {columns} | {mine:.2f} | {' | '.join(cells)} | "
                f"{' | '.join(values)} |"
            )
            print(lines[-1], flush=True)
    if options.output is not None:
        options.output.parent.mkdir(parents=True, exist_ok=True)
        options.output.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
