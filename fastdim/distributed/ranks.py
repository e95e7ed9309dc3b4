"""The processes of a torch.distributed group: what they exchange, in one order, and how they fail.

Every method is collective: all ranks call it, in the same order. An error that one rank meets in
its own work is raised on all of them, so that none waits for another that has given up.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from fastdim.errors import FastdimError, InputError, RankError, RankMismatchError, require

T = TypeVar("T")
Float64 = NDArray[np.float64]

# What a rank's own work may fail with while the ranks stay together. Anything else is a bug: it
# ends the process, and the others are told by their broken connections.
FAILURES = (FastdimError, np.linalg.LinAlgError, MemoryError)


class Ranks:
    """A process group (None: the default one). Arrays travel over the CPU (gloo) or a GPU (nccl).

    rank, size: place of this process among those of the group.

    Raises InputError if no process group was made or this process is not of it.
    """

    def __init__(self, group: Any = None) -> None:
        require("torch", "torch")
        import torch
        import torch.distributed as dist

        if not dist.is_available() or not dist.is_initialized():
            raise InputError(
                "there is no process group: start the program with torchrun and call "
                "torch.distributed.init_process_group() first"
            )
        self.group = group
        self.rank = dist.get_rank(group)
        self.size = dist.get_world_size(group)
        if self.rank < 0:
            raise InputError("this process does not belong to the process group it was given")
        on_gpu = "nccl" in dist.get_backend(group)
        self._exchanges = 0
        self._device = torch.device("cuda", torch.cuda.current_device()) if on_gpu else None

    @property
    def first(self) -> bool:
        """Whether this is rank 0."""
        return self.rank == 0

    def gather(self, value: T) -> list[T]:
        """The (small, picklable) value of every rank, in their order."""
        import torch.distributed as dist

        found: list[Any] = [None] * self.size
        self._exchanges += 1
        with self._linked():
            dist.all_gather_object(found, (self._exchanges, value), group=self.group)
        if len({count for count, _ in found}) > 1:
            raise RankMismatchError(
                "the ranks have come apart: some are ahead of others, and their numbers cannot be "
                "trusted; start the same command again"
            )
        return [told for _, told in found]

    def settle(self, error: BaseException | None) -> None:
        """Raise on every rank the first rank's error, if any has one."""
        told = self.gather(None if error is None else _portable(error))
        for rank, found in enumerate(told):
            if found is not None:
                raise type(found)(f"rank {rank}: {found}") from error

    def each(self, work: Callable[[], T]) -> T:
        """What `work` gives here; if it fails on one rank, that error is raised on all."""
        error: BaseException | None = None
        result: list[T] = []
        try:
            result.append(work())
        except FAILURES as failure:
            error = failure
        self.settle(error)
        return result[0]

    def from_first(self, work: Callable[[], T]) -> T:
        """What `work` gives on rank 0, where alone it is called; its error is raised on all."""
        import torch.distributed as dist

        told: list[Any] = [None, None]
        if self.first:
            try:
                told[1] = work()
            except FAILURES as error:
                told[0] = _portable(error)
        with self._linked():
            source = self._global(0)
            dist.broadcast_object_list(told, src=source, group=self.group, device=self._device)
        if told[0] is not None:
            raise told[0]
        result: T = told[1]
        return result

    def agree(self, facts: Mapping[str, str]) -> None:
        """Raise RankMismatchError on all ranks, naming what differs, unless all give the same."""
        told = self.gather(dict(facts))
        lines = [
            f"{name}: {told[0].get(name)} on rank 0, {other.get(name)} on rank {rank}"
            for rank, other in enumerate(told)
            for name in sorted({*told[0], *other})
            if told[0].get(name) != other.get(name)
        ]
        if lines:
            raise RankMismatchError(
                "the processes do not run the same thing; these differ:\n  "
                + "\n  ".join(lines)
                + "\nInstall the same versions everywhere and start every rank with one command."
            )

    def concatenate(self, part: NDArray[Any]) -> NDArray[Any]:
        """The arrays of all ranks joined along the first axis, in the order of the ranks.

        They must have one dtype, and shapes equal but in the first axis.
        """
        import torch.distributed as dist

        part = np.ascontiguousarray(part)
        counts = self.gather(len(part))
        ends = np.cumsum([0, *counts])
        whole = np.empty((int(ends[-1]), *part.shape[1:]), dtype=part.dtype)
        for rank, count in enumerate(counts):
            inside = whole[ends[rank] : ends[rank + 1]]
            if rank == self.rank:
                inside[...] = part
            if count and inside.nbytes:
                with self._linked():
                    tensor = self._sent(inside)
                    dist.broadcast(tensor, src=self._global(rank), group=self.group)
                    self._received(tensor, inside)
        return whole

    def total(self, part: Float64) -> Float64:
        """The sum of the float64 arrays of all ranks, added in the order of the ranks.

        Each rank adds one slice and the slices are joined: the same bits on every rank, always.
        """
        flat = np.ascontiguousarray(part, dtype=np.float64).reshape(-1)
        ends = [len(flat) * rank // self.size for rank in range(self.size + 1)]
        slices = [flat[ends[rank] : ends[rank + 1]] for rank in range(self.size)]
        mine = [np.empty_like(slices[self.rank]) for _ in range(self.size)]
        mine[self.rank] = slices[self.rank]
        others = [rank for rank in range(self.size) if rank != self.rank]
        self._exchange(
            [(rank, slices[rank]) for rank in others], [(rank, mine[rank]) for rank in others]
        )()
        added = mine[0].copy()
        for other in mine[1:]:
            added += other
        return np.asarray(self.concatenate(added).reshape(part.shape))

    def ring(
        self, part: NDArray[Any], steps: int, work: Callable[[int, NDArray[Any]], None]
    ) -> None:
        """Pass the arrays (n, ...) round: `work(rank, array)` for the `steps` ranks before this.

        While one array is worked on, the next is on its way. An error of `work` is kept until all
        have gone round, then raised on every rank.
        """
        held = incoming = np.ascontiguousarray(part)
        counts = self.gather(len(held))
        after, before = (self.rank + 1) % self.size, (self.rank - 1) % self.size
        error: BaseException | None = None
        wait: Callable[[], None] | None = None
        for step in range(steps + 1):
            if wait is not None:
                wait()
                held = incoming
            owner = (self.rank - step) % self.size
            if step < steps:
                incoming = np.empty((counts[(owner - 1) % self.size], *part.shape[1:]), part.dtype)
                wait = self._exchange([(after, held)], [(before, incoming)])
            if step > 0 and error is None:
                try:
                    work(owner, held)
                except FAILURES as failure:
                    error = failure
        self.settle(error)

    def _exchange(
        self, sent: list[tuple[int, NDArray[Any]]], received: list[tuple[int, NDArray[Any]]]
    ) -> Callable[[], None]:
        """Start transfers to and from ranks; the function returned waits for their end.

        Empty arrays are left out on both sides.
        """
        import torch.distributed as dist

        taken = [(rank, array, self._room(array)) for rank, array in received if array.nbytes]
        with self._linked():
            operations = [
                dist.P2POp(dist.isend, self._sent(array), self._global(rank), self.group)
                for rank, array in sent
                if array.nbytes
            ]
            operations += [
                dist.P2POp(dist.irecv, tensor, self._global(rank), self.group)
                for rank, _, tensor in taken
            ]
            running = dist.batch_isend_irecv(operations) if operations else []

        def wait() -> None:
            with self._linked():
                for transfer in running:
                    transfer.wait()
                for _, array, tensor in taken:
                    self._received(tensor, array)

        return wait

    def _bytes(self, array: NDArray[Any]) -> Any:
        import torch

        return torch.from_numpy(array.reshape(-1).view(np.uint8))

    def _sent(self, array: NDArray[Any]) -> Any:
        """The bytes of a contiguous array as a tensor that the backend can send."""
        tensor = self._bytes(array)
        return tensor if self._device is None else tensor.to(self._device)

    def _room(self, array: NDArray[Any]) -> Any:
        """A tensor that the backend can receive the array into."""
        tensor = self._bytes(array)
        return (
            tensor if self._device is None else tensor.new_empty(len(tensor), device=self._device)
        )

    def _received(self, tensor: Any, array: NDArray[Any]) -> None:
        if self._device is not None:
            self._bytes(array).copy_(tensor)

    def _global(self, rank: int) -> int:
        import torch.distributed as dist

        return rank if self.group is None else dist.get_global_rank(self.group, rank)

    @contextlib.contextmanager
    def _linked(self) -> Iterator[None]:
        """Turn the backend's errors into one that says what has happened."""
        try:
            yield
        except FastdimError:
            raise
        except RuntimeError as error:
            detail = next(iter(str(error).splitlines()), type(error).__name__)
            raise RankError(
                f"rank {self.rank} of {self.size} has lost the others: one of them ended, its "
                f"machine cannot be reached, or it took longer than the timeout ({detail})"
            ) from error


def _portable(error: BaseException) -> BaseException:
    """The error as other processes can read and raise it: one of FAILURES, from its text alone."""
    if isinstance(error, MemoryError):
        return MemoryError(str(error) or "out of memory")
    if isinstance(error, np.linalg.LinAlgError):
        return np.linalg.LinAlgError(str(error))
    return type(error)(str(error))
