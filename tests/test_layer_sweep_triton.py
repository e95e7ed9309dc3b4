"""Many layers in one call by the Triton kernels, in Triton's interpreter."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from conftest import gaussian
from cosine_cases import with_zero_rows
from host_reads import HostReads
from layer_cases import layers_of, same_cosines
from triton.runtime import interpreter

from fastdim import BackendError, InputError, LayerSweep, cosine_stats, knn, layer_sweep
from fastdim.backends.triton import search


def spoilt_layers() -> torch.Tensor:
    """Layers that take different steps: certain at once, a second pass, all rows in full."""
    xs = torch.from_numpy(gaussian(3 * 300, 8).reshape(3, 300, 8)).float()
    xs[1, 40:60] = xs[1, 5]
    xs[2, :280] = xs[2, 0]
    return xs


def test_triton_layers_are_as_alone(tensors_on_gpu: None) -> None:
    xs = spoilt_layers()
    sweep = LayerSweep(backend="triton", bins=50)
    for options in ({}, {"queries": np.array([299, 3, 41])}):
        for found, x in zip(LayerSweep(backend="triton", **options).knn(xs), xs, strict=True):
            alone = knn(x, 2, backend="triton", **options)
            assert torch.equal(found.distances, alone.distances)
            assert torch.equal(found.indices, alone.indices)
            assert {k: v for k, v in found.plan.items() if k in alone.plan} == alone.plan
            assert (found.backend, found.plan["layers"]) == ("triton-interpreter", 3)
    again = [int(found.plan["queries_searched_again"]) for found in sweep.knn(xs)]
    assert again[0] < 5 < again[1] < again[2], "each layer took its own steps"
    zeros = torch.from_numpy(with_zero_rows(70))
    for layers in (layers_of(2), [zeros + 1.0, zeros]):
        for found, x in zip(sweep.cosine_stats(layers), layers, strict=True):
            same_cosines(found, x, backend="triton", bins=50)
    for found, x in zip(
        LayerSweep(backend="triton", pairs=300, seed=4).cosine_stats(xs), xs, strict=True
    ):
        alone = cosine_stats(x, pairs=300, seed=4, backend="triton")
        assert (found.mean, found.min) == (alone.mean, alone.min)


def test_triton_waits_three_times_for_all_layers(
    tensors_on_gpu: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For counts of all layers at once, and once for whether distances fit."""
    xs = list(spoilt_layers())
    monkeypatch.setattr(layer_sweep, "as_layers", lambda layers: layers)
    proper, ran = interpreter.GridExecutor.__call__, []

    def hidden(*arguments: Any, **options: Any) -> None:
        """What the interpreter reads is not the host's."""
        before = len(reads.found)
        proper(*arguments, **options)
        ran.append(reads.found[before:])
        del reads.found[before:]

    monkeypatch.setattr(interpreter.GridExecutor, "__call__", hidden)
    with HostReads() as reads:
        LayerSweep(backend="triton").knn(xs)
    assert len(ran) > 3 * 3
    assert [name for name, _ in reads.found] == ["tolist"] * 3 + ["cpu", "numpy"]


def test_triton_layers_that_cannot_be(tensors_on_gpu: None) -> None:
    xs = layers_of(2)
    with pytest.raises(InputError, match="distances of layer 1 overflow float32"):
        LayerSweep(backend="triton").knn(xs / xs.abs().max() * 3e38)
    with pytest.raises(BackendError, match="2047 bins"):
        LayerSweep(backend="triton", bins=3000).cosine_stats(xs)


def test_triton_layers_that_do_not_fit(
    tensors_on_gpu: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: Any) -> Any:
        raise torch.OutOfMemoryError("tried to allocate 80 GiB")

    monkeypatch.setattr(search.Search, "first_pass", full)
    xs = layers_of(3)
    with pytest.raises(BackendError, match="for each of 3 layers, all held at once"):
        LayerSweep(backend="triton").knn(xs)
    with pytest.raises(BackendError, match="results and bounds, and up to 1 GiB of lists"):
        knn(xs[0], 2, backend="triton")
