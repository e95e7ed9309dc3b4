"""Exact Shapley values of a game over a few factors, and of pairs of them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import combinations

Coalition = frozenset[str]
Weights = dict[Coalition, float]


def share_weights(factor: str, factors: Sequence[str]) -> Weights:
    """Weight of each coalition's value in a factor's Shapley value (Shapley, 1953).

    sum over S without it of |S|! (n - |S| - 1)! / n! (v(S + factor) - v(S)); linear in the values,
    so it carries their errors too.
    """
    n = len(factors)
    others = [name for name in factors if name != factor]
    weights: Weights = {}
    for size in range(n):
        weight = math.factorial(size) * math.factorial(n - size - 1) / math.factorial(n)
        for chosen in combinations(others, size):
            weights[frozenset(chosen)] = -weight
            weights[frozenset((*chosen, factor))] = weight
    return weights


def interaction_weights(pair: tuple[str, str], factors: Sequence[str]) -> Weights:
    """The same for the Shapley interaction index of a pair (Grabisch & Roubens, 1999).

    Mean over S without both of v(S + both) - v(S + one) - v(S + other) + v(S), weighted by
    |S|! (n - |S| - 2)! / (n - 1)!. Negative: each explains part of what the other explains.
    """
    n = len(factors)
    one, other = pair
    rest = [name for name in factors if name not in pair]
    weights: Weights = {}
    for size in range(n - 1):
        weight = math.factorial(size) * math.factorial(n - size - 2) / math.factorial(n - 1)
        for chosen in combinations(rest, size):
            weights[frozenset((*chosen, one, other))] = weight
            weights[frozenset((*chosen, one))] = -weight
            weights[frozenset((*chosen, other))] = -weight
            weights[frozenset(chosen)] = weight
    return weights


def coalitions(factors: Sequence[str]) -> list[Coalition]:
    """All subsets, small ones first."""
    return [
        frozenset(chosen)
        for size in range(len(factors) + 1)
        for chosen in combinations(factors, size)
    ]


def combine(weights: Weights, values: Mapping[Coalition, float]) -> float:
    """The weighted sum of values."""
    return math.fsum(weight * values[chosen] for chosen, weight in weights.items())
