"""The metrics of one layer: name, one plain sentence, formula and source of each."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class MetricInfo:
    """What a metric is. `centered`: whether the mean row is subtracted before it is formed."""

    title: str
    sentence: str
    formula: str
    reference: str
    centered: bool
    higher_means: str


@dataclass(frozen=True)
class Metric:
    """One value of one metric, or the reason why there is none.

    lower, upper, stderr: nan where no uncertainty is defined. n_distinct: None if not counted.
    n_queries: what entered the value: query rows for id_twonn, pairs for quantiles of the cosine,
    else all rows. seconds: work shared by several metrics stands at the one that caused it first.
    status: "ok", or "failed" with nan values. reason: the error's own text; with "ok" a warning
    about the value ("warning: ..."), else empty.
    """

    name: str
    value: float
    lower: float
    upper: float
    stderr: float
    n_rows: int
    n_distinct: int | None
    n_queries: int
    seconds: float
    backend: str
    method: str
    status: str
    reason: str


_FACCO = "Facco et al., Sci. Rep. 7:12140, 2017"
_RAZZHIGAEV = "Razzhigaev et al., arXiv 2311.05928"
_SUN = "Sun et al., arXiv 2402.17762"
_ETHAYARAJH = "Ethayarajh, EMNLP 2019"

METRICS: dict[str, MetricInfo] = {
    "id_twonn": MetricInfo(
        "Intrinsic dimension",
        "How many independent directions the rows vary in locally, judged from how much farther "
        "the second nearest row is than the nearest.",
        "(r - 1)/T with T = sum of the r smallest log(r2/r1) + (N - r) times the largest of them, "
        "distinct rows, r = 90 % of N",
        _FACCO,
        False,
        "the rows fill more dimensions",
    ),
    "anisotropy": MetricInfo(
        "Anisotropy",
        "The share of all variation that lies along one single direction; near 1 the rows form a "
        "line, often because of a few enormous rows.",
        "s1^2 / sum(s^2), s the singular values of the centered rows",
        _RAZZHIGAEV,
        True,
        "one direction dominates",
    ),
    "participation_ratio": MetricInfo(
        "Participation ratio",
        "A count of the directions that share the variation, weighted towards the strong ones.",
        "(sum l)^2 / sum(l^2), l the eigenvalues of the covariance",
        "Gao et al., bioRxiv 214262, 2017",
        True,
        "the variation is spread over more directions",
    ),
    "effective_rank": MetricInfo(
        "Effective rank",
        "A count of the directions that share the variation, in which weak directions count too.",
        "exp(-sum p log p), p = l / sum l",
        "Roy & Vetterli, EUSIPCO 2007",
        True,
        "the variation is spread over more directions",
    ),
    "stable_rank": MetricInfo(
        "Stable rank",
        "How many directions as strong as the strongest one would carry all the variation.",
        "sum(s^2) / s1^2, the inverse of the anisotropy",
        "Rudelson & Vershynin, J. ACM 54(4), 2007",
        True,
        "no direction dominates",
    ),
    "mean_cosine": MetricInfo(
        "Mean cosine",
        "The average similarity of direction of two different rows; near 1 all rows point the "
        "same way.",
        "mean of cos(h_i, h_j) over all pairs i < j",
        _ETHAYARAJH,
        False,
        "rows point in more similar directions",
    ),
    "cosine_std": MetricInfo(
        "Spread of cosines",
        "How much the similarity of direction differs from pair to pair.",
        "standard deviation of cos(h_i, h_j) over all pairs",
        _ETHAYARAJH,
        False,
        "some pairs are much more alike than others",
    ),
    "cosine_q05": MetricInfo(
        "Cosine, 5th percentile",
        "One pair of rows in twenty is less similar in direction than this.",
        "5 % quantile of cos(h_i, h_j) over pairs",
        _ETHAYARAJH,
        False,
        "even dissimilar pairs point in similar directions",
    ),
    "cosine_median": MetricInfo(
        "Cosine, median",
        "Half of all pairs of rows are more similar in direction than this, half less.",
        "median of cos(h_i, h_j) over pairs",
        _ETHAYARAJH,
        False,
        "rows point in more similar directions",
    ),
    "cosine_q95": MetricInfo(
        "Cosine, 95th percentile",
        "One pair of rows in twenty is more similar in direction than this.",
        "95 % quantile of cos(h_i, h_j) over pairs",
        _ETHAYARAJH,
        False,
        "the most similar pairs are closer in direction",
    ),
    "norm_median": MetricInfo(
        "Median norm",
        "The length of a typical row.",
        "median of |h_i|",
        _SUN,
        False,
        "rows are longer",
    ),
    "norm_ratio": MetricInfo(
        "Largest norm over median",
        "How many times longer the longest row is than a typical one; large values betray massive "
        "activations.",
        "max |h_i| / median |h_i|",
        _SUN,
        False,
        "a few rows are enormous",
    ),
    "top_share": MetricInfo(
        "Share of the ten strongest rows",
        "The part of the strongest direction that just ten rows are responsible for; near 1 the "
        "anisotropy is the work of these rows.",
        "sum over the ten largest of (h_i.v1)^2 / s1^2, centered rows",
        _SUN,
        True,
        "fewer rows make the strongest direction",
    ),
    "distinct_rows": MetricInfo(
        "Distinct rows",
        "How many different rows there are; equal rows tell nothing new and are searched once.",
        "number of rows that equal no earlier row",
        _FACCO,
        False,
        "fewer repetitions",
    ),
}
