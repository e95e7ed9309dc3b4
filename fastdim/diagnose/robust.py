"""Does a shape hold under every token filter and scale, and if not, which rows make it?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from fastdim.diagnose.curves import run_of
from fastdim.diagnose.shape import SMALLEST, ProfileShape, profile_shape
from fastdim.errors import InputError
from fastdim.sweeps.filters import FILTERS
from fastdim.sweeps.result import Sweep

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True)
class Flip:
    """A verdict that another filter changes, and the rows behind it.

    told: the rises and falls of the shape under the filter.
    label: the site where the metric changes most; before, after: its values there. removed: rows
    the filter leaves out there, of n_rows. rows: of the ten rows that carry most of s_1^2 there,
    those left out: share of s_1^2, token, document, position, norm. share: their sum.
    """

    filter: str
    shape: str
    told: str
    label: str
    before: float
    after: float
    removed: int
    n_rows: int
    rows: tuple[Mapping[str, Any], ...]
    share: float

    def __str__(self) -> str:
        left = (
            f"without {self.removed} of {self.n_rows} rows"
            if self.removed
            else f"of the same {self.n_rows} rows"
        )
        text = (
            f"{self.filter}: {self.shape} ({self.told}); most at {self.label}, "
            f"{self.before:.3g} to {self.after:.3g} {left}"
        )
        if self.rows:
            named = ", ".join(_named(row) for row in self.rows)
            text += f", among them {named}, together {100 * self.share:.1f} % of s1^2"
        return text


def _named(row: Mapping[str, Any]) -> str:
    token = f"{row['token']!r} " if row.get("token") else ""
    place = f"document {row['document']} position {row['position']}" if "position" in row else ""
    return f"{token}({place or 'row ' + str(row['row'])}, {100 * float(row['share']):.2g} %)"


@dataclass(frozen=True, eq=False)
class RobustShape:
    """The shape with all tokens, under every other filter, and of every scale.

    by_filter: shape by filter, "all" too. flips: filters under which the shape is another one, or
    none-of-these with other rises and falls. by_scale: shape by scale of the dimension, for
    `id_twonn` where scales were given.
    """

    shape: ProfileShape
    by_filter: dict[str, ProfileShape]
    flips: tuple[Flip, ...]
    by_scale: dict[str, ProfileShape] = field(default_factory=dict)

    @property
    def holds(self) -> bool:
        """Whether it rises and falls alike under every filter and scale."""
        others = (*self.by_filter.values(), *self.by_scale.values())
        return all(other.same_as(self.shape) for other in others)

    def __str__(self) -> str:
        names = ", ".join(f"{name}: {found.shape}" for name, found in self.by_filter.items())
        scales = ", ".join(f"{name}: {found.shape}" for name, found in self.by_scale.items())
        told = [str(self.shape), f"by filter: {names}"]
        told += [f"by scale: {scales}"] if scales else []
        told += [f"flips with {flip}" for flip in self.flips]
        return "\n".join(told)


def robust_shape(
    sweep: Sweep,
    metric: str,
    *,
    model: str | None = None,
    revision: str | None = None,
    stack: str | None = None,
    sites: Sequence[str] = ("block",),
    scales: pandas.DataFrame | None = None,
    smallest: float = SMALLEST,
    confidence: float = 0.95,
    seed: int = 0,
) -> RobustShape:
    """`profile_shape` under each filter of the sweep; a flip names the rows that make it.

    scales: for `id_twonn`, what `id_scales` gives. Other arguments as `profile_shape`.

    Raises InputError as `profile_shape`, and where the sweep has no filter "all".
    """
    if not isinstance(sweep, Sweep):
        raise InputError(
            "robust_shape needs a Sweep: the rows behind a flip stand beside the table"
        )
    options: dict[str, Any] = {"model": model, "revision": revision, "stack": stack}
    options |= {"sites": sites, "smallest": smallest, "confidence": confidence, "seed": seed}
    whole = profile_shape(sweep, metric, "all", **options)
    definition = run_of(sweep, whole.curve).definition
    by_filter = {"all": whole}
    for name in definition.filters:
        if name != "all":
            by_filter[name] = profile_shape(sweep, metric, name, **options)
    flips = tuple(
        _flip(sweep, whole, other) for other in by_filter.values() if not other.same_as(whole)
    )
    by_scale = {}
    if scales is not None:
        if metric != "id_twonn":
            raise InputError(f"scales belong to the metric id_twonn, and this is {metric}")
        if not hasattr(scales, "columns"):
            raise InputError(f"scales must be what id_scales gives, got {scales!r}")
        for name in scales["metric"].drop_duplicates():
            by_scale[str(name)] = profile_shape(scales, str(name), "all", **options)
    return RobustShape(whole, by_filter, flips, by_scale)


def _flip(sweep: Sweep, whole: ProfileShape, other: ProfileShape) -> Flip:
    """Where the two curves are farthest apart, and which of the strongest rows are gone there."""
    before = dict(zip(whole.curve.layers, whole.curve.values, strict=True))
    after = dict(zip(other.curve.layers, other.curve.values, strict=True))
    common = [layer for layer in whole.curve.layers if layer in after]
    if not common:
        raise InputError(f"no site has a value under both filters all and {other.filter}")
    layer = max(common, key=lambda number: abs(after[number] - before[number]))
    entries = {
        entry["filter"]: entry
        for entry in sweep.layers
        if (entry["model"], entry["revision"], entry["layer"])
        == (whole.model, whole.revision, layer)
    }
    entry = entries["all"]
    kept = {row["row"] for row in entries[other.filter]["top_rows"]}
    # The filter keeps every norm up to its limit, so the rows above the longest kept one are gone.
    limit = float(entries[other.filter]["norm_max"])
    gone = tuple(row for row in entry["top_rows"] if _left_out(row, other.filter, limit, kept))
    return Flip(
        filter=other.filter,
        shape=other.shape,
        told=other.reason.partition(" (")[0].partition(";")[0],
        label=whole.curve.labels[whole.curve.layers.index(layer)],
        before=float(before[layer]),
        after=float(after[layer]),
        removed=int(entries[other.filter]["n_removed"]),
        n_rows=int(entry["n_rows"]),
        rows=gone,
        share=float(np.sum([float(row["share"]) for row in gone])),
    )


def _left_out(row: Mapping[str, Any], name: str, limit: float, kept: set[int]) -> bool:
    """Whether a filter leaves a row out, by its own rule (`limit` of the norms); never one kept."""
    if row["row"] in kept or FILTERS[name].normalize:
        return False
    if name == "no_special":
        return bool(row.get("special")) or row.get("position") == 0
    if name == "no_outliers":
        return float(row["norm"]) > limit
    raise InputError(f"the rule of the filter {name} is not known here")
