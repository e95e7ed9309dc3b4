"""Bad input to the other faces of every estimator, in one table: scikit-learn's classes, torch's
functions and loss, torchmetrics. One clear error, or the rule that is stated.

tests/test_estimators_bad_input.py has that of the functions, which these call.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from conftest import gaussian
from sklearn.base import BaseEstimator

import fastdim
import fastdim.sklearn as faces
import fastdim.torch as functions
import fastdim.torchmetrics as metrics
from fastdim import InputError, knn
from fastdim.attention import correlate
from fastdim.diagnose import phases

N, D = 60, 4
ROWS = gaussian(N, D)
NAN = np.where(np.arange(N)[:, None] == 7, np.nan, ROWS)
EQUAL = np.full((N, D), 1.5)
COPIED = np.concatenate([ROWS, ROWS[:5]])

# How each class is made with k neighbours; None: k plays no part.
CLASSES: dict[str, Callable[[int], Any] | None] = {
    "ABIDE": lambda k: faces.ABIDE(k_max=k),
    "ESS": lambda k: faces.ESS(n_neighbors=k),
    "GRIDE": lambda k: faces.GRIDE(n1=1, n2=k),
    "KNN": lambda k: faces.KNN(k=k),
    "MADA": lambda k: faces.MADA(n_neighbors=k),
    "MLE": lambda k: faces.MLE(n_neighbors=k),
    "MOM": lambda k: faces.MOM(n_neighbors=k),
    "PH": None,
    "TLE": lambda k: faces.TLE(n_neighbors=k),
    "CorrInt": lambda k: faces.CorrInt(k1=2, k2=k),
    "DANCo": lambda k: faces.DANCo(k=k),
    "FisherS": None,
    "GeoMLE": lambda k: faces.GeoMLE(k1=3, k2=k),
    "MiND_ML": lambda k: faces.MiND_ML(k=k),
    "TwoNN": None,
    "lPCA": None,
    "KNeighborsTransformer": lambda k: faces.KNeighborsTransformer(n_neighbors=k),
}
PLAIN: dict[str, Any] = {
    "PH": faces.PH(),
    "FisherS": faces.FisherS(alphas=[0.3, 0.6]),
    "TwoNN": faces.TwoNN(),
    "lPCA": faces.lPCA(),
}
TAKE_K = sorted(name for name, make in CLASSES.items() if make)
# It gives distances and no dimension, and repeated rows are neighbours at distance 0.
ESTIMATORS = sorted(set(CLASSES) - {"KNeighborsTransformer"})
TAKE_NEIGHBORS = ("ABIDE", "GRIDE", "GeoMLE", "MADA", "MLE", "MOM", "MiND_ML", "TwoNN")
# They read the rows as well.
TAKE_BOTH = ("DANCo", "ESS", "TLE")

TORCH: dict[str, Callable[..., Any]] = {
    "twonn": functions.twonn,
    "mle": partial(functions.mle, k=8),
    "participation_ratio": functions.participation_ratio,
    "anisotropy": functions.anisotropy,
    "mean_cosine": functions.mean_cosine,
}
# A loss that is its measure; of the same names.
LOSSES: dict[str, Callable[..., Any]] = {
    f"GeometryLoss, {name}": functions.GeometryLoss(name, **({"k": 8} if name == "mle" else {}))
    for name in TORCH
}
METRICS: dict[str, Callable[[int], Any]] = {
    "IntrinsicDimension": metrics.IntrinsicDimension,
    "Anisotropy": metrics.Anisotropy,
    "ParticipationRatio": metrics.ParticipationRatio,
    "MeanCosine": metrics.MeanCosine,
}


def made(name: str, k: int = 8) -> Any:
    make = CLASSES[name]
    return PLAIN[name] if make is None else make(k)


def measured(name: str, x: np.ndarray) -> Any:
    """A metric after one batch."""
    metric = METRICS[name](x.shape[1])
    metric.update(torch.from_numpy(x))
    return metric.compute()


def of_face(name: str) -> Callable[[np.ndarray], Any]:
    """A face of any kind as a function of rows."""
    if name in CLASSES:
        return lambda x: made(name).fit_transform(x)
    if name in METRICS:
        return partial(measured, name)
    call = {**TORCH, **LOSSES}[name]
    return lambda x: call(torch.from_numpy(x))


def float_dtype(name: str) -> Any:
    """IntrinsicDimension keeps float32 unless told."""
    return np.float32 if name == "IntrinsicDimension" else np.float64


EVERY = [*CLASSES, *TORCH, *LOSSES, *METRICS]


def test_the_table_holds_every_face() -> None:
    classes = {
        name
        for name in faces.__all__
        if inspect.isclass(getattr(faces, name)) and name != "DimensionEstimator"
    }
    assert classes == set(CLASSES)
    assert all(issubclass(getattr(faces, name), BaseEstimator) for name in classes)
    assert {name for name in functions.__all__ if name.islower()} == set(TORCH)
    assert set(functions.__all__) - set(TORCH) == {"GeometryLoss"}
    assert set(metrics.__all__) == set(METRICS)


@pytest.mark.parametrize("name", EVERY)
def test_good_input_gives_a_value(name: str) -> None:
    found = of_face(name)(ROWS.astype(float_dtype(name)))
    if name == "KNeighborsTransformer":
        assert found.shape == (N, N)
    else:
        assert math.isfinite(float(found))


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (ROWS[:1], r"at least|minimum of 2 is required|fit more rows"),
        (NAN, "NaN"),
        (ROWS[:, :1], r"2 columns|minimum of 2 is required|num_features must be"),
    ],
    ids=["one point", "NaN", "one column"],
)
def test_rows_that_are_refused(name: str, rows: np.ndarray, message: str) -> None:
    """ValueError: InputError is one, and scikit-learn's own checks raise it."""
    if name == "KNeighborsTransformer" and rows.shape[1] == 1:
        assert of_face(name)(rows).shape == (N, N)  # one column has neighbours too
        return
    with pytest.raises(ValueError, match=message):
        of_face(name)(rows.astype(float_dtype(name)))


