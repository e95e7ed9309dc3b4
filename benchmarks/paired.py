"""Paired timing: the programs of a case take turns, so that a busy machine slows all of them."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any

from tables import Line
from worker import commit, measured

# A program that takes longer than the first runs at most three times, than the second once.
LONG_SECONDS, VERY_LONG_SECONDS = 30, 100


def in_turns(
    case: str,
    x: Any,
    programs: dict[str, Callable[[], Any]],
    repeats: int,
    peers: list[str],
    elsewhere: tuple[str, ...] = (),
    check: Callable[[dict[str, Any]], None] | None = None,
) -> tuple[list[Line], dict[str, Any]]:
    """A line of each program on rows x (n, d), and its last result.

    peers: programs whose time is put in proportion to every other's. elsewhere: programs that run
    in another process, whose memory is not looked at. check: raises if results are wrong, those of
    an untimed run of each before any is timed; None where that was looked at before. Peak: the
    highest resident memory of a run less that before it and the array that it returned.
    """
    seconds: dict[str, list[float]] = {program: [] for program in programs}
    peaks: dict[str, int] = dict.fromkeys(programs, 0)
    found: dict[str, Any] = {}
    if check is not None:
        found = {name: run() for name, run in programs.items()}
        check(found)
    for turn in range(repeats):
        for program, run in programs.items():
            longest = max(seconds[program], default=0.0)
            if (turn >= 3 and longest > LONG_SECONDS) or longest > VERY_LONG_SECONDS:
                continue
            found[program], spent, peak = measured(run)
            seconds[program].append(spent)
            returned = getattr(found[program], "nbytes", 0)
            peaks[program] = max(peaks[program], peak - returned)
    medians = {program: statistics.median(times) for program, times in seconds.items()}
    at = commit()
    lines = [
        Line(
            case=case,
            program=program,
            rows=len(x),
            columns=x.shape[1],
            runs=len(times),
            median=medians[program],
            least=min(times),
            most=max(times),
            ratios={peer: medians[peer] / medians[program] for peer in peers if peer != program},
            peak=None if program in elsewhere else peaks[program] / x.nbytes,
            commit=at,
        )
        for program, times in seconds.items()
    ]
    return lines, found
