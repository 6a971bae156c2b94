"""PT-v3m2, the Point Transformer V3 of Sonata (Wu et al., CVPR 2025).

What differs from Pointcept's own code on purpose is what differs in PT-v3m1.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from service.models.layers.grid_transformer import GridTransformer
from service.models.layers.point_transformer import TRAINING_ONLY
from service.models.site import Site

_OF_ANOTHER_FAMILY = ("rope_base", "dec_rope_enable")


def build(config: Mapping[str, Any], site: Site) -> GridTransformer:
    """Return the network of a configuration: the arguments of `GridTransformer` by their names, without rotation.

    Raises:
        ValueError: it asks for rotary embeddings, which PT-v3m3 has.
    """
    for name in _OF_ANOTHER_FAMILY:
        if name in config:
            raise ValueError(f"its PT-v3m2 has {name}, which only PT-v3m3 knows.")
    return GridTransformer(site.engine, **{key: value for key, value in config.items() if key not in TRAINING_ONLY})
