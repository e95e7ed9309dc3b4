"""Paired timing: the programs of a case take turns, so that a busy machine slows all of them."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any


def in_turns(
    programs: dict[str, Callable[[], Any]], repeats: int
) -> tuple[dict[str, list[float]], dict[str, Any]]:
    """Seconds of each program, `repeats` rounds after an untimed one; its last result."""
    seconds: dict[str, list[float]] = {name: [] for name in programs}
    results = {name: run() for name, run in programs.items()}
    for _ in range(repeats):
        for name, run in programs.items():
            start = time.perf_counter()
            results[name] = run()
            seconds[name].append(time.perf_counter() - start)
    return seconds, results


def table(case: str, seconds: dict[str, list[float]], peers: list[str]) -> str:
    """Lines of Markdown: median, range, and each peer's time over the program's, by medians."""
    lines = []
    for name, times in seconds.items():
        median = statistics.median(times)
        ratios = " | ".join(f"{statistics.median(seconds[peer]) / median:.2f}" for peer in peers)
        lines.append(
            f"| {case} | {name} | {median:.3f} | {min(times):.3f}-{max(times):.3f} | {ratios} |"
        )
    return "\n".join(lines)


def header(peers: list[str]) -> str:
    """The head of the table."""
    names = " | ".join(f"{peer} / this" for peer in peers)
    return f"| case | program | median s | range s | {names} |\n|{'---|' * (4 + len(peers))}"
