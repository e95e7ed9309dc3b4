"""Names for readers: from the model's files into the table, the terminal and the page."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import gguf
import pytest
from matplotlib.text import Text
from report_tables import frame, make_rows
from rich.console import Console

from fastdim.extract.naming import model_title
from fastdim.report import plot_profiles, print_table
from fastdim.report.data import read_sample
from fastdim.report.page import render


def write_gguf(path: Path, name: str | None) -> str:
    writer = gguf.GGUFWriter(path, "llama")
    if name is not None:
        writer.add_name(name)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    return str(path)


def write_folder(path: Path, card: str | None) -> str:
    path.mkdir()
    (path / "config.json").write_text('{"_name_or_path": "somebody/the-base"}', encoding="utf-8")
    if card is not None:
        (path / "README.md").write_text(card, encoding="utf-8")
    return str(path)


def test_a_gguf_file_is_called_by_its_name_or_by_the_name_in_it(tmp_path: Path) -> None:
    title = model_title(write_gguf(tmp_path / "SmolLM2-135M-Instruct.Q4_1.gguf", "Mix1 Ep2"))
    assert title == "SmolLM2-135M-Instruct.Q4_1"
    assert model_title(write_gguf(tmp_path / "model.gguf", "Some Model")) == "Some Model"
    assert model_title(write_gguf(tmp_path / "weights.gguf", None)) == ""


@pytest.mark.parametrize(
    ("card", "title"),
    [
        ("---\nlicense: mit\n# a comment\n---\n\n# all-MiniLM-L6-v2\ntext\n", "all-MiniLM-L6-v2"),
        ("# Model Card for `tiny`\n", "tiny"),
        ("no title\n", ""),
        ("# " + "long " * 20, ""),
        (None, ""),
    ],
)
def test_a_folder_is_called_by_its_card_never_by_its_base(
    tmp_path: Path, card: str | None, title: str
) -> None:
    assert model_title(write_folder(tmp_path / "folder", card)) == title


def test_a_hub_name_is_its_own(tmp_path: Path) -> None:
    assert model_title("somebody/some-model") == ""


def named(*names: tuple[str, str]) -> Any:
    runs = []
    for model, name in names:
        runs.append(make_rows(model, blocks=2))
        for row in runs[-1]:
            row["model_name"] = name
    return frame(*runs)


def test_readers_see_the_name_and_the_given_one_stays() -> None:
    table = named(("package:one", "Model-One 135M"), ("./two", ""))
    out = io.StringIO()
    print_table(table, Console(file=out, width=120))
    assert "Model-One 135M" in out.getvalue()
    assert "package:one" not in out.getvalue()
    page = render(table, [], {})
    assert "<h1>Representation profile of Model-One 135M and two</h1>" in page
    assert "package:one" in page


def test_a_decoder_is_told_from_an_encoder_wherever_models_are_named(tmp_path: Path) -> None:
    table = named(("./one", "Model-One"), ("./two", "Model-Two"), ("./sound", ""))
    kinds = {"./one": "decoder", "./two": "encoder", "./sound": ""}
    table["architecture"] = table["model"].map(kinds)
    out = io.StringIO()
    print_table(table, Console(file=out, width=120))
    page = render(table, [], {})
    figure = plot_profiles(table, tmp_path / "profiles.png")
    drawn = " ".join(text.get_text() for text in figure.findobj(Text))
    for text in (out.getvalue(), page, drawn):
        assert "Model-One (decoder)" in text
        assert "Model-Two (encoder)" in text
        assert "sound (" not in text
    assert "In a <b>decoder</b>, a model that writes text, a token knows only those before" in page
    plain = render(named(("./one", "Model-One")), [], {})
    assert "<b>decoder</b>" not in plain


def test_one_name_of_two_models_tells_neither() -> None:
    sample = read_sample(named(("./a", "Base"), ("./b", "Base")))
    assert [run.label for run in sample.runs] == ["a", "b"]
