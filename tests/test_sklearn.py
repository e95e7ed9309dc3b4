"""fastdim.sklearn: scikit-learn's contract, and scikit-dimension's numbers under its names."""

from __future__ import annotations

import pickle
import subprocess
import sys
import warnings
from functools import cache, partial
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import gaussian
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import check_estimator

import fastdim
from fastdim import InputError
from fastdim import sklearn as ours

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of the package, at import
    import skdim

# With few enough neighbours for the 10 to 30 rows of scikit-learn's checks.
CHECKED = [
    ours.TwoNN(),
    ours.MLE(n_neighbors=5),
    ours.MOM(n_neighbors=5),
    ours.MADA(n_neighbors=5, comb="hmean"),
    ours.TLE(n_neighbors=5),
    ours.ESS(n_neighbors=5),
    ours.MiND_ML(k=3),
    ours.GRIDE(multiscale=True),
    ours.ABIDE(k_max=8),
    ours.GeoMLE(k1=3, k2=4, degree=1),
    ours.DANCo(k=2, D=1),
    ours.CorrInt(k1=2, k2=5),
    ours.KNN(),
    ours.PH(),
    ours.FisherS(),
    ours.lPCA(),
]
LOCAL = [ours.MLE, ours.MOM, ours.MADA, ours.TLE, ours.ESS]
GLOBAL = [estimator for estimator in CHECKED if type(estimator) not in LOCAL]


def name(estimator: Any) -> str:
    return type(estimator).__name__


@cache
def manifold(key: str, rows: int = 250) -> np.ndarray:
    return np.asarray(skdim.datasets.BenchmarkManifolds(random_state=0).generate(n=rows)[key])


SOME = ("M1_Sphere", "M2_Affine_3to5", "M7_Roll", "M10d_Cubic", "M12_Norm", "Mp1_Paraboloid")


@pytest.mark.parametrize("estimator", CHECKED, ids=name)
def test_scikit_learn_accepts_it(estimator: Any) -> None:
    """Every check passes but the few that ask for one number a row."""
    expected = dict(ours.EXPECTED_FAILED_CHECKS)
    if isinstance(estimator, ours.GeoMLE):
        expected["check_estimators_dtypes"] = (
            "its whole numbers are a grid, where GeoMLE is refused"
        )
    results = check_estimator(
        estimator, on_skip=None, on_fail=None, expected_failed_checks=expected
    )
    failed = {r["check_name"]: r["exception"] for r in results if r["status"] == "failed"}
    assert not failed
    assert {r["check_name"] for r in results if r["status"] == "xfail"} == set(expected)
    assert {r["check_name"] for r in results if r["status"] == "skipped"} == {
        "check_array_api_input"
    }
    assert sum(r["status"] == "passed" for r in results) > 30


@pytest.mark.parametrize(
    ("estimator", "also"),
    [
        (ours.MADA(n_neighbors=5), {"check_estimators_dtypes"}),
        (ours.GeoMLE(k1=3, k2=5), {"check_estimators_dtypes", "check_estimators_nan_inf"}),
    ],
    ids=name,
)
def test_checks_whose_rows_are_refused(estimator: Any, also: set[str]) -> None:
    """As docs/integrations.md says: a grid, and fewer rows than a bootstrap needs."""
    expected = ours.EXPECTED_FAILED_CHECKS
    results = check_estimator(
        estimator, on_skip=None, on_fail=None, expected_failed_checks=expected
    )
    failed = {r["check_name"]: r["exception"] for r in results if r["status"] == "failed"}
    assert set(failed) == also
    assert all(isinstance(error, InputError) for error in failed.values())


def test_every_estimator_is_checked() -> None:
    named = {n for n in ours.__all__ if isinstance(getattr(ours, n), type)}
    checked = {name(estimator) for estimator in CHECKED}
    assert named - {"DimensionEstimator", "KNeighborsTransformer"} == checked


