"""Training phases on the published Pythia series and on simulated ones; differences of profiles."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from report_tables import COMMON
from test_profile_shape import frame, sweep_of_pieces

from fastdim.diagnose import compare_profiles, phases
from fastdim.diagnose.training import step_of
from fastdim.errors import InputError
from fastdim.sweeps.schema import to_frame

# Pythia-6.9B, Gride on the last token of 10,000 texts (Cheng, Vaidya & Antonello).
LAYERS = (1, 5, 9, 13, 17, 21, 25, 29, 32)
PYTHIA = {
    512: (11.5, 15.0, 13.8, 9.8, 8.0, 7.8, 7.5, 7.3, 7.0),
    1000: (10.4, 13.7, 15.9, 17.0, 17.4, 16.4, 15.7, 14.8, 13.2),
    2000: (10.4, 20.6, 24.6, 26.0, 28.9, 27.9, 25.9, 23.0, 18.8),
    4000: (9.2, 24.2, 29.8, 32.5, 34.3, 34.7, 34.3, 31.4, 24.1),
    8000: (9.1, 26.4, 34.1, 37.5, 38.6, 39.0, 39.7, 37.3, 27.7),
    16000: (10.0, 29.2, 38.9, 44.9, 43.7, 41.7, 42.2, 40.0, 30.0),
    32000: (10.5, 31.5, 42.9, 51.4, 47.6, 43.4, 44.4, 43.6, 31.8),
    64000: (10.0, 30.7, 45.5, 55.1, 49.8, 42.5, 42.7, 43.0, 29.9),
    143000: (9.5, 31.6, 45.9, 54.9, 49.9, 40.8, 39.0, 38.8, 25.3),
}
# No errors were published: 1 % is 1 / sqrt(N), that of a maximum-likelihood dimension.
ERROR = 0.01


def series(values: dict[int, Any], error: float = ERROR, metric: str = "id_twonn") -> pd.DataFrame:
    """A table of layers (columns) at the steps (keys)."""
    rows = []
    for step, by_layer in values.items():
        for number, value in enumerate(by_layer):
            row = {**COMMON, "layer": number + 1, "site": "block", "block": number}
            row |= {"module": f"layers.{number}", "model": "m", "architecture": "decoder"}
            row |= {"revision": f"step{step}", "filter": "all", "metric": metric, "value": value}
            row |= {"lower": value, "upper": value, "stderr": error * value, "n_rows": 10_000}
            row |= {"n_distinct": 10_000, "n_queries": 10_000, "method": "gride"}
            rows.append({**row, "tokens_per_document": 1})
    return to_frame(rows)


def test_pythia_rises_then_falls_from_layer_20_up_alone() -> None:
    found = phases(series(PYTHIA))
    by_layer = dict(zip(LAYERS, found.layers, strict=True))
    assert [layer for layer in LAYERS if by_layer[layer].rises_then_falls] == [21, 25, 29, 32]
    # Below, layers rise and flatten; the first one moves by a fifth around 10, and falls first.
    assert {by_layer[layer].verdict for layer in (9, 13, 17)} == {"expansion"}
    assert by_layer[1].verdict.startswith("collapse")
    last = by_layer[32]
    assert last.change_points[0].step == 32000
    assert last.change_points[0].lower <= 32000 <= last.change_points[0].upper
    assert last.phases[0].size.value == pytest.approx(31.8 / 7.0 - 1.0)
    assert last.phases[1].size.value == pytest.approx(25.3 / 31.8 - 1.0)
    assert last.phases[1].size.upper < 0.0
    assert last.phases[1].p < 0.01
    assert any("first 1000 steps" in text for text in found.warnings)


def test_layers_5_moves_down_before_it_rises() -> None:
    """15.0 to 13.7 between steps 512 and 1000 is nine times the error: told, not smoothed over."""
    found = phases(series(PYTHIA)).layers[1]
    assert found.verdict == "collapse, expansion"
    assert phases(series(PYTHIA), smallest=0.1).layers[1].verdict == "expansion"


def simulated(truth: np.ndarray, error: float, layers: int, seed: int) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    noise = error * rng.standard_normal((len(truth), layers))
    values = 20.0 * np.exp(truth[:, None] + noise)
    steps = (2 ** np.arange(len(truth))).tolist()
    return series({step: values[n].tolist() for n, step in enumerate(steps)}, error)


def test_constant_series_have_a_phase_in_at_most_five_percent() -> None:
    found = phases(simulated(np.zeros(12), 0.03, 300, 0), smallest=0.0)
    wrong = sum(layer.verdict != "none" for layer in found.layers)
    # 5 % of 300 is 15; more than 24 has a chance of 1 %.
    assert wrong <= 24
    together = phases(simulated(np.zeros(12), 0.03, 300, 0), smallest=0.0, family="all")
    assert sum(layer.verdict != "none" for layer in together.layers) <= 2


@pytest.mark.parametrize(
    ("turns", "verdict"),
    [
        ((0.0, 1.0), "expansion"),
        ((1.0, 0.0), "collapse"),
        ((0.0, 1.0, 0.3), "expansion, compression"),
        ((0.6, 0.0, 1.0), "collapse, expansion"),
        ((0.6, 0.0, 1.0, 0.4), "collapse, expansion, compression"),
    ],
)
def test_known_phases_are_found_with_their_change_points(
    turns: tuple[float, ...], verdict: str
) -> None:
    at = np.linspace(0, 15, len(turns))
    truth = np.interp(np.arange(16), at, turns)
    found = phases(simulated(truth, 0.03, 60, 1), smallest=0.0)
    # Moves of at least 0.3 with errors of 0.03: ten errors of one checkpoint.
    right = [layer for layer in found.layers if layer.verdict == verdict]
    assert len(right) >= 54
    for number, place in enumerate(at[1:-1]):
        inside = [
            layer.change_points[number].lower
            <= 2.0 ** round(place)
            <= layer.change_points[number].upper
            for layer in right
        ]
        assert np.mean(inside) >= 0.9
    assert found.warnings == ()


def test_names_of_checkpoints() -> None:
    names = {
        "step1000": 1000,
        "stage1-step5000-tokens21B": 5000,
        "checkpoint-250": 250,
        "global_step42": 42,
        "128": 128,
        "main": None,
    }
    assert {name: step_of(name) for name in names} == names


def test_bad_series() -> None:
    table = series(PYTHIA)
    one = table[table["revision"] == "step512"]
    with pytest.raises(InputError, match=r"at least 3 checkpoints, and the table has 1 \(step512"):
        phases(one)
    with pytest.raises(InputError, match=r"the table has 1 \(no revision\)"):
        phases(one.assign(revision=""))
    with pytest.raises(InputError, match="block 0 of 'step512' twice"):
        phases(pd.concat([table, one]))
    for wrong in ([512, 1000], {"step512": "first"}, {f"step{step}": -1 for step in PYTHIA}):
        with pytest.raises(InputError, match="steps must be"):
            phases(table, steps=wrong)
    with pytest.raises(InputError, match="sites must be a list of kinds"):
        phases(table, sites="block")
    with pytest.raises(InputError, match="'main' has no step number"):
        phases(table.replace({"revision": {"step512": "main"}}))
    with pytest.raises(InputError, match="both of step 1000"):
        phases(table.replace({"revision": {"step512": "checkpoint-1000"}}))
    with pytest.raises(InputError, match="steps= has none"):
        phases(table, steps={"step512": 512})
    with pytest.raises(InputError, match="family must be"):
        phases(table, family="model")
    given = phases(table, steps={f"step{step}": step for step in PYTHIA})
    assert given.verdicts == phases(table).verdicts


def test_a_failed_checkpoint_is_told_and_the_rest_goes_on() -> None:
    table = series(PYTHIA)
    bad = (table["revision"] == "step2000") & (table["layer"] == 9)
    table.loc[bad, ["value", "status", "reason"]] = [float("nan"), "failed", "NaN weights"]
    found = phases(table)
    assert found.failed == (("block 8 at step2000", "NaN weights"),)
    assert found.layers[-1].rises_then_falls


def test_checkpoints_that_failed_show_no_early_phase() -> None:
    table = series(dict.fromkeys((1, 10, 100, 1000, 10000), PYTHIA[143000]))
    assert phases(table).warnings == ()
    table.loc[table["revision"] == "step10", ["value", "status"]] = [float("nan"), "failed"]
    found = phases(table)
    assert found.steps == (1, 100, 1000, 10_000)
    assert found.warnings[0].startswith("only 3 of 4 checkpoints lie in the first 1000 steps")


def test_the_shortest_training_can_have_enough_early_checkpoints() -> None:
    assert phases(series(dict.fromkeys((1, 2, 3, 4, 12), PYTHIA[512]))).warnings == ()
    found = phases(series(dict.fromkeys((1, 2, 5, 10, 12), PYTHIA[512])))
    assert found.warnings[0].startswith("only 2 of 5 checkpoints lie in the first 4 steps")


def test_difference_of_profiles_at_the_depths_of_the_shorter() -> None:
    depth = np.linspace(0.0, 1.0, 24)
    decoder = frame(8.0 + 6.0 * np.sin(np.pi * depth), 0.01, model="decoder")
    encoder = frame(np.full(6, 8.0), 0.01, model="encoder")
    found = compare_profiles(encoder, decoder, "id_twonn")
    assert len(found.depths) == 6
    assert found.significant.tolist() == [False, True, True, True, True, False]
    assert not found.paired
    middle = 8.0 + 6.0 * np.sin(np.pi * 0.4)
    assert found.difference[2] == pytest.approx(middle - 8.0, rel=0.01)
    assert found.lower[2] < middle - 8.0 < found.upper[2]
    assert "above at depths 0.20, 0.40, 0.60, 0.80" in str(found)


def test_equal_profiles_differ_in_at_most_five_percent() -> None:
    rng = np.random.default_rng(0)
    wrong = 0
    for _ in range(120):
        pair = [
            frame(10.0 * np.exp(0.02 * rng.standard_normal(10)), 0.02, model=name)
            for name in ("a", "b")
        ]
        wrong += bool(compare_profiles(*pair, "id_twonn").significant.any())
    # 5 % of 120 is 6; more than 12 has a chance of 1 %.
    assert wrong <= 12


def test_the_same_documents_are_compared_document_by_document() -> None:
    flat, bell = sweep_of_pieces([1.0, 1.0, 1.0, 1.0]), sweep_of_pieces([1.0, 1.1, 1.1, 1.0])
    for sweep in (flat, bell):
        sweep.runs[0].sample["tokens_sha256"] = "the same"
    paired = compare_profiles(flat, bell, "anisotropy")
    bell.runs[0].sample["tokens_sha256"] = "others"
    apart = compare_profiles(flat, bell, "anisotropy")
    assert paired.paired
    assert not apart.paired
    assert (paired.upper - paired.lower).max() < (apart.upper - apart.lower).max()
    itself = compare_profiles(flat, flat, "anisotropy")
    assert not np.any(itself.difference)
    flat.runs[0].sample["tokens_sha256"] = "the same"
    assert not compare_profiles(flat, flat, "anisotropy").significant.any()


def test_stacks_of_one_model_are_compared() -> None:
    whole = pd.concat(
        frame(np.array(values), 0.01, model="t").assign(stack=name)
        for name, values in (("encoder", [8.0, 8.0, 8.0, 8.0]), ("decoder", [8.0, 12.0, 12.0, 8.0]))
    )
    with pytest.raises(InputError, match="several stacks"):
        compare_profiles(whole, whole, "id_twonn")
    found = compare_profiles(whole, whole, "id_twonn", stacks=("encoder", "decoder"))
    np.testing.assert_allclose(found.difference, [0.0, 4.0, 4.0, 0.0])
    assert found.significant.tolist() == [False, True, True, False]
    for name in ("models", "revisions", "stacks"):
        for wrong in ("t", ("t",), None):
            with pytest.raises(InputError, match=f"{name} must be two names"):
                compare_profiles(whole, whole, "id_twonn", **{name: wrong})


def test_runs_of_other_tokens_have_no_phases() -> None:
    sweeps = [sweep_of_pieces([1.0, 2.0, 3.0, 4.0]) for _ in range(3)]
    for number, sweep in enumerate(sweeps):
        sweep.runs[0].sample |= {"revision": f"step{number}", "tokens_sha256": str(number)}
    import fastdim

    joined = fastdim.Sweep([sweep.runs[0] for sweep in sweeps])
    with pytest.raises(InputError, match="different tokens"):
        phases(joined, "anisotropy")
    for run in joined.runs:
        run.sample["tokens_sha256"] = "one"
    # Another model of the same table may read tokens of its own.
    other = sweep_of_pieces([1.0, 2.0, 3.0, 4.0]).runs[0]
    other.sample |= {"model": "other", "revision": "step0", "tokens_sha256": "two"}
    both = fastdim.Sweep([*joined.runs, other])
    assert phases(both, "anisotropy", model="m").verdicts == phases(joined, "anisotropy").verdicts
    assert phases(joined, "anisotropy").verdicts == {
        "none": ["block 0", "block 1", "block 2", "block 3"]
    }
