"""Rows of chosen modules of any torch.nn.Module, from any iterator of batches, to shards."""

from __future__ import annotations

import difflib
import importlib.metadata
import itertools
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from pathlib import Path
from typing import Any

import numpy as np

from fastdim.arrays import whole_number
from fastdim.errors import InputError, ModelError, StoreError, require
from fastdim.extract.batches import Forward, Mask, batch_sha256, call_module
from fastdim.extract.documents import special_ids
from fastdim.extract.facts import check_weights, evaluating, model_dtype, module_sha256
from fastdim.extract.hooks import STORE_DTYPES, Tap, check_store_dtype, hooked
from fastdim.extract.layout import check_layout
from fastdim.extract.passes import Pass, Request
from fastdim.extract.store import Site, Store, site_records
from fastdim.extract.thin import Thinning
from fastdim.extract.writer import ShardWriter, open_shards

_PATH = re.compile(r"(?P<path>.*?)(?P<reads>:input)?(?:#(?P<call>\d+))?")


def extract_modules(
    model: Any,
    batches: Iterable[Any],
    modules: Sequence[str],
    output: str | Path,
    *,
    forward: Forward | None = None,
    mask: Mask | None = None,
    layouts: Mapping[str, str] | None = None,
    tokenizer: Any = None,
    max_rows: int | None = None,
    rows_per_sample: int | None = None,
    seed: int = 0,
    store_dtype: str | None = None,
    name: str | None = None,
    progress: Callable[[int, int | None], None] | None = None,
) -> Store:
    """Run a model over batches and write what the named modules return, as rows (n, width).

    `fastdim profile OUTPUT` measures what was written. One shard a batch; memory holds one batch.
    Started again with the same arguments, the batches are read again and only those whose shard is
    missing are run (the first always). The model is in evaluation mode meanwhile.

    model: any torch.nn.Module. batches: an iterable of tensors (model(x)), tuples or lists
        (model(*batch)) or mappings (model(**batch)), moved to the model's device.
    modules: paths as in `model.named_modules()`, each one layer, in this order. "path:input" takes
        what the module reads; "path#2" its third call in a pass, where it runs more than once.
    output: folder of the shards.
    forward: forward(model, batch), called instead, with the batch as the iterator gave it.
    mask: mask(batch) -> (samples,) or (samples, positions...), nonzero for rows that are data and
        no padding, or None for all; without it, a mapping's "attention_mask" counts (for a
        module below "decoder" "decoder_attention_mask", where there are "decoder_input_ids").
    layouts: by path, a letter an axis: b samples, d columns, p positions. Default: (b, d),
        (b, p, d), (b, d, p, p), (b, d, p, p, p); (b, d, p) for torch.nn's one-dimensional
        convolutions, norms and pools and GroupNorm; (p, b, d) for its recurrent and attention
        modules that are not batch_first, and their parts.
    tokenizer: gives the text of ids and the special ones, where batches hold "input_ids".
    max_rows: keep this many rows of each layer, those of lowest hash of (document, position, seed)
        among all: the same set for every batch size. rows_per_sample: at most so many of a sample.
    store_dtype: "float16", "bfloat16", "float32", "float64"; None: as the modules compute.
    name: what the manifest calls the model; None: its class.
    progress: called with (batches finished, batches in all or None).

    Document numbers count samples in the order of the batches; the position is the place among a
    sample's positions in C order; the token is its id, or -1.

    Raises ModelError on a path that is not there, does not run, runs more often than named, or
    gives no floating-point tensor, and where the model fails on a batch; InputError on a bad
    option, layout, mask or batch, or a value beyond the stored type; StoreError if the folder is
    locked, holds other activations, was made from other batches, or cannot be written.
    """
    torch = require("torch", "models")
    if not isinstance(model, torch.nn.Module):
        raise InputError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    check_weights(model)
    check_store_dtype(store_dtype)
    whole_number("seed", seed, 0)
    one = (torch.Tensor, np.ndarray, Mapping, str)
    if isinstance(batches, one) or not isinstance(batches, Iterable):
        raise InputError(
            f"batches must be an iterable of batches, got one {type(batches).__name__}: give "
            "[batch], or x.split(8) to cut a tensor up"
        )
    for option, limit in (("max_rows", max_rows), ("rows_per_sample", rows_per_sample)):
        if limit is not None:
            whole_number(option, limit, 1)
    request = _request(model, modules, layouts, mask, tokenizer, rows_per_sample, seed)

    with evaluating(model):
        stream = iter(batches)
        opening = next(stream, _NONE)
        if opening is _NONE:
            raise InputError("batches gave no batch")
        begun = _run(model, forward, Pass(model, request, opening, 0), 0)
        grids = begun.grids()
        definition = {
            "source": "modules",
            "model": name or type(model).__name__,
            "model_sha256": module_sha256(model),
            "dtype": model_dtype(model),
            "store_dtype": store_dtype or _common_dtype(begun),
            "sites": site_records([tap.site for tap in begun.widened().taps]),
            "grids": list(grids.values()),
            "layouts": dict(request.layouts),
            "tokens": begun.has_tokens,
            "max_rows": max_rows,
            "rows_per_sample": rows_per_sample,
            "rows_of_first_batch": begun.places_sha256(),  # a mask is known by what it keeps
            "seed": seed,
            "torch": importlib.metadata.version("torch"),
        }
        total = _length(batches)
        numbered = enumerate(itertools.chain([opening], stream))
        with open_shards(Path(output), definition) as writer:
            thinning = None if max_rows is None else Thinning(writer, grids, max_rows, seed)
            for count in _write_batches(model, numbered, forward, begun, writer, thinning):
                if progress is not None:
                    progress(count, total)
            if len(writer.shards) > count:
                found = f"there were {len(writer.shards)} batches, not {count}"
                raise _other_batches(writer, found)
            if thinning is not None:
                thinning.finish()
            return _finish(writer, tokenizer)


