"""Rows of known dimension that more than one benchmark draws: n rows of dimension d."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def torus(n: int, d: int, rng: np.random.Generator) -> Array:
    """Uniform rows (n, 2 d) on a flat torus: no border, the same everywhere."""
    angle = 2 * np.pi * rng.random((n, d))
    return np.concatenate([np.cos(angle), np.sin(angle)], axis=1)


def sphere(n: int, d: int, rng: np.random.Generator) -> Array:
    """Uniform rows (n, d + 1) on the unit sphere."""
    x = rng.standard_normal((n, d + 1))
    return np.asarray(x / np.linalg.norm(x, axis=1, keepdims=True))


def gaussian(n: int, d: int, rng: np.random.Generator) -> Array:
    """Standard normal rows (n, d): the density falls off."""
    return rng.standard_normal((n, d))


def ball(n: int, d: int, rng: np.random.Generator) -> Array:
    """Uniform in the unit ball."""
    x = rng.standard_normal((n, d))
    x *= rng.random((n, 1)) ** (1.0 / d) / np.linalg.norm(x, axis=1, keepdims=True)
    return x
