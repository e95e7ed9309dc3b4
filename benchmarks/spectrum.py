"""Anisotropy: fastdim against llm-microscope's singular value decomposition (its formula in torch).

    python benchmarks/spectrum.py --data smollm2:20 --rows 50000 --wide 20000x4096

The values must agree to 1e-5 before anything is timed. `--wide ROWSxCOLUMNS` adds a synthetic
matrix with a decaying spectrum and a few massive rows.
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
from paired import in_turns
from worker import device

import fastdim

PEER = "torch SVD"


def svd(x: data.Matrix) -> float:
    """max s^2 / sum s^2 of the centered rows, as llm-microscope's calculate_anisotropy_torch."""
    import torch

    centered = torch.from_numpy(x) - torch.from_numpy(x).mean(dim=0, keepdim=True)
    power = torch.linalg.svd(centered, full_matrices=False)[1] ** 2
    return float(power.max() / power.sum())


def wide(shape: str) -> data.Matrix:
    """Normal rows with a spectrum that falls as 1/k, and one row in 300 a hundred times longer."""
    n, d = (int(part) for part in shape.split("x"))
    rng = np.random.default_rng(0)
    x = rng.standard_normal((n, d), dtype=np.float32) / np.sqrt(np.arange(1, d + 1))
    x[::300] *= 100.0
    return np.ascontiguousarray(x, dtype=np.float32)


def check(results: dict[str, Any]) -> None:
    """Raise AssertionError unless anisotropy is that of the singular values."""
    np.testing.assert_allclose(results["fastdim.anisotropy"], results[PEER], rtol=1e-5)


def main() -> None:
    """Print the table; raises AssertionError if fastdim is wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default="smollm2:20", help="comma separated, or .npy files")
    parser.add_argument("--rows", type=int, default=50_000)
    parser.add_argument("--wide", default="", help="comma separated shapes, e.g. 20000x4096")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--cache", type=Path, default=Path(".benchmarks"))
    parser.add_argument("--output", type=Path, help="folder of the results kept")
    options = parser.parse_args()
    import torch

    torch.set_num_threads(options.threads)
    print(tables.HEADER)
    cases = [(name, False) for name in options.data.split(",") if name]
    cases += [(shape, True) for shape in options.wide.split(",") if shape]
    for name, synthetic in cases:
        if synthetic:
            x = wide(name)
        elif name.endswith(".npy"):
            x = np.load(name)
        else:
            x = data.make(name, options.rows, options.cache)
        lines, _ = in_turns(
            f"anisotropy, {Path(name).stem}",
            x,
            {
                "fastdim.anisotropy": partial(fastdim.anisotropy, x, threads=options.threads),
                "fastdim.spectrum": partial(fastdim.spectrum, x, threads=options.threads),
                PEER: partial(svd, x),
            },
            options.repeats if x.shape[1] < 2000 else min(options.repeats, 3),
            [PEER],
            check=check,
        )
        print("\n".join(map(tables.printed, lines)), flush=True)
        if options.output:
            tables.keep(lines, options.output, device(), options.threads)


if __name__ == "__main__":
    main()
