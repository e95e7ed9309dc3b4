"""Statistics of the heads of one attention module, as sums by document: no matrix is kept."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

CATEGORICAL = 0.9
SINK = 0.3

# Statistic -> what it is. Queries that see one key alone are left out: their weight is 1.
STATISTICS = {
    "max_weight": "mean over queries of the largest weight",
    "entropy": "mean over queries of the entropy of the weights over log(visible keys)",
    "first_key": "mean share of the first key",
    "categorical": f"share of queries whose largest weight exceeds {CATEGORICAL:g}",
    "query_norm": "mean norm of the queries",
    "key_norm": "mean norm of the keys",
    "query_norm_growth": "mean norm of the queries over that of the first module; layers alone",
    "key_norm_growth": "mean norm of the keys over that of the first module; layers alone",
    "mean_query_norm": "norm of the mean query",
    "mean_key_norm": "norm of the mean key",
    "mean_cosine": "cosine of the mean query and the mean key",
    "key_bias_std": "s.d. of mean query . centered key, times the factor of the scores",
    "query_bias_std": "s.d. of centered query . mean key, times the factor of the scores",
    "sink_rate": f"share of heads whose mean share of the first key exceeds {SINK:g}; layers alone",
}
# Means over queries or keys, with an error by documents.
AVERAGED = ("max_weight", "entropy", "first_key", "categorical", "query_norm", "key_norm")


@dataclass
class Moments:
    """Count, sum (H, d) and outer products (H, d, d) of vectors."""

    count: float = 0.0
    total: Any = 0.0
    outer: Any = 0.0

    def add(self, vectors: Any, used: Any) -> None:
        """vectors (B, H, T, d), used (B, T) bool."""
        chosen = vectors.transpose(1, 2)[used].double()  # (N, H, d)
        self.count += len(chosen)
        self.total = self.total + chosen.sum(0).cpu().numpy()
        heads = chosen.transpose(0, 1)
        self.outer = self.outer + (heads.transpose(1, 2) @ heads).cpu().numpy()

    @property
    def mean(self) -> Array:
        return np.asarray(self.total / self.count)

    def covariance(self) -> Array:
        """(H, d, d) about the mean."""
        mean = self.mean
        return np.asarray(self.outer / self.count - mean[:, :, None] * mean[:, None, :])


@dataclass
class Heads:
    """Sums over the queries (or keys) of each document: lists of (documents, H), by statistic."""

    sums: dict[str, list[Array]] = field(default_factory=dict)
    counts: dict[str, list[Array]] = field(default_factory=dict)
    queries: Moments = field(default_factory=Moments)
    keys: Moments = field(default_factory=Moments)
    factor: float = 1.0

    def add(self, query: Any, key: Any, weights: Any, mask: Any, real: Any, factor: float) -> None:
        """One batch; real (B, T): positions that are no padding."""
        import torch

        weights = weights.detach().float()
        batch, _, n_queries, n_keys = weights.shape
        if mask is None:
            visible = torch.ones((1, 1, 1, n_keys), dtype=torch.bool, device=weights.device)
        elif mask.dtype == torch.bool:
            visible = mask
        else:
            visible = mask > 0.5 * torch.finfo(mask.dtype).min
        visible = visible.expand(batch, visible.shape[1], n_queries, n_keys)[:, 0]
        seen = visible.sum(-1)  # (B, Q)
        # Cross-attention reads keys of other tokens: those that some query sees are no padding.
        own_keys = real if n_keys == real.shape[1] else visible.any(1)
        used = (real if n_queries == real.shape[1] else seen > 0) & (seen > 1)
        largest = weights.amax(-1)  # (B, H, Q)
        entropy = torch.special.entr(weights).sum(-1) / seen.clamp(min=2).log()[:, None]
        found = {
            "max_weight": largest,
            "entropy": entropy,
            "first_key": weights[..., 0],
            # What is no number is not below the limit either.
            "categorical": torch.where(largest.isnan(), largest, (largest > CATEGORICAL).float()),
            "query_norm": query.detach().float().norm(dim=-1),
        }
        for name, value in found.items():
            self._note(name, value, used)
        self._note("key_norm", key.detach().float().norm(dim=-1), own_keys)
        self.queries.add(query.detach(), used)
        self.keys.add(key.detach(), own_keys)
        self.factor = factor

    def _note(self, name: str, value: Any, used: Any) -> None:
        inside = (value.double() * used[:, None]).sum(-1)
        self.sums.setdefault(name, []).append(inside.cpu().numpy())
        self.counts.setdefault(name, []).append(used.sum(-1).double().cpu().numpy())

    @property
    def n_queries(self) -> int:
        """Queries that entered."""
        return int(sum(count.sum() for count in self.counts["max_weight"]))

    def averages(self, name: str) -> tuple[Array, Array]:
        """Means (H,) and what each document adds to them (documents, H)."""
        sums = np.concatenate(self.sums[name])
        counts = np.concatenate(self.counts[name])[:, None]
        total = counts.sum()
        mean = sums.sum(axis=0) / total
        return mean, (sums - mean * counts) / total

    def means(self) -> dict[str, Array]:
        """Statistics of mean queries and keys, (H,) each; heads of a group share their key."""
        query, key = self.queries.mean, self.keys.mean
        share = len(query) // len(key)
        keys = np.repeat(key, share, axis=0)
        spread = np.repeat(self.keys.covariance(), share, axis=0)
        norms = np.linalg.norm(query, axis=1), np.linalg.norm(keys, axis=1)
        product = norms[0] * norms[1]
        dot = np.einsum("hd,hd->h", query, keys)
        along_keys = np.einsum("hd,hde,he->h", query, spread, query)
        along_queries = np.einsum("hd,hde,he->h", keys, self.queries.covariance(), keys)
        return {
            "mean_query_norm": norms[0],
            "mean_key_norm": norms[1],
            "mean_cosine": np.divide(
                dot, product, out=np.full_like(dot, np.nan), where=product > 0
            ),
            "key_bias_std": self.factor * np.sqrt(np.maximum(along_keys, 0.0)),
            "query_bias_std": self.factor * np.sqrt(np.maximum(along_queries, 0.0)),
        }
