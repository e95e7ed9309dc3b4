"""Processes that talk by gloo on this machine."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from pathlib import Path

import pytest


def run_ranks(main: Callable[[int, str], None], folder: Path, count: int = 4) -> None:
    """`main(rank, folder)` in `count` new processes; fails unless all of them end well."""
    spawn = multiprocessing.get_context("spawn")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GLOO_SOCKET_IFNAME", "lo")
        running = [spawn.Process(target=main, args=(rank, str(folder))) for rank in range(count)]
        for process in running:
            process.start()
        for process in running:
            process.join(timeout=300)
    assert [process.exitcode for process in running] == [0] * count
