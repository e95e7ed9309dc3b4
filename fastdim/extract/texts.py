"""Texts from a file, a folder, JSONL, standard input, Python's docstrings, or a list."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from fastdim.errors import InputError
from fastdim.extract.docstrings import stdlib_docstrings

TEXT_SUFFIXES = (".txt", ".md")


@dataclass(frozen=True)
class Corpus:
    """Texts in a fixed order.

    name: what they are, e.g. a file name; for reading, not for identity.
    sha256: hash over the texts (each with its length in bytes), the identity of the corpus.
    skipped: texts that could not be read (docstrings of files that do not parse).
    """

    texts: tuple[str, ...]
    name: str
    sha256: str
    skipped: int = 0


def make_corpus(texts: Iterable[str], name: str, skipped: int = 0) -> Corpus:
    """A Corpus of the given texts; blank ones are left out. Raises InputError if none remains."""
    kept = tuple(text for text in texts if text.strip())
    if not kept:
        raise InputError(f"the texts from {name} are empty: there is nothing to run the model on")
    digest = hashlib.sha256()
    for text in kept:
        try:
            data = text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise InputError(f"a text from {name} is not valid Unicode: {error}") from error
        digest.update(len(data).to_bytes(8, "little"))
        digest.update(data)
    return Corpus(kept, name, digest.hexdigest(), skipped)


def load_texts(spec: str | Path | Sequence[str], *, field: str = "text") -> Corpus:
    """Read a corpus.

    spec: "docstrings" (every docstring of the Python standard library, once each), "-" (standard
          input, one text), a .jsonl file (one text a line, in the key `field`), any other file (one
          text), a folder (each *.txt and *.md below it is one text, in the order of their paths),
          or a list of strings. A file called "docstrings" is reached as "./docstrings".

    Raises InputError if there is no such file or folder, it is not UTF-8, a JSONL line has no such
    key, or no text remains.
    """
    if not isinstance(spec, (str, Path)):
        texts = list(spec)
        if not all(isinstance(text, str) for text in texts):
            raise InputError("texts given as a list must all be strings")
        return make_corpus(texts, "a list of texts")
    if spec == "docstrings":
        found, unreadable = stdlib_docstrings()
        return make_corpus(found, "docstrings", unreadable)
    if spec == "-":
        return make_corpus([_decode(sys.stdin.buffer.read(), "standard input")], "standard input")
    path = Path(spec).expanduser()
    if path.is_dir():
        files = sorted(p for p in path.rglob("*") if p.suffix in TEXT_SUFFIXES and p.is_file())
        if not files:
            suffixes = " or ".join(f"*{suffix}" for suffix in TEXT_SUFFIXES)
            raise InputError(f"the folder {path} holds no {suffixes} file")
        return make_corpus([_read(file) for file in files], path.name or str(path))
    if not path.exists():
        raise InputError(
            f"no file or folder {str(path)!r}: texts are a file, a folder of "
            f"{' and '.join(TEXT_SUFFIXES)} files, a .jsonl file, '-' for standard input, "
            "or 'docstrings'"
        )
    if path.suffix == ".jsonl":
        return make_corpus(_read_jsonl(path, field), path.name)
    return make_corpus([_read(path)], path.name)


def _decode(data: bytes, name: str) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{name} is not UTF-8 text: {error}") from error


def _read(path: Path) -> str:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    return _decode(data, str(path)).replace("\r\n", "\n")


def _read_jsonl(path: Path, field: str) -> list[str]:
    texts = []
    for number, line in enumerate(_read(path).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            raise InputError(f"{path}, line {number} is not JSON: {error}") from error
        text = record.get(field) if isinstance(record, dict) else None
        if not isinstance(text, str):
            raise InputError(
                f"{path}, line {number} has no string under the key {field!r}; name the key that "
                "holds the text (--text-field, field=)"
            )
        texts.append(text)
    return texts
