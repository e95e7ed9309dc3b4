"""The one place that validates input: what comes in unchanged, what is copied, what is refused."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import gaussian, in_dtype

import fastdim
from fastdim import BackendError, DependencyError, InputError, Rows, as_rows
from fastdim.arrays import as_groups, several
from fastdim.errors import require

X = gaussian(7, 5)


def decoded(rows: Rows) -> np.ndarray:
    return rows.float64(0, rows.n)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_numpy_is_taken_as_it_is(dtype: str) -> None:
    x = X.astype(dtype)
    rows = as_rows(x)
    assert (rows.n, rows.d, rows.dtype, rows.row_stride) == (7, 5, dtype, 5)
    assert rows.data.ctypes.data == x.ctypes.data
    np.testing.assert_array_equal(decoded(rows), x.astype(np.float64))


@pytest.mark.parametrize(
    ("view", "copied"),
    [
        (lambda x: x[::2], False),
        (lambda x: x[:, 1:4], False),
        (lambda x: x[2:3], False),
        (lambda x: x[:, ::2], True),
        (lambda x: x[::-1], True),
        (lambda x: x.T, True),
        (np.asfortranarray, True),
        (lambda x: x.astype(x.dtype.newbyteorder(">")), True),
        (lambda x: np.broadcast_to(x[0], (4, 5)), True),
        (lambda x: np.lib.stride_tricks.sliding_window_view(x.ravel(), 5), True),
    ],
)
def test_layouts_are_copied_only_where_needed(view: Any, copied: bool) -> None:
    source = X.astype(np.float32)
    x = view(source)
    rows = as_rows(x)
    np.testing.assert_array_equal(decoded(rows), np.asarray(x, dtype=np.float64))
    assert np.shares_memory(rows.data, x) is not copied
    assert rows.row_stride >= rows.d
    taken = rows.take(np.array([1, 0]) if rows.n > 1 else np.array([0]))
    np.testing.assert_array_equal(decoded(taken), decoded(rows)[: taken.n][::-1])


def test_read_only_and_memmap(tmp_path: Path) -> None:
    x = X.astype(np.float32)
    x.flags.writeable = False
    assert np.shares_memory(as_rows(x).data, x)
    np.save(tmp_path / "x.npy", x)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    rows = as_rows(mapped)
    assert np.shares_memory(rows.data, mapped)
    np.testing.assert_array_equal(fastdim.knn(mapped).indices, fastdim.knn(x).indices)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_torch_shares_memory(dtype: str) -> None:
    x = torch.tensor(X, requires_grad=True).to(getattr(torch, dtype))
    rows = as_rows(x)
    assert rows.dtype == dtype
    assert rows.data.ctypes.data == x.data_ptr()
    np.testing.assert_array_equal(decoded(rows), x.detach().double().numpy())
    every_other = as_rows(x[::2, 1:])
    np.testing.assert_array_equal(decoded(every_other), x[::2, 1:].detach().double().numpy())


def test_bfloat16_bits_decode_to_their_values() -> None:
    x = torch.tensor(X, dtype=torch.bfloat16)
    bits = x.view(torch.int16).numpy().view(np.uint16)
    rows = as_rows(Rows(bits, "bfloat16"))
    assert rows.block(0, 7).dtype == np.float32
    np.testing.assert_array_equal(rows.block(2, 5), x[2:5].float().numpy())


class Capsule:
    """An array that can be read through DLPack only."""

    def __init__(self, array: Any, device: tuple[int, int] = (1, 0)) -> None:
        self.array, self.device = array, device

    def __dlpack__(self, **options: Any) -> Any:
        return self.array.__dlpack__(**options)

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.device


def test_dlpack() -> None:
    x = X.astype(np.float32)
    rows = as_rows(Capsule(x))
    assert rows.data.ctypes.data == x.ctypes.data
    with pytest.raises(BackendError, match="device type 2"):
        as_rows(Capsule(x, device=(2, 0)))
    with pytest.raises(InputError, match="DLPack"):
        as_rows(Capsule(torch.tensor(X, dtype=torch.bfloat16)))


def test_a_tensor_elsewhere_is_refused_by_name() -> None:
    with pytest.raises(BackendError, match=r"acts lies on meta.*acts\.cpu\(\)"):
        as_rows(torch.empty(3, 3, device="meta"), name="acts")
    with pytest.raises(InputError, match="sparse"):
        as_rows(torch.eye(3).to_sparse())


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (X[0], r"two-dimensional.*\(5,\)"),
        (X[None], r"two-dimensional.*\(1, 7, 5\)"),
        (X.astype(np.int32), "dtype int32.*astype"),
        (X > 0, "dtype bool"),
        (X + 0j, "dtype complex128"),
        (torch.ones(3, 3, dtype=torch.int64), "dtype int64"),
        (X.tolist(), "got list"),
        (None, "got NoneType"),
        (np.ma.masked_array(X), "masked"),
        (np.empty((0, 5)), "at least 1 rows, got 0"),
        (np.empty((5, 0)), "at least 1 columns, got 0"),
    ],
)
def test_wrong_input_is_one_clear_error(x: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        as_rows(x)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_nan_and_inf_are_counted_and_placed(dtype: str) -> None:
    x = gaussian(3000, 4)
    x[1234, 2] = np.nan
    x[2999, 0] = -np.inf
    with pytest.raises(InputError, match=r"layer 3 holds 2 NaN.*nan at row 1234, column 2"):
        as_rows(in_dtype(x, dtype), name="layer 3")


def test_values_whose_squares_overflow_float64_are_refused() -> None:
    with pytest.raises(InputError, match=r"1e\+200 at row 1, column 1"):
        as_rows(np.array([[1.0, 2.0], [3.0, 1e200]]))


# By type: bits of the largest value, and of values that are refused: the next, infinity, NaN.
BITS = {
    "float16": (0x7BFF, (0x7C00, 0x7E00)),
    "bfloat16": (0x7F7F, (0x7F80, 0x7FC0)),
    "float32": (0x7F7FFFFF, (0x7F800000, 0x7FC00000)),
    "float64": (
        int(np.float64(1e150).view(np.uint64)),
        (int(np.nextafter(1e150, np.inf).view(np.uint64)), 0x7FF0 << 48, 0x7FF8 << 48),
    ),
}


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("adjacent", [True, False])
@pytest.mark.parametrize("dtype", BITS)
def test_one_unusable_value_anywhere(dtype: str, adjacent: bool, threads: int) -> None:
    most, refused = BITS[dtype]
    size = 64 if dtype == "float64" else 32 if dtype == "float32" else 16
    bits = np.full((9000, 100), refused[0], dtype=f"uint{size}")  # more than a task
    inside = bits if adjacent else bits[:, 1:-2]  # what lies between the rows is not looked at
    inside[...] = most
    inside[::7, ::2] |= np.array(1, bits.dtype) << (size - 1)  # the sign
    stored = bits if dtype == "bfloat16" else bits.view(dtype)
    data = stored if adjacent else stored[:, 1:-2]
    as_rows(Rows(data, dtype), threads=threads)
    inside[5, 5] = refused[0]
    among = np.delete(np.arange(len(data)), 5)
    Rows(data, dtype).check_finite("x", threads, among)
    with pytest.raises(InputError, match="row 5, column 5"):
        Rows(data, dtype).check_finite("x", threads, among[4:5] + 1)
    inside[5, 5] = most
    last, end = data.shape[0] - 1, data.shape[1] - 1
    for row, column in ((0, 0), (last // 2, 1), (last, 0), (last, end)):
        kept = inside[row, column]
        for value in refused:
            inside[row, column] = value
            with pytest.raises(InputError, match=rf"holds 1 .* row {row}, column {column}:"):
                as_rows(Rows(data, dtype), threads=threads)
        inside[row, column] = kept


def test_a_look_at_rows_that_are_not_there_is_refused() -> None:
    for row in (-1, len(X)):
        with pytest.raises(ValueError, match="out of range"):
            Rows(X, "float64").check_finite("x", 1, np.array([0, row]))


def test_rows_refuse_what_the_kernels_cannot_read() -> None:
    with pytest.raises(InputError, match="stored as uint16"):
        Rows(X, "bfloat16")
    with pytest.raises(InputError, match="adjacent columns"):
        Rows(X.T, "float64")
    with pytest.raises(InputError, match="int8"):
        Rows(X.astype(np.int8), "int8")


def test_norms_of_float16_do_not_overflow() -> None:
    x = np.full((3, 4), 60000.0, dtype=np.float16)
    np.testing.assert_allclose(as_rows(x).norms(), 2.0 * float(x[0, 0]), rtol=1e-15)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_norms_of_any_width(dtype: str, isa: str) -> None:
    for d in (1, 2, 7, 8, 9, 15, 16, 17, 33, 97, 257):
        rows = in_dtype(np.repeat(gaussian(150, d), 2, axis=1), dtype)
        part = Rows(rows.data[:, : d + 1], dtype)
        exact = np.sqrt(np.square(part.float64(0, 150)).sum(axis=1))
        for threads in (1, 3):
            np.testing.assert_allclose(part.norms(threads), exact, rtol=1e-14)
    assert as_rows(np.array([[0.0, 0.0], [3.0, 4.0]])).norms().tolist() == [0.0, 5.0]


def test_spans_cover_every_row_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fastdim.arrays.BLOCK_BYTES", 2 * 5 * 8)
    rows = as_rows(X)
    assert list(rows.spans()) == [(0, 2), (2, 4), (4, 6), (6, 7)]
    np.testing.assert_allclose(rows.norms(), np.linalg.norm(X, axis=1), rtol=1e-14)


def test_groups_are_renumbered() -> None:
    np.testing.assert_array_equal(as_groups([7, 7, -2], 3), [1, 1, 0])
    np.testing.assert_array_equal(as_groups(np.array(["b", "a"]), 2), [1, 0])
    assert as_groups(None, 3) is None
    with pytest.raises(InputError, match=r"shape \(3,\)"):
        as_groups([1, 2], 3)
    with pytest.raises(InputError, match="float64"):
        as_groups([0.5, 1.0], 2)


def test_missing_package_names_the_extra() -> None:
    with pytest.raises(DependencyError, match=r"pip install 'fastdim\[report\]'"):
        require("no_such_package_here.part", "report")
    assert require("numpy.linalg", "report") is np.linalg


@pytest.mark.parametrize("values", [[0.5, 0.75], (0.5, 0.75), "array", "tensor"])
def test_a_list_of_values_in_any_collection(values: Any) -> None:
    made = {"array": np.array, "tensor": torch.tensor}
    given = made[values]([0.5, 0.75]) if isinstance(values, str) else values
    assert [(value, type(value)) for value in several("sizes", given)] == [
        (0.5, float), (0.75, float)
    ]  # fmt: skip
    x = gaussian(60, 4)
    assert fastdim.fishers(x, alphas=given).value == fastdim.fishers(x, alphas=[0.5, 0.75]).value


@pytest.mark.parametrize("values", [3, "ab", np.array(3), torch.tensor(3), np.ones((2, 2))])
def test_one_value_is_no_list(values: Any) -> None:
    with pytest.raises(InputError, match="sizes must be a list of values"):
        several("sizes", values)


def test_import_is_light() -> None:
    heavy = "torch transformers faiss triton matplotlib pandas pyarrow rich safetensors scipy"
    code = (
        "import sys, fastdim; from fastdim import knn, profile; "
        f"print([name for name in {heavy.split()!r} if name in sys.modules])"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"


def test_public_names_exist() -> None:
    missing = [name for name in fastdim.__all__ if not hasattr(fastdim, name)]
    assert missing == []
    assert fastdim.__version__.count(".") == 2
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = fastdim.nothing
