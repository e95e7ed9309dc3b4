"""fastdim.torchmetrics: exact whatever the batches; states, errors, what torchmetrics expects."""

import math
import pickle
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from conftest import gaussian
from torchmetrics import MetricCollection

import fastdim
from fastdim import InputError
from fastdim.torchmetrics import Anisotropy, IntrinsicDimension, MeanCosine, ParticipationRatio
from fastdim.torchmetrics.reservoir import EMPTY, row_keys

pytestmark = pytest.mark.usefixtures("one_torch_thread")

N, D = 600, 7
METRICS: dict[str, Any] = {
    "all rows": partial(IntrinsicDimension, D, 1000, dtype=torch.float64),
    "sample": partial(IntrinsicDimension, D, 100, dtype=torch.float64),
    "anisotropy": partial(Anisotropy, D),
    "participation_ratio": partial(ParticipationRatio, D),
    "mean_cosine": partial(MeanCosine, D),
}
REFERENCES = {
    "all rows": lambda x: fastdim.twonn(x).value,
    "anisotropy": fastdim.anisotropy,
    "participation_ratio": lambda x: fastdim.participation_ratio(x).value,
    "mean_cosine": lambda x: fastdim.cosine_stats(x).mean,
}


def rows(seed: int = 0) -> torch.Tensor:
    """Rows of dimension 3, off the origin, some of them equal."""
    x = torch.from_numpy(np.tanh(gaussian(N, 3, seed)) @ gaussian(3, D, seed + 1) + 1.0)
    x[500:520] = x[:20]
    return x


def fed(name: str, parts: Any) -> Any:
    metric = METRICS[name]()
    for part in parts:
        metric.update(part)
    return metric


def same_states(first: Any, second: Any) -> None:
    assert first.metric_state.keys() == second.metric_state.keys()
    for name, state in first.metric_state.items():
        torch.testing.assert_close(
            state, second.metric_state[name], rtol=1e-12, atol=1e-12, equal_nan=True
        )


@pytest.mark.parametrize("name", REFERENCES)
@pytest.mark.parametrize("offset", [0.0, 1e6])
def test_values_are_those_of_all_rows_at_once(name: str, offset: float) -> None:
    x = rows() + offset
    metric = fed(name, torch.split(x, 37))
    value = metric.compute()
    assert value.shape == ()
    assert value.dtype == torch.float64
    assert value.item() == pytest.approx(REFERENCES[name](x), rel=1e-12 if offset == 0.0 else 1e-7)


@pytest.mark.parametrize("name", METRICS)
def test_batches_their_order_and_forward_change_nothing(name: str) -> None:
    x = rows()
    whole = fed(name, [x])
    order = torch.from_numpy(np.random.default_rng(1).permutation(N))
    parts = [torch.split(x, 1), torch.split(x[order], 111), (x[:5], x[5:5], x[5:])]
    for metric in (fed(name, part) for part in parts):
        same_states(metric, whole)
        assert metric.compute().item() == pytest.approx(whole.compute().item(), rel=1e-12)
    forward = METRICS[name]()
    for part in torch.split(x, 150):
        assert forward(part).item() == pytest.approx(fed(name, [part]).compute().item(), rel=1e-12)
    same_states(forward, whole)


@pytest.mark.parametrize("name", METRICS)
def test_merged_metrics_have_seen_all_rows(name: str) -> None:
    x = rows()
    whole = fed(name, [x])
    for cut in (1, 250, 510):
        first, second = fed(name, [x[:cut]]), fed(name, [x[cut:]])
        if cut > 1:
            first.compute()  # a value kept from before must not survive
        first.merge_state(second)
        same_states(first, whole)
        assert first.compute().item() == pytest.approx(whole.compute().item(), rel=1e-12)
    fresh = METRICS[name]()
    fresh.merge_state(whole.metric_state)
    assert fresh.compute().item() == whole.compute().item()


