"""PT-v3m3, the Point Transformer V3 of Utonia: PT-v3m2 with rotary embeddings of where points lie, in metres.

What differs from Pointcept's own code on purpose is what differs in PT-v3m1.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from service.models.layers.grid_transformer import GridTransformer
from service.models.layers.point_transformer import TRAINING_ONLY
from service.models.site import Site

_TRAINING_ONLY = (*TRAINING_ONLY, "shift_coords", "jitter_coords", "rescale_coords")


def build(config: Mapping[str, Any], site: Site) -> GridTransformer:
    """Return the network of a configuration: the arguments of `GridTransformer` by their names.

    `shift_coords`, `jitter_coords` and `rescale_coords` are for training alone.
    """
    arguments = {key: value for key, value in config.items() if key not in _TRAINING_ONLY}
    return GridTransformer(site.engine, **{"rope_base": 10000, **arguments})
