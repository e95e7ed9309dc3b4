"""One thread for every BLAS: nested, in overlapping threads, of libraries loaded later, forked."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
import types
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import pytest
from threadpoolctl import ThreadpoolController, threadpool_limits

from fastdim.backends import blas
from fastdim.backends.blas import one_blas_thread

WANTED = 3

# Python 3.12 and later warn of forks beside other threads.
pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")


def counts(shared: bool = False) -> set[int]:
    """Threads of every BLAS, as a fresh search finds them.

    shared: of those alone that have one number for all threads. OpenBLAS on OpenMP, as FAISS brings
    it along, has one a thread, and knows nothing of blocks of others.
    """
    found = ThreadpoolController().select(user_api="blas").lib_controllers
    return {library.num_threads for library in found if not (shared and blas._on_openmp(library))}


@pytest.fixture(autouse=True)
def several() -> Iterator[None]:
    """More than one thread before each test."""
    with threadpool_limits(WANTED, user_api="blas"):
        assert 1 not in counts(), "a BLAS here was built for one thread alone"
        yield


def test_nested_blocks_hold_until_the_outer_one_closes() -> None:
    before = counts()
    with one_blas_thread():
        assert counts() == {1}
        with one_blas_thread():
            assert counts() == {1}
        assert counts() == {1}
    assert counts() == before


def test_the_limit_ends_with_an_error() -> None:
    before = counts()
    with pytest.raises(ZeroDivisionError), one_blas_thread(), one_blas_thread():
        _ = 1 / 0
    assert counts() == before


def test_a_limit_that_others_lift_inside_holds_again_in_a_nested_block() -> None:
    with one_blas_thread(), threadpool_limits(WANTED, user_api="blas"), one_blas_thread():
        assert counts() == {1}


def test_blocks_of_threads_that_overlap() -> None:
    """The first to open closes first: the other one's limit holds, and nothing stays behind."""
    before = counts()
    opened, close, seen = threading.Event(), threading.Event(), list[set[int]]()

    def other() -> None:
        with one_blas_thread():
            opened.set()
            assert close.wait(30)
            seen.append(counts())

    thread = threading.Thread(target=other)
    with one_blas_thread():
        thread.start()
        assert opened.wait(30)
    seen.append(counts(shared=True))
    close.set()
    thread.join()
    assert seen == [{1}, {1}]
    assert counts() == before


class Library:
    """A BLAS as threadpoolctl shows it."""

    filepath = "/loaded/later.so"

    def __init__(self, internal_api: str, threading_layer: str) -> None:
        self.internal_api, self.threading_layer = internal_api, threading_layer
        self.local = threading.local()
        self.whole = 5

    @property
    def num_threads(self) -> int:
        own = self.threading_layer == "openmp"
        return getattr(self.local, "number", 5) if own else self.whole

    def set_num_threads(self, number: int) -> None:
        self.whole = self.local.number = number


def loads(monkeypatch: pytest.MonkeyPatch, late: Library) -> None:
    """As an import does that brings a BLAS."""

    class Found:
        def select(self, **kwargs: Any) -> Any:
            found = ThreadpoolController().select(**kwargs)
            found.lib_controllers.append(late)
            return found

    monkeypatch.setattr(blas, "ThreadpoolController", Found)
    monkeypatch.setitem(sys.modules, "fastdim_test_imported", types.ModuleType("imported"))


