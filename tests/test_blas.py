"""One thread for every BLAS: nested, in overlapping threads, of libraries loaded later."""

from __future__ import annotations

import sys
import threading
import types
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from threadpoolctl import ThreadpoolController, threadpool_limits

from fastdim.backends import blas
from fastdim.backends.blas import one_blas_thread

WANTED = 3


def counts() -> set[int]:
    """Threads of every BLAS, as a fresh search finds them."""
    found = ThreadpoolController().select(user_api="blas").lib_controllers
    return {library.num_threads for library in found}


@pytest.fixture(autouse=True)
def several() -> Iterator[None]:
    """More than one thread before each test, as far as the libraries were built for."""
    with threadpool_limits(WANTED, user_api="blas"):
        if 1 in counts():
            pytest.skip("a BLAS here has one thread alone")
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
    seen.append(counts())
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
