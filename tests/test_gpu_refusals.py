"""What the GPU backends refuse, and that one error says what, why and how: no GPU is needed."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from conftest import gaussian

from fastdim import BackendError, InputError, cosine_stats, knn
from fastdim.backends import cuda, cuda_cosine, devices
from fastdim.neighbors import search_tensor

OLD = "CUDA driver version is insufficient for CUDA runtime version"


def pretend(monkeypatch: pytest.MonkeyPatch, **known: Any) -> None:
    """An extension that knows this; tensors in host memory count as a device's."""
    functions = {
        "devices": lambda: (1, ""),
        "current_device": lambda: 0,
        "properties": lambda number: {
            "name": "H100",
            "capability": (9, 0),
            "multiprocessors": 132,
            "shared_bytes": 232_448,
        },
        "tile_shared_bytes": lambda tile: 100_000,
        "knn_workspace": lambda *sizes: 256,
    }
    monkeypatch.setattr(cuda, "extension", lambda: SimpleNamespace(**(functions | known)))
    monkeypatch.setattr(cuda, "DEVICE_TYPES", {"cpu"})


@pytest.mark.parametrize("why", [OLD, "no CUDA-capable device is detected"])
def test_no_driver_or_one_too_old(why: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, devices=lambda: (0, why))
    for call in (knn, cosine_stats):
        with pytest.raises(BackendError, match=f"{why}.*driver for CUDA 13; or pass backend='cpu'"):
            call(gaussian(8, 2), backend="cuda")


def test_a_chip_below_8_0(monkeypatch: pytest.MonkeyPatch) -> None:
    old = {"name": "T4", "capability": (7, 5), "multiprocessors": 40, "shared_bytes": 65_536}
    pretend(monkeypatch, properties=lambda number: old)
    for call in (knn, cosine_stats):
        with pytest.raises(BackendError, match=r"8\.0 or more; T4 has 7\.5: pass backend='cpu'"):
            call(gaussian(8, 2), backend="cuda")
    with pytest.raises(BackendError, match=r"T4 has 7\.5"):
        cuda.knn_tensor(torch.zeros(8, 2), 2)


def test_cosines_need_a_torch_that_sees_the_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(BackendError, match="install a CUDA build of torch"):
        cosine_stats(gaussian(8, 2), backend="cuda")


def test_memory_that_does_not_suffice(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: Any) -> None:
        raise torch.OutOfMemoryError("tried to allocate 80 GiB")

    pretend(monkeypatch, knn=full, row_norms=full)
    x = torch.from_numpy(gaussian(8, 2))
    message = r"ran out of memory on cpu with rows of shape \(8, 2\) \(tried to allocate 80 GiB\)"
    with pytest.raises(BackendError, match=message):
        cuda.knn_tensor(x, 2)
    with pytest.raises(BackendError, match=message):
        cuda_cosine.unit_rows(x)


def test_memory_of_rows_in_host_memory_is_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: Any) -> None:
        raise RuntimeError("device memory: out of memory")

    held: list[int] = []
    freed: list[int] = []

    def allocate(size: int) -> int:
        held.append(4096 * (len(held) + 1))
        return held[-1]

    pretend(
        monkeypatch,
        allocate=allocate,
        copy=lambda *arguments: None,
        release=freed.append,
        knn=full,
    )
    with pytest.raises(BackendError, match=r"out of memory; it asked for \d+ bytes"):
        knn(gaussian(8, 2), 2, backend="cuda")
    assert freed == held
    assert len(held) == 5, "rows, three results and the workspace"


def test_layouts_kinds_and_mixed_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch)
    x = torch.from_numpy(gaussian(12, 6))
    for wrong in (x.T, x[:, ::2], x.int(), x[0], x.expand(12, 6)[:1].expand(12, 6)):
        with pytest.raises(InputError, match=r"columns adjacent.*x\.contiguous\(\) helps"):
            cuda.knn_tensor(wrong, 2)
    for queries in (torch.zeros(2, dtype=torch.int64, device="meta"), torch.zeros(2)):
        with pytest.raises(InputError, match="int64 tensor on the device of x"):
            cuda.knn_tensor(x, 2, queries)
    with pytest.raises(InputError, match="torch tensor on a CUDA device"):
        cuda.knn_tensor(x.to("meta"), 2)
    with pytest.raises(InputError, match="at least 13 rows, got 12"):
        cuda.knn_tensor(x, 12)


def test_checked_where_tensors_come_in() -> None:
    """float16 that overflowed, shapes, and strides, which are made good rather than refused."""
    x = torch.full((4, 3), 7e4).half()
    with pytest.raises(InputError, match="4 rows with NaN, infinite"):
        devices.check_matrix(x, "x")
    with pytest.raises(InputError, match="two dimensions, at least 2 rows"):
        devices.check_matrix(torch.zeros(1, 3), "x")
    columns = torch.from_numpy(gaussian(5, 8))[:, ::2]
    checked = devices.check_matrix(columns, "x")
    assert checked.stride() == (4, 1)
    np.testing.assert_array_equal(checked, columns)


def test_distances_beyond_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    def far(*arguments: Any, **options: Any) -> Any:
        distances = torch.full((3, 1), 1e39, dtype=torch.float64)
        return distances, torch.zeros(3, 1).long(), torch.zeros(3).long()

    pretend(monkeypatch)
    monkeypatch.setattr(cuda, "knn_tensor", far)
    with pytest.raises(InputError, match="overflow float32"):
        search_tensor(torch.zeros(3, 2), 1, None, 0, "keep", "cuda")


def test_a_tensor_on_a_gpu_is_not_read_by_the_cpu() -> None:
    with pytest.raises(BackendError, match=r"pass x\.cpu\(\), or backend='auto'"):
        devices.choose("cpu", torch.zeros(3, 2))