@pytest.mark.parametrize("name", METRICS)
def test_masks_sequences_and_half_precision(name: str) -> None:
    x = rows().bfloat16().reshape(6, 100, D)
    mask = torch.ones(6, 100)
    mask[2, 70:] = 0
    kept = x[mask == 1]
    x[2, 70:] = torch.nan  # padding is never looked at
    metric = METRICS[name]()
    metric.update(x, mask)
    same_states(metric, fed(name, [kept]))
    assert math.isfinite(metric.compute())


@pytest.mark.parametrize("name", METRICS)
def test_reset_pickle_and_state_dict(name: str) -> None:
    x = rows()
    metric = fed(name, [x])
    value = metric.compute().item()
    again = pickle.loads(pickle.dumps(metric))
    same_states(again, metric)
    assert again.estimate() == metric.estimate()
    assert not metric.state_dict()
    metric.persistent(True)
    saved = metric.state_dict()
    assert saved.keys() == metric.metric_state.keys()
    loaded = METRICS[name]()
    loaded.load_state_dict(saved)
    same_states(loaded, metric)
    loaded.update(x[:1])  # seen already; torchmetrics wants one update before compute
    if name in ("all rows", "sample"):
        assert loaded.compute().item() == value
    metric.reset()
    same_states(metric, METRICS[name]())
    metric.update(x[:300])
    assert metric.compute().item() == fed(name, [x[:300]]).compute().item()
    clone = metric.clone()
    clone.update(x[300:])
    same_states(metric, fed(name, [x[:300]]))


def test_collection() -> None:
    x = rows()
    collection = MetricCollection({name: make() for name, make in METRICS.items()})
    for part in torch.split(x, 100):
        collection.update(part)
    found = collection.compute()
    assert found.keys() == METRICS.keys()
    for name, value in found.items():
        assert value.item() == fed(name, torch.split(x, 100)).compute().item()
    # Both read the same moments, and torchmetrics keeps them once.
    assert ["anisotropy", "participation_ratio"] in list(collection.compute_groups.values())
    forward = MetricCollection({name: make() for name, make in METRICS.items()})
    batch = forward(x[:200])
    assert batch["all rows"].item() == pytest.approx(fastdim.twonn(x[:200]).value, rel=1e-12)
    forward.reset()
    forward.update(x)
    assert forward.compute()["anisotropy"].item() == pytest.approx(fastdim.anisotropy(x), rel=1e-12)


def test_a_collection_shares_no_state_between_rows_and_directions() -> None:
    """After a first batch of unit rows both hold the same numbers, and later ones differ."""
    x = rows()
    unit = x[:200] / x[:200].norm(dim=1, keepdim=True)
    collection = MetricCollection([Anisotropy(D), MeanCosine(D)])
    for part in (unit, x[200:]):
        collection.update(part)
    found = collection.compute()
    whole = torch.cat([unit, x[200:]])
    assert found["MeanCosine"].item() == pytest.approx(fastdim.cosine_stats(whole).mean, rel=1e-12)
    assert found["Anisotropy"].item() == pytest.approx(fastdim.anisotropy(whole), rel=1e-12)


def test_estimates() -> None:
    x = rows()
    found = fed("all rows", [x]).estimate()
    assert found == fastdim.twonn(x)
    sample = fed("sample", [x, x]).estimate()
    assert (sample.n_points, sample.n_distinct, sample.n_queries) == (2 * N, None, 100)
    assert sample.lower < sample.value < sample.upper
    cosine, expected = fed("mean_cosine", torch.split(x, 50)).estimate(), fastdim.cosine_stats(x)
    for part in ("value", "lower", "upper", "stderr", "n_points", "n_queries"):
        wanted = getattr(expected.mean_estimate, part)
        assert getattr(cosine, part) == pytest.approx(wanted, rel=1e-6)
    for name in ("anisotropy", "participation_ratio"):
        spectral = fed(name, [x]).estimate()
        assert spectral.interval == "normal theory"
        assert spectral.n_points == N
        assert spectral.lower < spectral.value < spectral.upper
        wide = METRICS[name](confidence=0.999)
        wide.update(x)
        assert wide.estimate().upper > spectral.upper


