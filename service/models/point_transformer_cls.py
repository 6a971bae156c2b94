"""PointTransformer-Cls26, -Cls38 and -Cls50: Point Transformer (Zhao et al., ICCV 2021) for classification."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from service.models.site import Site


def build_26(config: Mapping[str, Any], _site: Site) -> nn.Module:
    """Return a PointTransformer-Cls26: `in_channels` and `num_classes`; ImportError without libs/pointops."""
    return _build(26, config)


def build_38(config: Mapping[str, Any], _site: Site) -> nn.Module:
    """Return a PointTransformer-Cls38; arguments and errors as of `build_26`."""
    return _build(38, config)


def build_50(config: Mapping[str, Any], _site: Site) -> nn.Module:
    """Return a PointTransformer-Cls50; arguments and errors as of `build_26`."""
    return _build(50, config)


def _build(layers: int, config: Mapping[str, Any]) -> nn.Module:
    from service.models.layers.vector_attention import DEPTHS
    from service.models.layers.vector_classifier import VectorClassifier

    return VectorClassifier(DEPTHS[layers], **config)
