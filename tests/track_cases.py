"""Checkpoints of a tiny training, and what may be wrong with one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers
from tiny_model import LETTERS, TEXT, save_tiny, tiny_tokenizer

TEXTS = [f"{TEXT[n : n + 40]} {n}" for n in range(0, 160, 4)]
OPTIONS: dict[str, Any] = {"context": 16, "max_tokens": 300, "batch_size": 8, "threads": 1}
OPTIONS |= {"filters": ["all"], "queries": None, "pairs": 500, "formats": ("csv",)}


def make_checkpoints(folder: Path) -> Path:
    """Folders checkpoint-1, -10, -100 with other weights each."""
    for seed, step in enumerate((1, 10, 100)):
        save_tiny(folder / f"checkpoint-{step}", seed)
    return folder


def break_weights(folder: Path) -> None:
    model = transformers.AutoModel.from_pretrained(folder)
    with torch.no_grad():
        model.layers[1].mlp.up_proj.weight[0, 0] = float("nan")
    model.save_pretrained(folder)


def change_vocabulary(folder: Path) -> None:
    letters = tiny_tokenizer()
    vocabulary = letters.get_vocab()
    turned = {token: len(LETTERS) - number for token, number in vocabulary.items()}
    from tokenizers import Tokenizer, models, pre_tokenizers

    made = Tokenizer(models.WordLevel(turned, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    transformers.PreTrainedTokenizerFast(tokenizer_object=made, unk_token="[UNK]").save_pretrained(
        folder
    )


def change_architecture(folder: Path) -> None:
    config = transformers.AutoConfig.from_pretrained(folder)
    config.num_hidden_layers = 3
    transformers.LlamaModel(config).save_pretrained(folder)


def change_family(folder: Path) -> None:
    config = transformers.GPT2Config(
        vocab_size=len(LETTERS) + 1, n_embd=16, n_layer=2, n_head=2, bos_token_id=0, eos_token_id=0
    )
    (folder / "config.json").unlink()
    transformers.GPT2Model(config).save_pretrained(folder)


def change_class(folder: Path) -> None:
    config = transformers.MistralConfig(
        vocab_size=len(LETTERS) + 1, hidden_size=16, intermediate_size=32, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=2,
    )  # fmt: skip
    (folder / "config.json").unlink()
    transformers.MistralModel(config).save_pretrained(folder)


def remove_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
