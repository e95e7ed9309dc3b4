"""Hidden states to disk as the model runs: hooks on the unmodified model, one shard a batch."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastdim.errors import InputError, StoreError
from fastdim.extract.documents import Documents
from fastdim.extract.model import LoadedModel
from fastdim.extract.shards import storage_errors, write_json, write_shard
from fastdim.extract.sites import block_input, find_stacks, first_tensor, run_model
from fastdim.extract.store import (
    FORMAT,
    FORMAT_VERSION,
    MANIFEST,
    TOKENS,
    Site,
    Store,
    read_manifest,
    site_records,
)

STORE_DTYPES = ("float16", "bfloat16", "float32", "float64")


def extract(
    loaded: LoadedModel,
    documents: Documents,
    directory: str | Path,
    sites: list[Site],
    *,
    batch_size: int = 8,
    store_dtype: str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Store:
    """Run the model over the documents and write the kept rows (tokens, width) of each site.

    One safetensors file a batch, written whole or not at all, listed with its sha256 in the
    manifest; memory holds one batch. Started again with the same arguments, only batches whose
    file is missing are run.

    sites: from `find_sites`, chosen by `select_sites`.
    store_dtype: "float16" or "bfloat16" (None: as the model computes).
    progress: called with (batches finished, batches in all).

    Raises StoreError if the folder holds other activations, cannot be written, or the disk is
    full; InputError where a value does not fit float16.
    """
    if store_dtype is not None and store_dtype not in STORE_DTYPES:
        raise InputError(f"store_dtype must be one of {', '.join(STORE_DTYPES)}, got {store_dtype}")
    directory = Path(directory)
    entries = {stack.name: f"{stack.blocks}.0" for stack in find_stacks(loaded.model)}
    definition = {
        **documents.definition(),
        "model": loaded.name,
        "revision": loaded.revision,
        "dtype": loaded.dtype,
        "store_dtype": store_dtype or loaded.dtype,
        "batch_size": batch_size,
        "sites": site_records(sites),
        "torch": importlib.metadata.version("torch"),
        "transformers": importlib.metadata.version("transformers"),
    }
    with storage_errors(directory):
        directory.mkdir(parents=True, exist_ok=True)
    shards = _finished(directory, definition)
    batches = list(documents.batches(batch_size))
    for number, batch in enumerate(batches):
        name = f"shard-{number:06d}.safetensors"
        if name not in shards:
            rows = _run_batch(loaded, documents, batch, sites, entries, definition["store_dtype"])
            digest = write_shard(directory / name, rows)
            shards[name] = {
                "file": name,
                "rows": len(rows["document"][1]),
                "nbytes": (directory / name).stat().st_size,
                "sha256": digest,
            }
            _write_manifest(directory, definition, shards, complete=False)
        if progress is not None:
            progress(number + 1, len(batches))
    write_json(directory / TOKENS, {str(k): text for k, text in documents.token_text.items()})
    _write_manifest(directory, definition, shards, complete=True)
    return Store.open(directory)


def _finished(directory: Path, definition: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Shards of this definition that are listed and still there, by file name."""
    manifest = read_manifest(directory)
    if manifest is None:
        return {}
    if manifest["definition"] != definition:
        there = manifest["definition"]
        differ = sorted(k for k in {*there, *definition} if there.get(k) != definition.get(k))
        raise StoreError(
            f"{directory} holds other activations (they differ in {', '.join(differ)}): choose "
            "another folder, or the options they were made with"
        )
    return {
        shard["file"]: shard
        for shard in manifest["shards"]
        if (directory / shard["file"]).is_file()
    }


def _write_manifest(
    directory: Path,
    definition: dict[str, Any],
    shards: dict[str, dict[str, Any]],
    *,
    complete: bool,
) -> None:
    content = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "complete": complete,
        "definition": definition,
        "shards": [shards[name] for name in sorted(shards)],
    }
    write_json(directory / MANIFEST, content)


