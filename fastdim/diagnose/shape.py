"""The shape of a profile as the result of a test: bell, plateau, valley, rising, falling, flat."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Real
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastdim.diagnose.curves import REPLICATES, Curve, curve_of
from fastdim.diagnose.moves import Moves, find_moves, split
from fastdim.diagnose.unimodal import stretch, unimodal
from fastdim.errors import InputError
from fastdim.estimate import check_confidence
from fastdim.sweeps.result import Sweep

if TYPE_CHECKING:
    import pandas

Array = NDArray[np.float64]

SHAPES = ("bell", "plateau", "valley", "rising", "falling", "flat", "none-of-these")
SMALLEST = 0.1
# A top is a plateau where the width at four fifths of the height is this share of that at two
# fifths: a parabola has 0.62, a Gaussian 0.54, a triangle 0.41, a trapezoid with steep sides 0.9.
PLATEAU = 0.72
# Replicates whose peak and width are fitted.
FITTED = 300


class Interval(NamedTuple):
    """A number with its interval."""

    value: float
    lower: float
    upper: float

    def __str__(self) -> str:
        return f"{self.value:.3g} ({self.lower:.3g} to {self.upper:.3g})"


@dataclass(frozen=True, eq=False, repr=False)
class ProfileShape:
    """The verdict on one metric of one model under one token filter.

    shape: one of SHAPES. directions: of its pieces, +1 up and -1 down; None where no pieces explain
    the differences. p_flat: against all sites being equal; p_monotone: against never falling
    and against never rising, the larger of the two. Both adjusted for all pairs of sites.
    peak: middle of the top (of the bottom, for a valley), which is what lies above four fifths of
    the height, as a share of the depth: 0 at the first site, 1 at the last. width: share of the
    depth above half the height. Both None unless the shape has a peak. against_first, against_last:
    peak less the first and the last site, in units of the metric (for other shapes: highest site
    less first, and last). Intervals at `confidence`.
    smallest: differences below it count as none: absolute for shares and cosines, else relative.
    basis: where the errors come from. missing: sites without a value, with the reason.
    """

    shape: str
    directions: tuple[int, ...] | None
    metric: str
    filter: str
    model: str
    revision: str
    p_flat: float
    p_monotone: float
    peak: Interval | None
    width: Interval | None
    against_first: Interval
    against_last: Interval
    smallest: float
    confidence: float
    basis: str
    reason: str
    curve: Curve
    moves: Moves
    missing: tuple[tuple[str, str], ...]

    def same_as(self, other: ProfileShape) -> bool:
        """Whether both rise and fall alike: two none-of-these may be as different as any others."""
        return (self.shape, self.directions) == (other.shape, other.directions)

    def __repr__(self) -> str:
        return f"ProfileShape({self.shape}: {self.metric}, {self.filter}, {self.model})"

    def __str__(self) -> str:
        where = ""
        if self.peak is not None and self.width is not None:
            name = "trough" if self.shape == "valley" else "peak"
            where = f"; {name} at {self.peak} of the depth, width {self.width}"
        return (
            f"{self.metric} over the depth ({self.filter}): {self.shape}{where}; p (flat) "
            f"{self.p_flat:.2g}, p (monotone) {self.p_monotone:.2g}; {self.reason}"
        )


def profile_shape(
    table: Sweep | pandas.DataFrame,
    metric: str,
    filter: str = "all",
    *,
    model: str | None = None,
    revision: str | None = None,
    stack: str | None = None,
    sites: Sequence[str] = ("block",),
    smallest: float = SMALLEST,
    confidence: float = 0.95,
    seed: int = 0,
) -> ProfileShape:
    """Name the shape of a metric over the depth, by tests between all pairs of sites.

    table: a `Sweep`: errors by a bootstrap over documents, all sites together, without the model;
        or a frame with the columns of `Sweep.table`: errors from its column `stderr`, sites
        independent. metric, filter: as in the table; model, revision, stack: where it holds
        several. sites: kinds that belong to the profile, in the order of the forward pass.
    smallest: a difference that counts, absolute for shares and cosines, else relative.

    A pair of sites differs if it does at level `confidence` for all pairs together (`moves`) and by
    `smallest`. The shape is the fewest monotone pieces that contradict no difference: none is flat,
    one rising or falling, up-down a bell or, with a wide top, a plateau, down-up a valley; more, or
    pieces that do not exist, none-of-these. Flat is what no test refused, not a proof.

    Raises InputError on unknown names, several models, a site that stands twice (two runs of one
    model), fewer than 4 sites, or no errors.
    """
    check_confidence(confidence)
    check_smallest(smallest)
    curve = curve_of(
        table, metric, filter, model=model, revision=revision, stack=stack, sites=sites
    )
    return shape_of(curve, smallest, confidence, seed)


def check_smallest(smallest: Any) -> float:
    """`smallest` itself; InputError unless it is a number of at least 0."""
    number = isinstance(smallest, Real) and not isinstance(smallest, bool)
    if not (number and math.isfinite(smallest) and smallest >= 0.0):
        raise InputError(f"smallest must be a finite number of at least 0, got {smallest!r}")
    return float(smallest)


def shape_of(curve: Curve, smallest: float, confidence: float, seed: int) -> ProfileShape:
    """`profile_shape` of a curve."""
    moves = find_moves(curve, smallest, confidence, seed)
    pieces = split(moves.signs, curve.z)
    directions = None if pieces is None else [piece.direction for piece in pieces]
    peak = across = None
    flatness = 0.0
    if directions in ([1, -1], [-1, 1]):
        turned = 1 if directions == [1, -1] else -1
        peak, across, over_first, over_last, top = _measures(curve, turned, confidence, seed)
        flatness = top.value
    else:
        over_first, over_last = _heights(curve, confidence, seed)
    named = {(): "flat", (1,): "rising", (-1,): "falling", (-1, 1): "valley"}
    named[1, -1] = "plateau" if flatness >= PLATEAU else "bell"
    shape = "none-of-these" if directions is None else named.get(tuple(directions), "none-of-these")
    reason = _reason(curve, moves, directions, smallest, confidence, flatness)
    return ProfileShape(
        shape=shape,
        directions=None if directions is None else tuple(directions),
        metric=curve.metric,
        filter=curve.filter,
        model=curve.model,
        revision=curve.revision,
        p_flat=moves.p_flat,
        p_monotone=moves.p_monotone,
        peak=peak,
        width=across,
        against_first=over_first,
        against_last=over_last,
        smallest=smallest,
        confidence=confidence,
        basis=curve.basis,
        reason=reason,
        curve=curve,
        moves=moves,
        missing=curve.missing,
    )


def _heights(curve: Curve, confidence: float, seed: int) -> list[Interval]:
    """Highest site less the first and less the last one, the site being the highest measured."""
    top = int(np.argmax(curve.values))
    moved = curve.scale.backward(curve.z + curve.deviations(REPLICATES, seed + 1))
    tail = (1.0 - confidence) / 2.0
    found = []
    for end in (0, -1):
        apart = moved[:, top] - moved[:, end]
        low, high = (float(q) for q in np.quantile(apart, [tail, 1.0 - tail]))
        found.append(Interval(float(curve.values[top] - curve.values[end]), low, high))
    return found


def _measures(curve: Curve, turned: int, confidence: float, seed: int) -> list[Interval]:
    """Peak, width, height over the first and over the last site, flatness of the top.

    Ends of the intervals are quantiles of replicates, reflected about the value (the basic
    bootstrap), which takes off the bias of a maximum; positions stay within the depth.
    """
    weights = 1.0 / np.maximum(np.diag(curve.covariance()), 1e-300)
    weights = weights / weights.max()
    weights = np.maximum(weights, 1e-6)

    def measure(values: Array) -> list[float]:
        fit = unimodal(turned * values, weights)
        ends = [stretch(curve.positions, fit, level) for level in (0.5, 0.8, 0.4)]
        half, inner, outer = (right - left for left, right in ends)
        top = float(fit.max())
        heights = [turned * (top - float(fit[0])), turned * (top - float(fit[-1]))]
        flat = inner / outer if outer > 0.0 else 0.0
        return [0.5 * (ends[1][0] + ends[1][1]), half, *heights, flat]

    whole = measure(curve.values)
    moved = curve.z + curve.deviations(FITTED, seed + 1)
    found = np.array([measure(values) for values in curve.scale.backward(moved)])
    tail = (1.0 - confidence) / 2.0
    low, high = np.quantile(found, [tail, 1.0 - tail], axis=0)
    ends = [
        (float(low[0]), float(high[0])),
        *((2.0 * whole[k] - float(high[k]), 2.0 * whole[k] - float(low[k])) for k in range(1, 5)),
    ]
    ends[1] = (min(max(0.0, ends[1][0]), 1.0), min(max(0.0, ends[1][1]), 1.0))
    return [Interval(value, *end) for value, end in zip(whole, ends, strict=True)]


def _reason(
    curve: Curve,
    moves: Moves,
    directions: list[int] | None,
    smallest: float,
    confidence: float,
    flatness: float,
) -> str:
    unit = f"{100 * smallest:g} %" if curve.relative else f"{smallest:g}"
    if directions == []:
        if moves.p_flat <= 1.0 - confidence:
            return f"sites differ, but no pair by {unit}"
        return "no pair of sites differs"
    told = {1: "rises", -1: "falls"}
    if directions is None:
        return "differences that no sequence of rises and falls explains"
    text = ", then ".join(told[direction] for direction in directions)
    strongest = float(np.abs(moves.t).max())
    text += f" (largest difference {strongest:.1f} errors, {moves.critical:.1f} needed)"
    if directions == [1, -1]:
        text += f"; width at 4/5 of the height is {flatness:.2f} of that at 2/5"
    return text
