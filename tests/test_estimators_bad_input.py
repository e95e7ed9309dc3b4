"""Bad input to every estimator, in one table: one clear error, or the rule that is stated."""

import inspect
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from conftest import gaussian

import fastdim
from fastdim import Estimate, InputError, knn
from fastdim.estimators import twonn_fits as fits
from fastdim.estimators.lpca import RULES
from fastdim.estimators.twonn import METHODS

N, D = 60, 4
ROWS = gaussian(N, D)
NAN = np.where(np.arange(N)[:, None] == 7, np.nan, ROWS)

Call = Callable[[Any], Any]
TAKES_K: dict[str, Callable[[Any, int], Any]] = {
    "gride": lambda x, k: fastdim.gride(x, 1, k),
    "gride_scales": lambda x, k: fastdim.gride_scales(x, 1 << (k.bit_length() - 1)),
    "levina_bickel": fastdim.levina_bickel,
    "mom": fastdim.mom,
    "mada": fastdim.mada,
    "mind_ml": fastdim.mind_ml,
    "local_dimension": fastdim.local_dimension,
    "abide": fastdim.abide,
    "k_star": lambda x, k: fastdim.k_star(x, 3.0, k),
    "geomle": lambda x, k: fastdim.geomle(x, k // 2, k),
    "corrint": lambda x, k: fastdim.corrint(x, k // 2, k),
    "tle": fastdim.tle,
    "ess": fastdim.ess,
    "danco": fastdim.danco,
    "knn_graph": fastdim.knn_graph,
    "neighborhood_overlap": lambda x, k: fastdim.neighborhood_overlap(x, x, k),
    "information_imbalance": lambda x, k: fastdim.information_imbalance(x, x, k),
}
WITHOUT_K: dict[str, Call] = {
    "twonn": fastdim.twonn,
    "block_analysis": fastdim.block_analysis,
    "ph_dimension": fastdim.ph_dimension,
    "fishers": lambda x: fastdim.fishers(x, alphas=[0.3, 0.6]),
    "participation_ratio": fastdim.participation_ratio,
    "effective_rank": fastdim.effective_rank,
    "stable_rank": fastdim.stable_rank,
    "rankme": fastdim.rankme,
    "alpha_req": fastdim.alpha_req,
    "isoscore": fastdim.isoscore,
    "isoscore_star": lambda x: fastdim.isoscore_star(x, 0.0),
    "partition_isotropy": fastdim.partition_isotropy,
    "matrix_entropy": fastdim.matrix_entropy,
    "lpca": fastdim.lpca,
    "linear_cka": lambda x: fastdim.linear_cka(x, x),
    "linearity_score": lambda x: fastdim.linearity_score(x, x),
    "angular_distance": lambda x: fastdim.angular_distance(x, x),
    "block_influence": lambda x: fastdim.block_influence(x, x),
}
EVERY: dict[str, Call] = {
    **{name: (lambda x, call=call: call(x, 8)) for name, call in TAKES_K.items()},
    **WITHOUT_K,
}
# What an argument chooses: another formula, which may fail where the default does not.
VARIANTS: dict[str, Call] = {
    **{f"lpca, {rule}": (lambda x, rule=rule: fastdim.lpca(x, rule)) for rule in RULES},
    **{
        f"twonn, {name}": (lambda x, name=name: fastdim.twonn(x, compat=name))
        for name in fits.COMPAT
    },
    **{f"twonn, {name}": (lambda x, name=name: fastdim.twonn(x, method=name)) for name in METHODS},
    **{
        f"gride, {name}": (lambda x, name=name: fastdim.gride(x, 4, interval=name))
        for name in ("fisher", "bootstrap", "jackknife")
    },
    **{
        f"gride, {name}": (lambda x, name=name: fastdim.gride(x, 4, compat=name))
        for name in ("dadapy", "skdim")
    },
    **{
        f"local_dimension, {name}": (
            lambda x, name=name: fastdim.local_dimension(x, 8, method=name)
        )
        for name in ("mom", "mada", "tle", "ess")
    },
    "mind_ml, MLi": lambda x: fastdim.mind_ml(x, 8, version="MLi"),
    "ess, b": lambda x: fastdim.ess(x, 8, version="b"),
    "isoscore_star, 0.3": lambda x: fastdim.isoscore_star(x, 0.3),
    "matrix_entropy, 2": lambda x: fastdim.matrix_entropy(x, 2.0),
    "matrix_entropy, inf": lambda x: fastdim.matrix_entropy(x, math.inf),
    "linearity_score, residual": lambda x: fastdim.linearity_score(x, x[::-1], residual=True),
}
ALL = {**EVERY, **VARIANTS}
TAKES_NEIGHBORS = (
    "gride", "gride_scales", "levina_bickel", "mom", "mada", "mind_ml", "local_dimension", "abide",
    "k_star", "geomle", "twonn",
)  # fmt: skip

# What holds in place of an error where all rows are equal, but not zero: these do not look at how
# rows differ. One direction is one dimension, and no angle lies between equal rows.
EQUAL_ROWS = {
    "rankme": 1.0,
    "matrix_entropy": 0.0,
    "partition_isotropy": math.exp(-2 * math.sqrt(D) * 1.5),
    "angular_distance": 0.0,
    "block_influence": 0.0,
    # Searched as they are: the same smaller row numbers are nearest in both.
    "neighborhood_overlap": 1.0,
    "information_imbalance": 2 / N * 4.5,
    "matrix_entropy, 2": 0.0,
    "matrix_entropy, inf": 0.0,
    # 0.3 of the identity is all that is left.
    "isoscore_star, 0.3": 1.0,
    # It moves zero distances by 5e-6 at random: a line through the ratios of that noise.
    "twonn, facco": 0.8076,
}


def estimators() -> set[str]:
    """Public functions that return estimates of dimension, rank, isotropy or likeness."""
    found = set()
    for name in fastdim.__all__:
        member = getattr(fastdim, name)
        if inspect.isfunction(member) and member.__module__.startswith("fastdim.estimators"):
            found.add(name)
    return found


def test_the_table_holds_every_estimator() -> None:
    assert estimators() == set(EVERY)


@pytest.mark.parametrize("name", ALL)
def test_good_input_gives_an_estimate(name: str) -> None:
    found = ALL[name](ROWS)
    if isinstance(found, Estimate):
        assert math.isfinite(found.value)
        assert found.lower <= found.value <= found.upper
        assert found.stderr >= 0
        assert found.method
        assert found.interval


@pytest.mark.parametrize("name", TAKES_K)
@pytest.mark.parametrize("k", [N, 2 * N + 10])
def test_k_of_at_least_n(name: str, k: int) -> None:
    """Never cut to what there is: the number asked for stands in the error."""
    with pytest.raises(InputError, match=r"needs? .*|sizes above k"):
        TAKES_K[name](ROWS, k)


@pytest.mark.parametrize("name", TAKES_K)
@pytest.mark.parametrize("k", [0, -3])
def test_k_below_one(name: str, k: int) -> None:
    if name == "gride_scales":
        with pytest.raises(InputError, match="largest must be"):
            fastdim.gride_scales(ROWS, k)
    else:
        with pytest.raises(InputError, match="must be a whole number >="):
            TAKES_K[name](ROWS, k)


@pytest.mark.parametrize("name", ALL)
def test_one_point(name: str) -> None:
    with pytest.raises(InputError, match=r"needs? at least"):
        ALL[name](ROWS[:1])


@pytest.mark.parametrize("name", ALL)
def test_all_rows_equal(name: str) -> None:
    rows = np.full((N, D), 1.5)
    if name in EQUAL_ROWS:
        assert ALL[name](rows).value == pytest.approx(EQUAL_ROWS[name], abs=1e-4)
    else:
        # The definitions of other codes keep equal rows, and say what is left: no ratio above 1.
        with pytest.raises(InputError, match=r"equal|distinct|all ratios are 1|these ratios"):
            ALL[name](rows)


@pytest.mark.parametrize("name", ALL)
def test_nan(name: str) -> None:
    with pytest.raises(InputError, match="NaN"):
        ALL[name](NAN)


@pytest.mark.parametrize("name", ALL)
def test_a_single_column(name: str) -> None:
    with pytest.raises(InputError, match="at least 2 columns"):
        ALL[name](ROWS[:, :1])


def few_differ() -> dict[str, np.ndarray]:
    """Two rows; and rows of which one differs: less one group, nothing differs."""
    one = np.full((N, D), 1.5)
    one[7] += 1.0
    return {"two": ROWS[:2], "one differs": one}


@pytest.mark.parametrize("rows", few_differ().values(), ids=few_differ())
@pytest.mark.parametrize("name", ["isoscore", *(name for name in VARIANTS if "lpca" in name)])
def test_no_part_of_a_jackknife_is_without_variance(name: str, rows: np.ndarray) -> None:
    with pytest.raises(InputError, match=r"jackknife=0|eigenvalues"):
        ALL[name](rows)


def test_a_part_of_a_jackknife_with_one_axis() -> None:
    with pytest.raises(InputError, match="fewer than 2 eigenvalues"):
        fastdim.alpha_req(ROWS[:3])
    assert math.isfinite(fastdim.alpha_req(ROWS[:3], jackknife=0).value)


def test_knn_graph_of_one_size() -> None:
    with pytest.raises(InputError, match=f"needs more than {N} distinct rows, got {N}"):
        fastdim.knn_graph(ROWS, N - 1)


@pytest.mark.parametrize("offset", [0.0, 0.3, 1e3, 1e6])
@pytest.mark.parametrize("method", METHODS)
def test_ratios_that_are_1_but_for_rounding(method: str, offset: float) -> None:
    """An equally spaced line in float64, refused as the exact one is."""
    line = np.outer(np.arange(500) / 7.0 + offset, np.ones(2))
    for given in (line, knn(line, 2)):
        with pytest.raises(InputError, match="which is rounding, as on an equally spaced line"):
            fastdim.twonn(given, method=method)
    with pytest.raises(InputError, match="which is rounding"):
        fastdim.block_analysis(line, 1, method=method)


def test_equal_distances_on_a_lattice_are_no_rounding() -> None:
    """Most second neighbours are as far as the first, and the others tell the dimension."""
    rows = np.random.default_rng(0).integers(0, 40, (800, 2)).astype(np.float64)
    near = knn(rows, 2, duplicates="collapse")
    assert (near.distances[:, 0] == near.distances[:, 1]).mean() > 0.4
    assert math.isfinite(fastdim.twonn(near).value)


@pytest.mark.parametrize(
    "name",
    [
        "neighborhood_overlap", "information_imbalance", "linear_cka", "linearity_score",
        "angular_distance", "block_influence",
    ],
)  # fmt: skip
def test_two_arguments_are_told_apart(name: str) -> None:
    arguments = (8,) if name in TAKES_K else ()
    call = getattr(fastdim, name)
    with pytest.raises(InputError, match=r"^x holds 4 NaN"):
        call(NAN, ROWS, *arguments)
    with pytest.raises(InputError, match=r"^y holds 4 NaN"):
        call(ROWS, NAN, *arguments)
    with pytest.raises(InputError, match=r"^y needs at least 2 columns"):
        call(ROWS, ROWS[:, :1], *arguments)


OF_NEIGHBORS = [
    *TAKES_K, "twonn", *(
        name for name in VARIANTS
        if name.split(",")[0] in ("gride", "local_dimension", "mind_ml", "ess", "twonn")
    ),
]  # fmt: skip


@pytest.mark.parametrize("exponent", [-1000, -664, 490])
@pytest.mark.parametrize("name", OF_NEIGHBORS)
def test_the_unit_of_length_changes_nothing(name: str, exponent: int) -> None:
    """Squares of 2^-664 (1e-200) vanish in float64, and fourth powers of 2^490 overflow."""
    found, expected = (ALL[name](np.ldexp(ROWS, power)) for power in (exponent, 0))
    for part in ("value", "stderr", "values"):
        if hasattr(expected, part):
            # Logarithms of distances are rounded.
            np.testing.assert_allclose(getattr(found, part), getattr(expected, part), rtol=1e-9)


@pytest.mark.parametrize("exponent", [-100, 100])
@pytest.mark.parametrize("name", ["tle", "ess", "danco"])
def test_the_unit_of_length_in_float32(name: str, exponent: int) -> None:
    rows = ROWS.astype(np.float32)
    found = ALL[name](np.ldexp(rows, exponent))
    assert (found.value, found.stderr) == (ALL[name](rows).value, ALL[name](rows).stderr)


@pytest.mark.parametrize("name", sorted(set(WITHOUT_K) - {"twonn", "block_analysis"}))
def test_rows_whose_squares_vanish(name: str) -> None:
    """A value that does not depend on the unit, or one error that tells the remedy."""
    if name in ("corrint", "partition_isotropy"):  # the latter depends on the unit by definition
        return
    with pytest.raises(InputError, match=r"multiply .*by a constant|divide the rows by"):
        WITHOUT_K[name](np.ldexp(ROWS, -664))


@pytest.mark.parametrize("name", ["twonn", "block_analysis"])
@pytest.mark.parametrize("share", [-0.1, 1.0, math.nan])
def test_discard_fraction_out_of_range(name: str, share: float) -> None:
    with pytest.raises(InputError, match="discard_fraction must lie"):
        getattr(fastdim, name)(ROWS, discard_fraction=share)


@pytest.mark.parametrize("name", TAKES_NEIGHBORS)
def test_neighbors_with_too_few_columns(name: str) -> None:
    few = knn(ROWS, 1, duplicates="collapse")
    with pytest.raises(InputError, match=r"k >= \d|needs two neighbours"):
        EVERY[name](few)


@pytest.mark.parametrize("name", TAKES_NEIGHBORS)
def test_neighbors_with_zeros(name: str) -> None:
    copied = np.concatenate([ROWS, ROWS[:5]])
    with pytest.raises(InputError, match="duplicates='collapse'"):
        EVERY[name](knn(copied, 40))
    assert EVERY[name](knn(copied, 40, duplicates="collapse")) is not None


BESIDE_ROWS: dict[str, Callable[[Any, Any], Any]] = {
    "tle": lambda x, near: fastdim.tle(x, 8, neighbors=near),
    "ess": lambda x, near: fastdim.ess(x, 8, neighbors=near),
    "danco": lambda x, near: fastdim.danco(x, 8, neighbors=near),
    "local_dimension": lambda x, near: fastdim.local_dimension(x, 8, neighbors=near),
}


@pytest.mark.parametrize("name", BESIDE_ROWS)
def test_neighbors_beside_rows(name: str) -> None:
    """The same three, where rows and their neighbours are both given."""
    call = BESIDE_ROWS[name]
    with pytest.raises(InputError, match=r"k >= \d"):
        call(ROWS, knn(ROWS, 7, duplicates="collapse"))
    copied = np.concatenate([ROWS, ROWS[:5]])
    with pytest.raises(InputError, match="duplicates='collapse'"):
        call(copied, knn(copied, 40))
    assert call(copied, knn(copied, 40, duplicates="collapse")) is not None
    damaged = knn(ROWS, 40, duplicates="collapse")
    damaged.distances[3, 1] = np.nan
    with pytest.raises(InputError, match="NaN"):
        call(ROWS, damaged)
    with pytest.raises(InputError, match="compute them from the same x"):
        call(ROWS, knn(ROWS[:40], 20, duplicates="collapse"))


def test_neighbors_given_to_overlap() -> None:
    """It counts common rows, so a distance of zero is as good as another; columns must suffice."""
    copied = np.concatenate([ROWS, ROWS[:5]])
    with pytest.raises(InputError, match="k"):
        fastdim.neighborhood_overlap(knn(ROWS, 3), knn(ROWS, 3), 8)
    near = knn(copied, 8)
    assert fastdim.neighborhood_overlap(near, near, 8).value == 1.0


@pytest.mark.parametrize("name", TAKES_NEIGHBORS)
def test_neighbors_that_hold_nan(name: str) -> None:
    damaged = knn(ROWS, 40, duplicates="collapse")
    damaged.distances[3, 1] = np.nan
    with pytest.raises(InputError, match="NaN"):
        EVERY[name](damaged)


def damaged(kind: str) -> fastdim.Neighbors:
    near = knn(ROWS, 40, duplicates="collapse")
    if kind == "below zero":
        near.distances[3, 0] *= -1.0
    else:
        near.distances[3, [4, 5]] = near.distances[3, [5, 4]]
    return near


@pytest.mark.parametrize("kind", ["below zero", "ascend"])
@pytest.mark.parametrize("name", [*TAKES_NEIGHBORS, *BESIDE_ROWS, "neighborhood_overlap"])
def test_neighbors_whose_distances_are_none(name: str, kind: str) -> None:
    near = damaged(kind)
    beside = BESIDE_ROWS.get(name, lambda x, near: EVERY[name](near))
    with pytest.raises(InputError, match=kind):
        beside(ROWS, near)


@pytest.mark.parametrize(
    "name", sorted(set(EVERY) - set(TAKES_NEIGHBORS) - {"neighborhood_overlap"})
)
def test_neighbors_where_rows_are_needed(name: str) -> None:
    with pytest.raises(InputError, match=r"pass x|must be a numpy array"):
        EVERY[name](knn(ROWS, 40))


@pytest.mark.parametrize(
    "name", sorted(set(EVERY) - {"k_star", "local_dimension", "block_analysis"})
)
@pytest.mark.parametrize("level", [0.0, 1.0, 95])
def test_confidence_out_of_range(name: str, level: float) -> None:
    arguments = {"isoscore_star": (0.5,)}.get(name, ())
    two = name in (
        "linear_cka", "linearity_score", "angular_distance", "block_influence",
        "neighborhood_overlap", "information_imbalance",
    )  # fmt: skip
    rows = (ROWS, ROWS) if two else (ROWS,)
    small = {"mom": 8, "ess": 8, "abide": 8, "information_imbalance": 2, "neighborhood_overlap": 8}
    if name in small:
        arguments = (small[name],)
    if name == "geomle":
        arguments = (4, 8)
    with pytest.raises(InputError, match="confidence"):
        getattr(fastdim, name)(*rows, *arguments, confidence=level)


def test_a_grid_is_refused_or_counted_without_a_warning() -> None:
    """pytest's warnings are errors here: all ratios are 1, all axes of one length."""
    axis = np.arange(8.0)
    grid = np.stack(np.meshgrid(axis, axis), axis=-1).reshape(-1, 2)
    with pytest.raises(InputError, match="pass start="):
        fastdim.abide(grid, 20)
    assert fastdim.lpca(grid, "Fan").value == 2.0


def test_levels_and_dimensions_of_abide() -> None:
    for level in (0.0, 1e-17, 1.0):
        with pytest.raises(InputError, match="level must lie in"):
            fastdim.abide(ROWS, 20, level=level)
    for dimension in (0.0, math.inf):
        with pytest.raises(InputError, match="dimension must be finite and above 0"):
            fastdim.k_star(ROWS, dimension, 20)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("estimator", [fastdim.levina_bickel, fastdim.mom, fastdim.mada])
def test_a_grid_warns_of_nothing(estimator: Any) -> None:
    grid = np.stack(np.meshgrid(*[np.arange(9.0)] * 3), axis=-1).reshape(-1, 3)
    with pytest.raises(InputError):
        estimator(grid, 4, average="median")
