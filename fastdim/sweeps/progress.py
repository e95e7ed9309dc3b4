"""What a run tells while it works. The base class is silent; the command line draws bars."""

from __future__ import annotations

from typing import Any


class Progress:
    """Receives the events of a run; every method may be overridden, none must be."""

    def plan(self, plan: Any) -> None:
        """The `Plan` of the run, before anything expensive starts."""

    def start(self, stage: str, total: int, unit: str, done: int = 0) -> None:
        """A stage of `total` units begins; `done` of them were finished by an earlier start."""

    def advance(self, amount: int = 1) -> None:
        """`amount` more units of the current stage are finished."""

    def finish(self) -> None:
        """The current stage has ended."""
