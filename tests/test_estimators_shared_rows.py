"""Overlap and imbalance where every row is a query: rows have a part in the values of others."""

import dataclasses
import itertools
import math
from collections import Counter, defaultdict
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from conftest import gaussian

from fastdim import information_imbalance, knn, neighborhood_overlap
from fastdim.estimators.between import _common, _ranks
from fastdim.estimators.inputs import rows_of
from fastdim.estimators.shared_rows import (
    CHAIN,
    FEW,
    Part,
    _totals,
    overlap_part,
    rank_part,
    shared_stderr,
)


def torus(n: int, d: int, rng: np.random.Generator) -> np.ndarray:
    angle = 2 * np.pi * rng.random((n, d))
    return np.concatenate([np.cos(angle), np.sin(angle)], axis=1)


def with_noise(d: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    x = torus(250, d, rng)
    return x, x + 0.4 * rng.standard_normal(x.shape)


def half_kept(d: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    x = torus(250, d, rng)
    kept = np.tile(np.arange(d) < (d + 1) // 2, 2)
    return x, np.where(kept, x, torus(250, d, rng))


@pytest.mark.parametrize("make", [with_noise, half_kept])
@pytest.mark.parametrize("d", [2, 5])
@pytest.mark.parametrize("statistic", [neighborhood_overlap, information_imbalance])
def test_intervals_hold_the_mean_of_all_sets(
    statistic: Callable[..., Any], d: int, make: Callable[..., Any]
) -> None:
    """Errors of independent rows are 0.6 to 0.85 of repetition here, and hold in 0.75 to 0.9."""
    pairs = [make(d, np.random.default_rng([s, d])) for s in range(100)]
    found = [statistic(x, y) for x, y in pairs]
    values = np.array([e.value for e in found])
    held = np.mean([e.lower <= values.mean() <= e.upper for e in found])
    assert held >= 0.95 - 3 * math.sqrt(0.95 * 0.05 / len(found))
    # A spread of 100 is known within 7 %.
    ratio = np.mean([e.stderr for e in found]) / values.std(ddof=1)
    assert ratio == pytest.approx(1.0, abs=0.2)


def dense(local: np.ndarray, w: np.ndarray, everywhere: np.ndarray, labels: np.ndarray) -> float:
    """The definition: squares of totals less the pairs, of documents, by loops."""
    count = labels.max() + 1
    own, moved, pair = np.zeros(count), np.zeros(count), np.zeros((count, count))
    # What a row adds to values of its document is away with these.
    added = np.where(labels[:, None] != labels, w, 0.0).sum(axis=0) + everywhere
    for i, group in enumerate(labels):
        own[group] += local[i] - local.mean()
        moved[group] += added[i] - added.mean()
        for j in range(len(labels)):
            pair[group, labels[j]] += w[i, j]
    np.fill_diagonal(pair, 0.0)
    pairs = sum((pair[g, h] + pair[h, g]) ** 2 for g in range(count) for h in range(g))
    plain = np.square(own).sum() * count / (count - 1) / len(local) ** 2
    ratio = (np.square(own + moved).sum() - pairs) / np.square(own).sum()
    return math.sqrt(plain * max(1.0, ratio))


@pytest.mark.parametrize("documents", [1, 3])
def test_error_by_its_definition(documents: int) -> None:
    n = 60
    rng = np.random.default_rng(5)
    near = knn(gaussian(n, 3), 5)
    w = np.where(rng.random((n, n)) < 0.2, rng.standard_normal((n, n)), 0.0)
    np.fill_diagonal(w, 0.0)
    local = rng.standard_normal(n) + w.sum(axis=1)
    everywhere = 6.0 * rng.standard_normal(n)
    place, row = np.nonzero(w)
    labels = np.arange(n) // documents
    part = Part(place, row, w[place, row], everywhere)
    expected = dense(local, w, everywhere, labels)
    assert expected > 1.05 * dense(local, 0.0 * w, 0.0 * everywhere, labels)
    assert shared_stderr(local, near, part, labels) == pytest.approx(expected, rel=1e-9)
    if documents == 1:
        assert shared_stderr(local, near, part, None) == pytest.approx(expected, rel=1e-9)
    turned = rng.permutation(len(row))
    again = Part(place[turned], row[turned], part.added[turned], everywhere)
    assert shared_stderr(local, near, again, labels) == pytest.approx(expected, rel=1e-9)


def rank_without(x: np.ndarray, y: np.ndarray, row: int, away: tuple[int, ...]) -> int:
    """Rank in y of the row nearest to `row` in x, with some rows away."""
    others = np.setdiff1d(np.arange(len(x)), [row, *away])
    first = others[np.square(x[others] - x[row]).sum(axis=1).argmin()]
    distance = np.square(y[others] - y[row]).sum(axis=1)
    return int((distance <= np.square(y[first] - y[row]).sum()).sum())


@pytest.mark.parametrize("noise", [0.3, 3.0])
def test_what_nearest_rows_add_together_to_a_rank(noise: float) -> None:
    """The definition: ranks with all rows, less those without one, plus those without two, ..."""
    x = gaussian(25, 2)
    y = x + noise * gaussian(25, 2, 1)
    near = knn(x, CHAIN)
    part = rank_part(near, _ranks(rows_of(y, "y"), near, 1), 1)
    assert part.chain is not None
    assert part.together is not None
    for i in range(25):
        for s in range(1, CHAIN):
            rows = near.indices[i, :s]
            np.testing.assert_array_equal(part.chain[i, :s], rows)
            expected = sum(
                (-1) ** len(away) * rank_without(x, y, i, away)
                for size in range(s + 1)
                for away in itertools.combinations(rows, size)
            )
            assert part.together[i, s - 1] == expected


def by_all_orders(local: np.ndarray, part: Part, labels: np.ndarray) -> float:
    """J_1 - J_2 + J_3 less half of what is new in J_4, by sets of units and loops."""
    assert part.everywhere is not None
    assert part.chain is not None
    assert part.together is not None
    own = Counter(dict.fromkeys(range(labels.max() + 1), 0.0))
    for i, group in enumerate(labels):
        own[group] += local[i] - local.mean()
    moved = part.everywhere.copy()
    for place, row, value in zip(part.place, part.row, part.added, strict=True):
        if labels[place] != labels[row]:
            moved[row] += value
    total = own.copy()
    for j, group in enumerate(labels):
        total[group] += moved[j] - moved.mean()
    # Of each size what a set adds to the values of one unit, which is not among them.
    adds: dict[int, Any] = {s: defaultdict(float) for s in range(1, CHAIN)}
    for place, row, value in zip(part.place, part.row, part.added, strict=True):
        if labels[place] != labels[row]:
            adds[1][labels[place], frozenset([labels[row]])] += value
    for i, rows in enumerate(part.chain):
        for s in range(2, CHAIN):
            units = frozenset(labels[rows[:s]])
            if len(units) == s and labels[i] not in units:
                adds[s][labels[i], units] += part.together[i, s - 1]
    joint = {}
    for s in range(2, CHAIN):
        sums: Any = defaultdict(float)
        for (_, units), value in adds[s].items():
            sums[units] += value
        for (unit, units), value in adds[s - 1].items():
            sums[units | {unit}] += value
        joint[s] = sum(value**2 for value in sums.values())
    alone = {s: sum(value**2 for value in adds[s].values()) for s in adds}
    variance = sum(value**2 for value in total.values()) - joint[2] + joint[3]
    variance -= alone[3] + 0.5 * (joint[4] - alone[3] - alone[4])
    count, squares = len(own), sum(value**2 for value in own.values())
    plain = squares * count / (count - 1) / len(labels) ** 2
    return math.sqrt(plain * max(1.0, variance / squares))


@pytest.mark.parametrize("documents", [1, 3])
def test_error_of_ranks_by_its_definition(documents: int) -> None:
    """Pairs alone would give another."""
    rng = np.random.default_rng(11)
    x = torus(90, 2, rng)
    y = x + 0.6 * rng.standard_normal(x.shape)
    labels = np.arange(90) // documents
    near = knn(x, CHAIN)
    found = _ranks(rows_of(y, "y"), near, 1, labels)
    part = rank_part(near, found, 1)
    local = found.ranks[:, 0].astype(float)
    expected = by_all_orders(local, part, labels)
    pairs = dataclasses.replace(part, chain=None, together=None)
    assert abs(shared_stderr(local, near, pairs, labels) / expected - 1) > 0.02
    assert shared_stderr(local, near, part, labels) == pytest.approx(expected, rel=1e-9)
    value = information_imbalance(x, y, groups=labels)
    assert value.stderr == pytest.approx(2 / 90 * expected, rel=1e-9)
    if documents == 1:
        assert information_imbalance(x, y).stderr == pytest.approx(value.stderr, rel=1e-9)


def nearest(rows: np.ndarray) -> np.ndarray:
    """All rows of each row, nearest first and itself last."""
    squares = np.square(rows[:, None] - rows).sum(axis=2)
    np.fill_diagonal(squares, np.inf)
    return squares.argsort(axis=1)


def test_how_often_rows_are_nearer_than_a_far_one() -> None:
    x, y = gaussian(80, 2), gaussian(80, 3, 1)
    labels = np.arange(80) // 5
    near = knn(x, 4)
    order = nearest(y)
    often = {True: np.zeros(80), False: np.zeros(80)}
    for i in range(80):
        for other in near.indices[i, :3]:
            rank = 1 + order[i].tolist().index(other)
            for row in order[i, : rank - 1] if rank > FEW else ():
                often[False][row] += 1
                often[True][row] += labels[row] != labels[i]
    assert often[True].sum() < often[False].sum()
    found = _ranks(rows_of(y, "y"), near, 3)
    np.testing.assert_array_equal(found.often, often[False])
    np.testing.assert_array_equal(_ranks(rows_of(y, "y"), near, 3, labels).often, often[True])


def clumps(n: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Documents of five rows that lie together."""
    labels = np.arange(n) // 5
    angle = 2 * np.pi * rng.random((n // 5, 2))[labels] + 0.15 * rng.standard_normal((n, 2))
    return *on_torus(angle, 0.3, rng), labels


def walks(n: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Documents of ten rows, each near the one before it."""
    labels = np.arange(n) // 10
    steps = 0.1 * rng.standard_normal((n // 10, 10, 2)).cumsum(axis=1).reshape(n, 2)
    return *on_torus(2 * np.pi * rng.random((n // 10, 2))[labels] + steps, 0.3, rng), labels


def on_torus(
    angle: np.ndarray, noise: float, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    x = np.concatenate([np.cos(angle), np.sin(angle)], axis=1)
    return x, x + noise * rng.standard_normal(x.shape)


def values_of(x: np.ndarray, y: np.ndarray, kind: str, k: int) -> np.ndarray:
    """Mean ranks in y of k neighbours in x, or overlaps, by the definition."""
    a, b = nearest(x)[:, :k], nearest(y)
    if kind == "overlap":
        pairs = zip(a, b[:, :k], strict=True)
        return np.array([len(np.intersect1d(*lists)) for lists in pairs]) / k
    ranks = 1 + b.argsort(axis=1)
    return np.take_along_axis(ranks, a, axis=1).mean(axis=1)


def part_of(x: np.ndarray, y: np.ndarray, kind: str, k: int, labels: np.ndarray) -> Any:
    if kind == "overlap":
        near, a, b = knn(x, k), knn(x, k).indices, knn(y, k).indices
        n = len(x)
        return near, overlap_part(a, b, _common(a, b, n), _common(b, a, n))
    near = knn(x, CHAIN if k == 1 else k + 1)
    return near, rank_part(near, _ranks(rows_of(y, "y"), near, k, labels), k)


@pytest.mark.parametrize("make", [clumps, walks])
@pytest.mark.parametrize(("kind", "k"), [("rank", 1), ("rank", 3), ("overlap", 5)])
def test_totals_are_what_documents_take_with_them(
    kind: str, k: int, make: Callable[..., Any]
) -> None:
    """Each document really removed: what it adds to its own values was in its total twice."""
    exact, found = [], []
    for seed in range(8):
        x, y, labels = make(150, np.random.default_rng(seed))
        local = values_of(x, y, kind, k)
        rest = [labels != document for document in range(labels.max() + 1)]
        away = [local.sum() - values_of(x[kept], y[kept], kind, k).sum() for kept in rest]
        exact += list(np.array(away) - np.mean(away))
        own = np.bincount(labels, local - local.mean(), len(x))
        totals, more = _totals(own, *part_of(x, y, kind, k, labels), labels)
        assert more == 0.0
        found += list(totals[: len(rest)])
    # An overlap's k-th that a row pushes out counts by its mean, was it common or not: its totals
    # are those of documents removed but for noise about them. Those of ranks are nearly the same.
    slope = np.dot(exact, found) / np.square(found).sum()
    together = np.corrcoef(exact, found)[0, 1]
    if kind == "rank":
        assert np.square(found).sum() == pytest.approx(np.square(exact).sum(), rel=0.1)
        assert slope == pytest.approx(1.0, abs=0.05)
        assert together > 0.97
    else:
        assert slope == pytest.approx(1.0, abs=0.3)
        assert together > 0.8


@pytest.mark.parametrize("make", [clumps, walks])
@pytest.mark.parametrize("k", [1, 3])
def test_errors_of_documents_of_alike_rows(k: int, make: Callable[..., Any]) -> None:
    """Errors in which a document's rows move their own values, too, are 1.4 to 1.65 of the spread.

    A spread of 160 is known within 6 %.
    """
    sets = [make(300, np.random.default_rng(seed)) for seed in range(160)]
    found = [information_imbalance(x, y, k, groups=labels) for x, y, labels in sets]
    spread = np.std([e.value for e in found], ddof=1)
    assert np.mean([e.stderr for e in found]) == pytest.approx(spread, rel=0.25)


@pytest.mark.parametrize("n", [3, 4, 5, 6, 7])
def test_ranks_of_few_rows_have_an_error(n: int) -> None:
    found = information_imbalance(gaussian(n, 2), gaussian(n, 2, 1))
    assert math.isfinite(found.stderr)
    assert 0.0 <= found.lower <= found.value <= found.upper <= 2.0


def test_a_row_that_both_lists_end_with_is_pushed_out_once() -> None:
    """Of equal lists no row adds to the overlap: another takes its place in both."""
    lists = knn(gaussian(40, 3), 6).indices
    common = np.ones(lists.shape, dtype=bool)
    np.testing.assert_allclose(overlap_part(lists, lists, common, common).added, 0.0, atol=1e-15)


@pytest.mark.parametrize("queries", [None, 100])
def test_equal_rows_that_count_once_leave_the_error_as_it_is(queries: int | None) -> None:
    """Rows that no search saw would pass for rows that move less than the others."""
    x, y = with_noise(2, np.random.default_rng(1))
    documents = np.arange(250) // 2
    chosen = None if queries is None else np.arange(250)[::2][:queries]

    def found(times: int, groups: bool, duplicates: str) -> float:
        asked = None if chosen is None else times * chosen
        near = [
            knn(np.repeat(rows, times, axis=0), 20, queries=asked, duplicates=duplicates)
            for rows in (x, y)
        ]
        labels = np.repeat(documents, times) if groups else None
        return neighborhood_overlap(near[0], near[1], 20, groups=labels).stderr

    for groups in (False, True):
        once = found(1, groups, "keep")
        for times in (1, 2, 10):
            assert found(times, groups, "collapse") == pytest.approx(once, rel=1e-9)


def test_error_never_below_that_of_independent_rows() -> None:
    local = np.arange(20.0)
    near = knn(gaussian(20, 3), 2)
    against = Part(np.arange(20), near.indices[:, 0], np.zeros(20), -local)
    plain = local.std(ddof=1) / math.sqrt(20)
    assert shared_stderr(local, near, against, None) == pytest.approx(plain, rel=1e-12)
    assert math.isnan(shared_stderr(local, near, against, np.zeros(20, dtype=np.int64)))


@pytest.mark.parametrize("statistic", [neighborhood_overlap, information_imbalance])
def test_few_queries_hold_the_value_of_all(statistic: Callable[..., Any]) -> None:
    """Regions that differ are no dependence: there the error is that of the queries alone."""
    rng = np.random.default_rng(3)
    x = gaussian(1500, 4) + 9.0 * np.repeat(np.arange(3), 500)[:, None]
    noise = np.repeat([0.05, 0.3, 2.0], 500)[:, None]
    y = x + noise * rng.standard_normal(x.shape)
    everything = statistic(x, y)
    chosen = [rng.permutation(1500)[:60] for _ in range(80)]
    found = [statistic(x, y, queries=np.sort(rows)) for rows in chosen]
    held = np.mean([e.lower <= everything.value <= e.upper for e in found])
    assert held >= 0.95 - 3 * math.sqrt(0.95 * 0.05 / len(found))
    spread = np.std([e.value for e in found], ddof=1)
    assert np.mean([e.stderr for e in found]) == pytest.approx(spread, rel=0.25)


def test_regions_that_differ_are_not_dependence() -> None:
    """Overlaps of 0.2 to 0.9 by region, which sums over neighbouring rows take for dependence."""
    found = []
    noise = np.repeat([0.05, 0.3, 2.0], 100)[:, None]
    for seed in range(60):
        rng = np.random.default_rng(seed)
        region = rng.integers(0, 3, 300)
        x = rng.standard_normal((300, 4)) + 20.0 * region[:, None]
        y = x + noise[100 * region] * rng.standard_normal(x.shape)
        found.append(neighborhood_overlap(x, y, 10))
    spread = np.std([e.value for e in found], ddof=1)
    assert np.mean([e.stderr for e in found]) == pytest.approx(spread, rel=0.3)


def test_all_neighbours_leave_no_error() -> None:
    x, y = gaussian(12, 3), gaussian(12, 3, 1)
    for found in (neighborhood_overlap(x, y, 11), information_imbalance(x, y, 11)):
        assert found.stderr == pytest.approx(0.0, abs=1e-12)
        assert found.lower == pytest.approx(found.upper)
    near = knn(x, 5)
    assert neighborhood_overlap(near, dataclasses.replace(near), 5).stderr == 0.0
    apart = neighborhood_overlap(np.arange(20.0).reshape(10, 2), gaussian(10, 3), 1)
    assert math.isfinite(apart.stderr)
