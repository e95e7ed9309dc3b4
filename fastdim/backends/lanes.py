"""Work queued on several streams of a device, and recorded as a CUDA graph to be queued at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from fastdim.errors import BackendError, require

if TYPE_CHECKING:
    from torch import device as Device

Result = TypeVar("Result")
# Kinds of devices without streams: host memory is the emulator's, in the tests.
STREAMLESS = {"cpu"}


def _cuda() -> Any:
    """torch.cuda; the tests put a recorder in its place."""
    return require("torch", "torch").cuda


class Lanes:
    """Streams beside the current one of a device, that take jobs in turn.

    Tensors made inside a job belong to its stream; results may be read on the current stream as
    soon as `run` returns, without a wait of the host. Host memory, the emulator's, has no streams.
    """

    def __init__(self, device: Device, count: int) -> None:
        self.device = device
        count = 0 if device.type in STREAMLESS else count
        self.streams = [_cuda().Stream(device) for _ in range(count)]

    def run(self, jobs: Sequence[Callable[[], Result]]) -> list[Result]:
        """Results of the jobs, which only queue work, in order."""
        if not self.streams:
            return [job() for job in jobs]
        cuda = _cuda()
        now, used = cuda.current_stream(self.device), self.streams[: len(jobs)]
        for stream in used:
            stream.wait_stream(now)
        results = []
        try:
            for number, job in enumerate(jobs):
                with cuda.stream(used[number % len(used)]):
                    results.append(job())
        finally:
            # Also where a job failed: memory of the current stream may still be read by the others.
            for stream in used:
                now.wait_stream(stream)
        return results


class Recorded(Generic[Result]):
    """Jobs recorded once as a CUDA graph; `replay` queues all their launches by one call.

    The jobs run once before they are recorded, for what is loaded at first use cannot be recorded.
    They must only queue work, and read and write the same memory every time. Raises BackendError
    where CUDA cannot record them; what torch raises where memory runs out is left to the caller.
    """

    def __init__(self, lanes: Lanes, jobs: Sequence[Callable[[], Result]]) -> None:
        cuda = _cuda()
        self.jobs = jobs  # what they read must live as long as the graph
        lanes.run(jobs)
        try:
            self.graph = cuda.CUDAGraph()
            with cuda.graph(self.graph):
                self.results = lanes.run(jobs)
        except (BackendError, require("torch", "torch").OutOfMemoryError):
            raise
        except RuntimeError as error:
            raise BackendError(
                f"the launches cannot be recorded as a CUDA graph ({error}): pass graph=False"
            ) from error

    def replay(self) -> list[Result]:
        """Queue everything on the current stream. The same results each time, written anew."""
        self.graph.replay()
        return self.results
