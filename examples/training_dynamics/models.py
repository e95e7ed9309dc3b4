"""The two models: blocks alike (pre-norm, rotary positions, gated MLP), the mask of attention not.

What differs between them is then what they are trained for and what a token may see.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import transformers

KINDS = ("decoder", "encoder")


@dataclass(frozen=True)
class Size:
    """Blocks, width, heads, tokens of a vocabulary, tokens of a context."""

    blocks: int = 8
    width: int = 320
    heads: int = 8
    vocabulary: int = 4096
    context: int = 128


def build(kind: str, size: Size, seed: int = 0) -> Any:
    """A model with random weights: LlamaForCausalLM, or ModernBertForMaskedLM without windows."""
    torch.manual_seed(seed)
    common = {
        "vocab_size": size.vocabulary,
        "hidden_size": size.width,
        "intermediate_size": size.width * 27 // 10,
        "num_hidden_layers": size.blocks,
        "num_attention_heads": size.heads,
        "max_position_embeddings": 2 * size.context,
        "pad_token_id": 0,
        "bos_token_id": None,
        "eos_token_id": None,
        "tie_word_embeddings": True,
    }
    if kind == "decoder":
        return transformers.LlamaForCausalLM(transformers.LlamaConfig(**common))
    config = transformers.ModernBertConfig(
        **common, cls_token_id=None, sep_token_id=None, global_attn_every_n_layers=1
    )
    return transformers.ModernBertForMaskedLM(config)
