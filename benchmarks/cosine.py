"""Cosines of all pairs: fastdim exact and fast against normalized torch chunks with histc.

    python benchmarks/cosine.py --data smollm2:20 --rows 50000

Validates first: exact counts must be those of float32 tiles with every pair near an edge settled in
float64. Then measures how many pairs "fast" moves, pair by pair, on a sample of rows.
"""

from __future__ import annotations

import argparse
import os
from functools import partial
from pathlib import Path
from typing import Any

import data
import numpy as np
import tables
from numpy.typing import NDArray
from paired import in_turns
from worker import device

import fastdim
from fastdim.arrays import as_rows
from fastdim.backends import cpu
from fastdim.cosine import leading_axes
from fastdim.moments import inverse_norms

BINS, BLOCK = 200, 2048
PEERS = ["torch, masked", "torch, chunks"]


def torch_masked(x: data.Matrix) -> NDArray[np.float64]:
    """Chunks of the upper triangle, the pairs i < j selected by a mask."""
    import torch

    unit = torch.nn.functional.normalize(torch.from_numpy(x))
    histogram = torch.zeros(BINS, dtype=torch.float64)
    for start in range(0, len(unit), BLOCK):
        block = unit[start : start + BLOCK] @ unit[start:].T
        upper = torch.ones_like(block, dtype=torch.bool).triu(1)
        histogram += torch.histc(block[upper].clamp(-1, 1), BINS, -1, 1)
    return histogram.numpy()


def torch_chunks(x: data.Matrix) -> NDArray[np.float64]:
    """The same without a mask where all pairs count: the fastest plain torch found."""
    import torch

    unit = torch.nn.functional.normalize(torch.from_numpy(x))
    histogram = torch.zeros(BINS, dtype=torch.float64)
    for start in range(0, len(unit), BLOCK):
        own, later = unit[start : start + BLOCK], unit[start + BLOCK :]
        block = own @ own.T
        pairs = torch.ones_like(block, dtype=torch.bool).triu(1)
        histogram += torch.histc(block[pairs].clamp(-1, 1), BINS, -1, 1)
        if len(later):
            histogram += torch.histc((own @ later.T).clamp_(-1, 1), BINS, -1, 1)
    return histogram.numpy()


def moved_share(x: data.Matrix, bins: int, arithmetic: str) -> float:
    """Share of pairs that rounding to integers moves to another bin, from 2,000 rows pair by pair.

    The roundings of csrc/cosine.h in float64, without the shift of int8.
    """
    rows = as_rows(x[:: max(1, len(x) // 2000)][:2000])
    inverse = inverse_norms(rows, rows.norms())
    used = np.flatnonzero(inverse)
    axes = leading_axes(rows, inverse, used, 48 if arithmetic == "int8" else 16)
    unit = rows.float64(0, rows.n)[used] * inverse[used, None]
    places = unit @ axes.T
    rest = unit - places @ axes
    if arithmetic == "int8":
        size = next(size for size in (4096, 1024, 256, 64, 16, 4, 1) if rows.d % size == 0)
        turned = np.swapaxes(rest.reshape(len(rest), size, -1), 1, 2) @ _hadamard(size)
        step = np.abs(turned).max(axis=(1, 2)) / 127.0
        step = np.maximum(step, 16.0 * np.abs(places).max(axis=1) / 32700.0)[:, None]
        rounded = np.rint(turned.reshape(rest.shape) / step) * step
        places = np.rint(places / step * 16.0) / 16.0 * step
    else:
        scale = 46339.0 - np.sqrt(rows.d) / 2
        longest = scale / np.linalg.norm(rest, axis=1)
        factor = np.minimum(longest, 32766.0 / np.abs(rest).max(axis=1))[:, None]
        rounded = np.rint(rest * factor) / factor
        places = places.astype(np.float32).astype(np.float64)
    upper = np.triu_indices(len(unit), 1)
    fast = places @ places.T + rounded @ rounded.T
    position = [((c[upper] + 1) * bins / 2).astype(np.int64) for c in (unit @ unit.T, fast)]
    return float((position[0] != position[1]).mean())


def _hadamard(size: int) -> NDArray[np.float64]:
    found = np.ones((1, 1))
    while len(found) < size:
        found = np.block([[found, found], [found, -found]])
    return np.asarray(found / np.sqrt(size))


def main() -> None:
    """Print the table; raises AssertionError if fastdim is wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default="smollm2:20", help="comma separated, or .npy files")
    parser.add_argument("--rows", type=int, default=50_000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--cache", type=Path, default=Path(".benchmarks"))
    parser.add_argument("--output", type=Path, help="folder of the results kept")
    options = parser.parse_args()
    import torch

    torch.set_num_threads(options.threads)
    print(tables.HEADER)
    for name in options.data.split(","):
        file = name.endswith(".npy")
        x = np.load(name) if file else data.make(name, options.rows, options.cache)
        case = f"cosines, {Path(name).stem}"
        rows = as_rows(x)
        inverse = inverse_norms(rows, rows.norms())
        expected = cpu.cosine_histogram(rows, inverse, BINS, options.threads, arithmetic="float32")[
            0
        ]

        def check(results: dict[str, Any], expected: NDArray[np.int64] = expected) -> None:
            np.testing.assert_array_equal(results["fastdim exact"].histogram, expected)

        ours = partial(fastdim.cosine_stats, x, bins=BINS, pairs="all", threads=options.threads)
        lines, results = in_turns(
            case,
            x,
            {
                "fastdim exact": partial(ours, precision="exact"),
                "fastdim fast": partial(ours, precision="fast"),
                "torch, masked": partial(torch_masked, x),
                "torch, chunks": partial(torch_chunks, x),
            },
            options.repeats,
            PEERS,
            check=check,
        )
        print("\n".join(map(tables.printed, lines)), flush=True)
        if options.output:
            tables.keep(lines, options.output, device(), options.threads)
        every = expected.sum()
        for program, result in results.items():
            counts = getattr(result, "histogram", result)
            net = np.abs(np.cumsum(counts - expected)).sum() / every
            print(f"<!-- {program}: pairs moved, net of moves back: {net:.1e} -->")
        shares = [
            f"{arithmetic}, {bins} bins {moved_share(x, bins, arithmetic):.1e}"
            for arithmetic, bins in (("int8", 200), ("int16", 200), ("int16", 2000))
        ]
        print(f"<!-- fast, pairs moved, counted one by one on 2,000 rows: {'; '.join(shares)} -->")


if __name__ == "__main__":
    main()
