"""One simulated difference, who is nearer to what is known, and the other codes it calls."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastdim import InputError
from fastdim.errors import require

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Line:
    """One setting: what is known, a value a set of the other code and ours (nan where there is
    none, with us an error), and which is said to be nearer: "ours", "theirs", "neither"."""

    setting: str
    known: float
    theirs: ArrayLike
    ours: ArrayLike
    nearer: str = "ours"


def nearer(line: Line) -> str:
    """Which mean is nearer to what is known, by more than 2 standard errors of their difference.

    Where there is no right value, ours if we refuse; where there is one, not who has none.
    """
    theirs, ours = (np.asarray(v, dtype=np.float64) for v in (line.theirs, line.ours))
    if math.isnan(line.known):
        return "ours" if np.isnan(ours).all() else "neither"
    if np.isnan(theirs).any() or np.isnan(ours).any():
        return "neither" if np.isnan(ours).any() else "ours"
    gap = theirs - ours
    noise = gap.std(ddof=1) / math.sqrt(len(gap)) if len(gap) > 1 else 0.0
    if abs(gap.mean()) <= 2.0 * noise + 1e-9 * abs(ours.mean()):
        return "neither"
    return "ours" if abs(ours.mean() - line.known) < abs(theirs.mean() - line.known) else "theirs"


def rngs(case: int, sets: int) -> Iterator[np.random.Generator]:
    """One a set."""
    return (np.random.default_rng([case, s]) for s in range(sets))


def skdim(name: str, x: Array, /, *, fit: dict[str, Any] | None = None, **options: Any) -> float:
    """scikit-dimension's value; nan where it gives that."""
    ids: Any = require("skdim.id", "test")
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")  # that k is cut, that points repeat
        found = getattr(ids, name)(**options).fit(x, **(fit or {}))
    return float(np.ravel(found.dimension_)[0])


def manifolds(seed: int, rows: int) -> dict[str, Array]:
    """The 24 of scikit-dimension."""
    datasets: Any = require("skdim.datasets", "test")
    made = datasets.BenchmarkManifolds(random_state=seed).generate(n=rows)
    return {name: np.asarray(x, dtype=np.float64) for name, x in made.items()}


def refused(call: Callable[[], Any]) -> float:
    """The value; nan where rows are refused."""
    try:
        return float(call())
    except InputError:
        return math.nan
