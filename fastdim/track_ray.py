"""Checkpoints of a track as tasks of a Ray cluster: placed, retried, collected as they end.

The first checkpoint that can be measured says what the others must be, so it goes first; then all
others at once, as many as the cluster has room for. Each is a resumable run in the common output
folder: a task that starts again goes on at its last finished piece.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

from fastdim.backends.cpu import resolve_threads
from fastdim.errors import BackendError, FastdimError, StoreError, require
from fastdim.sweeps.progress import Progress
from fastdim.sweeps.record import RunRecord
from fastdim.track import Checkpoint, RayOptions, Work

Result = RunRecord | FastdimError


def measure_all(
    work: Work, chosen: Sequence[Checkpoint], options: RayOptions, progress: Progress
) -> list[tuple[Checkpoint, Result]]:
    """Every checkpoint with its run or its error, in the order given.

    Raises BackendError where the cluster has not what one task needs; StoreError of a task, after
    the tasks that run have been stopped.
    """
    ray: Any = require("ray", "ray")
    threads = resolve_threads(work.settings["threads"])
    if work.settings["threads"] is None:
        threads = 1  # tasks run side by side
    work = Work(
        work.corpus, work.output, work.name, work.keep, work.settings | {"threads": threads}
    )
    with _cluster(ray, options, threads):
        _check_room(ray, options, threads)
        task = ray.remote(_measure).options(
            num_cpus=threads,
            num_gpus=options.gpus,
            memory=options.memory or None,
            max_retries=options.retries,
        )
        shared = ray.put(work)
        found: dict[str, Result] = {}
        first: RunRecord | None = None
        progress.start("checkpoints", len(chosen), "checkpoints")
        left = list(chosen)
        while left and first is None:
            checkpoint = left.pop(0)
            result = _result(ray, task.remote(shared, checkpoint, None), checkpoint, options)
            found[checkpoint.name] = result
            first = result if isinstance(result, RunRecord) else None
            progress.advance()
        running = {task.remote(shared, checkpoint, first): checkpoint for checkpoint in left}
        try:
            while running:
                [done], _ = ray.wait(list(running), num_returns=1)
                checkpoint = running.pop(done)
                found[checkpoint.name] = _result(ray, done, checkpoint, options)
                progress.advance()
        finally:
            for waiting in running:
                ray.cancel(waiting, force=True)
        progress.finish()
    return [(checkpoint, found[checkpoint.name]) for checkpoint in chosen]


def _measure(work: Work, checkpoint: Checkpoint, first: RunRecord | None) -> Result | StoreError:
    """The task. Errors are handed over as values: Ray would wrap them in its own."""
    try:
        return work.measure(checkpoint, first, Progress())
    except StoreError as error:
        return error


def _result(ray: Any, task: Any, checkpoint: Checkpoint, options: RayOptions) -> Result:
    """What a task gave; BackendError as a value where its worker ended too often."""
    try:
        result: Result | StoreError = ray.get(task)
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
