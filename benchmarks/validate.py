"""What is right: float64 references of `fastdim.naive`, computed before anything is timed."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from peers import BINS, COMPAT, PEERS, Matrix, Result

from fastdim import naive, twonn

TOLERANCES = {"knn": 1e-6, "id": 1e-5, "anisotropy": 1e-5, "cosine": 1e-5}
SAMPLE = 200  # rows compared with the float64 reference by brute force
REFERENCE_ROWS = 2_000  # rows of which the reference may form the full matrix


class Checks:
    """Worst relative error of each program on one matrix.

    Neighbours: fastdim is compared with the float64 brute force on a sample of rows that holds the
    longest ones; every other program with fastdim on every row, and with the sample.
    """

    def __init__(self, group: str, x: Matrix) -> None:
        self.group = group
        self.x = x
        self.trusted: NDArray[np.float64] | None = None

    def ours(self, peer: str) -> bool:
        """Whether a program is fastdim's: the first of its group."""
        return peer == next(iter(PEERS[self.group]))

    def error(self, peer: str, result: Result) -> float:
        """Worst relative error; nan and inf count as inf."""
        worst = float(getattr(self, f"_{self.group}")(peer, result))
        return worst if np.isfinite(worst) else float("inf")

    @cached_property
    def sample(self) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Row numbers, the longest among them, and their r1, r2 by brute force in float64."""
        norms = np.linalg.norm(self.x.astype(np.float64), axis=1)
        longest = np.argsort(norms)[-SAMPLE // 4 :]
        drawn = np.random.default_rng(0).choice(len(self.x), SAMPLE, replace=False)
        rows = np.unique(np.concatenate([longest, drawn])).astype(np.int64)
        return rows, naive.knn(self.x, 2, queries=rows)[0]

    def _knn(self, peer: str, result: Result) -> float:
        distances = result["distances"].astype(np.float64)
        rows, expected = self.sample
        worst = relative(distances[rows], expected)
        if self.ours(peer):
            self.trusted = distances
        elif self.trusted is not None:
            worst = max(worst, relative(distances, self.trusted))
        return worst

    def _id(self, peer: str, result: Result) -> float:
        if self.ours(peer):
            expected = naive.twonn(self.x)
        else:
            expected = float(twonn(self.x, compat=COMPAT[peer]))
        return abs(float(result["value"]) / expected - 1)

    @cached_property
    def anisotropy(self) -> float:
        """The reference's, once."""
        return naive.spectrum(self.x).anisotropy

    def _anisotropy(self, peer: str, result: Result) -> float:
        return abs(float(result["value"]) / self.anisotropy - 1)

    @cached_property
    def cosine(self) -> tuple[float, NDArray[np.int64]]:
        """Mean and histogram over all pairs, float64, block by block."""
        rows = self.x.astype(np.float64)
        unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
        total, histogram = 0.0, np.zeros(BINS, dtype=np.int64)
        for start in range(0, len(unit), REFERENCE_ROWS):
            block = unit[start : start + REFERENCE_ROWS] @ unit[start:].T
            cosines = block[np.triu_indices(len(block), 1, block.shape[1])]
            total += float(cosines.sum())
            histogram += np.histogram(np.clip(cosines, -1, 1), BINS, range=(-1, 1))[0]
        return total / (len(unit) * (len(unit) - 1) // 2), histogram

    def _cosine(self, peer: str, result: Result) -> float:
        mean, histogram = self.cosine
        moved = np.abs(result["histogram"] - histogram).sum() / 2 / histogram.sum()
        return float(abs(result["mean"] - mean) + moved)


def relative(found: NDArray[Any], expected: NDArray[Any]) -> float:
    """Worst |found - expected| / expected; where 0 is expected, over the median of the expected."""
    difference = np.abs(found - expected)
    ratio = difference / np.where(expected > 0, expected, np.median(expected))
    return float(np.where(np.isnan(ratio), np.inf, ratio).max())
