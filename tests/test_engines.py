"""The contract of neighbours and cosines, one body over every engine that there is.

Here: the reference, the C++ kernels, the CUDA sources on the emulated GPU and the Triton kernels in
Triton's interpreter. With FASTDIM_TEST_GPU=1, on a machine with a GPU (`make test-gpu`): the CUDA
extension and compiled Triton kernels in place of the last two, for a process has one Triton alone.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, partial
from typing import Any

import numpy as np
import pytest
import torch
from conftest import gaussian, in_dtype, token_like
from cosine_cases import DEVICE_CASES, check_device, check_device_dtype, check_parallel_rows
from cuda_cases import Extension, compiled, use
from filter_cases import cancelling, far_clusters, wide_range

from fastdim import Rows, as_rows, naive
from fastdim.backends import cpu, cuda, devices
from fastdim.backends import triton as triton_engine

Search = Callable[[Rows, int, Any], tuple[np.ndarray, np.ndarray]]
ON_GPU = os.environ.get("FASTDIM_TEST_GPU") == "1"
PLACE = "cuda" if ON_GPU else "cpu"
CUDA = {f"cuda-{how}": how for how in cuda.STRATEGIES}
TRITON = "triton" if ON_GPU else "triton-interpreted"
# Those that search chosen rows, and those that search all of them at once alone.
# "cuda-host" takes rows in host memory to the device by the extension's own means.
CHOSEN = ["naive", "cpu", "cuda-full", TRITON, *(["cuda-host"] if ON_GPU else [])]
ENGINES = [*CHOSEN, "cuda-symmetric", "cuda-pruned"]


class Both(Extension):
    """Neighbours and cosines on the emulated GPU: two libraries behind one name."""

    def __init__(self, search: Extension, cosine: Extension) -> None:
        super().__init__(search.code)
        self.cosine = cosine

    def run(self, name: str, *arguments: Any) -> None:
        (super().run if name == "knn" else self.cosine.run)(name, *arguments)


@pytest.fixture(scope="module")
def emulated(tmp_path_factory: pytest.TempPathFactory) -> Extension:
    """The CUDA sources compiled for the emulated GPU."""
    folder = tmp_path_factory.mktemp
    search = Extension(compiled(folder("search"), "library.cpp"))
    return Both(search, Extension(compiled(folder("cosine"), "cosine_library.cpp")))


@contextmanager
def running(name: str, request: pytest.FixtureRequest) -> Iterator[None]:
    """Let backend "cuda" be the emulated GPU, where this is an engine of it."""
    with pytest.MonkeyPatch.context() as patch:
        if name.startswith("cuda") and not ON_GPU:
            extension = request.getfixturevalue("emulated")
            extension.seed(1)
            use(patch, extension)
        yield


def of_tensors(search: Callable[..., tuple[Any, ...]]) -> Search:
    """A search of tensors as one of Rows."""

    def called(rows: Rows, k: int, queries: Any) -> tuple[np.ndarray, np.ndarray]:
        chosen = None if queries is None else torch.from_numpy(queries).to(PLACE)
        distances, indices, _ = search(devices.upload(rows, PLACE), k, chosen)
        return distances.cpu().numpy(), indices.cpu().numpy()

    return called


def search_of(name: str) -> Search:
    if name == "naive":
        return naive.knn
    if name == "cpu":
        return lambda rows, k, queries: cpu.knn(rows, queries, k, 2)[:2]
    if name == "cuda-host":
        return lambda rows, k, queries: cuda.knn(rows, queries, k)[:2]
    if name in CUDA:
        return of_tensors(partial(cuda.knn_tensor, strategy=CUDA[name]))
    return of_tensors(triton_engine.knn_tensor)


@pytest.fixture(params=ENGINES)
def search(request: pytest.FixtureRequest) -> Iterator[Search]:
    """Every engine's search of all rows."""
    with running(request.param, request):
        yield search_of(request.param)


