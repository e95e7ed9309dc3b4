"""When a training is measured: steps at equal distances on a logarithmic scale."""

from __future__ import annotations

import math
from collections.abc import Collection

from fastdim.arrays import whole_number
from fastdim.errors import InputError


class LogSteps:
    """Steps 10^(i / per_decade), rounded: 1, 2, 5, 10, 22, 46, 100, ... for 3 a decade.

    The first steps are dense, since a first phase of training lies there, and the number of
    measurements grows with the logarithm of the length of training, which need not be known.
    Raises InputError on a rate below 1.
    """

    def __init__(self, per_decade: int = 3) -> None:
        self.per_decade = whole_number("per_decade", per_decade, 1)

    def __contains__(self, step: object) -> bool:
        if not isinstance(step, int) or step < 1:
            return False
        near = round(self.per_decade * math.log10(step))
        return step in {self._step(place) for place in (near - 1, near, near + 1)}

    def until(self, last: int) -> list[int]:
        """The steps up to `last`, ascending, with `last` itself."""
        whole_number("last", last, 1)
        places = range(int(self.per_decade * math.log10(last)) + 2)
        return sorted({step for place in places if (step := self._step(place)) < last} | {last})

    def _step(self, place: int) -> int:
        return round(math.pow(10.0, place / self.per_decade))


def check_steps(steps: int | Collection[int] | LogSteps) -> Collection[int] | LogSteps:
    """What a tracker takes as `steps`: a number a decade, or the steps themselves.

    Raises InputError on anything else.
    """
    if isinstance(steps, LogSteps):
        return steps
    if isinstance(steps, int):
        return LogSteps(steps)
    wrong = next((step for step in steps if not isinstance(step, int) or step < 0), None)
    if wrong is not None or not steps:
        raise InputError(
            f"steps must be whole numbers from 0 on, at least one, got {wrong!r}: give steps, or "
            "how many a decade (steps=3)"
        )
    return frozenset(steps)
