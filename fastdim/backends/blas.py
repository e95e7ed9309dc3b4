"""Threads of the linear algebra that other packages bring along."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections.abc import Iterator
from typing import Any

from threadpoolctl import ThreadpoolController


class _Limit:
    """Blocks open at a time, and the numbers of threads of before the first of them.

    The first block to open notes the number of threads of a library, the last one to close restores
    it. Would each restore what it found, one that closes early would lift the limit of another.
    """

    def __init__(self) -> None:
        self.open = 0
        self.before: dict[str, int] = {}

    def enter(self, libraries: list[Any]) -> None:
        for library in libraries:
            self.before.setdefault(library.filepath, library.num_threads)
            _set_threads(library, 1)
        self.open += 1

    def leave(self, libraries: list[Any]) -> None:
        self.open -= 1
        if self.open == 0:
            for library in libraries:
                if library.filepath in self.before:
                    _set_threads(library, self.before[library.filepath])
            self.before.clear()


class _LimitOfThread(_Limit, threading.local):
    """Of OpenBLAS on OpenMP, which has a number of threads for every thread that calls it."""


class _Libraries:
    """The libraries of this process, and which limits hold for them."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.modules = 0
        self.shared: list[Any] = []
        self.own: list[Any] = []
        self.limit, self.limit_of_thread = _Limit(), _LimitOfThread()

    def enter(self) -> None:
        with self.lock:
            if len(sys.modules) != self.modules:
                # Counted before the search: what is imported meanwhile is looked for next time.
                self.modules = len(sys.modules)
                found = ThreadpoolController().select(user_api="blas").lib_controllers
                self.own = [library for library in found if _on_openmp(library)]
                self.shared = [library for library in found if not _on_openmp(library)]
            self.limit.enter(self.shared)
            self.limit_of_thread.enter(self.own)

    def leave(self) -> None:
        with self.lock:
            self.limit.leave(self.shared)
            self.limit_of_thread.leave(self.own)
            if not self.limit.open:
                for library in self.shared:
                    _release(library)


def _on_openmp(library: Any) -> bool:
    return bool(library.internal_api == "openblas" and library.threading_layer == "openmp")


def _set_threads(library: Any, number: int) -> None:
    _release(library)
    library.set_num_threads(number)


def _release(library: Any) -> None:
    """Let any thread set the number: threadpoolctl from 3.8 on ignores all but the first to."""
    if hasattr(library, "clear_controlling_thread"):
        library.clear_controlling_thread(force=True)


_libraries = _Libraries()


def _renew_lock() -> None:
    _libraries.lock = threading.Lock()


if hasattr(os, "register_at_fork"):  # not on Windows
    # A thread that held the lock is none of the child's, and would never release it.
    os.register_at_fork(after_in_child=_renew_lock)


@contextlib.contextmanager
def one_blas_thread() -> Iterator[None]:
    """Every BLAS in this process on one thread while the block runs.

    A decomposition of a few hundred columns gains a third from a second thread on an idle machine;
    where other programs run, threads that wait for each other spin and it takes many times longer:
    up to 8 s for 0.4. Products in float64 give other last bits on another number of threads, too:
    what must not depend on them is computed here (`@one_blas_thread()` does for a whole function).
    Blocks may be nested, and overlap in several threads: the limit holds until the last one closes.
    Libraries are looked for (2 to 6 ms) where the number of imported modules has changed since, for
    a package may have loaded another; otherwise a block costs some microseconds.
    """
    _libraries.enter()
    try:
        yield
    finally:
        _libraries.leave()
