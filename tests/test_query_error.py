"""queries="1%": how many rows it chooses, what that keeps of its word, and refusals."""

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
from conftest import gaussian

import fastdim as fd
from fastdim import InputError, knn
from fastdim.cli.parser import build_parser
from fastdim.query_error import query_count
from fastdim.sweeps.jobs import analysis_options


def test_count_by_hand() -> None:
    assert query_count("1%") == 25_600
    assert query_count(" 1.6 % ") == 10_000
    assert query_count("1%", 200_000) == math.ceil(25_600 / (1 + 25_600 / 200_000))
    assert query_count("1%", 25_600) == 12_800
    assert query_count("99%") == 3
    assert query_count("99.99%", 3) == 2
    assert query_count("0.0000001%", 50) == 50


@pytest.mark.parametrize(
    "text", ["0%", "abc%", "-1%", "100%", "250%", "1", "1%%", "%", "", "nan%", "inf%", "1e0%", "٣%"]
)
@pytest.mark.parametrize("call", [knn, fd.twonn, fd.profile])
def test_what_is_no_error_is_refused(call: Any, text: str) -> None:
    with pytest.raises(InputError, match="above 0% and below"):
        call(gaussian(30, 3), queries=text)


def test_a_count_beyond_numbers_is_refused() -> None:
    with pytest.raises(InputError, match="pass a larger error"):
        query_count("0.0000000001%")


def test_stated_in_the_result() -> None:
    x = gaussian(900, 4)
    found = knn(x, queries="10%")
    assert len(found.queries) == query_count("10%", 900) == 200
    assert found.plan["query_error"] == "10%"
    assert found.plan["queries"] == 200
    np.testing.assert_array_equal(found.queries, knn(x, queries=200).queries)
    assert "query_error" not in knn(x, queries=200).plan
    approximate = knn(x, queries="10%", backend="faiss")
    np.testing.assert_array_equal(approximate.indices, found.indices)
    assert approximate.plan["queries"] == 200


def test_of_distinct_rows() -> None:
    x = gaussian(600, 4)
    x[300:] = x[:300]
    found = knn(x, queries="20%", duplicates="collapse")
    assert found.plan["queries"] == query_count("20%", 300)
    assert fd.twonn(x, queries="20%").n_queries == query_count("20%", 300)


ESTIMATORS = ["twonn", "gride", "levina_bickel", "mom", "mada", "tle", "mind_ml", "ess"]


@pytest.mark.parametrize("name", ESTIMATORS)
def test_every_neighbour_estimator_takes_it(name: str) -> None:
    x = gaussian(400, 4)
    by_error = getattr(fd, name)(x, queries="15%")
    by_count = getattr(fd, name)(x, queries=query_count("15%", 400))
    assert by_error == by_count
    assert by_error.n_queries == query_count("15%", 400) == 89


def test_scales_local_dimensions_and_layers_take_it() -> None:
    x = gaussian(400, 4)
    y = x + 0.2 * gaussian(400, 4, seed=1)
    assert len(fd.local_dimension(x, queries="15%").queries) == 89
    for function, given in (
        (fd.gride_scales, (x,)),
        (fd.neighborhood_overlap, (x, y)),
        (fd.information_imbalance, (x, y)),
    ):
        assert repr(function(*given, queries="15%")) == repr(function(*given, queries=89))


@pytest.mark.parametrize("d", [2, 12])
def test_sampling_adds_no_larger_error_than_asked_for(d: int) -> None:
    rng = np.random.default_rng(d)
    # Two densities and heavy radii, so that ratios are not those of one uniform cloud.
    x = rng.standard_normal((2000, d)) * np.exp(rng.standard_normal((2000, 1)))
    near = knn(x)
    whole = float(fd.twonn(near))
    m = query_count("4%", len(x))
    off = []
    for seed in range(120):
        chosen = np.random.default_rng(seed).choice(len(x), m, replace=False)
        off.append(float(fd.twonn(_part(near, chosen))) / whole - 1.0)
    assert math.sqrt(float(np.mean(np.square(off)))) <= 0.04


def _part(near: fd.Neighbors, chosen: np.ndarray) -> fd.Neighbors:
    return dataclasses.replace(
        near,
        distances=near.distances[chosen],
        indices=near.indices[chosen],
        queries=near.queries[chosen],
    )


def test_interval_of_sampled_queries_covers_the_value_of_all() -> None:
    x = gaussian(1500, 6)
    whole = float(fd.twonn(x))
    prepared = fd.prepare(x)
    covered = 0
    for seed in range(60):
        found = fd.twonn(prepared, queries="8%", seed=seed)
        covered += found.lower <= whole <= found.upper
    assert covered >= 54  # 0.9 of the seeds, as the contract of sampled queries has it


def test_sweep_and_command_line() -> None:
    options: dict[str, Any] = {
        "filters": None,
        "tokens": False,
        "pairs": None,
        "exact": False,
        "seed": 0,
        "confidence": 0.95,
        "outlier_factor": 5.0,
    }
    assert analysis_options(queries="2%", **options)["queries"] == 6_400
    with pytest.raises(InputError, match="above 0% and below"):
        analysis_options(queries="0%", **options)
    parser = build_parser()
    assert parser.parse_args(["profile", "x.npy", "--queries", "2%"]).queries == 6_400
    assert parser.parse_args(["profile", "x.npy", "--queries", "2,000"]).queries == 2_000


@pytest.mark.parametrize("text", ["0%", "abc%"])
def test_command_line_refuses(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        build_parser().parse_args(["profile", "x.npy", "--queries", text])
    assert stopped.value.code == 2
    assert "above 0% and below 100%" in capsys.readouterr().err
