"""Fixtures shared by the tests of the numeric core."""

from __future__ import annotations

import os
from collections.abc import Iterator

import numpy as np
import pytest

from fastdim import Rows, _core

# Triton makes its kernels, and its own library, for the interpreter or a GPU when it is imported.
if os.environ.get("FASTDIM_TEST_GPU") != "1":
    os.environ["TRITON_INTERPRET"] = "1"


def has_amx() -> bool:
    """Whether processor, system and build let scans in int8 go through AMX tiles."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FASTDIM_AMX", "1")
        try:
            _core.active_level("avx512")
        except ValueError as error:
            # A container may refuse tiles that its processor has.
            if "has no AMX" in str(error) or "cannot run here" in str(error):
                return False
            raise
    return _core.cpu_features()["amx_int8"]


# What FASTDIM_AMX may be here: scans in int8 by AVX512-VNNI, and by AMX where that is.
AMX = ("0", "1") if has_amx() else ("0",)
# Levels, avx512 with and without AMX where that is.
LEVELS = [
    (isa, amx) for isa in _core.supported_levels() for amx in (AMX if isa == "avx512" else ("0",))
]


@pytest.fixture(params=_core.supported_levels())
def isa(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Each instruction set level this processor can run, forced by FASTDIM_ISA."""
    monkeypatch.setenv("FASTDIM_ISA", request.param)
    return str(request.param)


@pytest.fixture
def one_torch_thread() -> Iterator[None]:
    """Torch on one thread: on a busy machine two wait for each other many times longer."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def gaussian(n: int, d: int, seed: int = 0) -> np.ndarray:
    """n x d standard normal values, float64."""
    return np.random.default_rng([seed, n, d]).standard_normal((n, d))


def in_dtype(x: np.ndarray, dtype: str) -> Rows:
    """x as Rows of a number type; bfloat16 by cutting float32 off."""
    if dtype == "bfloat16":
        bits = np.ascontiguousarray(x, dtype=np.float32).view(np.uint32) >> 16
        return Rows(bits.astype(np.uint16), "bfloat16")
    return Rows(np.ascontiguousarray(x, dtype=dtype), dtype)


def token_like(n: int = 400, d: int = 48, seed: int = 3) -> np.ndarray:
    """Rows like those of a decoder's middle layer: a few directions, an offset, massive rows."""
    rng = np.random.default_rng([seed, n, d])
    x = rng.standard_normal((n, 6)) @ rng.standard_normal((6, d)) + 0.1 * rng.standard_normal(
        (n, d)
    )
    x += 2.0 * rng.standard_normal(d)
    x[:: n // 4] *= 300.0
    return x.astype(np.float32)


@pytest.fixture
def tensors_on_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tensors in host memory count as a GPU's."""
    import torch

    from fastdim.backends import devices

    proper = devices.check_matrix
    monkeypatch.setattr(
        devices,
        "device_tensor",
        lambda x, name="x": proper(x, name) if isinstance(x, torch.Tensor) else None,
    )
