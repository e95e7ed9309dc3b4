"""Sampled queries against all: time, and how often the interval covers the value of all rows.

    python benchmarks/sampled.py --queries 10000 --seeds 200 --output benchmarks/results

SmolLM2-135M, hidden_states[20] (block 20), 200,000 tokens of docstrings. Rows are prepared once,
which both searches need. TwoNN of all rows comes from the exact search of all; the first queries of
each seed are held against it bit for bit.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from data import hidden_states
from worker import commit, device, today

import fastdim


def timed(work: Callable[[], Any]) -> tuple[Any, float, float]:
    """What it gives, its seconds and its processor seconds."""
    wall, processor = time.perf_counter(), time.process_time()
    found = work()
    return found, time.perf_counter() - wall, time.process_time() - processor


def main() -> None:
    """Print the table; raises AssertionError where a sampled neighbour is not the exact one."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--block", type=int, default=19, help="0-based")
    parser.add_argument("--queries", type=int, default=10_000)
    parser.add_argument("--seeds", type=int, default=200)
    parser.add_argument("--cache", type=Path, default=Path(".benchmarks"))
    parser.add_argument("--input", type=Path, help="an .npy file in place of the model's rows")
    parser.add_argument("--output", type=Path, help="folder of sampled.md")
    given = parser.parse_args()
    x = (
        np.load(given.input)[: given.rows]
        if given.input
        else hidden_states(given.block, given.rows, given.cache)
    )
    prepared, *prepare = timed(lambda: fastdim.prepare(x))
    everyone, *whole = timed(lambda: fastdim.knn(prepared, duplicates="collapse"))
    value = fastdim.twonn(everyone).value
    place = {int(row): number for number, row in enumerate(everyone.queries)}
    seconds, estimates = [], []
    for seed in range(given.seeds):
        search = partial(
            fastdim.knn, prepared, queries=given.queries, duplicates="collapse", seed=seed
        )
        found, *taken = timed(search)
        seconds.append(taken)
        mine = [place[int(row)] for row in found.queries[:100]]
        np.testing.assert_array_equal(found.distances[:100], everyone.distances[mine])
        estimates.append(fastdim.twonn(found))
    wall, processor = np.median(seconds, axis=0)
    covered = sum(item.lower <= value <= item.upper for item in estimates)
    error = float(np.sqrt(np.mean([(item.value / value - 1) ** 2 for item in estimates])))
    lines = [
        f"# {given.queries:,} sampled queries",
        "",
        f"`benchmarks/sampled.py` on {device()}, {len(os.sched_getaffinity(0))} threads, commit "
        f"{commit()}, {today()}; {len(x):,} x {x.shape[1]} rows of SmolLM2-135M, "
        f"hidden_states[{given.block + 1}], {everyone.n_distinct:,} distinct.",
        "",
        "| | seconds | processor s |",
        "|---|---|---|",
        f"| preparation, for both | {prepare[0]:.2f} | {prepare[1]:.2f} |",
        f"| all rows as queries | {whole[0]:.2f} | {whole[1]:.2f} |",
        f"| {given.queries:,} queries, median of {given.seeds} seeds | {wall:.3f} | "
        f"{processor:.3f} |",
        f"| ratio | {whole[0] / wall:.1f} | {whole[1] / processor:.1f} |",
        "",
        f"TwoNN of all rows {value:.3f}; error over the seeds {100 * error:.2f} % (rms); the 95 % "
        f"interval covers that value in {covered} of {given.seeds}.",
        "",
    ]
    print("\n".join(lines))
    if given.output is not None:
        given.output.mkdir(parents=True, exist_ok=True)
        (given.output / "sampled.md").write_text("\n".join(lines))


if __name__ == "__main__":
    main()
