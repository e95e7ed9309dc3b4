"""Every keyword of every public function of arrays, given what it cannot be: an error of fastdim's
own, or a result, never a raw error from inside."""

import inspect
from typing import Any

import numpy as np
import pytest
from conftest import gaussian

import fastdim
from fastdim.errors import FastdimError, InputError
from fastdim.sweeps.jobs import check_approximate

X, Y = gaussian(160, 4, seed=1), gaussian(160, 4, seed=2)
WRONG: tuple[Any, ...] = (
    "x", b"x", None, -1, 0, 2.5, float("nan"), float("inf"), True, [], [1], ["a"], (1, 2, 3), {},
    object(), np.array([1.5]), np.array(["a"]), 1e300, 10**30, (1,), [[1, 2], [3]], 3 + 2j,
    np.ones(3), np.array(["cpu", "mean"]),
)  # fmt: skip
# They read a model or a folder, or start processes; each has tests of what it refuses.
WITHOUT_ROWS = ("sweep", "track", "extract_modules", "plan", "attention", "causes", "sweep_plan")
# Yes or no, which Python takes of anything; a name; what `measure` tells in its results.
TAKE_ANYTHING = {
    ("as_rows", "empty"),
    ("as_rows", "name"),
    ("levina_bickel", "unbiased"),
    ("lpca", "center"),
    ("matrix_entropy", "unit_rows"),
    ("linearity_score", "residual"),
    ("measure", "queries"),
    ("measure", "seed"),
}
# What the functions need beside the rows.
NEEDS: dict[str, dict[str, Any]] = {
    "k_star": {"dimension": 3.0},
    "isoscore_star": {"zeta": 0.5},
    "stratified_queries": {"queries": 5},
    "knn_graph": {"draws": 2, "sizes": [40, 80]},
    "ph_dimension": {"draws": 2, "sizes": [20, 40]},
    "danco": {"largest": 3},
}
# Other settings in which a keyword is read at all.
ALSO: dict[str, list[dict[str, Any]]] = {
    "twonn": [{"method": "bayes"}, {"compat": "skdim"}, {"method": "linear"}],
    "lpca": [{"rule": rule} for rule in ("parallel", "MP", "GD", "KN", "Minka", "denoised")],
    "cosine_stats": [{"pairs": 50}],
    "gride": [{"interval": "bootstrap"}],
    "levina_bickel": [{"average": "mean"}],
}


def functions() -> list[str]:
    """Public functions of rows, or of neighbours or eigenvalues in their place."""
    found = []
    for name in fastdim.__all__:
        function = getattr(fastdim, name)
        if not inspect.isfunction(function) or name in WITHOUT_ROWS:
            continue
        first = next(iter(inspect.signature(function).parameters), "")
        if first in ("x", "y", "x_or_neighbors", "x_or_spectrum"):
            found.append(name)
    return found


def call(name: str, given: dict[str, Any]) -> Any:
    function = getattr(fastdim, name)
    named = {**NEEDS.get(name, {}), **given}
    places = [
        parameter.name
        for parameter in inspect.signature(function).parameters.values()
        if parameter.default is parameter.empty and parameter.kind is not parameter.VAR_KEYWORD
    ]
    rows = iter((X, Y))
    return function(**{key: next(rows) for key in places if key not in named}, **named)


def test_the_table_holds_the_estimators() -> None:
    known = functions()
    assert {"twonn", "gride", "mom", "fishers", "lpca", "linear_cka", "knn"} <= set(known)
    assert len(known) > 35


@pytest.mark.parametrize("name", functions())
def test_no_keyword_lets_a_raw_error_out(name: str) -> None:
    keywords = [
        parameter.name
        for parameter in inspect.signature(getattr(fastdim, name)).parameters.values()
        if parameter.name not in ("x", "y", "x_or_neighbors", "x_or_spectrum")
    ]
    assert keywords
    raw, refused = [], {keyword for place, keyword in TAKE_ANYTHING if place == name}
    for setting in ({}, *ALSO.get(name, [])):
        call(name, setting)
        for keyword in keywords:
            for wrong in WRONG:
                try:
                    call(name, {**setting, keyword: wrong})
                except FastdimError:
                    if type(wrong) is object:
                        refused.add(keyword)
                except Exception as error:  # noqa: BLE001  # told with all others below
                    raw.append(f"{keyword}={wrong!r} with {setting}: {error!r}")
    assert not raw, "\n".join(raw)
    assert refused == set(keywords)


@pytest.mark.parametrize("wrong", [np.ones(3), ["cpu"], 1, np.array(["cpu", "faiss"])])
def test_names_of_a_sweep_are_names(wrong: Any) -> None:
    with pytest.raises(InputError, match="backend must be 'cpu' or one of faiss, faiss-gpu"):
        check_approximate(wrong, None, None)
    with pytest.raises(InputError, match="index must be the name of a kind"):
        check_approximate("faiss", wrong, None)


@pytest.mark.parametrize("threads", [10**30, 2**31])
def test_more_threads_than_a_kernel_counts_are_refused(threads: int) -> None:
    with pytest.raises(InputError, match="pass fewer threads"):
        fastdim.twonn(X, threads=threads)


def test_lengths_beyond_float64_are_refused() -> None:
    with pytest.raises(InputError, match="leave the range of float64: pass a smaller power"):
        fastdim.knn_graph(X, gamma=1e300, draws=2)
    with pytest.raises(InputError, match="leave the range of float64: pass a smaller power"):
        fastdim.ph_dimension(X, alpha=1e300, draws=2)
