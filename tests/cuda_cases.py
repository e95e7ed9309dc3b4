"""The CUDA sources compiled for the emulated GPU, as a library and as the extension is called."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from filter_cases import plant

from fastdim.backends import cuda

ROOT = Path(__file__).resolve().parent.parent
TILES = {"small": 0, "medium": 1, "large": 2}
DTYPES = {"float16": 0, "bfloat16": 1, "float32": 2, "float64": 3}


def compiled(folder: Path, source: str, old: str = "", new: str = "") -> ctypes.CDLL:
    """tests/simt/`source` compiled with a copy of the CUDA sources, one text of them replaced."""
    for part in ("csrc/cuda", "tests/simt"):
        shutil.copytree(ROOT / part, folder / part)
    if old:
        plant((folder / "csrc/cuda").iterdir(), old, new)
    library = folder / "libsimt.so"
    command = [
        *os.environ.get("CXX", "g++").split(), "-std=c++17", "-O1", "-shared", "-fPIC",
        "-DFASTDIM_SIMT", "-ffp-contract=off", f"-I{folder}/tests/simt", f"-I{folder}/csrc/cuda",
        f"{folder}/tests/simt/{source}", "-o", str(library),
    ]  # fmt: skip
    subprocess.run(command, check=True)
    code = ctypes.CDLL(str(library))
    code.simt_error.restype = ctypes.c_char_p
    return code


def use(monkeypatch: pytest.MonkeyPatch, extension: Extension) -> None:
    """Let fastdim call the emulated GPU, on tensors in host memory."""
    monkeypatch.setattr(cuda, "extension", lambda: extension)
    monkeypatch.setattr(cuda, "torch_device", lambda: torch.device("cpu"))
    monkeypatch.setattr(cuda, "DEVICE_TYPES", {"cpu"})


class Extension:
    """`fastdim._cuda` on the emulated GPU: the same functions, addresses of host memory."""

    def __init__(self, code: ctypes.CDLL) -> None:
        self.code = code

    def seed(self, value: int) -> None:
        """Draw the order of warps from another seed."""
        self.code.simt_seed(ctypes.c_ulonglong(value))

    def devices(self) -> tuple[int, str]:
        return 1, ""

    def current_device(self) -> int:
        return 0

    def properties(self, device: int) -> dict[str, object]:
        sizes = {"multiprocessors": 4, "shared_bytes": 232_448}
        return {"name": "emulated", "capability": (9, 0), **sizes}

    def tile_shared_bytes(self, tile: str) -> int:
        return {"small": 90_000, "medium": 160_000, "large": 190_000}[tile]

    def knn_workspace(self, *sizes: Any) -> int:
        """The library takes its own."""
        return 256

    def knn(self, *arguments: Any) -> None:
        data, n, d, row_stride, dtype, queries, m, k, keep, tile, blocks, _, *rest = arguments
        out, order = rest[:3], (*rest[4:], *(0, 0, 0, 0)[len(rest) - 4 :])
        self.run(
            "knn", data, n, d, row_stride, dtype, queries, m, k, keep, TILES[tile], blocks, *order,
            *out,
        )  # fmt: skip

    def run(self, name: str, *arguments: Any) -> None:
        """Call a function of the library. RuntimeError where the emulated GPU finds fault."""
        numbers = [DTYPES[a] if isinstance(a, str) else a for a in arguments]
        if getattr(self.code, f"simt_{name}")(*(ctypes.c_longlong(v) for v in numbers)):
            raise RuntimeError(self.code.simt_error().decode())

    def __getattr__(self, name: str) -> Callable[..., None]:
        """A kernel by its name, whose last argument is the stream."""
        return lambda *arguments: self.run(name, *arguments[:-1])


@pytest.fixture
def emulated(code: Extension, monkeypatch: pytest.MonkeyPatch) -> Extension:
    """The module's `code`, from its first order of warps, in place of the extension."""
    code.seed(1)
    use(monkeypatch, code)
    return code
