"""Layers for one call for all of them, and what each of their results holds."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from conftest import token_like

from fastdim import cosine_stats, naive


def layers_of(count: int, n: int = 150, d: int = 20, seed: int = 0) -> torch.Tensor:
    """Layers that differ in scale, offset and massive rows, float32."""
    made = [token_like(n, d) * (i + 1) + 10.0 * i for i in range(count)]
    noise = np.random.default_rng(seed).standard_normal((count, n, d))
    return torch.from_numpy((np.stack(made) + noise).astype(np.float32))


def same_cosines(found: Any, x: torch.Tensor, backend: str = "cuda", **options: Any) -> None:
    """Assert that a layer's cosines are those of a call for it alone, bit for bit, and right."""
    alone = cosine_stats(x, backend=backend, **options)
    assert (found.mean, found.std, found.min, found.max, found.band) == (
        alone.mean, alone.std, alone.min, alone.max, alone.band
    )  # fmt: skip
    np.testing.assert_array_equal(found.histogram, alone.histogram)
    assert (found.backend, found.pairs) == (alone.backend, alone.pairs)
    assert found.mean_estimate == alone.mean_estimate
    want = naive.cosine_stats(x.numpy().astype(np.float64), bins=len(found.histogram))
    assert (found.mean, found.std) == pytest.approx((want.mean, want.std), abs=1e-9)