def theirs(estimator: Any, x: np.ndarray, **options: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return estimator.fit(x, **options)


ids = skdim.id
# Same class name, same parameters, same number; what differs stands in docs/integrations.md.
SAME: dict[str, tuple[Any, Any, dict[str, Any]]] = {
    "TwoNN": (ours.TwoNN(), ids.TwoNN(), {}),
    "TwoNN, 2 %": (ours.TwoNN(0.02), ids.TwoNN(0.02), {}),
    "TwoNN, mle": (ours.TwoNN(method="mle"), ids.TwoNN(method="mle"), {}),
    "MLE": (ours.MLE(), ids.MLE(), {}),
    "MLE, mean": (ours.MLE(unbiased=True), ids.MLE(unbiased=True), {"comb": "mean"}),
    "MLE, 40": (ours.MLE(), ids.MLE(), {"n_neighbors": 40, "comb": "median"}),
    "MOM": (ours.MOM(), ids.MOM(), {}),
    "MOM, median": (ours.MOM(), ids.MOM(), {"n_neighbors": 30, "comb": "median"}),
    "MADA": (ours.MADA(), ids.MADA(), {}),
    "MiND_ML, MLi": (ours.MiND_ML(ver="MLi"), ids.MiND_ML(ver="MLi"), {}),
    "GRIDE": (ours.GRIDE(4, compat="skdim"), ids.GRIDE(4), {}),
    "FisherS": (ours.FisherS(), ids.FisherS(), {}),
    "lPCA": (ours.lPCA(), ids.lPCA(), {}),
    "lPCA, ratio": (
        ours.lPCA("ratio", alphaRatio=0.5),
        ids.lPCA("ratio", alphaRatio=0.5),
        {},
    ),
    "lPCA, FO": (ours.lPCA(alphaFO=0.2, center=False), ids.lPCA(alphaFO=0.2, center=False), {}),
}


@pytest.mark.parametrize("key", SAME)
@pytest.mark.parametrize("data", SOME)
def test_same_number_as_scikit_dimension(key: str, data: str) -> None:
    mine, other, options = SAME[key]
    x = manifold(data)
    if key == "FisherS" and data == "M10d_Cubic":  # theirs gives nan
        with pytest.raises(InputError, match="separable at every alpha"):
            clone(mine).fit(x)
        return
    found = clone(mine).fit(x, **options)
    expected = theirs(other, x, **options).dimension_
    assert found.dimension_ == pytest.approx(expected, rel=1e-6)
    assert clone(mine).fit_transform(x, **options) == found.dimension_
    assert clone(mine).fit_predict(x, **options) == found.dimension_ == found.transform()
    lower, upper = found.interval_
    assert lower <= found.dimension_ <= upper
    assert found.stderr_ >= 0.0
    assert found.n_distinct_ == (None if "lPCA" in key else len(x))
    assert found.estimate_.value == found.dimension_


def test_numbers_that_differ_for_a_stated_reason() -> None:
    x = manifold("M1_Sphere")
    corrint = ours.CorrInt().fit(x).dimension_  # pairs by differences, not by products
    assert corrint == pytest.approx(theirs(ids.CorrInt(), x).dimension_, rel=5e-3)
    gride = ours.GRIDE(4).fit(x).dimension_  # N for N - 1, no ratio dropped
    assert gride == pytest.approx(theirs(ids.GRIDE(4), x).dimension_, rel=2e-2)
    assert gride != ours.GRIDE(4, compat="skdim").fit(x).dimension_
    mind = ours.MiND_ML(D=None).fit(x).dimension_  # theirs stops near the whole number
    assert mind == pytest.approx(theirs(ids.MiND_ML(D=200), x).dimension_, rel=1e-3)
    assert ours.MiND_ML(D=3).fit(x).dimension_ == 3.0
    unit = np.median(fastdim.knn(x, 20).distances[:, -1])
    tle = ours.TLE().fit(x / unit).dimension_  # 1e-4 of the radius, not of the unit of x
    assert tle == pytest.approx(theirs(ids.TLE(), x / unit).dimension_, rel=1e-6)
    ess = ours.ESS(n_neighbors=25).fit(x[:40])  # theirs draws pairs beyond 5,000
    other = theirs(ids.ESS(random_state=0), x[:40], n_neighbors=25)
    assert ess.dimension_ == pytest.approx(other.dimension_, rel=1e-6)
    ph = ours.PH(1.0, 0.5, 1.0, nsteps=10, random_state=1).fit(x)
    other = theirs(ids.PH(nsteps=10, subsamples=5, random_state=0), x)
    assert abs(ph.dimension_ - other.dimension_) < 4 * ph.stderr_ + 0.02 * ph.dimension_


def test_equal_to_the_functions_behind() -> None:
    x = gaussian(300, 6)
    assert ours.ABIDE(60).fit(x).dimension_ == float(fastdim.abide(x, 60))
    assert ours.GeoMLE(random_state=3).fit(x).dimension_ == float(fastdim.geomle(x, seed=3))
    assert ours.DANCo(6, 8, random_state=2).fit(x).dimension_ == float(
        fastdim.danco(x, 6, largest=8, seed=2)
    )
    assert ours.KNN(3, [50, 90, 200], 4, 1.5).fit(x).dimension_ == float(
        fastdim.knn_graph(x, 3, gamma=1.5, sizes=[50, 90, 200], draws=4)
    )
    assert ours.PH(range_type="num", n_range_min=50, n_range_max=150, nsteps=3).fit(
        x
    ).dimension_ == float(fastdim.ph_dimension(x, sizes=[50, 100, 150]))
    assert ours.PH().fit(x).dimension_ == float(fastdim.ph_dimension(x))
    curve = ours.GRIDE(multiscale=True, range_max=63).fit(x)
    expected = fastdim.gride_scales(x, 16)
    np.testing.assert_array_equal(curve.scales_, expected.n1)
    np.testing.assert_array_equal(curve.dimension_scales_, expected.values)
    np.testing.assert_array_equal(curve.radius_scales_, expected.distance)
    wide = ours.TwoNN(method="mle", interval="ideal", confidence=0.99).fit(x)
    expected_interval = fastdim.twonn(x, interval="ideal", confidence=0.99)
    assert wide.interval_ == (expected_interval.lower, expected_interval.upper)
    assert ours.TwoNN(method="bayes").fit(x).dimension_ == float(fastdim.twonn(x, method="bayes"))
    for rule in ("Fan", "KN", "MP", "parallel", "scRMT", "participation_ratio"):
        found = ours.lPCA(rule, n_permutations=10, random_state=4).fit(x)
        few = {"permutations": 10} if rule == "parallel" else {}
        assert found.dimension_ == float(fastdim.lpca(x, rule, seed=4, **few))


@pytest.mark.parametrize("data", ["M1_Sphere", "M12_Norm"])
def test_gride_of_another_code_at_every_scale(data: str) -> None:
    x = manifold(data)
    other = theirs(ids.GRIDE(multiscale=True), x)
    found = ours.GRIDE(multiscale=True, compat="skdim").fit(x)
    np.testing.assert_array_equal(found.scales_, other.scales_)
    np.testing.assert_allclose(found.dimension_scales_, other.dimension_scales_, rtol=1e-6)
    np.testing.assert_allclose(found.radius_scales_, other.radius_scales_, rtol=1e-6)
    assert found.dimension_scales_[0] == found.dimension_
    dadapy = ours.GRIDE(multiscale=True, compat="dadapy").fit(x)
    expected = [fastdim.gride(x, int(n), compat="dadapy") for n in dadapy.scales_]
    np.testing.assert_array_equal(dadapy.dimension_scales_, [float(e) for e in expected])
    np.testing.assert_array_equal(dadapy.error_scales_, [e.stderr for e in expected])
    # The error of scikit-dimension is that of independent ratios, ours that of dependent ones.
    single = theirs(ids.GRIDE(4), x)
    fisher = fastdim.gride(x, 4, compat="skdim", interval="fisher").stderr
    assert single.error_ == pytest.approx(fisher, rel=1e-6)
    assert ours.GRIDE(4, compat="skdim").fit(x).stderr_ > fisher


@pytest.mark.parametrize("kind", LOCAL)
def test_local_values_and_smoothing(kind: Any) -> None:
    x = manifold("M12_Norm")[:90]
    found = kind().fit(x, n_neighbors=24, smooth=True)
    other = theirs(getattr(ids, kind.__name__)(), x, n_neighbors=24, smooth=True)
    tolerance = 2e-3 if kind is ours.TLE else 1e-6
    np.testing.assert_allclose(found.dimension_pw_, other.dimension_pw_, rtol=tolerance)
    np.testing.assert_allclose(found.dimension_pw_smooth_, other.dimension_pw_smooth_, tolerance)
    pair = kind(n_neighbors=24).fit_transform_pw(x, smooth=True)
    np.testing.assert_array_equal(pair[0], found.dimension_pw_)
    np.testing.assert_array_equal(pair[1], found.dimension_pw_smooth_)
    alone = kind(n_neighbors=24).fit_transform_pw(x)
    np.testing.assert_array_equal(alone, found.dimension_pw_)
    assert isinstance(found.fit(x, n_neighbors=24).transform_pw(), np.ndarray)
    for comb, average in {"mean": np.mean, "median": np.median}.items():
        assert kind(n_neighbors=24, comb=comb).fit(x).dimension_ == pytest.approx(average(alone))
    harmonic = kind(n_neighbors=24).fit(x, comb="hmean")
    assert harmonic.dimension_ == pytest.approx(1.0 / np.mean(1.0 / alone))
    assert (harmonic.n_neighbors_, harmonic.comb_) == (24, "hmean")


@pytest.mark.parametrize("kind", LOCAL)
def test_constructor_and_fit_take_the_same_options(kind: Any) -> None:
    x = manifold("M1_Sphere")[:120]
    given = kind(n_neighbors=15, comb="median", smooth=True, n_jobs=1).fit(x)
    later = kind().fit(x, n_neighbors=15, comb="median", smooth=True, n_jobs=2)
    np.testing.assert_array_equal(given.dimension_pw_smooth_, later.dimension_pw_smooth_)
    assert given.dimension_ == later.dimension_
    assert kind().fit(x, n_neighbors=15).dimension_pw_.shape == (120,)
    assert kind()._N_NEIGHBORS == getattr(ids, kind.__name__)._N_NEIGHBORS


@pytest.mark.parametrize("method", ["linear", "mle"])
def test_twonn_of_distances(method: str) -> None:
    x = manifold("M1_Sphere")
    pair = fastdim.knn(x, 2).distances
    found = ours.TwoNN(dist=True, method=method).fit(pair)
    assert found.dimension_ == ours.TwoNN(method=method).fit(x).dimension_
    expected = theirs(ids.TwoNN(dist=True, method=method), pair).dimension_
    assert found.dimension_ == pytest.approx(expected, rel=1e-6)
    for bad in (pair[:, ::-1], -pair[:, ::-1], np.column_stack([pair, pair[:, 1]])):
        with pytest.raises(InputError, match=r"shape \(n, 2\)"):
            ours.TwoNN(dist=True).fit(bad)
    with pytest.raises(InputError, match="interval must be one of robust, ideal"):
        ours.TwoNN(dist=True, method="mle", interval="dependent").fit(pair)


@pytest.mark.parametrize("key", ["TwoNN", "lPCA"])
def test_pointwise_by_neighborhoods(key: str) -> None:
    x = manifold("M1_Sphere")[:70]
    mine, other, _ = SAME[key]
    found = clone(mine).fit_pw(x, n_neighbors=40, smooth=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = clone(other).fit_transform_pw(x, n_neighbors=40, smooth=True)
    np.testing.assert_allclose(found.dimension_pw_, expected[0], rtol=1e-6)
    np.testing.assert_allclose(found.dimension_pw_smooth_, expected[1], rtol=1e-6)
    near = fastdim.knn(x, 40).indices
    values = clone(mine).fit_transform_pw(x, precomputed_knn=near)
    np.testing.assert_array_equal(values, found.dimension_pw_)


@pytest.mark.parametrize("estimator", GLOBAL, ids=name)
def test_every_global_estimator_works_on_neighborhoods(estimator: Any) -> None:
    x = gaussian(60, 3)
    near = fastdim.knn(x, 45).indices[:, :45]
    found = clone(estimator).fit_pw(x, precomputed_knn=near, n_jobs=2)
    assert found.dimension_pw_.shape == (60,)
    for row in (0, 7, 31):  # to the bit, though without the interval
        assert found.dimension_pw_[row] == clone(estimator).fit(x[near[row]]).dimension_
    assert not hasattr(found, "dimension_")


def test_one_search_serves_many() -> None:
    x = gaussian(200, 5).astype(np.float32)
    x[150:] = x[:50]
    near = fastdim.knn(x, 60, duplicates="collapse")
    for estimator in CHECKED:
        if isinstance(estimator, (ours.base.NeighborsEstimator, *LOCAL)):
            plain = clone(estimator).fit(x)
            found = clone(estimator).fit(x, precomputed_knn_arrays=near)
            assert found.dimension_ == pytest.approx(plain.dimension_, rel=1e-6)
            assert found.n_distinct_ == plain.n_distinct_ == 150


@pytest.mark.parametrize("kind", LOCAL)
def test_precomputed_arrays_as_scikit_dimension_takes_them(kind: Any) -> None:
    x = manifold("M12_Norm")[:90]
    arrays = fastdim.compat.to_skdim(fastdim.knn(x, 30))
    found = kind().fit(x, precomputed_knn_arrays=arrays)
    other = theirs(getattr(ids, kind.__name__)(), x, n_neighbors=30)
    tolerance = 2e-3 if kind is ours.TLE else 1e-6
    np.testing.assert_allclose(found.dimension_pw_, other.dimension_pw_, rtol=tolerance)
    assert found.n_neighbors_ == 30
    fewer = kind().fit(x, precomputed_knn_arrays=arrays, n_neighbors=20)
    assert fewer.dimension_ == kind().fit(x, n_neighbors=20).dimension_


@pytest.mark.parametrize("kind", LOCAL)
def test_repeated_rows_count_once_and_have_one_value(kind: Any) -> None:
    x = gaussian(120, 4)
    x[100:] = x[:20]
    found = kind(n_neighbors=10, smooth=True).fit(x)
    alone = kind(n_neighbors=10, smooth=True).fit(x[:100])
    assert (found.dimension_, found.n_distinct_) == (alone.dimension_, 100)
    np.testing.assert_array_equal(found.dimension_pw_[:100], alone.dimension_pw_)
    np.testing.assert_array_equal(found.dimension_pw_[100:], alone.dimension_pw_[:20])
    np.testing.assert_array_equal(found.dimension_pw_smooth_[:100], alone.dimension_pw_smooth_)
    np.testing.assert_array_equal(found.dimension_pw_smooth_[100:], found.dimension_pw_smooth_[:20])


@pytest.mark.parametrize("estimator", CHECKED, ids=name)
def test_clone_pickle_and_pipeline(estimator: Any) -> None:
    x = gaussian(80, 4) * [1.0, 10.0, 0.1, 1.0] + 5.0
    again = clone(estimator).set_params(confidence=0.8)
    assert again.get_params() == {**estimator.get_params(), "confidence": 0.8}
    found = again.fit(x)
    restored = pickle.loads(pickle.dumps(found))
    assert restored.transform() == found.dimension_
    assert (restored.interval_, restored.stderr_) == (found.interval_, found.stderr_)
    pipeline = make_pipeline(StandardScaler(), clone(estimator))
    value = clone(estimator).fit(StandardScaler().fit_transform(x)).dimension_
    assert pipeline.fit_transform(x) == value
    assert pipeline.fit(x).transform(x) == value
    for n_jobs in (1, 2, -1, -2):
        assert clone(estimator).set_params(n_jobs=n_jobs).fit(x).dimension_ == found.dimension_


def test_what_can_be_passed() -> None:
    x = gaussian(100, 5).astype(np.float32)
    expected = ours.TwoNN().fit(x).dimension_
    frame = ours.TwoNN().fit(pd.DataFrame(x, columns=list("abcde")))
    assert frame.dimension_ == expected
    assert frame.feature_names_in_.tolist() == list("abcde")
    assert ours.TwoNN().fit(torch.from_numpy(x)).dimension_ == expected
    assert ours.TwoNN().fit(fastdim.prepare(x)).dimension_ == expected
    assert ours.TwoNN().fit(x.tolist()).dimension_ == pytest.approx(expected)
    half = ours.TwoNN().fit(torch.from_numpy(x).bfloat16())
    assert half.dimension_ == ours.TwoNN().fit(torch.from_numpy(x).bfloat16().float()).dimension_
    assert half.n_features_in_ == 5
    with pytest.raises(ValueError, match="X has 4 features, but TwoNN is expecting 5"):
        half.transform(torch.from_numpy(x[:, :4]))
    with pytest.raises(NotFittedError):
        ours.TwoNN().transform()
    with pytest.raises(NotFittedError):
        ours.MLE().transform_pw()


def test_random_state() -> None:
    x = gaussian(200, 4)
    fixed = [ours.KNN(random_state=seed).fit(x).interval_ for seed in (0, 0, 1, np.int64(1))]
    assert fixed[0] == fixed[1] != fixed[2] == fixed[3]
    fresh = [ours.KNN(random_state=None).fit(x).interval_ for _ in range(2)]
    assert fresh[0] != fresh[1]
    for source in (np.random.RandomState, np.random.default_rng):
        state = source(5)
        moving = [ours.KNN(random_state=state).fit(x).interval_ for _ in range(2)]
        assert moving[0] != moving[1]
        assert ours.KNN(random_state=source(5)).fit(x).interval_ == moving[0]
    with pytest.raises(InputError, match="at least 0"):
        ours.KNN(random_state=-1).fit(x)


X = gaussian(60, 4)


@pytest.mark.parametrize(
    ("estimator", "options", "message"),
    [
        (ours.MLE(), {"n_neighbors": 60}, "MLE with k = 60 needs at least 61 distinct rows"),
        (ours.MOM(), {}, "MOM with k = 100 needs at least 101 distinct rows"),
        (ours.MLE(), {"n_neighbors": 1}, "n_neighbors must be a whole number >= 2"),
        (ours.MLE(unbiased=True), {"n_neighbors": 2}, "n_neighbors must be a whole number >= 3"),
        (ours.TLE(), {"n_neighbors": 2}, "n_neighbors must be a whole number >= 3"),
        (ours.MLE(), {"comb": "mode"}, "comb must be one of mle, mean, median, hmean"),
        (ours.MOM(n_neighbors=9), {"comb": "mle"}, "comb must be one of mean, median, hmean"),
        (ours.MLE(n_jobs=0), {}, "n_jobs must be None or a whole number"),
        (ours.MLE(), {"precomputed_knn_arrays": 3}, "must be .distances, indices."),
        (
            ours.MLE(),
            {"precomputed_knn_arrays": fastdim.knn(X[:50], 20)},
            "of 50 rows, and X has 60",
        ),
        (
            ours.MLE(n_neighbors=30),
            {"precomputed_knn_arrays": fastdim.knn(X, 20)},
            "MLE needs 30 neighbours a point",
        ),
        (
            ours.MLE(),
            {"precomputed_knn_arrays": fastdim.knn(X, 20, queries=30)},
            "MLE gives one number a row",
        ),
        (ours.TwoNN(method="MLE"), {}, "method must be one of linear, mle, bayes"),
        (ours.TwoNN(1.5), {}, "discard_fraction must lie"),
        (ours.ESS("c", n_neighbors=20), {}, "ver must be 'a' or 'b'"),
        (ours.MiND_ML(ver="ML1"), {}, "version must be"),
        (ours.GRIDE(4, 3), {}, "n2 must be a whole number"),
        (ours.GRIDE(multiscale=True, range_max=1), {}, "range_max must be a whole number >= 2"),
        (ours.lPCA("PCA"), {}, "ver must be one of"),
        (ours.KNN(M=1), {}, "draws must be a whole number >= 2"),
        (ours.PH(n_range_min=0.5), {}, "give both or neither"),
        (ours.PH(1.0, 0.9, 0.5), {}, "must be shares"),
        (ours.PH(range_type="part"), {}, "range_type must be one of"),
        (ours.FisherS(alphas=[[0.5, 1.5]]), {}, "alphas must lie strictly"),
    ],
    ids=lambda value: name(value) if isinstance(value, ours.DimensionEstimator) else "",
)
def test_what_is_refused(estimator: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        clone(estimator).fit(X, **options)


@pytest.mark.parametrize(
    ("near", "message"),
    [
        (np.zeros((60, 5)), "must hold row numbers"),
        (np.zeros((59, 5), dtype=int), "shape .60, k."),
        (np.full((60, 5), 60), r"0\.\.59"),
        (np.zeros((60, 1), dtype=int), "whole number >= 2"),
        (np.zeros((60, 5), dtype=int), "the neighbourhood of row 0: TwoNN needs at least 3"),
    ],
)
def test_neighborhoods_that_are_refused(near: np.ndarray, message: str) -> None:
    with pytest.raises(InputError, match=message):
        ours.TwoNN().fit_pw(X, precomputed_knn=near)


def test_importing_fastdim_imports_no_scikit_learn() -> None:
    code = (
        "import sys, fastdim, fastdim.compat\n"
        "assert not {'sklearn', 'scipy', 'joblib'} & set(sys.modules)\n"
        "sys.modules['sklearn'] = None\n"
        "try:\n    import fastdim.sklearn\n"
        "except fastdim.DependencyError as error:\n    print(error)\n"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "pip install 'fastdim[sklearn]'" in found.stdout


@pytest.mark.parametrize(
    ("estimator", "function", "k"),
    [
        (ours.MLE(), partial(fastdim.levina_bickel, average="harmonic"), 20),
        (ours.MOM(comb="median"), partial(fastdim.mom, average="median"), 100),
        (ours.MADA(), fastdim.mada, 20),
        (ours.TLE(), fastdim.tle, 20),
        (ours.ESS(comb="median"), partial(fastdim.ess, average="median"), 100),
    ],
    ids=lambda value: type(value).__name__,
)
def test_errors_are_those_of_the_functions(estimator, function, k):
    x = np.random.default_rng(4).random((600, 5))
    expected = (
        function(x, k, average=estimator.comb) if estimator.comb == "mean" else function(x, k)
    )
    found = estimator.fit(x)
    assert found.dimension_ == pytest.approx(expected.value, rel=1e-12)
    assert found.stderr_ == pytest.approx(expected.stderr, rel=1e-12)
    assert found.interval_ == pytest.approx((expected.lower, expected.upper), rel=1e-12)
