"""One forward pass under hooks: the kept rows of each tapped module and the tokens beside them."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastdim.errors import InputError, ModelError
from fastdim.extract.batches import Mask, batch_mask, prefix_of, token_ids
from fastdim.extract.hooks import Tap, tensor_bits
from fastdim.extract.layout import as_samples, check_layout, grid_shape, layout_of
from fastdim.extract.sampling import lowest_each, token_hash
from fastdim.extract.store import Site, grid_column


@dataclass(frozen=True)
class Request:
    """What is taken of every pass, and which rows of it.

    taps: one a module, each with its own site; calls: by layer, the call in a pass that is taken,
    None where a module must run once. The rest as `extract_modules` takes it.
    """

    taps: list[Tap]
    calls: Mapping[int, int | None]
    layouts: Mapping[str, str]
    mask: Mask | None
    special_ids: NDArray[np.int64]
    rows_per_sample: int | None
    seed: int


@dataclass(frozen=True, eq=False)
class Selection:
    """The kept rows of one grid in one batch: their places in it and the columns beside them."""

    shape: tuple[int, tuple[int, ...]]  # samples, positions
    index: NDArray[np.int64]  # of sample * positions + position
    columns: dict[str, tuple[str, NDArray[Any]]]
    has_tokens: bool


class Pass:
    """Takes tensors while a module runs. A first pass finds grids and widths for those after it.

    grids: by layer, the number of its grid; None in the first pass, where layers whose positions
    have the same shape are taken to be of one grid (of one stack, in an encoder-decoder).
    bounds: by grid, the highest hash a row may have.
    """

    def __init__(
        self,
        model: Any,
        request: Request,
        batch: Any,
        first_document: int,
        grids: Mapping[int, int] | None = None,
        bounds: Mapping[int, np.uint64] | None = None,
    ) -> None:
        self.model = model
        self.request = request
        self.batch = batch
        self.first_document = first_document
        self.known_grids = grids
        self.bounds = bounds or {}
        self.rows: dict[int, Any] = {}  # by layer: (kept, width) as the module computed it
        self._keys: dict[int, Any] = {}  # grid number, or in the first pass its positions
        self._selections: dict[Any, Selection] = {}
        self._calls: Counter[int] = Counter()

    def take(self, tap: Tap, module: Any, value: Any) -> None:
        """The hook: keep the rows of a tensor (None: the module gave no floating-point one)."""
        site = tap.site
        call = self._calls[site.layer]
        self._calls[site.layer] += 1
        if call != (self.request.calls[site.layer] or 0):
            return
        if value is None or value.is_nested or value.is_sparse:
            kind = "no floating-point tensor" if value is None else "a nested or sparse tensor"
            raise ModelError(
                f"{site.module!r} gives {kind}, so it has no rows to take (torch's encoder gives "
                "plain ones with enable_nested_tensor=False, recurrences on padded sequences)"
            )
        layout = self.request.layouts.get(site.module)
        if layout is None:
            layout = layout_of(self.model, tap.path, tap.reads, value.ndim, site.module)
        if len(check_layout(layout, site.module)) != value.ndim:
            raise InputError(
                f"the layout {layout!r} of {site.module} names {len(layout)} axes, and its tensor "
                f"has the shape {tuple(value.shape)}"
            )
        selection = self._select(tap, grid_shape(tuple(value.shape), layout))
        samples = as_samples(value.detach(), layout)
        if site.width and samples.shape[-1] != site.width:
            raise ModelError(
                f"{site.module} gives rows of {samples.shape[-1]} columns, and {site.width} before"
            )
        import torch

        chosen = torch.from_numpy(selection.index).to(value.device)
        # Indexing copies: a module that works in place after this one cannot change the rows.
        self.rows[site.layer] = samples.reshape(-1, samples.shape[-1])[chosen]

    def _select(self, tap: Tap, shape: tuple[int, tuple[int, ...]]) -> Selection:
        known, site = self.known_grids, tap.site
        prefix = prefix_of(self.batch, tap.path)
        key: Any = (prefix, shape[1]) if known is None else known[site.layer]
        self._keys[site.layer] = key
        if key not in self._selections:
            self._selections[key] = self._selection(site, prefix, shape, self.bounds.get(key))
        found = self._selections[key].shape
        if found != shape:
            raise InputError(
                f"{site.module} gives {shape} samples and positions in the batch that starts with "
                f"sample {self.first_document}, and another module beside it {found}: if an axis "
                "is taken for another, name the axes with layouts; otherwise extract the modules "
                "in calls of their own"
            )
        return self._selections[key]

    def _selection(
        self, site: Site, prefix: str, shape: tuple[int, tuple[int, ...]], bound: np.uint64 | None
    ) -> Selection:
        request, (samples, places) = self.request, shape
        mask = batch_mask(self.batch, request.mask, prefix, samples, places, site.module)
        index = np.flatnonzero(mask)
        document = self.first_document + index // mask.shape[1]
        position = index % mask.shape[1]
        if request.rows_per_sample is not None:
            kept = lowest_each(document, position, request.rows_per_sample, request.seed)
            index, document, position = index[kept], document[kept], position[kept]
        if bound is not None:
            kept = token_hash(document, position, request.seed) <= bound
            index, document, position = index[kept], document[kept], position[kept]
        ids = token_ids(self.batch, prefix, samples, places)
        token = np.full(len(index), -1) if ids is None else ids.reshape(-1)[index]
        special = np.isin(token, request.special_ids)
        columns: dict[str, tuple[str, NDArray[Any]]] = {
            "document": ("int64", document),
            "position": ("int64", position),
            "token": ("int64", token),
            "special": ("uint8", special.astype(np.uint8)),
        }
        return Selection(shape, index, columns, ids is not None)

    def check(self) -> None:
        """Raise ModelError if a module did not run, or not as often as its path says."""
        for tap in self.request.taps:
            path, count = tap.site.module, self._calls[tap.site.layer]
            call = self.request.calls[tap.site.layer]
            if count == 0:
                raise ModelError(
                    f"{path} did not run in the pass: its parent may use its weights without "
                    "calling it; name another module"
                )
            if call is None and count > 1:
                raise ModelError(
                    f"{path} runs {count} times in a pass: name the calls, '{path}#0' to "
                    f"'{path}#{count - 1}'"
                )
            if call is not None and call >= count:
                raise ModelError(f"{path}: there are only {count} calls in a pass, from #0")
        if len({selection.shape[0] for selection in self._selections.values()}) > 1:
            raise InputError(
                "the modules disagree on the number of samples in a batch ("
                + ", ".join(
                    f"{tap.site.module}: {self._selections[self._keys[tap.site.layer]].shape[0]}"
                    for tap in self.request.taps
                )
                + "): name the axes with layouts"
            )

    @property
    def samples(self) -> int:
        """Samples of the batch."""
        return next(iter(self._selections.values())).shape[0]

    def places_sha256(self) -> str:
        """Hash of the places that are kept: what mask and limits make of this batch."""
        digest = hashlib.sha256()
        for selection in self._selections.values():
            digest.update(f"{selection.shape}\0".encode())
            digest.update(selection.index.tobytes())
        return digest.hexdigest()

    @property
    def has_tokens(self) -> bool:
        """Whether every layer's rows have token ids."""
        return all(selection.has_tokens for selection in self._selections.values())

    def grids(self) -> dict[int, int]:
        """The grid of each layer, numbered in the order of the layers."""
        numbers: dict[Any, int] = {}
        layers = [tap.site.layer for tap in self.request.taps]
        return {n: numbers.setdefault(self._keys[n], len(numbers)) for n in layers}

    def widened(self) -> Request:
        """The request with the widths of this pass in its sites."""
        taps = [
            replace(tap, site=replace(tap.site, width=int(self.rows[tap.site.layer].shape[1])))
            for tap in self.request.taps
        ]
        return replace(self.request, taps=taps)

    def tensors(self, store_dtype: str) -> tuple[dict[str, tuple[str, NDArray[Any]]], list[int]]:
        """The tensors of a shard, and the number of rows of each grid."""
        grids = self.grids()
        tensors: dict[str, tuple[str, NDArray[Any]]] = {}
        counts = [0] * (max(grids.values()) + 1)
        for tap in self.request.taps:
            layer = tap.site.layer
            bits = tensor_bits(self.rows[layer], store_dtype, tap.site)
            tensors[f"site/{layer}"] = (store_dtype, bits)
            for name, column in self._selections[self._keys[layer]].columns.items():
                tensors[grid_column(grids[layer], name)] = column
            counts[grids[layer]] = len(bits)
        return tensors, counts
