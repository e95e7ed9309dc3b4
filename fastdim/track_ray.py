"""Checkpoints of a track as tasks of a Ray cluster: placed, retried, collected as they end.

The first checkpoint of a model that can be measured says what the others must be, so it goes first;
then all others at once, of all models, as many as the cluster has room for. Each is a resumable run
in the common output folder: a task that starts again goes on at its last finished piece.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from fastdim.backends.cpu import resolve_threads
from fastdim.errors import BackendError, FastdimError, StoreError, require
from fastdim.sweeps.progress import Progress
from fastdim.sweeps.record import RunRecord
from fastdim.track import Measured, RayOptions, Training, Work
from fastdim.track_result import Checkpoint

Result = RunRecord | FastdimError


def measure_all(
    trainings: Sequence[Training], options: RayOptions, progress: Progress
) -> list[list[Measured]]:
    """Every checkpoint of each training with its run or its error, in the order given.

    Raises BackendError where the cluster has not what one task needs; StoreError of a task, after
    the tasks that run have been stopped.
    """
    ray: Any = require("ray", "ray")
    threads = resolve_threads(trainings[0].work.settings["threads"])
    if trainings[0].work.settings["threads"] is None:
        threads = 1  # tasks run side by side
    with _cluster(ray, options, threads):
        _check_room(ray, options, threads)
        task = ray.remote(_measure).options(
            num_cpus=threads,
            num_gpus=options.gpus,
            memory=options.memory or None,
            max_retries=options.retries,
        )
        waiting = [_Waiting(ray, task, training, threads) for training in trainings]
        total = sum(len(training.chosen) for training in trainings)
        progress.start("checkpoints", total, "checkpoints")
        running = {key: item for item in waiting for key in item.start()}
        try:
            while running:
                [done], _ = ray.wait(list(running), num_returns=1)
                item = running.pop(done)
                item.take(done, _result(ray, done, options))
                running |= dict.fromkeys(item.start(), item)
                progress.advance()
        finally:
            for left in running:
                ray.cancel(left, force=True)
        progress.finish()
    return [item.in_order() for item in waiting]


class _Waiting:
    """What of a training has still to be measured: one checkpoint until one could be, then all."""

    def __init__(self, ray: Any, task: Any, training: Training, threads: int) -> None:
        work = replace(training.work, settings=training.work.settings | {"threads": threads})
        self.shared = ray.put(work)
        self.task = task
        self.chosen = training.chosen
        self.left = list(training.chosen)
        self.asked: dict[Any, Checkpoint] = {}
        self.first: RunRecord | None = None
        self.found: dict[str, Result] = {}

    def start(self) -> list[Any]:
        """Start the tasks that may run now, and return them."""
        most = len(self.left) if self.first is not None else int(not self.asked)
        ready = self.left[:most]
        self.left = self.left[len(ready) :]
        made = {self.task.remote(self.shared, item, self.first): item for item in ready}
        self.asked |= made
        return list(made)

    def take(self, done: Any, result: Result) -> None:
        """Keep what a task gave."""
        self.found[self.asked.pop(done).name] = result
        if self.first is None and isinstance(result, RunRecord):
            self.first = result

    def in_order(self) -> list[Measured]:
        """Every checkpoint with what it gave."""
        return [(item, self.found[item.name]) for item in self.chosen]


def _measure(work: Work, checkpoint: Checkpoint, first: RunRecord | None) -> Result:
    """The task. Errors are handed over as values: Ray would wrap them in its own."""
    try:
        return work.measure(checkpoint, first, Progress())
    except FastdimError as error:
        return error


def _result(ray: Any, task: Any, options: RayOptions) -> Result:
    """What a task gave; BackendError as a value where its worker ended too often."""
    try:
        result: Result = ray.get(task)
    except (
        ray.exceptions.WorkerCrashedError,
        ray.exceptions.NodeDiedError,
        ray.exceptions.OutOfMemoryError,
    ) as error:
        detail = next(iter(str(error).splitlines()), type(error).__name__)
        return BackendError(
            f"its worker ended, {options.retries + 1} of {options.retries + 1} times (out of "
            "memory, killed, or its machine "
            f"lost): {detail}; what it finished is kept, the same command goes on there"
        )
    if isinstance(result, StoreError):
        raise result
    return result


@contextlib.contextmanager
def _cluster(ray: Any, options: RayOptions, threads: int) -> Iterator[None]:
    """A running cluster, or one on this machine for as long as the block runs."""
    if ray.is_initialized():
        yield
        return
    given: dict[str, Any] = {"address": options.address}
    if options.address is None:
        given = {"include_dashboard": False, "num_cpus": max(threads, resolve_threads(None))}
    try:
        ray.init(log_to_driver=False, logging_level="ERROR", **given)
    except (ConnectionError, ValueError, TimeoutError) as error:
        detail = next(iter(str(error).splitlines()), type(error).__name__)
        raise BackendError(
            f"no Ray cluster answers at {options.address!r}: {detail}. Start one with `ray start`, "
            "or leave the address out to use this machine"
        ) from error
    try:
        yield
    finally:
        ray.shutdown()


def _check_room(ray: Any, options: RayOptions, threads: int) -> None:
    """Raise BackendError where no machine can take a task: Ray itself would wait for ever."""
    wanted = {"CPU": float(threads), "GPU": options.gpus, "memory": float(options.memory)}
    machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    if any(all(node.get(kind, 0.0) >= need for kind, need in wanted.items()) for node in machines):
        return
    asked = ", ".join(f"{need:g} {kind}" for kind, need in wanted.items() if need)
    there = "; ".join(
        ", ".join(f"{node.get(kind, 0.0):g} {kind}" for kind in wanted) for node in machines
    )
    raise BackendError(
        f"no machine of the Ray cluster has what a checkpoint takes ({asked}); they have: {there}. "
        "Ask for less, or add such a machine"
    )
