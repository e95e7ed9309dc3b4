"""What a sweep of a model takes on many GPUs: operations, bytes, memory and time, before a start.

The forward pass runs on GPUs at a stated rate. Everything else runs on the cores beside them, at
the rate measured here unless one is stated, and over the network.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from fastdim.arrays import whole_number
from fastdim.errors import InputError, ModelError, require
from fastdim.plan_work import (
    FORWARD_SHARE,
    TORCH_SHARE,
    Analysis,
    Cores,
    few_queries,
    forward_operations,
    site_analysis,
)
from fastdim.sweeps.filters import FILTERS
from fastdim.sweeps.options import Defaults
from fastdim.sweeps.plan import BYTES, PIECE_BYTES, TOKEN_BYTES, flops_per_second

# Dense bfloat16 operations/s that makers state, of which a forward pass reaches `MODEL_SHARE`.
CARDS = {"a100": 312e12, "h100": 989e12, "h200": 989e12, "b200": 2250e12}
MODEL_SHARE = 0.4

# What there is one of for every row, on every rank: norms, digests, neighbours, tokens, forms.
ROW_BYTES = 600


@dataclass(frozen=True)
class Shape:
    """A model's sizes. parameters: all; multiplied: without embedding tables."""

    name: str
    parameters: int
    multiplied: int
    blocks: int
    width: int
    sites: int


@dataclass(frozen=True)
class Machines:
    """What runs it: GPUs, and for each the cores beside it, network and disk in bytes/s.

    forward_flops: products of a forward pass in a second, on each GPU or on the CPU's cores.
    """

    gpus: int
    forward_flops: float
    cores: Cores
    network: float
    disk: float


@dataclass(frozen=True)
class ScalePlan:
    """A run on many GPUs, one rank each. Bytes and seconds of one rank unless named otherwise."""

    shape: Shape
    machines: Machines
    tokens: float
    queries: float
    forward_operations: float  # of all ranks
    search_operations: float  # of all ranks and sites, 2 d a pair, before any is left out
    disk_bytes: float
    network_bytes: float
    memory_bytes: float
    forward_seconds: float
    disk_seconds: float
    network_seconds: float
    site: Analysis

    @property
    def analysis_seconds(self) -> float:
        """All sites; transfers go on while a rank searches, so the longer of the two counts."""
        per_site = self.network_seconds / self.shape.sites
        waiting = max(0.0, per_site - self.site.search)
        return self.shape.sites * (self.site.seconds + waiting)

    @property
    def seconds(self) -> float:
        """From the first batch to the last piece."""
        return self.forward_seconds + self.disk_seconds + self.analysis_seconds


def model_shape(name: str, revision: str | None = None, trust_remote_code: bool = False) -> Shape:
    """Sizes of a model from its config alone: no weight is read.

    Raises ModelError as `load_model`, and where the config makes no model with blocks.
    """
    from fastdim.extract.facts import multiplied_parameters
    from fastdim.extract.model import check_source, gguf_file, local_path
    from fastdim.extract.sites import count_blocks, find_stacks

    torch: Any = require("torch", "models")
    transformers: Any = require("transformers", "models")
    check_source(name, revision)
    path = local_path(name)
    options: dict[str, Any] = {"trust_remote_code": trust_remote_code}
    if revision:
        options["revision"] = revision
    source = name
    if path is not None:
        file = gguf_file(path)
        source = str(path if file is None else file.parent)
        options |= {} if file is None else {"gguf_file": file.name}
    try:
        config = transformers.AutoConfig.from_pretrained(source, **options)
        with torch.device("meta"):
            model = transformers.AutoModel.from_config(config, trust_remote_code=trust_remote_code)
    except (OSError, ValueError, KeyError, ImportError) as error:
        first = next(iter(str(error).splitlines()), type(error).__name__)
        raise ModelError(f"cannot read the config of {name}: {first}") from error
    width = getattr(config, "hidden_size", None)
    if not isinstance(width, int):
        raise ModelError(f"the config of {name} names no hidden_size: its rows have no known width")
    blocks = count_blocks(model)
    parameters = sum(item.numel() for item in model.parameters())
    # The embedding before each stack of blocks, and a norm behind it where there is one.
    sites = blocks + 2 * len(find_stacks(model))
    return Shape(name, parameters, multiplied_parameters(model), blocks, width, sites)


