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
        self.before: dict[str, tuple[Any, int]] = {}

    def enter(self, libraries: list[Any]) -> None:
        self.open += 1
        try:
            for library in libraries:
                if library.filepath not in self.before:
                    self.before[library.filepath] = library, library.num_threads
                _set_threads(library, 1)
        except BaseException:
            self.leave()
            raise

    def leave(self) -> None:
        self.keep(self.open - 1)

    def keep(self, count: int) -> None:
        """So many blocks are open now; without any, the numbers of threads are restored."""
        self.open = count
        while not self.open and self.before:
            library, number = self.before.popitem()[1]
            _set_threads(library, number)
            _release(library)


class _LimitOfThread(_Limit, threading.local):
    """Of OpenBLAS on OpenMP, which has a number of threads for every thread that calls it."""


class _Libraries:
    """The libraries of this process, and which limits hold for them."""

    def __init__(self) -> None:
        # Reentrant: a handler of signals may open a block, or fork, where this thread holds it.
        self.lock = threading.RLock()
        self.modules = 0
        self.shared: list[Any] = []
        self.own: list[Any] = []
        self.limit, self.limit_of_thread = _Limit(), _LimitOfThread()

    def enter(self) -> None:
        if len(sys.modules) != self.modules:
            self.look()
        with self.lock:
            self.limit.enter(self.shared)
            try:
                self.limit_of_thread.enter(self.own)
            except BaseException:
                self.limit.leave()
                raise

    def look(self) -> None:
        """Search, without the lock: a search may warn, and thereby run code of others."""
        # Counted before the search: what is imported meanwhile is looked for next time.
        modules = len(sys.modules)
        found = ThreadpoolController().select(user_api="blas").lib_controllers
        with self.lock:
            self.own = [library for library in found if _on_openmp(library)]
            self.shared = [library for library in found if not _on_openmp(library)]
            self.modules = modules

    def leave(self) -> None:
        with self.lock:
            try:
                self.limit.leave()
            finally:
                self.limit_of_thread.leave()

    def before_fork(self) -> None:
        """Waits until no other thread holds this lock, nor threadpoolctl's, taken under it."""
        self.lock.acquire()

    def after_fork_in_parent(self) -> None:
        self.lock.release()

    def after_fork_in_child(self) -> None:
        """Blocks of other threads are none of the child's: those of the forking thread alone."""
        # Renewed, not released: other threads may have been about to take it.
        self.lock = threading.RLock()
        # A block counts in both limits, and the second one knows those of this thread.
        if self.limit.open != self.limit_of_thread.open:
            self.limit.keep(self.limit_of_thread.open)


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


os.register_at_fork(
    before=_libraries.before_fork,
    after_in_parent=_libraries.after_fork_in_parent,
    after_in_child=_libraries.after_fork_in_child,
)


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
