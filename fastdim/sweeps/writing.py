"""Files written beside the computation: the disk confirms each before the next is begun."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType


class Writer:
    """Does what it is given in a thread of its own, in order; leaving the block waits for all.

    What one raises is raised by the next call, or on leaving; what was given after it is done all
    the same, unless that fails, too. Where the block itself fails, its own exception is raised.
    """

    def __enter__(self) -> Writer:
        self._thread = ThreadPoolExecutor(1)
        self._given: deque[Future[None]] = deque()
        return self

    def add(self, write: Callable[[], None]) -> None:
        """Queue a write, so that no error loses it, then look at those that are done."""
        self._given.append(self._thread.submit(write))
        self._look(wait=False)

    def wait(self) -> None:
        """Until all that was given is done."""
        self._look(wait=True)

    def _look(self, wait: bool) -> None:
        while self._given and (wait or self._given[0].done()):
            self._given.popleft().result()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._thread.shutdown()
        if error is None:
            self.wait()
