"""Two profiles at common depths: where they differ, with one error for the family."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from fastdim.arrays import whole_number
from fastdim.diagnose.curves import REPLICATES, Curve, curve_of, run_of
from fastdim.errors import InputError
from fastdim.estimate import check_confidence
from fastdim.sweeps.result import Sweep

if TYPE_CHECKING:
    import pandas

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False, repr=False)
class ProfileDifference:
    """b less a at the depths (k,) of the model with fewer sites.

    difference: (k,) in units of the metric. lower, upper: simultaneous band at `confidence`: the
    true difference lies in it at every depth at once. p: (k,) adjusted for all depths.
    significant: where the band leaves out 0. paired: whether both read the same tokens, so that the
    errors of their documents go together. a, b: the curves.
    """

    depths: Array
    difference: Array
    lower: Array
    upper: Array
    p: Array
    paired: bool
    confidence: float
    a: Curve
    b: Curve

    @property
    def significant(self) -> NDArray[np.bool_]:
        """(k,) where the difference is significant for all depths together."""
        return np.asarray((self.lower > 0.0) | (self.upper < 0.0))

    def __repr__(self) -> str:
        return f"ProfileDifference({self.b.model} - {self.a.model}, {self.a.metric})"

    def __str__(self) -> str:
        above = self.significant & (self.difference > 0.0)
        below = self.significant & (self.difference < 0.0)
        parts = [
            f"{name} at depths {', '.join(f'{depth:.2f}' for depth in self.depths[mask])}"
            for name, mask in (("above", above), ("below", below))
            if mask.any()
        ]
        told = "; ".join(parts) if parts else "no significant difference at any depth"
        return f"{self.a.metric} ({self.a.filter}), {self.b.model} against {self.a.model}: {told}"


def compare_profiles(
    a: Sweep | pandas.DataFrame,
    b: Sweep | pandas.DataFrame,
    metric: str,
    filter: str = "all",
    *,
    models: tuple[str | None, str | None] = (None, None),
    revisions: tuple[str | None, str | None] = (None, None),
    stacks: tuple[str | None, str | None] = (None, None),
    sites: Sequence[str] = ("block",),
    confidence: float = 0.95,
    seed: int = 0,
) -> ProfileDifference:
    """Profile b less profile a over the normalized depth, significance for all depths together.

    a, b: as in `profile_shape`, each of one model, or named by `models` and `revisions`, of a model
    with two stacks by `stacks` too; the same sweep may stand twice. Depth is 0 at the first site
    and 1 at the last; the profile with more sites is interpolated linearly. Sweeps of the same
    tokens (before against after) are compared document by document. The band is max-t over the
    depths (Westfall & Young, 1993), on the scale of differences of the metric itself.

    Raises InputError as `profile_shape`.
    """
    check_confidence(confidence)
    whole_number("seed", seed, 0)
    for what, pair in (("models", models), ("revisions", revisions), ("stacks", stacks)):
        if not isinstance(pair, (tuple, list)) or len(pair) != 2:
            raise InputError(f"{what} must be two names, of a and of b, got {pair!r}")
    first, second = (
        curve_of(
            table, metric, filter, model=models[which], revision=revisions[which],
            stack=stacks[which], sites=sites, least=2,
        )
        for which, table in enumerate((a, b))
    )  # fmt: skip
    depths = min(first.positions, second.positions, key=len)
    # Places measured by both alone: a value beyond the last measured site would be made up.
    low = max(first.positions[0], second.positions[0])
    high = min(first.positions[-1], second.positions[-1])
    depths = depths[(depths >= low) & (depths <= high)]
    if not len(depths):
        raise InputError("the two profiles have no measured depth in common")
    difference = _at(second, depths, second.values) - _at(first, depths, first.values)
    paired = _paired(a, b, first, second)
    moved = [
        _at(curve, depths, _slope(curve) * curve.deviations(REPLICATES, seed + number))
        for number, curve in enumerate((first, second))
    ]
    if paired:
        moved[1] = _at(second, depths, _slope(second) * second.deviations(REPLICATES, seed))
    deviations = moved[1] - moved[0]
    spread = deviations.std(axis=0, ddof=1)
    # Where nothing moves (a profile against itself) there is no error, and a difference is sure.
    spread = np.maximum(spread, 1e-12 * np.abs(first.values).max() + 1e-300)
    largest = np.abs(deviations / spread).max(axis=1)
    freedom = min((c.n_groups - 1 for c in (first, second) if c.n_groups), default=0)
    if freedom:
        chi = np.random.default_rng([seed, 1]).chisquare(freedom, REPLICATES)
        largest = largest * np.sqrt(freedom / chi)
    critical = float(np.quantile(largest, confidence, method="higher"))
    t = np.abs(difference) / spread
    p = np.array([(1 + int((largest >= value).sum())) / (1 + REPLICATES) for value in t])
    half = critical * spread
    return ProfileDifference(
        depths, difference, difference - half, difference + half, p, paired, confidence,
        first, second,
    )  # fmt: skip


def _slope(curve: Curve) -> Array:
    """Change of the metric for a change on the working scale (L,)."""
    return np.asarray(1.0 / curve.scale.slope(curve.values))


def _at(curve: Curve, depths: Array, values: Array) -> Array:
    """Values (..., L) of the sites interpolated to the depths (..., k)."""
    after = np.clip(np.searchsorted(curve.positions, depths), 1, len(curve.positions) - 1)
    left, right = curve.positions[after - 1], curve.positions[after]
    share = (depths - left) / (right - left)
    return np.asarray(values[..., after - 1] * (1.0 - share) + values[..., after] * share)


def _paired(
    a: Sweep | pandas.DataFrame, b: Sweep | pandas.DataFrame, first: Curve, second: Curve
) -> bool:
    """Whether the documents of both are the same, token by token."""
    if not (isinstance(a, Sweep) and isinstance(b, Sweep)):
        return False
    if first.n_groups is None or first.n_groups != second.n_groups:
        return False
    # Runs of before have no hash of their tokens.
    tokens = [run_of(s, c).sample.get("tokens_sha256") for s, c in ((a, first), (b, second))]
    return tokens[0] == tokens[1] and tokens[0] is not None
