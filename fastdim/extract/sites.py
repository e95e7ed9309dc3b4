"""Where a model's hidden states are read: embedding, blocks, final norm, found by structure."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, replace
from typing import Any

from fastdim.errors import ModelError
from fastdim.extract.facts import model_device
from fastdim.extract.hooks import first_tensor, module_input
from fastdim.extract.store import Site

PROBE_TOKENS = 4


@dataclass(frozen=True)
class Stack:
    """A stack of equal blocks: its name in the model, and what stands before and after."""

    name: str  # "", "encoder", "decoder"
    blocks: str  # path of the ModuleList


def find_sites(model: Any) -> list[Site]:
    """All sites of a model, in the order of `layer`; one short forward pass finds the ends.

    The blocks are the outermost list of equal modules that holds most parameters; the embedding is
    what block 0 reads; the final norm is the norm that reads the last block's output and keeps its
    shape (encoders such as BERT have none). Widths are those seen in the pass.

    Raises ModelError if the model has no such list, does not run on token ids, runs a block more
    than once in a pass (ALBERT), or passes hidden states that are not (documents, tokens, width).
    """
    sites: list[Site] = []
    stacks = find_stacks(model)
    trace = _probe(model, stacks)
    for stack in stacks:
        blocks = model.get_submodule(stack.blocks)
        first, last = f"{stack.blocks}.0", f"{stack.blocks}.{len(blocks) - 1}"
        start, end = trace.inputs.get(first), trace.outputs.get(last)
        if start is None or end is None:
            raise ModelError(
                f"the blocks {stack.blocks} of {type(model).__name__} do not pass hidden states "
                "from one to the next: save the activations yourself and measure them with "
                "`fastdim profile`"
            )
        _check_rows(model, stack, len(blocks), trace, tuple(start.shape))
        width = int(start.shape[-1])
        before = [
            path for path, out in trace.outputs.items() if out is start and _outside(path, stacks)
        ]
        sites.append(
            Site(
                len(sites),
                "embedding",
                None,
                before[-1] if before else f"{first}:input",
                stack.name,
                width,
            )
        )
        for index in range(len(blocks)):
            path = f"{stack.blocks}.{index}"
            wide = int(trace.outputs[path].shape[-1])
            sites.append(Site(len(sites), "block", index, path, stack.name, wide))
        for path, given in trace.inputs.items():
            if given is end and _outside(path, stacks) and _is_norm(model.get_submodule(path)):
                sites.append(Site(len(sites), "final_norm", None, path, stack.name, width))
                break
    return sites


def architecture_of(model: Any) -> str:
    """What a token sees: "decoder" (what is before it), "encoder" (all), or "encoder-decoder".

    Two short passes that differ in their last token tell: where the rows before it stay as they
    are, attention is causal, or there is a recurrence. Raises as `find_sites`.
    """
    stacks = find_stacks(model)
    if len(stacks) > 1:
        return "encoder-decoder"
    last = f"{stacks[0].blocks}.{len(model.get_submodule(stacks[0].blocks)) - 1}"
    one, other = (_probe(model, stacks, final).outputs[last][0, :-1].double() for final in (0, 1))
    # A mixture of experts may share its room out otherwise, hence not bit for bit.
    return "decoder" if (one - other).abs().max() <= 1e-5 * one.abs().max() else "encoder"


def count_blocks(model: Any) -> int:
    """Blocks of all stacks of a model."""
    return sum(len(model.get_submodule(stack.blocks)) for stack in find_stacks(model))


def find_stacks(model: Any) -> list[Stack]:
    """The stacks of blocks: one, or encoder and decoder. Raises ModelError if there is none."""
    from torch import nn

    lists: dict[str, int] = {}
    for path, module in model.named_modules():
        if not isinstance(module, nn.ModuleList) or len(module) == 0:
            continue
        if len({type(block) for block in module}) > 1:
            continue
        if any(path.startswith(f"{outer}.") for outer in lists):
            continue  # inside a block: experts, heads
        size = sum(parameter.numel() for parameter in module.parameters())
        if size:
            lists[path] = size
    if not lists:
        raise ModelError(
            f"{type(model).__name__} has no list of equal blocks, so its layers cannot be "
            "found: save the activations yourself and measure them with `fastdim profile`"
        )
    if getattr(getattr(model, "config", None), "is_encoder_decoder", False):
        found = [
            Stack(name, max(inside, key=lists.__getitem__))
            for name in ("encoder", "decoder")
            if (inside := [path for path in lists if name in path.split(".")])
        ]
        if len(found) == 2:
            return found
    return [Stack("", max(lists, key=lists.__getitem__))]


def select_sites(sites: list[Site], spec: str) -> list[Site]:
    """The sites that `--layers` names: "all", or parts joined by commas: a layer number, a range
    "10-20", "embedding", "blocks", "final_norm". They keep their layer numbers.

    Raises ModelError on a part that names nothing.
    """
    chosen: set[int] = set()
    known = {site.layer for site in sites}
    for part in (text.strip() for text in spec.split(",")):
        ends = re.fullmatch(r"(\d+)(?:-(\d+))?", part)
        if part == "all":
            found = known
        elif ends:
            low = int(ends[1])
            found = set(range(low, int(ends[2] or low) + 1))
        else:
            kind = "block" if part == "blocks" else part
            found = {site.layer for site in sites if site.site == kind}
        if not found or not found <= known:
            kinds = ", ".join(dict.fromkeys(site.site for site in sites))
            raise ModelError(
                f"unknown layer {part!r}: this model has layers 0 to {max(known)} ({kinds}); they "
                "are counted in the order of the forward pass, 0 = the embedding"
            )
        chosen |= found
    return [replace(site) for site in sites if site.layer in chosen]


@dataclass
class _Trace:
    inputs: dict[str, Any]
    outputs: dict[str, Any]
    calls: Counter[str]


def _check_rows(
    model: Any, stack: Stack, n_blocks: int, trace: _Trace, shape: tuple[int, ...]
) -> None:
    """Raise ModelError where one pass does not give each block one row a token."""
    name = type(model).__name__
    for path in (f"{stack.blocks}.{index}" for index in range(n_blocks)):
        if trace.calls[path] > 1:
            raise ModelError(
                f"{name} runs its block {path} {trace.calls[path]} times in one pass, so its "
                "layers are no modules of their own: save the activations of each pass yourself "
                "and measure them with `fastdim profile`"
            )
    if shape[:-1] != (1, PROBE_TOKENS):
        raise ModelError(
            f"the blocks of {name} pass hidden states of shape {shape} for one document of "
            f"{PROBE_TOKENS} tokens, not (documents, tokens, width): save the activations yourself "
            "and measure them with `fastdim profile`"
        )


def _probe(model: Any, stacks: list[Stack], final: int = 0) -> _Trace:
    """First input and output tensor of every module in one short pass, but inside blocks.

    final: the id of the last token; the others are 0.
    """
    import torch

    trace = _Trace({}, {}, Counter())
    handles = []
    inside = tuple(f"{stack.blocks}." for stack in stacks)
    try:
        for path, module in model.named_modules():
            if path.startswith(inside) and "." in path[len(_prefix(path, inside)) :]:
                continue

            def note(module: Any, args: Any, kwargs: Any, output: Any, path: str = path) -> None:
                trace.calls[path] += 1
                trace.inputs[path] = module_input(args, kwargs)
                trace.outputs[path] = first_tensor(output)

            handles.append(module.register_forward_hook(note, with_kwargs=True))
        device = model_device(model)
        ids = torch.zeros((1, PROBE_TOKENS), dtype=torch.long, device=device)
        ids[0, -1] = final
        # No inference mode: what a module keeps of the pass (tables) could not be trained with.
        with torch.no_grad():
            run_model(model, ids, torch.ones_like(ids))
    except (TypeError, ValueError, RuntimeError, KeyError, AttributeError) as error:
        raise ModelError(
            f"{type(model).__name__} does not run on token ids ({error}): save the activations "
            "yourself and measure them with `fastdim profile`"
        ) from error
    finally:
        for handle in handles:
            handle.remove()
    return trace


def run_model(model: Any, input_ids: Any, attention_mask: Any) -> None:
    """One forward pass; the decoder of an encoder-decoder reads the same tokens."""
    config = getattr(model, "config", None)
    options: dict[str, Any] = {}
    if getattr(config, "is_encoder_decoder", False):
        options = {"decoder_input_ids": input_ids, "decoder_attention_mask": attention_mask}
    if hasattr(config, "use_cache"):
        options["use_cache"] = False
    model(input_ids=input_ids, attention_mask=attention_mask, **options)


def _prefix(path: str, prefixes: tuple[str, ...]) -> str:
    return next(prefix for prefix in prefixes if path.startswith(prefix))


def _outside(path: str, stacks: list[Stack]) -> bool:
    return path != "" and not any(path.startswith(f"{stack.blocks}.") for stack in stacks)


def _is_norm(module: Any) -> bool:
    """Whether a module normalizes: named so, or with one-dimensional parameters alone."""
    own = list(module.parameters())
    return "norm" in type(module).__name__.lower() and all(item.ndim == 1 for item in own)
