"""Serve configuration of the package, which commands and `finetune_cnn.deploy` fill in."""

from pathlib import Path

TEMPLATE = Path(__file__).parents[1] / "service.yaml"
