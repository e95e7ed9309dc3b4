"""A sweep killed at chosen points, each as `kill -9` leaves it, ends with the same table."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from test_sweep_run import OPTIONS, TEXTS, model, without_times

import fastdim

# 4 batches, 2 layers of 2 filters.
CHOSEN: dict[str, Any] = {
    **OPTIONS,
    "max_tokens": 128,
    "layers": "0,3",
    "filters": ["all", "no_outliers"],
}
DATA = ("parquet", "csv")
EVERYTHING = (*DATA, "html", "png")

# Every file of a run gets its name in one step, from a file beside it. Killed are: with half of
# that file written, just before the step, and just after it; at the n-th file of the name.
POINTS = [
    ("manifest.json", 1, "half", DATA),
    ("manifest.json", 2, "before", DATA),
    ("manifest.json", 5, "half", DATA),  # the one that marks the activations complete
    ("manifest.json", 5, "after", DATA),
    ("shard-000001.safetensors", 1, "half", DATA),
    ("shard-000003.safetensors", 1, "after", DATA),  # whole, and not yet listed
    ("sample.json", 1, "after", DATA),
    ("0003-all.json", 1, "half", DATA),
    ("0003-no_outliers.json", 1, "after", DATA),
    ("timings.json", 3, "half", DATA),
    ("results.parquet", 1, "after", EVERYTHING),
    ("report.html", 1, "before", EVERYTHING),
    ("report.json", 1, "after", EVERYTHING),
]

# Imports once, then one process a point: a fork of a process that has started no thread.
PROGRAM = """
import json, os, signal, sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from test_sweep_killed import CHOSEN, TEXTS, model
import fastdim, matplotlib.pyplot, pyarrow.parquet, torch
torch.set_num_threads(1)
torch.manual_seed(0)
model()  # its classes are imported on first use
replace = os.replace

def arm(name, count, moment):
    left = count
    def killing(written, target):
        nonlocal left
        left -= Path(target).name == name
        if left == 0:
            if moment == "half":
                os.truncate(written, os.stat(written).st_size // 2)
            if moment == "after":
                replace(written, target)
            os.kill(os.getpid(), signal.SIGKILL)
        replace(written, target)
    os.replace = killing
    Path.replace = killing  # Python 3.10 holds a reference of its own

codes = []
for output, name, count, moment, formats in json.loads(sys.argv[1]):
    child = os.fork()
    if child == 0:
        arm(name, count, moment)
        fastdim.sweep(model(), TEXTS, output=output, formats=formats, **CHOSEN)
        os._exit(0)
    codes.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
print(json.dumps(codes))
"""


def folder(point: tuple[Any, ...]) -> str:
    return "-".join(str(part) for part in point[:3])


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one killed run a point."""
    root: Path = tmp_path_factory.mktemp("killed")
    lines = [[str(root / folder(point)), *point] for point in POINTS]
    program = PROGRAM.format(tests=str(Path(__file__).parent))
    process = subprocess.run(
        [sys.executable, "-c", program, json.dumps(lines)],
        capture_output=True,
        text=True,
        check=True,
    )
    codes = json.loads(process.stdout.splitlines()[-1])
    assert dict.fromkeys(codes) == {-9: None}, dict(zip(map(folder, POINTS), codes, strict=True))
    return root


@pytest.fixture(scope="module")
def whole() -> pd.DataFrame:
    return without_times(fastdim.sweep(model(), TEXTS, **CHOSEN).table)


@pytest.mark.parametrize("point", POINTS, ids=folder)
def test_killed_there_it_ends_with_the_same_table(
    point: tuple[Any, ...], killed: Path, whole: pd.DataFrame
) -> None:
    output = killed / folder(point)
    name, _, moment, formats = point
    finished = {path: path.stat().st_mtime_ns for path in output.glob("pieces/*.json")}
    unnamed = [path for path in output.rglob(f"*{name}*") if path.name != name]
    assert len(unnamed) == (moment != "after")

    result = fastdim.sweep(model(), TEXTS, output=output, formats=formats, **CHOSEN)
    pd.testing.assert_frame_equal(without_times(result.table), whole, check_exact=True)
    for path, written in finished.items():
        assert path.stat().st_mtime_ns == written, "a finished piece was computed again"
    stored = pd.read_parquet(output / "results.parquet")
    pd.testing.assert_frame_equal(without_times(stored), whole, check_exact=True)
    assert not list(output.rglob("*.tmp"))
    names = {path.name for path in output.iterdir() if path.is_file()}
    made = {"results.parquet", "results.csv"}
    if "html" in formats:
        made |= {"report.html", "report.json", "profiles.png"}
    assert names == made | {"run.json", "sample.json", "timings.json", "lock"}
