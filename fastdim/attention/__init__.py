"""Attention of every head, streamed: how categorical its weights are, and its queries and keys.

measure.attention -> capture.watched (the model's own eager attention, one layer at a time)
                       -> heads.Heads (sums by document, nothing else kept) -> a tidy table
plot.plot_heads   -> maps of layers and heads
relate.correlate  -> rank correlation with a metric of a sweep, over layers or steps
"""

from __future__ import annotations

from fastdim.attention.heads import STATISTICS
from fastdim.attention.measure import Attention, attention
from fastdim.attention.plot import plot_heads
from fastdim.attention.relate import correlate

__all__ = ["STATISTICS", "Attention", "attention", "correlate", "plot_heads"]
