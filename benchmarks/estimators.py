"""Times of neighbour-based estimators beside scikit-dimension's and torchid's, values compared.

    make compare-estimators        # writes benchmarks/results/estimators.md; about 15 minutes
    .venv-bench/bin/python benchmarks/estimators.py --columns 50 --only MLE TLE --output FILE.md

Gaussian rows of 10 dimensions in more columns, float32, k and other options scikit-dimension's own.
Every package runs once and the values are compared; then times are taken, search included, in
turns: fastdim three times, a peer whose first run took under 4 seconds twice more
(scikit-dimension with 1 and with 2 jobs where it takes them), and the best counts; a slower peer's
first run is its time. Where a peer holds all pairs or loops over them in Python the line has fewer
rows, as it says; --all-rows gives these lines all of them (an hour in all: scikit-dimension's ESS
takes 10 to 20 minutes each, and torchid's holds up to 20 GB). A value that differs by more than the
tolerance of its line prints no ratio, and the exit status is 1, but where the difference is known
(docs/estimators.md); a line on which no peer agrees with fastdim, though it should, is not timed.

--clock processor: processor seconds of all threads in place of wall time, for a machine that others
use too.
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
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from worker import device, in_child, in_own_environment, today

import fastdim
from fastdim.errors import require
from fastdim.estimators.danco import ball_law

Matrix = NDArray[np.float32]
Run = Callable[[Matrix], Any]
TOLERANCE = 5e-3  # float32 rows: peers' distances come from products
RANDOM = 0.15  # both draw, or answer in whole numbers
SHARES = (0.25, 0.375, 0.5, 0.75, 1.0)  # of the rows, in KNN's subsets
FEW = 2000  # rows of KNN's line
TARGET = 5.0
SLOW = 4.0  # seconds beyond which a peer runs once
OWN_RUNS, PEER_RUNS = 3, 2
CLOCKS = {"wall": time.perf_counter, "processor": time.process_time}
MANY = (
    "at 50 columns a third of a search for 100 neighbours is the scan of all pairs, the rest "
    "prepares rows, and selects, measures and sorts what is listed"
)


@dataclass(frozen=True)
class Line:
    """The same estimator in three packages.

    jobs: whether scikit-dimension's takes n_jobs. most: rows at most. apart: peers whose value is
    known to be another. why: what holds it below five times scikit-dimension, where it is.
    """

    ours: Run
    skdim: Callable[..., Any] | None
    torchid: Callable[[Any], Any] | None = None
    jobs: bool = True
    most: int | None = None
    tolerance: float = TOLERANCE
    apart: tuple[str, ...] = ()
    why: str = "the search is nearly all of it in both"


def fresh_danco(x: Matrix) -> Any:
    """DANCo without the balls that an earlier call has drawn."""
    ball_law.cache_clear()
    return fastdim.danco(x, largest=15)


def sizes_of(x: Any) -> list[int]:
    """Rows of KNN's subsets."""
    return [round(share * len(x)) for share in SHARES]


def graph_of(x: Any) -> dict[str, Any]:
    """Options of the peers' KNN."""
    return {"k": 2, "ps": np.array(sizes_of(x)), "M": 5, "gamma": 1}


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
        "MOM": Line(
            fastdim.mom, lambda x, **jobs: ids.MOM().fit(x, **jobs), other("MOM"), why=MANY
        ),
        "MADA": Line(fastdim.mada, lambda x, **jobs: ids.MADA().fit(x, **jobs), other("MADA")),
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
        "ESS, more rows": Line(fastdim.ess, None, other("ESS"), most=3000),
        "KNN": Line(
            lambda x: fastdim.knn_graph(x, sizes=sizes_of(x)),
            lambda x: ids.KNN(random_state=0, **graph_of(x)).fit(x),
            None if torchid is None else lambda t: torchid.KNN(**graph_of(t)).fit(t),
            False,
            FEW,
            RANDOM,
            ("scikit-dimension", "torchid"),  # points drawn repeatedly lie at distance 0
        ),
        "DANCo": Line(
            fresh_danco,
            lambda x: ids.DANCo(D=15, random_state=0).fit(x),
            other("DANCo", D=15, random_state=0),
            False,
            None,
            RANDOM,
            ("torchid",),
        ),
        "FisherS": Line(
            fastdim.fishers,
            lambda x: ids.FisherS().fit(x),
            other("FisherS"),
            False,
            5000,
            why="it has no neighbours: the products of all pairs are most of it in both",
        ),
    }


def timed(function: Run, x: Matrix, clock: Callable[[], float]) -> tuple[float, Any]:
    """Seconds and result."""
    start = clock()
    found = function(x)
    return clock() - start, found


@dataclass
class Measured:
    """One package's value and best time, and the ways to run it."""

    package: str
    ways: list[Run]
    seconds: float = float("inf")
    value: float = float("nan")

    def run(self, x: Matrix, clock: Callable[[], float], ways: int | None = None) -> None:
        """Once in each of the first `ways`, all if None."""
        for way in self.ways[:ways]:
            seconds, found = timed(way, x, clock)
            # A package's estimator holds what our function returns.
            value = found if self.package == "fastdim" else np.ravel(found.dimension_)[0]
            self.seconds, self.value = min(self.seconds, seconds), float(value)


