"""KNeighborsTransformer: scikit-learn's own graph, and what takes it."""

from __future__ import annotations

import pickle
import warnings
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import gaussian, in_dtype, token_like
from sklearn import datasets, neighbors
from sklearn.base import clone
from sklearn.cluster import DBSCAN, SpectralClustering
from sklearn.exceptions import NotFittedError
from sklearn.manifold import TSNE, Isomap, trustworthiness
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.utils.estimator_checks import check_estimator

import fastdim
from fastdim import InputError, compat, naive
from fastdim.sklearn import KNeighborsTransformer

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of the package, at import
    import umap

MODES = ("distance", "connectivity")
DATA = {
    "iris": datasets.load_iris().data,
    "digits": datasets.load_digits().data[:600],
    "swiss roll": datasets.make_swiss_roll(500, random_state=0)[0],
    "blobs": datasets.make_blobs(400, 30, random_state=1)[0],
    "tokens": token_like(400, 48).astype(np.float64),
}


@pytest.mark.parametrize("mode", MODES)
def test_scikit_learn_accepts_it(mode: str) -> None:
    results = check_estimator(KNeighborsTransformer(mode=mode), on_skip=None, on_fail=None)
    assert not [r["check_name"] for r in results if r["status"] in ("failed", "xfail")]
    assert sum(r["status"] == "passed" for r in results) > 40


def assert_same_graph(ours: Any, theirs: Any, exact_places: bool) -> None:
    """The same type, lists and distances; places of equal distances may differ."""
    assert type(ours) is type(theirs)
    assert ours.shape == theirs.shape
    assert ours.dtype == theirs.dtype
    np.testing.assert_array_equal(ours.indptr, theirs.indptr)
    np.testing.assert_allclose(ours.data, theirs.data, rtol=1e-9, atol=1e-7)
    if exact_places:
        np.testing.assert_array_equal(ours.indices, theirs.indices)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("data", DATA)
def test_same_graph_as_scikit_learn(data: str, mode: str) -> None:
    x = DATA[data]
    half = len(x) // 2
    ties = data in ("iris", "digits")  # whole numbers, and repeated flowers
    for k in (1, 5, 30):
        theirs = neighbors.KNeighborsTransformer(mode=mode, n_neighbors=k, algorithm="kd_tree")
        ours = KNeighborsTransformer(mode=mode, n_neighbors=k)
        assert_same_graph(ours.fit_transform(x), theirs.fit_transform(x), not ties)
        fitted = ours.fit(x[:half])
        new = fitted.transform(x[half:])
        assert_same_graph(new, theirs.fit(x[:half]).transform(x[half:]), not ties)
        assert (fitted.n_samples_fit_, fitted.effective_metric_) == (half, "euclidean")
        names = fitted.get_feature_names_out()
        np.testing.assert_array_equal(names, theirs.get_feature_names_out())


@pytest.mark.parametrize("mode", MODES)
def test_fit_transform_is_fit_then_transform(isa: str, mode: str) -> None:
    for x in (token_like(300, 20), gaussian(200, 3), np.random.default_rng(0).random((90, 1))):
        for k in (1, 4, len(x) - 1):
            transformer = KNeighborsTransformer(mode=mode, n_neighbors=k)
            once = transformer.fit_transform(x)
            twice = clone(transformer).fit(x).transform(x)
            np.testing.assert_array_equal(once.indices, twice.indices)
            np.testing.assert_array_equal(once.data, twice.data)
            first = once.indices[once.indptr[:-1]]
            np.testing.assert_array_equal(first, np.arange(len(x)))


def test_repeated_rows() -> None:
    x = np.repeat(gaussian(40, 5), 3, axis=0)
    graph = KNeighborsTransformer(n_neighbors=4).fit_transform(x)
    lists = graph.indices.reshape(120, 5)
    np.testing.assert_array_equal(lists[:, 0], np.arange(120))
    np.testing.assert_array_equal(graph.data.reshape(120, 5)[:, :3], 0.0)
    np.testing.assert_array_equal(
        lists[:, :3] // 3, np.repeat(np.arange(120) // 3, 3).reshape(-1, 3)
    )
    new = KNeighborsTransformer(n_neighbors=4).fit(x).transform(x)
    np.testing.assert_array_equal(new.data, graph.data)
    np.testing.assert_array_equal(new.indices.reshape(120, 5), naive.knn(x, 5, others=x)[1])


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_precision_is_kept_and_never_mixed(dtype: str) -> None:
    x, y = in_dtype(gaussian(150, 12), dtype), in_dtype(gaussian(60, 12, seed=1), dtype)
    graph = KNeighborsTransformer(n_neighbors=3).fit(x).transform(y)
    expected = naive.knn(x, 4, others=y)[0]
    np.testing.assert_allclose(graph.data.reshape(60, 4), expected, rtol=1e-6)
    other = gaussian(60, 12, seed=2)
    mixed = KNeighborsTransformer(n_neighbors=3).fit(x).transform(other)
    exact = naive.knn(naive.matrix(x), 4, others=other)[0]
    np.testing.assert_allclose(mixed.data.reshape(60, 4), exact, rtol=1e-12)


