"""Where the rows of a run come from: a store of hidden states, or files made elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from fastdim.arrays import Rows


@dataclass(frozen=True)
class Tokens:
    """What stands beside the rows: one entry a row, the same for every layer."""

    document: np.ndarray  # int64
    position: np.ndarray  # int64, within the document
    token: np.ndarray  # int64 id
    special: np.ndarray  # bool
    text: Callable[[int], str]  # token id -> its text


@dataclass(frozen=True)
class Source:
    """Layers of rows. `sites` are JSON objects with layer, site, stack, block and module."""

    sites: list[dict[str, Any]]
    rows: Callable[[int], Rows]  # by layer number
    tokens: Tokens | None = None


def site_label(site: dict[str, Any]) -> str:
    """A layer in words, as error messages and reasons name it."""
    name = f"layer {site['layer']} ({site['site']}"
    name += f" {site['block']}" if site["block"] is not None else ""
    return name + (f", {site['module']})" if site["module"] else ")")