# All rows point the same way, and lPCA's rules are not asked of no variance.
EQUAL_ROWS = {"mean_cosine": 1.0, "GeometryLoss, mean_cosine": 1.0, "MeanCosine": 1.0}


@pytest.mark.parametrize("name", EVERY)
def test_all_rows_equal(name: str) -> None:
    rows = EQUAL.astype(float_dtype(name))
    if name in EQUAL_ROWS:
        assert float(of_face(name)(rows)) == pytest.approx(EQUAL_ROWS[name], abs=1e-6)
    elif name == "KNeighborsTransformer":
        assert of_face(name)(rows).sum() == 0.0
    else:
        with pytest.raises(InputError, match=r"equal|distinct"):
            of_face(name)(rows)


@pytest.mark.parametrize("k", [N, 2 * N + 10])
@pytest.mark.parametrize("name", TAKE_K)
def test_k_of_at_least_n(name: str, k: int) -> None:
    """Never cut to what there is, as scikit-dimension does."""
    with pytest.raises(InputError, match=r"needs? .*|sizes above k|fit more rows"):
        made(name, k).fit_transform(ROWS)


@pytest.mark.parametrize("k", [0, -3])
@pytest.mark.parametrize("name", TAKE_K)
def test_k_below_one(name: str, k: int) -> None:
    with pytest.raises(InputError, match="must be a whole number >="):
        made(name, k).fit_transform(ROWS)


@pytest.mark.parametrize("k", [0, N])
@pytest.mark.parametrize(
    "face", [functions.mle, lambda x, k: functions.GeometryLoss("mle", k=k)(x)]
)
def test_k_of_torch(face: Any, k: int) -> None:
    with pytest.raises(InputError, match=r"whole number >= 2|distinct rows, got 60"):
        face(torch.from_numpy(ROWS), k=k)


@pytest.mark.parametrize("share", [-0.1, 1.0, math.nan])
@pytest.mark.parametrize(
    "call",
    [
        lambda share: faces.TwoNN(discard_fraction=share).fit(ROWS),
        lambda share: functions.twonn(torch.from_numpy(ROWS), discard_fraction=share),
        lambda share: functions.GeometryLoss("twonn", discard_fraction=share)(
            torch.from_numpy(ROWS)
        ),
        lambda share: measured_with(partial(fastdim.twonn, discard_fraction=share)),
    ],
    ids=["TwoNN", "twonn", "GeometryLoss", "IntrinsicDimension"],
)
def test_discard_fraction_out_of_range(call: Callable[[float], Any], share: float) -> None:
    with pytest.raises(InputError, match="discard_fraction must lie"):
        call(share)


def measured_with(estimator: Any) -> Any:
    metric = metrics.IntrinsicDimension(D, estimator=estimator, dtype=torch.float64)
    metric.update(torch.from_numpy(ROWS))
    return metric.compute()


@pytest.mark.parametrize("name", TAKE_NEIGHBORS + TAKE_BOTH)
def test_neighbors_that_are_refused(name: str) -> None:
    """Too few columns, zeros, NaN, of another number of rows; in the form of either package."""
    estimator = made(name)

    def given(near: Any, rows: np.ndarray = ROWS) -> float:
        return float(estimator.fit(rows, precomputed_knn_arrays=near).dimension_)

    few = knn(ROWS, 1, duplicates="collapse")
    for form in (few, (few.distances, few.indices)):
        with pytest.raises(InputError, match=r"k >= \d"):
            given(form)
    near = knn(COPIED, 40)
    for form in (near, (near.distances, near.indices)):
        with pytest.raises(InputError, match="duplicates='collapse'"):
            given(form, COPIED)
    assert math.isfinite(given(knn(COPIED, 40, duplicates="collapse"), COPIED))
    damaged = knn(ROWS, 40, duplicates="collapse")
    damaged.distances[3, 1] = np.nan
    for form in (damaged, (damaged.distances, damaged.indices)):
        with pytest.raises(InputError, match="NaN"):
            given(form)
    with pytest.raises(InputError, match="of 40 rows"):
        given(knn(ROWS[:40], 20, duplicates="collapse"))


