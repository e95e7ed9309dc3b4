"""`torchrun -m fastdim sweep`: a killed rank, a restart, and starts that cannot be met."""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from test_distributed_sweep import same
from tiny_model import TEXT, save_tiny

from fastdim.cli import main
from fastdim.cli.ranks import own_gpu
from fastdim.errors import InputError

AGAIN = "what is finished is kept: start the same command again"
OPTIONS = ["--context", "16", "--max-tokens", "1500", "--batch-size", "4", "--threads", "1"]
OPTIONS += ["--formats", "parquet"]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny model and texts."""
    folder: Path = tmp_path_factory.mktemp("killed")
    save_tiny(folder / "model")
    (folder / "texts").mkdir()
    rng = random.Random(0)
    for number in range(40):
        words = " ".join(rng.choice(TEXT.split()) for _ in range(20))
        (folder / "texts" / f"{number:02}.txt").write_text(words)
    return folder


def sweep(place: Path, output: str) -> list[str]:
    return ["sweep", str(place / "model"), "--texts", str(place / "texts"), *OPTIONS,
            "--output", str(place / output)]  # fmt: skip


def environment(**more: str) -> dict[str, str]:
    return os.environ | {"GLOO_SOCKET_IFNAME": "lo"} | more


def torchrun(*command: str) -> Any:
    """The command on two processes, as a running process."""
    start = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    return subprocess.Popen(
        [*start, "-m", "fastdim", *command], env=environment(), text=True, stderr=subprocess.PIPE
    )


def by_hand(port: int, command: list[str], rank: int) -> Any:
    """One of two ranks of a run, as another launcher starts them."""
    given = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    return subprocess.Popen(
        [sys.executable, "-m", "fastdim", *command],
        env=environment(RANK=str(rank), WORLD_SIZE="2", **given),
        text=True,
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
    )


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


def child_of_rank(launcher: int, rank: int) -> int:
    """The process of a rank below a launcher."""
    children = Path(f"/proc/{launcher}/task/{launcher}/children").read_text().split()
    [found] = [
        int(child)
        for child in children
        if f"\0RANK={rank}\0".encode() in Path(f"/proc/{child}/environ").read_bytes()
    ]
    return found


def pieces(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.glob("pieces/*.json")}


def wait_for_pieces(running: Any, folder: Path) -> None:
    while not pieces(folder):
        assert running.poll() is None, f"ended before it could be killed: {running.stderr.read()}"
        time.sleep(0.01)


def test_a_killed_rank_ends_the_run_and_the_same_command_finishes_it(place: Path) -> None:
    command, output = sweep(place, "torchrun"), place / "torchrun"
    with torchrun(*command) as running:
        wait_for_pieces(running, output)
        os.kill(child_of_rank(running.pid, 1), signal.SIGKILL)
        told = running.communicate(timeout=120)[1]
    assert running.returncode != 0
    assert told.count("fastdim: error:") == 1
    assert told.count(AGAIN) == 1
    finished = pieces(output)
    assert 0 < len(finished) < 16
    with torchrun(*command) as running:
        told = running.communicate(timeout=240)[1]
    assert running.returncode == 0, told
    assert len(pieces(output)) == 16
    assert pieces(output).items() >= finished.items()  # none was computed again
    assert main(sweep(place, "alone")) == 0
    expected = pd.read_parquet(place / "alone" / "results.parquet")
    found = pd.read_parquet(output / "results.parquet")
    same(found, expected)
    assert np.isfinite(found["value"]).all()


def test_a_survivor_without_a_launcher_tells_and_ends(place: Path) -> None:
    command, port = sweep(place, "survivor"), free_port()
    with by_hand(port, command, 0) as first, by_hand(port, command, 1) as second:
        wait_for_pieces(first, place / "survivor")
        os.kill(first.pid, signal.SIGKILL)  # it holds the store as well
        told = second.communicate(timeout=120)[1]
    assert second.returncode == 4
    assert told.count("fastdim: error:") == 1
    assert "rank 1 of 2 has lost the others" in told
    assert AGAIN in told


def test_ranks_with_other_options_tell_once(place: Path) -> None:
    command, port = sweep(place, "options"), free_port()
    other = [*command, "--seed", "1"]
    with by_hand(port, command, 0) as first, by_hand(port, other, 1) as second:
        told = first.communicate(timeout=120)[1] + second.communicate(timeout=120)[1]
    assert [first.returncode, second.returncode] == [4, 4]
    assert told.count("fastdim: error:") == 1
    assert "seed: 0 on rank 0, 1 on rank 1" in told


def test_an_address_in_use(place: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with by_hand(port, sweep(place, "x"), 0) as first:
            told = first.communicate(timeout=120)[1]
    assert first.returncode == 4
    assert told.count("fastdim: error:") == 1
    assert f"the address 127.0.0.1:{port} is in use on this machine" in told
    assert not (place / "x").exists()


def test_a_rank_that_never_comes(place: Path) -> None:
    command = [*sweep(place, "x"), "--rank-timeout", "3"]
    with by_hand(free_port(), command, 1) as second:
        told = second.communicate(timeout=120)[1]
    assert second.returncode == 4
    assert "rank 1 of 2 met no other at 127.0.0.1:" in told
    assert told.count("fastdim: error:") == 1


def test_other_commands_take_one_process(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in (("WORLD_SIZE", "2"), ("MASTER_ADDR", "x"), ("MASTER_PORT", "1")):
        monkeypatch.setenv(name, value)
    for rank, told in (("0", "`fastdim ls` runs in one process"), ("1", "")):
        monkeypatch.setenv("RANK", rank)
        assert main(["ls", "."]) == 2
        assert told in capsys.readouterr().err


def test_each_process_has_a_gpu_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in for a machine with two GPUs: what nccl would be given, and refuse."""
    assert own_gpu() is None  # no GPU here: gloo
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setattr("torch.distributed.is_nccl_available", lambda: True)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    for place in (0, 1):
        monkeypatch.setenv("LOCAL_RANK", str(place))
        assert own_gpu() == place
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "3")
    with pytest.raises(SystemExit):
        own_gpu()
    monkeypatch.setenv("LOCAL_RANK", "0")
    with pytest.raises(InputError, match="3 processes of this machine would share 2 GPUs"):
        own_gpu()
    monkeypatch.setattr("torch.distributed.is_nccl_available", lambda: False)
    assert own_gpu() is None
