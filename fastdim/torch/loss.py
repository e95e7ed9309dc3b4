"""A regularisation loss on the geometry of a layer's rows."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fastdim.arrays import one_of
from fastdim.errors import InputError
from fastdim.torch.inputs import number, select
from fastdim.torch.neighbors import mle, twonn
from fastdim.torch.spectral import anisotropy, mean_cosine, participation_ratio

MEASURES: dict[str, Callable[..., Tensor]] = {
    "twonn": twonn,
    "mle": mle,
    "participation_ratio": participation_ratio,
    "anisotropy": anisotropy,
    "mean_cosine": mean_cosine,
}
# Dimensions and ranks are above zero and compared by ratio, shares and cosines by difference.
BY_RATIO = ("twonn", "mle", "participation_ratio")


class GeometryLoss(torch.nn.Module):
    """weight * (distance of a measure of the rows from its target)^2, to be added to a loss.

    measure: "twonn", "mle", "participation_ratio" (distance: log(value / target)), "anisotropy",
        "mean_cosine" (distance: value - target).
    target: what the measure is drawn to. None: the loss is weight * value, so a positive weight
        lowers the measure and a negative one raises it.
    weight: factor of the loss. options: of the measure, e.g. k=10 or discard_fraction=0.2.

    `last` holds the measure of the latest call, detached, for logs.

    Raises InputError on an unknown measure, an option that it does not take, or a target or weight
    that cannot be.
    """

    last: Tensor | None

    def __init__(
        self,
        measure: str = "twonn",
        *,
        target: float | None = None,
        weight: float = 1.0,
        **options: Any,
    ) -> None:
        super().__init__()
        one_of("measure", measure, MEASURES)
        takes = list(inspect.signature(MEASURES[measure]).parameters)[1:]
        unknown = [name for name in options if name not in takes]
        if unknown:
            told = f"it takes {', '.join(takes)}" if takes else "it takes none"
            raise InputError(f"{measure} takes no option {', '.join(unknown)}: {told}")
        weight = number("weight", weight)
        if not math.isfinite(weight):
            raise InputError(f"weight must be finite, got {weight!r}")
        if target is not None:
            target = number("target", target)
            low = 0.0 if measure != "mean_cosine" else -1.0
            high = math.inf if measure in BY_RATIO else 1.0
            inside = low < target < high if measure in BY_RATIO else low <= target <= high
            if not inside:
                raise InputError(
                    f"target of {measure} must lie between {low:g} and {high:g}, got {target!r}"
                )
        self.measure = measure
        self.target = target
        self.weight = weight
        self.options = options
        self.last = None

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """The loss () of rows x (..., d), float32 or float64 as the measure.

        mask: (...), nonzero for rows that count, e.g. an attention mask; None for all.

        Raises what the measure raises, and InputError where the mask's shape is another.
        """
        rows = select(x, mask)
        value = MEASURES[self.measure](rows, **self.options)
        self.last = value.detach()
        if self.target is None:
            return self.weight * value
        if self.measure in BY_RATIO:
            return self.weight * (value / self.target).log().square()
        return self.weight * (value - self.target).square()

    def extra_repr(self) -> str:
        """Arguments, as printed by torch."""
        options = "".join(f", {name}={value!r}" for name, value in self.options.items())
        return f"{self.measure!r}, target={self.target}, weight={self.weight:g}{options}"