def test_spectral_intervals_cover_normal_rows() -> None:
    """A share of 60 intervals of normal rows within 4 standard errors of 0.95, or above."""
    axes = torch.tensor([3.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0]).double()
    truth = 9.0 / 15.0
    covered = 0
    for seed in range(60):
        metric = Anisotropy(D)
        metric.update(torch.from_numpy(gaussian(N, D, seed)) * axes)
        found = metric.estimate()
        covered += found.lower < truth < found.upper
    assert covered >= 60 * 0.95 - 4.0 * math.sqrt(60 * 0.95 * 0.05)


def test_another_estimator() -> None:
    x = rows().float()
    metric = IntrinsicDimension(D, 1000, estimator=partial(fastdim.levina_bickel, k=10))
    metric.update(x)
    assert metric.compute().item() == pytest.approx(fastdim.levina_bickel(x, 10).value, rel=1e-6)


def test_the_sample_is_uniform() -> None:
    """Every distinct row is as likely as any other, copies or not: over 400 seeds, 40 of 160."""
    distinct = torch.from_numpy(gaussian(160, 3))
    x = torch.cat([distinct, distinct[:40].repeat(9, 1)])
    times = torch.zeros(160)
    for seed in range(400):
        metric = IntrinsicDimension(3, 40, seed=seed, dtype=torch.float64)
        metric.update(x)
        taken = (metric.rows[:, None] == distinct).all(dim=2)
        assert taken.sum() == 40
        times += taken.any(dim=0)
    # Binomial(400, 1/4) each, negatively dependent: chi-squared with 159 degrees of freedom.
    chi_squared = ((times - 100.0) ** 2 / 75.0).sum().item()
    assert 159 - 5 * math.sqrt(318) < chi_squared < 159 + 5 * math.sqrt(318)
    assert times[:40].mean().item() == pytest.approx(100.0, abs=4 * math.sqrt(75.0 / 40))


