"""The safetensors format read and written directly: half precision without torch, and by region.

A file is the length of a header (8 bytes, little endian), the header (JSON: name -> dtype, shape,
data_offsets), and the tensors end to end. The safetensors package reads and writes the same bytes,
but hands bfloat16 only to torch and a whole tensor only as a new array.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from fastdim.errors import StoreError

# safetensors name -> (numpy type of the stored bits, fastdim name)
DTYPES: dict[str, tuple[str, str]] = {
    "F16": ("<f2", "float16"),
    "BF16": ("<u2", "bfloat16"),
    "F32": ("<f4", "float32"),
    "F64": ("<f8", "float64"),
    "I64": ("<i8", "int64"),
    "I32": ("<i4", "int32"),
    "U8": ("|u1", "uint8"),
    "BOOL": ("|b1", "bool"),
}
CODES = {name: code for code, (_, name) in DTYPES.items()}

# The limit the safetensors library sets itself.
LARGEST_HEADER = 100_000_000

HASH_BLOCK = 1 << 22


@dataclass(frozen=True)
class Entry:
    """One tensor of a file: where its bytes lie."""

    dtype: str
    shape: tuple[int, ...]
    offset: int
    nbytes: int


@contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Turn an operating system's refusal to write into a StoreError that says what to do."""
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        advice = (
            "free some space and run the same command again"
            if full
            else "check the folder and its permissions"
        )
        raise StoreError(
            f"cannot write {path}: {error.strerror or error}; what was finished is kept, {advice}"
        ) from error


def replace_file(path: Path, write: Any) -> None:
    """Let `write(file)` fill a temporary file, then give it its name in one step.

    After a return the content survives a power cut; before, the old file stands untouched.
    """
    temporary = path.with_name(path.name + ".tmp")
    with storage_errors(path):
        try:
            with temporary.open("wb") as file:
                write(file)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def write_bytes(path: Path, data: bytes) -> None:
    """Write a whole file or nothing; OSError becomes a StoreError that says what to do."""
    replace_file(path, lambda file: file.write(data))


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file in one step."""
    data = json.dumps(content, indent=1, ensure_ascii=False).encode()
    write_bytes(path, data)


def write_shard(path: Path, tensors: Mapping[str, tuple[str, NDArray[Any]]]) -> str:
    """Write tensors, each (dtype name, array of its bits), in one step; return the sha256."""
    header: dict[str, Any] = {}
    end = 0
    for name, (dtype, array) in tensors.items():
        offsets = [end, end + array.nbytes]
        end += array.nbytes
        header[name] = {"dtype": CODES[dtype], "shape": list(array.shape), "data_offsets": offsets}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)  # tensors start at a multiple of 8 bytes
    digest = hashlib.sha256()

    def write(file: BinaryIO) -> None:
        file_header = memoryview(len(text).to_bytes(8, "little") + text)
        for part in (file_header, *(_bytes(array) for _, array in tensors.values())):
            digest.update(part)
            file.write(part)

    replace_file(path, write)
    return digest.hexdigest()


def _bytes(array: NDArray[Any]) -> memoryview:
    return memoryview(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)


def file_sha256(path: Path) -> str:
    """Hash of a file's content, read in blocks."""
    digest = hashlib.sha256()
    block = memoryview(bytearray(HASH_BLOCK))
    with path.open("rb", buffering=0) as file:
        while count := file.readinto(block):
            digest.update(block[:count])
    return digest.hexdigest()


def read_header(path: Path) -> dict[str, Entry]:
    """The tensors of a safetensors file. Raises StoreError if it is none or is cut off."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if not 2 <= length <= min(LARGEST_HEADER, size - 8):
                raise ValueError("the header is longer than the file")
            header = json.loads(file.read(length))
        header.pop("__metadata__", None)
        return {name: _entry(name, fields, 8 + length, size) for name, fields in header.items()}
    except OSError as error:
        raise StoreError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise StoreError(f"{path} is no readable safetensors file: {error}") from error


def _entry(name: str, fields: dict[str, Any], start: int, size: int) -> Entry:
    shape = tuple(int(n) for n in fields["shape"])
    begin, end = (int(n) for n in fields["data_offsets"])
    if not 0 <= begin <= end <= size - start:
        raise ValueError(f"the tensor {name!r} reaches beyond the end of the file")
    code = fields["dtype"]
    if code in DTYPES:
        expected = int(np.prod(shape, dtype=np.int64)) * np.dtype(DTYPES[code][0]).itemsize
        if expected != end - begin:
            raise ValueError(f"the tensor {name!r} has another size than its shape {shape}")
    # A type unknown here (fp8, ...) is named as the file names it, and refused on reading.
    dtype = DTYPES[code][1] if code in DTYPES else str(code)
    return Entry(dtype, shape, start + begin, end - begin)


def read_into(path: Path, entry: Entry, out: NDArray[Any]) -> None:
    """Read a tensor's bytes into a C-contiguous array of the same number of bytes."""
    view = memoryview(out.reshape(-1).view(np.uint8).data)
    done = 0
    try:
        with path.open("rb", buffering=0) as file:
            file.seek(entry.offset)
            while done < len(view):
                count = file.readinto(view[done:])
                if not count:
                    raise StoreError(f"{path} ends early: it was cut off or is being written")
                done += count
    except OSError as error:
        raise StoreError(f"cannot read {path}: {error.strerror}") from error


def storage_type(dtype: str) -> np.dtype[Any]:
    """The numpy type that holds the bits of a fastdim number type."""
    return np.dtype(DTYPES[CODES[dtype]][0])
