"""Paired comparison with other libraries: validates first, then times, in turns.

    python benchmarks/compare.py --rows 20000 --data smollm2:15,gauss --groups knn,id

If a result of fastdim is wrong, nothing is timed and the exit code is 1. A wrong peer is timed and
its worst error stands beside its time.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

import data
import numpy as np
from peers import PEERS
from validate import TOLERANCES, Checks
from worker import Worker, commit, device, today

ROOT = Path(__file__).resolve().parent.parent
# Multiplications and additions of one full product of all pairs (2 n^2 d), or of the triangle.
WORK = {"knn": 2.0, "cosine": 1.0}


@dataclass
class Line:
    """One program on one matrix."""

    data: str
    group: str
    program: str
    n: int
    d: int
    answer: float = math.nan
    error: float = math.nan
    correct: bool = False
    median_s: float = math.nan
    low_s: float = math.nan
    high_s: float = math.nan
    peak_bytes: int = 0
    gflops: float | None = None
    times_fastdim: float = math.nan
    failure: str = ""


def compare(
    group: str, name: str, x: data.Matrix, path: Path, options: argparse.Namespace
) -> list[Line]:
    """Validate and time every program of a group on one matrix; the first program is fastdim."""
    checks = Checks(group, x)
    workers = {peer: Worker(group, peer, options.threads) for peer in PEERS[group]}
    lines: dict[str, Line] = {}
    seconds: dict[str, list[float]] = {peer: [] for peer in workers}
    try:
        for peer, worker in workers.items():
            line = Line(name, group, peer, *x.shape)
            lines[peer] = line
            try:
                result = worker.run(path)[0]
            except RuntimeError as failure:
                line.failure = str(failure)
                continue
            line.answer = float(result.get("value", result.get("mean", math.nan)))
            line.error = checks.error(peer, result)
            line.correct = line.error <= TOLERANCES[group]
            if checks.ours(peer) and not line.correct:
                return [line]
        alive = [peer for peer in workers if not lines[peer].failure]
        for _ in range(options.repeats):
            for peer in alive:
                _, time, peak = workers[peer].run(path)
                seconds[peer].append(time)
                lines[peer].peak_bytes = max(lines[peer].peak_bytes, peak)
    finally:
        for worker in workers.values():
            worker.close()
    for peer in alive:
        line, times = lines[peer], seconds[peer]
        line.median_s, line.low_s, line.high_s = statistics.median(times), min(times), max(times)
        if group in WORK:
            line.gflops = WORK[group] * x.shape[0] ** 2 * x.shape[1] / line.median_s / 1e9
    ours = next(iter(lines.values()))
    for line in lines.values():
        line.times_fastdim = line.median_s / ours.median_s
    return list(lines.values())


def printed(line: Line) -> str:
    """A row of the printed table."""
    what = f"| {line.data} | {line.n:,} x {line.d} | {line.program} |"
    if line.failure:
        return f"{what} failed: {line.failure.strip().splitlines()[-1][:80]} | | | | | | |"
    verdict = "ok" if line.correct else "**wrong**"
    answer = "" if math.isnan(line.answer) else f"{line.answer:.4f}"
    rate = "" if line.gflops is None else f"{line.gflops:.0f}"
    return (
        f"{what} {answer} | {line.error:.1e} {verdict} | {line.median_s:.3f} |"
        f" {line.low_s:.3f}-{line.high_s:.3f} | {line.times_fastdim:.2f} |"
        f" {line.peak_bytes / 1e6:.0f} | {rate} |"
    )


HEADER = """
| data | rows | program | answer | worst error | median s | range s | x fastdim | MB | GFLOP/s |
|---|---|---|---|---|---|---|---|---|---|"""
NOTES = """
Answer: the dimension, the anisotropy or the mean cosine. Programs of group id follow different
definitions, so their answers differ where rows are equal or ratios have a heavy tail.
Error: knn, of r1 and r2 over every row, a distance of 0 by the median distance; id, of the value
against the same definition on exact distances; anisotropy, of the value; cosine, of the mean plus
the share of pairs in a wrong bin.
A wrong program is timed all the same: its time buys another answer.
x fastdim: the median time over fastdim's. MB: highest resident memory during a call less that
before it, the rows themselves not counted.
GFLOP/s: two operations times rows times rows times columns (knn), half of that (cosine), by the
median second: every program is credited with the full product, whatever it left out."""


def parse() -> argparse.Namespace:
    """Options of the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument(
        "--data", default="smollm2:15,gauss,offset,duplicates", help="comma separated"
    )
    parser.add_argument("--groups", default=",".join(PEERS), help="comma separated")
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument(
        "--id-rows", type=int, default=1_000, help="rows of group id (hungry peers)"
    )
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument(
        "--cache", type=Path, default=ROOT / ".benchmarks", help="folder of hidden states"
    )
    parser.add_argument("--output", type=Path, help="JSON file of all lines")
    options = parser.parse_args()
    unknown = set(options.groups.split(",")) - set(PEERS)
    if unknown:
        parser.error(f"unknown groups {sorted(unknown)}; there are: {', '.join(PEERS)}")
    if options.repeats < 1:
        parser.error("--repeats must be at least 1")
    return options


def main() -> int:
    """Print the table; 1 if fastdim was wrong anywhere."""
    options = parse()
    about = {
        "device": device(),
        "commit": commit(),
        "date": today(),
        "threads": options.threads,
        "repeats": options.repeats,
    }
    print("; ".join(f"{key}: {value}" for key, value in about.items()))
    print(HEADER, flush=True)
    lines: list[Line] = []
    with tempfile.TemporaryDirectory() as folder:
        for name in options.data.split(","):
            full = data.make(name, options.rows, options.cache)
            for group in options.groups.split(","):
                x = full[: options.id_rows] if group == "id" else full
                path = Path(folder) / "rows.npy"
                np.save(path, x)
                lines += compare(group, name, x, path, options)
                for line in lines[-len(PEERS[group]) :]:
                    if line.group == group and line.data == name:
                        print(printed(line), flush=True)
    print(NOTES)
    if options.output:
        options.output.write_text(
            json.dumps({**about, "lines": [asdict(line) for line in lines]}, indent=1)
        )
    wrong = [
        line for line in lines if line.program == next(iter(PEERS[line.group])) and not line.correct
    ]
    for line in wrong:
        print(
            f"fastdim is wrong: {line.program} on {line.data}, nothing was timed", file=sys.stderr
        )
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
