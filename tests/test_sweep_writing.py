"""Files written beside the computation: in order, none lost, and no failure swallowed."""

from __future__ import annotations

import threading
from functools import partial

import pytest

from fastdim.errors import StoreError
from fastdim.sweeps.writing import Writer


def fail(words: str) -> None:
    raise StoreError(words)


def test_everything_is_done_in_order_by_another_thread() -> None:
    done: list[tuple[int, bool]] = []
    here = threading.current_thread()

    def write(number: int) -> None:
        done.append((number, threading.current_thread() is here))

    with Writer() as writer:
        for number in range(50):
            writer.add(partial(write, number))
        writer.wait()
        assert len(done) == 50
        writer.add(partial(write, 50))
    assert done == [(number, False) for number in range(51)]


def test_a_failure_is_raised_by_the_next_call_and_what_was_given_is_done() -> None:
    done: list[int] = []
    go_on = threading.Event()

    def fail_at_last() -> None:
        go_on.wait()
        fail("full")

    def given() -> None:
        with Writer() as writer:
            writer.add(fail_at_last)
            writer.add(partial(done.append, 1))
            go_on.set()
            writer.wait()
            done.append(-1)  # not reached

    with pytest.raises(StoreError, match="full"):
        given()
    assert done == [1]


def test_a_failure_of_the_last_is_raised_on_leaving() -> None:
    with pytest.raises(StoreError, match="the last"), Writer() as writer:
        writer.add(partial(fail, "the last"))


def test_the_error_of_the_block_comes_first_and_writes_are_finished() -> None:
    done: list[int] = []
    begun, go_on = threading.Event(), threading.Event()

    def write() -> None:
        begun.set()
        go_on.wait()
        done.append(1)

    def interrupted() -> None:
        with Writer() as writer:
            writer.add(write)
            writer.add(partial(fail, "hidden by the interrupt"))
            begun.wait()
            go_on.set()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert done == [1]
