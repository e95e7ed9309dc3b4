"""Sets that need every part of a search behind a 16-bit filter; how faults are planted in one."""

from __future__ import annotations

import mmap
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from conftest import gaussian

from fastdim import Rows, as_rows


def plant(files: Iterable[Path], old: str, new: str) -> None:
    """Replace a text that occurs once, in one of the files."""
    found = [path for path in files if old in path.read_text()]
    assert len(found) == 1, f"{old!r} is to be found in one file, not {found}"
    text = found[0].read_text()
    assert text.count(old) == 1
    found[0].write_text(text.replace(old, new))


def cancelling() -> Rows:
    """Whole numbers: 16 bits hold them, so that only the sums of the tensor core are wrong."""
    rng = np.random.default_rng(5)
    base = rng.integers(-1500, 1500, (1, 64))
    half = base + rng.integers(-1, 2, (60, 64))
    return as_rows(np.concatenate([half, -half]).astype(np.float32))


def far_clusters(each: int) -> Rows:
    """Two groups whose distance dwarfs their size: 16 bits hardly tell their rows apart."""
    x = gaussian(2 * each, 16)
    x[:each] += 3000.0
    return as_rows(x.astype(np.float32))


def wide_range(each: int) -> Rows:
    """Corners of two cubes that bfloat16 takes for one larger one; two opposite rows far out.

    Rows of the smaller cube are nearer to each other, by more than the share t that the bound gives
    away, and come after those of the other.
    """
    signs = np.random.default_rng(2).choice([-1.0, 1.0], (2 * each, 12))
    signs[:each] *= 1.0076
    signs[each:] *= 1.0041
    signs[7] *= 1e11
    return as_rows(np.concatenate([signs, -signs]).astype(np.float32))


def reserved(count: int) -> np.ndarray:
    """Zeros of float16 in memory that is only reserved until it is touched."""
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x4000  # MAP_NORESERVE
    return np.frombuffer(mmap.mmap(-1, 2 * count, flags=flags), dtype=np.float16)


def wide_rows(count: int, before: int) -> Rows:
    """Rows of 3 columns 2^26 elements apart, in memory that is only reserved.

    before: as many rows' memory lies before them, where offsets of 32 bits would read.
    """
    step = 1 << 26
    whole = reserved((before + count + 1) * step).reshape(-1, step)
    rows = np.lib.stride_tricks.as_strided(whole[before:], (count, 3), (step * 2, 2))
    rows[:] = gaussian(count, 3)
    return Rows(rows, "float16")
