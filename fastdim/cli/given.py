"""What several commands want of their options: that they are named, the texts, the rest by name."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from fastdim.errors import InputError
from fastdim.extract.texts import Corpus, load_texts

# Options of a model's run, of the sample a sweep takes, and of its analysis.
MODEL = ("context", "pack", "max_tokens", "batch_size", "device", "dtype", "trust_remote_code")
SAMPLE = (*MODEL, "layers", "tokens_per_document", "store_dtype")
ANALYSIS = (
    "filters", "seed", "queries", "pairs", "exact", "outlier_factor", "confidence", "threads",
)  # fmt: skip
# How neighbours are searched, where a command leaves the choice.
SEARCH = ("backend", "index", "target_recall")


def check_named(options: argparse.Namespace, output: str | None = "--output DIR") -> None:
    """Raise InputError where no texts are named, or no folder; output: how, None if none is needed.

    Comes before anything is loaded.
    """
    if options.texts is None:
        raise InputError("which texts? --texts FILE, FOLDER, - or docstrings")
    if options.output is None and output is not None:
        raise InputError(f"where to? {output}")


def texts_of(options: argparse.Namespace) -> Corpus:
    """The texts that were named. Raises InputError as `load_texts`."""
    return load_texts(options.texts, field=options.text_field)


def chosen(options: argparse.Namespace, names: Sequence[str]) -> dict[str, Any]:
    """Options by name, to be passed on."""
    return {name: getattr(options, name) for name in names}
