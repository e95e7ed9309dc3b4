"""Sites by structure and extraction: the values of `output_hidden_states`, bit for bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from fastdim.errors import InputError, ModelError, StoreError
from fastdim.extract import run
from fastdim.extract.documents import Documents, build_documents
from fastdim.extract.model import LoadedModel, load_model
from fastdim.extract.sites import architecture_of, find_sites, select_sites
from fastdim.extract.store import Store
from fastdim.extract.texts import make_corpus

VOCABULARY = 97
SMALL = {"vocab_size": VOCABULARY, "hidden_size": 16, "num_hidden_layers": 3}
FAMILIES = {
    "llama": lambda: transformers.LlamaModel(
        transformers.LlamaConfig(**SMALL, intermediate_size=32, num_attention_heads=2)
    ),
    "gpt2": lambda: transformers.GPT2Model(
        transformers.GPT2Config(vocab_size=VOCABULARY, n_embd=16, n_layer=3, n_head=2)
    ),
    "gpt_neox": lambda: transformers.GPTNeoXModel(
        transformers.GPTNeoXConfig(**SMALL, intermediate_size=32, num_attention_heads=2)
    ),
    "opt": lambda: transformers.OPTModel(
        transformers.OPTConfig(**SMALL, ffn_dim=32, num_attention_heads=2, word_embed_proj_dim=16)
    ),
    "bert": lambda: transformers.BertModel(
        transformers.BertConfig(**SMALL, intermediate_size=32, num_attention_heads=2)
    ),
}


class Letters:
    """A tokenizer of one token a character, without special tokens."""

    all_special_ids: tuple[int, ...] = ()
    pad_token_id = 0
    eos_token_id = None

    def __call__(self, text: Any, **options: Any) -> dict[str, Any]:
        if isinstance(text, str):
            return {"input_ids": [1 + ord(c) % (VOCABULARY - 1) for c in text]}
        return {"input_ids": [self(item)["input_ids"] for item in text]}

    def decode(self, ids: list[int]) -> str:
        return f"<{ids[0]}>"


def sample(max_tokens: int = 100) -> Documents:
    corpus = make_corpus(["the quick brown fox jumps over the lazy dog"] * 8, "fox")
    return build_documents(corpus, Letters(), context=16, max_tokens=max_tokens, seed=3)


def loaded(family: str = "llama") -> LoadedModel:
    torch.manual_seed(0)
    return LoadedModel(FAMILIES[family]().eval(), Letters(), family, None, "float32", "memory")


def extract(model: LoadedModel, documents: Documents, folder: Path, **options: Any) -> Store:
    return run.extract(model, documents, folder, find_sites(model.model), **options)


def hidden_states(model: Any, documents: Documents) -> list[np.ndarray]:
    ids = torch.from_numpy(documents.input_ids.reshape(-1, 16))
    with torch.inference_mode():
        out = model(
            input_ids=ids, attention_mask=torch.ones_like(ids), output_hidden_states=True
        ).hidden_states
    return [state.reshape(-1, state.shape[-1]).numpy()[documents.keep] for state in out]


@pytest.mark.parametrize("family", FAMILIES)
def test_rows_equal_output_hidden_states_bit_for_bit(family: str, tmp_path: Path) -> None:
    model, documents = loaded(family), sample()
    sites = find_sites(model.model)
    norm = family != "bert"
    assert [site.site for site in sites] == ["embedding"] + ["block"] * 3 + ["final_norm"] * norm
    assert [site.block for site in sites[1:4]] == [0, 1, 2]
    store = extract(model, documents, tmp_path, batch_size=100)
    assert not any(module._forward_hooks for module in model.model.modules())
    states = hidden_states(model.model, documents)
    for layer in range(3):
        np.testing.assert_array_equal(store.rows(layer).data, states[layer])
    np.testing.assert_array_equal(store.rows(sites[-1].layer).data, states[-1])
    assert store.n_rows == 100
    np.testing.assert_array_equal(store.tokens().token, documents.input_ids[documents.keep])


def test_encoder_decoder_gives_both_stacks(tmp_path: Path) -> None:
    config = transformers.T5Config(
        vocab_size=VOCABULARY, d_model=16, d_kv=8, d_ff=32, num_layers=2, num_heads=2
    )
    sites = find_sites(transformers.T5Model(config).eval())
    assert [(site.stack, site.site) for site in sites] == [
        (stack, kind)
        for stack in ("encoder", "decoder")
        for kind in ("embedding", "block", "block", "final_norm")
    ]


def test_an_interrupted_extraction_goes_on_and_ends_with_the_same_rows(tmp_path: Path) -> None:
    documents = sample()
    whole = extract(loaded(), documents, tmp_path / "whole", batch_size=2)

    def stop(done: int, total: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        extract(loaded(), documents, tmp_path / "parts", batch_size=2, progress=stop)
    first = (tmp_path / "parts" / "shard-000000.safetensors").stat().st_mtime_ns
    parts = extract(loaded(), documents, tmp_path / "parts", batch_size=2)
    assert (tmp_path / "parts" / "shard-000000.safetensors").stat().st_mtime_ns == first
    assert parts.manifest == whole.manifest
    np.testing.assert_array_equal(parts.rows(2).data, whole.rows(2).data)


def test_a_damaged_shard_is_named_and_made_anew_once_deleted(tmp_path: Path) -> None:
    documents = sample()
    expected = extract(loaded(), documents, tmp_path, batch_size=2).rows(1).data
    shard = tmp_path / "shard-000001.safetensors"
    data = bytearray(shard.read_bytes())
    data[-1] ^= 1
    shard.write_bytes(bytes(data))
    with pytest.raises(StoreError, match=r"shard-000001\.safetensors is corrupted"):
        extract(loaded(), documents, tmp_path, batch_size=2).rows(1)
    shard.unlink()
    again = extract(loaded(), documents, tmp_path, batch_size=2)
    np.testing.assert_array_equal(again.rows(1).data, expected)


def test_another_definition_in_the_folder_is_refused(tmp_path: Path) -> None:
    extract(loaded(), sample(), tmp_path, batch_size=2)
    with pytest.raises(StoreError, match="differ in max_tokens"):
        extract(loaded(), sample(64), tmp_path, batch_size=2)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_rows_are_stored_in_half_precision_on_request(dtype: str, tmp_path: Path) -> None:
    documents, model = sample(), loaded()
    rows = extract(model, documents, tmp_path, store_dtype=dtype).rows(3)
    exact = torch.from_numpy(hidden_states(model.model, documents)[-1])
    last = extract(model, documents, tmp_path / "norm", store_dtype=dtype).rows(4)
    assert rows.dtype == last.dtype == dtype
    expected = exact.to(getattr(torch, dtype)).float().numpy()
    np.testing.assert_array_equal(last.block(0, last.n), expected)


def test_a_value_beyond_float16_is_an_error(tmp_path: Path) -> None:
    model = loaded()
    with torch.no_grad():
        model.model.embed_tokens.weight[:] = 1e6
    with pytest.raises(InputError, match=r"layer 0 \(embedding, embed_tokens\).*bfloat16"):
        extract(model, sample(), tmp_path, store_dtype="float16")


def test_what_a_token_sees_tells_decoders_from_encoders() -> None:
    seen = {name: architecture_of(make().eval()) for name, make in FAMILIES.items()}
    assert seen == {**dict.fromkeys(FAMILIES, "decoder"), "bert": "encoder"}
    config = transformers.T5Config(
        vocab_size=VOCABULARY, d_model=16, d_kv=8, d_ff=32, num_layers=2, num_heads=2
    )
    assert architecture_of(transformers.T5Model(config).eval()) == "encoder-decoder"
    half = FAMILIES["llama"]().eval().to(torch.bfloat16)
    assert architecture_of(half) == "decoder"


def test_layers_are_chosen_by_number_range_or_kind() -> None:
    sites = find_sites(loaded().model)
    assert [site.layer for site in select_sites(sites, "embedding,2-3")] == [0, 2, 3]
    assert [site.layer for site in select_sites(sites, "final_norm")] == [4]
    assert len(select_sites(sites, "all")) == 5
    with pytest.raises(ModelError, match=r"unknown layer '9'.*layers 0 to 4"):
        select_sites(sites, "0,9")


def test_blocks_that_give_no_row_a_token_are_refused() -> None:
    width = {"num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 32}
    shared = transformers.AlbertConfig(vocab_size=VOCABULARY, hidden_size=16, **width)
    with pytest.raises(ModelError, match=r"albert_layer_groups\.0 3 times in one pass"):
        find_sites(transformers.AlbertModel(shared).eval())
    turned = transformers.XLNetConfig(
        vocab_size=VOCABULARY, d_model=16, n_layer=2, n_head=2, d_inner=32
    )
    with pytest.raises(ModelError, match=r"shape \(4, 1, 16\).*not \(documents, tokens, width\)"):
        find_sites(transformers.XLNetModel(turned).eval())


def test_a_model_without_blocks_or_without_files_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no list of equal blocks"):
        find_sites(torch.nn.Linear(2, 2))
    with pytest.raises(ModelError, match="check the path"):
        load_model("./there-is-none")
    with pytest.raises(ModelError, match="package 'no_such' is not installed"):
        load_model("package:no_such")
    with pytest.raises(ModelError, match=r"neither config\.json nor"):
        load_model(str(tmp_path))
