"""Real text that every environment of the tests has: docstrings of installed Python packages.

A document is one source file. Which documents are held out depends on their names alone.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import sysconfig
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from fastdim.errors import InputError

PACKAGES = ("stdlib", "numpy", "scipy", "sklearn", "pandas", "matplotlib", "networkx")
# Packages of other projects, and tests: their docstrings are no documentation.
SKIPPED = {"site-packages", "dist-packages", "test", "tests", "idle_test", "__pycache__"}
HELD_OUT = 0.05  # share of the documents
SHORTEST = 200  # characters of a document
MASK, PAD = "<mask>", "<pad>"
MASK_ID = 1  # special tokens come first, PAD as 0


@dataclass(frozen=True)
class Split:
    """Texts of the documents trained on and of those held out, and a hash of both."""

    training: list[str]
    held_out: list[str]
    sha256: str


def collect(packages: tuple[str, ...] = PACKAGES) -> Split:
    """Docstrings of the packages, a document a file, each docstring once in all documents.

    Equal docstrings stay where they stand first, so none of a held-out document is trained on.
    Raises InputError for a package that is not installed.
    """
    seen: set[str] = set()
    training: list[str] = []
    held_out: list[str] = []
    digest = hashlib.sha256()
    for package in packages:
        root = _root(package)
        for path in sorted(root.rglob("*.py")):
            place = path.relative_to(root)
            if SKIPPED & set(place.parts):
                continue
            new = [text for text in _docstrings(path) if text not in seen]
            seen.update(new)
            document = "\n\n".join(new)
            if len(document) < SHORTEST:
                continue
            digest.update(document.encode("utf-8", "replace"))
            name = hashlib.sha256(f"{package}/{place.as_posix()}".encode()).digest()
            out = int.from_bytes(name[:8], "big") < HELD_OUT * 2**64
            (held_out if out else training).append(document)
    return Split(training, held_out, digest.hexdigest())


def _root(package: str) -> Path:
    if package == "stdlib":
        return Path(sysconfig.get_path("stdlib"))
    found = importlib.util.find_spec(package)
    if found is None or found.origin is None:
        raise InputError(f"the package {package} is not installed: install fastdim[test]")
    return Path(found.origin).parent


def _docstrings(path: Path) -> list[str]:
    """Docstrings in the order of the file; of files that do not parse (templates) none."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # somebody else's escape sequences
        try:
            tree = ast.parse(path.read_bytes())
        except SyntaxError:
            return []
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    nodes = [node for node in ast.walk(tree) if isinstance(node, kinds)]
    nodes.sort(key=lambda node: getattr(node, "lineno", 0))
    texts = [ast.get_docstring(node) for node in nodes]
    # A lone surrogate is no text that a tokenizer takes.
    return [text for text in texts if text and not _broken(text)]


def _broken(text: str) -> bool:
    return any(0xD800 <= ord(letter) <= 0xDFFF for letter in text)


def train_tokenizer(texts: list[str], vocabulary: int) -> PreTrainedTokenizerFast:
    """Byte-pair encoding of bytes, learnt from the training texts; nothing is added to a text."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[PAD, MASK],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    made.train_from_iterator(texts, trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=made, pad_token=PAD, mask_token=MASK)
    assert tokenizer.mask_token_id == MASK_ID
    return tokenizer


def stream(texts: list[str], tokenizer: PreTrainedTokenizerFast) -> NDArray[np.int64]:
    """Tokens of all texts end to end, a blank line between two."""
    joined = [f"{text}\n\n" for text in texts]
    parts = tokenizer(joined, add_special_tokens=False, verbose=False)["input_ids"]
    return np.concatenate([np.array(part, dtype=np.int64) for part in parts])
