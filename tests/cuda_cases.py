"""The CUDA sources compiled for the emulated GPU, as a library and as the extension is called."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

from filter_cases import plant

ROOT = Path(__file__).resolve().parent.parent
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

    def __getattr__(self, name: str) -> Callable[..., None]:
        """A kernel by its name, whose last argument is the stream."""
        call = getattr(self.code, f"simt_{name}")

        def run(*arguments: Any) -> None:
            numbers = [DTYPES[a] if isinstance(a, str) else a for a in arguments[:-1]]
            if call(*(ctypes.c_longlong(number) for number in numbers)):
                raise RuntimeError(self.code.simt_error().decode())

        return run
