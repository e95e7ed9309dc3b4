"""Checkpoints as tasks of a local Ray: the table of one process, also when a worker is killed."""

from __future__ import annotations

import os
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from tiny_model import save_tiny
from track_cases import OPTIONS, TEXTS, break_weights

from fastdim.cli import main
from fastdim.errors import BackendError, InputError, StoreError
from fastdim.sweeps.progress import Progress
from fastdim.track import RayOptions, track
from fastdim.track_result import Track

# Ray leaves sockets and files to the end of its processes.
pytestmark = [
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning:ray"),
]


@pytest.fixture(scope="module")
def training(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five checkpoints, the third with NaN weights."""
    folder: Path = tmp_path_factory.mktemp("training")
    for step in range(1, 6):
        save_tiny(folder / f"checkpoint-{step}", step)
    break_weights(folder / "checkpoint-3")
    return folder


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """One local Ray for the module, with workers that find the tests."""
    import ray

    with pytest.MonkeyPatch.context() as patch:
        paths = [str(Path(__file__).parent), str(Path(__file__).parent.parent)]
        patch.setenv("PYTHONPATH", os.pathsep.join([*paths, os.environ.get("PYTHONPATH", "")]))
        patch.setenv("RAY_DEDUP_LOGS", "0")
        ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
        yield
        ray.shutdown()


@pytest.fixture(scope="module")
def alone(training: Path, tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    out = tmp_path_factory.mktemp("alone")
    return track("m", TEXTS, out, checkpoints=[training / "*"], **OPTIONS).table


def same(found: pd.DataFrame, expected: pd.DataFrame) -> None:
    pd.testing.assert_frame_equal(
        found.drop(columns="seconds"), expected.drop(columns="seconds"), check_exact=True
    )


class Killer(threading.Thread):
    """Kills the worker that first writes a piece of a checkpoint."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder
        self.killed = 0

    def run(self) -> None:
        deadline = time.monotonic() + 240
        while time.monotonic() < deadline and not self.killed:
            if list(self.folder.glob("pieces/*.json")):
                owner = (self.folder / "lock").read_text()
                self.killed = int(owner.removeprefix("pid "))
                os.kill(self.killed, signal.SIGKILL)
            time.sleep(0.002)


class Counter(Progress):
    def __init__(self) -> None:
        self.told: list[Any] = []

    def start(self, stage: str, total: int, unit: str, done: int = 0) -> None:
        self.told.append((stage, total))

    def advance(self, amount: int = 1) -> None:
        self.told.append(amount)


def test_a_killed_worker_starts_again_and_the_table_is_whole(
    cluster: None, training: Path, alone: pd.DataFrame, tmp_path: Path
) -> None:
    out, progress = tmp_path / "out", Counter()
    killer = Killer(out / "checkpoint-4")
    killer.start()
    found = track(
        "m", TEXTS, out, checkpoints=[training / "*"], engine="ray", progress=progress, **OPTIONS
    )
    killer.join()
    assert killer.killed
    same(found.table, alone)
    assert [name for name, _ in found.failed] == ["checkpoint-3"]
    same(Track.load(out).table, alone)
    assert progress.told == [("checkpoints", 5), 1, 1, 1, 1, 1]


def test_a_worker_killed_too_often_is_a_failed_checkpoint_and_a_restart_has_it(
    cluster: None, training: Path, alone: pd.DataFrame, tmp_path: Path
) -> None:
    killer = Killer(tmp_path / "checkpoint-2")
    killer.start()
    options = OPTIONS | {"engine": "ray", "checkpoints": [training / "*"]}
    found = track("m", TEXTS, tmp_path, ray=RayOptions(retries=0), **options)
    killer.join()
    assert killer.killed
    told = dict(found.failed)
    assert "its worker ended, 1 of 1 times" in told["checkpoint-2"]
    assert set(told) == {"checkpoint-2", "checkpoint-3"}
    partial = found.table[~found.table["revision"].isin(told)]
    assert set(partial["status"]) == {"ok"}
    same(track("m", TEXTS, tmp_path, **options).table, alone)


def test_checkpoints_of_several_models_are_tasks_of_one_cluster(
    cluster: None, training: Path, alone: pd.DataFrame, tmp_path: Path
) -> None:
    shutil.copytree(training, tmp_path / "m")
    for step in (2, 4):
        save_tiny(tmp_path / "other" / f"checkpoint-{step}", 10 + step)
    break_weights(tmp_path / "other" / "checkpoint-2")  # so that its second is its first
    progress = Counter()
    given: dict[str, Any] = {"checkpoints": [f"{tmp_path}/{{model}}/*"], **OPTIONS}
    found = track(["m", "other"], TEXTS, tmp_path / "out", engine="ray", progress=progress, **given)
    assert progress.told == [("checkpoints", 7), *[1] * 7]
    assert [name for name, _ in found.failed] == ["m checkpoint-3", "other checkpoint-2"]
    same(Track.load(tmp_path / "out" / "m").table, alone)
    local = track(["m", "other"], TEXTS, tmp_path / "local", **given)
    same(found.table, local.table)


def test_what_a_cluster_cannot_give(cluster: None, training: Path, tmp_path: Path) -> None:
    options = OPTIONS | {"engine": "ray", "checkpoints": [training / "*"]}
    with pytest.raises(BackendError, match=r"takes \(1 CPU, 8 GPU\); they have: 2 CPU, 0 GPU"):
        track("m", TEXTS, tmp_path, ray=RayOptions(gpus=8), **options)
    with pytest.raises(BackendError, match="1e\\+15 memory"):
        track("m", TEXTS, tmp_path, ray=RayOptions(memory=10**15), **options)
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="is a file"):
        track("m", TEXTS, tmp_path / "file", **options)


def test_bad_requests(training: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = OPTIONS | {"checkpoints": [training / "*"]}
    with pytest.raises(InputError, match="engine must be one of local, ray"):
        track("m", TEXTS, tmp_path, engine="slurm", **options)
    with pytest.raises(InputError, match="belongs to engine='ray'"):
        track("m", TEXTS, tmp_path, ray=RayOptions(), **options)
    command = ["track", "--checkpoints", str(training / "*"), "--texts", "docstrings"]
    command += ["--output", str(tmp_path / "x"), "--gpus-per-checkpoint", "1"]
    assert main(command) == 2
    assert "belong to --engine ray" in capsys.readouterr().err
