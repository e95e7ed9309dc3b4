"""Estimators of rows on a GPU: searched where they lie. Tensors of the CPU stand for a device's."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from conftest import gaussian

from fastdim import InputError, gride, levina_bickel, mom, twonn
from fastdim.backends import devices


@pytest.fixture
def on_device(tensors_on_gpu: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tensors count as a GPU's, and Triton's interpreter searches them."""
    monkeypatch.setattr(devices, "_of_device", lambda x, operation: "triton")


@pytest.mark.parametrize(
    ("estimator", "options"),
    [
        (twonn, {"queries": 40}),
        (levina_bickel, {"k": 5}),
        (gride, {"n1": 1, "n2": 2}),
        (mom, {"k": 6}),
    ],
)
def test_the_same_as_of_the_rows_in_host_memory(
    estimator: Any, options: dict[str, Any], on_device: None
) -> None:
    x = gaussian(120, 5)
    x[100:110] = x[3]
    there, here = estimator(torch.from_numpy(x), **options), estimator(x, **options)
    assert float(there) == pytest.approx(float(here), rel=1e-9)
    assert (there.n_points, there.n_distinct) == (here.n_points, here.n_distinct) == (120, 110)
    assert (there.lower, there.upper) == pytest.approx((here.lower, here.upper), rel=1e-9)


def test_bad_rows_are_refused_as_in_host_memory(on_device: None) -> None:
    with pytest.raises(InputError, match="2 columns"):
        twonn(torch.zeros(5, 1))
    with pytest.raises(InputError, match="at least 3 distinct rows, got 1"):
        twonn(torch.zeros(5, 3))
    x = torch.from_numpy(gaussian(9, 3))
    x[4, 1] = np.nan
    with pytest.raises(InputError, match="the first is row 4"):
        twonn(x)
    with pytest.raises(InputError, match="float16, bfloat16, float32"):
        twonn(torch.zeros(5, 3, dtype=torch.int32))
    strided = torch.from_numpy(gaussian(60, 9))[::2, ::3]
    assert float(twonn(strided)) == pytest.approx(float(twonn(strided.numpy())), rel=1e-9)
