"""PT-v2m2, Point Transformer V2 with linear layers where PT-v2m1 has grouped ones."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from service.models.site import Site


def build(config: Mapping[str, Any], _site: Site) -> nn.Module:
    """Return the network of a configuration: the arguments of `GroupedTransformer` by their names.

    `attn_drop_rate`, `drop_path_rate` and `enable_checkpoint` are for training alone.

    Raises:
        ImportError: libs/pointops is not installed.
    """
    from service.models.layers.grouped_attention import TRAINING_ONLY, GroupedTransformer

    arguments = {key: value for key, value in config.items() if key not in TRAINING_ONLY}
    return GroupedTransformer(**arguments)
