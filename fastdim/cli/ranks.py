"""A command on several processes: started by torchrun or by whatever sets the same variables.

One message is printed of what ends the run: rank 0 tells what all ranks have met, and of a lost
rank the first to notice tells.
"""

from __future__ import annotations

import contextlib
import datetime
import os
import queue
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

from fastdim.backends.cpu import resolve_threads
from fastdim.cli import USAGE
from fastdim.distributed.ranks import Ranks
from fastdim.errors import FastdimError, InputError, RankError, RankMismatchError, require

VARIABLES = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
AGAIN = "what is finished is kept: start the same command again"
# The store that says who has spoken may be gone with the lost rank.
STORE_SECONDS = 5


def launched() -> bool:
    """Whether this process is one of several, by the variables that torchrun sets."""
    return all(name in os.environ for name in VARIABLES) and os.environ["WORLD_SIZE"] != "1"


def check_alone(command: str) -> None:
    """Raise InputError where several processes were started for what one does; rank 0 tells."""
    if launched():
        if os.environ["RANK"] != "0":
            sys.exit(USAGE)
        raise InputError(
            f"`fastdim {command}` runs in one process, and this is one of "
            f"{os.environ['WORLD_SIZE']}: start it without torchrun; several processes share "
            "`fastdim sweep` alone"
        )


def threads_each(asked: int | None) -> int | None:
    """Threads of this process: without a wish, its share of the CPUs of this machine."""
    if asked is not None or os.environ.get("FASTDIM_NUM_THREADS"):
        return asked
    return max(1, resolve_threads(None) // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


def own_gpu() -> int | None:
    """Number of the GPU that this process and nccl use; None for gloo, where torch has no GPU.

    Raises InputError where this machine has more processes than GPUs; the first of them tells.
    """
    import torch
    import torch.distributed as dist

    if not (torch.cuda.is_available() and dist.is_nccl_available()):
        return None
    place, gpus = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
    processes = max(place + 1, int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
    if processes <= gpus:
        return place
    if place:
        sys.exit(USAGE)
    raise InputError(
        f"{processes} processes of this machine would share {gpus} GPUs, and nccl takes one for "
        f"each: start {gpus} (--nproc-per-node), or hide the GPUs (CUDA_VISIBLE_DEVICES=) for gloo"
    )


@contextlib.contextmanager
def joined(seconds: float, exit_code: Callable[[FastdimError], int]) -> Iterator[Ranks]:
    """The ranks of this run, met at MASTER_ADDR:MASTER_PORT; ends the group with the block.

    seconds: the longest that a rank waits for another. An error ends the process with
    `exit_code(error)` after one of the ranks has printed it.

    Raises RankError where the ranks do not meet, InputError as `own_gpu`.
    """
    require("torch", "models")
    import torch
    import torch.distributed as dist

    # torch documents rendezvous and PrefixStore, and its annotations leave them out.
    limit = datetime.timedelta(seconds=seconds)
    gpu = own_gpu()
    store, rank, size = _meet(limit)
    if gpu is not None:
        torch.cuda.set_device(gpu)
    said = _Once(store)
    with _stopped(lambda: said.tell(f"rank {rank} of {size} was stopped, as another ended")):
        try:
            try:
                dist.init_process_group(
                    "gloo" if gpu is None else "nccl",
                    store=dist.PrefixStore("fastdim", store),  # type: ignore[attr-defined]
                    rank=rank,
                    world_size=size,
                    timeout=limit,
                )
            except RuntimeError as error:
                raise RankError(f"the ranks cannot reach each other: {_line(error)}") from error
            yield Ranks()
        except FastdimError as error:
            if not isinstance(error, RankError) or isinstance(error, RankMismatchError):
                # Every rank has it and all can talk: the first prints, and they leave together.
                if rank == 0:
                    print(f"fastdim: error: {error}", file=sys.stderr)
                _leave(dist)
                sys.exit(exit_code(error))
            said.tell(str(error))
            # Neither Python's end nor the group's: both would wait for the lost rank.
            sys.stdout.flush()
            os._exit(exit_code(error))
        _leave(dist)


def _leave(dist: Any) -> None:
    if dist.is_initialized():
        dist.destroy_process_group()


def _meet(limit: datetime.timedelta) -> tuple[Any, int, int]:
    """The store, this rank, the number of ranks."""
    import torch.distributed as dist

    place = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
    for name in ("RANK", "WORLD_SIZE", "MASTER_PORT"):
        if not os.environ[name].isdigit():
            raise InputError(f"{name}={os.environ[name]!r} must be a whole number")
    try:
        store, rank, size = next(
            dist.rendezvous("env://", timeout=limit)  # type: ignore[attr-defined]  # as above
        )
    except (RuntimeError, ValueError) as error:
        if "EADDRINUSE" in str(error) or "already in use" in str(error):
            raise RankError(
                f"the address {place} is in use on this machine: name another port "
                "(MASTER_PORT, or torchrun --master-port)"
            ) from error
        raise RankError(
            f"rank {os.environ['RANK']} of {os.environ['WORLD_SIZE']} met no other at {place} "
            f"within {limit.total_seconds():g} s: check that rank 0 runs there and that the port "
            f"can be reached ({_line(error)})"
        ) from error
    return store, rank, size


class _Once:
    """Prints one message for all ranks: that of the first to come."""

    def __init__(self, store: Any) -> None:
        self.store = store
        self.key = f"told-{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}"

    def tell(self, message: str) -> None:
        """Print the message if no other rank has printed one, or none can be asked."""
        answer: queue.SimpleQueue[int] = queue.SimpleQueue()

        def ask() -> None:
            try:
                answer.put(self.store.add(self.key, 1))
            except RuntimeError:  # the store has ended with its rank: nobody can be asked
                answer.put(1)

        # By a thread: over a cut cable the store's client waits for ever, whatever its timeout.
        threading.Thread(target=ask, daemon=True).start()
        try:
            number = answer.get(timeout=STORE_SECONDS)
        except queue.Empty:
            number = 1
        if number == 1:
            print(f"fastdim: error: {message}; {AGAIN}", file=sys.stderr, flush=True)


@contextlib.contextmanager
def _stopped(tell: Callable[[], None]) -> Iterator[None]:
    """End at SIGTERM with a message, also while a collective waits: torchrun sends it to the rest.

    Python's own handlers wait for the collective to return, so a thread listens.
    """
    heard, signalled = socket.socketpair()
    signalled.setblocking(False)

    def listen() -> None:
        while data := heard.recv(1):
            if data[0] == signal.SIGTERM:
                tell()
                os._exit(128 + signal.SIGTERM)

    before = signal.signal(signal.SIGTERM, lambda number, frame: None)
    wakeup = signal.set_wakeup_fd(signalled.fileno(), warn_on_full_buffer=False)
    listener = threading.Thread(target=listen, daemon=True)
    listener.start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(wakeup)
        signal.signal(signal.SIGTERM, before)
        signalled.close()
        listener.join()
        heard.close()


def _line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
