"""Estimators of intrinsic dimension, one family a file: functions of neighbour distances."""