def test_a_number_for_each_thread_is_limited_and_restored_in_each(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """OpenBLAS on OpenMP: a thread that closes first gets its own number back."""
    late = Library("openblas", "openmp")
    loads(monkeypatch, late)
    seen = []

    def other() -> None:
        with one_blas_thread():
            seen.append(late.num_threads)
        seen.append(late.num_threads)

    with one_blas_thread():
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
        assert late.num_threads == 1
    assert seen == [1, 5]
    assert late.num_threads == 5


def test_libraries_are_looked_for_once_and_again_after_an_import(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    searches = []

    class Counting(ThreadpoolController):  # type: ignore[misc]  # threadpoolctl has no types
        def __init__(self) -> None:
            searches.append(1)
            super().__init__()

    with one_blas_thread():
        pass
    monkeypatch.setattr(blas, "ThreadpoolController", Counting)
    for _ in range(3):
        with one_blas_thread(), one_blas_thread():
            pass
    assert not searches
    monkeypatch.setitem(sys.modules, "fastdim_test_imported", types.ModuleType("imported"))
    with one_blas_thread(), one_blas_thread():
        assert counts() == {1}
    assert len(searches) == 1


def test_a_library_loaded_inside_a_block_is_limited_by_the_next_and_restored(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    late = Library("mkl", "intel")
    before = counts()
    with one_blas_thread():
        loads(monkeypatch, late)
        with one_blas_thread():
            assert late.num_threads == 1
        assert late.num_threads == 1
    assert late.num_threads == 5
    assert counts() == before


def test_as_a_decorator() -> None:
    @one_blas_thread()
    def product() -> set[int]:
        _ = np.ones((3, 3)) @ np.ones((3, 3))
        return counts()

    before = counts()
    assert product() == {1}
    assert product() == {1}
    assert counts() == before


@pytest.mark.parametrize(("api", "layer"), [("mkl", "intel"), ("openblas", "openmp")])
def test_a_block_that_fails_to_open_is_none(
    monkeypatch: pytest.MonkeyPatch, api: str, layer: str
) -> None:
    """One number for the process, and one for each thread: neither counts it for good."""

    class Broken(Library):
        def set_num_threads(self, number: int) -> None:
            if number == 1:
                raise OSError("no thread")
            super().set_num_threads(number)

    before = counts()
    loads(monkeypatch, Broken(api, layer))
    with pytest.raises(OSError, match="no thread"), one_blas_thread():
        pass
    assert counts() == before
    monkeypatch.undo()
    with one_blas_thread():
        assert counts() == {1}
    assert counts() == before


def in_child(holds: Callable[[], bool]) -> bool:
    """What holds in a forked child, which fails where it hangs."""
    child = os.fork()
    if child == 0:
        code = 2
        try:
            code = 0 if holds() else 1
        finally:
            os._exit(code)
    end = time.monotonic() + 30
    while time.monotonic() < end:
        found, status = os.waitpid(child, os.WNOHANG)
        if found:
            return status == 0
        time.sleep(0.002)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    pytest.fail("the child hangs")


@contextmanager
def meanwhile(work: Callable[[threading.Event, threading.Event], None]) -> Iterator[None]:
    """Another thread at work(begun, end) from `begun` on until the block closes."""
    begun, end = threading.Event(), threading.Event()
    thread = threading.Thread(target=work, args=(begun, end))
    thread.start()
    try:
        assert begun.wait(30)
        yield
    finally:
        end.set()
        thread.join()


def block(begun: threading.Event, end: threading.Event) -> None:
    with one_blas_thread():
        begun.set()
        end.wait(60)


def a_block_works(before: set[int]) -> bool:
    with one_blas_thread():
        inside = counts()
    return inside == {1} and counts() == before


def test_a_block_that_the_forking_thread_has_open_is_open_in_the_child() -> None:
    before = counts()
    stack = ExitStack()

    def holds() -> bool:
        inside = counts()
        stack.close()
        return inside == {1} and counts() == before and a_block_works(before)

    with stack:
        stack.enter_context(one_blas_thread())
        assert in_child(holds)
        with meanwhile(block):
            assert in_child(holds)
        assert counts() == {1}
    assert counts() == before


def test_blocks_of_other_threads_are_not_in_the_child() -> None:
    before = counts()
    with meanwhile(block):
        assert in_child(lambda: counts() == before and a_block_works(before))
        assert counts(shared=True) == {1}
    assert counts() == before


def test_a_child_opens_blocks_whatever_another_thread_was_at() -> None:
    before = counts()

    def blocks(begun: threading.Event, end: threading.Event) -> None:
        while not end.is_set():
            with one_blas_thread():
                begun.set()

    with meanwhile(blocks):
        for _ in range(40):
            assert in_child(lambda: counts() == before and a_block_works(before))
    assert counts() == before


def test_a_fork_waits_for_a_number_of_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """The library's own lock is free in the child: threadpoolctl has one for OpenBLAS."""

    class Slow(Library):
        lock, setting = threading.Lock(), threading.Event()

        def set_num_threads(self, number: int) -> None:
            with self.lock:
                self.setting.set()
                time.sleep(0.05)
                super().set_num_threads(number)

    late = Slow("mkl", "intel")
    loads(monkeypatch, late)
    before = counts()

    def slowly(begun: threading.Event, end: threading.Event) -> None:
        begun.set()
        block(begun, end)

    with meanwhile(slowly):
        assert late.setting.wait(30)
        assert in_child(lambda: late.num_threads == 5 and a_block_works(before))
    assert late.num_threads == 5


def test_a_handler_of_signals_may_fork_where_a_block_opens() -> None:
    before = counts()
    with blas._libraries.lock:
        assert in_child(lambda: a_block_works(before))
    assert a_block_works(before)
