"""The training example in small: stopped by SIGKILL, resumed, and the same as never stopped."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
import torch

import fastdim
from examples.training_dynamics.corpus import collect, stream, train_tokenizer
from examples.training_dynamics.figures import draw
from examples.training_dynamics.models import KINDS, Size, build
from examples.training_dynamics.results import summarize
from examples.training_dynamics.run import Measured, run
from examples.training_dynamics.train import IGNORED, Batches, Options, rate_at
from fastdim.errors import InputError, StoreError
from fastdim.integrations import LogSteps
from fastdim.track_result import Track

ROOT = Path(__file__).resolve().parent.parent
SIZE = Size(blocks=4, width=32, heads=2, vocabulary=512, context=32)
OPTIONS = Options(steps=10, batch=4, dtype="float32", save_every=0.0)
MEASURED = Measured(per_decade=3, rows=256)
PACKAGES = ("networkx",)
# The same on the command line.
COMMAND = [
    "-m", "examples.training_dynamics", "--steps", "10", "--batch", "4", "--dtype", "float32",
    "--save-every", "0", "--blocks", "4", "--width", "32", "--heads", "2", "--vocabulary", "512",
    "--context", "32", "--per-decade", "3", "--rows", "256", "--packages", "networkx",
    "--threads", "1", "--kinds", "decoder",
]  # fmt: skip
STEPS = [1, 2, 5, 10]


def start(output: Path) -> subprocess.Popen[bytes]:
    """The command in a process group of its own."""
    with (output.parent / "log").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, *COMMAND, "--output", str(output)],
            cwd=ROOT, stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip


@pytest.mark.usefixtures("one_torch_thread")
def test_a_killed_training_ends_as_one_that_was_not(tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    process = start(killed)
    told = tmp_path / "log"
    deadline = time.monotonic() + 300
    while not (killed / "decoder/geometry/step00000005/pieces").exists():
        assert process.poll() is None, told.read_text()
        assert time.monotonic() < deadline, told.read_text()
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert start(killed).wait() == 0, told.read_text()
    assert re.findall(r"from step (\d+) of 10", told.read_text()) == ["0", "4"]
    run(whole, KINDS, SIZE, OPTIONS, MEASURED, PACKAGES)
    one, other = (
        Track.load(folder / "decoder/geometry").table.drop(columns="seconds")
        for folder in (whole, killed)
    )
    assert sorted(set(one["step"])) == STEPS
    assert set(one["status"]) == {"ok"}
    pd.testing.assert_frame_equal(one, other)
    for name in ("losses.csv", *(f"attention/step{step:08d}.csv" for step in STEPS)):
        files = [(folder / "decoder" / name).read_bytes() for folder in (whole, killed)]
        assert files[0] == files[1], name

    # What is left of it is a model like any other.
    last = fastdim.sweep(
        str(whole / "decoder/model"), whole / "held-out.jsonl", context=32, max_tokens=256,
        batch_size=16, queries=None, pairs=1 << 16, layers="1",
    )  # fmt: skip
    place = {"filter": "all", "metric": "anisotropy", "layer": 1}
    values = [
        frame[(frame[list(place)] == pd.Series(place)).all(axis=1)]["value"].iloc[-1]
        for frame in (one, last.table)
    ]
    assert values[0] == pytest.approx(values[1], rel=1e-6)
    found = summarize(whole, tmp_path / "tables", tmp_path / "figures")
    for kind in KINDS:
        losses = pd.read_csv(tmp_path / f"tables/losses-{kind}.csv")
        assert losses["held_out_loss"].iloc[-1] < losses["held_out_loss"].iloc[0]
        figure = (tmp_path / f"figures/training-{kind}.svg").read_text()
        assert "intrinsic dimension, no outlier rows</text>" in figure
        geometry = pd.read_csv(tmp_path / f"tables/geometry-{kind}.csv")
        assert set(geometry["filter"]) == {"all", "no_outliers"}
        assert geometry.query("metric == 'id_twonn'")["lower"].notna().all()
    phases = found["phases"]
    assert set(phases["model"]) == set(KINDS)
    assert len(phases) == 2 * 3 * 2 * 6
    assert set(found["correlations"]["over"]) == {"steps", "layers"}
    assert set(found["shapes"]["step"]) == set(STEPS)
    differences = found["differences"]
    assert set(differences["step"]) == set(STEPS)
    assert (differences["above"] + differences["below"] <= differences["depths"]).all()


def test_shorter_paths_leave_the_labels_of_a_figure_whole(tmp_path: Path) -> None:
    rows = [
        {"step": step, "layer": layer, "site": site, "filter": kind, "metric": metric,
         "value": 0.0311 + 0.0011 * step, "lower": 0.03, "upper": 0.04}
        for step in (1, 10) for layer, site in enumerate(("embedding", "block 0"))
        for kind in ("all", "no_outliers")
        for metric in ("id_twonn", "anisotropy", "mean_cosine", "norm_ratio")
    ]  # fmt: skip
    heads = [
        {"step": step, "block": 0, "statistic": name, "value": 0.03 + 0.001 * step}
        for step in (1, 10) for name in ("max_weight", "categorical", "first_key")
    ]  # fmt: skip
    losses = [{"step": step, "held_out_loss": 1.0, "training_loss": 2.0} for step in (1, 10)]
    draw(*map(pd.DataFrame, (rows, heads, losses)), tmp_path / "f.svg", "tiny")
    text = (tmp_path / "f.svg").read_text()
    labels = set(re.findall(r">(0\.0\d+)</text>", text))
    assert {label for label in labels if len(label) > 4}, labels  # 0.035, not 0.03
    assert all(len(number) <= 3 for number in re.findall(r"[ML] \d+(\.\d+)", text))


def test_other_options_are_not_mixed_into_a_run(tmp_path: Path) -> None:
    (tmp_path / "options.json").write_text('{"size": {}}')
    with pytest.raises(StoreError, match="holds a run with other size, options, measured"):
        run(tmp_path, KINDS, Size(), Options(), Measured(), PACKAGES)
    with pytest.raises(InputError, match="no_such_package is not installed"):
        collect(("no_such_package",))
    with pytest.raises(InputError, match="holds no measurement"):
        summarize(tmp_path, tmp_path / "t", tmp_path / "f")


def test_text_is_split_by_document() -> None:
    split = collect(PACKAGES)
    assert split.sha256 == collect(PACKAGES).sha256
    assert 2 <= len(split.held_out) < len(split.training) / 5
    parts = {part for text in split.training for part in text.split("\n\n") if len(part) > 200}
    assert len(parts) > 100
    tokenizer = train_tokenizer(split.training, 512)
    text = split.held_out[0]
    ids = stream([text], tokenizer)
    assert tokenizer.decode(ids) == f"{text}\n\n"
    assert ids.min() > 1  # neither padding nor a mask comes out of a text


def test_the_defaults_are_what_the_documents_say() -> None:
    assert len(LogSteps(Measured.per_decade).until(Options.steps)) >= 30
    for kind in KINDS:
        with torch.device("meta"):
            model = build(kind, Size())
        assert Size.blocks >= 6
        assert sum(item.numel() for item in model.parameters()) > 10_000_000
    assert rate_at(1, Options()) < rate_at(60, Options()) == Options.rate
    assert rate_at(Options.steps, Options()) == pytest.approx(Options.rate / 10)


def test_masks_and_batches_are_functions_of_the_step() -> None:
    tokens = torch.arange(2, 2 + 10 * 8).numpy()
    encoder, decoder = (Batches(tokens, 8, kind, 0) for kind in ("encoder", "decoder"))
    inputs, labels = encoder.batch(3, 2)
    hidden = labels != IGNORED
    assert 0 < hidden.sum() < 16
    assert (inputs[hidden] == 1).all()
    assert (inputs[~hidden] > 1).all()
    again = Batches(tokens, 8, "encoder", 0).batch(3, 2)
    assert torch.equal(inputs, again[0])
    assert torch.equal(labels, again[1])
    assert torch.equal(torch.where(hidden, labels, inputs), decoder.batch(3, 2)[0])
    # Every context once an epoch, in another order the next time.
    epochs = [
        torch.cat([decoder.batch(s, 2)[0] for s in range(5 * e + 1, 5 * e + 6)]) for e in (0, 1)
    ]
    assert not torch.equal(*epochs)
    assert all(sorted(epoch.flatten().tolist()) == sorted(tokens.tolist()) for epoch in epochs)
