"""torchid 0.5.1 where it differs, written down; `make parity` holds them equal to the package."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

import fastdim
from fastdim import naive
from fastdim.estimators import gride
from fastdim.estimators.fishers import sphere_dimension

Array = NDArray[np.float64]


def correlation(x: Array, median: Callable[[Array], float] = np.median) -> float:
    """Correlation dimension at 10 and 20 neighbours, every distance by differences in float64."""
    distances = naive.knn(x, len(x) - 1)[0]
    radii = np.array([median(distances[:, k - 1]) for k in (10, 20)])
    counts = [(distances < r).sum() for r in radii]
    return float(np.log(counts[1] / counts[0]) / np.log(radii[1] / radii[0]))


def lower_median(values: Array) -> float:
    """The lower of the two in the middle, as torch has it."""
    return float(np.sort(values)[(len(values) - 1) // 2])


def torchid_corrint(x: Array) -> float:
    """torchid's CorrInt: the lower of the two middle distances as a radius."""
    return correlation(x, lower_median)


def torchid_mind(log_mu: Array) -> float:
    """torchid's MiND_ML: k + 1 where the likelihood has k. log_mu: (n,) of r_21 / r_1."""
    return float(gride.solve(log_mu, 1, 22)[()])


def torchid_mind_of(x: Array) -> float:
    """The same of rows."""
    r = naive.knn(x, 21)[0]
    return torchid_mind(np.log(r[:, 20] / r[:, 0]))


def torchid_fishers(x: Array) -> float:
    """torchid's FisherS: the share of pairs with a row itself among the others."""
    found = fastdim.fishers(x)
    alpha = float(found.method.rpartition("= ")[2])
    d = found.value
    p = (1 - alpha**2) ** ((d - 1) / 2) / (alpha * math.sqrt(2 * math.pi * d))
    return sphere_dimension(p * (len(x) - 1) / len(x), alpha)


def torchid_broken_stick(x: Array) -> float:
    """As torchid counts: up to and with the first share below its stick."""
    shares = np.linalg.svd(x - x.mean(axis=0), compute_uv=False) ** 2
    shares /= shares.sum()
    sticks = np.cumsum(1.0 / np.arange(len(shares), 0, -1))[::-1] / len(shares)
    return float(np.argmax(shares < sticks) + 1)


def distances_by_products(x: Array, k: int) -> Array:
    """The k smallest distances of each row to others, from |x|^2 + |y|^2 - 2 x.y."""
    square = (x * x).sum(axis=1)
    found = np.maximum(square[:, None] + square - 2.0 * (x @ x.T), 0.0)
    np.fill_diagonal(found, np.inf)
    return np.asarray(np.sqrt(np.sort(found, axis=1)[:, :k]))