def packages(line: Line, clock: str) -> list[Measured]:
    """fastdim, and the peers that have the estimator."""
    found = [Measured("fastdim", [line.ours])]
    if line.skdim is not None:
        ways: list[Run] = [line.skdim]
        # Seconds of other processes are not those of this one.
        if line.jobs and clock == "wall":
            ways.append(partial(line.skdim, n_jobs=2))
        found.append(Measured("scikit-dimension", ways))
    if line.torchid is not None:
        tensor, run = require("torch", "models").from_numpy, line.torchid
        found.append(Measured("torchid", [lambda x: run(tensor(x))]))
    return found


def compared(name: str, line: Line, x: Matrix, clock: str) -> tuple[str, bool, list[str]]:
    """One line of the table, whether all values agree, and remarks on it."""
    all_of = packages(line, clock)
    ours, peers = all_of[0], all_of[1:]
    read = CLOCKS[clock]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the rows that they drop
        for package in all_of:
            package.run(x, read, 1)
        agree = {p.package: abs(ours.value / p.value - 1.0) <= line.tolerance for p in peers}
        right = all(good or package in line.apart for package, good in agree.items())
        quick = [p for p in peers if p.seconds < SLOW]
        ours.seconds = float("inf")  # the first run brought the rows and the code in
        trusted = right or any(agree.values())
        for turn in range(OWN_RUNS if trusted else 0):
            ours.run(x, read)
            for package in quick if turn < PEER_RUNS else []:
                package.run(x, read)
    label, remarks = f"{name}, {x.shape[1]} columns", []
    known = {p.package: p for p in peers}
    cells, values = [f"{ours.seconds:.3f}" if trusted else "not timed"], [f"{ours.value:.4f}"]
    for peer_name in ("scikit-dimension", "torchid"):
        peer = known.get(peer_name)
        if peer is None:
            cells, values = [*cells, "", ""], [*values, ""]
            continue
        ratio = peer.seconds / ours.seconds
        told = f"{ratio:.1f}" if agree[peer_name] else "other value"
        cells, values = [*cells, f"{peer.seconds:.2f}", told], [*values, f"{peer.value:.4f}"]
        if not agree[peer_name]:
            continue
        if peer_name == "scikit-dimension" and ratio < TARGET:
            remarks.append(f"{label}: {ratio:.1f} times scikit-dimension, below 5; {line.why}")
        if peer_name == "torchid" and ratio <= 1.0:
            remarks.append(f"{label}: {ratio:.1f} times torchid, not faster")
    text = f"| {name} | {len(x):,} | {x.shape[1]} | {' | '.join([*cells, *values])} |"
    return text, right, remarks


def main(arguments: list[str] | None = None) -> int:
    """Measure, print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=20000)
    parser.add_argument("--columns", type=int, nargs="+", default=[50, 768])
    parser.add_argument("--only", nargs="*")
    parser.add_argument("--all-rows", action="store_true")
    parser.add_argument("--clock", choices=CLOCKS, default="wall")
    parser.add_argument("--output", type=Path)
    options = parser.parse_args(arguments)
    if options.rows < FEW:
        parser.error(f"--rows must be at least {FEW}, those of KNN's line")
    spec = importlib.util.find_spec("torchid")
    torchid = None if spec is None else importlib.import_module("torchid.estimators")
    known = lines_of(torchid)
    if unknown := set(options.only or ()) - set(known):
        parser.error(f"unknown estimators {sorted(unknown)}; there are: {', '.join(known)}")
    lines = [
        f"{device()}, fastdim {fastdim.__version__}, scikit-dimension "
        f"{version('scikit-dimension')}, torchid "
        f"{'not installed' if torchid is None else version('torchid')}, numpy {np.__version__}, "
        f"{today()}. Best {options.clock} seconds; a dimension in each of the last columns.",
        "",
        "| estimator | rows | columns | fastdim | scikit-dimension | times faster | torchid "
        "| times faster | ours | scikit-dimension | torchid |",
        f"|{'---|' * 11}",
    ]
    print("\n".join(lines))
    wrong, remarks = 0, []
    start = time.perf_counter()
    for columns in options.columns:
        rng = np.random.default_rng(columns)
        wide = rng.standard_normal((options.rows, 10)) @ rng.standard_normal((10, columns))
        x: Matrix = wide.astype(np.float32)
        for name, line in known.items():
            if options.only and name not in options.only:
                continue
            most = None if options.all_rows else line.most
            cells, right, noted = compared(name, line, x[:most], options.clock)
            wrong += not right
            remarks += noted
            lines.append(cells)
            print(lines[-1], flush=True)
    if not remarks:
        remarks = ["Every line: at least 5 times scikit-dimension, and faster than torchid."]
    lines += ["", *(f"- {remark}" for remark in remarks)]
    print("\n".join(lines[-len(remarks) :]), f"\n{time.perf_counter() - start:.0f} s in all")
    if options.output is not None:
        options.output.parent.mkdir(parents=True, exist_ok=True)
        options.output.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main() if in_child() else in_own_environment())
