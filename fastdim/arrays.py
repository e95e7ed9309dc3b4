"""The one place that validates and converts input: numpy, torch, DLPack, memmap -> Rows."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastdim import _core
from fastdim.errors import BackendError, InputError

# The kernels take a 32-bit count; more than there is work for are not started.
MOST_THREADS = 1 << 20
# Rows are decoded to float64 in blocks of about this size: large enough for BLAS, small enough
# that no pass over the data holds a second copy of it.
BLOCK_BYTES = 16 << 20

# Squares of larger float64 values overflow once a few thousand of them are summed.
LARGEST_FLOAT64 = 1e150

STORAGE = {"float16": "float16", "bfloat16": "uint16", "float32": "float32", "float64": "float64"}

# Makes an array: (shape, dtype=), as `numpy.empty`.
Empty = Callable[..., NDArray[Any]]


@dataclass(frozen=True, eq=False)
class Rows:
    """A validated matrix (n, d) of rows, in the precision it came in.

    data: array (n, d), unit column stride, row stride of at least d elements, native byte order;
          bfloat16 is held as its uint16 bit patterns.
    dtype: "float16", "bfloat16", "float32" or "float64".
    """

    data: NDArray[Any]
    dtype: str
    _finite: list[bool] = field(default_factory=list, init=False, repr=False)

    def __post_init__(self) -> None:
        if self.dtype not in STORAGE:
            raise InputError(f"Rows: dtype must be one of {', '.join(STORAGE)}, got {self.dtype!r}")
        stored = STORAGE[self.dtype]
        if self.data.dtype != np.dtype(stored):
            raise InputError(
                f"Rows: {self.dtype} rows are stored as {stored}, got {self.data.dtype}"
            )
        if self.data.ndim != 2 or not _has_row_layout(self.data):
            raise InputError(
                "Rows: data must be two-dimensional with adjacent columns; as_rows(x) converts"
            )

    @property
    def n(self) -> int:
        """Number of rows."""
        return int(self.data.shape[0])

    @property
    def d(self) -> int:
        """Number of columns."""
        return int(self.data.shape[1])

    @property
    def row_stride(self) -> int:
        """Distance between the starts of two rows, in elements."""
        # numpy leaves the stride of a single row undefined.
        return self.data.strides[0] // self.data.itemsize if self.n > 1 else self.d

    def block(self, start: int, stop: int) -> NDArray[Any]:
        """Rows start..stop, decoded, C-contiguous: float64 for float64 rows, else float32."""
        part = self.data[start:stop]
        if self.dtype == "bfloat16":
            return (part.astype(np.uint32) << 16).view(np.float32)
        return np.ascontiguousarray(
            part, dtype=np.float64 if self.dtype == "float64" else np.float32
        )

    def float64(self, start: int, stop: int) -> NDArray[np.float64]:
        """Rows start..stop as a new C-contiguous float64 array, free to be changed in place."""
        source = self.block(start, stop) if self.dtype == "bfloat16" else self.data[start:stop]
        return source.astype(np.float64, order="C")

    def take(self, indices: NDArray[np.int64]) -> Rows:
        """A copy of the listed rows."""
        taken = Rows(np.ascontiguousarray(self.data[indices]), self.dtype)
        taken._finite.extend(self._finite)
        return taken

    def spans(self, width: int | None = None) -> Iterator[tuple[int, int]]:
        """(start, stop) of consecutive blocks of about BLOCK_BYTES.

        width: float64 values a row needs, the number of columns if None.
        """
        step = max(1, BLOCK_BYTES // (8 * max(1, self.d if width is None else width)))
        for start in range(0, self.n, step):
            yield start, min(start + step, self.n)

    def norms(self, threads: int = 1) -> NDArray[np.float64]:
        """Euclidean norm of each row, summed in float64 (float16 squares cannot overflow)."""
        norms = np.full(self.n, np.nan)
        _core.row_norms(*self._matrix(), threads, _core.active_level(), norms.ctypes.data)
        return norms

    def distances_from(self, point: NDArray[Any], threads: int = 1) -> NDArray[np.float64]:
        """Euclidean distance (n,) of each row from a point (d,), from differences in float64.

        NaN or infinite where a row is.
        """
        point = np.ascontiguousarray(point, dtype=np.float64)
        if point.shape != (self.d,):
            raise ValueError(f"the point has shape {point.shape}, the rows {self.d} columns")
        found = np.full(self.n, np.nan)
        _core.row_distances(
            *self._matrix(), point.ctypes.data, threads, _core.active_level(), found.ctypes.data
        )
        return found

    def _matrix(self) -> tuple[int, int, int, int, str]:
        return self.data.ctypes.data, self.n, self.d, self.row_stride, self.dtype

    def check_finite(
        self, name: str, threads: int = 1, first: NDArray[np.int64] | None = None
    ) -> None:
        """Raise InputError on NaN, Inf, or float64 values whose squares overflow.

        A passed check is remembered: the values are read once however many estimators run. first:
        row numbers (g,), one of each group of equal rows: all that have to be read.
        """
        if not self._finite:
            if not self._all_usable(threads, first):
                check_finite([self], name)
            self._finite.append(True)

    def _all_usable(self, threads: int, first: NDArray[np.int64] | None) -> bool:
        looked = np.ascontiguousarray(() if first is None else first, dtype=np.int64)
        ids = 0 if first is None else looked.ctypes.data
        return _core.all_within(*self._matrix(), ids, len(looked), LARGEST_FLOAT64, threads)


def check_finite(parts: Sequence[Rows], name: str) -> None:
    """`Rows.check_finite` of a matrix that lies in parts, one under the other."""
    count, start_of_part = 0, 0
    first: tuple[int, int, float] | None = None
    for part in parts:
        for start, stop in part.spans():
            bad = _unusable(part.data[start:stop], part.dtype)
            if bad is None:
                continue
            count += int(bad.sum())
            if first is None:
                row, column = (int(place) for place in np.argwhere(bad)[0])
                value = float(part.float64(start + row, start + row + 1)[0, column])
                first = (start_of_part + start + row, column, value)
        start_of_part += part.n
    if first is not None:
        row, column, value = first
        what = "NaN or infinite values" if not np.isfinite(value) else "unusable values"
        raise InputError(
            f"{name} holds {count} {what} (NaN, Inf, or beyond {LARGEST_FLOAT64:g}); the first "
            f"is {value} at row {row}, column {column}: drop those rows or rescale"
        )


def is_usable(data: NDArray[Any], dtype: str) -> bool:
    """Whether stored values (as `Rows.data`) hold nothing that `check_finite` refuses."""
    return _unusable(data, dtype) is None


def as_unchecked_rows(array: NDArray[Any], name: str) -> Rows:
    """An array as Rows without a look at its values and never as a copy.

    Raises InputError on a wrong shape or dtype, and where `as_rows` would copy.
    """
    found, _ = _to_numpy(array, name)
    if found.ndim == 2 and not (found.dtype.isnative and _has_row_layout(found)):
        raise InputError(
            f"{name} is stored column by column, backwards or in a foreign byte order, so it "
            "would have to be copied whole: save it with np.ascontiguousarray first"
        )
    return _convert(array, name)


def as_rows(
    x: Any,
    *,
    name: str = "x",
    min_rows: int = 1,
    min_columns: int = 1,
    empty: bool = False,
    threads: int = 1,
) -> Rows:
    """Validate x (n, d) and return it as Rows, without a copy where its layout allows.

    Accepts numpy arrays (memmap, read-only, sliced, F-order), torch tensors on the CPU, anything
    with `__dlpack__` in CPU memory or with `__array__`, and Rows. float16, bfloat16, float32 and
    float64 keep their precision. A copy is made only if columns are not adjacent, rows overlap or
    run backwards, or the byte order is foreign. empty: also a matrix without rows, as a rank of a
    distributed run may hold. threads: those that look at the values.

    Raises InputError on a wrong shape or dtype, on NaN or Inf (with count and first position), and
    on fewer than `min_rows` rows or `min_columns` columns; BackendError on another device's memory.
    """
    threads = check_threads("threads", threads)
    rows = shaped_rows(x, name=name, min_rows=min_rows, min_columns=min_columns, empty=empty)
    rows.check_finite(name, threads)
    return rows


def shaped_rows(
    x: Any, *, name: str = "x", min_rows: int = 1, min_columns: int = 1, empty: bool = False
) -> Rows:
    """`as_rows` without a look at the values, which the caller owes: `Rows.check_finite`."""
    min_rows = whole_number("min_rows", min_rows, 0)
    min_columns = whole_number("min_columns", min_columns, 0)
    rows = x if isinstance(x, Rows) else _convert(x, name)
    if rows.n < max(1, min_rows) and not (empty and rows.n == 0):
        raise InputError(f"{name} needs at least {max(1, min_rows)} rows, got {rows.n}")
    if rows.d < max(1, min_columns):
        raise InputError(f"{name} needs at least {max(1, min_columns)} columns, got {rows.d}")
    return rows


def whole_number(name: str, value: Any, least: int, most: float = (1 << 63) - 1) -> int:
    """`value` as an int from `least` to `most`, by default what 64 bits hold. Raises InputError for
    anything else, floats too."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < least:
        raise InputError(f"{name} must be a whole number >= {least}, got {value!r}")
    if value > most:
        raise InputError(f"{name} is beyond 64 bits: pass a smaller number")
    return int(value)