def test_what_can_be_passed() -> None:
    x = gaussian(90, 4).astype(np.float32)
    expected = KNeighborsTransformer().fit_transform(x)
    for given in (torch.from_numpy(x), fastdim.prepare(x), np.asfortranarray(x)):
        assert abs(KNeighborsTransformer().fit_transform(given) - expected).max() == 0.0
    frame = pd.DataFrame(x, columns=list("abcd"))
    fitted = KNeighborsTransformer(n_jobs=1).fit(frame)
    assert fitted.feature_names_in_.tolist() == list("abcd")
    assert abs(fitted.transform(frame) - expected).max() == 0.0
    restored = pickle.loads(pickle.dumps(fitted))
    assert abs(restored.transform(frame) - expected).max() == 0.0


def test_what_is_refused() -> None:
    x = gaussian(30, 4)
    with pytest.raises(InputError, match="mode must be one of"):
        KNeighborsTransformer(mode="radius").fit(x)
    with pytest.raises(InputError, match="metric must be 'euclidean'"):
        KNeighborsTransformer(metric="cosine").fit(x)
    with pytest.raises(InputError, match="n_neighbors must be a whole number"):
        KNeighborsTransformer(n_neighbors=2.5).fit(x)
    for mode, most in (("distance", 29), ("connectivity", 30)):
        graph = KNeighborsTransformer(mode=mode, n_neighbors=most).fit_transform(x)
        assert graph.nnz == 900
        with pytest.raises(InputError, match="Expected n_neighbors <= n_samples_fit"):
            KNeighborsTransformer(mode=mode, n_neighbors=most + 1).fit_transform(x)
    with pytest.raises(ValueError, match="X has 3 features, but KNeighborsTransformer"):
        KNeighborsTransformer().fit(x).transform(x[:, :3])
    with pytest.raises(NotFittedError):
        KNeighborsTransformer().transform(x)


def graphs(x: np.ndarray, k: int) -> tuple[Any, Any]:
    """Ours and scikit-learn's."""
    ours = KNeighborsTransformer(n_neighbors=k).fit_transform(x)
    return ours, neighbors.KNeighborsTransformer(n_neighbors=k).fit_transform(x)


def test_tsne_takes_it() -> None:
    x = DATA["blobs"][:100]
    made = [
        make_pipeline(
            step(n_neighbors=16),
            TSNE(
                perplexity=5,
                metric="precomputed",
                init="random",
                random_state=0,
                max_iter=250,
                n_jobs=1,
            ),
        ).fit_transform(x)
        for step in (KNeighborsTransformer, neighbors.KNeighborsTransformer)
    ]
    assert made[0].shape == (100, 2)
    np.testing.assert_allclose(made[0], made[1], rtol=1e-3, atol=1e-3)


def test_isomap_takes_it_and_transforms_new_rows() -> None:
    x = DATA["swiss roll"]
    made = [
        make_pipeline(step(n_neighbors=12), Isomap(n_neighbors=12, metric="precomputed")).fit(
            x[:400]
        )
        for step in (KNeighborsTransformer, neighbors.KNeighborsTransformer)
    ]
    np.testing.assert_allclose(made[0].transform(x[:400]), made[1].transform(x[:400]), atol=1e-6)
    np.testing.assert_allclose(made[0].transform(x[400:]), made[1].transform(x[400:]), atol=1e-6)


def test_dbscan_and_spectral_clustering_take_it() -> None:
    x = DATA["blobs"]
    ours, theirs = graphs(x, 20)
    reach = float(np.median(ours.data[ours.data > 0]))
    labels = DBSCAN(eps=reach, metric="precomputed").fit_predict(ours)
    np.testing.assert_array_equal(
        labels, DBSCAN(eps=reach, metric="precomputed").fit_predict(theirs)
    )
    assert len(set(labels.tolist())) > 1
    spectral = SpectralClustering(
        3, affinity="precomputed_nearest_neighbors", n_neighbors=20, random_state=0
    )
    # The three blobs are apart: the graph has three components, which is warned of.
    with pytest.warns(UserWarning, match="not fully connected"):
        parts = spectral.fit_predict(ours)
    truth = datasets.make_blobs(400, 30, random_state=1)[1]
    assert all(len(set(parts[truth == blob].tolist())) == 1 for blob in range(3))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("data", DATA)
