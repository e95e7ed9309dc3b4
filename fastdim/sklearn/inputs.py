"""From what scikit-learn's users pass to rows, threads and seeds."""

from __future__ import annotations

from typing import Any

import numpy as np
from joblib import effective_n_jobs
from sklearn.utils import check_random_state
from sklearn.utils.validation import validate_data

from fastdim.arrays import Rows, as_rows
from fastdim.errors import InputError


def rows_of(
    estimator: Any, X: Any, *, min_rows: int = 2, min_columns: int = 2, reset: bool = True
) -> Rows:
    """X as Rows, and its number of columns kept on the estimator, or compared with it.

    Lists, frames and arrays pass scikit-learn's own checks, with its messages; float16, float32 and
    float64 stay as they are, whole numbers become float64. Rows, torch tensors and DLPack arrays go
    to `as_rows` directly, so bfloat16 is kept.

    Raises ValueError (InputError is one) on bad values or shapes, TypeError on sparse input.
    """
    if isinstance(X, Rows) or (hasattr(X, "__dlpack__") and not isinstance(X, np.ndarray)):
        rows = as_rows(X, name="X", min_rows=min_rows, min_columns=min_columns)
        if reset:
            estimator.n_features_in_ = rows.d
        elif rows.d != estimator.n_features_in_:
            raise InputError(
                f"X has {rows.d} features, but {type(estimator).__name__} is expecting "
                f"{estimator.n_features_in_} features as input"
            )
        return rows
    checked = validate_data(
        estimator,
        X,
        reset=reset,
        dtype=[np.float64, np.float32, np.float16],
        ensure_min_samples=min_rows,
        ensure_min_features=min_columns,
    )
    return as_rows(checked, name="X")


def threads_of(n_jobs: int | None) -> int | None:
    """None: as everywhere in fastdim; else joblib's rule: -1 for all CPUs, -2 for all but one."""
    if n_jobs is None:
        return None
    if isinstance(n_jobs, bool) or not isinstance(n_jobs, (int, np.integer)) or n_jobs == 0:
        raise InputError(f"n_jobs must be None or a whole number other than 0, got {n_jobs!r}")
    return int(effective_n_jobs(n_jobs))


def seed_of(random_state: Any) -> int:
    """A whole number is itself; None, a RandomState or a Generator gives a new one each time."""
    if isinstance(random_state, (int, np.integer)) and not isinstance(random_state, bool):
        if random_state < 0:
            raise InputError(f"random_state must be at least 0, got {random_state}")
        return int(random_state)
    if isinstance(random_state, np.random.Generator):
        return int(random_state.integers(2**31 - 1))
    return int(check_random_state(random_state).randint(2**31 - 1))
