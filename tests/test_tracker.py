"""`Tracker` in a plain loop: same numbers as a track of checkpoints, training left as it was."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from tiny_model import tiny_tokenizer
from tiny_training import OPTIONS, TEXTS, loop, tiny_gpt

from fastdim.diagnose import phases, profile_shape
from fastdim.errors import InputError, ModelError, StoreError
from fastdim.integrations import LogSteps, Tracker
from fastdim.track import track
from fastdim.track_result import Track

pytestmark = pytest.mark.usefixtures("one_torch_thread")

KEYS = ["step", "layer", "site", "block", "filter", "metric"]
VALUES = ["value", "lower", "upper", "stderr", "n_rows", "n_distinct", "n_queries", "status"]


def tracker(model: Any, output: Path, **options: Any) -> Tracker:
    return Tracker(model, TEXTS, output, tokenizer=tiny_tokenizer(), **(OPTIONS | options))


def test_log_steps_are_dense_at_first_and_need_no_end() -> None:
    steps = LogSteps(3)
    assert steps.until(100) == [1, 2, 5, 10, 22, 46, 100]
    assert steps.until(30) == [1, 2, 5, 10, 22, 30]
    assert [step for step in range(-2, 2200) if step in steps] == [*steps.until(1000), 2154]
    assert [step for step in range(1, 40) if step in LogSteps(12)] == LogSteps(12).until(39)[:-1]
    assert "1" not in steps
    with pytest.raises(InputError, match="per_decade"):
        LogSteps(0)


def test_it_measures_what_a_track_of_the_checkpoints_measures(tmp_path: Path) -> None:
    model = tiny_gpt()
    seen = tracker(model, tmp_path / "t", filters=None, batch_size=8)

    def after(step: int) -> None:
        if seen.step(step) is not None:
            model.base_model.save_pretrained(tmp_path / f"checkpoint-{step}")
            tiny_tokenizer().save_pretrained(tmp_path / f"checkpoint-{step}")

    loop(model, 6, after)
    assert seen.measured == [1, 2, 5]
    found = track(
        None, TEXTS, tmp_path / "other", checkpoints=[tmp_path / "checkpoint-*"],
        formats=("csv",), **(OPTIONS | {"batch_size": 8, "queries": None}),
    )  # fmt: skip
    mine, other = (table.set_index(KEYS)[VALUES] for table in (seen.table, found.table))
    assert len(mine) == 3 * 4 * 4 * 14
    pd.testing.assert_frame_equal(mine, other, check_exact=True)
    samples = [runs[0].sample["tokens_sha256"] for runs in (seen.track.runs, found.runs)]
    assert samples[0] == samples[1]
    documents = [[piece["documents"] for piece in t.runs[1].pieces] for t in (seen.track, found)]
    assert documents[0] == documents[1]
    assert documents[0][0] is not None


def test_the_training_is_what_it_is_without(tmp_path: Path) -> None:
    plain, watched = tiny_gpt(), tiny_gpt()
    seen = tracker(watched, tmp_path / "t", steps=[1, 2, 3])
    modes: list[list[bool]] = []

    def after(step: int) -> None:
        watched.transformer.h[1].eval()  # a part that is frozen on purpose stays so
        seen.step(step)
        modes.append([module.training for module in watched.modules()])

    def freeze(step: int) -> None:
        plain.transformer.h[1].eval()

    assert loop(watched, 5, after) == loop(plain, 5, freeze)
    assert seen.measured == [1, 2, 3]
    expected = [module.training for module in plain.modules()]
    assert {True, False} == set(expected)
    assert modes == [expected] * 5
    for one, other in zip(plain.parameters(), watched.parameters(), strict=True):
        assert torch.equal(one, other)
    for module in watched.modules():
        assert not module._forward_hooks
        assert not module._forward_pre_hooks


def test_what_it_returns_and_what_reads_it(tmp_path: Path) -> None:
    model = tiny_gpt()
    seen = tracker(model, tmp_path / "t", steps=[0, 1, 3, 4], logged=("anisotropy",), name="gpt")
    values = seen.step(0)
    assert values is not None
    loop(model, 4, lambda step: seen.step(step) and None)
    places = ["embedding", "block_0", "block_1", "final_norm"]
    names = [f"fastdim/anisotropy/{kind}/{p}" for p in places for kind in ("all", "no_outliers")]
    assert set(values) == {*names, "fastdim/failed", "fastdim/seconds", "fastdim/overhead"}
    assert values["fastdim/failed"] == 0
    assert values["fastdim/seconds"] > 0
    table = seen.table
    row = table.query("step == 0 and filter == 'all' and metric == 'anisotropy' and block == 0")
    assert row["value"].item() == values["fastdim/anisotropy/all/block_0"]
    assert set(table["model"]) == {"gpt"}
    assert phases(Track.load(tmp_path / "t"), "anisotropy").steps == (0, 1, 3, 4)
    last = Track(seen.track.runs[-1:])
    assert profile_shape(last, "anisotropy", sites=("embedding", "block", "final_norm"))
    told = seen.close()
    assert "4 steps measured" in told
    assert f"{seen.spent:.1f} s" in told
    written = pd.read_csv(tmp_path / "t" / "results.csv")
    assert sorted(written["step"].unique()) == [0, 1, 3, 4]
    # No weights, no activations.
    assert not [path for path in (tmp_path / "t").rglob("*") if path.suffix == ".safetensors"]


def test_a_training_goes_on_in_its_folder(tmp_path: Path) -> None:
    whole = tracker(tiny_gpt(), tmp_path / "whole", steps=[1, 2, 3, 5])
    loop(whole._model, 5, lambda step: whole.step(step) and None)
    model = tiny_gpt()
    first = tracker(model, tmp_path / "t", steps=[1, 2, 3, 5])
    saved: dict[str, Any] = {}

    def stop(step: int) -> None:
        first.step(step)
        if step == 2:
            saved.update({name: value.clone() for name, value in model.state_dict().items()})

    loop(model, 3, stop)
    with pytest.raises(StoreError, match=r"steps 1 to 3\).*resumed="):
        tracker(model, tmp_path / "t", steps=[1, 2, 3, 5])
    model.load_state_dict(saved)
    again = tracker(model, tmp_path / "t", steps=[1, 2, 3, 5], resumed=2)
    assert again.measured == [1, 2]  # 3 lies after what the training went back to
    assert not (tmp_path / "t" / "step00000003").exists()
    assert again.step(2) is None
    again.step(3)
    again.step(5)
    assert again.measured == [1, 2, 3, 5]
    # A measurement that was killed is made anew.
    (tmp_path / "t" / "step00000003" / "pieces" / "0001-all.json").unlink()
    assert tracker(model, tmp_path / "t", resumed=9).measured == [1, 2, 5]
    early = whole.table.query("step <= 2")["value"].to_numpy()
    np.testing.assert_array_equal(early, again.table.query("step <= 2")["value"].to_numpy())
    with pytest.raises(StoreError, match="--max-tokens: 200 there, 100 now"):
        tracker(model, tmp_path / "t", resumed=9, max_tokens=100)
    with pytest.raises(StoreError, match="the texts' content changed"):
        Tracker(model, TEXTS[1:], tmp_path / "t", tokenizer=tiny_tokenizer(), resumed=9, **OPTIONS)
    deeper = type(model)(type(model.config)(**(model.config.to_dict() | {"n_layer": 3})))
    with pytest.raises(StoreError, match="measured with other sites"):
        tracker(deeper, tmp_path / "t", resumed=9)


def test_nothing_of_another_training_is_removed(tmp_path: Path) -> None:
    model = tiny_gpt()
    tracker(model, tmp_path / "t", steps=[7]).step(7)
    before = sorted((tmp_path / "t").rglob("*"))
    with pytest.raises(StoreError, match="--max-tokens: 200 there, 100 now"):
        tracker(model, tmp_path / "t", resumed=3, max_tokens=100)
    assert sorted((tmp_path / "t").rglob("*")) == before


def test_steps_of_numpy_are_steps(tmp_path: Path) -> None:
    seen = tracker(tiny_gpt(), tmp_path / "t", steps=3)
    assert seen.due(np.int64(10))  # type: ignore[arg-type]
    assert not seen.due(np.int64(11))  # type: ignore[arg-type]
    assert seen.step(np.int64(10)) is not None  # type: ignore[arg-type]
    assert seen.measured == [10]
    assert seen.track.steps == {"step10": 10}
    for wrong in (10.0, torch.tensor(10), -1):
        with pytest.raises(InputError, match="step must be a whole number"):
            seen.step(wrong)  # type: ignore[arg-type]


def test_weights_that_are_not_numbers_give_rows_with_a_reason(tmp_path: Path) -> None:
    model = tiny_gpt()
    seen = tracker(model, tmp_path / "t")
    seen.measure(1)
    with torch.no_grad():
        model.transformer.h[1].mlp.c_fc.weight[0, 0] = float("nan")
    values = seen.measure(2)
    assert values["fastdim/failed"] > 0
    assert "fastdim/anisotropy/all/block_1" not in values
    assert np.isfinite(values["fastdim/anisotropy/all/block_0"])
    bad = seen.table.query("step == 2 and block == 1")
    assert set(bad["status"]) == {"failed"}
    assert all("NaN" in reason for reason in bad["reason"])


def test_wrappers_are_looked_through(tmp_path: Path) -> None:
    model = tiny_gpt()
    expected = tracker(model, tmp_path / "plain").measure(1)
    torch.distributed.init_process_group(
        "gloo", store=torch.distributed.HashStore(), rank=0, world_size=1
    )
    try:
        parallel = torch.nn.parallel.DistributedDataParallel(model)
        both = torch.compile(parallel, backend="eager")
        for number, wrapped in enumerate((parallel, torch.compile(model, backend="eager"), both)):
            found = tracker(wrapped, tmp_path / f"{number}").measure(1)
            for name, value in expected.items():
                if name not in ("fastdim/seconds", "fastdim/overhead"):
                    assert found[name] == value
        mesh = torch.distributed.device_mesh.init_device_mesh("cpu", (1,))
        spread = torch.distributed.fsdp.fully_shard(tiny_gpt(), mesh=mesh)
        with pytest.raises(ModelError, match=r"spread over processes \(DTensor\).*fastdim track"):
            tracker(spread, tmp_path / "spread")
    finally:
        torch.distributed.destroy_process_group()


def test_bad_requests(tmp_path: Path) -> None:
    model = tiny_gpt()
    with pytest.raises(InputError, match="unknown metric 'height'"):
        tracker(model, tmp_path / "t", logged=("height",))
    for wrong in ([], [1, -2], ["a"]):
        with pytest.raises(InputError, match="steps must be whole numbers"):
            tracker(model, tmp_path / "t", steps=wrong)
    with pytest.raises(InputError, match="longer than the model can read"):
        tracker(model, tmp_path / "t", context=64)
    with pytest.raises(InputError, match="unknown filter 'most'"):
        tracker(model, tmp_path / "t", filters=["most"])
    with pytest.raises(InputError, match="unknown format"):
        tracker(model, tmp_path / "t", formats=("xls",))
    with pytest.raises(ModelError, match="no list of equal blocks"):
        tracker(torch.nn.Linear(3, 3), tmp_path / "t")
    with pytest.raises(InputError, match="nothing was measured yet"):
        _ = tracker(model, tmp_path / "t").table
    with pytest.raises(InputError, match="step"):
        tracker(model, tmp_path / "t").measure(-1)
    assert not (tmp_path / "t").exists()
