"""One child process a program, so that libraries, thread pools and memory do not mix.

And what a benchmark ran on: processor, commit, day, BLAS kernels; seconds and memory of one call.
"""

from __future__ import annotations

import contextlib
import datetime
import multiprocessing
import os
import platform
import re
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import peers

ROOT = Path(__file__).resolve().parent.parent
CHILD = "FASTDIM_BENCHMARK_CHILD"
POOLS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")


@contextlib.contextmanager
def environment(core: str, threads: int) -> Iterator[None]:
    """What a child inherits: its threads, and the OpenBLAS kernels it is told to take, "" for none.

    A processor may be newer than the OpenBLAS inside a wheel, which then takes its oldest kernels:
    faiss-cpu 1.15.1 on a Zen 5 is 4.7 times slower that way. Its kernels are named for it; all
    other programs choose for themselves, whatever the machine's own settings are.
    """
    saved = dict(os.environ)
    for name in ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE"):
        os.environ.pop(name, None)
    os.environ.update(dict.fromkeys(POOLS, str(threads)))
    if core:
        os.environ["OPENBLAS_CORETYPE"] = core
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(saved)


def in_child() -> bool:
    """Whether this program was started by `in_own_environment`."""
    return CHILD in os.environ


def in_own_environment() -> int:
    """The program that runs, once more, in a child whose BLAS chooses its kernels for itself, with
    as many threads as CPUs; its exit status."""
    with environment("", len(os.sched_getaffinity(0))):
        command = [sys.executable, *sys.argv]
        return subprocess.run(command, check=False, env={**os.environ, CHILD: "1"}).returncode


def fastest_core() -> str:
    """OpenBLAS's name of the widest kernels this processor can run; "" to let it choose."""
    flags = set(re.findall(r"\w+", Path("/proc/cpuinfo").read_text()))
    if flags >= {"avx512f", "avx512bw", "avx512vl", "avx512dq"}:
        return "SkylakeX"
    return "Haswell" if flags >= {"avx2", "fma"} else ""


def processor() -> str:
    """Name of the processor; with family and model where it is one of many ("AMD EPYC", as virtual
    machines say)."""
    facts: dict[str, str] = {}
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        name, _, value = line.partition(":")
        facts.setdefault(name.strip(), value.strip())
    name = facts.get("model name") or platform.processor() or platform.machine()
    if re.search(r"\d", name) or "cpu family" not in facts:
        return name
    return f"{name} (family {facts['cpu family']} model {facts['model']})"


def device() -> str:
    """Processor's name, cores this process may use, system."""
    cores = len(os.sched_getaffinity(0))
    return f"{processor()}, {cores} cores, {platform.system()} {platform.machine()}"


def today() -> str:
    """The day, as 2000-12-31, in UTC."""
    return datetime.datetime.now(datetime.timezone.utc).date().isoformat()


def commit() -> str:
    """Short hash of the checkout; "+" if files differ from it."""
    git = ["git", "-C", str(ROOT)]
    found = subprocess.run(
        [*git, "rev-parse", "--short", "HEAD"], check=True, capture_output=True, text=True
    )
    changed = subprocess.run([*git, "diff", "--quiet", "HEAD"], check=False).returncode
    return found.stdout.strip() + ("+" if changed else "")


def resident(field: str) -> int:
    """VmRSS (now) or VmHWM (peak) of this process in bytes."""
    found = re.search(rf"^{field}:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
    if found is None:
        raise RuntimeError(f"/proc/self/status has no {field}")
    return int(found[1]) * 1024


def measured(run: Callable[[], Any]) -> tuple[Any, float, int]:
    """Result, seconds, and highest resident memory during the call less that before it, bytes."""
    Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM
    before = resident("VmRSS")
    start = time.perf_counter()
    result = run()
    seconds = time.perf_counter() - start
    return result, seconds, resident("VmHWM") - before


def serve(pipe: Connection, group: str, name: str, threads: int) -> None:
    """Answer requests (path of an .npy file) by (result, seconds, peak bytes beyond the rows)."""
    run = peers.PEERS[group][name]
    while (path := pipe.recv()) is not None:
        try:
            x = np.load(path)
            with contextlib.redirect_stdout(None):
                answer = measured(partial(run, x, threads))
            pipe.send(answer)
        except Exception:  # noqa: BLE001 - a peer may fail in any way; the parent prints it
            pipe.send(traceback.format_exc())


class Worker:
    """A child that runs one program; close() ends it."""

    def __init__(self, group: str, name: str, threads: int) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, child = context.Pipe()
        self._process = context.Process(target=serve, args=(child, group, name, threads))
        with environment(fastest_core() if name == "faiss.knn" else "", threads):
            self._process.start()
        child.close()

    def run(self, path: Path) -> tuple[dict[str, Any], float, int]:
        """Result, seconds, peak bytes; RuntimeError with the child's traceback if it failed."""
        try:
            self._pipe.send(path)
            answer = self._pipe.recv()
        except (EOFError, BrokenPipeError):
            self._process.join()
            code = self._process.exitcode
            raise RuntimeError(f"its process ended with exit code {code}") from None
        if isinstance(answer, str):
            raise RuntimeError(answer)
        result: tuple[dict[str, Any], float, int] = answer
        return result

    def close(self) -> None:
        """Ask the child to end and wait for it."""
        if self._process.is_alive():
            self._pipe.send(None)
            self._process.join()
