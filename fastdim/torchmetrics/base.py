"""What the metrics share: checked rows, a value with its estimate, exact merging."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from fastdim.arrays import whole_number
from fastdim.errors import InputError
from fastdim.estimate import Estimate, check_confidence
from fastdim.torch.inputs import check_finite, select


class RowMetric(Metric):
    """A metric of rows (..., d) of a known width, whose states have a fixed size.

    Subclasses define `_add(rows)` and `_estimate()`, and list in `_identity` what two metrics must
    share to be merged.
    """

    is_differentiable = False
    higher_is_better = None
    full_state_update = False
    _identity: tuple[str, ...] = ("num_features",)

    def __init__(self, num_features: int, confidence: float, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.num_features = whole_number("num_features", num_features, 2)
        self.confidence = check_confidence(confidence)
        self._latest: Estimate | None = None

    def update(self, rows: Tensor, mask: Tensor | None = None) -> None:
        """Take more rows (..., num_features) into account, on any device.

        mask: (...), nonzero for rows that count, e.g. an attention mask; None for all.

        Raises InputError on another width or dtype, a mask of another shape, NaN or Inf (with the
        number of rows); nothing is added then.
        """
        chosen = select(rows, mask).detach()
        if chosen.shape[1] != self.num_features:
            raise InputError(
                f"rows have {chosen.shape[1]} columns, and the metric was made for num_features = "
                f"{self.num_features}"
            )
        if len(chosen):
            check_finite(chosen, "rows")
            self._add(chosen.to(self.device))

    @torch.jit.unused  # as torchmetrics' own: scripted modules may hold a metric
    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """`update`, and the value of these rows alone; on an error all is as it was before."""
        with self._as_it_was():
            return super().forward(*args, **kwargs)

    @contextmanager
    def sync_context(self, *args: Any, **kwargs: Any) -> Generator[None, None, None]:
        """States of all ranks inside, those of this rank behind it, also behind an error."""
        with self._as_it_was(), super().sync_context(*args, **kwargs):
            yield

    @contextmanager
    def _as_it_was(self) -> Generator[None, None, None]:
        """On an error every attribute, states and flags, is what it was; no state changes in place.

        torchmetrics empties the states for a while, or puts those of all ranks there, and turns
        synchronization off; it leaves them so where it is interrupted.
        """
        before = vars(self).copy()
        try:
            yield
        except BaseException:
            vars(self).update(before)
            raise

    def compute(self) -> Tensor:
        """The value () over all rows, float64."""
        self._latest = self._estimate()
        return torch.tensor(self._latest.value, dtype=torch.float64, device=self.device)

    def estimate(self) -> Estimate:
        """The value over all rows, of all ranks, with its interval."""
        self.compute()
        assert self._latest is not None
        return self._latest

    def reset(self) -> None:
        """Forget all rows."""
        super().reset()
        self._latest = None

    def merge_state(self, incoming_state: dict[str, Any] | Metric) -> None:
        """Add the rows another metric has seen, or those of its states by name.

        Raises InputError where the other was made with arguments that make states incomparable; of
        states alone shapes and types tell that, and the keys of rows the seed.
        """
        if isinstance(incoming_state, type(self)):
            for name in self._identity:
                mine, other = getattr(self, name), getattr(incoming_state, name)
                if mine != other:
                    raise InputError(
                        f"metrics with {name} = {mine} and {other} cannot be merged: make both "
                        "with the same"
                    )
        elif isinstance(incoming_state, dict):
            self._check_states(incoming_state, "merge")
        super().merge_state(incoming_state)
        # torchmetrics counts updates alone, and would warn and keep the value of before.
        self._update_count += 1
        self._computed = None

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        """As torchmetrics; InputError on states of a metric made otherwise, and none is taken."""
        # States that are not persistent are absent, all of them.
        states = {
            name: state_dict[prefix + name]
            for name in self._defaults
            if prefix + name in state_dict
        }
        if states:
            self._check_states(states, "load")
            self._computed = None
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    def _check_states(self, states: dict[str, Any], purpose: str) -> None:
        """Raise InputError on states by name that are not those of a metric made as this one."""
        for name, own in self._defaults.items():
            if name not in states:
                raise InputError(
                    f"the states to {purpose} lack {name!r}: pass metric_state of another "
                    f"{type(self).__name__}, with {', '.join(self._defaults)}"
                )
            assert isinstance(own, Tensor)  # states of a fixed size
            other = states[name]
            if not isinstance(other, Tensor):
                raise InputError(
                    f"the state {name!r} to {purpose} must be a tensor, got {type(other).__name__}"
                )
            if other.shape != own.shape or other.dtype != own.dtype:
                raise InputError(
                    f"the state {name!r} to {purpose} is {other.dtype} of shape "
                    f"{tuple(other.shape)}, and that of this metric {own.dtype} of shape "
                    f"{tuple(own.shape)}: make both with the same {', '.join(self._identity)}"
                )

    def set_dtype(self, dst_type: str | torch.dtype) -> RowMetric:
        """Refused: states have the types that make them exact. Raises InputError."""
        raise InputError(
            f"the states of {type(self).__name__} cannot become {dst_type}: leave set_dtype out; "
            "IntrinsicDimension takes dtype= for the rows it keeps"
        )

    @abstractmethod
    def _add(self, rows: Tensor) -> None:
        """Take finite rows (m, d) into the state."""

    @abstractmethod
    def _estimate(self) -> Estimate:
        """The number, with its interval."""