@pytest.fixture(params=CHOSEN)
def search_chosen(request: pytest.FixtureRequest) -> Iterator[Search]:
    """Every engine's search of chosen rows."""
    with running(request.param, request):
        yield search_of(request.param)


def repeated(n: int, d: int) -> np.ndarray:
    x = gaussian(n, d)
    x[40:60] = x[5]
    return x


def mostly(n: int, equal: int) -> np.ndarray:
    x = gaussian(n, 4)
    x[:equal] = x[0]
    return x


def column() -> np.ndarray:
    x = gaussian(260, 20) + 1e4
    x[:, 3] *= 1e3
    return x


def signed_zeros() -> np.ndarray:
    x = np.zeros((4, 3))
    x[1], x[3] = -0.0, 1.0
    return x


def mixed_scales() -> np.ndarray:
    x = gaussian(60, 5)
    x[:20] *= 1e-200
    x[20:40] *= 1e120
    return x


def whole(high: int, n: int, d: int) -> np.ndarray:
    return np.random.default_rng(1).integers(0, high, (n, d)).astype(np.float64)


def near_pairs() -> np.ndarray:
    x = gaussian(200, 30)
    x[100:] = x[:100] * (1 + 1e-6)
    return x


def tight_clusters() -> np.ndarray:
    x = gaussian(200, 16) * 1e-3
    return x + np.where(np.arange(200)[:, None] % 2, 1e3, -1e3) * gaussian(1, 16, seed=9)


def line() -> np.ndarray:
    return np.random.default_rng(4).uniform(-1, 1, (200, 1)) ** 3 * gaussian(1, 40) + 7.0


Case = tuple[Callable[[], Rows], int]
SIZES = (
    (2, 1, 1), (3, 5, 2), (65, 63, 7), (127, 63, 2), (128, 64, 1), (129, 65, 2), (257, 33, 3),
    (300, 130, 2), (200, 12, 20),
)  # fmt: skip
CASES: dict[str, Case] = {
    **{
        f"{n} x {d}, k = {k}": (partial(in_dtype, gaussian(n, d), "float32"), k)
        for n, d, k in SIZES
    },
    **{
        f"massive rows in {dtype}": (partial(in_dtype, token_like(280, 40), dtype), 2)
        for dtype in ("float16", "bfloat16", "float32", "float64")
    },
    "offset 1e6": (partial(in_dtype, gaussian(140, 20) + 1e6, "float32"), 2),
    "one large column": (partial(in_dtype, column(), "float32"), 2),
    "float64 at 1e140": (partial(in_dtype, gaussian(140, 9) * 1e140, "float64"), 2),
    "float64 at 1e-140": (partial(in_dtype, gaussian(140, 9) * 1e-140, "float64"), 2),
    "float32 near its largest": (partial(in_dtype, gaussian(90, 11) * 5e37, "float32"), 2),
    "float16 whose squares overflow": (
        partial(in_dtype, (gaussian(140, 24) * 2e4).clip(-65504, 65504), "float16"), 3,
    ),
    "subnormal float16": (partial(in_dtype, whole(400, 90, 11) * 2.0**-24, "float16"), 2),
    "subnormal float32": (partial(in_dtype, whole(400, 90, 11) * 2.0**-149, "float32"), 2),
    "mixed scales": (partial(in_dtype, mixed_scales(), "float64"), 2),
    "equal rows": (partial(in_dtype, repeated(260, 12), "float32"), 2),
    "most rows equal": (partial(in_dtype, mostly(300, 270), "float32"), 2),
    "all rows zero": (partial(in_dtype, np.zeros((140, 3)), "float32"), 2),
    "signed zeros": (partial(in_dtype, signed_zeros(), "float32"), 2),
    "ties": (partial(in_dtype, whole(3, 200, 3), "float16"), 5),
    "near duplicates": (partial(in_dtype, near_pairs(), "float32"), 2),
    "tight clusters": (partial(in_dtype, tight_clusters(), "float32"), 3),
    "points on a line": (partial(in_dtype, line(), "float32"), 2),
    "sums that cancel": (cancelling, 2),
    "far clusters": (partial(far_clusters, 100), 2),
    "a range of 1e11": (partial(wide_range, 75), 2),
}  # fmt: skip