def scale_plan(
    shape: Shape,
    tokens: float,
    machines: Machines,
    *,
    context: int = Defaults.context,
    queries: int | None = Defaults.queries,
    pairs: int = Defaults.pairs,
    filters: tuple[str, ...] = tuple(FILTERS),
    dtype: str = "bfloat16",
) -> ScalePlan:
    """Work out what a sweep of `tokens` tokens takes. queries: None for every row. pairs: of
    cosines; all, where there are no more.
    """
    ranks, d = machines.gpus, shape.width
    item = BYTES[dtype]
    m = tokens if queries is None else min(tokens, queries)
    drawn = min(float(pairs), tokens * (tokens - 1) / 2)
    normalized = sum(FILTERS[name].normalize for name in filters)
    searches = (len(filters) > normalized) + normalized
    own = tokens / ranks
    site = site_analysis(machines.cores, tokens, d, m, drawn, len(filters), normalized, ranks, item)
    # A search of many queries sends every shard but one's own past each rank, directions as
    # float32; one of few sends the queries. Sampled pairs send half of the shards; sums are sliced,
    # added and joined; what every row has one of is gathered.
    row = (normalized * 4 + (searches - normalized) * item) * d
    searched = m * row if few_queries(tokens, m) else own * (ranks - 1) * row
    paired = own * (ranks - 1) * d * item / 2
    sent = searched + paired + 2 * 4 * 8.0 * d * d * 2 + ROW_BYTES * tokens
    operations = forward_operations(shape.multiplied, tokens, shape.blocks, shape.width, context)
    stored = own * (shape.sites * d * item + TOKEN_BYTES)
    memory = max(
        shape.parameters * item,
        # Own rows, a copy with a visitor, two visitors in transit, the form that is searched.
        own * d * item * 7 + ROW_BYTES * tokens + 8.0 * d * d * 6,
    )
    return ScalePlan(
        shape=shape,
        machines=machines,
        tokens=tokens,
        queries=m,
        forward_operations=operations,
        search_operations=shape.sites * searches * 2.0 * m * tokens * d,
        disk_bytes=stored + shape.sites * len(filters) * PIECE_BYTES,
        network_bytes=shape.sites * sent if ranks > 1 else 0.0,
        memory_bytes=memory,
        forward_seconds=FORWARD_SHARE * operations / (ranks * machines.forward_flops),
        disk_seconds=2.0 * stored / machines.disk,  # written once, read once
        network_seconds=shape.sites * sent / machines.network if ranks > 1 else 0.0,
        site=site,
    )


def machines_for(
    gpus: int | None,
    card: str = "h100",
    cores_per_gpu: int = 16,
    core_flops: float | None = None,
    network: float = 25e9,
    disk: float = 2e9,
) -> Machines:
    """Machines of a plan. gpus: None for this machine's CPU alone.

    card: name from CARDS, its stated rate times MODEL_SHARE. core_flops: float32 operations/s of
    one core, None to measure it here. network, disk: bytes/s of each rank.
    Raises InputError on another card or a number below 1.
    """
    from fastdim.backends.cpu import resolve_threads

    if card not in CARDS:
        raise InputError(f"unknown card {card!r}; there are: {', '.join(CARDS)}")
    here = resolve_threads(None)
    one = flops_per_second() / here if core_flops is None else core_flops
    if gpus is None:
        return Machines(1, TORCH_SHARE * one * here, Cores(here, one * here), network, disk)
    count = whole_number("cores_per_gpu", cores_per_gpu, 1)
    return Machines(
        whole_number("gpus", gpus, 1),
        CARDS[card] * MODEL_SHARE,
        Cores(count, one * count),
        network,
        disk,
    )


def amount(number: float) -> str:
    """A number in words: "1.2e15", "20,000"."""
    return f"{number:,.0f}" if number < 1e6 else f"{number:.2g}"


def check_tokens(tokens: float) -> float:
    """Raise InputError unless this is a number of tokens."""
    if not (math.isfinite(tokens) and tokens >= 2):
        raise InputError(f"tokens must be a number of at least 2, got {tokens!r}")
    return tokens
