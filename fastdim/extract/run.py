"""Hidden states to disk as the model runs: hooks on the unmodified model, one shard a batch."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastdim.extract.documents import Documents
from fastdim.extract.facts import model_device
from fastdim.extract.hooks import Tap, check_store_dtype, hooked, tensor_bits
from fastdim.extract.model import LoadedModel
from fastdim.extract.sites import find_stacks, run_model
from fastdim.extract.store import Site, Store, site_records
from fastdim.extract.writer import open_shards


def extract(
    loaded: LoadedModel,
    documents: Documents,
    directory: str | Path,
    sites: list[Site],
    *,
    batch_size: int = 8,
    store_dtype: str | None = None,
    progress: Callable[[int, int], None] | None = None,
    part: tuple[int, int] | None = None,
    passes: int | None = None,
) -> Store:
    """Run the model over the documents and write the kept rows (tokens, width) of each site.

    One safetensors file a batch, written whole or not at all, listed with its sha256 in the
    manifest; memory holds one batch. Started again with the same arguments, only batches whose
    file is missing are run.

    sites: from `find_sites`, chosen by `select_sites`.
    store_dtype: "float16" or "bfloat16" (None: as the model computes).
    progress: called with (batches finished, batches in all).
    part: the batches from one number to another alone, perhaps none, as a process of several takes
        them. passes: how many are made, those beyond the ones left here for nothing: a model
        sharded over processes runs on all of them or on none.

    Raises StoreError if the folder holds other activations, cannot be written, or the disk is
    full; InputError where a value does not fit float16.
    """
    check_store_dtype(store_dtype)
    entries = {stack.name: f"{stack.blocks}.0" for stack in find_stacks(loaded.model)}
    taps = [
        Tap(site, entries[site.stack], reads=True)
        if site.site == "embedding"
        else Tap(site, site.module)
        for site in sites
    ]
    definition = {
        **documents.definition(),
        "model": loaded.name,
        "revision": loaded.revision,
        # A branch may move between two starts of a run: its shards must not mix two models.
        "commit": loaded.commit,
        "dtype": loaded.dtype,
        "store_dtype": store_dtype or loaded.dtype,
        "batch_size": batch_size,
        "sites": site_records(sites),
        "torch": importlib.metadata.version("torch"),
        "transformers": importlib.metadata.version("transformers"),
    }
    batches = list(documents.batches(batch_size))
    some = batches[:1]
    if part is not None:
        definition["part"] = list(part)
        batches = batches[slice(*part)]
    with open_shards(Path(directory), definition) as writer:
        left = sum(number not in writer.shards for number in range(len(batches)))
        for _ in range(0 if passes is None else passes - left):
            _run_batch(loaded, documents, some[0], [], definition["store_dtype"])
        for number, batch in enumerate(batches):
            if number not in writer.shards:
                tensors = _run_batch(loaded, documents, batch, taps, definition["store_dtype"])
                writer.write(number, tensors, [len(tensors["document"][1])])
            if progress is not None:
                progress(number + 1, len(batches))
        return writer.finish(documents.token_text)


def _run_batch(
    loaded: LoadedModel,
    documents: Documents,
    batch: slice,
    taps: list[Tap],
    store_dtype: str,
) -> dict[str, tuple[str, NDArray[Any]]]:
    """The tensors of one shard: rows of every site, and the tokens beside them."""
    import torch

    ids, real, keep = documents.padded(batch)
    device = model_device(loaded.model)
    wanted = torch.from_numpy(keep).to(device)
    taken: dict[int, Any] = {}

    def take(tap: Tap, module: Any, value: Any) -> None:
        # Layers of one model may lie on several devices.
        taken[tap.site.layer] = value[wanted.to(value.device)]

    with torch.inference_mode(), hooked(loaded.model, taps, take):
        given = torch.from_numpy(ids).to(device), torch.from_numpy(real).long().to(device)
        run_model(loaded.model, *given)
    tensors = {
        f"site/{site.layer}": (store_dtype, tensor_bits(taken[site.layer], store_dtype, site))
        for site in (tap.site for tap in taps)
    }
    row, position = np.nonzero(keep)
    flat = documents.offsets[batch][row] + position
    return tensors | {
        "document": ("int64", documents.numbers[batch][row]),
        "position": ("int64", position.astype(np.int64)),
        "token": ("int64", documents.input_ids[flat]),
        "special": ("uint8", documents.special[flat].astype(np.uint8)),
    }
