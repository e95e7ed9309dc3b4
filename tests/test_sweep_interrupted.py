"""A sweep that is killed, or that cannot write, while the model still runs."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
from test_sweep_run import OPTIONS, TEXTS, model, without_times

import fastdim

# The pause keeps the extraction going long enough to be hit.
PROGRAM = """
import resource, sys, time, fastdim
from fastdim.sweeps.progress import Progress
sys.path.insert(0, {tests!r})
from test_sweep_run import OPTIONS, TEXTS, model

class Slow(Progress):
    def advance(self, amount=1):
        time.sleep(0.1)

if {limit}:
    resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))
progress = None if {limit} else Slow()
fastdim.sweep(model(), TEXTS, output={output!r}, progress=progress, **OPTIONS)
"""


def program(output: Path, limit: int = 0) -> list[str]:
    """A command that sweeps into `output`, no file longer than `limit` bytes if that is not 0."""
    tests = str(Path(__file__).parent)
    return [sys.executable, "-c", PROGRAM.format(tests=tests, output=str(output), limit=limit)]


@pytest.fixture(scope="module")
def whole() -> pd.DataFrame:
    """The table of a sweep that nothing interrupts, without its times."""
    return without_times(fastdim.sweep(model(), TEXTS, **OPTIONS).table)


def finish(output: Path) -> pd.DataFrame:
    """The same sweep once more, into the same folder."""
    return without_times(fastdim.sweep(model(), TEXTS, output=output, **OPTIONS).table)


def test_killed_while_the_model_runs_it_goes_on(tmp_path: Path, whole: pd.DataFrame) -> None:
    output = tmp_path / "killed"
    process = subprocess.Popen(program(output))
    while not list(output.rglob("shard-000002.safetensors")):
        assert process.poll() is None, "the sweep ended before it could be killed"
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    finished = {path: path.stat().st_mtime_ns for path in output.rglob("shard-*.safetensors")}
    assert not list(output.glob("pieces/*.json"))
    pd.testing.assert_frame_equal(finish(output), whole, check_exact=True)
    # The last of them may have been written and not yet listed: then it is made again.
    for path in sorted(finished)[:-1]:
        assert path.stat().st_mtime_ns == finished[path]


def test_a_file_that_cannot_grow_is_one_error_and_what_was_done_stays(
    tmp_path: Path, whole: pd.DataFrame
) -> None:
    output = tmp_path / "full"
    size = max(
        path.stat().st_size for path in _extracted(tmp_path / "sizes").rglob("shard-*.safetensors")
    )
    process = subprocess.run(program(output, size - 1), capture_output=True, text=True, check=False)
    assert process.returncode == 1
    last = process.stderr.strip().splitlines()[-1]
    assert last.startswith("fastdim.errors.StoreError: cannot write")
    assert "what was finished is kept, free some space and run the same command again" in last
    assert not list(output.rglob("*.tmp"))
    pd.testing.assert_frame_equal(finish(output), whole, check_exact=True)


def _extracted(output: Path) -> Path:
    fastdim.sweep(model(), TEXTS, output=output, **OPTIONS)
    return output
