"""Defaults of a sweep, in one place for the function and the command line."""

from __future__ import annotations

FORMATS = ("parquet", "csv", "html", "png")


class Defaults:
    """Sampled queries and pairs keep the analysis shorter than the model's forward pass.

    4,000 queries against all rows: the standard error of TwoNN from n queries is about
    1.6 ID / sqrt(n) on hidden states (fastdim/query_error.py), 2.5 % here, and the interval covers
    the sampling.
    2**18 pairs: the Dvoretzky-Kiefer-Wolfowitz band on the cosine's distribution function is
    0.0027 at 95 %. Mean and second moment of the cosine are exact in any case.
    """

    context = 256
    pack = True
    max_tokens = 20_000
    batch_size = 8
    device = "cpu"
    layers = "all"
    queries = 4_000
    pairs = 1 << 18
    outlier_factor = 5.0
