"""What makes a layer anisotropic, or its dimension low: ablations and their exact Shapley shares.

factors.Ablated (rows without a cause) -> values (anisotropy, dimension, each with documents)
  -> shapley.shares, interactions -> measure.causes: one tidy table, with strata and a control
"""

from __future__ import annotations

from fastdim.causes.factors import FACTORS
from fastdim.causes.measure import causes

__all__ = ["FACTORS", "causes"]
