"""Intrinsic dimension of a stream of rows, from a sample of fixed size."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from fastdim.arrays import whole_number
from fastdim.errors import InputError
from fastdim.estimate import Estimate
from fastdim.estimators.twonn import twonn
from fastdim.torchmetrics.base import RowMetric
from fastdim.torchmetrics.reservoir import EMPTY, lowest, merge_keys, merge_rows, row_keys


class IntrinsicDimension(RowMetric):
    """Intrinsic dimension of the rows seen, TwoNN by default.

    Kept are the `capacity` distinct rows of lowest hash: a uniform sample, without replacement, of
    the distinct rows, the same whatever the batches, ranks and their order; all of them where
    there are no more. The value is that of the estimator on these. At a smaller sample it looks at
    a coarser scale: compare values of one capacity.

    num_features: columns of a row. capacity: rows kept; states take capacity * num_features
        elements, and time at `compute` grows nearly with its square.
    estimator: function of rows (n, d) and confidence= that returns an `Estimate`, e.g.
        fastdim.levina_bickel; functools.partial gives it options.
    seed: another seed, another sample. Ranks must share it.
    dtype: torch.float32 or torch.float64, of the rows kept; float64 rows need float64.
    confidence: level of the interval of `estimate()`. kwargs: of torchmetrics.Metric.

    `update` runs on the metric's device, `compute` copies the sample to the CPU.

    Raises InputError on bad arguments, and at `compute` without rows or where the estimator returns
    no `Estimate`, and what the estimator raises, e.g. on fewer than 3 distinct rows.
    """

    rows: Tensor
    keys: Tensor
    seen: Tensor
    _identity = ("num_features", "capacity", "seed", "kept_dtype")

    def __init__(
        self,
        num_features: int,
        capacity: int = 4096,
        *,
        estimator: Callable[..., Estimate] = twonn,
        seed: int = 0,
        dtype: torch.dtype = torch.float32,
        confidence: float = 0.95,
        **kwargs: Any,
    ) -> None:
        super().__init__(num_features, confidence, **kwargs)
        if dtype not in (torch.float32, torch.float64):
            raise InputError(f"dtype must be torch.float32 or torch.float64, got {dtype}")
        self.capacity = whole_number("capacity", capacity, 3)
        self.seed = whole_number("seed", seed, 0)
        self.kept_dtype = dtype
        self.estimator = _checked(estimator)
        shape = (self.capacity, self.num_features)
        self.add_state(
            "rows",
            torch.full(shape, torch.nan, dtype=dtype),
            dist_reduce_fx=partial(merge_rows, seed=self.seed),
        )
        self.add_state("keys", torch.full(shape[:1], EMPTY), dist_reduce_fx=merge_keys)
        self.add_state("seen", torch.tensor(0), dist_reduce_fx="sum")

    @property
    def n_kept(self) -> int:
        """Rows in the sample."""
        return int((self.keys != EMPTY).sum())

    def _add(self, rows: Tensor) -> None:
        if rows.dtype == torch.float64 and self.kept_dtype != torch.float64:
            raise InputError(
                "rows are float64, and the metric keeps float32: pass dtype=torch.float64 to the "
                "metric, or rows.float()"
            )
        rows = rows.to(self.kept_dtype)
        keys = row_keys(rows, self.seed)
        low = keys < self.keys[-1]  # the others cannot be among the lowest
        self.rows, self.keys = lowest(
            torch.cat([self.rows, rows[low]]), torch.cat([self.keys, keys[low]]), self.capacity
        )
        self.seen = self.seen + len(rows)

    def _check_states(self, states: dict[str, Any], purpose: str) -> None:
        super()._check_states(states, purpose)
        kept = states["keys"] != EMPTY
        if not torch.equal(row_keys(states["rows"][kept], self.seed), states["keys"][kept]):
            raise InputError(
                f"the states to {purpose} are of another seed than {self.seed}, or damaged: keys "
                "are not those of the rows: make both metrics with the same seed"
            )

    def _estimate(self) -> Estimate:
        kept = self.n_kept
        if kept == 0:
            raise InputError("IntrinsicDimension needs rows, got 0: call update first")
        found = self.estimator(self.rows[:kept].cpu(), confidence=self.confidence)
        if not isinstance(found, Estimate):
            raise InputError(
                f"estimator must return an Estimate, got {type(found).__name__}: pass e.g. "
                "fastdim.levina_bickel"
            )
        # Of a full sample the number of distinct rows behind it is not known.
        distinct = kept if kept < self.capacity else None
        return dataclasses.replace(found, n_points=int(self.seen), n_distinct=distinct)


def _checked(estimator: Any) -> Callable[..., Estimate]:
    """The estimator, or InputError unless it can be called as estimator(rows, confidence=)."""
    if not callable(estimator):
        raise InputError(
            f"estimator must be a function, e.g. fastdim.levina_bickel, got {estimator!r}"
        )
    try:
        inspect.signature(estimator).bind(None, confidence=0.95)
    except (TypeError, ValueError) as error:  # another signature, or none that is known
        raise InputError(
            f"estimator must take rows and confidence= and return an Estimate; "
            f"{getattr(estimator, '__name__', estimator)} does not: {error}"
        ) from error
    taken: Callable[..., Estimate] = estimator
    return taken
