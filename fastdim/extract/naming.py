"""The name a model's own files give it, for people to read; never part of what names a run."""

from __future__ import annotations

import re
from pathlib import Path

from fastdim.errors import require
from fastdim.extract.model import gguf_file, local_path

LONGEST = 60

# A GGUF file is named <model>-<size>-<tuning>.<encoding>: "SmolLM2-135M-Instruct.Q4_1.gguf".
_SIZE = re.compile(r"[-_]\d+(\.\d+)?[QTBMK]\b", re.IGNORECASE)
_HEADING = re.compile(r"^#[ \t]+(?:Model Card for[ \t]+)?(.+?)[ \t#]*$", re.MULTILINE)


def model_title(name: str) -> str:
    """A readable name of the model behind `name`, "" where its files tell none.

    GGUF: the file's name where it follows the format's rule and carries the number of parameters,
    else `general.name` in it. A folder: the title of its model card, README.md. `_name_or_path` of
    config.json is not asked: in a tuned model it names the one the tuning began with.
    """
    path = local_path(name)
    if path is None:
        return ""
    file = gguf_file(path)
    if file is not None:
        return file.stem if _SIZE.search(file.stem) else _general_name(file)
    card = path / "README.md"
    if not card.is_file():
        return ""
    text = card.read_text(encoding="utf-8", errors="replace")
    text = re.sub(r"\A---\n.*?\n---\n", "", text, flags=re.DOTALL)
    heading = _HEADING.search(text)
    return _fitting(re.sub(r"[*`]|<[^>]*>", "", heading[1])) if heading else ""


def _general_name(file: Path) -> str:
    field = require("gguf", "models").GGUFReader(file).get_field("general.name")
    return "" if field is None else _fitting(str(field.contents()))


def _fitting(title: str) -> str:
    title = " ".join(title.split())
    return title if len(title) <= LONGEST and title.isprintable() else ""