def test_keys_are_of_values() -> None:
    x = torch.tensor([[0.0, 1.0], [-0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
    keys = row_keys(x, 3)
    assert keys[0] == keys[1]
    assert len(set(keys.tolist())) == 3
    assert (row_keys(x, 4) != keys).all()
    many = row_keys(torch.from_numpy(gaussian(20000, 4)), 0)
    assert len(many.unique()) == 20000
    assert (many < EMPTY).all()
    for bit in range(63):  # every bit is set in about half of the keys
        share = ((many >> bit) & 1).double().mean().item()
        assert share == pytest.approx(0.5, abs=5 * 0.5 / math.sqrt(20000))
    assert torch.equal(many[::7], row_keys(torch.from_numpy(gaussian(20000, 4)[::7]), 0))


FLAGS = (
    "_update_count",
    "_computed",
    "_forward_cache",
    "_to_sync",
    "_should_unsync",
    "_is_synced",
    "_cache",
    "_enable_grad",
    "compute_on_cpu",
)


@pytest.mark.parametrize("on_step", [False, True], ids=["reduced", "synced on step"])
@pytest.mark.parametrize("kind", ["one row", "NaN", "width"])
@pytest.mark.parametrize("name", METRICS)
def test_a_failed_forward_changes_nothing(name: str, kind: str, on_step: bool) -> None:
    x = rows()
    bad = {"one row": x[200:201], "NaN": x[:9].clone(), "width": x[:, :3]}[kind]
    if kind == "NaN":
        bad[0, 0] = torch.nan
    metric = METRICS[name](dist_sync_on_step=on_step, compute_on_cpu=True)
    metric.update(x[:200])
    estimate = metric.estimate()
    flags = {flag: getattr(metric, flag) for flag in FLAGS}
    with pytest.raises(InputError):
        metric(bad)
    for flag, value in flags.items():
        assert getattr(metric, flag) is value, flag
    same_states(metric, fed(name, [x[:200]]))
    assert metric.estimate() == estimate
    assert metric(x[200:]).item() == pytest.approx(fed(name, [x[200:]]).compute().item(), rel=1e-12)
    same_states(metric, fed(name, [x]))


@pytest.mark.parametrize("name", METRICS)
def test_a_metric_still_synchronizes_after_errors(name: str) -> None:
    """Two ranks are simulated, and both have the rows of this one."""
    calls = []

    def gather(state: torch.Tensor, group: Any = None) -> list[torch.Tensor]:
        calls.append(state)
        return [state, state]

    metric = METRICS[name](distributed_available_fn=lambda: True, dist_sync_fn=gather)
    x = rows()
    for refused in (metric, lambda x: (metric.update(x), metric.compute())):
        metric.reset()
        with pytest.raises(InputError, match="needs"):
            refused(x[:0])
        same_states(metric, METRICS[name]())  # this rank's again, where the value was refused
        assert not metric._is_synced
        calls.clear()
        metric.update(x)
        metric.compute()
        assert len(calls) == len(metric.metric_state)
        same_states(metric, fed(name, [x]))


@pytest.mark.parametrize("name", METRICS)
def test_states_of_another_metric_are_not_loaded(name: str) -> None:
    x = rows()
    metric = fed(name, [x])
    metric.persistent(True)
    value = metric.compute()
    saved = metric.state_dict()
    make = METRICS[name].func
    others = {"shape": [make(6)], "lack": [], "seed": []}
    if make is IntrinsicDimension:
        capacity = metric.capacity
        others["shape"] += [make(D, 500, dtype=torch.float64), make(D, capacity)]
        others["seed"] += [make(D, capacity, dtype=torch.float64, seed=3)]
        others["lack"] += [METRICS[name]()]
    for word, refusing in others.items():
        for other in refusing:
            loaded = dict(saved)
            if word == "lack":
                del loaded["keys"]
            before = {key: state.clone() for key, state in other.metric_state.items()}
            with pytest.raises(InputError, match=rf"to load.*{word}"):
                other.load_state_dict(loaded)
            for key, state in before.items():
                torch.testing.assert_close(state, other.metric_state[key], equal_nan=True)
    # The metric's own, into one that holds the value of other rows.
    again = fed(name, [x[:300]])
    again.compute()
    again.load_state_dict(saved)
    assert again.compute() == value
    same_states(again, metric)


def test_states_of_another_seed_are_not_merged() -> None:
    states = fed("sample", [rows()]).metric_state
    metric = IntrinsicDimension(D, 100, dtype=torch.float64, seed=3)
    with pytest.raises(InputError, match=r"states to merge are of another seed than 3"):
        metric.merge_state(states)
    assert metric.n_kept == 0


@pytest.mark.parametrize("name", ["anisotropy", "participation_ratio"])
@pytest.mark.parametrize("exponent", [-480, -300, 270, 480])
def test_squares_of_eigenvalues_stay_in_range(name: str, exponent: int) -> None:
    x = rows()
    metric, plain = fed(name, [x * 2.0**exponent]), fed(name, [x])
    assert metric.compute().item() == pytest.approx(REFERENCES[name](x), rel=1e-12)
    for part in ("lower", "upper", "stderr"):
        expected = getattr(plain.estimate(), part)
        assert getattr(metric.estimate(), part) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("name", METRICS)
def test_a_metric_without_rows_names_itself(name: str) -> None:
    metric = METRICS[name]()
    with (
        pytest.warns(UserWarning, match="before the ``update`` method"),
        pytest.raises(InputError, match=rf"{type(metric).__name__} needs .*rows, got 0"),
    ):
        metric.compute()


def test_estimators_that_cannot_be() -> None:
    for estimator in ("twonn", 3, None):
        with pytest.raises(InputError, match="estimator must be a function"):
            IntrinsicDimension(D, estimator=estimator)  # type: ignore[arg-type]
    for estimator in (fastdim.anisotropy, lambda rows: 3.0, max):
        with pytest.raises(InputError, match="estimator must take rows and confidence="):
            IntrinsicDimension(D, estimator=estimator)
    metric = IntrinsicDimension(D, estimator=lambda rows, confidence: 3.0)  # type: ignore[arg-type,return-value]
    metric.update(rows().float())
    with pytest.raises(InputError, match="must return an Estimate, got float"):
        metric.compute()


@pytest.mark.parametrize("name", METRICS)
def test_bad_rows(name: str) -> None:
    metric = METRICS[name]()
    x = rows()
    metric.update(x[:50])
    before = {key: state.clone() for key, state in metric.metric_state.items()}
    bad = x.clone()
    bad[[3, 9, 11], 2] = torch.tensor([torch.nan, torch.inf, -torch.inf]).double()
    with pytest.raises(InputError, match=r"rows holds 3 rows with NaN.* among 600, the first is"):
        metric.update(bad)
    with pytest.raises(InputError, match="6 columns, and the metric was made for num_features = 7"):
        metric.update(x[:, :6])
    with pytest.raises(InputError, match="mask must be a tensor"):
        metric.update(x, torch.ones(599))
    with pytest.raises(InputError, match="dtype int64"):
        metric.update(x.long())
    with pytest.raises(InputError, match="got ndarray"):
        metric.update(x.numpy())
    for key, state in before.items():
        torch.testing.assert_close(state, metric.metric_state[key], equal_nan=True)
    few = METRICS[name]()
    few.update(x[:1])
    with pytest.raises(InputError, match=r"at least (2|3)"):
        few.compute()


def test_bad_arguments() -> None:
    for make in (Anisotropy, IntrinsicDimension, MeanCosine):
        with pytest.raises(InputError, match="num_features must be a whole number >= 2"):
            make(1)
        with pytest.raises(InputError, match="confidence"):
            make(4, confidence=1.0)
    with pytest.raises(InputError, match="capacity must be a whole number >= 3"):
        IntrinsicDimension(4, 2)
    with pytest.raises(InputError, match="seed must be"):
        IntrinsicDimension(4, seed=-1)
    with pytest.raises(InputError, match=r"dtype must be torch\.float32"):
        IntrinsicDimension(4, dtype=torch.float16)
    with pytest.raises(InputError, match="rows are float64, and the metric keeps float32"):
        IntrinsicDimension(D).update(rows())
    with pytest.raises(InputError, match=r"seed = 0 and 1 cannot be merged"):
        IntrinsicDimension(4).merge_state(IntrinsicDimension(4, seed=1))
    with pytest.raises(InputError, match="capacity"):
        IntrinsicDimension(4).merge_state(IntrinsicDimension(4, 50))
    for name, make in METRICS.items():
        with pytest.raises(InputError, match=r"cannot become torch\.float16"):
            make().set_dtype(torch.float16)
        assert fed(name, [rows()]).half().compute() == fed(name, [rows()]).compute()
    for name in ("anisotropy", "participation_ratio"):
        with pytest.raises(InputError, match="all 5 rows are equal"):
            fed(name, [torch.ones(5, D)]).compute()
        with pytest.raises(InputError, match="their squares vanish in float64: multiply"):
            fed(name, [rows() * 1e-170]).compute()
    zeros = fed("mean_cosine", [torch.zeros(5, D), rows()[:20]])
    assert zeros.compute().item() == pytest.approx(fastdim.cosine_stats(rows()[:20]).mean)
