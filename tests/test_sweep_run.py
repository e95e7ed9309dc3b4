"""A sweep of a small model from end to end: table, resume, failed layers, files from elsewhere."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from test_extract_sites import FAMILIES, Letters

import fastdim
from fastdim.cli import main
from fastdim.errors import InputError, ModelError, StoreError
from fastdim.layer import METRICS
from fastdim.sweeps.filters import FILTERS

TIMES = ["seconds"]
TEXTS = [f"{word} and {word[::-1]}, {number} times over" for number in range(40)
         for word in ("fox", "quick brown", "lazy dog")]  # fmt: skip
OPTIONS: dict[str, Any] = {"context": 16, "max_tokens": 400, "batch_size": 2, "threads": 1}


def model(family: str = "llama") -> tuple[Any, Any]:
    torch.manual_seed(0)
    return FAMILIES[family]().eval(), Letters()


def without_times(table: pd.DataFrame) -> pd.DataFrame:
    return table.drop(columns=TIMES)


def test_table_has_a_row_for_each_layer_filter_and_metric(tmp_path: Path) -> None:
    result = fastdim.sweep(model(), TEXTS, output=tmp_path, **OPTIONS)
    assert len(result.table) == 5 * len(FILTERS) * len(METRICS)
    assert set(result.table["status"]) == {"ok"}
    assert result.complete
    for name in ("results.parquet", "results.csv", "report.html", "report.json", "profiles.png"):
        assert (tmp_path / name).stat().st_size > 0
    again = fastdim.Sweep.load(tmp_path)
    pd.testing.assert_frame_equal(again.table, result.table)
    embedding = result.table.query("site == 'embedding' and metric == 'id_twonn'")
    assert (embedding["n_distinct"] < embedding["n_rows"]).all()


def test_a_sweep_that_keeps_no_activations_is_called_again(tmp_path: Path) -> None:
    options = OPTIONS | {"output": tmp_path, "keep_activations": False, "formats": ("csv",)}
    first = fastdim.sweep(model(), TEXTS, **options)
    assert not (tmp_path / "activations").exists()
    again = fastdim.sweep(model(), TEXTS, **options)
    pd.testing.assert_frame_equal(again.table, first.table)


def test_a_sweep_stopped_anywhere_ends_with_the_same_table(tmp_path: Path) -> None:
    whole = fastdim.sweep(model(), TEXTS, output=tmp_path / "whole", **OPTIONS)

    class Stop(fastdim.sweeps.progress.Progress):  # type: ignore[name-defined,misc]
        left = 0

        def advance(self, amount: int = 1) -> None:
            self.left -= 1
            if self.left == 0:
                raise KeyboardInterrupt

    stop = Stop()
    for steps in (3, 20):
        stop.left = steps
        with pytest.raises(KeyboardInterrupt):
            fastdim.sweep(model(), TEXTS, output=tmp_path / "parts", progress=stop, **OPTIONS)
    stop.left = 0
    parts = fastdim.sweep(model(), TEXTS, output=tmp_path / "parts", progress=stop, **OPTIONS)
    pd.testing.assert_frame_equal(
        without_times(parts.table), without_times(whole.table), check_exact=True
    )


PROGRAM = """
import sys, fastdim
sys.path.insert(0, {tests!r})
from test_sweep_run import OPTIONS, TEXTS, model
fastdim.sweep(model(), TEXTS, output={output!r}, **OPTIONS)
"""


def test_killed_by_the_system_it_goes_on(tmp_path: Path) -> None:
    output = tmp_path / "killed"
    program = PROGRAM.format(tests=str(Path(__file__).parent), output=str(output))
    process = subprocess.Popen([sys.executable, "-c", program])
    while not list((output / "pieces").glob("0002-*.json")):
        assert process.poll() is None, "the sweep ended before it could be killed"
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not fastdim.Sweep.load(output).complete
    killed = fastdim.sweep(model(), TEXTS, output=output, **OPTIONS)
    whole = fastdim.sweep(model(), TEXTS, **OPTIONS)
    pd.testing.assert_frame_equal(
        without_times(killed.table), without_times(whole.table), check_exact=True
    )


def test_another_sweep_is_refused_the_folder(tmp_path: Path) -> None:
    fastdim.sweep(model(), TEXTS, output=tmp_path, layers="0", **OPTIONS)
    with pytest.raises(StoreError, match=r"another run.*\n.*--seed: 0 there, 1 now"):
        fastdim.sweep(model(), TEXTS, output=tmp_path, layers="0", seed=1, **OPTIONS)


def test_a_layer_with_nan_fails_alone() -> None:
    module, tokenizer = model()

    def spoil(block: Any, args: Any, output: Any) -> Any:
        output = output.clone()
        output[0, 3] = float("nan")
        return output

    module.norm.register_forward_hook(spoil)
    table = fastdim.sweep((module, tokenizer), TEXTS, layers="2,final_norm", **OPTIONS).table
    failed = table[table["status"] == "failed"]
    assert set(failed["site"]) == {"final_norm"}
    assert failed["reason"].str.contains(r"layer 4 \(final_norm, norm\) holds \d+ NaN").all()
    assert (table[table["site"] == "block"]["status"] == "ok").all()


def test_command_line_profiles_files_and_reports_without_a_model(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    x = np.random.default_rng(0).standard_normal((300, 6)).astype(np.float32)
    np.save(tmp_path / "x.npy", x)
    out = str(tmp_path / "out")
    assert main(["profile", str(tmp_path / "x.npy"), "--output", out, "--exact"]) == 0
    table = pd.read_csv(tmp_path / "out" / "results.csv")
    value = table.query("metric == 'id_twonn' and filter == 'all'")["value"].item()
    assert value == fastdim.twonn(x).value
    assert main(["report", out]) == 0
    assert main(["ls", out]) == 0
    assert "x" in capsys.readouterr().out
    assert main(["profile", str(tmp_path / "none.npy")]) == 2
    assert "there is no file" in capsys.readouterr().err


def test_one_bad_matrix_fails_alone(tmp_path: Path) -> None:
    good = np.random.default_rng(0).standard_normal((300, 6))
    bad = good.copy()
    bad[3, 2] = np.nan
    np.savez(tmp_path / "mix.npz", good=good, bad=bad, equal=np.ones((50, 4)), column=good[:, :1])
    out = tmp_path / "out"
    assert main(["profile", str(tmp_path / "mix.npz"), "--output", str(out)]) == 1
    table = pd.read_csv(out / "results.csv")
    assert (table[table["module"] == "good"]["status"] == "ok").all()
    failed = table[table["status"] == "failed"].groupby("module")["reason"].first()
    assert "bad) holds 1 NaN" in failed["bad"]
    assert "row 3, column 2" in failed["bad"]
    assert "distinct rows" in failed["equal"]
    assert len(table) == 4 * table["filter"].nunique() * len(METRICS)


def test_a_refused_run_leaves_nothing_and_a_corrected_one_may_have_the_folder(
    tmp_path: Path,
) -> None:
    out = tmp_path / "deep" / "out"
    with pytest.raises(ModelError, match="unknown layer '99'"):
        fastdim.sweep(model(), TEXTS, output=out, layers="99", **OPTIONS)
    assert list(tmp_path.iterdir()) == []
    out.mkdir(parents=True)  # made by somebody else, so it stays
    with pytest.raises(ModelError, match="unknown layer '99'"):
        fastdim.sweep(model(), TEXTS, output=out, layers="99", **OPTIONS)
    assert list(out.iterdir()) == []
    large, letters = model()
    large.layers[0].register_forward_hook(lambda block, args, output: output + 1e6)
    with pytest.raises(InputError, match="too large for float16; store as bfloat16"):
        fastdim.sweep((large, letters), TEXTS, output=out, store_dtype="float16", **OPTIONS)
    assert list(out.iterdir()) == []
    assert fastdim.sweep(model(), TEXTS, output=out, layers="0", **OPTIONS).complete


def test_a_refused_run_leaves_what_was_computed(tmp_path: Path) -> None:
    module, letters = model()
    hidden = module.layers[0].register_forward_hook(
        lambda block, args, output: output + (1e6 if output.shape[0] == 1 else 0)
    )
    # The last of 25 documents stands alone in its batch.
    with pytest.raises(InputError, match="too large for float16; store as bfloat16"):
        fastdim.sweep((module, letters), TEXTS, output=tmp_path, store_dtype="float16", **OPTIONS)
    kept = sorted(path.name for path in (tmp_path / "activations").glob("shard-*"))
    assert len(kept) == 12
    hidden.remove()
    whole = fastdim.sweep((module, letters), TEXTS, output=tmp_path, store_dtype="float16",
                          **OPTIONS)  # fmt: skip
    assert whole.complete


def test_options_that_cannot_be_met_are_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(InputError, match="belongs to a hub name"):
        fastdim.sweep(str(tmp_path), TEXTS, revision="main", **OPTIONS)
    for option in ({"revision": "main"}, {"dtype": "float16"}):
        with pytest.raises(InputError, match="in memory"):
            fastdim.sweep(model(), TEXTS, **option, **OPTIONS)


@pytest.mark.parametrize(("family", "limited"), [("bert", True), ("opt", True), ("llama", False)])
def test_documents_beyond_the_table_of_positions_are_refused(family: str, limited: bool) -> None:
    module, tokenizer = model(family)
    module.config.max_position_embeddings = 40
    pair = type(module)(module.config).eval(), tokenizer
    options = {**OPTIONS, "context": 64}
    if limited:
        with pytest.raises(InputError, match=r"64 tokens is longer .* it has 40 positions"):
            fastdim.sweep(pair, TEXTS, **options)
    else:  # computed positions have no end
        assert fastdim.sweep(pair, TEXTS, **options).complete


def test_a_hub_that_does_not_answer_is_one_error_and_no_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: Any, **options: Any) -> None:
        raise OSError("no route")

    monkeypatch.setattr("socket.create_connection", refuse)
    monkeypatch.setattr("urllib.request.getproxies", dict)
    with pytest.raises(ModelError, match=r"no-such/model.*does not answer"):
        fastdim.sweep("no-such/model", TEXTS, output=tmp_path / "out", **OPTIONS)
    assert not (tmp_path / "out").exists()
