"""Verdicts on profiles, as results of tests: shapes over the depth, differences, training phases.

    Sweep or table -> curves.curve_of -> moves.find_moves (all pairs of places, one error)
                                          -> moves.split (monotone pieces)
                                             -> shape.profile_shape, robust.robust_shape
                                             -> training.phases
                      compare.compare_profiles (two curves at common depths)

No forward pass and no activations are needed: a sweep keeps what each document adds to a metric.
"""

from __future__ import annotations

from fastdim.diagnose.compare import ProfileDifference, compare_profiles
from fastdim.diagnose.robust import Flip, RobustShape, robust_shape
from fastdim.diagnose.scales import id_scales
from fastdim.diagnose.shape import SHAPES, Interval, ProfileShape, profile_shape
from fastdim.diagnose.training import LayerPhases, TrainingPhases, phases

__all__ = [
    "SHAPES",
    "Flip",
    "Interval",
    "LayerPhases",
    "ProfileDifference",
    "ProfileShape",
    "RobustShape",
    "TrainingPhases",
    "compare_profiles",
    "id_scales",
    "phases",
    "profile_shape",
    "robust_shape",
]
