"""The Triton engine in Triton's interpreter: sets that need every part of it, and their checks."""

from __future__ import annotations

import importlib
import importlib.util
import shutil
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from conftest import gaussian
from filter_cases import plant, reserved
from triton.runtime import interpreter

from fastdim import Rows, as_rows, naive
from fastdim.backends import devices

PACKAGE = Path(__file__).resolve().parent.parent / "fastdim/backends/triton"


def load(folder: Path, old: str, new: str) -> ModuleType:
    """A copy of the package with one text replaced, imported under another name."""
    name = "faulty_triton"
    shutil.copytree(PACKAGE, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    plant((folder / name).glob("*.py"), old, new)
    for module in [m for m in sys.modules if m.split(".")[0] == name]:
        del sys.modules[module]
    spec = importlib.util.spec_from_file_location(name, folder / name / "__init__.py")
    assert spec is not None
    assert spec.loader is not None
    package = importlib.util.module_from_spec(spec)
    sys.modules[name] = package
    spec.loader.exec_module(package)
    return package


def check(engine: ModuleType, rows: Rows, k: int = 2, queries: Any = None) -> dict[str, Any]:
    """Assert the contract against float64; the plan."""
    x = devices.upload(rows, "cpu")
    chosen = None if queries is None else torch.from_numpy(queries)
    distances, indices, plan = engine.knn_tensor(x, k, chosen)
    want, places = naive.knn(rows, k, queries)
    np.testing.assert_allclose(distances.numpy(), want, rtol=1e-12, atol=0)
    np.testing.assert_array_equal(indices.numpy(), places)
    found: dict[str, Any] = plan
    return found


proper_dot = interpreter.InterpreterBuilder.create_dot


def truncating_dot(
    self: Any, a: Any, b: Any, d: Any, input_precision: Any, max_num_imprecise_acc: Any
) -> Any:
    """Four products and the sum at a time, every term cut off at the last bit of the largest."""
    if d.data.dtype == np.float64:
        return proper_dot(self, a, b, d, input_precision, max_num_imprecise_acc)
    left, right = np.float64(a.data), np.float64(b.data)
    total = np.float64(d.data)
    for c in range(0, left.shape[1], 4):
        terms = left[:, c : c + 4, None] * right[None, c : c + 4, :].reshape(1, -1, right.shape[1])
        terms = np.concatenate([terms, total[:, None, :]], axis=1)
        unit = np.ldexp(1.0, np.frexp(np.abs(terms).max(axis=1))[1] - 24)
        total = np.trunc(terms / unit[:, None]).sum(axis=1) * unit
        last = np.ldexp(1.0, np.frexp(total)[1] - 24)
        total = np.trunc(total / last) * last
    return interpreter.TensorHandle(total.astype(np.float32), d.dtype.scalar)


@pytest.fixture
def worst_sums(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sums of products as wrong as a tensor core may make them."""
    monkeypatch.setattr(interpreter.InterpreterBuilder, "create_dot", truncating_dot)


@pytest.fixture
def shared_storage(monkeypatch: pytest.MonkeyPatch) -> None:
    """The interpreter copies arguments back whole, though they are shared: 8 GB for `wide_rows`."""
    monkeypatch.setattr(interpreter.GridExecutor, "_restore_args_dev", lambda *arguments: None)


def steps_of_rounding() -> Rows:
    """The last row is nearest to one that 16 bits put a whole step away, not to ten they do not.

    Near zero float16 has steps of 2^-24, here 2^-38: no margin for sums covers them.
    """
    step = 2.0**-38
    x = np.random.default_rng(8).uniform(0.1, 1.0, (240, 2))
    x[0] = 1.0
    near = np.zeros((12, 2))
    near[:, 0] = [*np.linspace(1.40, 1.45, 10) * step, 0.4 * step, 0.6 * step]
    x = np.concatenate([x, near])
    return as_rows(np.concatenate([-x, x]).astype(np.float32))


def check_far_tiles(engine: ModuleType) -> None:
    """The filter over the first and the last tile of 2^25 rows of 64: offsets pass 2^31."""
    filters = importlib.import_module(f"{engine.__name__}.filter")
    tile, width = 128, 64
    last = 1 << 25
    rows = reserved((2 * last + tile) * width).reshape(-1, width)[last:]
    values = gaussian(2 * tile, width).astype(np.float16)
    rows[:tile], rows[last:] = values[:tile], values[tile:]
    start = torch.from_numpy(reserved(2 * (last + tile)).view(np.float32))
    queries = torch.tensor([5, last + 9], dtype=torch.int32)
    tiles = last // tile + 1
    splits = tiles - 1  # the first program takes the first tile and the last
    scores = torch.full((2, splits, 8), torch.nan)
    found, left_out = torch.zeros((2, splits, 8), dtype=torch.int32), torch.zeros(2, splits)
    filters.knn_places[(1, 1)](
        queries, torch.from_numpy(rows), start, scores, found, left_out, 2, width, tiles,
        splits, 1, KEEP=8, BLOCK_QUERIES=16, BLOCK_ROWS=tile, BLOCK_COLUMNS=64, UPCAST=True,
    )  # fmt: skip
    for place, query in enumerate((5, tile + 9)):
        products = values.astype(np.float64) @ values[query].astype(np.float64)
        # Of the two rows in one place of a tile the better one is kept, the other left out.
        pairs = np.stack([products[:tile], products[tile:]])
        lanes = np.argsort(-pairs.max(axis=0))
        first = lanes[:8]
        better = pairs.argmax(axis=0)[first]
        numbers = first + better * last
        self_kept = first + better * tile == query
        np.testing.assert_array_equal(found[place, 0].numpy(), np.where(self_kept, -1, numbers))
        best = np.where(self_kept, -np.inf, pairs.max(axis=0)[first])
        np.testing.assert_allclose(scores[place, 0].numpy(), best, rtol=1e-5)
        lost = max(pairs.min(axis=0).max(), pairs.max(axis=0)[lanes[8]])
        assert left_out[place, 0] == pytest.approx(lost, rel=1e-5)
