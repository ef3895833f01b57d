"""Limits of `train.temperature` and `train.linear_weight`, for modules that must not import pydantic."""

MIN_TEMPERATURE, MAX_TEMPERATURE = 0.05, 20.0
MAX_LINEAR_WEIGHT = 1000.0
