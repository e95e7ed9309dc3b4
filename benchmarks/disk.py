"""Neighbours of rows on disk under a limit of memory, beside the same search of the mapped file.

    python benchmarks/disk.py --rows 500000 --columns 4096 --queries 10000 --memory 2GB

Writes the rows (30 directions and noise, float32) to `--folder` if they are not there. The two
results must be equal bit for bit, and a few queries those of float64 differences, before a rate is
printed. Each search runs in a process of its own, the two in turns: its largest anonymous memory
is read from /proc while it runs. All find the file in the page cache where that has room. `--load`
adds the search of the array in memory, which must have room for it.
"""

from __future__ import annotations

import argparse
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from worker import commit, device, today

import fastdim

BLOCK = 10_000
CHECKED = 8


def write(path: Path, rows: int, columns: int) -> None:
    """Rows along 30 directions, with noise in all of them."""
    rng = np.random.default_rng(0)
    axes = rng.standard_normal((30, columns), dtype=np.float32)
    temporary = path.with_suffix(".tmp")
    out = np.lib.format.open_memmap(temporary, "w+", np.float32, (rows, columns))
    for start in range(0, rows, BLOCK):
        count = min(BLOCK, rows - start)
        block = rng.standard_normal((count, 30), dtype=np.float32) @ axes
        block += np.float32(0.3) * rng.standard_normal((count, columns), dtype=np.float32)
        out[start : start + count] = block
    out.flush()
    del out
    temporary.replace(path)


LOADED, MAPPED = "array in memory, no limit", "file mapped, no limit"


def search(path: Path, queries: int, memory: str, output: Path) -> None:
    """One search, in this process: distances, indices and times into an archive.

    memory: LOADED, MAPPED, or a limit.
    """
    x: Any = path
    if memory in (LOADED, MAPPED):
        x = np.load(path, mmap_mode="r" if memory == MAPPED else None)
    limit = None if memory in (LOADED, MAPPED) else memory
    wall, processor = time.perf_counter(), time.process_time()
    found = fastdim.knn(x, queries=queries, memory=limit)
    np.savez(
        output,
        distances=found.distances,
        indices=found.indices,
        queries=found.queries,
        wall=time.perf_counter() - wall,
        processor=time.process_time() - processor,
        tiles=found.plan.get("tiles", 1),
    )


def measured(path: Path, queries: int, memory: str) -> dict[str, Any]:
    """The same in a process of its own, and its largest anonymous memory."""
    with tempfile.TemporaryDirectory() as scratch:
        output = Path(scratch) / "found.npz"
        command = [sys.executable, __file__, "--child", str(path), str(queries), memory, output]
        process = subprocess.Popen([str(part) for part in command])
        peak = 0
        while process.poll() is None:
            try:
                status = Path(f"/proc/{process.pid}/status").read_text()
            except FileNotFoundError:  # it has just ended
                break
            found = re.search(r"RssAnon:\s+(\d+)", status)
            peak = max(peak, 1024 * int(found[1]) if found else 0)
            time.sleep(0.01)
        if process.wait() != 0:
            raise SystemExit(f"the search ended with {process.returncode}")
        with np.load(output) as archive:
            return {"peak": peak, **{name: archive[name] for name in archive.files}}


def check(path: Path, one: dict[str, Any], other: dict[str, Any]) -> None:
    """Raise AssertionError unless both are equal, and right for some queries."""
    for name in ("queries", "indices", "distances"):
        np.testing.assert_array_equal(one[name], other[name])
    x = np.load(path, mmap_mode="r")
    chosen = np.linspace(0, len(one["queries"]) - 1, CHECKED).astype(int)
    points = x[one["queries"][chosen]].astype(np.float64)
    best: NDArray[np.float64] = np.full((len(chosen), 2), np.inf)
    for start in range(0, len(x), BLOCK):
        block = x[start : start + BLOCK].astype(np.float64)
        for place, point in enumerate(points):
            distances = np.sqrt(np.square(block - point).sum(axis=1))
            own = one["queries"][chosen[place]] - start
            if 0 <= own < len(block):
                distances[own] = np.inf
            best[place] = np.sort(np.concatenate([best[place], distances]))[:2]
    np.testing.assert_allclose(one["distances"][chosen], best, rtol=1e-6)


def main() -> None:
    """Print the table; raises AssertionError if a result is wrong."""
    if sys.argv[1:2] == ["--child"]:
        path, queries, memory, output = sys.argv[2:]
        search(Path(path), int(queries), memory, Path(output))
        return
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=500_000)
    parser.add_argument("--columns", type=int, default=4096)
    parser.add_argument("--queries", type=int, default=10_000)
    parser.add_argument("--memory", default="2GB")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--load", action="store_true", help="the array in memory as well")
    parser.add_argument("--folder", type=Path, default=Path(".benchmarks"))
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    path = given.folder / f"disk-{given.rows}x{given.columns}.npy"
    if not path.exists():
        write(path, given.rows, given.columns)
    ways = [*([LOADED] if given.load else []), MAPPED, given.memory]
    runs: dict[str, list[dict[str, Any]]] = {way: [] for way in ways}
    for turn in range(given.repeats):
        for memory in runs:
            runs[memory].append(measured(path, given.queries, memory))
        if turn == 0:
            for way in ways[:-1]:
                check(path, runs[way][0], runs[given.memory][0])
    size = path.stat().st_size / 1e9
    print(
        f"{given.queries:,} queries over {given.rows:,} x {given.columns:,} float32 "
        f"({size:.2f} GB); {device()}, {len(os.sched_getaffinity(0))} threads; {commit()}, "
        f"{today()}; medians of {given.repeats} in turns\n\n"
        "| memory | seconds | processor s | tiles | largest anonymous memory, GB |\n"
        "|---|---|---|---|---|"
    )
    for memory, found in runs.items():
        wall, processor = (
            statistics.median(float(run[key]) for run in found) for key in ("wall", "processor")
        )
        peak = max(run["peak"] for run in found) / 1e9
        print(
            f"| {memory} | {wall:.2f} | {processor:.2f} | {int(found[0]['tiles'])} | {peak:.2f} |"
        )


if __name__ == "__main__":
    main()
