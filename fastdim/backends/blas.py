"""Threads of the linear algebra that other packages bring along."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from threadpoolctl import threadpool_limits


@contextlib.contextmanager
def one_blas_thread() -> Iterator[None]:
    """Every BLAS in this process on one thread while the block runs.

    A decomposition of a few hundred columns gains a third from a second thread on an idle machine;
    where other programs run, threads that wait for each other spin and it takes many times longer:
    up to 8 s for 0.4. Products in float64 give other last bits on another number of threads, too:
    what must not depend on them is computed here (`@one_blas_thread()` does for a whole function).
    Libraries are looked for each time (2 ms): a package may have loaded another.
    """
    with threadpool_limits(1, user_api="blas"):
        yield