def _run_batch(
    loaded: LoadedModel,
    documents: Documents,
    batch: slice,
    sites: list[Site],
    entries: dict[str, str],
    store_dtype: str,
) -> dict[str, tuple[str, NDArray[Any]]]:
    """The tensors of one shard: rows of every site, and the tokens beside them."""
    import torch

    numbers = range(batch.start, batch.stop)
    spans = [(int(documents.offsets[i]), int(documents.offsets[i + 1])) for i in numbers]
    longest = max(stop - start for start, stop in spans)
    ids = np.full((len(spans), longest), documents.pad_id, dtype=np.int64)
    mask = np.zeros((len(spans), longest), dtype=np.int64)
    keep = np.zeros((len(spans), longest), dtype=bool)
    for row, (start, stop) in enumerate(spans):
        ids[row, : stop - start] = documents.input_ids[start:stop]
        mask[row, : stop - start] = 1
        keep[row, : stop - start] = documents.keep[start:stop]
    device = next(loaded.model.parameters()).device
    wanted = torch.from_numpy(keep).to(device)
    taken: dict[int, Any] = {}

    def take(site: Site, value: Any) -> None:
        taken[site.layer] = value[wanted]

    with torch.inference_mode(), _Hooks(loaded.model, sites, entries, take):
        run_model(loaded.model, torch.from_numpy(ids).to(device), torch.from_numpy(mask).to(device))
    tensors = {
        f"site/{site.layer}": (store_dtype, _bits(taken[site.layer], store_dtype, site))
        for site in sites
    }
    kept = np.concatenate([np.flatnonzero(documents.keep[a:b]) for a, b in spans])
    flat = np.concatenate([a + np.flatnonzero(documents.keep[a:b]) for a, b in spans])
    counts = [int(documents.keep[a:b].sum()) for a, b in spans]
    return tensors | {
        "document": ("int64", np.repeat(documents.numbers[batch], counts)),
        "position": ("int64", kept.astype(np.int64)),
        "token": ("int64", documents.input_ids[flat]),
        "special": ("uint8", documents.special[flat].astype(np.uint8)),
    }


class _Hooks:
    """Hooks on every site for the length of a `with` block; removed also after an error."""

    def __init__(
        self,
        model: Any,
        sites: list[Site],
        entries: dict[str, str],  # path of block 0, by stack: the embedding is what it reads
        take: Callable[[Site, Any], None],
    ) -> None:
        self.model = model
        self.sites = sites
        self.entries = entries
        self.take = take
        self.handles: list[Any] = []

    def __enter__(self) -> None:
        for site in self.sites:
            if site.site == "embedding":
                module = self.model.get_submodule(self.entries[site.stack])
                handle = module.register_forward_pre_hook(self._before(site), with_kwargs=True)
            else:
                module = self.model.get_submodule(site.module)
                handle = module.register_forward_hook(self._after(site))
            self.handles.append(handle)

    def __exit__(self, *error: object) -> None:
        for handle in self.handles:
            handle.remove()

    def _after(self, site: Site) -> Callable[..., None]:
        def hook(module: Any, args: Any, output: Any) -> None:
            self.take(site, first_tensor(output))

        return hook

    def _before(self, site: Site) -> Callable[..., None]:
        def hook(module: Any, args: Any, kwargs: Any) -> None:
            self.take(site, block_input(args, kwargs))

        return hook


def _bits(value: Any, store_dtype: str, site: Site) -> NDArray[Any]:
    """A tensor's values in the stored type, as numpy holds their bits."""
    import torch

    stored = value.to(getattr(torch, store_dtype)).cpu()
    if store_dtype != "bfloat16" and stored.dtype != value.dtype:
        lost = int((torch.isinf(stored) & ~torch.isinf(value.cpu())).sum())
        if lost:
            raise InputError(
                f"{site.label}: {lost} values are too large for {store_dtype}; store as bfloat16"
            )
    if store_dtype == "bfloat16":
        bits: NDArray[Any] = stored.contiguous().view(torch.int16).numpy().view(np.uint16)
        return bits
    plain: NDArray[Any] = stored.contiguous().numpy()
    return plain
