"""Checkpoints that cannot be measured, or not be compared: rows with a reason, the rest goes on."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import transformers
from tiny_model import LETTERS, save_tiny
from track_cases import (
    OPTIONS,
    TEXTS,
    break_weights,
    change_architecture,
    change_class,
    change_family,
    change_vocabulary,
    make_checkpoints,
    remove_weights,
)

from fastdim.cli import main
from fastdim.errors import InputError, ModelError, StoreError
from fastdim.track import track
from fastdim.track_result import Track


@pytest.fixture
def checkpoints(tmp_path: Path) -> Path:
    return make_checkpoints(tmp_path / "training")


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (break_weights, "NaN or infinite weights, the first layers.1.mlp.up_proj.weight"),
        (change_vocabulary, "tokenizer makes other tokens"),
        (change_architecture, "another architecture than checkpoint-1: 5 sites"),
        (
            change_class,
            "another architecture than checkpoint-1: the same sites, but this is a Mistral",
        ),
        (change_family, "4 sites of width 16, drop of layer 0; there 4 sites of width 16, embed_"),
        (remove_weights, "cannot open the model"),
    ],
)
def test_a_bad_checkpoint_has_rows_with_its_reason_and_the_rest_goes_on(
    checkpoints: Path, tmp_path: Path, spoil: Any, reason: str
) -> None:
    spoil(checkpoints / "checkpoint-10")
    found = track(None, TEXTS, tmp_path / "out", checkpoints=[checkpoints / "*"], **OPTIONS)
    [(name, told)] = found.failed
    assert name == "checkpoint-10"
    assert reason in told
    table = found.table
    bad = table[table["revision"] == "checkpoint-10"]
    assert len(bad) == len(table) / 3
    assert set(bad["status"]) == {"failed"}
    assert all(reason in text for text in bad["reason"])
    assert set(table[table["revision"] != "checkpoint-10"]["status"]) == {"ok"}
    again = Track.load(tmp_path / "out")
    assert again.failed == found.failed
    pd.testing.assert_frame_equal(again.table, table)


def test_a_vocabulary_that_grew_by_unused_rows_is_the_same_model(
    checkpoints: Path, tmp_path: Path
) -> None:
    model = transformers.AutoModel.from_pretrained(checkpoints / "checkpoint-10")
    model.resize_token_embeddings(len(LETTERS) + 4)
    model.save_pretrained(checkpoints / "checkpoint-10")
    out = tmp_path / "out"
    assert not track(None, TEXTS, out, checkpoints=[checkpoints / "*"], **OPTIONS).failed
    # One that comes later is compared with what the folder says of the first.
    change_class(save_tiny(checkpoints / "checkpoint-1000", 5))
    [(name, told)] = track(None, TEXTS, out, checkpoints=[checkpoints / "*"], **OPTIONS).failed
    assert (name, "this is a Mistral" in told) == ("checkpoint-1000", True)


def test_what_a_failed_checkpoint_left_is_no_run(checkpoints: Path, tmp_path: Path) -> None:
    remove_weights(checkpoints / "checkpoint-10")
    out = tmp_path / "out"
    found = track(None, TEXTS, out, checkpoints=[checkpoints / "*"], **OPTIONS)
    # As a worker leaves it that is killed while it runs the model, or while it measures.
    (out / "checkpoint-10").mkdir()
    run = (out / "checkpoint-1" / "run.json").read_bytes()
    (out / "checkpoint-10" / "run.json").write_bytes(run)
    pd.testing.assert_frame_equal(Track.load(out).table, found.table)
    sample = json.loads((out / "checkpoint-1" / "sample.json").read_bytes())
    del sample["step"]
    (out / "checkpoint-10" / "sample.json").write_text(json.dumps(sample))
    again = Track.load(out)
    assert again.failed == found.failed
    pd.testing.assert_frame_equal(again.table, found.table)
    # Another one has not failed, and is not finished.
    (out / "checkpoint-1" / "sample.json").write_text(json.dumps(sample))
    with pytest.raises(StoreError, match="a checkpoint that is not finished"):
        Track.load(out)


def test_several_models_of_which_some_cannot_be_measured(
    checkpoints: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = checkpoints.with_name("other")
    for step in (5, 50, 500):
        shutil.copytree(checkpoints / "checkpoint-1", other / f"checkpoint-{step}")
        remove_weights(other / f"checkpoint-{step}")
    given: dict[str, Any] = {"checkpoints": [f"{tmp_path}/{{model}}/checkpoint-*"], **OPTIONS}
    part = track(["training", "other"], TEXTS, tmp_path / "b", **given)
    assert set(part.table["model"]) == {"training"}
    assert [name for name, _ in part.failed] == [f"other checkpoint-{n}" for n in (5, 50, 500)]
    # Its folder and the report say so too.
    assert Track.load(tmp_path / "b").failed == part.failed
    capsys.readouterr()
    assert main(["report", str(tmp_path / "b"), "--formats", "csv", "-q"]) == 1
    told = capsys.readouterr().err
    assert told.count("checkpoint other checkpoint-") == 3
    assert "cannot open the model" in told
    assert main(["ls", str(tmp_path / "b")]) == 0
    with pytest.raises(StoreError, match=r"no checkpoint could be measured; checkpoint-5: cannot"):
        Track.load(tmp_path / "b" / "other")
    for folder in checkpoints.iterdir():
        remove_weights(folder)
    with pytest.raises(ModelError, match="cannot open the model"):
        track(["training", "other"], TEXTS, tmp_path / "c", **given)
    for models, patterns, message in (
        (["training", "other"], [checkpoints / "*"], "write {model} where their names stand"),
        (["training", "training"], given["checkpoints"], "named once"),
        ([], given["checkpoints"], "at least one"),
    ):
        with pytest.raises(InputError, match=message):
            track(models, TEXTS, tmp_path / "d", **given | {"checkpoints": patterns})


def test_a_checkpoint_that_was_measured_at_last_has_not_failed(
    checkpoints: Path, tmp_path: Path
) -> None:
    weights = checkpoints / "checkpoint-10" / "model.safetensors"
    weights.rename(tmp_path / "weights")
    track(None, TEXTS, tmp_path / "out", checkpoints=[checkpoints / "*"], **OPTIONS)
    before = (tmp_path / "out" / "failed.json").read_bytes()
    (tmp_path / "weights").rename(weights)
    found = track(None, TEXTS, tmp_path / "out", checkpoints=[checkpoints / "*"], **OPTIONS)
    # As where it is killed before all are measured.
    (tmp_path / "out" / "failed.json").write_bytes(before)
    again = Track.load(tmp_path / "out")
    assert again.failed == found.failed == []
    pd.testing.assert_frame_equal(again.table, found.table)
