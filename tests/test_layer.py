"""profile() and measure(): every metric, failures that leave the rest, shared work, refusals."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from conftest import gaussian, in_dtype, token_like

import fastdim
from fastdim import InputError, layer, measure, naive, profile
from fastdim.estimate import group_sums
from fastdim.layer import METRICS, Metric

X = token_like(300, 24)


def by_name(metrics: list[Metric]) -> dict[str, Metric]:
    return {metric.name: metric for metric in metrics}


def test_every_metric_equals_its_reference(isa: str) -> None:
    found = profile(X)
    metrics = by_name(found.metrics())
    assert list(metrics) == list(METRICS)
    spectrum, cosine = naive.spectrum(X), naive.cosine_stats(X)
    norms = np.linalg.norm(X.astype(np.float64), axis=1)
    expected = {
        "id_twonn": naive.twonn(X),
        "anisotropy": spectrum.anisotropy,
        "participation_ratio": spectrum.participation_ratio,
        "effective_rank": spectrum.effective_rank,
        "stable_rank": spectrum.stable_rank,
        "mean_cosine": cosine.mean,
        "cosine_std": cosine.std,
        "norm_median": np.median(norms),
        "norm_ratio": norms.max() / np.median(norms),
        "top_share": np.sort(spectrum.row_share)[-10:].sum(),
        "distinct_rows": 300,
    }
    for name, value in expected.items():
        assert metrics[name].value == pytest.approx(value, rel=1e-6)
    for name, q in (("cosine_q05", 0.05), ("cosine_median", 0.5), ("cosine_q95", 0.95)):
        assert metrics[name].value == found.cosine.quantile(q)
        assert metrics[name].lower <= metrics[name].value <= metrics[name].upper
        assert metrics[name].n_queries == 300 * 299 // 2
    for metric in metrics.values():
        assert (metric.status, metric.reason) == ("ok", "")
        assert (metric.n_rows, metric.n_distinct) == (300, 300)
        assert metric.seconds >= 0.0
    assert metrics["id_twonn"].backend == metrics["cosine_q05"].backend == f"cpu-{isa}"
    assert metrics["id_twonn"].method == "censored"
    assert (found.n_rows, found.n_distinct) == (300, 300)
    assert found.norm_ratio == metrics["norm_ratio"].value
    assert found.norm_max == pytest.approx(norms.max())


def test_profile_agrees_with_the_single_functions() -> None:
    groups = np.arange(300) // 10
    found = profile(X, queries=100, pairs=500, groups=groups, seed=4, confidence=0.9)
    assert found.twonn == fastdim.twonn(X, queries=100, seed=4, confidence=0.9)
    spectrum = fastdim.spectrum(X, groups=groups, confidence=0.9)
    assert found.spectrum.estimates == spectrum.estimates
    cosine = fastdim.cosine_stats(X, pairs=500, groups=groups, seed=4, confidence=0.9)
    np.testing.assert_array_equal(found.cosine.histogram, cosine.histogram)
    assert found.cosine.mean_estimate == cosine.mean_estimate
    assert by_name(found.metrics())["cosine_q05"].method == "histogram of sampled pairs"


def test_measure_is_deterministic_but_for_time() -> None:
    def values(metrics: list[Metric]) -> list[str]:
        return [repr({**vars(metric), "seconds": 0}) for metric in metrics]

    options: dict[str, Any] = {"queries": 50, "pairs": 300, "seed": 8}
    one = measure(X, **options)
    for threads in (1, 3):
        assert values(one.metrics) == values(measure(X, threads=threads, **options).metrics)
    assert values(one.metrics) == values(profile(X, **options).metrics())


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_does_not_overflow(dtype: str) -> None:
    rows = in_dtype(gaussian(100, 8).clip(-3, 3) * 20000, dtype)
    for metric in measure(rows).metrics:
        assert metric.status == "ok"
        assert math.isfinite(metric.value)
    norms = np.linalg.norm(rows.float64(0, 100), axis=1)
    assert by_name(measure(rows).metrics)["norm_median"].value == pytest.approx(np.median(norms))


def test_a_failing_metric_leaves_the_rest() -> None:
    found = measure(np.ones((5, 3)))
    metrics = by_name(found.metrics)
    failed = {name for name, metric in metrics.items() if metric.status == "failed"}
    spectral = {"anisotropy", "participation_ratio", "effective_rank", "stable_rank", "top_share"}
    assert failed == {"id_twonn", *spectral}
    assert "at least 3 distinct rows, got 1 distinct of 5" in metrics["id_twonn"].reason
    assert "all 5 rows are equal" in metrics["anisotropy"].reason
    assert math.isnan(metrics["anisotropy"].value)
    assert metrics["distinct_rows"].value == found.n_distinct == 1
    assert metrics["mean_cosine"].value == pytest.approx(1.0)
    assert len(found.top_rows[0]) == 0
    with pytest.raises(InputError, match="at least 3 distinct rows"):
        profile(np.ones((5, 3)))


@pytest.mark.parametrize(
    ("x", "ok"),
    [
        (gaussian(9, 1), {"norm_median", "norm_ratio", "distinct_rows"}),
        (gaussian(1, 4), {"norm_median", "norm_ratio", "distinct_rows"}),
        (np.zeros((6, 4)), {"norm_median", "distinct_rows"}),
    ],
)
def test_degenerate_matrices(x: np.ndarray, ok: set[str]) -> None:
    metrics = measure(x).metrics
    assert {metric.name for metric in metrics if metric.status == "ok"} == ok
    assert all(metric.reason for metric in metrics if metric.status == "failed")


def test_numerical_failures_are_reported_and_bugs_surface(monkeypatch: pytest.MonkeyPatch) -> None:
    def raising(error: Exception) -> Any:
        def fail(*args: Any, **options: Any) -> Any:
            raise error

        return fail

    monkeypatch.setattr(layer, "spectrum_of", raising(np.linalg.LinAlgError("did not converge")))
    assert by_name(measure(X).metrics)["anisotropy"].reason == "did not converge"
    monkeypatch.setattr(layer, "spectrum_of", raising(MemoryError()))
    metrics = by_name(measure(X).metrics)
    assert metrics["anisotropy"].reason == "out of memory"
    assert metrics["id_twonn"].status == "ok"
    monkeypatch.setattr(layer, "spectrum_of", raising(TypeError("a bug")))
    with pytest.raises(TypeError, match="a bug"):
        measure(X)


def test_only_what_is_asked_for_is_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any, **options: Any) -> Any:
        raise AssertionError("computed without need")

    for name in ("search_pairs", "spectrum_of", "add_pairs"):
        monkeypatch.setattr(layer, name, refuse)
    found = measure(X, metrics=["norm_median", "mean_cosine"])
    assert [metric.name for metric in found.metrics] == ["mean_cosine", "norm_median"]
    assert found.n_distinct is None
    with pytest.raises(InputError, match=r"unknown metric 'isotropy'.*anisotropy"):
        measure(X, metrics=["isotropy"])


def test_duplicates_are_searched_once() -> None:
    x = np.repeat(gaussian(80, 6), 3, axis=0)
    found = measure(x)
    assert (found.n_rows, found.n_distinct) == (240, 80)
    metrics = by_name(found.metrics)
    assert metrics["id_twonn"].n_queries == 80
    assert metrics["id_twonn"].value == pytest.approx(naive.twonn(x), rel=1e-6)
    assert (metrics["distinct_rows"].value, metrics["distinct_rows"].stderr) == (80.0, 0.0)


def test_top_rows_carry_the_first_direction() -> None:
    rows, shares = measure(X).top_rows
    assert len(rows) == len(shares) == 10
    assert set(rows[:4].tolist()) == {0, 75, 150, 225}
    assert (np.diff(shares) <= 0).all()
    np.testing.assert_allclose(shares, naive.spectrum(X).row_share[rows], rtol=1e-6)


@pytest.mark.parametrize("grouped", [False, True])
def test_interval_of_the_median_norm_covers(grouped: bool) -> None:
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(50), 6)
    true = float(np.median(np.linalg.norm(rng.standard_normal((200_000, 3)), axis=1)))
    covered = 0
    for _ in range(200):
        x = rng.standard_normal((300, 3))
        if grouped:
            x = x[groups * 6]  # every document repeats one row
        options: dict[str, Any] = {"groups": groups if grouped else None}
        (metric,) = measure(x, metrics=["norm_median"], **options).metrics
        covered += metric.lower <= true <= metric.upper
    # 95 % less 3 standard errors of a share of 200
    assert covered >= 180


def test_input_forms_and_refusals() -> None:
    expected = [metric.value for metric in measure(X).metrics]
    for x in (torch.tensor(X), np.asfortranarray(X), fastdim.as_rows(X)):
        assert [metric.value for metric in measure(x).metrics] == expected
    bad = X.copy()
    bad[7, 3] = np.nan
    for operation in (measure, profile):
        with pytest.raises(InputError, match="nan at row 7, column 3"):
            operation(bad)
        with pytest.raises(InputError, match="pairs"):
            operation(X, pairs=-1)
        with pytest.raises(InputError, match="confidence"):
            operation(X, confidence=2.0)


def test_metrics_are_described() -> None:
    for info in METRICS.values():
        assert info.sentence.endswith(".")
        assert all((info.title, info.formula, info.reference, info.higher_means))
    assert [name for name, info in METRICS.items() if info.centered] == [
        "anisotropy",
        "participation_ratio",
        "effective_rank",
        "stable_rank",
        "top_share",
    ]


def test_results_print_as_numbers_not_as_arrays() -> None:
    found = profile(X, queries=50)
    lines = str(found).splitlines()
    assert lines[0] == "300 rows, 300 distinct"
    assert [line.split()[0] for line in lines[1:]] == list(METRICS)
    assert lines[1] == f"{'id_twonn':<20} {found.twonn}"
    neighbors = fastdim.knn(X, k=3, queries=50)
    for result in (found, found.spectrum, found.cosine, neighbors):
        assert len(repr(result)) < 400
        assert "array" not in repr(result)
    assert repr(neighbors).startswith("Neighbors(k=3, 50 queries among 300 rows, ")
    assert f"anisotropy={found.spectrum.estimates['anisotropy']}" in repr(found.spectrum)
    assert "44,850 pairs (all) of 300 rows" in repr(found.cosine)


def test_near_copies_are_warned_of() -> None:
    """Rows equal up to rounding lower TwoNN: said from half a percent of the rows on."""
    x = gaussian(1000, 6)
    copied = x.copy()
    copied[:30] = x[500:530] * (1 + 1e-7)
    for count, text in ((0, ""), (2, ""), (30, "warning: 6.0% of the rows")):
        found = profile(np.concatenate([x[30:], copied[:count]]))
        metric = by_name(found.metrics())["id_twonn"]
        assert metric.status == "ok"
        assert metric.reason[: len("warning: 6.0% of the rows")] == text
        assert ("near copies" in str(found)) == bool(text)
    # Half of the rows and more, where no clean ratio is left to compare with.
    half = by_name(measure(np.concatenate([x, x * (1 + 1e-7)])).metrics)["id_twonn"]
    assert "100.0% of the rows" in half.reason
    # A line has such ratios by itself: a hundredth of them.
    line = np.random.default_rng(0).random((4000, 1)) * np.ones((1, 3))
    assert by_name(measure(line).metrics)["id_twonn"].reason == ""


@pytest.mark.parametrize("n", [4, 5, 6, 200])
def test_first_rows_with_ties(n: int) -> None:
    x = np.repeat(token_like(n, 6), 2, axis=0)  # each row twice: equal shares
    job = layer._job(x, None, None, None, 0, 0.95, 1)
    share = job.spectrum.row_share
    rows, shares = job.top_rows
    np.testing.assert_array_equal(rows, np.argsort(-share, kind="stable")[: layer.TOP_ROWS])
    np.testing.assert_array_equal(shares, share[rows])


@pytest.mark.parametrize("shape", [(), (1,), (3,)])
def test_sums_of_groups(shape: tuple[int, ...]) -> None:
    values = gaussian(40, max(1, math.prod(shape))).reshape(40, *shape)
    groups = np.arange(40) ** 2 % 7
    expected = np.stack([values[groups == g].sum(axis=0) for g in range(9)])
    np.testing.assert_allclose(group_sums(values, groups, 9), expected, atol=1e-14)
    assert group_sums(values, groups).shape == (groups.max() + 1, *shape)
    assert group_sums(values[:0], groups[:0], 4).tolist() == np.zeros((4, *shape)).tolist()
