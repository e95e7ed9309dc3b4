"""The Triton engine: its kernels in Triton's interpreter, against float64."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
from conftest import gaussian
from filter_cases import cancelling, far_clusters, wide_range, wide_rows
from quasi import assert_quasi_equal
from triton_cases import check, shared_storage, worst_sums

from fastdim import BackendError, InputError, as_rows, knn, naive, prepare
from fastdim.backends import devices
from fastdim.backends import triton as engine
from fastdim.backends.triton import device

DTYPES = ("float16", "bfloat16", "float32", "float64")
__all__ = ["shared_storage", "worst_sums"]  # fixtures


@pytest.mark.parametrize("k", [26, 27, 128])
def test_long_lists(k: int) -> None:
    plan = check(engine, as_rows(gaussian(200, 12).astype(np.float32)), k)
    assert plan["candidates"] == 32
    assert (plan["queries_searched_again"] > 0) == (k == 128), "two tiles hold 64 candidates"


def test_ends_of_float64() -> None:
    check(engine, as_rows(gaussian(70, 9) * 1e140))
    x = gaussian(70, 9) * 1e-300
    distances, indices, _ = engine.knn_tensor(torch.from_numpy(x), 2)
    want, places = naive.knn(x * 2.0**1000, 2)
    np.testing.assert_allclose(distances.numpy(), want * 2.0**-1000, rtol=1e-12)
    np.testing.assert_array_equal(indices.numpy(), places)


def test_equal_rows_and_ties() -> None:
    x = gaussian(140, 12).astype(np.float32)
    x[40:60] = x[5]
    plan = check(engine, as_rows(x))
    assert plan["queries_searched_again"] >= 20, "more equal rows than candidates are kept"
    check(
        engine, as_rows(np.random.default_rng(1).integers(0, 3, (120, 3)).astype(np.float32)), k=5
    )


def test_more_equal_rows_than_the_second_pass_holds() -> None:
    x = gaussian(300, 4).astype(np.float32)
    x[:270] = x[0]
    plan = check(engine, as_rows(x), 2)
    assert plan["queries_in_full"] >= 270


def test_strided_input() -> None:
    x = torch.from_numpy(gaussian(90, 40).astype(np.float32))
    for part in (x[:, 3:20], x[::2], x.T[:35], x[:, ::2]):
        distances, indices, _ = engine.knn_tensor(part, 2)
        want, places = naive.knn(part.contiguous().numpy(), 2)
        np.testing.assert_allclose(distances.numpy(), want, rtol=1e-12)
        np.testing.assert_array_equal(indices.numpy(), places)


def test_sums_as_wrong_as_a_tensor_core_may_make_them(worst_sums: None) -> None:
    assert check(engine, cancelling())["queries_searched_again"] > 100


def test_rows_that_16_bits_do_not_tell_apart() -> None:
    assert check(engine, far_clusters(60))["queries_searched_again"] > 0


def test_bfloat16_where_the_range_asks_for_it() -> None:
    assert check(engine, wide_range(30))["arithmetic"] == "bfloat16"


def test_offsets_beyond_31_bits(shared_storage: None) -> None:
    check(engine, wide_rows(40, 32))


def test_knn_of_host_memory() -> None:
    x = gaussian(80, 7).astype(np.float32)
    x[50:60] = x[3]
    found = knn(x, 3, backend="triton")
    assert found.backend == "triton-interpreter"
    assert found.distances.dtype == np.float32
    assert_quasi_equal(found.distances, found.indices, naive.knn(x, 3)[0], x.astype(np.float64))
    for options in ({"duplicates": "collapse"}, {"queries": 9, "duplicates": "collapse"}):
        ours, cpu = knn(x, 3, backend="triton", **options), knn(x, 3, **options)
        np.testing.assert_array_equal(ours.indices, cpu.indices)
        np.testing.assert_array_equal(ours.distances, cpu.distances)
        np.testing.assert_array_equal(ours.queries, cpu.queries)
        assert ours.n_distinct == cpu.n_distinct == 70
    np.testing.assert_array_equal(found.numpy().indices, found.indices)


def test_bad_input_is_refused() -> None:
    x = gaussian(40, 4).astype(np.float32)
    with pytest.raises(InputError, match="duplicates='collapse'"):
        knn(np.concatenate([x, x]), backend="triton", duplicates="raise")
    with pytest.raises(InputError, match=r"strategy='full'.*of the CPU"):
        knn(x, backend="triton", strategy="full")
    with pytest.raises(InputError, match="prepared rows are of the CPU"):
        knn(prepare(x), backend="triton")
    with pytest.raises(BackendError, match="rows of another matrix"):
        knn(x, backend="triton", queries=x[:3])
    with pytest.raises(BackendError, match="up to 128 neighbours, k = 129"):
        knn(gaussian(200, 4), 129, backend="triton")
    x[7, 1] = np.nan
    with pytest.raises(InputError, match=r"NaN.*row 7"):
        knn(x, backend="triton")
    with pytest.raises(InputError, match=r"1 rows with NaN.*row 7"):
        devices.check_matrix(torch.from_numpy(x), "x")
    with pytest.raises(InputError, match=r"got shape \(40,\)"):
        devices.check_matrix(torch.zeros(40), "x")


def fresh(code: str, **environment: str) -> str:
    """Standard output of a fresh interpreter without TRITON_INTERPRET."""
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment
    )
    return found.stdout


def test_without_a_gpu_the_error_says_what_to_do() -> None:
    code = (
        "import numpy, fastdim\n"
        "try: fastdim.knn(numpy.eye(4), backend='triton')\n"
        "except fastdim.BackendError as error: print(error)"
    )
    if not torch.cuda.is_available():
        assert "finds no GPU that torch" in fresh(code)
    missing = "import sys; sys.modules['triton'] = None\n"
    assert "pip install 'fastdim[triton]'" in fresh(missing + code)


def test_importing_the_package_imports_neither_triton_nor_torch() -> None:
    code = (
        "import sys, fastdim, fastdim.backends.triton\nprint({'torch', 'triton'} & {*sys.modules})"
    )
    assert fresh(code).strip() == "set()"


def test_a_triton_too_old_for_a_chip_is_refused() -> None:
    for on, version in (("sm_90", "3.5.1"), ("sm_120", "3.7.1"), ("sm_100", "3.10.0"), ("", "3.5")):
        device.check_version(on, version)
    for on, version in (("sm_100", "3.8.0"), ("gfx942", "3.7.1"), ("sm_80", "3.4.0")):
        with pytest.raises(BackendError, match=f"or more on {on}, and {version} is installed"):
            device.check_version(on, version)


def test_tensors_elsewhere_are_refused_by_backend() -> None:
    meta = torch.empty(8, 3, device="meta")
    with pytest.raises(BackendError, match="lies on meta"):
        knn(meta, backend="auto")
    with pytest.raises(BackendError, match="cannot run on meta"):
        engine.check_device(meta.device)
    with pytest.raises(BackendError, match="backend='cpu' reads host memory"):
        devices.choose("cpu", meta)
