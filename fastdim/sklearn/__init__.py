"""scikit-learn estimators of intrinsic dimension with scikit-dimension's names, and a transformer.

    from fastdim.sklearn import TwoNN          # in place of skdim.id.TwoNN
    TwoNN().fit(X).dimension_

Each class names the function of `fastdim` behind it. Besides `dimension_`: `interval_`, `stderr_`,
`n_distinct_`; `dimension_pw_` of every row from the local ones' `fit` and the others' `fit_pw`.
Differences from scikit-dimension: docs/integrations.md.

`EXPECTED_FAILED_CHECKS` is for scikit-learn's `check_estimator(..., expected_failed_checks=)`: the
dimension estimators give one number for a set of rows.
"""

from fastdim.errors import require

require("sklearn", "sklearn")

from fastdim.sklearn.base import EXPECTED_FAILED_CHECKS, DimensionEstimator  # noqa: E402
from fastdim.sklearn.graph import KNeighborsTransformer  # noqa: E402
from fastdim.sklearn.local import ESS, MADA, MLE, MOM, TLE  # noqa: E402
from fastdim.sklearn.nearest import ABIDE, GRIDE, DANCo, GeoMLE, MiND_ML, TwoNN  # noqa: E402
from fastdim.sklearn.whole import KNN, PH, CorrInt, FisherS, lPCA  # noqa: E402

__all__ = [
    "ABIDE",
    "ESS",
    "EXPECTED_FAILED_CHECKS",
    "GRIDE",
    "KNN",
    "MADA",
    "MLE",
    "MOM",
    "PH",
    "TLE",
    "CorrInt",
    "DANCo",
    "DimensionEstimator",
    "FisherS",
    "GeoMLE",
    "KNeighborsTransformer",
    "MiND_ML",
    "TwoNN",
    "lPCA",
]
