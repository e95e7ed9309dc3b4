"""Times of neighbour-based estimators beside scikit-dimension's, in one run, values compared first.

    .venv/bin/python benchmarks/estimators.py --rows 20000 --columns 50 768 --output FILE.md

Gaussian rows of 10 dimensions in more columns. Each line: seconds of fastdim (search included, best
of three) and of scikit-dimension 0.5.0 (one run), their ratio, and the values. A line whose values
differ by more than the tolerance prints no ratio, and the exit status is 1.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import time
import warnings
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import fastdim

Matrix = NDArray[np.float32]
TOLERANCE = 5e-3  # float32 rows: scikit-dimension's distances come from products


def pairs() -> dict[str, tuple[Callable[[Matrix], Any], Callable[[Matrix], Any]]]:
    """Name -> ours and theirs."""
    import skdim.id as ids

    return {
        "TwoNN": (lambda x: fastdim.twonn(x, compat="skdim"), lambda x: ids.TwoNN().fit(x)),
        "Gride(4, 8)": (
            lambda x: fastdim.gride(x, 4, compat="skdim"),
            lambda x: ids.GRIDE(n1=4).fit(x),
        ),
        "MLE": (fastdim.levina_bickel, lambda x: ids.MLE().fit(x)),
        "MOM": (fastdim.mom, lambda x: ids.MOM().fit(x)),
        "MiND_MLk": (fastdim.mind_ml, lambda x: ids.MiND_ML(D=100).fit(x)),
        "TLE": (fastdim.tle, lambda x: ids.TLE().fit(x)),
        "CorrInt": (fastdim.corrint, lambda x: ids.CorrInt().fit(x)),
        "MADA": (fastdim.mada, lambda x: ids.MADA().fit(x)),
        "FisherS": (fastdim.fishers, lambda x: ids.FisherS().fit(x)),
        "ESS": (fastdim.ess, lambda x: ids.ESS(random_state=0).fit(x)),
    }


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
    lines = [
        f"{platform.processor() or platform.machine()}, {os.cpu_count()} CPUs, fastdim "
        f"{fastdim.__version__}, scikit-dimension 0.5.0, {today}. Seconds.",
        "",
        "| estimator | rows | columns | fastdim | scikit-dimension | times faster | ours | other |",
        "|---|---|---|---|---|---|---|---|",
    ]
    print("\n".join(lines))
    wrong = 0
    for columns in options.columns:
        rng = np.random.default_rng(columns)
        wide = rng.standard_normal((options.rows, 10)) @ rng.standard_normal((10, columns))
        x: Matrix = wide.astype(np.float32)
        for name, (ours, theirs) in pairs().items():
            if options.only and name not in options.only:
                continue
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # scikit-dimension's, of the rows it drops
                mine, value = timed(ours, x, 3)
                other, model = timed(theirs, x, 1)
            expected = float(np.ravel(model.dimension_)[0])
            good = abs(float(value) / expected - 1.0) <= TOLERANCE
            wrong += not good
            ratio = f"{other / mine:.1f}" if good else "values differ"
            lines.append(
                f"| {name} | {options.rows} | {columns} | {mine:.2f} | {other:.2f} | {ratio} "
                f"| {float(value):.4f} | {expected:.4f} |"
            )
            print(lines[-1], flush=True)
    if options.output is not None:
        options.output.parent.mkdir(parents=True, exist_ok=True)
        options.output.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