# Where distances differ by their last bits alone, and any order of them is right.
LAST_BITS = ("mixed scales", "a range of 1e11")


@cache
def truth(case: str) -> tuple[np.ndarray, np.ndarray]:
    """By math.dist, which neither overflows nor cancels; ties to the smaller row."""
    make, k = CASES[case]
    rows = make()
    values = rows.float64(0, rows.n).tolist()
    found = np.array([[math.dist(a, b) for b in values] for a in values])
    np.fill_diagonal(found, np.inf)
    order = np.argsort(found, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(found, order, axis=1), order


@pytest.mark.parametrize("case", CASES)
def test_distances_and_neighbours(case: str, search: Search) -> None:
    make, k = CASES[case]
    rows = make()
    distances, indices = search(rows, k, None)
    want, places = truth(case)
    np.testing.assert_allclose(distances, want, rtol=1e-12, atol=0)
    if case not in LAST_BITS:
        np.testing.assert_array_equal(indices, places)
    values = rows.float64(0, rows.n)
    for number, (row, there) in enumerate(zip(values, indices.tolist(), strict=True)):
        assert len({*there, number}) == k + 1, "a row twice, or the row itself"
        named = [math.dist(row, values[other]) for other in there]
        np.testing.assert_allclose(named, want[number], rtol=1e-12)


def test_chosen_rows_in_any_order_and_repeated(search_chosen: Search) -> None:
    rows, chosen = as_rows(gaussian(600, 30).astype(np.float32)), [599, 7, 7, 128, 0]
    distances, indices = search_chosen(rows, 2, np.array(chosen, dtype=np.int64))
    values = rows.float64(0, rows.n).tolist()
    for place, query in enumerate(chosen):
        want = sorted((math.dist(values[query], b), j) for j, b in enumerate(values) if j != query)
        np.testing.assert_allclose(distances[place], [w for w, _ in want[:2]], rtol=1e-12)
        assert indices[place].tolist() == [j for _, j in want[:2]]


def test_rows_that_do_not_lie_side_by_side(search: Search) -> None:
    x = gaussian(180, 40).astype(np.float32)
    for part in (x[:90, 3:20], x[::2, :17]):
        rows = Rows(part, "float32")
        distances, indices = search(rows, 2, None)
        want, places = naive.knn(part, 2)
        np.testing.assert_allclose(distances, want, rtol=1e-12)
        np.testing.assert_array_equal(indices, places)


def test_the_same_bits_twice(search: Search) -> None:
    rows = as_rows(token_like(420, 20))
    first, second = search(rows, 2, None), search(rows, 2, None)
    for one, other in zip(first, second, strict=True):
        np.testing.assert_array_equal(one, other)


COSINES = {"cuda": "cuda-emulated", "triton": "triton-interpreter"}


@pytest.fixture(params=["cuda", "triton"])
def cosines(request: pytest.FixtureRequest) -> Iterator[tuple[str, str]]:
    """Every device engine of cosine statistics: its backend, and what results call it."""
    with running(request.param, request):
        name = COSINES[request.param]
        if ON_GPU:
            name = f"{request.param}-{torch.cuda.get_device_name()}"
        yield request.param, name


@pytest.mark.parametrize("case", DEVICE_CASES)
def test_cosines_equal_the_reference(case: str, cosines: tuple[str, str]) -> None:
    check_device(case, *cosines)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_cosines_of_dtypes_bins_and_groups(dtype: str, cosines: tuple[str, str]) -> None:
    check_device_dtype(dtype, cosines[0])


def test_spread_of_nearly_parallel_rows_does_not_cancel(cosines: tuple[str, str]) -> None:
    check_parallel_rows(cosines[0])