def test_symmetric_graph_is_either_list(data: str, mode: str) -> None:
    x = DATA[data]
    plain = KNeighborsTransformer(mode=mode, n_neighbors=6).fit_transform(x)
    both = KNeighborsTransformer(mode=mode, n_neighbors=6, symmetric=True).fit_transform(x)
    entries = [set(zip(*(g.tocoo().coords), strict=True)) for g in (plain, plain.T, both)]
    assert entries[2] == entries[0] | entries[1]
    assert len(entries[2]) == both.nnz > plain.nnz
    np.testing.assert_array_equal(both.toarray(), np.maximum(plain.toarray(), plain.T.toarray()))
    width = int(plain.indptr[1])
    for row in range(0, len(x), 7):
        line = both.data[both.indptr[row] : both.indptr[row + 1]]
        assert both.indices[both.indptr[row]] == row
        if mode == "distance":
            assert (np.diff(line) >= 0).all()
            np.testing.assert_array_equal(line[:width], plain.data[row * width : (row + 1) * width])


def test_umap_takes_it() -> None:
    """UMAP refuses the lists alone, scikit-learn's too, as they are not symmetric."""
    x = DATA["swiss roll"][:150].astype(np.float32)
    # The graph alone: placing its points takes a compiler of its own.
    options: dict[str, Any] = {"n_neighbors": 12, "transform_mode": "graph", "n_jobs": 1}
    step = KNeighborsTransformer(n_neighbors=11, symmetric=True)
    with pytest.warns(UserWarning, match="inverse_transform"):
        given = umap.UMAP(metric="precomputed", **options).fit(step.fit_transform(x))
    alone = umap.UMAP(**options).fit(x)  # below 4,096 rows it computes all distances
    assert given.graph_.nnz == alone.graph_.nnz > 150 * 11
    assert abs(given.graph_ - alone.graph_).max() < 1e-3
    lists = KNeighborsTransformer(n_neighbors=11).fit_transform(x)
    with (
        pytest.warns(UserWarning, match="inverse_transform"),
        pytest.raises(ValueError, match="symmetrical"),
    ):
        umap.UMAP(metric="precomputed", **options).fit(lists)


@pytest.mark.filterwarnings("ignore:.*inverse_transform|.*n_jobs value")
def test_umap_embeds_it() -> None:
    """The whole of it, as docs/integrations.md has it: neighbours stay neighbours."""
    x = DATA["digits"][:300]
    place = umap.UMAP(n_neighbors=16, metric="precomputed", random_state=0)
    step = KNeighborsTransformer(n_neighbors=15, symmetric=True)
    placed = make_pipeline(step, place).fit_transform(x)
    assert placed.shape == (300, 2)
    # With its own search 0.990; places drawn at random have 0.5.
    assert trustworthiness(x, placed, n_neighbors=5) > 0.9


def test_symmetric_is_for_the_fitted_rows() -> None:
    x = DATA["blobs"]
    with pytest.raises(InputError, match="symmetric=True is for the fitted rows"):
        KNeighborsTransformer(symmetric=True).fit(x[:200]).transform(x[200:])
    with pytest.raises(InputError, match="symmetric must be True or False"):
        KNeighborsTransformer(symmetric=np.ones(2)).fit(x)
    with pytest.raises(InputError, match="no symmetric graph"):
        compat.to_graph(fastdim.knn(x[:200], 5, queries=x[200:]), symmetric=True)


def test_classifier_takes_it_for_new_rows() -> None:
    x, y = datasets.load_digits(return_X_y=True)
    for step in (KNeighborsTransformer, neighbors.KNeighborsTransformer):
        pipeline = make_pipeline(
            step(n_neighbors=5), KNeighborsClassifier(n_neighbors=5, metric="precomputed")
        ).fit(x[:600], y[:600])
        found = pipeline.predict(x[600:1000])
        if step is KNeighborsTransformer:
            ours = found
    # Ties between equally far digits may be broken otherwise.
    assert (ours == found).mean() > 0.99
    assert (ours == y[600:1000]).mean() > 0.9