@pytest.mark.parametrize("name", sorted(set(ESTIMATORS) - set(TAKE_NEIGHBORS) - set(TAKE_BOTH)))
def test_neighbors_where_rows_are_needed(name: str) -> None:
    with pytest.raises(TypeError, match="precomputed_knn_arrays"):
        made(name).fit(ROWS, precomputed_knn_arrays=knn(ROWS, 40))


@pytest.mark.parametrize("name", ESTIMATORS)
def test_confidence_out_of_range(name: str) -> None:
    with pytest.raises(InputError, match="confidence"):
        made(name).set_params(confidence=1.5).fit(ROWS)


@pytest.mark.parametrize(
    "call",
    [
        lambda x, name: faces.TwoNN(method=name).fit(x),
        lambda x, name: faces.ESS(ver=name, n_neighbors=10).fit(x),
        lambda x, name: faces.KNeighborsTransformer(mode=name).fit(x),
        lambda x, name: phases(x, "id_twonn", family=name),
        lambda x, name: correlate(x, x, "anisotropy", over=name),
    ],
)
def test_an_array_is_no_name(call: Any) -> None:
    """Comparing it with names gives arrays, which have no truth value."""
    with pytest.raises(InputError, match="must be"):
        call(np.random.default_rng(0).standard_normal((60, 4)), np.ones(3))


class Odd:
    """Neither a number nor a name."""


@pytest.mark.parametrize(
    "value",
    ["a", [0.1], None, True, Odd(), torch.tensor([0.1]), np.array([0.1]), torch.tensor(True)],
    ids=str,
)
@pytest.mark.parametrize(
    ("name", "call"),
    [
        ("discard_fraction", lambda v: functions.twonn(torch.ones(5, 2), discard_fraction=v)),
        ("weight", lambda v: functions.GeometryLoss("twonn", weight=v)),
        ("target", lambda v: functions.GeometryLoss("mean_cosine", target=[] if v is None else v)),
    ],
    ids=["twonn", "GeometryLoss, weight", "GeometryLoss, target"],
)
def test_no_number(name: str, call: Callable[[Any], Any], value: Any) -> None:
    """None is a target."""
    with pytest.raises(InputError, match=f"{name} must be a number"):
        call(value)


@pytest.mark.parametrize(
    ("measure", "option", "takes"),
    [
        ("twonn", "kk", "it takes discard_fraction"),
        ("twonn", "k", "it takes discard_fraction"),
        ("mle", "x", "it takes k"),
        ("anisotropy", "k", "it takes none"),
    ],
)
def test_options_of_a_loss_that_are_refused(measure: str, option: str, takes: str) -> None:
    """When it is made, not at the first batch."""
    with pytest.raises(InputError, match=f"{measure} takes no option {option}: {takes}"):
        functions.GeometryLoss(measure, **{option: 3})


@pytest.mark.parametrize("comb", [["mean"], {}, np.ones(3), 1, "x"], ids=str)
@pytest.mark.parametrize("name", ["MLE", "MOM", "MADA", "TLE", "ESS"])
def test_comb_that_is_none(name: str, comb: Any) -> None:
    with pytest.raises(InputError, match="comb must be one of"):
        getattr(faces, name)(n_neighbors=8, comb=comb).fit(ROWS)
    with pytest.raises(InputError, match="comb must be one of"):
        made(name).fit(ROWS, comb=comb)


@pytest.mark.parametrize("name", METRICS)
def test_states_that_are_refused(name: str) -> None:
    """Of a metric of another width, without one of them, of another type, or no tensors."""
    metric = METRICS[name](D)
    metric.update(torch.from_numpy(ROWS.astype(float_dtype(name))))
    value, good = metric.compute(), dict(METRICS[name](D).metric_state)
    last = list(good)[-1]
    for states, message in (
        (METRICS[name](D + 1).metric_state, "make both with the same num_features"),
        ({k: v for k, v in good.items() if k != last}, f"lack '{last}'"),
        ({**good, last: good[last].to(torch.complex64)}, r"is torch\.complex64"),
        ({**good, last: good[last].tolist()}, f"'{last}' to merge must be a tensor"),
    ):
        with pytest.raises(InputError, match=message):
            metric.merge_state(states)
    if name == "IntrinsicDimension":
        with pytest.raises(InputError, match="same num_features, capacity"):
            metric.merge_state(metrics.IntrinsicDimension(D, 50).metric_state)
        with pytest.raises(InputError, match=r"is torch\.float64"):
            metric.merge_state(metrics.IntrinsicDimension(D, dtype=torch.float64).metric_state)
    metric.merge_state(good)
    assert metric.compute() == value


def test_confidence_of_neighborhoods() -> None:
    for name in sorted(set(ESTIMATORS) - {"MLE", "MOM", "MADA", "TLE", "ESS"}):
        with pytest.raises(InputError, match="confidence"):
            made(name).set_params(confidence=1.5).fit_pw(ROWS, n_neighbors=40)