def _run(model: Any, forward: Forward | None, made: Pass, number: int) -> Pass:
    import torch

    with torch.inference_mode(), hooked(model, made.request.taps, made.take):
        call_module(model, made.batch, forward, number)
    made.check()
    return made


def _write_batches(
    model: Any,
    numbered: Iterable[tuple[int, Any]],
    forward: Forward | None,
    begun: Pass,
    writer: ShardWriter,
    thinning: Thinning | None,
) -> Iterator[int]:
    """Write the shards that are missing; yields the number of batches finished after each."""
    request, grids, document = begun.widened(), begun.grids(), 0
    for number, batch in numbered:
        content = batch_sha256(batch, number)
        if number not in writer.shards:
            made = begun
            if number > 0:
                bounds = {} if thinning is None else thinning.bounds
                made = Pass(model, request, batch, document, grids, bounds)
                _run(model, forward, made, number)
            tensors, rows = made.tensors(writer.definition["store_dtype"])
            writer.write(number, tensors, rows, batch_sha256=content, samples=made.samples)
        elif writer.shards[number]["batch_sha256"] != content:
            raise _other_batches(writer, f"batch {number} has another content")
        begun.rows.clear()  # on disk now
        if thinning is not None:
            thinning.add(number)
        document += writer.shards[number]["samples"]
        yield number + 1


def _length(batches: Iterable[Any]) -> int | None:
    """Number of batches, where they tell: a loader over a stream has a length and refuses it."""
    try:
        return len(batches) if isinstance(batches, Sized) else None
    except TypeError:
        return None


_NONE = object()


def _request(
    model: Any,
    modules: Sequence[str],
    layouts: Mapping[str, str] | None,
    mask: Mask | None,
    tokenizer: Any,
    rows_per_sample: int | None,
    seed: int,
) -> Request:
    texts = isinstance(modules, Sequence) and all(isinstance(path, str) for path in modules)
    if isinstance(modules, str) or not (texts and modules) or len(set(modules)) != len(modules):
        raise InputError(
            "modules must be a list of module paths (texts, as in model.named_modules()), each "
            f"once, got {modules!r}"
        )
    taps: list[Tap] = []
    calls: dict[int, int | None] = {}
    known = dict(model.named_modules(remove_duplicate=False))
    for layer, text in enumerate(modules):
        parts = _PATH.fullmatch(text)
        path = "" if parts is None else parts["path"]
        if parts is None or path not in known:
            near = difflib.get_close_matches(path, known, n=3)
            advice = f"did you mean {', '.join(near)}?" if near else "see model.named_modules()"
            raise ModelError(f"{type(model).__name__} has no module {text!r}: {advice}")
        taps.append(Tap(Site(layer, "module", None, text), path, bool(parts["reads"])))
        calls[layer] = None if parts["call"] is None else int(parts["call"])
    given = {path: check_layout(layout, path) for path, layout in (layouts or {}).items()}
    unused = sorted(set(given) - set(modules))
    if unused:
        raise InputError(f"layouts names {unused[0]!r}, which is not among the modules")
    return Request(taps, calls, given, mask, special_ids(tokenizer), rows_per_sample, seed)


def _common_dtype(begun: Pass) -> str:
    """The type that holds the values of every module as they are."""
    import torch

    types = [rows.dtype for rows in begun.rows.values()]
    widest = types[0]
    for item in types[1:]:
        widest = torch.promote_types(widest, item)
    found = str(widest).removeprefix("torch.")
    if found not in STORE_DTYPES:
        raise InputError(
            f"the modules compute in {found}, which has no stored form: give store_dtype, one of "
            + ", ".join(STORE_DTYPES)
        )
    return found


def _other_batches(writer: ShardWriter, difference: str) -> StoreError:
    return StoreError(
        f"{writer.directory} was made from other batches ({difference}): give the batches it was "
        "started with, in the same order, or another folder"
    )


def _finish(writer: ShardWriter, tokenizer: Any) -> Store:
    store = Store(writer.directory, {"definition": writer.definition, "shards": writer.listed()})
    ids: set[int] = set()
    for site in store.sites:
        if store.count(site.layer) == 0:
            raise InputError(f"the mask leaves no row of {site.label}")
        if store.has_tokens:
            ids.update(np.unique(store.tokens(site.layer).token).tolist())
    return writer.finish(
        {i: f"id {i}" if tokenizer is None else tokenizer.decode([i]) for i in sorted(ids)}
    )
