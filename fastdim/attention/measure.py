"""`fastdim.attention.attention`: statistics of every head of a model over texts."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fastdim.arrays import whole_number
from fastdim.attention.capture import watched
from fastdim.attention.heads import AVERAGED, SINK, STATISTICS, Heads
from fastdim.errors import InputError, ModelError, require
from fastdim.estimate import check_confidence, normal_quantile
from fastdim.extract.facts import check_length, evaluating, model_device
from fastdim.extract.texts import Corpus, load_texts
from fastdim.sweeps.options import Defaults
from fastdim.sweeps.progress import Progress

if TYPE_CHECKING:
    import pandas

Array = NDArray[np.float64]

COLUMNS: dict[str, str] = {
    "model": "string", "revision": "string", "module": "string", "stack": "string",
    "block": "Int64", "head": "Int64", "key_head": "Int64", "statistic": "string",
    "value": "float64", "lower": "float64", "upper": "float64", "stderr": "float64",
    "n_queries": "Int64", "n_documents": "Int64", "status": "string", "reason": "string",
    "corpus": "string", "document_rule": "string", "dtype": "string", "seed": "Int64",
}  # fmt: skip


@dataclass(frozen=True, eq=False, repr=False)
class Attention:
    """table: one row a (module, head, statistic), and rows without a head for means of a layer.

    heads: sums behind them by path of the module.
    """

    table: pandas.DataFrame
    heads: dict[str, Heads]

    def __repr__(self) -> str:
        return f"Attention({len(self.heads)} modules, {len(self.table)} rows)"

    def layers(self) -> pandas.DataFrame:
        """A line a module, a column a statistic: means over its heads."""
        rows = self.table[self.table["head"].isna()]
        return rows.pivot(index=["block", "module"], columns="statistic", values="value")[
            [name for name in STATISTICS if name in set(rows["statistic"])]
        ]

    def plot(self, path: str | Path | None = None) -> Any:
        """Every head of every attention module, as a matplotlib Figure; see `plot_heads`."""
        from fastdim.attention.plot import plot_heads

        return plot_heads(self.table, path)


def attention(
    model: str | tuple[Any, Any],
    texts: str | Path | Sequence[str] | Corpus,
    *,
    revision: str | None = None,
    context: int = Defaults.context,
    pack: bool = Defaults.pack,
    max_tokens: int = Defaults.max_tokens,
    batch_size: int = Defaults.batch_size,
    device: str = Defaults.device,
    dtype: str | None = None,
    seed: int = 0,
    confidence: float = 0.95,
    trust_remote_code: bool = False,
    progress: Progress | None = None,
) -> Attention:
    """Statistics of every head (see STATISTICS), streamed: one module's weights at a time.

    model, texts and options: as `fastdim.sweep`. Weights are those of the model's own eager
    attention; queries and keys are taken as they are multiplied, after rotary positions. Heads that
    share keys (grouped queries) name them in `key_head`. Padding is neither query nor key; a query
    that sees a single key is left out. Intervals are normal, over documents; statistics of mean
    queries and keys have none.

    Raises ModelError where the weights of the heads cannot be had; InputError where no query sees
    two keys; the rest as `fastdim.sweep`.
    """
    require("torch", "models")
    frames = require("pandas", "report")
    whole_number("seed", seed, 0)
    check_confidence(confidence)
    from fastdim.extract.documents import build_documents
    from fastdim.extract.model import check_pair, load_model, model_in_memory

    corpus = texts if isinstance(texts, Corpus) else load_texts(texts)
    if isinstance(model, str):
        loaded = load_model(
            model,
            revision=revision,
            device=device,
            dtype=dtype,
            trust_remote_code=trust_remote_code,
        )
    else:
        loaded = model_in_memory(*check_pair(model, revision, dtype))
    documents = build_documents(
        corpus,
        loaded.tokenizer,
        context=context,
        pack=pack,
        max_tokens=max_tokens,
        tokens_per_document=None,
        seed=seed,
    )
    check_length(loaded.model, documents.longest)
    heads = _run(loaded, documents, batch_size, progress or Progress())
    common = {
        "model": loaded.name, "revision": revision or "", "corpus": documents.corpus_name,
        "document_rule": documents.rule, "dtype": loaded.dtype, "seed": seed,
        "n_documents": len(documents),
    }  # fmt: skip
    # Stacks have names where there are two, as in the table of a sweep.
    names = ("encoder", "decoder") if loaded.model.config.is_encoder_decoder else ()
    rows: list[dict[str, Any]] = []
    first: dict[str, Heads] = {}
    for path, found in heads.items():
        stack = next((name for name in names if name in path.split(".")), "")
        first.setdefault(stack, found)
        rows += _rows(path, found, first[stack], common | {"stack": stack}, confidence)
    table = frames.DataFrame(rows, columns=list(COLUMNS)).astype(COLUMNS)
    return Attention(table, heads)


def _run(loaded: Any, documents: Any, batch_size: int, progress: Progress) -> dict[str, Heads]:
    """All documents through the model; sums by module, in the order in which modules ran."""
    import torch

    from fastdim.extract.sites import run_model

    device = model_device(loaded.model)
    heads: dict[str, Heads] = {}
    batches = list(documents.batches(batch_size))
    real = torch.zeros((0, 0), dtype=torch.bool)

    def see(path: str, query: Any, key: Any, weights: Any, mask: Any, factor: float) -> None:
        heads.setdefault(path, Heads()).add(query, key, weights, mask, real, factor)

    progress.start("attention", len(batches), "batches")
    with torch.inference_mode(), evaluating(loaded.model), watched(loaded.model, see):
        for batch in batches:
            ids, mask, _ = documents.padded(batch)
            real = torch.from_numpy(mask).to(device)
            run_model(loaded.model, torch.from_numpy(ids).to(device), real.long())
            progress.advance()
    progress.finish()
    if not heads:
        raise ModelError(
            f"no attention of {loaded.name} ran through transformers' attention functions, so the "
            "weights of its heads cannot be had"
        )
    blind = next((path for path, found in heads.items() if not found.n_queries), None)
    if blind is not None:
        raise InputError(
            f"no query of {blind} sees two keys, and one that sees a single key says nothing: give "
            "texts of at least 2 tokens"
        )
    return heads


def _rows(
    path: str, found: Heads, first: Heads, common: dict[str, Any], confidence: float
) -> list[dict[str, Any]]:
    """first: the first module of the same stack, to which norms are compared."""
    n_heads = len(found.queries.mean)
    share = n_heads // len(found.keys.mean)
    numbers = re.findall(r"\.(\d+)(?:\.|$)", f".{path}")
    base = {
        **common, "module": path, "n_queries": found.n_queries,
        "block": int(numbers[0]) if numbers else None,
    }  # fmt: skip
    z = normal_quantile(confidence)
    rows = []

    def row(head: int | None, name: str, value: float, stderr: float) -> None:
        good = math.isfinite(value)
        rows.append({
            **base, "head": head, "key_head": None if head is None else head // share,
            "statistic": name, "value": value, "stderr": stderr, "lower": value - z * stderr,
            "upper": value + z * stderr, "status": "ok" if good else "failed",
            "reason": "" if good else "not a number: NaN in the model, or no direction of a mean",
        })  # fmt: skip

    for name in AVERAGED:
        mean, parts = found.averages(name)
        groups = len(parts)
        per_head = name != "key_norm"
        factor = math.sqrt(groups / (groups - 1)) if groups > 1 else math.nan
        errors = factor * np.sqrt(np.square(parts).sum(axis=0))
        for head in range(n_heads):
            place = head if per_head else head // share
            row(head, name, float(mean[place]), float(errors[place]))
        together = factor * math.sqrt(float(np.square(parts.mean(axis=1)).sum()))
        row(None, name, float(mean.mean()), together)
    for name in ("query_norm", "key_norm"):
        row(None, f"{name}_growth", *_growth(name, found, first))
    for name, values in found.means().items():
        for head in range(n_heads):
            row(head, name, float(values[head]), math.nan)
        row(None, name, float(values.mean()), math.nan)
    shares = found.averages("first_key")[0]
    sinks = np.where(np.isnan(shares), math.nan, shares > SINK)
    row(None, "sink_rate", float(sinks.mean()), math.nan)
    return rows


def _growth(name: str, found: Heads, first: Heads) -> tuple[float, float]:
    """A mean norm over that of the first module, with its error over the documents of both."""
    (mean, parts), (least, before) = found.averages(name), first.averages(name)
    if not least.mean() > 0:
        return math.nan, math.nan
    ratio, groups = float(mean.mean() / least.mean()), len(parts)
    if groups < 2 or len(before) != groups:
        return ratio, math.nan
    influence = (parts.mean(axis=1) - ratio * before.mean(axis=1)) / least.mean()
    return ratio, math.sqrt(groups / (groups - 1) * float(np.square(influence).sum()))
