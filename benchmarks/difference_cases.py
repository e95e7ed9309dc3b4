"""Where estimators differ from other codes: a simulation of each difference, the answer known.

Each case takes a number of sets and gives lines: a setting, what is known, the values of the other
code and ours, one a set. scikit-dimension and llm-microscope run themselves; DADApy's definitions
are ours with `compat=`, which `make parity` holds equal to the package, and torchid's are written
here and held equal there.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
from difference_lines import Line, manifolds, refused, rngs, skdim
from interval_coverage import ideal_neighbors
from numpy.typing import NDArray
from peers import microscope
from shapes import ball, gaussian, torus
from torchid_formulas import (
    correlation,
    distances_by_products,
    torchid_broken_stick,
    torchid_corrint,
    torchid_fishers,
    torchid_mind,
)

import fastdim
from fastdim import naive
from fastdim.errors import require
from fastdim.estimators import geomle, gride, twonn_fits

Array = NDArray[np.float64]
FLAT = 5
# Copies move these by less than what 20 sets tell: zero distances are dropped, or halve out.
HARDLY_MOVED = {("MADA", 5), ("GRIDE", 5), ("GRIDE", 250)}
BENT = ("M13a_Scurve", "M13b_Spiral")


def duplicates(sets: int) -> Iterator[Line]:
    """Rows of which some are copies of others: known is the mean without copies."""
    calls: dict[str, Callable[[Array], Any]] = {
        "MLE": fastdim.levina_bickel,
        "MOM": fastdim.mom,
        "MADA": fastdim.mada,
        "TLE": fastdim.tle,
        "GRIDE": fastdim.gride,
    }
    for name, ours in calls.items():
        rows = [torus(500, FLAT, r) for r in rngs(1, sets)]
        plain = float(np.mean([float(ours(x)) for x in rows]))
        for copies in (5, 250):
            copied = [np.concatenate([x, x[:copies]]) for x in rows]
            yield Line(
                f"{name}, 500 rows, {copies} of them twice",
                plain,
                [skdim(name, x) for x in copied],
                [float(ours(x)) for x in copied],
                "neither" if (name, copies) in HARDLY_MOVED else "ours",
            )


def too_large_k(sets: int) -> Iterator[Line]:
    """60 rows have 59 neighbours each: there is no value at k = 100."""
    x = [torus(60, FLAT, r) for r in rngs(2, sets)]
    at_59 = float(np.mean([fastdim.levina_bickel(rows, 59).value for rows in x]))
    yield Line(
        f"MLE of 60 rows, k = 100 (k = 59 gives {at_59:.4g})",
        math.nan,
        [skdim("MLE", rows, fit={"n_neighbors": 100}) for rows in x],
        [refused(partial(fastdim.levina_bickel, rows, 100)) for rows in x],
    )


def large_ratios(sets: int) -> Iterator[Line]:
    """Ratios of the model, no outlier among them, and of a mixture of two dimensions."""

    def both(near: fastdim.Neighbors) -> tuple[float, float]:
        options = (1, 2, "fisher", 0.95, 0)
        return (
            gride.estimate(near, *options, "dadapy").value,
            gride.estimate(near, *options).value,
        )

    # N - 1 in place of N takes off the likelihood's bias of 1/N, where none or few are dropped.
    cases = ((1, 1000, "ours"), (2, 1000, "ours"), (5, 1000, "theirs"), (5, 20, "theirs"))
    for d, rows, right in cases:
        found = [both(ideal_neighbors(rows, d, r)) for r in rngs(3, 10 * sets)]
        setting = f"{rows:,} ideal ratios, d = {d}, n1 = 1"
        yield Line(setting, float(d), [v[0] for v in found], [v[1] for v in found], right)
    mixed = [_mixture(1000, r) for r in rngs(4, 10 * sets)]
    known = both(_mixture(200_000, np.random.default_rng(5)))[1]
    found = [both(near) for near in mixed]
    yield Line(
        "1,000 ratios, half d = 1 and half d = 20, n1 = 1 (known: the root of 200,000)",
        known,
        [v[0] for v in found],
        [v[1] for v in found],
    )
    yield from tied_ratios(sets)


def tied_ratios(sets: int) -> Iterator[Line]:
    """Distances rounded to 0.1, so that a tenth or a fifth of the ratios are 1: DADApy counts those
    as if they told of d what two neighbours in a row do, scikit-dimension drops them."""
    for code, n1 in (("dadapy", 2), ("dadapy", 4), ("skdim", 1), ("skdim", 2)):
        values = []
        for r in rngs(31, 10 * sets):
            near = ideal_neighbors(1000, 5.0, r)
            near.distances[:] = np.maximum(0.1, np.round(near.distances, 1))
            options = (n1, 2 * n1, "fisher", 0.95, 0)
            values.append(
                (
                    gride.estimate(near, *options, code).value,
                    gride.estimate(near, *options).value,
                )
            )
        name = {"dadapy": "DADApy", "skdim": "skdim"}[code]
        yield Line(
            f"1,000 ideal ratios, d = 5, n1 = {n1}, distances rounded to 0.1 ({name})",
            5.0,
            [v[0] for v in values],
            [v[1] for v in values],
        )


def _mixture(rows: int, rng: np.random.Generator) -> fastdim.Neighbors:
    near = ideal_neighbors(rows, 1.0, rng)
    near.distances[::2] **= 1 / 20
    return near


def mind(sets: int) -> Iterator[Line]:
    """How far below its maximum the likelihood is left, and the bound of 10."""
    lost: dict[str, list[list[float]]] = {name: [[], []] for name in BENT}
    for seed in range(sets):
        shapes = manifolds(seed, 300)
        for name in BENT:
            x = shapes[name]
            r = naive.knn(x, 21)[0]
            log_mu = np.log(r[:, 20] / r[:, 0])
            best = likelihood(log_mu, float(gride.solve(log_mu, 1, 21)[()]))
            for place, value in enumerate((skdim("MiND_ML", x, D=200), fastdim.mind_ml(x).value)):
                lost[name][place].append(best - likelihood(log_mu, value))
    for name, below in lost.items():
        yield Line(f"{name}, 300 rows: log-likelihood below its maximum", 0.0, below[0], below[1])
    sets_of_15 = [torus(1000, 15, r) for r in rngs(7, sets)]
    yield Line(
        "1,000 rows, d = 15, defaults: the value",
        15.0,
        [skdim("MiND_ML", rows) for rows in sets_of_15],
        [fastdim.mind_ml(rows).value for rows in sets_of_15],
    )


def likelihood(log_mu: Array, d: float) -> float:
    """log of d (mu^d - 1)^(n2 - 2) mu^-((n2 - 1) d + 1), n2 = 21, up to what d does not change."""
    powers = d * log_mu
    return float((math.log(d) + 19 * np.log1p(-np.exp(-powers)) - powers).sum())


def odd_k(sets: int) -> Iterator[Line]:
    """A torus of 2 dimensions. A mean of quotients is high, and log 2 too low: the two cancel."""
    for k in (5, 7, 11, 21):
        x = [torus(1000, 2, r) for r in rngs(8, sets)]
        for average in ("median", "mean"):
            yield Line(
                f"1,000 rows, d = 2, k = {k}, {average}",
                2.0,
                [skdim("MADA", rows, fit={"n_neighbors": k, "comb": average}) for rows in x],
                [fastdim.mada(rows, k, average=average).value for rows in x],
                "ours" if average == "median" else "theirs",
            )


def unit_of_tle(sets: int) -> Iterator[Line]:
    """The same rows in other units; known is the value in the first."""
    x = [torus(500, FLAT, r) for r in rngs(9, sets)]
    known = float(np.mean([fastdim.tle(rows).value for rows in x]))
    for unit in (1.0, 1e-3, 1e-4, 1e-5):
        yield Line(
            f"500 rows, d = {FLAT}, in units of {1 / unit:g}",
            known,
            [skdim("TLE", unit * rows) for rows in x],
            [fastdim.tle(unit * rows).value for rows in x],
            "neither" if unit > 1e-4 else "ours",
        )


def pairs_by_products(sets: int) -> Iterator[Line]:
    """Rows moved by a constant, which changes no distance: known is their value unmoved."""
    x = [torus(301, 2, r) for r in rngs(10, sets)]
    known = [correlation(rows) for rows in x]
    for offset in (0.0, 1e3, 1e6):
        yield Line(
            f"301 rows, d = 2, moved by {offset:g}: share of the value that is lost",
            0.0,
            [abs(skdim("CorrInt", r + offset) / v - 1) for r, v in zip(x, known, strict=True)],
            [abs(fastdim.corrint(r + offset).value / v - 1) for r, v in zip(x, known, strict=True)],
        )


def harmonic_unbiased(sets: int) -> Iterator[Line]:
    """Distances of the model itself."""
    for d, k in ((2, 5), (2, 20), (10, 5), (10, 20)):
        near = [ideal_neighbors(1000, d, r) for r in rngs(11, 10 * sets)]
        yield Line(
            f"1,000 ideal rows, d = {d}, k = {k}",
            float(d),
            [fastdim.levina_bickel(n, k, unbiased=True).value for n in near],
            [fastdim.levina_bickel(n, k).value for n in near],
        )


def separable(sets: int) -> Iterator[Line]:
    """Too few rows for the dimension: no value there is, and the caller is told or not."""
    x = [gaussian(100, 40, r) for r in rngs(12, sets)]
    yield Line(
        "100 Gaussian rows, d = 40",
        math.nan,
        [skdim("FisherS", rows) for rows in x],
        [refused(partial(fastdim.fishers, rows)) for rows in x],
    )


def dependent_columns(sets: int) -> Iterator[Line]:
    """3 directions in 10 columns, nothing else."""
    for rule in ("KN", "maxgap", "Minka"):
        x = [gaussian(300, 3, r) @ r.standard_normal((3, 10)) for r in rngs(13, sets)]
        yield Line(
            f"{rule}, 3 directions in 10 columns",
            3.0,
            [skdim("lPCA", rows, ver=rule) for rows in x],
            [fastdim.lpca(rows, rule, jackknife=0).value for rows in x],
            "neither" if rule == "Minka" else "ours",
        )


def one_axis(sets: int) -> Iterator[Line]:
    """One axis with nearly all of the variance, 20 others with the rest.

    Rounding decides how often the other code sees all 21: now in 7, now in 3 of 20 sets.
    """
    scale = np.array([20.0, *[1.0] * 20])
    x = [gaussian(300, 21, r) * scale for r in rngs(14, 10 * sets)]
    yield Line(
        "one axis of 21 with 95 % of the variance",
        1.0,
        [skdim("lPCA", rows, ver="Fan") for rows in x],
        [fastdim.lpca(rows, "Fan", jackknife=0).value for rows in x],
    )


def broken_stick(sets: int) -> Iterator[Line]:
    """A cube of few dimensions in 20 columns with a little noise."""
    for d in (1, 3):
        x = []
        for r in rngs(15, sets):
            basis = np.linalg.qr(r.standard_normal((20, d)))[0]
            x.append(r.random((500, d)) @ basis.T + 0.01 * r.standard_normal((500, 20)))
        yield Line(
            f"a cube of {d} in 20 columns",
            float(d),
            [torchid_broken_stick(rows) for rows in x],
            [fastdim.lpca(rows, "broken_stick", jackknife=0).value for rows in x],
        )


def graph_lengths(sets: int) -> Iterator[Line]:
    """Graphs of 3 to 6 points, drawn with replacement, against a quarter of the rows to all."""
    for d in (2, FLAT):
        x = [torus(500, d, r) for r in rngs(16, sets)]
        yield Line(
            f"500 rows, d = {d} in {2 * d} columns",
            float(d),
            [skdim("KNN", rows, random_state=s) for s, rows in enumerate(x)],
            [fastdim.knn_graph(rows, draws=2).value for rows in x],
            "ours" if d == 2 else "neither",  # theirs varies from 1 to 10
        )


def directions(sets: int) -> Iterator[Line]:
    """Mean direction of known angles (von Mises), and the dimension of balls."""
    for middle, right in ((1.2, "neither"), (math.pi / 2, "ours"), (2.0, "ours")):
        found: list[list[float]] = [[], []]
        for r in rngs(17, sets):
            angles = r.vonmises(middle, 5.0, (1000, 45))
            s, c = np.sin(angles).sum(axis=1), np.cos(angles).sum(axis=1)
            found[0].append(float(np.arctan(s / c).mean()))
            found[1].append(float(np.arctan2(s, c).mean()))
        yield Line(
            f"mean direction of angles around {middle:.3f}", middle, found[0], found[1], right
        )
    for d in (FLAT, 10):
        # In more columns than that, by which values are cut.
        x = [np.pad(ball(200, d, r), ((0, 0), (0, 5))) for r in rngs(18, min(sets, 10))]
        yield Line(
            f"200 rows of a ball, d = {d} in {d + 5} columns",
            float(d),
            [skdim("DANCo", rows, random_state=s) for s, rows in enumerate(x)],
            [fastdim.danco(rows).value for rows in x],
            "theirs" if d == FLAT else "neither",
        )


def trees(sets: int) -> Iterator[Line]:
    """1,000 trees against 50, and 2,000 rows at most against all."""
    x = [torus(300, 2, r) for r in rngs(19, min(sets, 10))]
    yield Line(
        "300 rows, d = 2, 1,000 trees and 50",
        2.0,
        [skdim("PH", rows, random_state=s) for s, rows in enumerate(x)],
        [fastdim.ph_dimension(rows).value for rows in x],
        "neither",
    )
    x = [torus(3000, 2, r) for r in rngs(20, min(sets, 4))]
    yield Line(
        "3,000 rows, d = 2, all rows (ours, told so) and 2,000 at most",
        2.0,
        [fastdim.ph_dimension(r, sizes=[1500, 2100, 3000], draws=2).value for r in x],
        [fastdim.ph_dimension(r, draws=10).value for r in x],
        "neither",
    )


def published_geomle(x: Array, k1: int = 10, k2: int = 40) -> float:
    """GeoMLE with its penalty on the radii as they are; everything else as `fastdim.geomle`."""
    found = fastdim.knn(x, min(len(x) - 1, math.ceil(geomle.SPARE * k2)), duplicates="collapse")
    rng, logs = np.random.default_rng(0), np.log(found.distances)
    draws = [geomle._sample(found, logs, k1, k2, rng)[1].mean(axis=1) for _ in range(40)]
    dims, radii = np.stack(draws, axis=1)
    weight = 1.0 / dims.std(axis=0, ddof=1)
    return geomle._intercept(radii.mean(axis=0), dims.mean(axis=0), weight, 2, 5e-3)


def unit_of_geomle(sets: int) -> Iterator[Line]:
    """A bent strip of 2 dimensions in other units."""
    x = []
    for r in rngs(21, min(sets, 10)):
        angle = 3 * np.pi * (1 + r.random(1500)) / 2
        roll = np.column_stack([angle * np.cos(angle), 3 * r.random(1500), angle * np.sin(angle)])
        x.append(np.column_stack([roll, np.sin(4 * roll)]))
    for unit in (1e-3, 1.0, 1e3):
        yield Line(
            f"1,500 rows of a bent strip, d = 2, in units of {1 / unit:g}",
            2.0,
            [published_geomle(unit * rows) for rows in x],
            [fastdim.geomle(unit * rows).value for rows in x],
            "ours" if unit < 1.0 else "neither",
        )


def signs(sets: int) -> Iterator[Line]:
    """min Z / max Z over unit c of skewed rows, by 20,000 directions; theirs of random signs."""
    lines: list[list[float]] = [[], []]
    known = []
    for r in rngs(22, sets):
        x = 0.3 * (r.standard_exponential((1000, 3)) - 0.5)
        tried = r.standard_normal((20_000, 3))
        sums = np.exp(x @ (tried / np.linalg.norm(tried, axis=1)[:, None]).T).sum(axis=0)
        known.append(float(sums.min() / sums.max()))
        axes = np.linalg.eigh(x.T @ x)[1] * r.choice([-1.0, 1.0], 3)
        sums = np.exp(x @ axes).sum(axis=0)
        lines[0].append(float(sums.min() / sums.max()))
        lines[1].append(fastdim.partition_isotropy(x).value)
    label = "skewed rows of 3 columns (known: over all directions)"
    yield Line(label, float(np.mean(known)), lines[0], lines[1])


def centered(sets: int) -> Iterator[Line]:
    """y - x is a linear map of x, and noise with a quarter of the variance."""
    torch: Any = require("torch", "models")
    found: list[list[float]] = [[], []]
    for r in rngs(23, sets):
        x = gaussian(2000, 8, r)
        moved = x @ np.linalg.qr(r.standard_normal((8, 8)))[0] * math.sqrt(3.0)
        y = x + moved + r.standard_normal(x.shape)
        theirs = microscope().procrustes_similarity_centered(
            torch.from_numpy(x), torch.from_numpy(y)
        )
        found[0].append(math.nan if theirs is None else float(theirs))
        found[1].append(fastdim.linearity_score(x, y, residual=True).value)
    yield Line("2,000 rows, 3/4 of y - x linear in x", 0.75, found[0], found[1])


def iterated(sets: int) -> Iterator[Line]:
    """After 1, 2, 5 iterations (DADApy's default is 5); known is where nothing changes."""
    x = [gaussian(1000, FLAT, r) for r in rngs(24, sets)]
    ours = [fastdim.abide(rows).value for rows in x]
    known = float(np.mean([fastdim.abide(rows, iterations=60).value for rows in x]))
    for count in (1, 2, 5):
        found = [fastdim.abide(rows, iterations=count).value for rows in x]
        setting = f"1,000 Gaussian rows, d = {FLAT}, after {count}"
        yield Line(setting, known, found, ours, "ours" if count == 2 else "neither")


def other_fits(sets: int) -> Iterator[Line]:
    """TwoNN: what each code fits to 1,000 ratios of the model itself, d = 1."""
    rng = np.random.default_rng(25)
    log_mu = np.sort(rng.standard_exponential((200 * sets, 1000)), axis=1)
    ours = twonn_fits.censored(log_mu, 0.1)
    fits: dict[str, Callable[[Array], Array]] = {
        "line through 90 % (Facco, skdim, DADApy, torchid)": lambda m: twonn_fits.linear(m, 0.1),
        "line through 20 % (llm-microscope)": lambda m: twonn_fits.linear(m, 0.8),
        "MLE of the lowest 99 % (intRinsic)": lambda m: twonn_fits.trimmed_mle(m, 0.01),
        "line through the lowest 99 % (intRinsic)": lambda m: twonn_fits.trimmed_linear(m, 0.01),
    }
    for name, fit in fits.items():
        yield Line(name, 1.0, fit(log_mu), ours)


def products(sets: int) -> Iterator[Line]:
    """TwoNN (MLE) in float64, rows moved by a constant; known is the value unmoved."""
    x = [torus(500, FLAT, r) for r in rngs(26, sets)]
    known = float(np.mean([fastdim.twonn(rows, method="mle").value for rows in x]))
    for offset in (0.0, 1e6, 1e7):
        theirs = []
        for rows in x:
            r = distances_by_products(rows + offset, 2)
            with np.errstate(divide="ignore", invalid="ignore"):
                theirs.append(float((len(r) - 1) / np.log(r[:, 1] / r[:, 0]).sum()))
        ours = [fastdim.twonn(rows + offset, method="mle").value for rows in x]
        right = "ours" if offset == 1e7 else "neither"
        yield Line(f"500 rows, d = {FLAT}, moved by {offset:g}", known, theirs, ours, right)


def mind_of_torchid(sets: int) -> Iterator[Line]:
    """Ratios r_21 / r_1 of the model itself."""
    for d in (2, FLAT, 10):
        near = [ideal_neighbors(1000, d, r) for r in rngs(27, 10 * sets)]
        logs = [np.log(n.distances[:, 20] / n.distances[:, 0]) for n in near]
        yield Line(
            f"MiND_ML, 1,000 ideal rows, d = {d}",
            float(d),
            [torchid_mind(m) for m in logs],
            [fastdim.mind_ml(n).value for n in near],
        )


def corrint_of_torchid(sets: int) -> Iterator[Line]:
    """An even number of rows has two middle distances."""
    x = [torus(300, 2, r) for r in rngs(28, sets)]
    ours = [fastdim.corrint(rows).value for rows in x]
    theirs = [torchid_corrint(rows) for rows in x]
    yield Line("CorrInt, 300 rows, d = 2", 2.0, theirs, ours, "neither")


def fishers_of_torchid(sets: int) -> Iterator[Line]:
    """n - 1 other rows, or n."""
    for n in (50, 250):
        x = [gaussian(n, FLAT, r) for r in rngs(29, 10 * sets)]
        yield Line(
            f"FisherS, {n} Gaussian rows, d = {FLAT}",
            float(FLAT),
            [torchid_fishers(rows) for rows in x],
            [fastdim.fishers(rows).value for rows in x],
        )


Case = Callable[[int], Iterator[Line]]
# Named as in the table of docs/estimators.md, in its order.
CASES: dict[str, Case] = {
    "duplicates, all of skdim but TwoNN": duplicates,
    "k >= n, skdim": too_large_k,
    "TwoNN, every code": other_fits,
    "GRIDE, skdim; Gride, DADApy": large_ratios,
    "MiND_MLk, skdim": mind,
    "MADA at odd k": odd_k,
    "TLE": unit_of_tle,
    "CorrInt": pairs_by_products,
    "distances, torchid": products,
    "MLE `unbiased=True` with the harmonic mean": harmonic_unbiased,
    "FisherS where all is separable": separable,
    "lPCA KN, maxgap, Minka where columns depend on each other": dependent_columns,
    "lPCA Fan where one axis has 95 %": one_axis,
    "lPCA broken_stick, torchid": broken_stick,
    "KNN, skdim and torchid": graph_lengths,
    "DANCo": directions,
    "PH": trees,
    "GeoMLE": unit_of_geomle,
    "Partition function": signs,
    "llm-microscope, procrustes_similarity_centered": centered,
    "ABIDE": iterated,
    "MiND_ML, torchid": mind_of_torchid,
    "CorrInt, torchid": corrint_of_torchid,
    "FisherS, torchid": fishers_of_torchid,
}
