"""Encoder-decoders, whose two stacks stand in one table, through a whole sweep."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import transformers
from test_extract_sites import VOCABULARY, Letters
from test_sweep_run import OPTIONS, TEXTS

import fastdim
from fastdim.extract.documents import build_documents
from fastdim.extract.store import Store
from fastdim.extract.texts import load_texts
from fastdim.layer import METRICS
from fastdim.sweeps.filters import FILTERS

BART = {
    "vocab_size": VOCABULARY,
    "d_model": 16,
    "encoder_layers": 2,
    "decoder_layers": 3,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 32,
    "decoder_ffn_dim": 32,
    "max_position_embeddings": 32,
}
T5 = {"vocab_size": VOCABULARY, "d_model": 16, "d_kv": 8, "d_ff": 32, "num_heads": 2}
T5 |= {"num_layers": 2, "num_decoder_layers": 3}
MODELS = {
    "t5": lambda: transformers.T5ForConditionalGeneration(transformers.T5Config(**T5)),
    "bart": lambda: transformers.BartModel(transformers.BartConfig(**BART)),
    "mbart": lambda: transformers.MBartModel(transformers.MBartConfig(**BART)),
}
# Modules of a stack: what block 0 reads, the blocks, the norm after them (BART has none).
MODULES = {
    "t5": ("embed_tokens", "block", "final_layer_norm"),
    "bart": ("layernorm_embedding", "layers", None),
    "mbart": ("layernorm_embedding", "layers", "layer_norm"),
}
BLOCKS = {"encoder": 2, "decoder": 3}


def model(name: str) -> Any:
    torch.manual_seed(0)
    return MODELS[name]().eval()


def expected_sites(name: str) -> list[tuple[str, str, int | None, str]]:
    """(stack, site, block, module) in the order of the layers."""
    before, blocks, after = MODULES[name]
    sites: list[tuple[str, str, int | None, str]] = []
    for stack, count in BLOCKS.items():
        sites.append((stack, "embedding", None, f"{stack}.{before}"))
        sites += [(stack, "block", i, f"{stack}.{blocks}.{i}") for i in range(count)]
        if after is not None:
            sites.append((stack, "final_norm", None, f"{stack}.{after}"))
    return sites


def references(module: Any, name: str) -> dict[tuple[str, str, int | None], np.ndarray]:
    """Rows of each site from `*_hidden_states`, last blocks by a hook, in the sweep's batches."""
    documents = build_documents(
        load_texts(TEXTS), Letters(), context=OPTIONS["context"], max_tokens=OPTIONS["max_tokens"]
    )
    last: dict[str, Any] = {}
    handles = [
        module.get_submodule(f"{stack}.{MODULES[name][1]}.{count - 1}").register_forward_hook(
            lambda block, args, output, stack=stack: last.update(
                {stack: output[0] if isinstance(output, tuple) else output}
            )
        )
        for stack, count in BLOCKS.items()
    ]
    found: dict[tuple[str, str, int | None], list[np.ndarray]] = {}

    def add(key: tuple[str, str, int | None], value: Any) -> None:
        found.setdefault(key, []).append(value.reshape(-1, value.shape[-1]).numpy())

    for batch in documents.batches(OPTIONS["batch_size"]):
        ids = documents.input_ids.reshape(-1, OPTIONS["context"])[batch]
        with torch.inference_mode():
            out = module(
                input_ids=torch.from_numpy(ids),
                decoder_input_ids=torch.from_numpy(ids),
                output_hidden_states=True,
            )
        for stack, count in BLOCKS.items():
            states = out[f"{stack}_hidden_states"]
            assert len(states) == count + 1
            add((stack, "embedding", None), states[0])
            for block in range(count - 1):
                add((stack, "block", block), states[block + 1])
            add((stack, "block", count - 1), last[stack])
            add((stack, "final_norm", None), states[count])
    for handle in handles:
        handle.remove()
    return {key: np.concatenate(parts) for key, parts in found.items()}


@pytest.mark.parametrize("name", MODELS)
def test_both_stacks_are_in_the_table_with_the_rows_of_the_model(name: str, tmp_path: Path) -> None:
    module = model(name)
    result = fastdim.sweep((module, Letters()), TEXTS, output=tmp_path, **OPTIONS)
    table = result.table
    sites = table.drop_duplicates("layer")[["stack", "site", "block", "module"]]
    found = [
        (stack, site, None if pd.isna(block) else int(block), path)
        for stack, site, block, path in sites.itertuples(index=False)
    ]
    assert found == expected_sites(name)
    assert len(table) == len(found) * len(FILTERS) * len(METRICS)
    ok = table["status"] == "ok"
    assert np.isfinite(table[ok]["value"]).all()
    assert set(table[~ok]["status"]) <= {"failed"}
    assert (table[~ok]["reason"] != "").all()
    assert ok[table["metric"].isin(["id_twonn", "anisotropy"])].all()

    store = Store.open(tmp_path / "activations")
    rows = references(module, name)
    for site in store.sites:
        expected = rows[site.stack, site.site, site.block]
        np.testing.assert_array_equal(store.rows(site.layer).data, expected, err_msg=site.label)

    page = (tmp_path / "report.html").read_text("utf-8")
    twin = json.loads((tmp_path / "report.json").read_text("utf-8"))
    for stack, count in BLOCKS.items():
        assert f">{stack} block {count - 1}<" in page
        assert stack in {layer["stack"] for layer in twin["layers"]}
    assert (tmp_path / "profiles.png").stat().st_size > 0
