"""Queries, keys and weights of each attention module as a model runs, by its own eager function.

transformers looks attention functions up by name. One of ours, registered while the block runs,
calls the `eager_attention_forward` of the module's own file and shows what went in and came out.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from typing import Any

from fastdim.errors import ModelError, require

NAME = "fastdim"

# Called with (path of the module, queries (B, H, Q, d), keys (B, G, K, d) with G groups of heads,
# weights (B, H, Q, K), additive mask broadcasting to them or None, factor of the scores).
See = Callable[[str, Any, Any, Any, Any, float], None]


@contextlib.contextmanager
def watched(model: Any, see: See) -> Iterator[None]:
    """Call `see` once for every attention module in every pass; nothing stays behind.

    Rotary positions are in the queries and keys already. Raises ModelError where the model does not
    let its attention function be chosen, so that its weights cannot be had.
    """
    require("transformers", "models")
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import eager_mask

    paths = {id(module): path for path, module in model.named_modules()}

    def run(
        module: Any, query: Any, key: Any, value: Any, attention_mask: Any, *rest: Any, **named: Any
    ) -> tuple[Any, Any]:
        eager = getattr(sys.modules[type(module).__module__], "eager_attention_forward", None)
        if eager is None:
            raise ModelError(
                f"{type(module).__name__} has no eager attention in its file, so its weights "
                "cannot be had: no statistics of its heads"
            )
        out, weights = eager(module, query, key, value, attention_mask, *rest, **named)
        scaling = named.get("scaling")
        factor = float(query.shape[-1] ** -0.5 if scaling is None else scaling)
        see(paths[id(module)], query, key, weights, attention_mask, factor)
        return out, weights

    config = getattr(model, "config", None)
    before = getattr(config, "_attn_implementation", None)
    choose = getattr(model, "set_attn_implementation", None)
    if before is None or choose is None:
        raise ModelError(
            f"{type(model).__name__} is no transformers model whose attention can be chosen, so "
            "the weights of its heads cannot be had"
        )
    AttentionInterface.register(NAME, run)
    AttentionMaskInterface.register(NAME, eager_mask)
    try:
        choose(NAME)
        if model.config._attn_implementation != NAME:
            raise ModelError(
                f"{type(model).__name__} does not let its attention be chosen (it has a function "
                "of its own), so the weights of its heads cannot be had"
            )
        yield
    finally:
        if model.config._attn_implementation == NAME:
            choose(before)
        AttentionInterface._global_mapping.pop(NAME, None)
        AttentionMaskInterface._global_mapping.pop(NAME, None)
