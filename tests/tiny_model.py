"""A tiny decoder with random weights and a tokenizer of letters, as files in a folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers

LETTERS = "abcdefghijklmnopqrstuvwxyz ,"
TEXT = "the quick brown fox jumps over the lazy dog, then it sleeps, " * 20


def tiny_tokenizer() -> Any:
    """One token a letter; what is no letter is unknown."""
    vocabulary = {letter: number for number, letter in enumerate([*LETTERS, "[UNK]"])}
    letters = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    letters.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    return transformers.PreTrainedTokenizerFast(tokenizer_object=letters, unk_token="[UNK]")


def save_tiny(folder: Path, seed: int = 0) -> Path:
    """Write config, safetensors and tokenizer of 2 blocks of 16 columns; returns the folder."""
    torch.manual_seed(seed)
    config = transformers.LlamaConfig(
        vocab_size=len(LETTERS) + 1,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
    )
    transformers.LlamaModel(config).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder
