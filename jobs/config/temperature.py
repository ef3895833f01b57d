"""Limits of `train.temperature`, for modules that must not import pydantic."""

MIN_TEMPERATURE, MAX_TEMPERATURE = 0.05, 20.0
