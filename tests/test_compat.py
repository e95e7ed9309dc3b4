"""fastdim.compat: our neighbours in other packages, tested with the packages themselves.

DADApy cannot be installed beside numpy 2: benchmarks/estimators_parity.py runs it, and here its
shapes and order are tested.
"""

from __future__ import annotations

import dataclasses
import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sklearn
import torch
from conftest import gaussian
from sklearn.cluster import DBSCAN
from sklearn.neighbors import NearestNeighbors, kneighbors_graph

import fastdim
from fastdim import InputError, compat, naive

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of the packages, at import
    import skdim
    import umap

PAGE = (Path(__file__).resolve().parent.parent / "docs" / "integrations.md").read_text("utf-8")
X = gaussian(150, 6)


@pytest.mark.parametrize("name", ["MLE", "MOM", "MADA", "TLE", "ESS"])
def test_skdim_local_estimators(name: str) -> None:
    near = fastdim.knn(X, 30)
    given, alone = (getattr(skdim.id, name)() for _ in range(2))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its TLE divides by zero and mends it afterwards
        given.fit(X, precomputed_knn_arrays=compat.to_skdim(near), n_neighbors=30)
        alone.fit(X, n_neighbors=30)
    np.testing.assert_allclose(given.dimension_pw_, alone.dimension_pw_, rtol=1e-9)


def test_skdim_global_estimators() -> None:
    near = fastdim.knn(X, 40)
    given = skdim.id.lPCA().fit_transform_pw(X, precomputed_knn=compat.to_skdim(near)[1])
    np.testing.assert_array_equal(given, skdim.id.lPCA().fit_transform_pw(X, n_neighbors=40))
    # TwoNN takes the two distances.
    pair = compat.to_skdim(near)[0][:, :2]
    found = skdim.id.TwoNN(dist=True).fit(pair).dimension_
    assert found == pytest.approx(skdim.id.TwoNN().fit(X).dimension_, rel=1e-9)


def test_dadapy_shapes_and_order() -> None:
    near = fastdim.knn(X.astype(np.float32), 20)
    distances, indices = compat.to_dadapy(near)
    assert distances.shape == indices.shape == (150, 21)
    assert (distances.dtype, indices.dtype) == (np.float64, np.int64)
    np.testing.assert_array_equal(indices[:, 0], np.arange(150))
    np.testing.assert_array_equal(distances[:, 0], 0.0)
    np.testing.assert_array_equal(distances[:, 1:], near.distances)
    np.testing.assert_array_equal(indices[:, 1:], near.indices)


def test_tensors_are_fetched() -> None:
    """Neighbours of rows on a GPU are tensors there; tensors on the CPU stand in for them."""
    near = fastdim.knn(X, 5)
    arrays = {name: getattr(near, name) for name in ("distances", "indices", "queries")}
    tensors: dict[str, Any] = {name: torch.from_numpy(part) for name, part in arrays.items()}
    held = dataclasses.replace(near, **tensors)
    for give in (compat.to_skdim, compat.to_dadapy, compat.to_umap):
        for given, expected in zip(give(held), give(near), strict=True):
            assert type(given) is np.ndarray
            np.testing.assert_array_equal(given, expected)
    assert (compat.to_graph(held) != compat.to_graph(near)).nnz == 0


def test_umap() -> None:
    x = X.astype(np.float32)
    pair = compat.to_umap(fastdim.knn(x, 11))
    # The graph alone: placing its points takes a compiler of its own.
    options: dict[str, Any] = {"n_neighbors": 12, "transform_mode": "graph", "n_jobs": 1}
    with pytest.warns(UserWarning, match="knn_search_index"):
        given = umap.UMAP(precomputed_knn=pair, **options).fit(x)
    alone = umap.UMAP(**options).fit(x)  # below 4,096 rows it computes all distances
    # Its own are products in float32.
    assert given.graph_.nnz == alone.graph_.nnz > 150 * 11
    assert abs(given.graph_ - alone.graph_).max() < 1e-3
    indices, distances = pair
    assert (indices.dtype, distances.dtype) == (np.int64, np.float32)
    np.testing.assert_array_equal(indices[:, 0], np.arange(150))
    np.testing.assert_array_equal(indices[:, 1:], naive.knn(x, 11)[1])
    np.testing.assert_array_equal(distances[:, 0], 0.0)


def test_scikit_learn_graph() -> None:
    near = fastdim.knn(X, 7)
    for mode in ("distance", "connectivity"):
        ours = compat.to_graph(near, mode)
        own = kneighbors_graph(X, 8, mode=mode, include_self=True)
        assert type(ours) is type(own)
        np.testing.assert_array_equal(ours.indices, own.indices)
        np.testing.assert_allclose(ours.data, own.data, atol=1e-12)
    graph = compat.to_graph(near)
    reach = float(np.median(graph.data))
    labels = DBSCAN(eps=reach, metric="precomputed", min_samples=3).fit_predict(graph)
    assert len(set(labels.tolist())) > 1
    other = gaussian(40, 6, seed=2)
    foreign = compat.to_graph(fastdim.knn(X, 7, queries=other))
    expected = NearestNeighbors(n_neighbors=7).fit(X).kneighbors_graph(other, mode="distance")
    assert foreign.shape == expected.shape == (40, 150)
    np.testing.assert_array_equal(foreign.indices, expected.indices)
    with pytest.raises(InputError, match="mode must be one of distance, connectivity"):
        compat.to_graph(near, "radius")