def check_threads(origin: str, value: Any) -> int:
    """`value` as a number of threads. Raises InputError, which names `origin`, unless it is one."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < 1:
        raise InputError(f"{origin}={value!r} must be a whole number >= 1")
    if value > MOST_THREADS:
        raise InputError(f"{origin}={value!r} is more than {MOST_THREADS:,}: pass fewer threads")
    return int(value)


def real_number(name: str, value: Any) -> float:
    """`value` as a float, NaN and infinities too. Raises InputError for anything but a number."""
    if isinstance(value, bool) or not isinstance(value, (int, float, np.integer, np.floating)):
        raise InputError(f"{name} must be a number, got {value!r}")
    try:
        return float(value)
    except OverflowError:
        raise InputError(f"{name} is beyond the range of float64: pass a smaller number") from None


def one_of(name: str, value: Any, choices: Iterable[str | None]) -> None:
    """Raise InputError, which tells the choices, unless `value` is one of these names.

    An array is none, though comparing it with a name gives an array, which has no truth value.
    """
    known = list(choices)
    if not (value is None or isinstance(value, str)) or value not in known:
        told = ", ".join("None" if choice is None else choice for choice in known)
        raise InputError(f"{name} must be one of {told}, got {value!r}")


def yes_or_no(name: str, value: Any) -> bool:
    """The truth of a value. Raises InputError for what has none, as an array of several."""
    try:
        return bool(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"{name} must be True or False, got {value!r}") from error


def several(name: str, values: Any) -> list[Any]:
    """What a list or another collection holds. Raises InputError for one value, texts too."""
    single = isinstance(values, (str, bytes)) or not isinstance(values, Iterable)
    # Tensors too say that they can be iterated over, whatever their shape.
    if single or len(getattr(values, "shape", (1,))) != 1:
        raise InputError(f"{name} must be a list of values, got {values!r}")
    return list(values.tolist() if hasattr(values, "tolist") else values)


def generator(seed: Any) -> np.random.Generator:
    """Random numbers of a seed, a whole number >= 0. Raises InputError for anything else."""
    return np.random.default_rng(whole_number("seed", seed, 0, math.inf))


def as_plain(name: str, values: Any) -> NDArray[Any]:
    """Labels, row numbers or distances as an array. Raises InputError for lists of unequal lengths,
    and for tensors that numpy cannot read, as those on a GPU.
    """
    try:
        return np.asarray(values)
    except (TypeError, RuntimeError) as error:
        raise InputError(
            f"{name} cannot be read by numpy ({error}): pass a list, an array or a tensor of "
            "numpy's number types in host memory"
        ) from error
    except ValueError as error:
        raise InputError(
            f"{name} must be one list or array of one length a row, and this one is ragged: pass "
            f"one value for each row, or as many for each ({error})"
        ) from error


def detached(values: Any) -> Any:
    """A tensor without its gradient, which numpy does not read; anything else as it is."""
    return values.detach() if hasattr(values, "detach") else values


def as_groups(groups: Any, n: int) -> NDArray[np.int64] | None:
    """Validate group labels (n,), e.g. document numbers, and renumber them 0..g-1; None stays."""
    if groups is None:
        return None
    labels = as_plain("groups", groups)
    if labels.shape != (n,):
        raise InputError(f"groups must hold one label a row, shape ({n},); got {labels.shape}")
    if labels.dtype.kind not in "biuSU":
        raise InputError(f"groups must hold integers or strings, got {labels.dtype}")
    return np.unique(labels, return_inverse=True)[1].astype(np.int64).reshape(n)


def _convert(x: Any, name: str) -> Rows:
    array, dtype = _to_numpy(x, name)
    if array.ndim != 2:
        raise InputError(
            f"{name} must be two-dimensional (rows, columns), got shape {tuple(array.shape)}"
        )
    if dtype not in STORAGE:
        raise InputError(
            f"{name} has dtype {dtype}; supported are {', '.join(STORAGE)}: "
            "convert it, e.g. x.astype('float32')"
        )
    if not array.dtype.isnative:
        array = array.astype(array.dtype.newbyteorder("="))
    if not _has_row_layout(array):
        array = np.array(array, order="C")
    return Rows(array, dtype)


def _to_numpy(x: Any, name: str) -> tuple[NDArray[Any], str]:
    """The values of x without a copy where possible, and the name of their number type."""
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(x, torch.Tensor):
        return _torch_to_numpy(x, torch, name)
    if isinstance(x, np.ma.MaskedArray):
        raise InputError(f"{name} is a masked array: select the rows to keep first")
    if isinstance(x, np.ndarray):
        array = np.asarray(x)
    elif hasattr(x, "__dlpack__"):
        array = _dlpack_to_numpy(x, name)
    elif hasattr(x, "__array__"):
        array = np.asarray(x)
    else:
        raise InputError(
            f"{name} must be a numpy array, a torch tensor or a DLPack array, got "
            f"{type(x).__name__}: convert it, e.g. np.asarray(x, dtype='float32')"
        )
    if array.dtype.name == "bfloat16":  # the ml_dtypes package's number type
        return array.view(np.uint16), "bfloat16"
    return array, array.dtype.name


def _torch_to_numpy(x: Any, torch: Any, name: str) -> tuple[NDArray[Any], str]:
    if x.device.type != "cpu":
        raise BackendError(
            f"{name} lies on {x.device}, and this function reads host memory: pass {name}.cpu()"
        )
    if x.layout != torch.strided or x.is_quantized:
        raise InputError(f"{name} is a sparse or quantized tensor: pass a dense one")
    x = x.detach().resolve_neg()
    if x.dtype == torch.bfloat16:
        return x.view(torch.int16).numpy().view(np.uint16), "bfloat16"
    return x.numpy(), str(x.dtype).removeprefix("torch.")


def _dlpack_to_numpy(x: Any, name: str) -> NDArray[Any]:
    device = int(x.__dlpack_device__()[0])
    if device != 1:  # kDLCPU
        raise BackendError(
            f"{name} lies on DLPack device type {device}, and this function reads host memory: "
            "copy it to CPU memory first"
        )
    try:
        return np.from_dlpack(x)
    except (BufferError, RuntimeError, TypeError) as error:
        raise InputError(
            f"{name} cannot be read through DLPack ({error}): convert it to float32"
        ) from error


def _has_row_layout(array: NDArray[Any]) -> bool:
    n, d = array.shape
    row, column = array.strides
    if array.size == 0:
        return True
    unit_columns = d == 1 or column == array.itemsize
    ordered_rows = n == 1 or (row >= d * array.itemsize and row % array.itemsize == 0)
    return unit_columns and ordered_rows and array.flags.aligned


def _unusable(data: NDArray[Any], dtype: str) -> NDArray[np.bool_] | None:
    """Mask of NaN, Inf and overflowing values; None if there are none."""
    if dtype == "bfloat16":
        good = (data & 0x7F80) != 0x7F80  # an exponent of ones is NaN or Inf
    elif dtype == "float64":
        good = np.abs(data) <= LARGEST_FLOAT64
    else:
        good = np.isfinite(data)
    return None if good.all() else ~good