def test_documented_lines_run() -> None:
    lines = dict(re.findall(r"^\| ([^|]+?) \| `([^`]*compat\.[^`]*)` \|$", PAGE, re.MULTILINE))
    assert len(lines) == 7
    assert "to_dadapy(near), maxk=20" in lines.pop("DADApy")
    near = fastdim.knn(X, 20)
    for package in ("UMAP", "UMAP, of a graph"):
        lines[package] = lines[package].replace("UMAP(", "UMAP(transform_mode='graph', ")
    names: dict[str, Any] = {
        "X": X, "near": near, "distances": near.distances, "indices": near.indices,
        "fastdim": fastdim, "compat": compat, "skdim": skdim, "umap": umap, "sklearn": sklearn,
    }  # fmt: skip
    found = {}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*knn_search_index|.*inverse_transform")
        for package, line in lines.items():
            found[package] = eval(compile(line, package, "eval"), names)
    assert found["scikit-dimension"].dimension_ == pytest.approx(
        float(found["fastdim, from anyone's"]), rel=1e-9
    )
    assert found["scikit-dimension, pointwise"].dimension_pw_.shape == (150,)
    assert found["UMAP"].graph_.shape == (150, 150)
    assert abs(found["UMAP"].graph_ - found["UMAP, of a graph"].graph_).max() < 1e-5
    assert found["scikit-learn"].labels_.shape == (150,)


def test_from_arrays_and_back() -> None:
    distances, indices = NearestNeighbors(n_neighbors=21).fit(X).kneighbors()
    found = compat.from_arrays(distances, indices)
    assert float(fastdim.twonn(found)) == pytest.approx(float(fastdim.twonn(X)), rel=1e-9)
    value = fastdim.levina_bickel(found, 20)
    assert float(value) == pytest.approx(float(fastdim.levina_bickel(X, 20)), rel=1e-9)
    near = fastdim.knn(X, 21)
    np.testing.assert_array_equal(near.indices, found.indices)
    for again in (
        compat.from_arrays(*compat.to_skdim(near)),
        compat.from_arrays(*(part[:, 1:] for part in compat.to_dadapy(near))),
        compat.from_arrays(*(part[:, 1:] for part in compat.to_umap(near)[::-1])),
    ):
        np.testing.assert_array_equal(again.indices, near.indices)
        np.testing.assert_allclose(again.distances, near.distances, rtol=1e-6)


def test_from_tensors_with_a_gradient() -> None:
    near = fastdim.knn(X, 5)
    distances = torch.from_numpy(near.distances).requires_grad_()
    found = compat.from_arrays(distances, torch.from_numpy(near.indices))
    assert type(found.distances) is np.ndarray
    np.testing.assert_array_equal(found.distances, near.distances)
    np.testing.assert_array_equal(found.indices, near.indices)


@pytest.mark.parametrize(
    "give", [compat.to_skdim, compat.to_dadapy, compat.to_umap, compat.to_graph]
)
def test_only_neighbors_of_every_row(give: Any) -> None:
    x = X.copy()
    x[100:] = x[:50]
    give(fastdim.knn(x, 5))
    give(fastdim.knn(X, 5, duplicates="collapse"))  # no row is repeated
    for near in (
        fastdim.knn(x, 5, duplicates="collapse"),
        fastdim.knn(X, 5, queries=20),
        fastdim.knn(X, 5, queries=np.arange(150)[::-1]),
    ):
        with pytest.raises(InputError, match="expects the neighbours of every row, in order"):
            give(near)
    if give is not compat.to_graph:
        with pytest.raises(InputError, match="expects the neighbours of every row"):
            give(fastdim.knn(X, 5, queries=X))
    with pytest.raises(InputError, match=r"must be what knn\(\) returns, got tuple"):
        give((near.distances, near.indices))


def changed(part: int, place: Any, value: float) -> tuple[np.ndarray, np.ndarray]:
    near = fastdim.knn(X, 5)
    arrays = near.distances.copy(), near.indices.copy()
    arrays[part][place] = value
    return arrays


NEAR = fastdim.knn(X, 5)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ((NEAR.distances, NEAR.indices[:, :4]), "one shape"),
        ((NEAR.distances[0], NEAR.indices[0]), "one shape"),
        ((NEAR.distances[:, :0], NEAR.indices[:, :0]), "one shape"),
        ((NEAR.indices, NEAR.distances), "float32 or float64"),
        ((NEAR.distances.astype(np.float16), NEAR.indices), "float32 or float64"),
        (([[1.0, 2.0], [3.0]], [[1, 2], [0, 2]]), "distances must be one list .* ragged"),
        (([[1.0, 2.0], [3.0, 4.0]], [[1, 2], [0]]), "indices must be one list .* ragged"),
        ((torch.ones(2, 1, dtype=torch.bfloat16), [[1], [0]]), "distances cannot be read by numpy"),
        (changed(0, (3, 4), np.nan), "NaN, infinite or negative"),
        (changed(0, (3, 0), -1.0), "NaN, infinite or negative"),
        (changed(0, (3, 1), 0.0), "must ascend"),
        (changed(1, (3, 1), 150), r"0\.\.149"),
        (changed(1, (3, 1), -1), r"0\.\.149"),
        (changed(1, (3, 1), 3), "1 of 150 rows are among their own"),
    ],
)
def test_arrays_that_are_refused(arrays: tuple[Any, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        compat.from_arrays(*arrays)
